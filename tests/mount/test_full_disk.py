"""The registry on a file system that somebody has filled: access can be taken away all the same."""

from __future__ import annotations

import os
import sqlite3
import stat
import subprocess
import threading
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, closing
from pathlib import Path

import pytest
import trio
from structlog.testing import capture_logs
from tests.unit.core.logins import INSTANCE, LOGIN, by_key, by_password, newest, own_key, shared
from tests.unit.core.stage import Stage, staged

from hatchway.config import RESERVE_SIZE
from hatchway.errors import ConfigError, HostError
from hatchway.model import EventKind
from hatchway.registry import reserve as registry_reserve
from hatchway.registry import store
from hatchway.registry.records import NewEvent
from hatchway.registry.reserve import FOR_ACCESS, STEP, NoRoomError
from hatchway.registry.store import Registry
from hatchway.sshd import hostkeys
from hatchway.wire.admin import Disable, Show
from hatchway.wire.entry import Lock, ResetPassword, SetConditions, ShowConditions, Unlock


@pytest.fixture
def no_host_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    """sshd has no host keys here, which `show` tells."""
    monkeypatch.setattr(hostkeys, "read", lambda _directory: ())


@pytest.fixture
def short_wal(monkeypatch: pytest.MonkeyPatch) -> None:
    """SQLite's -wal is as short as it begins."""
    monkeypatch.setattr(registry_reserve, "WAL_SIZE", 0)


@pytest.fixture(params=["tmpfs", "ext4"])
def small(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Path]:
    """An empty file system of 48 MiB."""
    place, image = tmp_path / "small", tmp_path / "image"
    place.mkdir()
    if request.param == "tmpfs":
        command = ["mount", "-t", "tmpfs", "-o", "size=48m", "hatchway-test", str(place)]
    else:
        with image.open("wb") as file:
            file.truncate(48 << 20)
        subprocess.run(["mkfs.ext4", "-q", "-m", "0", str(image)], check=True, capture_output=True)
        command = ["mount", "-o", "loop", str(image), str(place)]
    subprocess.run(command, check=True)
    yield place
    subprocess.run(["umount", place], check=True)


def fill(place: Path) -> None:
    """Leave not a byte."""
    with (place / "filler").open("ab", buffering=0) as file:
        for size in (1 << 20, 4096, 1):
            for _ in range(1 << 12):
                try:
                    file.write(b"x" * size)
                except OSError:
                    break


def empty(place: Path) -> None:
    """Have room again."""
    (place / "filler").unlink()


def reserve(stage: Stage) -> int:
    """Bytes that are left of it."""
    return os.stat(stage.core.config.reserve_path).st_size


def locked(stage: Stage) -> str:
    """Why the login is locked, by what another core would read."""
    with closing(sqlite3.connect(stage.core.config.registry_path)) as connection:
        return str(connection.execute("SELECT locked_why FROM logins").fetchone()[0])


@asynccontextmanager
async def entered(place: Path) -> AsyncIterator[tuple[Stage, str]]:
    """A stage on a small file system, somebody who is in, and the password."""
    async with staged(place) as stage:
        password = await shared(stage)
        await stage.core.journal.write()
        assert stage.core.registry.keep_reserve()
        assert await by_password(stage, password)
        yield stage, password


async def test_on_a_full_disk_access_is_taken_away_as_ever(small: Path, no_host_keys: None) -> None:
    async with entered(small) as (stage, password):
        found = os.stat(stage.core.config.reserve_path)
        assert (found.st_size, stat.S_IMODE(found.st_mode)) == (RESERVE_SIZE, 0o600)
        assert found.st_blocks * 512 >= RESERVE_SIZE
        # Whatever becomes free is taken at once.
        fill(small)
        await stage.do(Lock(instance=INSTANCE, why="it fills the disk"))
        assert (stage.host.ended, locked(stage)) == ([newest(stage)], "it fills the disk")
        assert not await by_password(stage, password)
        for number in range(20):
            await stage.do(Unlock(INSTANCE))
            fill(small)
            assert await by_password(stage, password)
            assert await by_key(stage, await own_key(stage))
            fill(small)
            await stage.do(SetConditions(instance=INSTANCE, allowed_from=(f"192.0.2.0/{24 - number % 2}",)))
            fill(small)
            password = (await stage.do(ResetPassword(instance=INSTANCE))).password
            fill(small)
            await stage.do(Lock(instance=INSTANCE))
            for session in stage.core.registry.open_sessions():
                await stage.core.session_ended(session.id)
            assert stage.core.registry.open_sessions() == ()
        await stage.do(Unlock(INSTANCE))
        fill(small)
        await stage.do(Disable(instance=INSTANCE, every=True))
        assert not await by_password(stage, password)
        assert reserve(stage) >= FOR_ACCESS


async def test_the_reserve_is_given_up_step_by_step(
    small: Path, no_host_keys: None, short_wal: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store, "checkpoint", lambda _engine: None)
    async with entered(small) as (stage, password):
        fill(small)
        with capture_logs() as logs:
            await stage.do(Lock(instance=INSTANCE))
        assert [entry["error"] for entry in logs if "is given up" in entry["event"]] == ["database or disk is full"]
        assert (reserve(stage), locked(stage)) == (RESERVE_SIZE - STEP, "by uid 0")
        await stage.do(Unlock(INSTANCE))
        # Logins have half of it.
        for _ in range(10):
            fill(small)
            await by_password(stage, password)
        assert reserve(stage) == FOR_ACCESS
        fill(small)
        assert not await by_password(stage, password)
        await stage.do(Lock(instance=INSTANCE))
        assert (reserve(stage), locked(stage)) == (FOR_ACCESS - STEP, "by uid 0")
        # And it comes back.
        assert not stage.core.registry.keep_reserve()
        empty(small)
        assert stage.core.registry.keep_reserve()
        assert reserve(stage) == RESERVE_SIZE


async def test_what_can_wait_waits_for_the_reserve_to_be_back(small: Path, no_host_keys: None) -> None:
    async with entered(small) as (stage, _):
        registry, event = stage.core.registry, NewEvent(1.0, EventKind.CHANGE, "told while it was full")
        fill(small)
        before = registry.events(limit=1)
        with pytest.raises(NoRoomError, match="kept for taking access away"):
            registry.add_events([event])
        # A little room is not for the record either.
        os.truncate(stage.core.config.reserve_path, RESERVE_SIZE - STEP)
        with pytest.raises(NoRoomError, match="kept for taking access away"):
            registry.add_events([event])
        stage.core.journal.record(event)
        with capture_logs() as logs:
            await stage.core.journal.write()
        assert (registry.events(limit=1), logs[0]["event"]) == (
            before,
            "the record cannot be written, will be tried again",
        )
        assert not registry.keep_reserve()
        assert reserve(stage) == RESERVE_SIZE - STEP
        empty(small)
        await stage.core.journal.write()
        assert event in [one.event for one in registry.events(limit=99)]
        assert reserve(stage) == RESERVE_SIZE


async def test_who_logs_in_in_a_loop_leaves_half_of_it(small: Path, no_host_keys: None) -> None:
    async with entered(small) as (stage, password):
        registry = stage.core.registry
        fill(small)
        for number in range(600):
            if number % 50 == 0:
                fill(small)
            try:
                registry.open_session(str(number), LOGIN, address="", method="", credential=None, now=1.0)
                registry.close_session(str(number))
            except NoRoomError:
                pass
        assert reserve(stage) >= FOR_ACCESS
        fill(small)
        await stage.do(Lock(instance=INSTANCE))
        assert (locked(stage), await by_password(stage, password)) == ("by uid 0", False)


async def test_a_lock_holds_when_it_cannot_be_stored(small: Path, no_host_keys: None, short_wal: None) -> None:
    async with entered(small) as (stage, password), trio.open_nursery() as nursery:
        key = await own_key(stage)
        os.truncate(stage.core.config.reserve_path, 0)
        fill(small)
        with pytest.raises(HostError, match="is locked and its sessions are ended, but that is not stored"):
            await stage.do(Lock(instance=INSTANCE, why="it fills the disk"))
        assert (stage.host.ended, locked(stage)) == ([newest(stage)], "")
        assert not await by_password(stage, password)
        assert not await by_key(stage, key)
        assert (await stage.do(ShowConditions(INSTANCE))).locked_why == "it fills the disk"
        assert "it fills the disk" in " ".join(one.text for one in (await stage.do(Show(instance=INSTANCE))).problems)
        # What was not stored is not to be stored.
        assert (await stage.do(Unlock(INSTANCE))).locked_at is None
        with pytest.raises(HostError):
            await stage.do(Lock(instance=INSTANCE, why="again"))
        # Other changes are not made, and say so.
        with pytest.raises(NoRoomError, match="nothing can be stored"):
            await stage.do(SetConditions(instance=INSTANCE, sessions_max=1))
        assert (await stage.do(ShowConditions(INSTANCE))).sessions_max is None
        # The session is over, though that cannot be stored either.
        await stage.core.session_ended(newest(stage))
        assert await stage.admission.sessions(LOGIN) == 0
        empty(small)
        nursery.start_soon(stage.admission.run)
        nursery.start_soon(stage.core.keep_in_step)
        with trio.fail_after(10):
            while locked(stage) != "again" or stage.core.registry.open_sessions():
                await trio.sleep(0.05)
        await stage.do(Unlock(INSTANCE))
        assert await by_password(stage, password)
        nursery.cancel_scope.cancel()


async def test_whoever_is_quicker_than_a_lock_does_not_stop_it(small: Path, no_host_keys: None) -> None:
    async with entered(small) as (stage, password):
        done = threading.Event()

        def fill_for_ever() -> None:
            with (small / "filler").open("ab", buffering=0) as file:
                while not done.is_set():
                    try:
                        file.write(b"x" * 65536)
                    except OSError:
                        time.sleep(0)

        fill(small)
        thread = threading.Thread(target=fill_for_ever)
        thread.start()
        try:
            await stage.do(Lock(instance=INSTANCE))
        except HostError as exc:
            assert "is not stored" in str(exc)
        finally:
            done.set()
            thread.join()
        assert stage.host.ended == [newest(stage)]
        assert not await by_password(stage, password)


def test_a_core_is_started_on_a_full_disk(small: Path) -> None:
    path = str(small / "registry.sqlite")
    with closing(Registry.open(path)) as registry:
        assert registry.keep_reserve()
    fill(small)
    with capture_logs() as logs, closing(Registry.open(path)) as registry:
        fill(small)
        assert registry.instances() == ()
        registry.replace_rules([])
    assert "room kept for this is given up" in logs[0]["event"]
    assert os.stat(f"{path}-reserve").st_size >= FOR_ACCESS
    fill(small)
    os.truncate(f"{path}-reserve", 0)
    fill(small)
    with pytest.raises(ConfigError, match="cannot be used as the registry"):
        Registry.open(path)
    # That is no reason to write it anew.
    empty(small)
    with closing(Registry.open(path)) as registry:
        assert registry.keep_reserve()


def test_a_reserve_is_made_only_where_there_is_room(small: Path) -> None:
    with closing(Registry.open(str(small / "registry.sqlite"))) as registry:
        fill(small)
        assert not registry.keep_reserve()
        assert not (small / "registry.sqlite-reserve").exists()
        # Without one the record is written as long as there is room.
        empty(small)
        registry.add_events([NewEvent(1.0, EventKind.CHANGE, "there was room")])
