"""From what went wrong to the number a client may hear. No FUSE here, no state.

sftp-server tells few errors apart (ENOENT, ENOTDIR, EBADF, ELOOP; EPERM, EACCES, EFAULT; ENAMETOOLONG, EINVAL;
ENOSYS) and calls everything else "Failure". The kernel gives some numbers a meaning of its own: ESTALE makes it look
the path up once more, and ENOSYS makes it never ask again for that operation, on the whole mount.
"""

from __future__ import annotations

import errno
import os

_TRANSLATION = {
    # A read-only grant or file system: EACCES is what sftp-server passes on as "Permission denied".
    errno.EROFS: errno.EACCES,
    # A lease the container holds (fcntl(2), F_SETLEASE) that was not given up in time.
    errno.EAGAIN: errno.EBUSY,
    # Ours are used up, not the client's.
    errno.EMFILE: errno.ENFILE,
    # The kernel would switch the operation off for good.
    errno.ENOSYS: errno.EOPNOTSUPP,
    # These mean a dead mount when they come from FUSE; here they come from what lies beneath (NFS, FUSE).
    errno.ENOTCONN: errno.EIO,
    errno.ECONNABORTED: errno.EIO,
}

_LARGEST = 511
"""fuse_dev_do_write() refuses an answer with a larger number, and its client then waits for ever (fs/fuse/dev.c)."""


class LimitError(OSError):
    """EDQUOT: a limit of the volume leaves no room. `reason` is for the operator's log."""

    def __init__(self, reason: str) -> None:
        super().__init__(errno.EDQUOT, os.strerror(errno.EDQUOT))
        self.reason = reason


class StillCountingError(BlockingIOError):
    """EAGAIN: to be tried again until it becomes another error, or none."""


def failure(number: int) -> OSError:
    """An OSError as the kernel would raise it; `number` is an errno."""
    return OSError(number, os.strerror(number))


def again(error: OSError) -> OSError:
    """The same error once more, to be raised by itself."""
    return LimitError(error.reason) if isinstance(error, LimitError) else failure(error.errno or errno.EIO)


def client_errno(exc: OSError) -> int:
    """The errno a client is answered for `exc`: 1 to 511, EIO when `exc` has none."""
    number = exc.errno
    if number is None or not 0 < number <= _LARGEST:
        return errno.EIO
    return _TRANSLATION.get(number, number)
