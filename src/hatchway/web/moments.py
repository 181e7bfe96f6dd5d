"""Points in time as forms send them: always UTC, which is what the field is labelled with."""

from __future__ import annotations

import datetime
import re

from hatchway.errors import UsageError


def from_form(text: str, now: float) -> float | None:
    """What a field of type datetime-local sends, as Unix seconds; None for nothing. Raises UsageError, also for what
    is not after `now`."""
    if not text:
        return None
    if not re.fullmatch(r"[0-9]{4}-[0-9]{2}-[0-9]{2}[T ][0-9]{2}:[0-9]{2}(?::[0-9]{2})?", text):
        raise UsageError("the time of expiry was not understood: expected a date and time such as 2026-01-31 14:05")
    try:
        at = datetime.datetime.fromisoformat(text).replace(tzinfo=datetime.UTC).timestamp()
    except (ValueError, OverflowError):
        raise UsageError("there is no such day or time") from None
    if at <= now:
        raise UsageError("the time of expiry is past")
    return at


def to_form(at: float | None) -> str:
    """`at`, Unix seconds, as such a field has it; "" for None, and for what it cannot hold."""
    if at is None:
        return ""
    try:
        return f"{datetime.datetime.fromtimestamp(at, datetime.UTC):%Y-%m-%dT%H:%M}"
    except (ValueError, OverflowError, OSError):
        return ""
