"""Whether anything can be added to a volume over SFTP, by what hostd says of its size. Pure."""

from __future__ import annotations

import enum

from hatchway.wire.host import VolumeSize

BLOCK = 4096
"""Bytes. What wire.host.Usage counts in: less than that is no room."""


class Full(enum.StrEnum):
    """Why nothing, or no file, can be added. `OVER` and `FILES_OVER`: there is more than the limit allows."""

    OVER = "over"
    FULL = "full"
    DISK = "disk"
    FILES_OVER = "files-over"
    FILES = "files"


def fullness(size: VolumeSize) -> tuple[Full, ...]:
    """What is full about a volume, as far as that is known."""
    found = []
    if size.used is not None and size.usable is not None and size.used > size.usable - BLOCK:
        found.append(Full.OVER if size.used > size.usable and size.limits.size is not None else Full.FULL)
    elif size.available is not None and size.available < BLOCK:
        found.append(Full.FULL if size.own else Full.DISK)
    if size.files_used is not None and size.files_usable is not None and size.files_used >= size.files_usable:
        found.append(Full.FILES_OVER if size.files_used > size.files_usable else Full.FILES)
    return tuple(found)
