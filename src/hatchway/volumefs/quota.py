"""What a worker does about the volume's limits: each change that adds something is entered in the ledger first.

Nothing is done here that a session did not ask for, and nothing while the volume has no limit. What a limit leaves no
room for is EDQUOT, with a reason for the operator's log; a write is shortened to what there is room for, as the kernel
does it. What takes something away is never refused.

Errors are OSError. BlockingIOError, before anything has been done, when another session of the volume is in the way:
to be tried again. Concurrency as of `VolumeTree`.
"""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import stat
import time
from collections.abc import Callable, Iterator
from typing import Final, NamedTuple, TypeVar

from hatchway.volumefs.fault import LimitError, StillCountingError
from hatchway.volumefs.ledger import BLOCK, Ledger, blocks_of, key_of

COUNT_WAIT_S: Final = 3.0
"""How long in all a session waits for the first count of a volume, in seconds. Then it hears that there is no room."""

_SIZE = "the volume has reached its size limit"
_FILES = "the volume has reached its limit of files"
_UNKNOWN = "what is in the volume has not been counted yet"

T = TypeVar("T")


class Space(NamedTuple):
    """Room in the volume, as statvfs(3) has it. Block counts in units of `fragment_size` bytes; `files` are inodes.

    `available` is what a session can use, `free` what root could use as well.
    """

    block_size: int
    fragment_size: int
    blocks: int
    free: int
    available: int
    files: int
    files_free: int
    files_available: int
    name_max: int


class Quota:
    """For one volume. `ledger` None: nothing is ever limited. Does not own it."""

    def __init__(self, ledger: Ledger | None) -> None:
        self._ledger = ledger
        # What stands for a file that does not exist yet.
        self._new = 1 + secrets.randbits(60)
        self._open: set[int] = set()
        # Entries that could not be made when they were due, since the figures could not be had.
        self._due: list[Callable[[], None]] = []
        self._wait_until: float | None = None

    @property
    def active(self) -> bool:
        """Whether the volume has a limit."""
        return self._ledger is not None and self._ledger.limited

    def write(self, fd: int, key: int, offset: int, data: bytes, *, append: bool) -> int:
        """pwrite(2) as far as there is room; `append`: `fd` was opened with O_APPEND. How many bytes were written.

        `key` is the node's.
        """
        ledger, key = self._ledger, _of_node(key)
        assert ledger is not None
        ledger.take(key)
        try:
            try:
                self._catch_up()
                size = os.fstat(fd).st_size
                start, before = size if append else offset, blocks_of(size)
                end, need = start + len(data), blocks_of(start + len(data)) - before
                if need > 0:
                    self._check_known(ledger)
                    room = ledger.room()
                    if need > room:
                        need, end = room, (before + room) * BLOCK
                        if end <= start:
                            raise LimitError(_SIZE)
                        data = data[: end - start]
                    if need:
                        ledger.add(key, need)
            finally:
                ledger.give_figures()
            written = 0
            try:
                written = os.pwrite(fd, data, offset)
            finally:
                if need > 0 and written < len(data):
                    done = max(0, blocks_of(start + written) - before) if written else 0
                    self._enter(lambda: ledger.undo(key, need - done))
            return written
        finally:
            ledger.give(key)

    def resize(self, fd: int, size: int, change: Callable[[], T]) -> T:
        """Result of `change`, which makes the file `fd` (O_PATH will do) `size` bytes long."""
        if not self.active:
            return change()
        ledger = self._ledger
        assert ledger is not None
        key = _of(os.fstat(fd))
        ledger.take(key)
        try:
            try:
                self._catch_up()
                need = blocks_of(size) - blocks_of(os.fstat(fd).st_size)
                if need > 0:
                    self._check_known(ledger)
                    if need > ledger.room():
                        raise LimitError(_SIZE)
                    ledger.add(key, need)
            finally:
                ledger.give_figures()
            try:
                result = change()
            except BaseException:
                if need > 0:
                    self._enter(lambda: ledger.undo(key, need))
                raise
            if need < 0:
                self._enter(lambda: ledger.remove(-need))
            return result
        finally:
            ledger.give(key)

    @contextlib.contextmanager
    def making(self) -> Iterator[Callable[[os.stat_result], None]]:
        """In the block something is made, which the block then calls its value with."""
        ledger = self._ledger
        if not self.active or ledger is None:
            yield _nothing
            return
        ledger.take(self._new)
        try:
            try:
                self._catch_up()
                self._check_known(ledger)
                if ledger.files_room() < 1:
                    raise LimitError(_FILES)
                ledger.add(0, 0, 1)
            finally:
                ledger.give_figures()
            try:
                yield lambda st: self._enter(lambda: ledger.added(_of(st), 1))
            except BaseException:
                self._enter(lambda: ledger.undo(0, 0, 1))
                raise
        finally:
            ledger.give(self._new)

    @contextlib.contextmanager
    def removing(self, directory: int, name: bytes, is_open: Callable[[os.stat_result], bool]) -> Iterator[None]:
        """In the block the name `name` in `directory`, if there is one, ceases to mean what it means now.

        `is_open` says whether this process has a handle on something.
        """
        ledger = self._ledger
        if not self.active or ledger is None:
            yield
            return
        try:
            fd = os.open(name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=directory)
        except OSError:
            yield  # nothing there, or nothing that can be removed
            return
        try:
            key = _of(os.fstat(fd))
            ledger.take(key)
            ledger.give_figures()
            try:
                yield
                st = os.fstat(fd)
                if st.st_nlink == 0 and not is_open(st) and not ledger.open_elsewhere(key):
                    self._gone(ledger, st)
            finally:
                ledger.give(key)
        finally:
            os.close(fd)

    def opened(self, key: int) -> None:
        """The file of the node's `key` is open here."""
        key = _of_node(key)
        if self._ledger is not None and self.active and key not in self._open:
            self._ledger.opened(key)
            self._open.add(key)

    def closing(self, fd: int, key: int) -> None:
        """The last handle on the file of the node's `key`, `fd`, is being closed."""
        key, ledger = _of_node(key), self._ledger
        if ledger is None or key not in self._open:
            return
        self._open.discard(key)
        st = os.fstat(fd)
        if st.st_nlink:
            ledger.closed(key)
        elif not ledger.open_elsewhere(key):
            self._gone(ledger, st)

    def within(self, space: Space) -> Space:
        """What there is room for in the volume, of `space` in its file system."""
        ledger = self._ledger
        assert ledger is not None
        figures = ledger.figures()
        if blocks := figures.limit_blocks:
            left = min(max(0, blocks - figures.blocks), space.available * space.fragment_size // BLOCK)
            space = space._replace(block_size=BLOCK, fragment_size=BLOCK, blocks=blocks, free=left, available=left)
        if files := figures.limit_files:
            left = max(0, files - figures.files)
            if space.files:  # 0: the file system, such as btrfs, has no number of them
                left = min(left, space.files_available)
            space = space._replace(files=files, files_free=left, files_available=left)
        return space

    def _gone(self, ledger: Ledger, st: os.stat_result) -> None:
        blocks = blocks_of(st.st_size) if stat.S_ISREG(st.st_mode) else 0
        self._enter(lambda: ledger.remove(blocks, 1))

    def _check_known(self, ledger: Ledger) -> None:
        """Raise an OSError unless it is known how much is in the volume."""
        if ledger.known:
            return
        if self._wait_until is None:
            self._wait_until = time.monotonic() + COUNT_WAIT_S
        if time.monotonic() < self._wait_until:
            raise StillCountingError(errno.EAGAIN, _UNKNOWN)
        raise LimitError(_UNKNOWN)

    def _enter(self, entry: Callable[[], None]) -> None:
        """Make an entry about what has been done; if that cannot be now, before the next."""
        ledger = self._ledger
        assert ledger is not None
        self._due.append(entry)
        try:
            ledger.take_figures()
        except BlockingIOError:
            return
        try:
            self._catch_up()
        finally:
            ledger.give_figures()

    def _catch_up(self) -> None:
        while self._due:
            self._due.pop(0)()


def _of_node(key: int) -> int:
    """The ledger's key for a node's."""
    return key_of(key >> 64, key & (1 << 64) - 1)


def _of(st: os.stat_result) -> int:
    return key_of(st.st_dev, st.st_ino)


def _nothing(_st: os.stat_result) -> None:
    pass
