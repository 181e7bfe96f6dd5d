"""Another sealing key: nobody notices, nothing is lost, and the old one is nowhere any more."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.sshd.entering import Credential, Verdict, attempt
from tests.sshd.place import Place
from tests.sshd.running import Hatchway, running
from tests.sshd.test_sessions import uploading

IN, DENIED = Verdict.IN, Verdict.DENIED


@pytest.fixture
def hatchway() -> Iterator[Hatchway]:
    with running() as made:
        yield made


class Secrets:
    """What can be shown of an instance, and whom it lets in."""

    def __init__(self, place: Place) -> None:
        self.place = place
        self.password = place.hatchway.password(place.instance)
        self.key = (place.hatchway.keys / place.login).read_text()

    def stand(self) -> None:
        """All is as it was."""
        hatchway, login = self.place.hatchway, self.place.login
        assert hatchway.password(self.place.instance) == self.password
        assert hatchway.command("key", "export", self.place.instance, "-o", "-")["private"] == self.key
        assert attempt(hatchway, login, Credential(password=self.password)) is IN
        assert attempt(hatchway, login, Credential(key=login)) is IN


def files_with(directory: Path, data: bytes) -> list[Path]:
    """The files beneath `directory` that hold `data`."""
    return [path for path in directory.rglob("*") if path.is_file() and data in path.read_bytes()]


def test_rotated_while_sessions_are_open(hatchway: Hatchway) -> None:
    secrets = [Secrets(Place(hatchway)) for _ in range(2)]
    state = hatchway.directory / "state"
    path = state / "sealing.key"
    keys = [path.read_bytes()]
    with uploading(secrets[0].place, "by-key") as (upload,):
        for _ in range(2):
            assert hatchway.command("rotate-key")["secrets"] == 4
            keys.append(path.read_bytes())
            for one in secrets:
                one.stand()
        upload.goes_on()
        upload.arrived()
    assert len(set(keys)) == 3
    assert path.stat().st_mode & 0o7777 == 0o600
    assert files_with(state, keys[-1]) == [path]
    for old in keys[:-1]:
        assert files_with(hatchway.directory, old) == files_with(hatchway.run_dir, old) == []
    assert [one.name for one in state.iterdir() if one.name.startswith((".sealing", "sealing"))] == ["sealing.key"]
    # What is made now, and what was, is sealed with the key that the next process finds.
    hatchway.command("key", "renew", secrets[1].place.instance)
    hatchway.command(
        "key", "export", secrets[1].place.instance, "--force", "-o", str(hatchway.keys / secrets[1].place.login)
    )
    secrets[1] = Secrets(secrets[1].place)
    assert hatchway.stop() == 0
    hatchway.start()
    for one in secrets:
        one.stand()
    (line,) = [line for line in hatchway.log().splitlines() if "rotated" in line][-1:]
    assert keys[-1].hex() not in hatchway.log()
    assert "secrets=4" in line


def test_the_key_before_opens_nothing(hatchway: Hatchway) -> None:
    """Who had copied the old key and takes the registry later has no secret."""
    one = Secrets(Place(hatchway))
    path = hatchway.directory / "state" / "sealing.key"
    old = path.read_bytes()
    hatchway.command("rotate-key")
    new = path.read_bytes()
    assert hatchway.stop() == 0
    path.write_bytes(old)
    hatchway.start()
    shown = hatchway.cli("password", "show", one.place.instance)
    assert shown.returncode != 0
    assert "does not open" in shown.stderr
    assert one.password not in shown.stdout + shown.stderr
    # The hash lets its owner in all the same, and with the right key all is back.
    assert attempt(hatchway, one.place.login, Credential(password=one.password)) is IN
    assert hatchway.stop() == 0
    path.write_bytes(new)
    hatchway.start()
    one.stand()
