"""When something is, for people: always as the clock of this host shows it. Pure, but for its time zone."""

from __future__ import annotations

import datetime


def zoned(at: float) -> str:
    """As `local`, and in which time zone that is: for what is read elsewhere too."""
    try:
        return f"{local(at)} {datetime.datetime.fromtimestamp(at).astimezone():%Z}"
    except (ValueError, OverflowError, OSError):
        return local(at)


def local(at: float) -> str:
    """`at`, Unix seconds, as "2026-01-31 14:05:00"; in seconds where the calendar ends."""
    try:
        return f"{datetime.datetime.fromtimestamp(at):%Y-%m-%d %H:%M:%S}"
    except (ValueError, OverflowError, OSError):
        return f"{at:g} s since 1970"
