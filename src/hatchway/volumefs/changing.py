"""Changing attributes: size, owner, mode, times, of what a node or an open handle means.

Errors are OSError; BlockingIOError when a size meets a container's lease.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable

from hatchway.kernel import files
from hatchway.volumefs.fault import failure
from hatchway.volumefs.finder import Finder
from hatchway.volumefs.handles import HandleTable
from hatchway.volumefs.making import O_OPEN
from hatchway.volumefs.nodes import Node
from hatchway.volumefs.ownership import DIRECTORY, REGULAR, SYMLINK, Owner, View
from hatchway.volumefs.quota import Quota

ChangeMode = Callable[[int, int, int], None]
"""Sets the mode of a descriptor (not a symlink's): descriptor, mode, the mode a directory has."""


class Changer:
    """For one volume. `proc_fd_dir` as of `VolumeTree`, `chmod` as `Maker.chmod`."""

    def __init__(
        self,
        finder: Finder,
        handles: HandleTable,
        quota: Quota,
        view: View,
        proc_fd_dir: int,
        chmod: ChangeMode,
    ) -> None:
        self._finder = finder
        self._handles = handles
        self._quota = quota
        self._view = view
        self._proc_fd_dir = proc_fd_dir
        self._chmod = chmod

    def change(
        self,
        node: Node,
        *,
        handle: int | None,
        size: int | None,
        mode: int | None,
        uid: int | None,
        gid: int | None,
        atime_ns: int | None,
        mtime_ns: int | None,
        caller: Owner,
    ) -> os.stat_result:
        """Change what is not None, in this order: size, owner, mode, times. `caller` is who asked."""
        owner = self._view.chowned(uid, gid)
        self._view.check_changes(node.kind)
        fd, ours, direct = self._to_change(node, handle, resized=size is not None)
        try:
            if mode is not None or owner is not None:
                self._view.check_owner(os.fstat(fd), caller)
            if size is not None:
                self._truncate(node, fd, direct, size)
            if owner is not None:
                files.chown(fd, *owner)
            if mode is not None:
                self._change_mode(node, fd, mode)
            if atime_ns is not None or mtime_ns is not None:
                files.set_times(fd, atime_ns, mtime_ns)
            return os.fstat(fd)
        finally:
            if ours:
                os.close(fd)

    def _to_change(self, node: Node, handle: int | None, *, resized: bool) -> tuple[int, bool, bool]:
        """A descriptor of `node`, whether we must close it, and whether it is more than O_PATH."""
        if handle is not None:
            opened = self._handles.get(handle)
            if opened.node is node and opened.stopped and resized:
                raise failure(errno.EACCES)
            if opened.node is node and not opened.stopped:
                return opened.fd, False, True
        if node.kind == DIRECTORY:
            return self._finder.directory(node), False, False
        return self._finder.open(node), True, False

    def _truncate(self, node: Node, fd: int, direct: bool, size: int) -> None:
        if node.kind != REGULAR:
            raise failure(errno.EISDIR if node.kind == DIRECTORY else errno.EINVAL)
        if direct:
            self._quota.resize(fd, size, lambda: os.ftruncate(fd, size))
            return
        writable = files.reopen(self._proc_fd_dir, fd, os.O_WRONLY | O_OPEN)
        try:
            self._quota.resize(writable, size, lambda: os.ftruncate(writable, size))
        finally:
            os.close(writable)

    def _change_mode(self, node: Node, fd: int, mode: int) -> None:
        if node.kind == SYMLINK:
            raise failure(errno.EOPNOTSUPP)
        if node.kind == DIRECTORY:
            current = os.fstat(fd).st_mode
            self._chmod(fd, self._view.directory_bits(mode, current), current)
        else:
            self._chmod(fd, self._view.file_bits(mode), 0)
