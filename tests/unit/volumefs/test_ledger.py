"""The ledger by itself: its locks among processes, its figures, and what a count makes of them."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from hatchway.volumefs.ledger import BLOCK, ORPHANS_MAX, Ledger, blocks_in, blocks_of, key_of


@pytest.fixture
def ledger() -> Iterator[Ledger]:
    ledger = Ledger.make()
    yield ledger
    ledger.close()


@contextmanager
def elsewhere(call: Callable[[], Any]) -> Iterator[None]:
    """While another process has called it."""
    reader, writer = os.pipe()
    ended, end = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(end)
        call()
        os.write(writer, b"x")
        os.read(ended, 1)
        os._exit(0)
    os.close(ended)
    os.read(reader, 1)
    try:
        yield
    finally:
        os.close(end)
        os.waitpid(pid, 0)
        os.close(reader)
        os.close(writer)


def entered(ledger: Ledger) -> tuple[int, int]:
    figures = ledger.figures()
    return figures.blocks, figures.files


@pytest.mark.parametrize(("size", "blocks"), [(0, 0), (1, 1), (BLOCK, 1), (BLOCK + 1, 2), (1 << 63, 1 << 51)])
def test_blocks(size: int, blocks: int) -> None:
    assert blocks_of(size) == blocks


def test_what_counts(tmp_path: Any) -> None:
    (tmp_path / "file").write_bytes(b"x" * (BLOCK + 1))
    (tmp_path / "short").symlink_to("x" * 59)
    (tmp_path / "long").symlink_to("x" * 60)
    (tmp_path / "dir").mkdir()
    os.mkfifo(tmp_path / "fifo")
    found = {name: blocks_in(os.lstat(tmp_path / name)) for name in ("file", "short", "long", "dir", "fifo")}
    assert found == {"file": 2, "short": 0, "long": 1, "dir": 0, "fifo": 0}


def test_keys_are_by_device_and_inode() -> None:
    keys = {key_of(device, inode) for device in (0x801, 0x802, 0xFD00) for inode in (*range(1, 5000), 1 << 32, 1 << 40)}
    assert len(keys) == 3 * 5001
    assert all(0 < key < 1 << 61 for key in keys)
    assert key_of(0, 0) != 0


def test_the_figures_are_one_processes(ledger: Ledger) -> None:
    with elsewhere(ledger.take_figures):
        with pytest.raises(BlockingIOError):
            ledger.take_figures()
        with pytest.raises(BlockingIOError):
            ledger.take(7)
    ledger.take_figures()
    ledger.give_figures()


def test_a_file_is_changed_by_one_process(ledger: Ledger) -> None:
    def change() -> None:
        ledger.take(7)
        ledger.give_figures()

    with elsewhere(change):
        assert ledger.changing(7)
        assert not ledger.changing(8)
        with pytest.raises(BlockingIOError):
            ledger.take(7)
        ledger.take(8)
        assert not ledger.calm(), "somebody else is in the middle of a change"
        ledger.give_figures()
        ledger.give(8)
    assert ledger.calm()


@pytest.mark.parametrize("key", [1, (1 << 61) - 1])
def test_calm_is_for_every_key(ledger: Ledger, key: int) -> None:
    with elsewhere(lambda: ledger.take(key)):
        assert not ledger.calm()


def test_several_may_have_it_open(ledger: Ledger) -> None:
    with elsewhere(lambda: ledger.opened(7)):
        with elsewhere(lambda: ledger.opened(7)):
            ledger.opened(7)
            assert ledger.open_elsewhere(7)
            assert not ledger.open_elsewhere(8)
        ledger.opened(7)
        assert ledger.open_elsewhere(7)
    ledger.opened(7)
    assert not ledger.open_elsewhere(7)


def test_its_memory_cannot_be_cut(ledger: Ledger) -> None:
    for size in (0, 1 << 40):
        with pytest.raises(PermissionError):
            os.ftruncate(ledger.fileno(), size)
    with pytest.raises(PermissionError):
        fcntl.fcntl(ledger.fileno(), 1033, 0x8)


def test_room(ledger: Ledger) -> None:
    assert ledger.room() > 1 << 60
    assert not ledger.limited
    ledger.limit(10, 5)
    ledger.suppose(4, 4, 1)
    assert (ledger.room(), ledger.files_room()) == (6, 1)
    ledger.add(1, 6, 1)
    assert (ledger.room(), ledger.files_room()) == (0, 0)
    ledger.limit(5, 3)
    assert (ledger.room(), ledger.files_room()) == (0, 0)
    ledger.remove(100, 100)
    assert entered(ledger) == (0, 0)


def test_what_was_supposed_does_not_replace_what_is_known(ledger: Ledger) -> None:
    ledger.suppose(4, 4, 1)
    ledger.suppose(9, 9, 2)
    assert ledger.figures()[2:] == (True, 4, 4, 1)
    ledger.unknown()
    assert not ledger.known


def test_a_count(ledger: Ledger) -> None:
    ledger.suppose(50, 50, 1)
    ledger.begin()
    ledger.add(1, 5, 1)
    ledger.add(2, 7)
    ledger.undo(2, 3)
    ledger.add(0, 0, 1)
    ledger.made(3, 0)
    assert (ledger.grown(1), ledger.grown(2), ledger.grown(3), ledger.grown(4)) == ((5, 1), (4, 0), (0, 1), None)
    assert ledger.grown_serial > 0
    # It has met the first file as it is now, and of the others nothing.
    assert ledger.finish(20 - 5, 8 - 1, 99, least=False)
    assert ledger.figures()[2:] == (True, 15 + 9, 7 + 2, 99)
    assert ledger.grown(1) is None
    ledger.add(1, 1)
    assert ledger.grown(1) is None, "nothing is noted when nobody counts"


@pytest.mark.parametrize(
    "change",
    [
        lambda ledger: ledger.remove(1),
        lambda ledger: ledger.remove(0, 1),
        lambda ledger: ledger.orphan(5, 1),
        lambda ledger: (ledger.orphan(5, 1), ledger.orphan_gone(5)),
        lambda ledger: ledger.moved(),
    ],
)
def test_a_count_that_is_not_exact(ledger: Ledger, change: Callable[[Ledger], object]) -> None:
    ledger.suppose(50, 50, 1)
    change(ledger)
    ledger.begin()
    change(ledger)
    assert not ledger.finish(40, 40, 2, least=False)
    ledger.begin()
    assert ledger.finish(40, 40, 3, least=False), "the next one knows nothing of it"


def test_what_may_be_missing_makes_no_room(ledger: Ledger) -> None:
    ledger.suppose(50, 50, 1)
    ledger.begin()
    assert not ledger.finish(40, 60, 2, least=True)
    assert entered(ledger) == (50, 60)
    ledger.begin()
    ledger.moved()
    assert not ledger.finish(30, 30, 3, least=False)
    assert entered(ledger) == (50, 60)


def test_a_count_that_failed_leaves_nothing(ledger: Ledger) -> None:
    ledger.suppose(50, 50, 1)
    ledger.begin()
    ledger.add(1, 5)
    ledger.abandon()
    assert ledger.grown(1) is None
    ledger.add(1, 5)
    assert ledger.grown(1) is None
    assert entered(ledger) == (60, 50)


def test_orphans(ledger: Ledger) -> None:
    ledger.suppose(50, 50, 1)
    ledger.orphan(7, 10)
    ledger.grow_orphan(7, 5)
    ledger.grow_orphan(7, -2)
    assert entered(ledger) == (53, 50)
    assert ledger.is_orphan(7)
    with elsewhere(lambda: ledger.opened(7)):
        ledger.begin()
        ledger.finish(20, 20, 2, least=False)
        assert entered(ledger) == (20 + 13, 20)
    ledger.orphan_gone(7)
    assert entered(ledger) == (20, 20)
    ledger.orphan_gone(7)
    assert entered(ledger) == (20, 20)
    # Nobody has it open, and nobody has said so: its worker has died.
    ledger.orphan(8, 10)
    ledger.begin()
    ledger.finish(20, 20, 3, least=False)
    assert entered(ledger) == (20, 20)
    assert not ledger.is_orphan(8)


def test_an_orphan_that_the_ledger_does_not_know(ledger: Ledger) -> None:
    """The container has removed it: a count may have left it out already, so only what is added can be taken back."""
    ledger.suppose(50, 50, 1)
    ledger.grow_orphan(7, -20)
    assert entered(ledger) == (50, 50)
    ledger.grow_orphan(7, 5)
    ledger.grow_orphan(7, -20)
    assert entered(ledger) == (50, 50)
    ledger.grow_orphan(7, 5)
    ledger.orphan_gone(7)
    assert entered(ledger) == (50, 50)


def test_many_orphans(ledger: Ledger) -> None:
    for key in range(1, ORPHANS_MAX // 2):
        ledger.orphan(key_of(0x801, key * 8192), key)
    assert all(ledger.is_orphan(key_of(0x801, key * 8192)) for key in range(1, ORPHANS_MAX // 2))
    for key in range(1, ORPHANS_MAX * 2):
        ledger.orphan(key_of(0x802, key), key)
    for key in range(1, ORPHANS_MAX * 2):
        ledger.orphan_gone(key_of(0x802, key))
    assert all(ledger.is_orphan(key_of(0x801, key * 8192)) for key in range(1, ORPHANS_MAX // 2))


def test_notes_give_their_memory_back(ledger: Ledger) -> None:
    before = os.fstat(ledger.fileno()).st_blocks
    for _ in range(3):
        ledger.begin()
        for key in range(1, 5000):
            ledger.add(key, 1)
        ledger.finish(0, 0, 1, least=False)
    assert os.fstat(ledger.fileno()).st_blocks <= before + 16
    assert ledger.grown(1) is None
