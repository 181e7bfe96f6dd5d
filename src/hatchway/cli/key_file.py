"""The file that a private key is written to: its owner's alone, never one that was there before unless so told."""

from __future__ import annotations

import contextlib
import os
import stat

from hatchway.errors import ConflictError, HostError, UsageError


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
    if not force:
        raise ConflictError(f"{path} is there already: say --force to replace it, or name another file with -o")


def write(path: str, text: str, force: bool) -> None:
    """Make a file of mode 0600 at `path`; with `force` it replaces one that is there in one step.

    Raises ConflictError when there is one, HostError.
    """
    directory, name = os.path.split(path)
    new = os.path.join(directory, f".{name}.{os.getpid()}.new") if force else path
    try:
        # O_EXCL: no link is followed and nothing of anybody's is written to, whoever owns this directory.
        descriptor = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            with open(descriptor, "w", encoding="ascii") as file:
                _give_to_caller(file.fileno())
                file.write(text)
            if force:
                os.rename(new, path)
        except BaseException:
            with contextlib.suppress(OSError):
                os.unlink(new)
            raise
    except FileExistsError:
        raise ConflictError(f"{new} is there already") from None
    except OSError as exc:
        raise HostError(f"{path}: {exc.strerror or exc}") from exc


def _give_to_caller(descriptor: int) -> None:
    """Under sudo(8), make the file the caller's: one that only root can read is of no use to their client."""
    uid, gid = os.environ.get("SUDO_UID", ""), os.environ.get("SUDO_GID", "")
    if os.geteuid() == 0 and uid.isascii() and uid.isdigit() and gid.isascii() and gid.isdigit():
        os.fchown(descriptor, int(uid), int(gid))
