"""Whether only root can change what root runs or obeys.

It is the rule that sshd applies to AuthorizedKeysCommand and ChrootDirectory. But sshd refuses such a path in its log
only, at the first login, and pam_exec does not look at all. Here the bad component is named before anything is started.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Collection, Iterator

from hatchway.errors import HostError

_LINKS_MAX = 40
"""Links of one path that are followed, as many as the kernel does (path_resolution(7))."""


def flaw(
    path: str,
    *,
    executable: bool = False,
    owners: Collection[int] = (0,),
    below: str = "/",
    sticky: bool = False,
) -> str | None:
    """What is wrong with `path`, an absolute path; None when it and all directories above can be trusted.

    Each component, symlinks and what they lead through included, must belong to one of `owners` and must not be
    writable by group or others: whoever owns a link decides where it leads. A world-writable directory with the sticky
    bit is refused, as sshd does, unless `sticky`: nobody can move there what is not theirs. `executable` also demands a
    regular file with an x bit for all. `below` (a directory above which nothing is checked) is for trees built by
    tests.
    """
    try:
        for component in _components(path):
            found = os.lstat(component)
            if not component.startswith(f"{below.rstrip('/')}/"):
                continue
            if found.st_uid not in owners:
                return f"{component} belongs to uid {found.st_uid}, not to {_named(owners)}"
            if stat.S_ISLNK(found.st_mode):
                continue  # its own mode means nothing (symlink(7))
            if sticky and stat.S_ISDIR(found.st_mode) and found.st_mode & stat.S_ISVTX:
                continue
            if found.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
                return f"{component} can be written by group or others (mode {stat.S_IMODE(found.st_mode):04o})"
        found = os.stat(path)
    except OSError as exc:
        return f"{exc.filename}: {exc.strerror or exc}"
    if executable:
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


def _named(owners: Collection[int]) -> str:
    return " or ".join("root" if uid == 0 else str(uid) for uid in sorted(owners))


def _components(path: str) -> Iterator[str]:
    """Everything the kernel looks at on the way to `path`, in that order; what stands behind a link, as well.

    Raises OSError where the way ends.
    """
    yield "/"
    at, links = "/", 0
    todo = path.split("/")[::-1]
    while todo:
        part = todo.pop()
        if part in ("", "."):
            continue
        if part == "..":
            at = os.path.dirname(at)
            continue
        at = os.path.join(at, part)
        yield at
        if stat.S_ISLNK(os.lstat(at).st_mode):
            links += 1
            if links > _LINKS_MAX:
                raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), at)
            target = os.readlink(at)
            todo += target.split("/")[::-1]
            at = "/" if target.startswith("/") else os.path.dirname(at)
