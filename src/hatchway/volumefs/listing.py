"""Reading directories: what is on disk, then the places of other volumes.

Every entry shown is one the kernel then knows (READDIRPLUS), and counts as looked up. Errors are OSError.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable

from hatchway.kernel import files
from hatchway.volumefs.fault import failure
from hatchway.volumefs.finder import Finder
from hatchway.volumefs.fixed import FIRST_OFFSET, FixedDirectories, NothingToRead
from hatchway.volumefs.handles import Handle, HandleTable
from hatchway.volumefs.nodes import FixedNode, Node, NodeTable
from hatchway.volumefs.ownership import KIND_SHIFT, REGULAR

Show = Callable[[bytes, Node, os.stat_result, int], bool]
"""Takes a name, what it is, its attributes and the offset after it. False: no room for it, and no more is wanted."""

_O_LIST = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC


class Lister:
    """For one volume. Borrows `root_fd`. `fixed_stat` gives the attributes of a fixed node."""

    def __init__(
        self,
        nodes: NodeTable,
        finder: Finder,
        handles: HandleTable,
        fixed: FixedDirectories,
        fixed_stat: Callable[[FixedNode], os.stat_result],
        root_fd: int,
    ) -> None:
        self._nodes = nodes
        self._finder = finder
        self._handles = handles
        self._fixed = fixed
        self._fixed_stat = fixed_stat
        self._root_fd = root_fd

    def open(self, node: Node) -> int:
        """A handle's number. Raises OSError ENOTDIR; what reading it raises, as far as that can be known now."""
        try:
            fd = os.open(b".", _O_LIST, dir_fd=self._finder.directory(node))
        except FileNotFoundError:
            if not node.fixed:
                raise
            return self._handles.add(os.dup(self._root_fd), node, NothingToRead())
        reader = files.DirectoryReader(fd)
        try:
            reader.check()
        except BaseException:
            os.close(fd)
            raise
        return self._handles.add(fd, node, reader)

    def read(self, opened: Handle, offset: int, show: Show) -> None:
        """Give entries from `offset` on to `show`. Raises OSError ENOTDIR, or what reading the directory raises.

        Entries that vanish meanwhile are left out; one that cannot be looked at is shown without permissions rather
        than spoiling the listing.
        """
        reader = opened.reader
        if reader is None:
            raise failure(errno.ENOTDIR)
        fd, parent_id = opened.fd, opened.node.id
        fixed = {node.name for node in self._fixed.among(parent_id)} if self._fixed else ()
        listed = bool(fixed) and offset >= FIRST_OFFSET
        if not listed:
            reader.seek(offset)
        while not listed and (found := self._next_of(opened.node, reader)) is not None:
            name = found.name
            if name in fixed:
                continue
            try:
                st = os.stat(name, dir_fd=fd, follow_symlinks=False)
            except FileNotFoundError:
                continue
            except OSError:
                st = _unknowable(found, opened.node)
            node = self._nodes.seen(parent_id, name, st)
            # Where the fixed ones begin is the end of what is on disk, whatever the file system calls its own.
            after = min(found.offset, FIRST_OFFSET) if fixed else found.offset
            if not show(name, node, st, after):
                reader.unread()
                if self._nodes.drop_unused(node) is not None:
                    self._finder.forgotten(node)
                return
            node.lookups += 1
        if fixed:
            self._read_fixed(parent_id, max(0, offset - FIRST_OFFSET), show)

    def _next_of(self, node: Node, reader: files.DirectoryReader | NothingToRead) -> files.DirectoryEntry | None:
        try:
            return reader.read()
        except FileNotFoundError:
            # It was removed meanwhile (fs/readdir.c, iterate_dir), for which it had to be empty. Of a volume's root
            # nobody should think so.
            if node is self._nodes.root:
                raise
            return None

    def _read_fixed(self, parent_id: int, start: int, show: Show) -> None:
        for number, node in enumerate(self._fixed.among(parent_id)[start:], start + 1):
            assert node.name is not None
            if not show(node.name, node, self._fixed_stat(node), FIRST_OFFSET + number):
                return


def _unknowable(found: files.DirectoryEntry, parent: Node) -> os.stat_result:
    kind = found.kind or REGULAR
    fields = (kind << KIND_SHIFT, found.inode, parent.key >> 64, 1, 0, 0, 0, 0, 0, 0)
    nanoseconds = {"st_atime_ns": 0, "st_mtime_ns": 0, "st_ctime_ns": 0}
    return os.stat_result(fields, {**nanoseconds, "st_blksize": 4096, "st_blocks": 0, "st_rdev": 0})
