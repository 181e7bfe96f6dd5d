"""Which directory this is, for good: its inode number, and the time it was made or its generation.

Both together are never given to another directory of the same file system, however often the path is used again.
Sources: statx(2), stx_btime is there on ext4, xfs, btrfs and tmpfs; FS_IOC_GETVERSION (include/uapi/linux/fs.h).
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os

from hatchway.kernel.libc import LIBC, checked

_AT_EMPTY_PATH = 0x1000
_STATX_BTIME = 0x800
_STATX_INO = 0x100
_FS_IOC_GETVERSION = 0x80087601


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
    """The directory `fd` refers to: "inode:<number>:<seconds>.<nanoseconds>", or ":g<generation>" without a birth time.

    Raises OSError EOPNOTSUPP when its file system keeps neither: then it cannot be told from another one later.
    """
    found = _Statx()
    wanted = _STATX_BTIME | _STATX_INO
    checked(LIBC.statx(fd, b"", _AT_EMPTY_PATH, wanted, ctypes.byref(found)), "statx")
    if found.mask & _STATX_BTIME:
        return f"inode:{found.ino}:{found.btime.seconds}.{found.btime.nanoseconds:09d}"
    # ext4 with small inodes, for one. The generation is drawn anew each time an inode number is used again.
    directory = os.open(".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=fd)
    try:
        generation = bytearray(8)
        fcntl.ioctl(directory, _FS_IOC_GETVERSION, generation)
    except OSError as exc:
        raise OSError(errno.EOPNOTSUPP, "the file system keeps neither birth times nor generations") from exc
    finally:
        os.close(directory)
    return f"inode:{found.ino}:g{int.from_bytes(generation[:4], 'little')}"
