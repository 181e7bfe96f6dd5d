"""Where a directory is on its file system: the same for one that is mounted in two places, and what lies in it lies
below that.

Paths do not tell: a directory can be mounted anywhere (mount(8), --bind), and so can one that holds it.
"""

from __future__ import annotations

import functools
import os
import posixpath

from hatchway.kernel import mounts
from hatchway.model import below


class Whereabouts:
    """By the mounts there are when first asked. Used by several threads."""

    def of(self, directory: int) -> str:
        """Of the directory `directory`, a descriptor: "major:minor:/path" on its file system.

        "" when that cannot be told, since what it is in was mounted meanwhile, or is mounted nowhere. Raises OSError.
        """
        entry = self._table.get(mounts.mount_id(directory))
        path = os.readlink(f"/proc/self/fd/{directory}")
        if entry is None or not below(path, entry.target):
            return ""
        return f"{entry.device}:{posixpath.normpath(posixpath.join(entry.root, posixpath.relpath(path, entry.target)))}"

    @functools.cached_property
    def _table(self) -> dict[int, mounts.MountEntry]:
        return {entry.number: entry for entry in mounts.mount_table()}


def of_device(number: int, part: str) -> str:
    """As `Whereabouts.of`, of a directory on the block device `number` (st_rdev); `part` is relative to its root."""
    return f"{os.major(number)}:{os.minor(number)}:/{part}"
