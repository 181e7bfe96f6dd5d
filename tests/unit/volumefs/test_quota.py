"""What a worker enters: before a change, after one that failed, and when the ledger cannot be had."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.unit.volumefs.test_ledger import elsewhere, entered

from hatchway.volumefs.fault import LimitError, StillCountingError
from hatchway.volumefs.handles import HandleTable
from hatchway.volumefs.ledger import BLOCK, Ledger
from hatchway.volumefs.nodes import Node
from hatchway.volumefs.ownership import REGULAR
from hatchway.volumefs.quota import Quota, Space


@pytest.fixture
def ledger() -> Iterator[Ledger]:
    ledger = Ledger.make()
    ledger.suppose(0, 0, 1)
    ledger.limit(10, 10)
    yield ledger
    ledger.close()


@pytest.fixture
def fd(tmp_path: Path) -> Iterator[int]:
    fd = os.open(tmp_path / "file", os.O_RDWR | os.O_CREAT)
    yield fd
    os.close(fd)


def key(fd: int) -> int:
    """As a node has it."""
    st = os.fstat(fd)
    return st.st_dev << 64 | st.st_ino


@pytest.mark.parametrize("counting", [False, True])
def test_a_change_that_fails_is_undone(ledger: Ledger, fd: int, counting: bool) -> None:
    quota = Quota(ledger)
    if counting:
        ledger.begin()

    def fail() -> None:
        raise OSError(errno.EIO, "the disk")

    with pytest.raises(OSError, match="the disk"):
        quota.resize(fd, 5 * BLOCK, fail)
    with pytest.raises(OSError, match="the disk"), quota.making(2):
        fail()
    with open("/dev/null", "rb") as null, pytest.raises(OSError, match="Bad file descriptor"):
        quota.write(null.fileno(), key(fd), 0, b"x" * BLOCK, append=False)
    assert entered(ledger) == (0, 0)
    if counting:
        assert ledger.finish(0, 0, 1, least=False)
        assert entered(ledger) == (0, 0)


@pytest.mark.parametrize("counting", [False, True])
def test_a_short_write(ledger: Ledger, fd: int, counting: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """The disk, not the limit, has no room for all of it."""
    quota, pwrite = Quota(ledger), os.pwrite
    if counting:
        ledger.begin()
    monkeypatch.setattr(os, "pwrite", lambda fd, data, offset: pwrite(fd, data[: 2 * BLOCK], offset))
    assert quota.write(fd, key(fd), 0, b"x" * 5 * BLOCK, append=False) == 2 * BLOCK
    assert not quota.cut
    assert entered(ledger) == (2, 0)
    if counting:
        assert ledger.finish(0, 0, 1, least=False)
        assert entered(ledger) == (2, 0)


def test_what_comes_behind_a_shortened_write_has_the_limits_words(ledger: Ledger, fd: int) -> None:
    handles = HandleTable(10, Quota(ledger))
    number = handles.add(os.dup(fd), Node(2, key(fd), REGULAR, 1, b"file"))
    assert handles.write(number, 0, b"x" * 12 * BLOCK) == 10 * BLOCK
    for offset in (10 * BLOCK, 11 * BLOCK, 12 * BLOCK):
        with pytest.raises(LimitError) as caught:
            handles.write(number, offset, b"x")
        assert "size limit" in caught.value.reason
    handles.release(number)


def test_nothing_is_added_to_what_nobody_knows(ledger: Ledger, fd: int) -> None:
    ledger.unknown()
    quota = Quota(ledger)
    with pytest.raises(StillCountingError):
        quota.resize(fd, BLOCK, lambda: None)
    with pytest.raises(StillCountingError):
        quota.write(fd, key(fd), 0, b"x", append=False)
    with pytest.raises(StillCountingError), quota.making():
        pass
    quota.resize(fd, 0, lambda: None)
    assert entered(ledger) == (0, 0)


def test_what_cannot_be_entered_at_once_is_entered_before_the_next(ledger: Ledger, fd: int, tmp_path: Path) -> None:
    quota = Quota(ledger)
    quota.write(fd, key(fd), 0, b"x" * 5 * BLOCK, append=False)
    directory = os.open(tmp_path, os.O_PATH)
    held = quota.removing(directory, b"file")
    held.__enter__()
    with elsewhere(ledger.take_figures):
        (tmp_path / "file").unlink()
        held.__exit__(None, None, None)
        assert entered(ledger) == (5, 0)
    os.close(directory)
    with quota.making() as made:
        (tmp_path / "dir").mkdir()
        made(os.stat(tmp_path / "dir"))
    assert entered(ledger)[0] == 0


def test_what_is_made_while_it_is_counted_counts_once(ledger: Ledger, tmp_path: Path) -> None:
    quota = Quota(ledger)
    ledger.begin()
    with quota.making() as made:
        (tmp_path / "dir").mkdir()
        st = os.stat(tmp_path / "dir")
        made(st)
    # The counter has met it, and knows that it had been noted.
    assert ledger.finish(0, 1 - 1, 1, least=False)
    assert entered(ledger) == (0, 1)


def test_a_limit_larger_than_the_file_system(ledger: Ledger) -> None:
    ledger.limit(1000, 1000)
    disk = Space(4096, 1024, 4000, 900, 800, 500, 50, 40, 255)
    space = Quota(ledger).within(disk)
    assert (space.fragment_size, space.blocks, space.free, space.available) == (BLOCK, 1000, 200, 200)
    assert (space.files, space.files_free, space.files_available) == (1000, 40, 40)
    assert Quota(ledger).within(disk._replace(files=0)).files_available == 1000


def test_without_a_ledger_nothing_is_done(fd: int) -> None:
    quota = Quota(None)
    assert not quota.active
    assert quota.resize(fd, 1 << 40, lambda: "done") == "done"
    with quota.making(1 << 40) as made, quota.moving(), quota.removing(-1, b"x"):
        made(os.fstat(fd))
    quota.opened(fd, 5)
    quota.closing(fd, 5)


def test_two_nodes_of_one_file(ledger: Ledger, fd: int, tmp_path: Path) -> None:
    """The kernel may know a file by two numbers: it is open until both are closed."""
    quota = Quota(ledger)
    quota.write(fd, key(fd), 0, b"x" * 5 * BLOCK, append=False)
    quota.opened(fd, key(fd))
    quota.opened(fd, key(fd))
    directory = os.open(tmp_path, os.O_PATH)
    quota.closing(fd, key(fd))
    with quota.removing(directory, b"file"):
        (tmp_path / "file").unlink()
    os.close(directory)
    assert entered(ledger)[0] == 5
    quota.closing(fd, key(fd))
    assert entered(ledger)[0] == 0
