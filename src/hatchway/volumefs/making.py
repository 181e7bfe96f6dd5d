"""Making files, directories and symlinks: none is ever seen with a wrong owner, and what fails half way leaves nothing.

A file gets its name last. Where that cannot be (a directory, a symlink, a file system without O_TMPFILE) it is unusable
until it has its owner, and it is checked that what has the name then is what was made: the container may have put
something else there.

The caller has checked the name and may use the directory. Errors are OSError.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable
from contextlib import AbstractContextManager

from hatchway.kernel import files
from hatchway.volumefs.fault import failure
from hatchway.volumefs.ownership import DIRECTORY, KIND_SHIFT, SYMLINK, Owner

O_OPEN = os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY
"""With what everything is opened that is not only looked at: no open may wait for somebody."""

_O_LOOK = os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC
NO_TMPFILE = frozenset({errno.EOPNOTSUPP, errno.EISDIR, errno.EINVAL, errno.ENOSYS, errno.EPERM})
"""What file systems without O_TMPFILE say. EPERM: ext4, in a removed directory, where O_CREAT says ENOENT."""


class Maker:
    """For one volume. `proc_fd_dir` and `keep_sgid` as of `VolumeTree`."""

    def __init__(self, proc_fd_dir: int, keep_sgid: Callable[[], AbstractContextManager[None]]) -> None:
        self._proc_fd_dir = proc_fd_dir
        self._keep_sgid = keep_sgid
        self._our_uid = os.geteuid()
        self._tmpfile_works = True

    def directory(self, parent: int, name: bytes, bits: Callable[[int], int], owner: Owner) -> os.stat_result:
        """A directory `name` in `parent`. `bits` gives its mode from the one it has when it is made: sgid inherited."""
        os.mkdir(name, 0, dir_fd=parent)
        try:
            fd = os.open(name, _O_LOOK, dir_fd=parent)
            try:
                made = os.fstat(fd)
                self._check_ours(made, DIRECTORY, owner)
                # Without owners (vfat) ours cannot be told from another: but no other is opened up that holds anything.
                if made.st_uid != self._our_uid and not self._is_empty(fd):
                    raise failure(errno.ESTALE)
                give(fd, owner)
                self.chmod(fd, bits(made.st_mode), made.st_mode)
                return os.fstat(fd)
            finally:
                os.close(fd)
        except BaseException:
            _undo(os.rmdir, name, parent)
            raise

    def symlink(self, parent: int, name: bytes, target: bytes, owner: Owner) -> os.stat_result:
        """A symlink `name` in `parent`."""
        os.symlink(target, name, dir_fd=parent)
        return self._owned(parent, name, SYMLINK, owner)

    def node(self, parent: int, name: bytes, kind: int, bits: int, owner: Owner) -> os.stat_result:
        """A FIFO or a socket (`kind`) `name` in `parent`, of mode `bits`."""
        os.mknod(name, kind << KIND_SHIFT, dir_fd=parent)
        return self._owned(parent, name, kind, owner, bits)

    def file(self, parent: int, name: bytes, bits: int, flags: int, owner: Owner) -> tuple[int, os.stat_result]:
        """A regular file `name` in `parent`, of mode `bits`, opened for writing with `flags`. A descriptor, and it."""
        if self._tmpfile_works:
            try:
                fd = os.open(b".", flags | os.O_TMPFILE | O_OPEN, bits, dir_fd=parent)
            except OSError as exc:
                if exc.errno not in NO_TMPFILE:
                    raise
            else:
                try:
                    give(fd, owner)
                    files.link(self._proc_fd_dir, fd, parent, name)
                    return fd, os.fstat(fd)
                except BaseException:
                    os.close(fd)
                    raise
        fd = os.open(name, flags | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | O_OPEN, 0, dir_fd=parent)
        self._tmpfile_works = False
        try:
            give(fd, owner)
            self.chmod(fd, bits)
            return fd, os.fstat(fd)
        except BaseException:
            os.close(fd)
            _undo(os.unlink, name, parent)
            raise

    def chmod(self, fd: int, bits: int, current: int = 0) -> None:
        """Set the mode of what `fd` refers to (not a symlink); `current` is what a directory has.

        Without CAP_FSETID the kernel would clear sgid: we are in no group (chmod(2)).
        """
        if current & stat.S_ISGID:
            with self._keep_sgid():
                files.chmod(self._proc_fd_dir, fd, bits)
        else:
            files.chmod(self._proc_fd_dir, fd, bits)

    def _owned(self, parent: int, name: bytes, kind: int, owner: Owner, bits: int | None = None) -> os.stat_result:
        try:
            fd = os.open(name, _O_LOOK, dir_fd=parent)
            try:
                self._check_ours(os.fstat(fd), kind, owner)
                give(fd, owner)
                if bits is not None:
                    self.chmod(fd, bits)
                return os.fstat(fd)
            finally:
                os.close(fd)
        except BaseException:
            _undo(os.unlink, name, parent)
            raise

    def _check_ours(self, st: os.stat_result, kind: int, owner: Owner) -> None:
        """Raise ESTALE unless `st` is what we have just made by name.

        The container may have put something else there: giving that away would let its users take each other's
        files. No other process has this one's uid.
        """
        if st.st_mode >> KIND_SHIFT != kind or st.st_uid not in (self._our_uid, owner.uid):
            raise failure(errno.ESTALE)

    def _is_empty(self, path: int) -> bool:
        fd = files.reopen(self._proc_fd_dir, path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            return files.DirectoryReader(fd).read() is None
        finally:
            os.close(fd)


def give(fd: int, owner: Owner) -> None:
    """Make what `fd` refers to belong to `owner`, where the file system has owners. Raises OSError."""
    try:
        files.chown(fd, owner.uid, owner.gid)
    except OSError:
        # File systems without owners (vfat, some network ones) refuse, and need no change either.
        st = os.fstat(fd)
        if (st.st_uid, st.st_gid) != owner:
            raise


def _undo(remove: Callable[..., None], name: bytes, directory: int) -> None:
    try:
        remove(name, dir_fd=directory)
    except OSError:
        pass  # what was made is no longer there, or something else is
