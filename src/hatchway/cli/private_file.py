"""A file that a secret is written to: its owner's alone, never one that was there before unless so told."""

from __future__ import annotations

import contextlib
import errno
import os
import stat

from hatchway.errors import ConflictError, HostError, UsageError

SECRET, PUBLIC = 0o600, 0o644
"""Modes of what is written."""


def require_free(path: str, force: bool) -> None:
    """Say what prevents writing to `path` before anything is asked; `write` makes sure. Raises HatchwayError."""
    try:
        mode = os.lstat(path).st_mode
    except FileNotFoundError:
        return
    except OSError as exc:
        raise HostError(f"{path}: {exc.strerror or exc}") from exc
    if stat.S_ISDIR(mode):
        raise UsageError(f"{path} is a directory: name a file")
    if not stat.S_ISREG(mode):
        # /dev/null and /dev/stdout are not to be replaced, whoever says so.
        raise ConflictError(f"{path} is there already, and no file: name another one")
    if not force:
        raise ConflictError(f"{path} is there already: say --force to replace it, or name another file with -o")


def write(path: str, text: str, force: bool, mode: int = SECRET) -> None:
    """Make a file with `mode` at `path`, whole or not at all; with `force` it replaces one that is there.

    Raises ConflictError when there is one, HostError.
    """
    directory, name = os.path.split(path)
    new = os.path.join(directory, f".{name}.{os.getpid()}.new")
    try:
        # O_EXCL: no link is followed and nothing of anybody's is written to, whoever owns this directory.
        descriptor = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
        try:
            with open(descriptor, "w", encoding="utf-8", newline="") as file:
                _give_to_caller(file.fileno(), directory or ".")
                file.write(text)
                file.flush()
                os.fsync(file.fileno())
            _put(new, path, force)
        except BaseException:
            with contextlib.suppress(OSError):
                os.unlink(new)
            raise
    except FileExistsError as exc:
        raise ConflictError(f"{exc.filename2 or exc.filename or path} is there already") from None
    except OSError as exc:
        raise HostError(f"{path}: {exc.strerror or exc}") from exc


def _put(new: str, path: str, force: bool) -> None:
    """Give the file `new` its name. Raises FileExistsError when there is one of that name, and not `force`."""
    if force:
        os.rename(new, path)
        return
    try:
        os.link(new, path, follow_symlinks=False)
    except OSError as exc:
        # A file system without hard links.
        if exc.errno not in (errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS):
            raise
        os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, SECRET))
        os.rename(new, path)
    else:
        os.unlink(new)


def _give_to_caller(descriptor: int, directory: str) -> None:
    """Under sudo(8), make the file the caller's: one that only root can read is of no use to their client.

    Not in a directory that they could not write to themselves: a file there is for the host.
    """
    uid, gid = os.environ.get("SUDO_UID", ""), os.environ.get("SUDO_GID", "")
    if os.geteuid() != 0 or not all(one.isascii() and one.isdigit() for one in (uid, gid)):
        return
    place = os.stat(directory)
    if place.st_uid == int(uid) or place.st_mode & stat.S_IWOTH:
        os.fchown(descriptor, int(uid), int(gid))
