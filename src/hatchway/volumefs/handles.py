"""Open files and directories: what a FUSE file handle means. Bounded in number; each owns its descriptor.

A handle's number is its descriptor's: unique while it is open, and the kernel does not use it after the release.
Changed by one operation at a time, on the event loop.
"""

from __future__ import annotations

import errno
import os

from hatchway.kernel.files import DirectoryReader
from hatchway.volumefs.fault import failure
from hatchway.volumefs.fixed import NothingToRead
from hatchway.volumefs.nodes import Node


class Handle:
    """An open file or directory. `reader` is there for a directory only."""

    __slots__ = ("fd", "node", "reader")

    def __init__(self, fd: int, node: Node, reader: DirectoryReader | NothingToRead | None = None) -> None:
        self.fd = fd
        self.node = node
        self.reader = reader


class HandleTable:
    """The open handles, at most `limit`."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._open: dict[int, Handle] = {}

    def __len__(self) -> int:
        return len(self._open)

    def check_room(self) -> None:
        """Raise OSError ENFILE when there may be no more. Called before anything is opened or created."""
        if len(self._open) >= self._limit:
            raise failure(errno.ENFILE)

    def add(self, fd: int, node: Node, reader: DirectoryReader | NothingToRead | None = None) -> int:
        """A handle's number for `fd`, which it now owns."""
        handle = Handle(fd, node, reader)
        self._open[fd] = handle
        if node.handles is None:
            node.handles = []
        node.handles.append(handle)
        return fd

    def get(self, number: int) -> Handle:
        """The handle of that number. Raises OSError EBADF when there is none."""
        try:
            return self._open[number]
        except KeyError:
            raise failure(errno.EBADF) from None

    def release(self, number: int) -> None:
        """Close a handle. Raises OSError EBADF when there is none."""
        handle = self.get(number)
        del self._open[number]
        handles = handle.node.handles
        if handles is not None:
            handles.remove(handle)
            if not handles:
                handle.node.handles = None
        os.close(handle.fd)

    def close(self) -> None:
        """Close all of them."""
        for number in list(self._open):
            self.release(number)
