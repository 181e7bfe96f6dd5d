"""What a name is: exactly one component. The one place where names from outside are checked.

Every call that takes a name does so with O_NOFOLLOW or AT_SYMLINK_NOFOLLOW on a directory's descriptor, so a name
that passes here cannot lead anywhere else. Names are bytes: a file system knows no encoding. No I/O, no state.
"""

from __future__ import annotations

import errno

from hatchway.volumefs.fault import failure

NAME_MAX = 255
"""Bytes in the longest name (path_resolution(7)); more is refused here rather than by each file system its way."""

_NOT_A_NAME = frozenset({b"", b".", b".."})


def component(name: bytes) -> bytes:
    """`name`, if it names something in a directory. Raises OSError: EINVAL, ENAMETOOLONG."""
    if name in _NOT_A_NAME or b"/" in name or b"\0" in name:
        raise failure(errno.EINVAL)
    if len(name) > NAME_MAX:
        raise failure(errno.ENAMETOOLONG)
    return name
