"""Which directory this is, for good: its inode number and the time it was made.

Both together are never given to another directory of the same file system, however often the path is used again.
Source: statx(2); stx_btime is there on ext4, xfs, btrfs and tmpfs.
"""

from __future__ import annotations

import ctypes
import os

from hatchway.kernel.libc import LIBC, checked

_AT_EMPTY_PATH = 0x1000
_STATX_BTIME = 0x800
_STATX_INO = 0x100


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


def birth_of(fd: int) -> str:
    """The directory `fd` refers to, as "inode:<number>:<seconds>.<nanoseconds>"; the time is 0.0 where none is kept."""
    found = _Statx()
    wanted = _STATX_BTIME | _STATX_INO
    checked(LIBC.statx(fd, b"", _AT_EMPTY_PATH, wanted, ctypes.byref(found)), "statx")
    if not found.mask & _STATX_BTIME:
        return f"inode:{os.fstat(fd).st_ino}:0.0"
    return f"inode:{found.ino}:{found.btime.seconds}.{found.btime.nanoseconds:09d}"
