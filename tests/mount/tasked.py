"""Volume tasks in volumes beneath a directory: the real zygote and confined processes."""

from __future__ import annotations

import contextlib
import hashlib
import os
import socket
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import trio
from tests.mount.test_on_demand_devices import Bench

from hatchway.host.errands import Errands
from hatchway.host.patience import Patience
from hatchway.host.sizes import Accounts
from hatchway.host.sources import birth
from hatchway.host.tasks import Tasks
from hatchway.host.workers import WorkerUids, Zygote
from hatchway.model import NO_LIMITS, IdPair, Limits
from hatchway.wire.host import (
    Deliver,
    KeyFiles,
    PrivateBytes,
    ReadKeys,
    SharedVolume,
    Usage,
    Withdraw,
    Withdrawal,
)
from hatchway.wire.service import Peer

OWNER, GROUP = 1234, 4321
KEY = b"-----BEGIN OPENSSH PRIVATE KEY-----\nYWZ0ZXJ3YXJkcw\n-----END OPENSSH PRIVATE KEY-----\n"
BEFORE = b"-----BEGIN OPENSSH PRIVATE KEY-----\nYmVmb3Jl\n-----END OPENSSH PRIVATE KEY-----\n"
FIRST_UID, LAST_UID = 1_901_500_000, 1_901_500_099
CORE = Peer(1, 0, 0)


class OwnZygote(Zygote):
    """The package under test, whether it is installed or not."""

    def __init__(self, directory: Path) -> None:
        super().__init__(str(directory / "workers.sock"))
        self._config = directory / "workers.toml"
        self._config.write_text(f'[paths]\nrun_dir = "{directory}"\n')
        self._process: subprocess.Popen[bytes] | None = None
        self._log = (directory / "workers.log").open("w+")

    async def start(self) -> None:
        program = (
            "import os, sys; os.dup2(0, 3); config, *sys.path[:0] = sys.argv[1:];"
            "sys.argv[1:] = ['--config', config]; from hatchway.host.zygote import main; main()"
        )
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listener:
            listener.bind(self._address)
            listener.listen()
            self._process = subprocess.Popen(
                [sys.executable, "-c", program, str(self._config), *sys.path],
                stdin=listener.fileno(),
                stdout=subprocess.DEVNULL,
                stderr=self._log,
                env={**os.environ, "LISTEN_FDS": "1", "LISTEN_FDNAMES": "workers"},
            )
        await super().start()

    async def stop(self) -> None:
        self.close()
        if self._process is not None:
            self._process.kill()
            await trio.to_thread.run_sync(self._process.wait)
        sys.stderr.write(self.said())
        self._log.close()

    def said(self) -> str:
        """What it and its workers have logged."""
        self._log.seek(0)
        return self._log.read()

    async def ended(self) -> int:
        """Its exit status, once it has ended."""
        assert self._process is not None
        with trio.fail_after(10):
            return await trio.to_thread.run_sync(self._process.wait, abandon_on_cancel=True)

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid


class Beneath:
    """Tasks in volumes beneath a directory, which belong to OWNER."""

    def __init__(self, bench: Bench) -> None:
        self.bench = bench
        Path(bench.config.mount_dir).mkdir(parents=True)
        self.zygote = OwnZygote(Path(bench.config.paths.run_dir))
        self.uids = WorkerUids(FIRST_UID, LAST_UID)
        patience = Patience()
        errands = Errands(bench.config, self.zygote, self.uids, patience)
        self.accounts = Accounts(bench.config, errands, patience)
        self.tasks = Tasks(bench.config, errands, self.accounts)

    def volume(self, name: str = "v", mode: int = 0o700) -> Path:
        path = self.bench.binds / name
        path.mkdir()
        os.chown(path, OWNER, GROUP)
        path.chmod(mode)
        return path

    def birth(self, path: Path | str) -> str:
        return birth(self.bench.config, str(path))

    async def read(self, path: Path | str, token: bytes = b"") -> KeyFiles:
        return await self.tasks.read_keys(ReadKeys(str(path), self.birth(path), token), CORE)

    def shared(self, path: Path | str, limits: Limits = NO_LIMITS, known: Usage | None = None) -> SharedVolume:
        return SharedVolume(source=str(path), birth=self.birth(path), limits=limits, known=known)

    async def deliver(
        self,
        path: Path | str,
        data: bytes = KEY,
        *before: bytes,
        directory: str = "",
        owner: IdPair | None = None,
        volume: SharedVolume | None = None,
    ) -> bool:
        request = Deliver(
            volume=volume or self.shared(path),
            directory=directory,
            owner=owner,
            key=PrivateBytes(data),
            replaces=tuple(hashlib.sha256(one).digest() for one in before),
        )
        return (await self.tasks.deliver(request, CORE)).changed

    async def withdraw(self, path: Path | str, *ours: bytes, directory: str = "") -> Withdrawal:
        hashes = tuple(hashlib.sha256(one).digest() for one in ours)
        request = Withdraw(volume=self.shared(path), directory=directory, hashes=hashes)
        return (await self.tasks.withdraw(request, CORE)).outcome


def give(path: Path, data: bytes, mode: int = 0o600) -> Path:
    path.write_bytes(data)
    path.chmod(mode)
    os.chown(path, OWNER, GROUP)
    return path


def facts(path: Path) -> tuple[int, int, int]:
    st = path.lstat()
    return st.st_uid, st.st_gid, stat.S_IMODE(st.st_mode)


@contextlib.contextmanager
def meanwhile(script: str, *arguments: object) -> Iterator[subprocess.Popen[str]]:
    """`script` runs within the block, in a process that ends by itself if we do not end it."""
    command = [sys.executable, "-c", script, *map(str, arguments), str(os.getpid())]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
            yield process
            assert process.poll() is None, "it went on to the end"
        finally:
            process.kill()
