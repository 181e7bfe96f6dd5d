"""Whether only root can change what root runs: the rule sshd applies to AuthorizedKeysCommand and ChrootDirectory.

sshd refuses such a path in its log only, at the first login, and pam_exec does not look at all. Here the bad
component is named before anything is started.
"""

from __future__ import annotations

import os
import stat

from hatchway.errors import HostError


def flaw(path: str, *, executable: bool = False, owner: int = 0, below: str = "/") -> str | None:
    """What is wrong with `path`, an absolute path; None when it and all directories above can be trusted.

    Each component, symlinks included, must belong to root and must not be writable by group or others: the path as
    it is written (whoever owns a link decides where it leads) and the path it leads to. A world-writable directory
    with the sticky bit is refused, as sshd does. `executable` also demands a regular file with an x bit for all.
    `owner` (a uid) and `below` (a directory above which nothing is checked) are for trees built by tests.
    """
    for written in dict.fromkeys((path, os.path.realpath(path))):
        for component in _components(written, below):
            try:
                found = os.lstat(component)
            except OSError as exc:
                return f"{component}: {exc.strerror or exc}"
            if found.st_uid != owner:
                return f"{component} belongs to uid {found.st_uid}, not to {'root' if owner == 0 else owner}"
            # A link's own mode means nothing (symlink(7)); what it leads to is looked at on the second round.
            if not stat.S_ISLNK(found.st_mode) and found.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
                return f"{component} can be written by group or others (mode {stat.S_IMODE(found.st_mode):04o})"
    if executable:
        found = os.stat(path)
        if not stat.S_ISREG(found.st_mode):
            return f"{path} is not a regular file"
        if found.st_mode & 0o111 != 0o111:
            return f"{path} is not executable by all (mode {stat.S_IMODE(found.st_mode):04o})"
    return None


def require(path: str, *, executable: bool = False) -> None:
    """Raise HostError naming the component that makes `path` untrustworthy. Arguments as for `flaw`."""
    found = flaw(path, executable=executable)
    if found is not None:
        raise HostError(f"{path} cannot be trusted: {found}; it and every directory above must be root's alone")


def _components(path: str, below: str) -> list[str]:
    parts = [part for part in path.split("/") if part]
    every = ["/"] + ["/" + "/".join(parts[: n + 1]) for n in range(len(parts))]
    if below == "/":
        return every
    return [component for component in every if component.startswith(below.rstrip("/") + "/")]
