"""A stand-in for the core's auth socket, and an sshd that only says what it was asked."""

from __future__ import annotations

import shutil
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from hatchway.config import Config, Paths, Sshd
from hatchway.sshd import hostkeys

Behaviour = Callable[[socket.socket], None]


class FakeCore:
    """Answers each connection with `behaviour`, which gets it once the request was read to its end."""

    def __init__(self, path: Path) -> None:
        self.path = str(path)
        self.requests: list[bytes] = []
        self.behaviour: Behaviour = lambda connection: connection.sendall(b"ok\n")
        self.released = threading.Event()
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._listener.bind(self.path)
        self._listener.listen()
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def says(self, reply: bytes) -> None:
        """Answer with `reply`."""
        self.behaviour = lambda connection: connection.sendall(reply)

    def _serve(self) -> None:
        while True:
            connection, _ = self._listener.accept()
            with connection:
                request = b""
                try:
                    while chunk := connection.recv(65536):
                        request += chunk
                    if request == b"end":
                        return
                    self.requests.append(request)
                    self.behaviour(connection)
                except OSError:
                    pass  # the helper left first, as some tests want it

    def close(self) -> None:
        """End the thread."""
        self.released.set()
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as last:
            last.connect(self.path)
            last.sendall(b"end")
        self._thread.join()
        self._listener.close()


@pytest.fixture
def core(tmp_path: Path) -> Iterator[FakeCore]:
    fake = FakeCore(tmp_path / "auth.sock")
    yield fake
    fake.close()


@pytest.fixture
def fake_sshd(tmp_path: Path) -> Path:
    """A program that names itself OpenSSH 9.2, notes its arguments in a file, and accepts any configuration."""
    program = tmp_path / "sshd"
    program.write_text(
        "#!/bin/sh\n"
        f'echo "$0 $*" >> {tmp_path}/asked\n'
        'if [ "$1" = -V ]; then echo "OpenSSH_9.2, OpenSSL 3.0.17" >&2; fi\n'
    )
    program.chmod(0o755)
    return program


@pytest.fixture(scope="session")
def made_keys(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Host keys, made once: RSA takes its time."""
    directory = tmp_path_factory.mktemp("keys")
    hostkeys.ensure(str(directory))
    return directory


@pytest.fixture
def config(tmp_path: Path, fake_sshd: Path, made_keys: Path) -> Config:
    """A configuration all of whose paths lie in a directory of the test's own, with host keys already there."""
    shutil.copytree(made_keys, tmp_path / "keys")
    for name in ("run", "pam.d", "libexec"):
        (tmp_path / name).mkdir()
    return Config(
        paths=Paths(
            run_dir=str(tmp_path / "run"), pam_dir=str(tmp_path / "pam.d"), libexec_dir=str(tmp_path / "libexec")
        ),
        sshd=Sshd(binary=str(fake_sshd), host_key_dir=str(tmp_path / "keys")),
    )
