"""Whose files they are: what a session is shown, and what is written to disk for it.

The squash view. A session sees everything as its own uid and gid, so it may manage everything; on disk existing
owners stay, and what is new belongs to whom the directory belongs. Modes are real, but suid and sgid cannot be set
on files, and what is no file, directory or symlink is shown without permissions. Pure functions of what they are
given, no I/O, no state that changes.
"""

from __future__ import annotations

import errno
import os
import stat
from typing import NamedTuple

from hatchway.volumefs.fault import failure

KIND_SHIFT = 12
"""st_mode >> KIND_SHIFT is a file's type as a small number, the same as DT_* of readdir(3)."""

DIRECTORY = stat.S_IFDIR >> KIND_SHIFT
REGULAR = stat.S_IFREG >> KIND_SHIFT
SYMLINK = stat.S_IFLNK >> KIND_SHIFT

_ORDINARY = frozenset({DIRECTORY, REGULAR, SYMLINK})
_FILE_BITS = 0o777
_DIRECTORY_BITS = 0o1777


class Owner(NamedTuple):
    """uid and gid on disk, as the host counts them."""

    uid: int
    gid: int


def is_special(kind: int) -> bool:
    """Whether `kind` is a FIFO, a socket or a device: listed, never opened."""
    return kind not in _ORDINARY


class SquashView:
    """Everything belongs to one user. `uid` and `gid` are those every file is shown with."""

    __slots__ = ("gid", "uid")

    def __init__(self, uid: int, gid: int) -> None:
        self.uid = uid
        self.gid = gid

    def mode(self, mode: int) -> int:
        """st_mode as the session sees it; `mode` is that on disk.

        A FIFO opened through FUSE would be one of the kernel's own and hang sftp-server. Without permission bits the
        kernel refuses the open itself (default_permissions).
        """
        if mode >> KIND_SHIFT in _ORDINARY:
            return mode
        return stat.S_IFMT(mode)

    def file_bits(self, wanted: int) -> int:
        """Permission bits a file gets when the session wants `wanted`: no suid, sgid or sticky bit.

        As chmod(2) does for somebody outside the file's group: silently.
        """
        return wanted & _FILE_BITS

    def directory_bits(self, wanted: int, current: int) -> int:
        """Permission bits a directory of mode `current` gets when the session wants `wanted`.

        sgid is neither set nor cleared: it is how the container shares the directory. The sticky bit can be set.
        """
        return wanted & _DIRECTORY_BITS | current & stat.S_ISGID

    def check_chown(self, uid: int | None, gid: int | None) -> None:
        """Accept a change of owner that changes nothing the session sees. Raises OSError EPERM for any other."""
        if (uid is not None and uid != self.uid) or (gid is not None and gid != self.gid):
            raise failure(errno.EPERM)

    def owner_of_new(self, parent: os.stat_result) -> Owner:
        """Whom something new belongs to in the directory `parent`."""
        return Owner(parent.st_uid, parent.st_gid)
