"""Where a mounted volume is meant to differ from a directory of one's own, and why. docs/posix.md says it too.

The plain directory is made to do what the volume must do: so each method below is one difference.
"""

from __future__ import annotations

import errno
import fcntl
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import NoReturn

from tests.mount.actor import Operations

_KEEP_SIZE = 1


def _refuse(number: int) -> NoReturn:
    raise OSError(number, os.strerror(number))


class Squashed(Operations):
    """A plain directory, with the differences of the squash view, of FUSE and of pyfuse3."""

    # The squash view (hatchway.volumefs.ownership)

    def open(self, slot: int, path: bytes, flags: int, mode: int) -> None:
        """No suid, sgid or sticky bit on a file: it would be run by the container as whom it belongs to there.

        O_TMPFILE: pyfuse3 has no handler for it.
        """
        if flags & os.O_TMPFILE == os.O_TMPFILE and not flags & os.O_PATH:
            os.close(os.open(path, flags | os.O_CLOEXEC, mode))
            _refuse(errno.EOPNOTSUPP)
        super().open(slot, path, flags, mode & 0o777)

    def open_at(self, slot: int, directory: int, name: bytes, flags: int, mode: int) -> None:
        """The same."""
        super().open_at(slot, directory, name, flags, mode & 0o777)

    def chmod(self, path: bytes, mode: int) -> None:
        """The same; of a directory the sticky bit can be set, sgid is neither set nor cleared."""
        super().chmod(path, _bits(os.stat(path).st_mode, mode))

    def fchmod(self, slot: int, mode: int) -> None:
        """The same."""
        super().fchmod(slot, _bits(os.fstat(self._fd(slot)).st_mode, mode))

    def chmod_by_link(self, slot: int, mode: int) -> None:
        """The same."""
        super().chmod_by_link(slot, _bits(os.fstat(self._fd(slot)).st_mode, mode))

    def mknod(self, path: bytes, mode: int) -> None:
        """Only regular files are made: a FIFO or socket would be a way to talk to the container's processes."""
        if stat.S_ISREG(mode):
            super().mknod(path, mode & ~0o7000)
            return
        with _nothing_changed(os.path.dirname(path.rstrip(b"/")) or b"."):
            super().mknod(path, stat.S_IFREG)
            os.unlink(path)
        _refuse(errno.EPERM)

    def setxattr(self, path: bytes, name: str, value: bytes) -> None:
        """No extended attributes: with them the kernel would ask for one before every write."""
        super().setxattr(path, name, value)
        os.removexattr(path, name)
        _refuse(errno.EOPNOTSUPP)

    # The worker

    def _hold(self, slot: int, fd: int) -> None:
        """A removed directory is not opened: had the container put another in its place, it must not look empty."""
        if not fcntl.fcntl(fd, fcntl.F_GETFL) & os.O_PATH and _is_removed(fd):
            os.close(fd)
            _refuse(errno.ENOENT)
        super()._hold(slot, fd)

    def listdir(self, path: bytes) -> list[bytes]:
        """The same."""
        names = super().listdir(path)
        return _refuse(errno.ENOENT) if _is_removed(path) else names

    def seek_listing(self, path: bytes, where: int) -> list[bytes]:
        """The same."""
        names = super().seek_listing(path, where)
        return _refuse(errno.ENOENT) if _is_removed(path) else names

    # The mount

    def access(self, path: bytes, mode: int) -> bool:
        """Nothing is executed from a volume: it is mounted noexec."""
        allowed = super().access(path, mode)
        return allowed and not (mode & os.X_OK and stat.S_ISREG(os.stat(path).st_mode))

    # pyfuse3, which passes neither lseek nor fallocate on

    def lseek(self, slot: int, offset: int, whence: int) -> int:
        """Holes cannot be found: the whole file is data, as lseek(2) allows."""
        st = os.fstat(self._fd(slot))
        if whence not in (os.SEEK_DATA, os.SEEK_HOLE) or stat.S_ISDIR(st.st_mode):
            return super().lseek(slot, offset, whence)
        size = st.st_size
        os.lseek(self._fd(slot), 0, os.SEEK_CUR)
        if not 0 <= offset < size:
            _refuse(errno.ENXIO)
        return os.lseek(self._fd(slot), offset if whence == os.SEEK_DATA else size, os.SEEK_SET)

    def fallocate(self, slot: int, mode: int, offset: int, length: int) -> None:
        """No room can be reserved, no hole punched."""
        with _nothing_changed(self._fd(slot)):
            super().fallocate(slot, _KEEP_SIZE, offset, length)
        _refuse(errno.EOPNOTSUPP)

    # FUSE with direct_io: contents are never cached, so what the container writes is seen at once

    def read(self, slot: int, size: int) -> bytes:
        """Reading no bytes is no access (read(3p)): nothing is asked of the worker. tmpfs notes one, ext4 does not."""
        with _nothing_changed(self._fd(slot)) if size == 0 else nullcontext():
            return super().read(slot, size)

    def pread(self, slot: int, size: int, offset: int) -> bytes:
        """The same."""
        with _nothing_changed(self._fd(slot)) if size == 0 else nullcontext():
            return super().pread(slot, size, offset)

    def mapped(self, slot: int, shared: bool) -> bytes:
        """No shared mapping: it could not be kept equal to what is on disk."""
        if not shared:
            return super().mapped(slot, False)
        with _nothing_changed(self._fd(slot)):
            super().mapped(slot, False)
        _refuse(errno.ENODEV)


def _bits(current: int, wanted: int) -> int:
    return wanted & 0o777 if not stat.S_ISDIR(current) else wanted & 0o1777 | current & stat.S_ISGID


def _is_removed(what: bytes | int) -> bool:
    st = os.stat(what)
    return stat.S_ISDIR(st.st_mode) and st.st_nlink == 0


@contextmanager
def _nothing_changed(what: bytes | int) -> Iterator[None]:
    """The times of `what` are afterwards as before. An error within is let through, for it has changed nothing."""
    try:
        before = os.stat(what)
    except OSError:
        yield  # what is to be done will say so in its own way
        return
    yield
    os.utime(what, ns=(before.st_atime_ns, before.st_mtime_ns))
