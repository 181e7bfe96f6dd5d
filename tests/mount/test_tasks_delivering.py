"""A private key in hostile volumes, delivered and withdrawn by volume tasks as hostd has it done."""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.mount.tasked import BEFORE, GROUP, KEY, OWNER, Beneath, facts, give, meanwhile
from tests.mount.test_on_demand_devices import Bench, image, run

from hatchway.errors import ConflictError, HatchwayError, HostError, NotFoundError, RefusedError
from hatchway.kernel import mounts
from hatchway.model import IdPair, Limits
from hatchway.wire.host import (
    Usage,
    Withdrawal,
)


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
