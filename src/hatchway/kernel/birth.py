"""Which directory this is, for good: its inode number, and the time it was made or its generation.

Both together are never given to another directory of the same file system, however often the path is used again.
Sources: statx(2), stx_btime is there on ext4, xfs, btrfs and tmpfs; FS_IOC_GETVERSION (include/uapi/linux/fs.h).
"""

from __future__ import annotations

import errno
import fcntl
import os

from hatchway.kernel.statx import statx

_FS_IOC_GETVERSION = 0x80087601


def birth_of(fd: int) -> str:
    """The directory `fd` refers to: "inode:<number>:<seconds>.<nanoseconds>", or ":g<generation>" without a birth time.

    Raises OSError EOPNOTSUPP when its file system keeps neither: then it cannot be told from another one later.
    """
    found = statx(fd)
    if found.born is not None:
        seconds, nanoseconds = found.born
        return f"inode:{found.inode}:{seconds}.{nanoseconds:09d}"
    # ext4 with small inodes, for one. The generation is drawn anew each time an inode number is used again.
    directory = os.open(".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=fd)
    try:
        generation = bytearray(8)
        fcntl.ioctl(directory, _FS_IOC_GETVERSION, generation)
    except OSError as exc:
        raise OSError(errno.EOPNOTSUPP, "the file system keeps neither birth times nor generations") from exc
    finally:
        os.close(directory)
    return f"inode:{found.inode}:g{int.from_bytes(generation[:4], 'little')}"
