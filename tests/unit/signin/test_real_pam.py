"""The helper as it is run, with the host's PAM and accounts: those of a name space of its own.

The host's files of accounts and PAM services are hidden by others there; nothing is written to them.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import crypt_r
import pytest

from hatchway.sshd import render
from hatchway.wire.frames import call_blocking
from hatchway.wire.signin import CheckPassword, CheckStanding, Operator, Verdict

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="PAM tells only root about other people's passwords")

PASSWORD = "correct horse Ä"
GROUP = "hatchway-operators"
TODAY = int(time.time() // 86400)
ANNA = 61000

HIDE = """
set -e
mount --make-rprivate /
for name in passwd group shadow pam.d nsswitch.conf; do mount --bind "$DIR/$name" /etc/$name; done
exec "$@"
"""


class Host:
    """The accounts of a host. Each has PASSWORD; `operators` are in the group, by `primary` or in addition."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.hash = crypt_r.crypt(PASSWORD, "$y$j9T$abcdefghijklmnop$")
        assert self.hash.startswith("$y$")
        self.passwd = ["root:x:0:0::/root:/bin/sh", "core:x:4711:4711::/:/bin/false"]
        self.shadow = {"root": f"{self.hash}:19000:0:99999:7:::"}
        self.members = ["anna", "expired", "locked", "old", "empty", "strong"]
        for number, name in enumerate((*self.members, "primary", "bert")):
            gid = 61999 if name == "primary" else 100
            self.passwd.append(f"{name}:x:{ANNA + number}:{gid}::/:/bin/false")
            self.shadow[name] = f"{self.hash}:19000:0:99999:7:::"
        self.shadow["expired"] = f"{self.hash}:19000:0:99999:7::{TODAY - 10}:"
        self.shadow["old"] = f"{self.hash}:{TODAY - 100}:0:10:7:::"
        self.shadow["locked"] = f"!{self.hash}:19000:0:99999:7:::"
        self.shadow["empty"] = ":19000:0:99999:7:::"
        (directory / "pam.d").mkdir()
        service = directory / "pam.d" / "hatchway-signin"
        service.write_text(render.signin_service())
        # As Debian has them, nullok included.
        (directory / "pam.d" / "common-auth").write_text(
            "auth [success=1 default=ignore] pam_unix.so nullok\n"
            "auth requisite pam_deny.so\nauth required pam_permit.so\n"
        )
        (directory / "pam.d" / "common-account").write_text(
            "account [success=1 new_authtok_reqd=done default=ignore] pam_unix.so\n"
            "account requisite pam_deny.so\naccount required pam_permit.so\n"
        )
        (directory / "nsswitch.conf").write_text("passwd: files\ngroup: files\nshadow: files\n")
        (directory / "hatchway.toml").write_text("[ids]\ncore_user = 'root'\n[web]\nenabled = true\n")
        self.write()

    def write(self) -> None:
        # In place: what is mounted there is this very file.
        (self.directory / "passwd").write_text("".join(f"{line}\n" for line in self.passwd))
        lines = [f"{name}:{rest}\n" for name, rest in self.shadow.items()]
        (self.directory / "shadow").write_text("".join(lines))
        groups = ["root:x:0:", f"{GROUP}:x:61999:{','.join(self.members)}", "users:x:100:"]
        (self.directory / "group").write_text("".join(f"{line}\n" for line in groups))


@contextmanager
def helper(host: Host) -> Iterator[str]:
    """The helper for a core that is root; where it is asked."""
    path = str(host.directory / "signin.sock")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(path)
        listener.listen()
        # As `hatchway run` passes it: as descriptor 3.
        start = f"exec 3<&{listener.fileno()}; {HIDE}"
        process = subprocess.Popen(
            [
                *("/usr/bin/unshare", "-m", "/bin/bash", "-c", start, "sh"),
                *(sys.executable, "-m", "hatchway.signin.main", "--config", str(host.directory / "hatchway.toml")),
            ],
            env={
                "PATH": "/usr/sbin:/usr/bin:/sbin:/bin",
                "PYTHONPATH": str(Path(__file__).parents[3] / "src"),
                "DIR": str(host.directory),
                "LISTEN_FDS": "1",
                "LISTEN_FDNAMES": "signin",
            },
            pass_fds=[listener.fileno()],
            stderr=subprocess.PIPE,
        )
    try:
        yield path
    finally:
        process.send_signal(signal.SIGTERM)
        _, said = process.communicate(timeout=20)
        (host.directory / "log").write_bytes(said)
        assert process.returncode == 0, said


@pytest.fixture
def host(tmp_path: Path) -> Host:
    return Host(tmp_path)


def ask(path: str, name: str, password: str = PASSWORD) -> Verdict:
    return call_blocking(path, CheckPassword(name=name, password=password, address="192.0.2.7"), Verdict)


def standing(path: str, name: str, uid: int) -> Verdict:
    return call_blocking(path, CheckStanding(name=name, uid=uid), Verdict)


def test_who_is_an_operator(host: Host) -> None:
    with helper(host) as path:
        assert ask(path, "anna").operator == Operator("anna", ANNA)
        assert ask(path, "primary").operator == Operator("primary", ANNA + 6)
        cases = (
            ("anna", "wrong", "PAM refuses the password: "),
            ("anna", "", "no password"),
            ("anna", PASSWORD + "\0", "no password"),
            ("anna", "x" * 513, "no password"),
            ("empty", "", "no password"),
            ("bert", PASSWORD, "not in the group"),
            ("root", PASSWORD, "not in the group"),
            ("nobody-here", PASSWORD, "no such account"),
            ("", PASSWORD, "no name"),
            ("a\nb", PASSWORD, "no name"),
            ("anna" * 100, PASSWORD, "no name"),
            ("expired", PASSWORD, "PAM refuses the account: "),
            ("old", PASSWORD, "PAM refuses the account: "),
            ("locked", PASSWORD, "PAM refuses the password: "),
        )

        def refused(case: tuple[str, str, str]) -> None:
            name, password, reason = case
            began = time.monotonic()
            found = ask(path, name, password)
            assert found.operator is None, name
            assert reason in found.reason, (name, found.reason)
            assert 1.0 <= time.monotonic() - began < 5.0

        # As many as are answered at once.
        with ThreadPoolExecutor(2) as pool:
            list(pool.map(refused, cases))
    log = (host.directory / "log").read_text()
    assert "Traceback" not in log
    assert PASSWORD not in log


def test_who_is_one_no_longer(host: Host) -> None:
    with helper(host) as path:
        assert standing(path, "anna", ANNA).operator == Operator("anna", ANNA)
        assert "another one" in standing(path, "anna", ANNA + 1).reason
        assert "refuses the account" in standing(path, "expired", ANNA + 1).reason
        assert "is locked" in standing(path, "locked", ANNA + 2).reason
        assert "not in the group" in standing(path, "bert", ANNA + 7).reason
        host.shadow["anna"] = f"!{host.shadow['anna']}"
        host.write()
        assert "is locked" in standing(path, "anna", ANNA).reason
        host.shadow["anna"] = host.shadow["anna"].removeprefix("!")
        host.write()
        assert standing(path, "anna", ANNA).operator is not None
        host.members.remove("anna")
        host.write()
        assert "not in the group" in standing(path, "anna", ANNA).reason
        # An account of a directory, which never had a password here, is not locked by that.
        host.members.append("anna")
        host.shadow["anna"] = "!:19000:0:99999:7:::"
        host.write()
        assert standing(path, "anna", ANNA).operator is not None


def test_at_somebody_elses_account_no_password_is_tried(host: Host) -> None:
    """A module sees who is asked for. pam_exec stands for one that counts failures."""
    seen = host.directory / "seen"
    module = host.directory / "module"
    module.write_text(f'#!/bin/sh\nread -r password\necho "$PAM_USER $PAM_RHOST $password" >> {seen}\nexit 1\n')
    module.chmod(0o755)
    (host.directory / "pam.d" / "common-auth").write_text(f"auth required pam_exec.so quiet expose_authtok {module}\n")
    with helper(host) as path:
        for name in ("anna", "bert", "root", "nobody-here"):
            assert ask(path, name, "hunter2\n").operator is None
    lines = seen.read_text().splitlines()
    assert lines[0] == "anna 192.0.2.7 hunter2"
    assert len(lines) == 4, "the same is done for all"
    for line in lines[1:]:
        assert line.startswith("nobody-")
        assert not line.startswith("nobody-here")
        assert "hunter2" not in line


def test_without_its_file_pam_is_not_asked(host: Host) -> None:
    (host.directory / "pam.d" / "other").write_text("auth required pam_permit.so\naccount required pam_permit.so\n")
    (host.directory / "pam.d" / "hatchway-signin").unlink()
    with pytest.raises(AssertionError, match="hatchway-signin cannot be trusted"), helper(host):
        time.sleep(2)


def test_pam_that_hangs_keeps_nobody_else_waiting(host: Host) -> None:
    (host.directory / "pam.d" / "common-auth").write_text(
        "auth [success=ignore default=die] pam_exec.so quiet /bin/sleep 2\nauth required pam_permit.so\n"
    )
    with helper(host) as path, ThreadPoolExecutor(1) as pool:
        began = time.monotonic()
        hanging = pool.submit(ask, path, "anna")
        for _ in range(3):
            assert standing(path, "anna", ANNA).operator is not None
        assert time.monotonic() - began < 2.0
        assert hanging.result().operator is not None
