"""What private keys are called, and where they lie on the computer of whoever connects."""

from __future__ import annotations

import ntpath
import posixpath
import re

from hatchway.errors import UsageError


def key_file_name(login: str) -> str:
    """The name a private key in OpenSSH's format is saved under: `id_container-<login>`."""
    return f"id_container-{login}"


def ppk_file_name(login: str) -> str:
    """The name of the same key in PuTTY's format."""
    return f"{key_file_name(login)}.ppk"


def check_directory(directory: str) -> None:
    """Raises UsageError when `directory`, on some computer, cannot stand in a file that is to be imported there.

    Neither a quotation mark nor a line break has a spelling that all of them read.
    """
    if not directory:
        raise UsageError("the directory of the key has no name: leave the option out if it is not known")
    if not directory.isprintable() or '"' in directory:
        raise UsageError(f"the directory '{directory}' is not allowed: no quotation marks, line breaks and the like")


def is_absolute(directory: str) -> bool:
    """Whether `directory` names one place whoever uses it: on Unix, or on Windows, with drive or server in front."""
    if is_of_windows(directory):
        drive, rest = ntpath.splitdrive(directory)
        # Of a server's share, which is "\\\\server\\share" here, the name alone is its root.
        return drive.startswith("\\\\") or (drive != "" and rest.startswith(("\\", "/")))
    return posixpath.isabs(directory)


def is_anchored(directory: str) -> bool:
    """Whether `directory` names one place for programs that know `~` as well: absolute, or beneath the home."""
    return is_absolute(directory) or directory == "~" or directory.startswith("~/")


def is_of_windows(directory: str) -> bool:
    """Whether `directory` is one on Windows: it has a drive in front, or backslashes and no slash."""
    return re.match(r"[A-Za-z]:", directory) is not None or ("\\" in directory and "/" not in directory)


def in_directory(directory: str, name: str) -> str:
    """The path of the file `name` in `directory`, as systems of that kind write it."""
    if is_of_windows(directory) and "/" not in directory:
        return ntpath.join(directory, name)
    return posixpath.join(directory, name)
