"""Room that is kept for the registry; tests/mount/test_full_disk.py has disks that are really full."""

from __future__ import annotations

import os
import shutil
import sqlite3
import stat
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest
from sqlalchemy.exc import OperationalError

from hatchway.config import RESERVE_SIZE, Config, Paths
from hatchway.model import EventKind
from hatchway.registry import reserve as registry_reserve
from hatchway.registry.records import NewEvent
from hatchway.registry.reserve import FOR_ACCESS, STEP, WAL_SIZE, NoRoomError, Reserve, is_full
from hatchway.registry.store import Registry, storing

EVENT = NewEvent(1.0, EventKind.CHANGE, "what was done")


@pytest.fixture
def reserve(registry: Registry, path: str) -> Reserve:
    """That of a new registry, whole."""
    assert registry.keep_reserve()
    return Reserve(path)


def size(path: str) -> int:
    return os.stat(f"{path}-reserve").st_size


def full(code: int = sqlite3.SQLITE_FULL) -> OperationalError:
    """What a statement raises, with this code of SQLite's."""
    error = sqlite3.OperationalError("database or disk is full")
    error.sqlite_errorcode = code
    return OperationalError("INSERT", {}, error)


def test_it_is_really_there_and_ours_alone(registry: Registry, reserve: Reserve, path: str) -> None:
    found = os.stat(f"{path}-reserve")
    assert (found.st_size, stat.S_IMODE(found.st_mode)) == (RESERVE_SIZE, 0o600)
    assert found.st_blocks * 512 >= RESERVE_SIZE
    # A copy may have holes.
    os.truncate(f"{path}-reserve", 0)
    os.truncate(f"{path}-reserve", RESERVE_SIZE)
    assert registry.keep_reserve()
    assert os.stat(f"{path}-reserve").st_blocks * 512 >= RESERVE_SIZE
    assert Config(paths=Paths(state_dir="/x")).reserve_path == "/x/registry.sqlite-reserve"


def test_it_is_given_up_in_steps_down_to_what_is_to_be_left(reserve: Reserve, path: str) -> None:
    left = []
    while reserve.give_up(FOR_ACCESS + 1):
        left.append(size(path))
    assert left == [*range(RESERVE_SIZE - STEP, FOR_ACCESS, -STEP), FOR_ACCESS + 1]
    while reserve.give_up(0):
        pass
    assert size(path) == 0
    assert reserve.make()
    assert size(path) == RESERVE_SIZE


def test_it_is_never_made_or_given_up_through_a_link(registry: Registry, path: str, tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.write_bytes(b"x" * 100)
    os.symlink(other, f"{path}-reserve")
    assert not registry.keep_reserve()
    assert not Reserve(path).give_up(0)
    assert other.read_bytes() == b"x" * 100


def test_where_there_is_little_room_it_is_not_made(
    registry: Registry, path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(registry_reserve, "_free", lambda _room: RESERVE_SIZE)
    assert not registry.keep_reserve()
    assert not os.path.lexists(f"{path}-reserve")


def test_what_can_wait_is_stored_only_where_there_is_plenty(
    registry: Registry, reserve: Reserve, path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    registry.add_events([EVENT])
    reserve.give_up(0)
    registry.add_events([EVENT])
    assert size(path) == RESERVE_SIZE, "it was made again first"
    monkeypatch.setattr(registry_reserve, "_free", lambda _room: RESERVE_SIZE - 1)
    for waiting in (
        lambda: registry.add_events([EVENT]),
        lambda: registry.thin_events(kinds=[EventKind.CHANGE], keep=0, at_most=9),
        lambda: registry.forget_events(older_than=9.0, at_most=9),
        lambda: registry.saw((), 1.0),
        lambda: registry.keep_sizes({}, ()),
    ):
        with pytest.raises(NoRoomError, match="kept for taking access away"):
            waiting()
    registry.replace_rules([])
    assert len(registry.events(limit=9)) == 2


@pytest.mark.parametrize(("leave", "tries", "left"), [(0, 9, 0), (FOR_ACCESS, 5, FOR_ACCESS), (None, 1, RESERVE_SIZE)])
def test_it_is_tried_again_as_long_as_there_is_something_to_give_up(
    registry: Registry, reserve: Reserve, path: str, leave: int | None, tries: int, left: int
) -> None:
    calls: list[None] = []

    def method(_registry: Registry) -> None:
        calls.append(None)
        raise full()

    with pytest.raises(NoRoomError, match="nothing can be stored: database or disk is full"):
        storing(leave)(method)(registry)
    assert (len(calls), size(path)) == (tries, left)


def test_only_what_a_full_disk_may_do_counts(registry: Registry, reserve: Reserve, path: str) -> None:
    def failing(code: int) -> Callable[[Registry], None]:
        def method(_registry: Registry) -> None:
            raise full(code)

        return method

    for code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_IOERR_READ):
        with pytest.raises(OperationalError):
            storing(0)(failing(code))(registry)
    assert size(path) == RESERVE_SIZE
    assert is_full(full(sqlite3.SQLITE_IOERR_WRITE))
    assert not is_full(None)
    assert not is_full(ValueError())


def test_a_registry_whose_wal_was_made_long_outlives_a_crash(registry: Registry, path: str, tmp_path: Path) -> None:
    def crashed(name: str) -> list[str]:
        """What a core finds that is started after this one was killed now."""
        copy = tmp_path / name
        copy.mkdir()
        for suffix in ("", "-wal"):
            shutil.copy(f"{path}{suffix}", copy / f"registry.sqlite{suffix}")
        with closing(Registry.open(str(copy / "registry.sqlite"))) as again:
            found = [one.event.what for one in again.events(limit=10_000)]
            again.add_events([EVENT])
        with closing(sqlite3.connect(copy / "registry.sqlite")) as connection:
            assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        return found

    # Before anything is written to it, after, and when it is written from its beginning again.
    written: list[str] = []
    assert registry.keep_reserve()
    assert crashed("empty") == written
    for number in range(3):
        for one in range(400):
            written.append(f"event {number} {one}")
            registry.add_events([NewEvent(1.0, EventKind.CHANGE, written[-1])])
        assert crashed(f"after {number}") == written
        assert registry.keep_reserve()
    assert os.stat(f"{path}-wal").st_size == WAL_SIZE
