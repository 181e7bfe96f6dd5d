"""Who a container's configured user is, as the container counts and as the host does. Pure.

Sources: OCI image specification, config.md ("User"); runc, libcontainer/user (GetExecUser); Docker's documentation of
userns-remap; subuid(5). What is read from a container is its owner's word, and decides only whom files in its own
volumes belong to.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Iterator

from hatchway.model import ID_MAX, IdPair, IdRange

FILE_MAX = 1024 * 1024
"""Bytes of a container's /etc/passwd or /etc/group that are read."""

REMAP_COUNT = 65536
"""Ids of a remapped engine, where /etc/subuid does not tell: what Docker's documentation and useradd(8) make it."""


class UnknownUserError(Exception):
    """Who the user is cannot be told; the text is a sentence without its full stop."""


def numeric(user: str) -> IdPair | None:
    """Who `user` is where no file of the container need be read for that, None where one must be."""
    if not user:
        return IdPair(0, 0)
    name, colon, group = user.partition(":")
    uid, gid = _number(name), _number(group)
    return IdPair(uid, gid) if colon and uid is not None and gid is not None else None


def resolve(user: str, read: Callable[[str], str]) -> IdPair:
    """Who `user` ("app", "1000", "app:staff", …) is by the container's files, which `read` gives by path, "" for none.

    Raises UnknownUserError.
    """
    if (known := numeric(user)) is not None:
        return known
    name, _, group = user.partition(":")
    name = name or "0"
    # What is a number is never a name, for groups too.
    gid, uid = 0, _number(name)
    for entry in _entries(read("/etc/passwd"), 4):
        found = _number(entry[2])
        if found is not None and (found == uid if uid is not None else entry[0] == name):
            uid, gid = found, _number(entry[3]) or 0
            break
    if uid is None:
        raise UnknownUserError(f"the container has no user {name!r}")
    if group:
        named = [_number(one[2]) for one in _entries(read("/etc/group"), 3) if one[0] == group]
        found = _number(group) if _number(group) is not None or not named else named[0]
        if found is None:
            raise UnknownUserError(f"the container has no group {group!r}")
        gid = found
    return IdPair(uid, gid)


def remapped(data_root: str | None, subordinate: str, column: int) -> tuple[IdRange, ...]:
    """The map of an engine with userns-remap, whose data root ends in "/<uid>.<gid>" of its root. `column` is 0 for
    uids, 1 for gids; `subordinate` is the text of /etc/subuid or /etc/subgid.

    All ranges of that user make one map, in their order or, as older engines have it, sorted. Empty when the root's id
    does not begin it.
    """
    found = re.search(r"/([0-9]{1,10})\.([0-9]{1,10})$", data_root or "", re.ASCII)
    if found is None:
        return ()
    first = int(found[column + 1])
    lines = [(one[0], _number(one[1]), _number(one[2])) for one in _entries(subordinate, 3)]
    name = next((name for name, start, _ in lines if start == first), None)
    if name is None:
        return (IdRange(0, first, REMAP_COUNT),)
    listed = [(start, count) for whose, start, count in lines if whose == name and start is not None and count]
    for order in (listed, sorted(listed)):
        if order and order[0][0] == first:
            inside = itertools.accumulate((count for _, count in order), initial=0)
            return tuple(IdRange(at, start, count) for at, (start, count) in zip(inside, order, strict=False))
    return ()


def _entries(text: str, fields: int) -> Iterator[list[str]]:
    # As the C library has it; str.splitlines() also ends lines where somebody's full name may say so.
    for line in text.split("\n"):
        parts = line.strip().split(":")
        if len(parts) >= fields and not line.startswith("#"):
            yield parts


def _number(text: str) -> int | None:
    return int(text) if re.fullmatch(r"[0-9]{1,10}", text, re.ASCII) and int(text) <= ID_MAX else None
