"""What a worker does about the volume's limits: each change that adds something is entered in the ledger first.

Nothing is done here that a session did not ask for, and nothing while the volume has no limit. What a limit leaves no
room for is EDQUOT, with a reason for the operator's log; a write is shortened to what there is room for, as the kernel
does it. What takes something away meets no limit.

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

from hatchway.volumefs.fault import LimitError, StillCountingError, failure
from hatchway.volumefs.ledger import BLOCK, Ledger, blocks_in, blocks_of, key_of

COUNT_WAIT_S: Final = 3.0
"""How long in all a session waits for the first count of a volume, in seconds. Then it hears that there is no room."""

_NAME_TRIES = 5

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
        self.cut = False
        """Whether the last write was shortened to what there was room for."""
        self._ledger = ledger
        # What stands for a file that does not exist yet.
        self._new = 1 + secrets.randbits(60)
        # How many nodes with open handles there are of a file: it may have more than one, see `nodes`.
        self._open: dict[int, int] = {}
        # Entries that could not be made when they were due, since the figures could not be had, and after which count.
        self._due: list[tuple[int, Callable[[], object]]] = []
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
        self.cut = False
        ledger.take(key)
        try:
            try:
                self._catch_up()
                st = os.fstat(fd)
                start, before = st.st_size if append else offset, blocks_of(st.st_size)
                end, need = start + len(data), blocks_of(start + len(data)) - before
                if need > 0:
                    self._check_known(ledger)
                    room = ledger.room()
                    if need > room:
                        need, end = room, (before + room) * BLOCK
                        if end <= start:
                            raise size_limit()
                        self.cut = True
                        data = data[: end - start]
                    self._add(ledger, key, st, need)
            finally:
                ledger.give_figures()
            written = 0
            try:
                written = os.pwrite(fd, data, offset)
            finally:
                if need > 0 and written < len(data):
                    done = max(0, blocks_of(start + written) - before) if written else 0
                    self._enter(lambda: self._add(ledger, key, st, done - need))
            return written
        finally:
            ledger.give(key)

    def resize(self, fd: int, size: int, change: Callable[[], T], *, refill: bool = False) -> T:
        """Result of `change`, which makes the file `fd` (O_PATH will do) `size` bytes long.

        `refill`: somebody is about to write it anew. That is refused where not even the room it gives up would let
        anything be written: else what was there would be lost for nothing.
        """
        if not self.active:
            return change()
        ledger = self._ledger
        assert ledger is not None
        key = _of(os.fstat(fd))
        ledger.take(key)
        try:
            try:
                self._catch_up()
                st = os.fstat(fd)
                need = blocks_of(size) - blocks_of(st.st_size)
                if refill and need < 0 and ledger.room() == 0 and ledger.excess() >= -need:
                    raise size_limit()
                if need > 0:
                    self._check_known(ledger)
                    if need > ledger.room():
                        raise size_limit()
                    self._add(ledger, key, st, need)
            finally:
                ledger.give_figures()
            try:
                result = change()
            except BaseException:
                if need > 0:
                    self._enter(lambda: self._add(ledger, key, st, -need))
                raise
            if need < 0:
                self._enter(lambda: ledger.remove(-need) if st.st_nlink else ledger.grow_orphan(key, need))
            return result
        finally:
            ledger.give(key)

    @contextlib.contextmanager
    def making(self, blocks: int = 0) -> Iterator[Callable[[os.stat_result], None]]:
        """In the block something gets a name, and counts `blocks`; the block then calls its value with what it is."""
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
                if blocks > ledger.room():
                    raise size_limit()
                ledger.add(0, blocks, 1)
            finally:
                ledger.give_figures()
            try:
                yield lambda st: self._enter(lambda: ledger.made(_of(st), blocks))
            except BaseException:
                self._enter(lambda: ledger.undo(0, blocks, 1))
                raise
        finally:
            ledger.give(self._new)

    @contextlib.contextmanager
    def moving(self) -> Iterator[None]:
        """In the block something gets a name where it had none before."""
        ledger = self._ledger
        if not self.active or ledger is None:
            yield
            return
        # Before it is done, or a count could end in between.
        ledger.take(self._new)
        try:
            ledger.moved()
            ledger.give_figures()
            yield
        finally:
            ledger.give(self._new)

    @contextlib.contextmanager
    def removing(self, directory: int, name: bytes) -> Iterator[None]:
        """In the block the name `name` in `directory`, if there is one, ceases to mean what it means now."""
        ledger = self._ledger
        if not self.active or ledger is None:
            yield
            return
        fd = self._take_named(ledger, directory, name)
        if fd is None:
            yield  # nothing there, or nothing that can be removed
            return
        try:
            before = os.fstat(fd)
            key = _of(before)
            try:
                yield
                st = os.fstat(fd)
                if st.st_nlink < before.st_nlink and (st.st_nlink == 0 or not stat.S_ISDIR(st.st_mode)):
                    self._unnamed(ledger, key, st)
            finally:
                ledger.give(key)
        finally:
            os.close(fd)

    def _take_named(self, ledger: Ledger, directory: int, name: bytes) -> int | None:
        """A descriptor of what `name` means, which from then on only we may change; None for nothing."""
        for _ in range(_NAME_TRIES):
            try:
                fd = os.open(name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=directory)
            except OSError:
                return None
            key = _of(os.fstat(fd))
            try:
                ledger.take(key)
                ledger.give_figures()
                # While we waited, somebody may have put something else there, and entered that.
                with contextlib.suppress(OSError):
                    if _of(os.stat(name, dir_fd=directory, follow_symlinks=False)) == key:
                        return fd
                ledger.give(key)
            except BaseException:
                os.close(fd)
                raise
            os.close(fd)
        raise failure(errno.EAGAIN)

    def _unnamed(self, ledger: Ledger, key: int, st: os.stat_result) -> None:
        """Enter that something has lost a name, `st` being what it is now."""
        blocks = 0 if st.st_nlink else blocks_in(st)
        if blocks and (key in self._open or ledger.open_elsewhere(key)):
            self._enter(lambda: self._orphaned(ledger, key, blocks))
        else:
            self._enter(lambda: ledger.remove(blocks, 1))

    def opened(self, fd: int, key: int) -> None:
        """The first handle of a node of the file `key` is open, as `fd`; the key is the node's."""
        key, ledger = _of_node(key), self._ledger
        if ledger is None:
            return
        self._open[key] = self._open.get(key, 0) + 1
        if self._open[key] > 1:
            return
        # Without a limit as well: there may be one by the time it is closed.
        ledger.opened(key)
        if self.active and (st := os.fstat(fd)).st_nlink == 0:
            # Removed between its being opened and our saying so: whoever did it took it for closed.
            self._enter(lambda: self._found_orphaned(ledger, key, blocks_in(st)))

    def _orphaned(self, ledger: Ledger, key: int, blocks: int) -> None:
        ledger.remove(0, 1)
        ledger.orphan(key, blocks)

    def _found_orphaned(self, ledger: Ledger, key: int, blocks: int) -> None:
        if not ledger.is_orphan(key):
            ledger.orphan(key, 0)
            ledger.grow_orphan(key, blocks)

    def closing(self, fd: int, key: int) -> None:
        """The last handle of a node of the file `key`, `fd`, is being closed; the key is the node's."""
        key, ledger = _of_node(key), self._ledger
        if ledger is None:
            return
        self._open[key] -= 1
        if self._open[key]:
            return
        del self._open[key]
        if not self.active or os.fstat(fd).st_nlink:
            ledger.closed(key)
            return
        try:
            ledger.take(key)
        except BlockingIOError:
            # It stays entered until the next count.
            ledger.closed(key)
            return
        try:
            self._catch_up()
            if not ledger.open_elsewhere(key):
                ledger.orphan_gone(key)
        finally:
            ledger.give_figures()
            ledger.give(key)

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

    def _add(self, ledger: Ledger, key: int, st: os.stat_result, blocks: int) -> None:
        """Enter `blocks` more, or less, of the file that `st` is of."""
        if st.st_nlink == 0:
            ledger.grow_orphan(key, blocks)
        elif blocks < 0:
            ledger.undo(key, -blocks)
        elif blocks:
            ledger.add(key, blocks)

    def _check_known(self, ledger: Ledger) -> None:
        """Raise an OSError unless it is known how much is in the volume."""
        if ledger.known:
            return
        if self._wait_until is None:
            self._wait_until = time.monotonic() + COUNT_WAIT_S
        if time.monotonic() < self._wait_until:
            raise StillCountingError(errno.EAGAIN, _UNKNOWN)
        raise LimitError(_UNKNOWN)

    def _enter(self, entry: Callable[[], object]) -> None:
        """Make an entry about what has been done; if that cannot be now, before the next."""
        ledger = self._ledger
        assert ledger is not None
        self._due.append((ledger.counts, entry))
        try:
            ledger.take_figures()
        except BlockingIOError:
            return
        try:
            self._catch_up()
        finally:
            ledger.give_figures()

    def _catch_up(self) -> None:
        assert self._ledger is not None
        while self._due:
            counts, entry = self._due.pop(0)
            # What was gone before a count was not found by it, and must not be subtracted from what it found.
            if counts == self._ledger.counts:
                entry()


def size_limit() -> LimitError:
    """There is no room within the volume's size."""
    return LimitError(_SIZE)


def _of_node(key: int) -> int:
    """The ledger's key for a node's."""
    return key_of(key >> 64, key & (1 << 64) - 1)


def _of(st: os.stat_result) -> int:
    return key_of(st.st_dev, st.st_ino)


def _nothing(_st: os.stat_result) -> None:
    pass
