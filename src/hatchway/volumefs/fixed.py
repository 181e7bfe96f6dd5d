"""Places of other volumes in this one: directories of our own that nothing in the volume can move, hide or replace.

Another volume's file system is mounted on such a place. The kernel takes a mount away when the directory beneath it
turns out to be another one (fs/fuse/dir.c, fuse_dentry_revalidate; fs/namespace.c, detach_mounts), so each directory
on the way there is fixed: always the same node, whatever the container does on disk. Where the disk has a directory of
that name, its contents are shown in a fixed directory; a symlink or a file of that name is not shown at all. The place
itself shows nothing: what is seen there is the other volume, and while that is not mounted there is an error, never an
empty directory.
"""

from __future__ import annotations

import os
import stat
import time
from collections.abc import Iterable

from hatchway.volumefs.nodes import FixedNode, NodeTable
from hatchway.volumefs.ownership import DIRECTORY, KIND_SHIFT

FIRST_OFFSET = 0x7FFF_FFFF_FFFF_F000
"""Where fixed entries begin in a listing, and what is on disk ends: a file system's last cookie, which may be larger
(2^63 - 1 on ext4), is told as this one."""


class FixedDirectories:
    """The fixed nodes beneath a volume's root. `places` are paths relative to it, without "." and "..".

    Adds them to `nodes`. Read-only after that.
    """

    def __init__(self, nodes: NodeTable, places: Iterable[bytes]) -> None:
        self._by_name: dict[tuple[int, bytes], FixedNode] = {}
        self._children: dict[int, list[FixedNode]] = {}
        now = time.time_ns()
        # What is shown of one that is not on disk.
        self._stat = os.stat_result(
            (DIRECTORY << KIND_SHIFT | stat.S_IRWXU | 0o055, 0, 0, 2, 0, 0, 4096, 0, 0, 0),
            {"st_atime_ns": now, "st_mtime_ns": now, "st_ctime_ns": now,
             "st_blksize": 4096, "st_blocks": 0, "st_rdev": 0},
        )  # fmt: skip
        for place in places:
            above = nodes.root.id
            *way, last = place.split(b"/")
            for name in way:
                above = self._add(nodes, above, name, is_place=False)
            self._add(nodes, above, last, is_place=True)

    def _add(self, nodes: NodeTable, parent: int, name: bytes, *, is_place: bool) -> int:
        node = self._by_name.get((parent, name))
        if node is None:
            node = self._by_name[parent, name] = nodes.fixed(parent, name)
            self._children.setdefault(parent, []).append(node)
        node.is_place = node.is_place or is_place
        return node.id

    def __bool__(self) -> bool:
        return bool(self._by_name)

    def get(self, parent: int, name: bytes) -> FixedNode | None:
        """The fixed node called `name` in the directory node `parent`."""
        return self._by_name.get((parent, name))

    def among(self, parent: int) -> list[FixedNode]:
        """The fixed nodes in the directory node `parent`, always in the same order."""
        return self._children.get(parent, [])

    def stat(self) -> os.stat_result:
        """Attributes of a fixed directory that is not on disk."""
        return self._stat


class NothingToRead:
    """In place of a directory's reader where the disk has no directory."""

    offset = 0

    def seek(self, offset: int) -> None:
        """Any offset is the end."""

    def read(self) -> None:
        """There is no entry."""
        return

    def unread(self) -> None:
        """There was none."""
