"""What sshd makes of the lines we write, whichever version it is: an sshd of its own, asked by a real client."""

from __future__ import annotations

import socket
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from hatchway.credentials.authorized import EXPIRY_SINCE, line
from hatchway.credentials.keys import generate_ed25519
from hatchway.sshd import version

SSHD = "/usr/sbin/sshd"
PAIR = generate_ed25519("lines")


@dataclass(frozen=True)
class Asked:
    """An sshd on 127.0.0.1 whose only authorized_keys file is `authorized`."""

    authorized: Path
    client: tuple[str, ...]

    def lets_in(self, text: str) -> bool:
        self.authorized.write_text(f"{text}\n")
        return subprocess.run(self.client, stdin=subprocess.DEVNULL, capture_output=True, timeout=30).returncode == 0


@pytest.fixture(scope="module")
def asked(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Asked]:
    Path("/run/sshd").mkdir(exist_ok=True)
    directory = tmp_path_factory.mktemp("lines")
    host, user, config = directory / "host", directory / "user", directory / "config"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", host], check=True)
    user.touch(mode=0o600)
    user.write_text(PAIR.private.reveal())
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    config.write_text(
        f"Port {port}\nListenAddress 127.0.0.1\nHostKey {host}\nAuthorizedKeysFile {directory}/authorized\n"
        "StrictModes no\nUsePAM no\nPidFile none\nUseDNS no\nPermitRootLogin prohibit-password\nForceCommand true\n"
    )
    client = (
        "ssh", "-F", "none", "-i", str(user), "-p", str(port), "-o", "IdentitiesOnly=yes", "-o", "BatchMode=yes",
        "-o", "StrictHostKeyChecking=no", "-o", "UserKnownHostsFile=/dev/null", "root@127.0.0.1",
    )  # fmt: skip
    with subprocess.Popen([SSHD, "-D", "-f", str(config)], stderr=subprocess.DEVNULL) as server:
        try:
            _wait_for(port)
            yield Asked(directory / "authorized", client)
        finally:
            server.terminate()


def _wait_for(port: int) -> None:
    deadline = time.monotonic() + 10
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
            return
        except OSError:
            assert time.monotonic() < deadline, "sshd does not listen"
            time.sleep(0.05)


def test_lines_with_sources(asked: Asked) -> None:
    assert asked.lets_in(line(PAIR.public))
    assert asked.lets_in(line(PAIR.public, sources="127.0.0.0/8"))
    assert asked.lets_in(line(PAIR.public, sources="10.0.0.0/8,127.0.0.*", verify_required=True))
    assert not asked.lets_in(line(PAIR.public, sources="127.0.0.0/8,!127.0.0.1"))
    assert not asked.lets_in(line(PAIR.public, sources="10.0.0.0/8"))


def test_lines_with_an_end(asked: Asked) -> None:
    now = int(time.time())
    known = version.of(SSHD) >= EXPIRY_SINCE
    for moment in (now + 60, 10**15):
        assert asked.lets_in(line(PAIR.public, expires_at=moment)) is known
    for moment in (now - 60, 0, -5, -(10**12)):
        assert not asked.lets_in(line(PAIR.public, expires_at=moment))
