"""statx(2), as far as CPython does not wrap it (3.11): birth times, and whether something is the root of a mount."""

from __future__ import annotations

import ctypes
from typing import NamedTuple

from hatchway.kernel.libc import LIBC, checked

_AT_EMPTY_PATH = 0x1000
_STATX_BTIME = 0x800
_STATX_INO = 0x100
_ATTR_MOUNT_ROOT = 0x2000


class _Timestamp(ctypes.Structure):
    _fields_ = (("seconds", ctypes.c_int64), ("nanoseconds", ctypes.c_uint32), ("reserved", ctypes.c_int32))


class _Statx(ctypes.Structure):
    _fields_ = (
        ("mask", ctypes.c_uint32),
        ("blksize", ctypes.c_uint32),
        ("attributes", ctypes.c_uint64),
        ("nlink", ctypes.c_uint32),
        ("uid", ctypes.c_uint32),
        ("gid", ctypes.c_uint32),
        ("mode", ctypes.c_uint16),
        ("spare", ctypes.c_uint16),
        ("ino", ctypes.c_uint64),
        ("size", ctypes.c_uint64),
        ("blocks", ctypes.c_uint64),
        ("attributes_mask", ctypes.c_uint64),
        ("atime", _Timestamp),
        ("btime", _Timestamp),
        ("ctime", _Timestamp),
        ("mtime", _Timestamp),
        ("rest", ctypes.c_uint64 * 20),
    )


class Statx(NamedTuple):
    """What statx tells of a file. `born` are seconds and nanoseconds, None where the file system keeps no birth times.

    `mount_root`: it is the root of the mount it is looked at through.
    """

    inode: int
    born: tuple[int, int] | None
    mount_root: bool


def statx(fd: int) -> Statx:
    """Of what `fd`, O_PATH will do, refers to. Raises OSError."""
    found = _Statx()
    wanted = _STATX_BTIME | _STATX_INO
    checked(LIBC.statx(fd, b"", _AT_EMPTY_PATH, wanted, ctypes.byref(found)), "statx")
    born = (found.btime.seconds, found.btime.nanoseconds) if found.mask & _STATX_BTIME else None
    return Statx(found.ino, born, bool(found.attributes & _ATTR_MOUNT_ROOT))
