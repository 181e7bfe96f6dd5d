"""Operators sign in to a whole `hatchway run`, by PAM, as a web process would ask for them.

The host's accounts and PAM services are hidden by others from it: nothing is written to the host's.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import crypt_r
import pytest
from tests.sshd.running import Hatchway, running, wait_until

PASSWORD = "correct horse"
WEB_UID = 1910000004
"""The fifth of ids.service_uids."""

HIDE = """
for name in passwd group shadow pam.d; do mount --bind "$0/$name" /etc/$name || exit; done
exec "$@"
"""

ASK = """
import json, msgspec, sys
from hatchway.errors import HatchwayError
from hatchway.wire import admin, entry, frames, web
path, kind, *words = sys.argv[1:]
try:
    if kind == "sign-in":
        name, password = words
        found = frames.call_blocking(path, web.SignIn(name=name, password=password, address="192.0.2.7"), web.SignedIn)
        said = {"token": found.token, "viewer": found.viewer.name}
    elif kind == "who-is":
        said = {"viewer": frames.call_blocking(path, web.WhoIs(words[0]), web.Viewer).name}
    else:
        raw = msgspec.Raw(msgspec.msgpack.encode(entry.Lock(instance="shop/web/1", why="rent")))
        call = web.Call(token=words[0], address="192.0.2.7", request=raw)
        said = {"locked": frames.call_blocking(path, call, entry.ConditionsStatus).locked_why}
except HatchwayError as exc:
    said = {"code": exc.code, "text": str(exc)}
print(json.dumps(said))
"""


class Accounts:
    """Files that hide those of /etc, with the operator anna besides."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        for name in ("passwd", "group", "shadow"):
            shutil.copy2(f"/etc/{name}", directory)
        shutil.copytree("/etc/pam.d", directory / "pam.d")
        self._add("passwd", "anna:x:61000:100::/:/bin/false")
        self._add("shadow", f"anna:{crypt_r.crypt(PASSWORD, '$y$j9T$abcdefghijklmnop$')}:19000:0:99999:7:::")
        self._add("group", "hatchway-operators:x:61999:anna")

    def _add(self, name: str, line: str) -> None:
        with (self.directory / name).open("a") as file:
            file.write(f"{line}\n")

    def lock(self) -> None:
        path = self.directory / "shadow"
        path.write_text(path.read_text().replace("\nanna:$", "\nanna:!$"))


@pytest.fixture(scope="module")
def accounts(tmp_path_factory: pytest.TempPathFactory) -> Accounts:
    return Accounts(tmp_path_factory.mktemp("etc"))


@pytest.fixture(scope="module")
def hatchway(accounts: Accounts) -> Iterator[Hatchway]:
    within = ("/usr/bin/unshare", "--mount", "/bin/sh", "-c", HIDE, str(accounts.directory))
    with running("shop/web/1", web="enabled = true", within=within) as made:
        made.enable("shop/web/1")
        yield made


def ask(hatchway: Hatchway, *words: str, uid: int = WEB_UID) -> dict[str, Any]:
    """What a process of `uid` is answered on the socket "web"."""
    become = ("/usr/bin/setpriv", "--reuid", str(uid), "--regid", str(WEB_UID), "--clear-groups", "--no-new-privs")
    command = [*become, sys.executable, "-I", "-c", ASK, str(hatchway.run_dir / "web.sock"), *words]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, cwd="/", check=True)
    return dict(json.loads(done.stdout))


def test_an_operator_signs_in_and_does_something_and_is_locked(hatchway: Hatchway, accounts: Accounts) -> None:
    for name, password in (("anna", "wrong"), ("root", PASSWORD), ("nobody-here", PASSWORD), ("shop-web-1", PASSWORD)):
        assert ask(hatchway, "sign-in", name, password)["code"] == "sign-in"
    found = ask(hatchway, "sign-in", "anna", PASSWORD)
    assert found["viewer"] == "anna"
    token = str(found["token"])
    assert ask(hatchway, "who-is", token) == {"viewer": "anna"}
    assert ask(hatchway, "lock", "A" * 43)["code"] == "signed-out"
    assert ask(hatchway, "lock", token) == {"locked": "rent"}
    entries = hatchway.command("log")["entries"]
    assert ("locked: rent", "operator anna (web) from 192.0.2.7") in {(one["what"], one["who"]) for one in entries}
    accounts.lock()
    # Until what is known of it is old.
    wait_until(lambda: ask(hatchway, "who-is", token).get("code") == "signed-out", "anna is out", 60)
    assert ask(hatchway, "sign-in", "anna", PASSWORD)["code"] == "sign-in"
    log = hatchway.log()
    assert PASSWORD not in log
    assert token not in log


def test_nobody_else_asks(hatchway: Hatchway) -> None:
    """root can connect, and is hung up on; who is not in the group cannot even do that."""
    assert ask(hatchway, "who-is", "x", uid=0)["code"] == "not-running"
    path = hatchway.run_dir / "signin.sock"
    assert path.stat().st_mode & 0o777 == 0o660
    command = ["/usr/bin/setpriv", "--reuid", str(WEB_UID), "--regid", str(WEB_UID), "--clear-groups", sys.executable]
    program = "import socket, sys; socket.socket(socket.AF_UNIX).connect(sys.argv[1])"
    done = subprocess.run([*command, "-c", program, str(path)], capture_output=True, text=True, cwd="/", check=False)
    assert "PermissionError" in done.stderr
