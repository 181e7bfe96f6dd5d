"""Sizes, times and states as the pages say them. Pure."""

from __future__ import annotations

import datetime

from hatchway import addresses
from hatchway.fullness import Full, fullness
from hatchway.model import Limits
from hatchway.wire.admin import Access, LogEntry, PersonVolume, VolumeStatus
from hatchway.wire.host import VolumeSize

_BINARY = ("B", "KiB", "MiB", "GiB", "TiB")
_DECIMAL = ("B", "kB", "MB", "GB", "TB")


def amount(size: int | None, *, decimal: bool = False) -> str:
    """`size`, in bytes, with one decimal at most: "12.4 MiB", with `decimal` "13 MB"; "?" when it is not known."""
    if size is None:
        return "?"
    base, units = (1000, _DECIMAL) if decimal else (1024, _BINARY)
    value, place = float(size), 0
    while place < len(units) - 1 and round(value, 1 if place else 0) >= base:
        value, place = value / base, place + 1
    return f"{value:,.1f}".removesuffix(".0") + f" {units[place]}"


def in_decimal(limits: Limits) -> bool:
    """Whether the limit was given in powers of 1000, as far as it can be told."""
    return limits.size is not None and limits.size % 1_000_000 == 0 and limits.size % (1 << 20) != 0


def share(size: VolumeSize) -> float | None:
    """How much of what is usable is used, 0 to 1; None when there is no telling."""
    if size.used is None or not size.usable:
        return None
    return min(1.0, size.used / size.usable)


_FULL = {
    Full.OVER: "More is in it than its limit allows (the container is not held to it). Nothing can be added.",
    Full.FULL: "Full: nothing can be added.",
    Full.DISK: "The disk it is on is full: nothing can be added.",
    Full.FILES_OVER: "More files are in it than its limit allows. No file can be added.",
    Full.FILES: "It has as many files as there may be: no file can be added.",
}


def warnings(volume: VolumeStatus | PersonVolume) -> list[str]:
    """What whoever uses a volume should know of its size."""
    if volume.size is None or not volume.access.is_on:
        return []
    found = [_FULL[why] for why in fullness(volume.size)] if volume.access is Access.READ_WRITE else []
    if volume.size.problem:
        known = "not known" if volume.size.used is None else "not certain"
        found.append(f"Size {known}: {volume.size.problem}.")
    return found


def whom(entry: LogEntry) -> tuple[str, str]:
    """Who did it, and from which address: of a change the record has both in one text."""
    before, said, after = entry.who.rpartition(" from ")
    if said and not entry.address and addresses.address(after) is not None:
        return before, after
    return entry.who, entry.address


def span(seconds: float) -> str:
    """How long, in its largest unit: "3 min"."""
    for unit, length in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * length or (seconds >= length and unit != "d"):
            return f"{int(seconds // length)} {unit}"
    return f"{int(seconds)} s"


def moment(at: float) -> str:
    """`at`, Unix seconds, as "2026-01-31 14:05:00 UTC"."""
    try:
        return f"{datetime.datetime.fromtimestamp(at, datetime.UTC):%Y-%m-%d %H:%M:%S} UTC"
    except (ValueError, OverflowError, OSError):
        return f"{at:g} s since 1970"


def machine_moment(at: float) -> str:
    """The same for <time datetime>."""
    try:
        return f"{datetime.datetime.fromtimestamp(at, datetime.UTC):%Y-%m-%dT%H:%M:%SZ}"
    except (ValueError, OverflowError, OSError):
        return ""
