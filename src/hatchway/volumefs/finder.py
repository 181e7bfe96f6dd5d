"""Finding a node's object again: by a descriptor we hold, else by its names, each checked by (device, inode, type).

Nothing found is trusted before that check, so a directory swapped for another, for a symlink or for a FIFO is never
taken for what it was. What cannot be found is ESTALE: the kernel then looks the path up once more. No symlink is ever
followed: O_NOFOLLOW here, and NOSYMFOLLOW on the mount. Nothing but O_PATH is opened, which wakes nobody.

Descriptors of directories in use are kept, the latest `capacity` of them. One returned by `directory` is borrowed: it
stays open during the next `capacity` - 1 calls, which is more than an operation makes, and must not be kept longer.
"""

from __future__ import annotations

import errno
import os
from collections import OrderedDict

from hatchway.volumefs.fault import failure
from hatchway.volumefs.nodes import FixedNode, Node, NodeTable, key_of
from hatchway.volumefs.ownership import DIRECTORY

MIN_CAPACITY = 64

_O_FIND = os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC
# What open(2) and stat(2) say when a name does not lead to where it led: gone, or swapped for something else.
_MOVED = frozenset({errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.ESTALE})


class Finder:
    """Finds what `nodes` knows. Borrows `root_fd`; owns the directory descriptors it keeps."""

    def __init__(self, nodes: NodeTable, root_fd: int, capacity: int) -> None:
        self._nodes = nodes
        self._root = nodes.root
        self._root.fd = root_fd
        self._capacity = max(capacity, MIN_CAPACITY)
        self._kept: OrderedDict[int, Node] = OrderedDict()

    def directory(self, node: Node) -> int:
        """A borrowed descriptor of the directory `node`, good as `dir_fd`. Raises OSError ENOTDIR, ESTALE.

        Of a fixed one: ENOENT when it is not on disk, EACCES for another volume's place.
        """
        if node.fixed:
            return self._fixed_directory(node)
        if node.fd >= 0:
            if node is not self._root:
                self._kept.move_to_end(node.id)
            return node.fd
        if node.kind != DIRECTORY:
            raise failure(errno.ENOTDIR)
        if node.handles:
            return node.handles[-1].fd
        return self._keep(node, self._walk_to(node))

    def _keep(self, node: Node, fd: int) -> int:
        if len(self._kept) == self._capacity:
            self._let_go(self._kept.popitem(last=False)[1])
        node.fd = fd
        self._kept[node.id] = node
        return fd

    def _fixed_directory(self, node: Node) -> int:
        # It is whatever directory has its name now; what was kept may have been moved away.
        assert isinstance(node, FixedNode)
        assert node.name is not None
        if node.is_place:
            raise failure(errno.EACCES)
        above = self.directory(self._nodes.get(node.parent))
        try:
            st = os.stat(node.name, dir_fd=above, follow_symlinks=False)
            if node.fd >= 0:
                if node.is_at(st):
                    self._kept.move_to_end(node.id)
                    return node.fd
                self.forgotten(node)
            fd = os.open(node.name, _O_FIND | os.O_DIRECTORY, dir_fd=above)
        except OSError as exc:
            raise failure(errno.ENOENT if exc.errno in _MOVED else exc.errno or errno.EIO) from None
        node.key = key_of(os.fstat(fd))
        return self._keep(node, fd)

    def stat(self, node: Node) -> os.stat_result:
        """Its attributes as they are now. Raises OSError ESTALE."""
        if node.fd >= 0:
            return os.fstat(node.fd)
        if node.handles:
            return os.fstat(node.handles[-1].fd)
        for parent_id, name in node.names():
            parent = self._nodes.peek(parent_id)
            if parent is not None:
                try:
                    st = os.stat(name, dir_fd=self.directory(parent), follow_symlinks=False)
                except OSError as exc:
                    if exc.errno not in _MOVED:
                        raise
                else:
                    if node.is_at(st):
                        return st
            node.drop_name(parent_id, name)
        raise failure(errno.ESTALE)

    def open(self, node: Node) -> int:
        """A new O_PATH descriptor of `node`, the caller's to close. Raises OSError ESTALE.

        For a file that has no name any more but is open: a copy of a handle's descriptor.
        """
        for parent_id, name in node.names():
            parent = self._nodes.peek(parent_id)
            if parent is not None:
                try:
                    fd = os.open(name, _O_FIND, dir_fd=self.directory(parent))
                except OSError as exc:
                    if exc.errno not in _MOVED:
                        raise
                else:
                    if node.is_at(os.fstat(fd)):
                        return fd
                    os.close(fd)
            node.drop_name(parent_id, name)
        if node.fd >= 0:
            return os.dup(node.fd)
        if node.handles:
            return os.dup(node.handles[-1].fd)
        raise failure(errno.ESTALE)

    def forgotten(self, node: Node) -> None:
        """`node` has left the table: close what is kept for it."""
        if node.fd >= 0 and node is not self._root:
            del self._kept[node.id]
            self._let_go(node)

    def close(self) -> None:
        """Close every descriptor kept. The root's stays open: it is borrowed."""
        for node in self._kept.values():
            self._let_go(node)
        self._kept.clear()

    def _let_go(self, node: Node) -> None:
        fd, node.fd = node.fd, -1
        os.close(fd)

    def _walk_to(self, node: Node) -> int:
        # Up to a directory we hold, then down again, name by name. In a loop, not by recursion: a tree may be deeper
        # than Python's stack. Directories moved underneath can make parents that lead in a circle.
        chain = [node]
        passed = {node.id}
        while True:
            above = self._nodes.peek(chain[-1].parent)
            if above is None or above.id in passed:
                raise failure(errno.ESTALE)
            if above.fixed or above.fd >= 0:
                break
            chain.append(above)
            passed.add(above.id)
        fd, borrowed = self._fixed_directory(above) if above.fixed else above.fd, True
        for below in reversed(chain):
            fd, borrowed = self._step(fd, borrowed, below), False
        return fd

    def _step(self, fd: int, borrowed: bool, below: Node) -> int:
        try:
            if below.name is None:
                raise failure(errno.ESTALE)
            try:
                found = os.open(below.name, _O_FIND | os.O_DIRECTORY, dir_fd=fd)
            except OSError as exc:
                if exc.errno in _MOVED:
                    raise failure(errno.ESTALE) from None
                raise
        finally:
            if not borrowed:
                os.close(fd)
        if below.is_at(os.fstat(found)):
            return found
        os.close(found)
        raise failure(errno.ESTALE)
