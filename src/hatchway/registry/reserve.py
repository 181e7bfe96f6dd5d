"""Room on the disk that is kept for taking access away.

Who can fill the file system the registry is on must not be able to keep an operator from locking a login: nothing can
be stored there then. So room is kept that nobody else can have, in two places:

- in SQLite's -wal, which is made as long as it ever gets. Every change is written there, again and again from its
  beginning; as long as the database itself need not grow, that needs no other room.
- in a file of its own, which is made smaller when a write meets a full disk all the same. Not all at once: whoever
  fills the disk may be quicker than the write it was given up for.

What may be stored with that room is told where it is stored (`store.storing`): everything that takes access away has
all of it, logins half of the file, and what can wait (the record) none. The latter is not stored either while there is
little room, or the file is not whole: else it would take what must be stored its room in the -wal. Blocks: call it
where the registry is called.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3

from sqlalchemy.exc import DBAPIError

from hatchway.config import RESERVE_SIZE, RESERVE_SUFFIX
from hatchway.errors import HostError

STEP = 1 << 20
"""Bytes that are given up at once. A write takes some 50 kB, and the files SQLite makes when it opens a database 40."""

WAL_SIZE = 5 << 20
"""Bytes. The database is brought up to date from it after 1000 pages (SQLite's default), of 4 KiB and a header each."""

FOR_ACCESS = RESERVE_SIZE // 2
"""Bytes that logins leave for what takes access away."""

SPARE = RESERVE_SIZE
"""Bytes that must be free for what can wait, and besides what is needed when the reserve is made."""

_FULL = frozenset(
    {
        sqlite3.SQLITE_FULL,
        # What SQLite makes of ENOSPC and EDQUOT elsewhere than in a write to the database or its -wal: the disk decides
        # when it tells (a quota, or at fsync), and -shm and -wal are made anew by whoever opens it first.
        sqlite3.SQLITE_IOERR_WRITE,
        sqlite3.SQLITE_IOERR_FSYNC,
        sqlite3.SQLITE_IOERR_DIR_FSYNC,
        sqlite3.SQLITE_IOERR_SHMOPEN,
        sqlite3.SQLITE_IOERR_SHMSIZE,
        sqlite3.SQLITE_IOERR_SHMMAP,
        sqlite3.SQLITE_CANTOPEN,
    }
)


class NoRoomError(HostError):
    """It could not be stored: the registry's file system is full. Nothing has been changed."""


def is_full(error: BaseException | None) -> bool:
    """Whether `error` is one of the database's that a full file system may be the reason of."""
    orig = error.orig if isinstance(error, DBAPIError) else None
    return isinstance(orig, sqlite3.Error) and getattr(orig, "sqlite_errorcode", None) in _FULL


class Reserve:
    """The reserve for the registry in the file `registry`. Raises no error: what cannot be done is not done."""

    def __init__(self, registry: str) -> None:
        self._registry = registry
        self._path = f"{registry}{RESERVE_SUFFIX}"

    def has_room_for_more(self) -> bool:
        """Whether there is room for what can wait: plenty, and nothing is given up that cannot come back."""
        size = self._size()
        if size is not None and size < RESERVE_SIZE and not self.make():
            return False
        try:
            return _free(os.statvfs(self._registry)) >= SPARE
        except OSError:
            return False

    def make(self) -> bool:
        """Make it, or make it whole again, as far as there is room for it. Whether it is whole."""
        before = self._size()
        try:
            fd = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        except OSError:
            return False
        try:
            made = _fill(fd, before or 0, RESERVE_SIZE)
        except OSError:
            made = False
        if not made:
            with contextlib.suppress(OSError):
                os.unlink(self._path) if before is None else os.ftruncate(fd, before)
        os.close(fd)
        return made and self._lengthen_wal()

    def _lengthen_wal(self) -> bool:
        # SQLite has no lock on this file (they are on the database and -shm), and takes what it did not write itself
        # for no part of it (fileformat2.html, 4.2: a frame has the salts of the header).
        try:
            fd = os.open(f"{self._registry}-wal", os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)
        except OSError:
            return False
        try:
            return _fill(fd, os.fstat(fd).st_size, WAL_SIZE)
        except OSError:
            return False
        finally:
            os.close(fd)

    def give_up(self, leave: int) -> bool:
        """Give up some of it, as long as `leave` bytes are left. False when nothing was given up."""
        size = self._size()
        if size is None or size <= leave:
            return False
        try:
            fd = os.open(self._path, os.O_WRONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
        except OSError:
            return False
        try:
            os.ftruncate(fd, max(leave, size - STEP))
        except OSError:
            return False
        finally:
            os.close(fd)
        return True

    def _size(self) -> int | None:
        try:
            return os.lstat(self._path).st_size
        except OSError:
            return None


def _fill(fd: int, size: int, wanted: int) -> bool:
    """Have the file `fd` of `size` bytes hold `wanted`. False when there is not enough room. Raises OSError."""
    # In blocks: a copy of the state directory may have holes.
    missing = wanted - min(os.fstat(fd).st_blocks * 512, size)
    if missing <= 0:
        return True
    if _free(os.fstatvfs(fd)) < missing + SPARE:
        return False
    os.posix_fallocate(fd, 0, wanted)
    os.fsync(fd)
    return True


def _free(room: os.statvfs_result) -> int:
    """Bytes that are free for us."""
    return room.f_bavail * room.f_frsize
