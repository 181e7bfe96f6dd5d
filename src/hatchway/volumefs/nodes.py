"""The inode table: which object of the volume a FUSE node id means, and under which names it was seen.

No descriptor per node: listing 30,000 entries makes 30,000 live nodes. A node is (device, inode, type) and the
names that led to it, each as (id of the parent node, name); `finder` finds the object again by them. Ids are counted
up and never used twice, so a generation is not needed. No system call is made here.

The table lives on the event loop and is changed by one operation at a time.
"""

from __future__ import annotations

import errno
import gc
import os
from typing import TYPE_CHECKING

from hatchway.volumefs.fault import failure
from hatchway.volumefs.ownership import DIRECTORY, KIND_SHIFT

if TYPE_CHECKING:
    from hatchway.volumefs.handles import Handle

ROOT_ID = 1
"""FUSE_ROOT_ID (include/uapi/linux/fuse.h)."""

MAX_OTHER_NAMES = 16
"""Names remembered besides the latest. One that still holds is enough; a file may have 65,000."""


SHRINK_FROM = 10_000
"""Nodes below which a table that was larger once is not made smaller again."""


class Node:
    """One object of the volume the kernel knows, or is about to.

    `lookups` counts how often the kernel was told of it. `parent` and `name` are where it was seen last, `name` None
    when no name is known; `others` are further names of a file. `fd` is an O_PATH descriptor while `finder` holds
    one, else -1. `handles` are the open handles on it. While either exists the inode cannot be freed and its number
    not be used again.
    """

    __slots__ = ("fd", "handles", "id", "key", "kind", "lookups", "name", "others", "parent")

    fixed = False
    """Whether it is a FixedNode."""

    def __init__(self, node_id: int, key: int, kind: int, parent: int, name: bytes | None) -> None:
        self.id = node_id
        self.key = key
        self.kind = kind
        self.parent = parent
        self.name = name
        self.others: set[tuple[int, bytes]] | None = None
        self.lookups = 0
        self.fd = -1
        self.handles: list[Handle] | None = None

    @property
    def pinned(self) -> bool:
        """Whether we hold the inode itself, not only a name for it."""
        return self.fd >= 0 or bool(self.handles)

    def is_at(self, st: os.stat_result) -> bool:
        """Whether `st` is of this object."""
        return key_of(st) == self.key and st.st_mode >> KIND_SHIFT == self.kind

    def names(self) -> list[tuple[int, bytes]]:
        """(parent id, name) of every name known, the latest first."""
        if self.name is None:
            return []
        latest = (self.parent, self.name)
        return [latest, *self.others] if self.others else [latest]

    def add_name(self, parent: int, name: bytes) -> None:
        """It was seen as `name` in the directory node `parent`. A directory has one name only: the latest."""
        if self.name == name and self.parent == parent:
            return
        if self.name is not None and self.kind != DIRECTORY:
            if self.others is None:
                self.others = set()
            self.others.discard((parent, name))
            if len(self.others) == MAX_OTHER_NAMES:
                self.others.pop()
            self.others.add((self.parent, self.name))
        self.parent = parent
        self.name = name

    def drop_name(self, parent: int, name: bytes) -> None:
        """It is no longer `name` in `parent`."""
        if self.name == name and self.parent == parent:
            if self.others:
                self.parent, self.name = self.others.pop()
            else:
                self.parent, self.name = 0, None
        elif self.others:
            self.others.discard((parent, name))


class FixedNode(Node):
    """A directory that stays where it is, whatever is on disk: see `fixed`. `key` is what its name led to last.

    `is_place`: another volume stands here.
    """

    __slots__ = ("is_place",)

    fixed = True

    def __init__(self, node_id: int, parent: int, name: bytes) -> None:
        super().__init__(node_id, 0, DIRECTORY, parent, name)
        self.is_place = False


def key_of(st: os.stat_result) -> int:
    """Device and inode number as one number: half the memory of a pair."""
    return st.st_dev << 64 | st.st_ino


class NodeTable:
    """Nodes by id and by what they are. `root` is the volume's root directory, which is never forgotten."""

    def __init__(self, root: os.stat_result) -> None:
        self.root = Node(ROOT_ID, key_of(root), root.st_mode >> KIND_SHIFT, 0, None)
        self._by_id = {ROOT_ID: self.root}
        self._by_key = {self.root.key: self.root}
        self._next_id = ROOT_ID + 1
        self._most = 0  # nodes there were at once, 0 while the tables are small

    def __len__(self) -> int:
        return len(self._by_id)

    def get(self, node_id: int) -> Node:
        """The node of that id. Raises OSError ESTALE when there is none."""
        try:
            return self._by_id[node_id]
        except KeyError:
            raise failure(errno.ESTALE) from None

    def peek(self, node_id: int) -> Node | None:
        """The node of that id, if there is one."""
        return self._by_id.get(node_id)

    def known(self, st: os.stat_result) -> Node | None:
        """The node of the object `st` is of, if there is one."""
        node = self._by_key.get(key_of(st))
        return node if node is not None and node.kind == st.st_mode >> KIND_SHIFT else None

    def path(self, node: Node, longest: int) -> bytes:
        """Where it was seen last, below the root: its last `longest` bytes. Empty for the root, and without a name."""
        names: list[bytes] = []
        length = 0
        while node.name is not None and length <= longest:
            names.append(node.name)
            length += len(node.name) + 1
            above = self.peek(node.parent)
            if above is None:
                break
            node = above
        return b"/".join(reversed(names))[-longest:]

    def seen(self, parent: int, name: bytes, st: os.stat_result) -> Node:
        """The node of what was just found as `name` in `parent`, a new one if need be.

        An inode number is used again soon after a file is removed. So what turns up under a name it did not have is
        taken for the node known by that number only where that cannot be wrong: we hold the inode, or it has more
        names than one. Otherwise it gets a node of its own, and the old id leads nowhere (ESTALE, on which the kernel
        looks the path up again).
        """
        node = self._by_key.get(st.st_dev << 64 | st.st_ino)
        if node is not None and node.kind == st.st_mode >> KIND_SHIFT:
            if node.name == name and node.parent == parent:
                return node
            shared = st.st_nlink > 1 and node.kind != DIRECTORY
            if node.pinned or shared or (node.others and (parent, name) in node.others):
                node.add_name(parent, name)
                return node
        return self.made(parent, name, st)

    def made(self, parent: int, name: bytes, st: os.stat_result) -> Node:
        """A new node for what was just created as `name` in `parent`: whatever had that inode number is gone."""
        node = Node(self._next_id, key_of(st), st.st_mode >> KIND_SHIFT, parent, name)
        self._next_id += 1
        self._by_id[node.id] = node
        self._by_key[node.key] = node
        if len(self._by_id) > max(self._most, SHRINK_FROM):
            self._most = len(self._by_id)
        return node

    def fixed(self, parent: int, name: bytes) -> FixedNode:
        """A new fixed node called `name` in `parent`. Found by its id only, and never forgotten."""
        node = FixedNode(self._next_id, parent, name)
        self._next_id += 1
        self._by_id[node.id] = node
        return node

    def forget(self, node_id: int, count: int) -> Node | None:
        """The kernel gives up `count` look-ups. Returns the node if it is thereby gone from the table."""
        node = self._by_id.get(node_id)
        if node is None or node is self.root or node.fixed:
            return None
        node.lookups -= count
        return self.drop_unused(node)

    def drop_unused(self, node: Node) -> Node | None:
        """Take `node` out if the kernel does not know it. Returns it if it is gone."""
        if node.lookups > 0 or node is self.root or node.fixed:
            return None
        del self._by_id[node.id]
        if self._by_key.get(node.key) is node:
            del self._by_key[node.key]
        if self._most and len(self._by_id) * 8 < self._most:
            # A dictionary never gets smaller by itself. And Python keeps some freed objects of each type for later,
            # here and there in the memory of the nodes, which then cannot be given back. A full collection frees them
            # (Modules/gcmodule.c, clear_freelists): 100,000 nodes leave 10 MiB behind instead of up to 40.
            self._by_id = dict(self._by_id)
            self._by_key = dict(self._by_key)
            self._most = 0
            gc.collect()
        return node
