"""Open files and directories: what a FUSE file handle means. Bounded in number; each owns its descriptor.

A handle's number is its descriptor's: unique while it is open, and the kernel does not use it after the release.
Changed by one operation at a time, on the event loop.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import time

from hatchway.kernel.files import DirectoryReader, reopen
from hatchway.volumefs.fault import again, failure
from hatchway.volumefs.fixed import NothingToRead
from hatchway.volumefs.nodes import Node
from hatchway.volumefs.quota import Quota, size_limit

_NO_ROOM = frozenset({errno.ENOSPC, errno.EDQUOT})

FULL_S = 10.0
"""How long writes behind one that found no room fail: those that were sent before the client could hear of it."""


class Handle:
    """An open file or directory. `reader` is there for a directory only.

    `append`: it was opened with O_APPEND. `stopped`: it was open for writing before access became read-only. `full`:
    the offset of the first byte for which there was no room, the error, and until when that counts (time.monotonic(),
    seconds); None while there was room.
    """

    __slots__ = ("append", "fd", "full", "node", "reader", "stopped")

    def __init__(
        self, fd: int, node: Node, reader: DirectoryReader | NothingToRead | None = None, *, append: bool = False
    ) -> None:
        self.fd = fd
        self.node = node
        self.append = append
        self.reader = reader
        self.stopped = False
        self.full: tuple[int, OSError, float] | None = None


class HandleTable:
    """The open handles, at most `limit`."""

    def __init__(self, limit: int, quota: Quota) -> None:
        self._limit = limit
        self._quota = quota
        self._open: dict[int, Handle] = {}

    def __len__(self) -> int:
        return len(self._open)

    def check_room(self) -> None:
        """Raise OSError ENFILE when there may be no more. Called before anything is opened or created."""
        if len(self._open) >= self._limit:
            raise failure(errno.ENFILE)

    def add(
        self, fd: int, node: Node, reader: DirectoryReader | NothingToRead | None = None, *, append: bool = False
    ) -> int:
        """A handle's number for `fd`, which it now owns; `append` as of Handle."""
        handle = Handle(fd, node, reader, append=append)
        self._open[fd] = handle
        if node.handles is None:
            node.handles = []
            if reader is None:
                self._quota.opened(fd, node.key)
        node.handles.append(handle)
        return fd

    def get(self, number: int) -> Handle:
        """The handle of that number. Raises OSError EBADF when there is none."""
        try:
            return self._open[number]
        except KeyError:
            raise failure(errno.EBADF) from None

    def writes(self, number: int) -> bool:
        """Whether the handle is open for writing. Raises OSError EBADF."""
        return fcntl.fcntl(self.get(number).fd, fcntl.F_GETFL) & os.O_ACCMODE != os.O_RDONLY

    def write(self, number: int, offset: int, data: bytes) -> int:
        """Write at `offset`, or at the end if opened with O_APPEND. Returns how many bytes were written, 1 at least.

        Clients send many requests ahead. Once there is no room for one, those behind it would still fill what small
        room there is, and leave holes: a file that looks longer than what of it has arrived, which is then resumed
        behind the holes. So for FULL_S seconds they fail like that one, unless what is missing has been written, or are
        EFBIG, since a write that is short may have met the end of the largest file.
        Raises OSError: EBADF, EACCES when the handle was stopped, what pwrite(2) raises.
        """
        handle = self.get(number)
        if handle.stopped:
            raise failure(errno.EACCES)
        if handle.full is not None:
            missing, error, until = handle.full
            if time.monotonic() >= until:
                handle.full = None
            elif offset > missing:
                raise failure(errno.EFBIG) if _is_too_far(handle.fd, offset) else again(error)
        try:
            if self._quota.active:
                written = self._quota.write(handle.fd, handle.node.key, offset, data, append=handle.append)
            else:
                written = os.pwrite(handle.fd, data, offset)
        except OSError as exc:
            if exc.errno in _NO_ROOM:
                self._is_full(handle, offset, exc)
            raise
        if written < len(data):
            self._is_full(handle, offset + written, size_limit() if self._quota.cut else failure(errno.ENOSPC))
        elif handle.full is not None and offset + written > handle.full[0]:
            handle.full = None
        return written

    def _is_full(self, handle: Handle, missing: int, error: OSError) -> None:
        # Of an append the kernel says where it believes the end to be, which says nothing of holes.
        if not handle.append:
            handle.full = missing, error, time.monotonic() + FULL_S

    def release(self, number: int) -> None:
        """Close a handle. Raises OSError EBADF when there is none."""
        handle = self.get(number)
        del self._open[number]
        handles = handle.node.handles
        if handles is not None:
            handles.remove(handle)
            if not handles:
                handle.node.handles = None
                if handle.reader is None:
                    # If that fails the file stays entered until the next count; it is closed in any case.
                    with contextlib.suppress(OSError):
                        self._quota.closing(handle.fd, handle.node.key)
        os.close(handle.fd)

    def stop_writing(self, proc_fd_dir: int) -> None:
        """Have no file open for writing any more. What was is open for reading, or, if that fails, for nothing."""
        for number, handle in self._open.items():
            if fcntl.fcntl(number, fcntl.F_GETFL) & os.O_ACCMODE == os.O_RDONLY:
                continue
            try:
                instead = reopen(proc_fd_dir, handle.fd, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
            except OSError:
                instead = reopen(proc_fd_dir, handle.fd, os.O_PATH | os.O_CLOEXEC)
            handle.stopped = True
            try:
                # The number stays: the kernel knows the handle by it.
                os.dup2(instead, number, inheritable=False)
            finally:
                os.close(instead)

    def close(self) -> None:
        """Close all of them."""
        for number in list(self._open):
            self.release(number)


def _is_too_far(fd: int, offset: int) -> bool:
    """Whether no file of its file system has a byte at `offset`: what is behind it cannot be sought (vfs_setpos).

    Nothing else tells how large a file may be. Moves the position of `fd`, which nobody uses.
    """
    try:
        os.lseek(fd, offset + 1, os.SEEK_SET)
    except (OSError, OverflowError):
        return True
    return False
