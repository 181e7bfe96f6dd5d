"""Putting the instance's private key into a volume as the file id_container, and taking it out again.

What is there and is not ours stays: ours is what has the SHA-256 of a key that the instance has or had. The file
appears whole, with its owner and mode. Another is put in its place by an exchange of names; what came out is looked at
once more, and put back when the container has put something of its own there meanwhile. Names, not files, are all that
the kernel removes, so a file the container gives one of our own names at the very moment we remove that one is lost.

Errors are OSError and DeliveryError; BlockingIOError, before anything has changed, when a session of the volume or a
lease is in the way: to be tried again. Concurrency: one task.
"""

from __future__ import annotations

import errno
import hashlib
import os
import stat
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from typing import Final, NamedTuple

from hatchway.kernel import files
from hatchway.kernel.files import RENAME_EXCHANGE, RENAME_NOREPLACE
from hatchway.volumefs.keyfiles import read_all
from hatchway.volumefs.ledger import blocks_of
from hatchway.volumefs.making import NO_TMPFILE, O_OPEN, give
from hatchway.volumefs.ownership import Owner
from hatchway.volumefs.quota import Quota
from hatchway.wire.host import Withdrawal
from hatchway.wire.task import Problem

NAME: Final = b"id_container"

NEW: Final = b".id_container.new"
"""What the file is called until it is exchanged for the one before."""

OLD: Final = b".id_container.old"
"""What is taken away is called until it is removed."""

KEY_MAX: Final = 16 * 1024
"""Bytes of a private key's file; a larger file is not ours."""

_MODE = 0o600
_TRIES = 5
_O_LOOK = os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC


class DeliveryError(Exception):
    """It cannot be done, for `problem`."""

    def __init__(self, problem: Problem) -> None:
        super().__init__(problem.value)
        self.problem = problem


class _ChangedError(Exception):
    """The container was faster: look again."""


class _Found(NamedTuple):
    """What a name means. `contents` None: nothing that could be ours."""

    contents: bytes | None
    device: int
    inode: int

    def among(self, hashes: Collection[bytes]) -> bool:
        """Whether it is ours."""
        return self.contents is not None and _digest(self.contents) in hashes


class Delivery:
    """For one directory, by its descriptor `directory` (O_PATH will do). `proc_fd_dir` as of `files.reopen`.

    Owns no descriptor.
    """

    def __init__(self, directory: int, proc_fd_dir: int, quota: Quota) -> None:
        self.changed = False
        """Whether anything has been put there or removed."""
        self._directory = directory
        self._proc_fd_dir = proc_fd_dir
        self._quota = quota

    def deliver(self, data: bytes, owner: Owner, replaces: Collection[bytes]) -> None:
        """Make `data` the contents of id_container. A file that is there and has one of the hashes is replaced.

        One that has the same contents stays as it is: the container may have given it to somebody else.
        """
        ours = {_digest(data), *replaces}
        self._tidy(ours, data)
        for _ in range(_TRIES):
            found = self._look(NAME)
            if found is not None and found.contents == data:
                return
            if found is not None and not found.among(ours):
                raise DeliveryError(Problem.FOREIGN)
            try:
                if found is None:
                    self._make(data, owner)
                else:
                    self._replace(data, owner, ours)
                return
            except _ChangedError:
                continue
        raise DeliveryError(Problem.BUSY)

    def withdraw(self, hashes: Collection[bytes]) -> Withdrawal:
        """Remove id_container if it has one of the hashes."""
        self._tidy(hashes)
        for _ in range(_TRIES):
            found = self._look(NAME)
            if found is None:
                return Withdrawal.REMOVED if self.changed else Withdrawal.ABSENT
            if not found.among(hashes):
                return Withdrawal.FOREIGN
            try:
                with self._quota.moving():
                    self._take_away(hashes)
                return Withdrawal.REMOVED
            except _ChangedError:
                continue
        raise DeliveryError(Problem.BUSY)

    def _look(self, name: bytes) -> _Found | None:
        """What `name` means now. Raises BlockingIOError when there is a lease on it."""
        try:
            path = os.open(name, _O_LOOK, dir_fd=self._directory)
        except FileNotFoundError:
            return None
        try:
            st = os.fstat(path)
            if not stat.S_ISREG(st.st_mode) or st.st_size > KEY_MAX:
                return _Found(None, st.st_dev, st.st_ino)
            fd = files.reopen(self._proc_fd_dir, path, os.O_RDONLY | O_OPEN)
        finally:
            os.close(path)
        try:
            contents = read_all(fd, KEY_MAX)
            return _Found(contents if len(contents) <= KEY_MAX else None, st.st_dev, st.st_ino)
        finally:
            os.close(fd)

    def _look_moved(self, name: bytes) -> _Found | None:
        """As `_look`. What cannot be read, or not now, is not ours: it must not stay where we have moved it."""
        try:
            return self._look(name)
        except OSError:
            return _Found(None, 0, 0)

    def _tidy(self, ours: Collection[bytes], data: bytes | None = None) -> None:
        """Remove what a task left that was ended in the middle; also the beginning of `data`."""
        for name in (NEW, OLD):
            found = self._look(name)
            if found is None or found.contents is None:
                continue
            if found.among(ours) or (name == NEW and data is not None and data.startswith(found.contents)):
                self._remove(name)

    def _make(self, data: bytes, owner: Owner) -> None:
        with self._quota.making(blocks_of(len(data))) as made, self._file(data, owner) as fd:
            self._name(fd)
            made(os.fstat(fd))
        self.changed = True

    def _replace(self, data: bytes, owner: Owner, ours: Collection[bytes]) -> None:
        making = self._quota.making(blocks_of(len(data)))
        with self._quota.moving(), making as made, self._file(data, owner) as fd:
            if not self._is(NEW, fd):
                try:
                    files.link(self._proc_fd_dir, fd, self._directory, NEW)
                except FileExistsError:
                    raise DeliveryError(Problem.IN_THE_WAY) from None
            try:
                self._rename(NEW, NAME, RENAME_EXCHANGE)
            except FileNotFoundError:
                raise _ChangedError from None
            except OSError as exc:
                if exc.errno != errno.EINVAL:
                    raise
                # The file system cannot: for a moment there is none.
                self._take_away(ours)
                self._name(fd)
            else:
                self._check_came_out(fd, ours)
            made(os.fstat(fd))
        self.changed = True
        if self._look(NEW) is not None:
            self._remove(NEW)

    def _check_came_out(self, fd: int, ours: Collection[bytes]) -> None:
        """Raise _ChangedError unless the file that was exchanged for `fd` is ours, and put it back."""
        found = self._look_moved(NEW)
        if found is None or found.among(ours):
            return
        try:
            self._rename(NEW, NAME, RENAME_EXCHANGE)
            if not self._is(NEW, fd):
                # Something was put in the place of what we had put there: that is the latest.
                self._rename(NEW, NAME, RENAME_EXCHANGE)
                raise DeliveryError(Problem.MOVED)
        except FileNotFoundError:
            # What we had put there is gone.
            self._back(NEW)
        raise _ChangedError

    def _take_away(self, ours: Collection[bytes]) -> None:
        """Remove id_container if it is ours. Raises _ChangedError when it is not, or not there."""
        try:
            self._rename(NAME, OLD, RENAME_NOREPLACE)
        except FileNotFoundError:
            raise _ChangedError from None
        except FileExistsError:
            raise DeliveryError(Problem.IN_THE_WAY) from None
        except OSError as exc:
            if exc.errno != errno.EINVAL:
                raise
            # The file system cannot, so it must do that we have just looked.
            found, name = self._look(NAME), NAME
        else:
            found, name = self._look_moved(OLD), OLD
        if found is None or not found.among(ours):
            if name == OLD and found is not None:
                self._back(OLD)
            raise _ChangedError
        self._remove(name)

    def _back(self, name: bytes) -> None:
        """What now has the name `name` gets back the one it had."""
        try:
            self._rename(name, NAME, RENAME_NOREPLACE)
        except FileExistsError:
            raise DeliveryError(Problem.MOVED) from None
        except FileNotFoundError:
            pass  # it is gone as well

    def _remove(self, name: bytes) -> None:
        with self._quota.removing(self._directory, name):
            os.unlink(name, dir_fd=self._directory)
        self.changed = True

    def _rename(self, old: bytes, new: bytes, flags: int) -> None:
        files.renameat2(self._directory, old, self._directory, new, flags)

    @contextmanager
    def _file(self, data: bytes, owner: Owner) -> Iterator[int]:
        """A file that is complete and has no name or, where the file system has no such files, the name NEW.

        It does not keep that name when the block fails.
        """
        try:
            fd = os.open(b".", os.O_WRONLY | os.O_TMPFILE | O_OPEN, _MODE, dir_fd=self._directory)
        except OSError as exc:
            if exc.errno not in NO_TMPFILE:
                raise
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | O_OPEN
            try:
                fd = os.open(NEW, flags, _MODE, dir_fd=self._directory)
            except FileExistsError:
                raise DeliveryError(Problem.IN_THE_WAY) from None
        try:
            rest = memoryview(data)
            while rest:
                rest = rest[os.write(fd, rest) :]
            give(fd, owner)
            # Its name must not outlive a power failure without its contents. Some file systems find out only here
            # that there is no room.
            os.fsync(fd)
            yield fd
        except BaseException:
            if self._is(NEW, fd):
                os.unlink(NEW, dir_fd=self._directory)
            raise
        finally:
            os.close(fd)

    def _name(self, fd: int) -> None:
        """Call what `_file` has made id_container. Raises _ChangedError when something is called so already."""
        try:
            files.link(self._proc_fd_dir, fd, self._directory, NAME)
        except FileExistsError:
            raise _ChangedError from None
        if self._is(NEW, fd):
            os.unlink(NEW, dir_fd=self._directory)

    def _is(self, name: bytes, fd: int) -> bool:
        """Whether `name` means the file `fd`."""
        try:
            return os.path.samestat(os.stat(name, dir_fd=self._directory, follow_symlinks=False), os.fstat(fd))
        except FileNotFoundError:
            return False


def _digest(data: bytes) -> bytes:
    return hashlib.sha256(data).digest()
