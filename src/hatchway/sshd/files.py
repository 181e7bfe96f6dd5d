"""Writing a file whole or not at all."""

from __future__ import annotations

import contextlib
import os


def replace(path: str, text: str, mode: int) -> None:
    """Put a file with `text` and the permission bits `mode` at `path`, replacing what is there in one step.

    Raises OSError; the old file then stands unchanged.
    """
    directory, name = os.path.split(path)
    new = f"{directory}/.{name}.new"
    with contextlib.suppress(FileNotFoundError):
        os.unlink(new)
    # O_EXCL and O_NOFOLLOW: nothing that stands there, whoever made it, is written through.
    descriptor = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, mode)
    try:
        with open(descriptor, "w", encoding="utf-8") as file:
            os.fchmod(file.fileno(), mode)
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.rename(new, path)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(new)
        raise


def replace_link(path: str, target: str) -> None:
    """Put a symbolic link to `target` at `path`, replacing what is there in one step. Raises OSError."""
    directory, name = os.path.split(path)
    new = f"{directory}/.{name}.new"
    with contextlib.suppress(FileNotFoundError):
        os.unlink(new)
    os.symlink(target, new)
    os.rename(new, path)
