"""Whose files they are: what a session is shown, and what is written to disk for it.

The squash view. A session sees everything as its own uid and gid, so it may manage everything; on disk existing
owners stay, and what is new belongs to whom the directory belongs, or to the owner the grant names. Modes are real, but
suid and sgid cannot be set on files, and what is no file, directory or symlink is shown without permissions.

The real view. Owners and modes are what they are on disk, and the kernel decides by them (default_permissions); suid
and sgid cannot be set even so.

Pure functions of what they are given, no I/O, no state that changes.
"""

# ruff: noqa: ARG002 - each view uses what it needs of what it is given

from __future__ import annotations

import abc
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
FIFO = stat.S_IFIFO >> KIND_SHIFT
SOCKET = stat.S_IFSOCK >> KIND_SHIFT

_ORDINARY = frozenset({DIRECTORY, REGULAR, SYMLINK})
_FILE_BITS = 0o777
_DIRECTORY_BITS = 0o1777


class Owner(NamedTuple):
    """uid and gid, as the host counts them."""

    uid: int
    gid: int


def is_special(kind: int) -> bool:
    """Whether `kind` is a FIFO, a socket or a device: listed, never opened."""
    return kind not in _ORDINARY


class View(abc.ABC):
    """What a session sees of owners and modes, and what becomes of those it asks for.

    `umask` are the permission bits taken from everything new. Modes are without the file's type.
    """

    makes: frozenset[int]
    """Kinds of files, besides directories and symlinks, that a session may make."""

    def __init__(self, umask: int) -> None:
        self.umask = umask

    @abc.abstractmethod
    def owner(self, st: os.stat_result) -> Owner:
        """Whom the session sees as the owner of what `st` is of."""

    @abc.abstractmethod
    def mode(self, mode: int) -> int:
        """st_mode as the session sees it; `mode` is that on disk."""

    def file_bits(self, wanted: int) -> int:
        """The mode anything but a directory gets when the session wants `wanted`.

        No suid, sgid or sticky bit: as chmod(2) does for somebody outside the file's group, silently.
        """
        return wanted & _FILE_BITS

    def directory_bits(self, wanted: int, current: int) -> int:
        """The mode a directory of mode `current` gets when the session wants `wanted`.

        sgid is neither set nor cleared: it is how the container shares the directory.
        """
        return wanted & _DIRECTORY_BITS | current & stat.S_ISGID

    @abc.abstractmethod
    def check_owner(self, st: os.stat_result, caller: Owner) -> None:
        """Raise OSError EPERM unless `caller` may change mode and owner of what `st` is of."""

    @abc.abstractmethod
    def chowned(self, uid: int | None, gid: int | None) -> tuple[int, int] | None:
        """What fchownat(2) is to be given when the session asks for `uid` and `gid`, None for nothing.

        Raises OSError EPERM.
        """

    @abc.abstractmethod
    def check_changes(self, kind: int) -> None:
        """Raise OSError EACCES when attributes of a file of that kind cannot be changed."""

    @abc.abstractmethod
    def check_opens(self, mode: int, needed: int) -> None:
        """Raise OSError unless the session may open a file of st_mode `mode`, on disk, that the kernel had not seen.

        `needed` are S_IRUSR, S_IWUSR or both. ESTALE has the kernel look again and decide itself.
        """

    @abc.abstractmethod
    def owner_of_new(self, parent: os.stat_result, caller: Owner) -> Owner:
        """Whom something that `caller` makes in the directory `parent` belongs to."""


class SquashView(View):
    """Everything belongs to the session. `uid` and `gid` are those every file is shown with.

    What is new belongs to `new`; None: to whom the directory belongs.
    """

    makes = frozenset({REGULAR})

    def __init__(self, uid: int, gid: int, *, new: Owner | None = None, umask: int = 0) -> None:
        super().__init__(umask)
        self._owner = Owner(uid, gid)
        self._new = new

    def owner(self, st: os.stat_result) -> Owner:
        """See View."""
        return self._owner

    def mode(self, mode: int) -> int:
        """See View.

        A FIFO opened through FUSE would be one of the kernel's own and hang sftp-server. Without permission bits the
        kernel refuses the open itself (default_permissions).
        """
        if mode >> KIND_SHIFT in _ORDINARY:
            return mode
        return stat.S_IFMT(mode)

    def check_owner(self, st: os.stat_result, caller: Owner) -> None:
        """See View. Everything is the session's."""

    def chowned(self, uid: int | None, gid: int | None) -> tuple[int, int] | None:
        """See View. A change that changes nothing the session sees is none."""
        if (uid is not None and uid != self._owner.uid) or (gid is not None and gid != self._owner.gid):
            raise failure(errno.EPERM)
        return None

    def check_changes(self, kind: int) -> None:
        """See View."""
        if is_special(kind):
            raise failure(errno.EACCES)

    def check_opens(self, mode: int, needed: int) -> None:
        """See View."""
        if mode & needed != needed:
            raise failure(errno.EACCES)

    def owner_of_new(self, parent: os.stat_result, caller: Owner) -> Owner:
        """See View. In a directory with sgid the group is the directory's (mkdir(2), open(2))."""
        if self._new is None:
            return Owner(parent.st_uid, parent.st_gid)
        return Owner(self._new.uid, parent.st_gid) if parent.st_mode & stat.S_ISGID else self._new


class RealView(View):
    """Everything is as it is on disk."""

    makes = frozenset({REGULAR, FIFO, SOCKET})

    def owner(self, st: os.stat_result) -> Owner:
        """See View."""
        return Owner(st.st_uid, st.st_gid)

    def mode(self, mode: int) -> int:
        """See View."""
        return mode

    def check_owner(self, st: os.stat_result, caller: Owner) -> None:
        """See View. The kernel has decided by what it believed of the owner, which may be long past (fuse_setattr)."""
        if caller.uid not in (0, st.st_uid):
            raise failure(errno.EPERM)

    def chowned(self, uid: int | None, gid: int | None) -> tuple[int, int] | None:
        """See View. Whether it may, the kernel has decided."""
        if uid is None and gid is None:
            return None
        return -1 if uid is None else uid, -1 if gid is None else gid

    def check_changes(self, kind: int) -> None:
        """See View. All can be."""

    def check_opens(self, mode: int, needed: int) -> None:
        """See View."""
        raise failure(errno.ESTALE)

    def owner_of_new(self, parent: os.stat_result, caller: Owner) -> Owner:
        """See View. As open(2) has it."""
        return Owner(caller.uid, parent.st_gid) if parent.st_mode & stat.S_ISGID else caller
