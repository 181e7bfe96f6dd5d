"""Sizes and limits of volumes in words. Pure, but for what time it is.

In powers of 1024, which is what file systems are made of; but all that is said of a volume whose limit was given in
powers of 1000 is in these, so that the numbers can be held against the limit.
"""

from __future__ import annotations

import time

from rich.text import Text

from hatchway.cli.text import safe
from hatchway.fullness import Full, fullness
from hatchway.model import NO_LIMITS, Limits, strictest
from hatchway.wire.admin import Access, PersonVolume, VolumeStatus
from hatchway.wire.host import VolumeSize

_BINARY = ("B", "KiB", "MiB", "GiB", "TiB")
_DECIMAL = ("B", "kB", "MB", "GB", "TB")

OLD_S = 90.0
"""From which age in seconds on it is said when something was counted."""

NEARLY = 0.9
"""From which share of the files there may be they are counted for people, also where nobody said how many that is."""


def in_decimal(limit: int | None) -> bool:
    """Whether a limit of so many bytes was given in powers of 1000, as far as it can be told."""
    return limit is not None and limit % 1_000_000 == 0 and limit % (1 << 20) != 0


def amount(size: int, *, decimal: bool = False) -> str:
    """`size`, in bytes, with one decimal at most: "12.4 MiB", with `decimal` "13 MB"."""
    base, units = (1000, _DECIMAL) if decimal else (1024, _BINARY)
    value, place = float(size), 0
    # Not what would be rounded to the next unit: 1023.99 KiB is 1 MiB.
    while place < len(units) - 1 and round(value, 1 if place else 0) >= base:
        value, place = value / base, place + 1
    return f"{value:.1f}".removesuffix(".0") + f" {units[place]}"


def whole(size: int, *, decimal: bool = False) -> str:
    """A limit of `size` bytes as it may have been given: exactly, where two decimals or a smaller unit can say it."""
    base, units = (1000, _DECIMAL) if decimal else (1024, _BINARY)
    for place in range(len(units) - 1, 1, -1):
        unit: int = base**place
        if size >= unit and size * 100 % unit == 0:
            return f"{size / unit:,.2f}".rstrip("0").removesuffix(".") + f" {units[place]}"
    return amount(size, decimal=decimal)


def limits_text(limits: Limits) -> str | None:
    """ "limit 20 GB, 100,000 files"; None when there is no limit."""
    said = [] if limits.size is None else [whole(limits.size, decimal=in_decimal(limits.size))]
    if limits.files is not None:
        said.append(_files(limits.files))
    return f"limit {', '.join(said)}" if said else None


def size_remarks(volume: VolumeStatus | PersonVolume) -> list[Text]:
    """How large a volume that is shared is and may become, each thing a line of its own; what needs care in yellow."""
    if volume.access not in (Access.READ_ONLY, Access.READ_WRITE):
        return []
    size, lines = volume.size, list[Text]()
    if size is None:
        if (limit := limits_text(volume.limits)) is not None:
            lines.append(Text(limit, "dim"))
    else:
        lines.append(Text(_room(size) + _age(size, time.time()), "dim"))
        if (files := _file_room(size)) is not None:
            lines.append(Text(files, "dim"))
        if volume.access is Access.READ_WRITE:
            lines += [Text(_full(size, why), "yellow") for why in fullness(size)]
        if size.problem:
            known = "size not known: " if size.used is None else "size not certain: "
            lines.append(Text.assemble((known, "yellow"), safe(size.problem, "yellow")))
    if isinstance(volume, PersonVolume):
        return lines
    own = strictest(grant.limits for grant in volume.grants if grant.in_force)
    if strictest((own, volume.limits)) != own:
        lines.append(Text("limited by what gives another instance access to this volume", "dim"))
    return lines


def _age(size: VolumeSize, now: float) -> str:
    """Since when the container may have changed what was counted; `now` is in Unix seconds."""
    if size.counted is None or size.own or (age_s := now - size.counted.measured_at) < OLD_S:
        return ""
    minutes = int(age_s / 60)
    return f"; counted {minutes} min ago" if minutes < 120 else f"; counted {minutes // 60} h ago"


def _room(size: VolumeSize) -> str:
    decimal = in_decimal(size.limits.size)

    def words(number: int) -> str:
        return amount(number, decimal=decimal)

    used = None if size.used is None else words(size.used)
    if size.usable is None:
        limit = "no limit" if size.limits == NO_LIMITS else "no limit of size"
        counted = f"{used} used, " if used is not None else "" if size.problem else "being counted, "
        free = "" if size.available is None else f"; {words(size.available)} left on its disk"
        return f"{counted}{limit}{free}"
    usable = words(size.usable)
    counted = f"{used} of {usable} used" if used is not None else f"{usable} usable"
    limited = size.nominal == size.limits.size
    if used is None and not size.problem:
        counted = f"being counted, {counted}"
    if size.available is not None and size.used is not None:
        counted += f", {words(size.available)} left"
        # A limit is no promise: others fill the disk as well. Less than a percent may be what is just being written.
        if limited and size.usable - size.used - size.available > size.usable // 100:
            counted += " on its disk"
    if size.nominal is None:
        return counted
    name = f"limit {whole(size.nominal, decimal=decimal)}" if limited else f"device {words(size.nominal)}"
    return f"{counted}; {name}" + (" with index" if size.usable < size.nominal else "")


def _file_room(size: VolumeSize) -> str | None:
    used, usable = size.files_used, size.files_usable
    if size.limits.files is not None and usable is None:
        usable = size.limits.files
    if usable is None or (size.limits.files is None and (used is None or used < NEARLY * usable)):
        return None
    return f"at most {_files(usable)}" if used is None else f"{used:,} of {_files(usable)}"


def _full(size: VolumeSize, why: Full) -> str:
    match why:
        case Full.OVER:
            over = amount((size.used or 0) - (size.usable or 0), decimal=in_decimal(size.limits.size))
            return f"{over} over its limit (the container is not held to it): remove that much to upload again"
        case Full.FULL:
            return "full: nothing can be uploaded"
        case Full.DISK:
            return "its disk is full: nothing can be uploaded"
        case Full.FILES_OVER:
            over = _files((size.files_used or 0) - (size.files_usable or 0))
            return f"{over} over its limit (the container is not held to it): remove as many to make others"
        case Full.FILES:
            return "as many files as there may be: no more can be made"


def _files(number: int) -> str:
    return "1 file" if number == 1 else f"{number:,} files"
