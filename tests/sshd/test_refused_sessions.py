"""Who has logged in, and whose session is refused then, is hung up on: sshd by itself would keep the connection."""

from __future__ import annotations

import contextlib
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.figures import note
from tests.sshd.entering import Credential, Verdict, attempt
from tests.sshd.place import Place
from tests.sshd.running import Hatchway, running, wait_until

from hatchway.admin.core import LOOK_EVERY_S
from hatchway.host import processes

IN_TIME_S = 2.0


@pytest.fixture(scope="module")
def hatchway() -> Iterator[Hatchway]:
    with running(idle_unmount_s=300) as made:
        yield made


def replaced(hatchway: Hatchway) -> Place:
    """An instance of whose volume another directory has taken the place. Nobody knows yet, so one login gets as far
    as to the opening of its session."""
    place = Place(hatchway)
    # The core looks now and then. That it has just done so another volume shows.
    replace(place.logs)
    wait_until(lambda: place.volumes()["/logs"] == "suspended", "the core has looked", LOOK_EVERY_S + 10)
    replace(place.data)
    return place


def replace(directory: Path) -> None:
    """Put another one there."""
    directory.rename(directory.with_name(f"{directory.name}-before"))
    directory.mkdir()


def of_sshd(login: str) -> list[str]:
    """Titles of what sshd runs for a login, as root and as the login."""
    found = []
    for seen in processes.everyone():
        with contextlib.suppress(OSError):
            found.append(Path(f"/proc/{seen.pid}/cmdline").read_text(errors="replace").rstrip("\0 "))
    return [title for title in found if title.startswith(("hatchway", "sshd")) and f": {login}" in title]


def refused(hatchway: Hatchway) -> list[str]:
    """What sshd says of sessions that could not be opened."""
    return [line for line in hatchway.log().splitlines() if "pam_open_session()" in line]


@pytest.mark.parametrize("method", ["key", "password"])
def test_a_master_connection_does_not_outlive_a_refused_session(
    hatchway: Hatchway, tmp_path: Path, method: str
) -> None:
    place = replaced(hatchway)
    password = hatchway.password(place.instance) if method == "password" else None
    control, before = tmp_path / "control", len(refused(hatchway))
    with hatchway.credentials(place.login, password) as (credentials, environment):
        command = ["ssh", *hatchway.options(), *credentials, "-M", "-S", str(control), "-N", f"{place.login}@127.0.0.1"]
        master = subprocess.Popen(command, stdin=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, env=environment)
        try:
            wait_until(lambda: len(refused(hatchway)) > before, "its session is refused")
            refused_at = time.monotonic()
            status = master.wait(IN_TIME_S)
        finally:
            master.kill()
            _, said = master.communicate()
    note(f"a master by {method} is gone {time.monotonic() - refused_at:.2f} s after its session was refused: {said!r}")
    assert status == 255
    wait_until(lambda: of_sshd(place.login) == [], "no process of the connection is left", 0.5)
    assert hatchway.sessions() == 0
    assert place.mount_ids() == {}


def test_who_asks_for_sftp_is_refused_as_before(hatchway: Hatchway) -> None:
    """Told by sshd itself, and not by the end of the connection."""
    place = replaced(hatchway)
    assert attempt(hatchway, place.login, Credential(key=place.login)) is Verdict.LATE
    wait_until(lambda: of_sshd(place.login) == [], "no process of the connection is left", 0.5)
