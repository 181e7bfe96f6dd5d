"""Volume tasks as hostd has them done: the real zygote, confined processes, and hostile volumes."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import shutil
import signal
import socket
import stat
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import trio
from tests.mount.test_on_demand_devices import Bench, attached, image, run

from hatchway.errors import ConflictError, HatchwayError, HostError, NotFoundError, RefusedError
from hatchway.host import tasks
from hatchway.host.errands import Errands
from hatchway.host.patience import Patience
from hatchway.host.sizes import Accounts
from hatchway.host.sources import birth
from hatchway.host.tasks import Tasks
from hatchway.host.workers import WorkerUids, Zygote
from hatchway.kernel import mounts
from hatchway.kernel.privileges import Cap
from hatchway.model import NO_LIMITS, IdPair, Limits
from hatchway.volumefs.keyfiles import ENTRIES_MAX
from hatchway.wire.host import (
    Deliver,
    KeyFile,
    KeyFiles,
    PrivateBytes,
    ReadKeys,
    SharedVolume,
    Skip,
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

    def start(self) -> None:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        program = "import sys; sys.path[:0] = sys.argv[2:]; from hatchway.host.zygote import main; main()"
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-c", program, "info", *sys.path], stdin=theirs.fileno(), stdout=subprocess.DEVNULL
            )
        self._socket = trio.socket.from_stdlib_socket(ours)

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid


class Beneath:
    """Tasks in volumes beneath a directory, which belong to OWNER."""

    def __init__(self, bench: Bench) -> None:
        self.bench = bench
        Path(bench.config.mount_dir).mkdir(parents=True)
        self.zygote = OwnZygote("info")
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


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    made = Bench(tmp_path)
    yield made
    for path in sorted(made.binds.iterdir()):
        if os.path.ismount(path):
            mounts.unmount(str(path), mounts.MNT_DETACH)
    for device in list(made.devices):
        made.detach(device)


@pytest.fixture
async def beneath(bench: Bench) -> AsyncIterator[Beneath]:
    made = Beneath(bench)
    made.zygote.start()
    # It is ready when it has forked once; its imports are not what a test measures.
    await made.read(made.volume("warm"))
    yield made
    assert made.uids.used == frozenset()
    await made.zygote.stop()


def give(path: Path, data: bytes, mode: int = 0o600) -> Path:
    path.write_bytes(data)
    path.chmod(mode)
    os.chown(path, OWNER, GROUP)
    return path


def facts(path: Path) -> tuple[int, int, int]:
    st = path.lstat()
    return st.st_uid, st.st_gid, stat.S_IMODE(st.st_mode)


# Reading keys


async def test_keys_are_read_whatever_their_mode_is(beneath: Beneath) -> None:
    volume = beneath.volume()
    give(volume / "authorized_keys", b"one\n", 0o400)
    give(volume / "a.pub", b"two\n", 0o000)
    found = await beneath.read(volume)
    assert found.files == (KeyFile(b"authorized_keys", b"one\n"), KeyFile(b"a.pub", b"two\n"))
    assert found.token == b"", "they have just been made"
    await trio.sleep(2.1)
    token = (await beneath.read(volume)).token
    assert await beneath.read(volume, token) == KeyFiles(token=token, unchanged=True)
    give(volume / "authorized_keys", b"two\n", 0o400)
    found = await beneath.read(volume, token)
    assert found.files[0] == KeyFile(b"authorized_keys", b"two\n")


async def test_256_kib_of_keys_arrive_whole(beneath: Beneath) -> None:
    volume = beneath.volume()
    wanted = [KeyFile(name, os.urandom(65536)) for name in (b"authorized_keys", b"a.pub", b"b.pub", b"c.pub")]
    for file in wanted:
        give(volume / file.name.decode(), file.data)
    assert list((await beneath.read(volume)).files) == wanted


async def test_what_a_container_plants(beneath: Beneath, tmp_path: Path) -> None:
    volume = beneath.volume()
    secret = tmp_path / "secret"
    secret.write_text("secret")
    (volume / "authorized_keys").symlink_to(secret)
    (volume / "a.pub").symlink_to("/etc/shadow")
    os.mkfifo(volume / "b.pub", 0o600)
    os.mknod(volume / "c.pub", 0o600 | stat.S_IFCHR, os.makedev(1, 5))
    os.mknod(volume / "d.pub", 0o600 | stat.S_IFBLK, os.makedev(7, 0))
    (volume / "f.pub").mkdir()
    give(volume / "g.pub", b"good")
    (volume / "h.pub").symlink_to("g.pub")
    with socket.socket(socket.AF_UNIX) as listener:
        # Its path would be too long for the socket.
        here = os.open(volume, os.O_PATH)
        listener.bind(f"/proc/self/fd/{here}/e.pub")
        os.close(here)
    began = time.monotonic()
    found = await beneath.read(volume)
    assert time.monotonic() - began < 2
    assert found.files == (KeyFile(b"g.pub", b"good"),)
    assert {one.name: one.reason for one in found.skipped} == {
        b"authorized_keys": Skip.SYMLINK,
        b"a.pub": Skip.SYMLINK,
        b"b.pub": Skip.KIND,
        b"c.pub": Skip.KIND,
        b"d.pub": Skip.KIND,
        b"e.pub": Skip.KIND,
        b"f.pub": Skip.KIND,
        b"h.pub": Skip.SYMLINK,
    }


async def test_a_lease_is_not_waited_for(beneath: Beneath) -> None:
    volume = beneath.volume()
    path = give(volume / "authorized_keys", b"one")
    give(volume / "a.pub", b"two")
    handler = signal.signal(signal.SIGIO, signal.SIG_IGN)
    fd = os.open(path, os.O_RDWR)
    try:
        fcntl.fcntl(fd, fcntl.F_SETLEASE, fcntl.F_WRLCK)
        began = time.monotonic()
        found = await beneath.read(volume)
        assert time.monotonic() - began < 2
    finally:
        os.close(fd)
        signal.signal(signal.SIGIO, handler)
    assert found.files == (KeyFile(b"a.pub", b"two"),)
    assert [(one.name, one.reason) for one in found.skipped] == [(b"authorized_keys", Skip.BUSY)]
    assert found.token == b""


async def test_60000_names(beneath: Beneath) -> None:
    volume = beneath.volume()
    give(volume / "authorized_keys", b"one")
    here = os.open(volume, os.O_PATH)
    for number in range(60_000):
        os.close(os.open(f"{number}.pub", os.O_CREAT | os.O_WRONLY, 0o600, dir_fd=here))
    os.close(here)
    began = time.monotonic()
    found = await beneath.read(volume)
    assert time.monotonic() - began < 2
    assert found.files == (KeyFile(b"authorized_keys", b"one"),)
    assert [(one.name, one.reason) for one in found.skipped] == [(b"", Skip.CROWDED)]
    assert ENTRIES_MAX < 60_000
    shutil.rmtree(volume)


SWAPPING = """
import ctypes, os, sys
os.chdir(sys.argv[1])
rename = ctypes.CDLL(None).renameat2
names = [b"good", b"link", b"fifo", b"evil", b"directory"]
print("ready", flush=True)
turn = 0
while os.getppid() == int(sys.argv[2]):
    turn += 1
    rename(-100, b"authorized_keys", -100, names[turn % len(names)], 2)
"""


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


async def test_a_race_for_what_the_name_means(beneath: Beneath, tmp_path: Path) -> None:
    """Whatever the timing: never what is behind a symlink, never what others may write, and never a wait."""
    volume = beneath.volume()
    secret = tmp_path / "secret"
    secret.write_text("secret")
    give(volume / "good", b"good")
    give(volume / "evil", b"evil", 0o666)
    (volume / "link").symlink_to(secret)
    os.mkfifo(volume / "fifo", 0o600)
    (volume / "directory").mkdir()
    give(volume / "authorized_keys", b"good")
    seen: dict[str, int] = {}
    with meanwhile(SWAPPING, volume):
        end = time.monotonic() + 4
        while time.monotonic() < end:
            began = time.monotonic()
            found = await beneath.read(volume)
            assert time.monotonic() - began < 2
            for file in found.files:
                assert (file.name, file.data) == (b"authorized_keys", b"good")
                seen["good"] = seen.get("good", 0) + 1
            for one in found.skipped:
                seen[one.reason] = seen.get(one.reason, 0) + 1
            if found.files:
                assert not found.skipped
    assert seen.get(Skip.CHANGING, 0) > 0, seen


GROWING = """
import os, sys
fd = os.open(sys.argv[1], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
print("ready", flush=True)
while os.getppid() == int(sys.argv[2]):
    os.write(fd, b"ssh-ed25519 x\\n")
    if os.fstat(fd).st_size > 50000:
        os.ftruncate(fd, 0)
"""


async def test_a_file_that_grows_and_shrinks_while_it_is_read(beneath: Beneath) -> None:
    volume = beneath.volume()
    seen: set[str] = set()
    with meanwhile(GROWING, volume / "authorized_keys"):
        end = time.monotonic() + 2
        while time.monotonic() < end:
            found = await beneath.read(volume)
            assert found.token == b""
            for file in found.files:
                assert file.data == b"ssh-ed25519 x\n" * (len(file.data) // 14)
                seen.add("read")
            seen |= {one.reason.value for one in found.skipped}
    assert seen <= {"read", "changing"}


# Delivering


async def test_the_key_belongs_to_whom_the_directory_belongs(beneath: Beneath) -> None:
    volume = beneath.volume(mode=0o500)
    inner = volume / "home" / ".ssh"
    inner.mkdir(parents=True)
    os.chown(inner, 77, 78)
    inner.chmod(0o2700)
    assert await beneath.deliver(volume)
    assert facts(volume / "id_container") == (OWNER, GROUP, 0o600)
    assert (volume / "id_container").read_bytes() == KEY
    assert await beneath.deliver(volume, directory="home/.ssh")
    assert facts(inner / "id_container") == (77, 78, 0o600)
    assert await beneath.withdraw(volume, KEY, directory="home/.ssh") == Withdrawal.REMOVED
    assert await beneath.deliver(volume, directory="home/.ssh", owner=IdPair(5, 6))
    assert facts(inner / "id_container") == (5, 78, 0o600), "the group of a directory with sgid"
    assert not await beneath.deliver(volume)


async def test_the_life_of_a_key(beneath: Beneath) -> None:
    volume = beneath.volume()
    assert await beneath.withdraw(volume, KEY) == Withdrawal.ABSENT
    await beneath.deliver(volume, BEFORE, owner=IdPair(55, 66))
    assert await beneath.deliver(volume, KEY, BEFORE, owner=IdPair(55, 66))
    assert facts(volume / "id_container") == (55, 66, 0o600)
    assert (volume / "id_container").read_bytes() == KEY
    assert os.listdir(volume) == ["id_container"]
    assert await beneath.withdraw(volume, BEFORE) == Withdrawal.FOREIGN
    assert await beneath.withdraw(volume, BEFORE, KEY) == Withdrawal.REMOVED
    assert os.listdir(volume) == []


async def test_in_a_sticky_directory(beneath: Beneath) -> None:
    """Whose files only their owner, the directory's, or CAP_FOWNER may rename and remove."""
    volume = beneath.volume(mode=0o1777)
    await beneath.deliver(volume, BEFORE, owner=IdPair(55, 66))
    assert await beneath.deliver(volume, KEY, BEFORE, owner=IdPair(55, 66))
    assert await beneath.withdraw(volume, KEY) == Withdrawal.REMOVED


async def test_what_is_the_containers_stays(beneath: Beneath, tmp_path: Path) -> None:
    volume = beneath.volume()
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "id_container").write_bytes(BEFORE)
    give(volume / "id_container", b"mine")
    with pytest.raises(ConflictError, match="stays as it is"):
        await beneath.deliver(volume, KEY, BEFORE)
    assert (volume / "id_container").read_bytes() == b"mine"
    (volume / "id_container").unlink()
    (volume / "id_container").symlink_to(outside / "id_container")
    with pytest.raises(ConflictError):
        await beneath.deliver(volume, KEY, BEFORE)
    assert await beneath.withdraw(volume, BEFORE) == Withdrawal.FOREIGN
    for target in (outside, Path("/etc"), Path(".")):
        (volume / "link").symlink_to(target)
        for directory in ("link", "link/ssh"):
            with pytest.raises(NotFoundError):
                await beneath.deliver(volume, KEY, BEFORE, directory=directory)
            assert await beneath.withdraw(volume, BEFORE, directory=directory) == Withdrawal.ABSENT
        (volume / "link").unlink()
    for directory in ("missing", "id_container"):
        with pytest.raises(NotFoundError, match="there is no directory"):
            await beneath.deliver(volume, directory=directory)
    assert {path.name: path.read_bytes() for path in outside.iterdir()} == {"id_container": BEFORE}
    assert os.listdir(volume) == ["id_container"]


async def test_a_lease_on_the_key(beneath: Beneath, monkeypatch: pytest.MonkeyPatch) -> None:
    volume = beneath.volume()
    path = give(volume / "id_container", BEFORE)
    handler = signal.signal(signal.SIGIO, signal.SIG_IGN)
    fd = os.open(path, os.O_RDWR)
    try:
        fcntl.fcntl(fd, fcntl.F_SETLEASE, fcntl.F_WRLCK)
        began = time.monotonic()
        with pytest.raises(HostError, match="in use"):
            await beneath.deliver(volume, KEY, BEFORE)
        assert time.monotonic() - began < 6
    finally:
        os.close(fd)
        signal.signal(signal.SIGIO, handler)
    assert path.read_bytes() == BEFORE
    assert await beneath.deliver(volume, KEY, BEFORE)


async def test_a_read_only_volume(beneath: Beneath) -> None:
    volume = beneath.volume()
    give(volume / "id_container", BEFORE)
    run("mount", "--bind", volume, volume)
    run("mount", "-o", "remount,bind,ro", volume)
    for attempt in (beneath.deliver(volume, KEY, BEFORE), beneath.withdraw(volume, BEFORE)):
        with pytest.raises(RefusedError, match="read-only"):
            await attempt
    run("umount", volume)
    assert (volume / "id_container").read_bytes() == BEFORE
    assert os.listdir(volume) == ["id_container"]


def full_tmpfs(path: Path, _bench: Bench) -> None:
    run("mount", "-t", "tmpfs", "-o", "size=64k", "hatchway-test", path)


def tmpfs_without_inodes(path: Path, _bench: Bench) -> None:
    run("mount", "-t", "tmpfs", "-o", "nr_inodes=3", "hatchway-test", path)


def full_ext4(path: Path, bench: Bench) -> None:
    run("mount", bench.device(image(bench.directory / "full.img", 2)), path)
    shutil.rmtree(path / "lost+found")


@pytest.mark.parametrize("make", [full_tmpfs, tmpfs_without_inodes, full_ext4])
@pytest.mark.parametrize("before", [BEFORE, None])
async def test_no_room_left(beneath: Beneath, before: bytes | None, make: Callable[[Path, Bench], None]) -> None:
    volume = beneath.volume()
    make(volume, beneath.bench)
    if before is not None:
        give(volume / "id_container", before)
    filler = os.open(volume / "filler", os.O_CREAT | os.O_WRONLY)
    with contextlib.suppress(OSError):
        while "inodes" not in make.__name__:
            os.write(filler, b"x" * 4096)
    with contextlib.suppress(OSError):
        while True:
            os.write(filler, b"x")
            if "inodes" in make.__name__:
                (volume / str(time.monotonic_ns())).touch()
    os.close(filler)
    names = sorted(os.listdir(volume))
    with pytest.raises(HostError, match="no room"):
        await beneath.deliver(volume, KEY, BEFORE)
    assert sorted(os.listdir(volume)) == names
    if before is not None:
        assert (volume / "id_container").read_bytes() == before
    for path in volume.iterdir():
        if path.name != "id_container":
            path.unlink()
    assert await beneath.deliver(volume, KEY, BEFORE)
    mounts.unmount(str(volume))


async def test_a_limited_volume(beneath: Beneath) -> None:
    volume = beneath.volume()
    limits = Limits(size=2_000_000, files=5)
    shared = beneath.shared(volume, limits, Usage(size=0, files=0, measured_at=time.time()))
    account = beneath.accounts.account_of(shared)
    account.shared = True

    def entered() -> tuple[int, int]:
        figures = account.ledger.figures()
        return figures.blocks, figures.files

    await beneath.deliver(volume, BEFORE, volume=shared)
    assert entered() == (1, 1)
    await beneath.deliver(volume, KEY, BEFORE, volume=shared)
    await beneath.deliver(volume, KEY, BEFORE, volume=shared)
    assert entered() == (1, 1)
    account.ledger.limit(488, 1)
    with pytest.raises(HostError, match="limit"):
        await beneath.deliver(volume, BEFORE, KEY, volume=shared)
    assert (volume / "id_container").read_bytes() == KEY
    # Who knows of no limits does not take them away.
    assert await beneath.withdraw(volume, KEY) == Withdrawal.REMOVED
    assert account.limits == limits
    assert entered() == (0, 0)
    await beneath.deliver(volume, KEY)
    account.shared = False
    beneath.accounts.let_go(account)
    unknown = beneath.shared(volume, limits)
    with pytest.raises(HostError, match="not been counted"):
        await beneath.deliver(volume, BEFORE, KEY, volume=unknown)
    assert os.listdir(volume) == ["id_container"]


CONTAINER = """
import os, sys, time
os.chdir(sys.argv[1])
before = bytes.fromhex(sys.argv[2])
def put(data):
    with open("new", "wb") as file:
        file.write(data)
    os.rename("new", "id_container")
def contents(name):
    try:
        with open(name, "rb") as file:
            return file.read()
    except FileNotFoundError:
        return None
print("ready", flush=True)
turn = 0
while os.getppid() == int(sys.argv[3]):
    turn += 1
    put(before)
    time.sleep(turn % 7 * 0.0005)
    mine = b"mine %d" % turn
    put(mine)
    end = time.monotonic() + 1
    while True:
        found = [name for name in ("id_container", ".id_container.new", ".id_container.old") if contents(name) == mine]
        if found:
            break
        if time.monotonic() > end:
            print("lost", turn, os.listdir("."), flush=True)
            sys.exit(1)
    time.sleep(0.002)
    for name in os.listdir("."):
        if (contents(name) or b"").startswith(b"mine"):
            try:
                os.unlink(name)
            except FileNotFoundError:
                pass
"""


@pytest.mark.parametrize("withdrawing", [False, True])
async def test_a_race_with_the_container_for_the_name(beneath: Beneath, withdrawing: bool) -> None:
    """It puts a key of before there and then a file of its own over it, all the time: its own is never lost."""
    volume = beneath.volume()
    done: dict[str, int] = {}
    with meanwhile(CONTAINER, volume, BEFORE.hex()):
        end = time.monotonic() + 4
        while time.monotonic() < end:
            try:
                if withdrawing:
                    outcome = (await beneath.withdraw(volume, BEFORE, KEY)).value
                else:
                    outcome = str(await beneath.deliver(volume, KEY, BEFORE))
            except HatchwayError as exc:
                outcome = type(exc).__name__
            done[outcome] = done.get(outcome, 0) + 1
    assert done.get("removed" if withdrawing else "True", 0) > 5, done
    assert "InternalError" not in done


# Volumes the engine mounts on demand


@pytest.mark.parametrize("mounted", [False, True])
async def test_a_volume_on_a_device(beneath: Beneath, mounted: bool) -> None:
    bench = beneath.bench
    device = bench.device(image(bench.directory / "a.img"))
    source = bench.on_device("a", device)
    if mounted:
        run("mount", device, source)
    assert await beneath.deliver(source)
    assert await beneath.deliver(source, BEFORE, KEY)
    assert (await beneath.read(source)).files == ()
    if not mounted:
        run("mount", device, source)
    assert (Path(source) / "id_container").read_bytes() == BEFORE
    give(Path(source) / "authorized_keys", b"one")
    if not mounted:
        run("umount", source)
    assert (await beneath.read(source)).files == (KeyFile(b"authorized_keys", b"one"),)
    assert await beneath.withdraw(source, BEFORE) == Withdrawal.REMOVED
    if mounted:
        run("umount", source)
    assert attached(device)
    bench.detach(device)


async def test_another_volume_at_that_path(beneath: Beneath) -> None:
    volume = beneath.volume()
    shared, asked = beneath.shared(volume), ReadKeys(str(volume), beneath.birth(volume))
    volume.rename(volume.parent / "moved")
    other = beneath.volume()
    give(other / "authorized_keys", b"theirs")
    with pytest.raises(ConflictError, match="another directory"):
        await beneath.tasks.read_keys(asked, CORE)
    with pytest.raises(ConflictError, match="another directory"):
        await beneath.deliver(volume, volume=shared)
    assert os.listdir(other) == ["authorized_keys"]


# What a task has


DELIVERS = {Cap.DAC_OVERRIDE, Cap.CHOWN, Cap.FOWNER}


@pytest.mark.parametrize(
    ("act", "caps", "read_only", "ledgers"),
    [
        (lambda here, volume: here.read(volume), {Cap.DAC_OVERRIDE}, True, 0),
        (lambda here, volume: here.deliver(volume), DELIVERS, False, 1),
        (lambda here, volume: here.withdraw(volume, KEY), {Cap.DAC_OVERRIDE, Cap.FOWNER}, False, 1),
    ],
)
async def test_a_task_has_only_what_it_needs(
    beneath: Beneath,
    monkeypatch: pytest.MonkeyPatch,
    act: Callable[[Beneath, Path], Awaitable[object]],
    caps: set[Cap],
    read_only: bool,
    ledgers: int,
) -> None:
    volume = beneath.volume()
    seen: dict[str, Any] = {}
    ask = tasks._ask

    async def looking(*args: Any) -> Any:
        """Before it is told what to do."""
        (uid,) = beneath.uids.used
        with trio.fail_after(5):
            while not seen:
                await trio.sleep(0.01)
                for pid in filter(str.isdigit, os.listdir("/proc")):
                    with contextlib.suppress(OSError):
                        status = dict(
                            line.split(":\t", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines()
                        )
                        if status["Uid"].split() == [str(uid)] * 4 and status["Seccomp"].strip() == "2":
                            seen.update(status_of(pid, status))
        return await ask(*args)

    monkeypatch.setattr(tasks, "_ask", looking)
    await act(beneath, volume)
    assert FIRST_UID <= int(seen["Uid"].split()[0]) <= LAST_UID
    assert len(set(seen["Uid"].split() + seen["Gid"].split())) == 1
    assert seen["CapPrm"] == seen["CapEff"] == f"{sum(1 << cap for cap in caps):016x}"
    assert seen["CapBnd"] == seen["CapInh"] == seen["CapAmb"] == f"{0:016x}"
    assert (seen["NoNewPrivs"], seen["Groups"], seen["Threads"]) == ("1", "", "1")
    assert seen["mounts"] == 1
    assert seen["root"] == []
    assert seen["owner"] == 0, "it cannot be dumped or traced"
    assert seen["volume"] == read_only
    assert seen["ledgers"] == ledgers
    assert seen["others"] == []
    assert seen["core"] == ["0", "0"]


def status_of(pid: str, status: dict[str, str]) -> dict[str, Any]:
    links = {fd: os.readlink(f"/proc/{pid}/fd/{fd}") for fd in os.listdir(f"/proc/{pid}/fd")}
    known = ("/dev/null", "socket:", "pipe:", "/memfd:hatchway-ledger", "/tmp/", "/dev/pts", "/proc/")
    volumes = [fd for fd, link in links.items() if link == "/"]
    limits = Path(f"/proc/{pid}/limits").read_text().splitlines()
    (core,) = [line.split()[4:6] for line in limits if line.startswith("Max core")]
    mount_flags = [bool(os.statvfs(f"/proc/{pid}/fd/{fd}").f_flag & os.ST_RDONLY) for fd in volumes]
    return {
        **{name: value.strip() for name, value in status.items()},
        "mounts": len(Path(f"/proc/{pid}/mountinfo").read_text().splitlines()),
        "root": os.listdir(f"/proc/{pid}/root/"),
        "owner": os.stat(f"/proc/{pid}/mem").st_uid,
        "volume": mount_flags[0],
        "ledgers": sum(link.startswith("/memfd:hatchway-ledger") for link in links.values()),
        "others": [link for fd, link in links.items() if int(fd) > 2 and link != "/" and not link.startswith(known)],
        "core": core,
    }


async def test_the_private_key_is_in_no_other_process(beneath: Beneath) -> None:
    """The zygote, of which every worker is a copy, never has it; nor is it in what a process is called."""
    volume = beneath.volume()
    marker = b"bm8gb3RoZXIgcHJvY2Vzcw" * 3
    await beneath.deliver(volume, b"-----BEGIN OPENSSH PRIVATE KEY-----\n" + marker)
    regions = 0
    with (
        Path(f"/proc/{beneath.zygote.pid}/maps").open() as table,
        open(f"/proc/{beneath.zygote.pid}/mem", "rb", buffering=0) as memory,
    ):
        for line in table:
            place, rights = line.split()[:2]
            if not rights.startswith("rw"):
                continue
            start, end = (int(number, 16) for number in place.split("-"))
            memory.seek(start)
            with contextlib.suppress(OSError):
                assert marker not in memory.read(end - start)
                regions += 1
    assert regions > 10
    for name in ("cmdline", "environ"):
        assert marker not in Path(f"/proc/{beneath.zygote.pid}/{name}").read_bytes()
