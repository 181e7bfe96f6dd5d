"""Points in time, as people say them and as they are told. Times are Unix seconds, in words local ones of this host."""

from __future__ import annotations

import datetime
import math
import re

from hatchway.cli.text import ago, span
from hatchway.errors import UsageError
from hatchway.localtime import local

NEVER = "never"
"""What `--expires` may be besides a time."""

_SPANS_S = {"s": 1.0, "m": 60.0, "min": 60.0, "h": 3600.0, "d": 86400.0, "w": 604800.0}


def since(text: str, now: float) -> float:
    """What `--since` means: so long ago (`90s`, `30min`, `2h`, `7d`, `4w`), or a date, or date and time (ISO 8601).

    A date alone is its beginning. Raises UsageError.
    """
    if (span_s := _span_s(text)) is not None:
        return now - span_s
    try:
        return datetime.datetime.fromisoformat(text).timestamp()
    except (ValueError, OverflowError, OSError):
        raise UsageError(
            f"--since {text!r}: expected a span such as 30min, 2h or 7d, or a date such as 2026-01-31 or "
            "'2026-01-31 14:05'"
        ) from None


def expiry(text: str, now: float) -> float | None:
    """What `--expires` means: in such a time, or a date, or date and time. A date alone is the end of that day.

    None for NEVER. Raises UsageError, also for what is not after `now` or after the year 9999.
    """
    if text == NEVER:
        return None
    if (span_s := _span_s(text)) is not None:
        at = now + span_s
    else:
        try:
            day = _end_of_day(text)
            at = datetime.datetime.fromisoformat(text).timestamp() if day is None else day
        except (ValueError, OverflowError, OSError):
            if re.fullmatch(r"[0-9]{4}-[0-9]{2}-[0-9]{2}", text):
                raise UsageError(f"--expires {text!r}: there is no such day") from None
            raise UsageError(
                f"--expires {text!r}: expected a date such as 2026-01-31, of which it is the end, a date and time such "
                "as '2026-01-31 14:05', a time from now such as 12h, 7d or 4w, or 'never'"
            ) from None
    if at <= now:
        raise UsageError(f"--expires {text!r}: that is past")
    try:
        datetime.datetime.fromtimestamp(at)
    except (ValueError, OverflowError, OSError):
        raise UsageError(f"--expires {text!r}: nothing lasts that long; say 'never'") from None
    return at


def told(at: float, now: float) -> str:
    """`at`, and how far from `now` it is: "2026-01-31 23:59:59, in 12 days", "2026-01-31 14:05:00, 3 h ago"."""
    if at <= now:
        return f"{local(at)}, {ago(now - at)}"
    # Up to the next minute: what was said a moment ago to be in 7 days is not to be in 6.
    step_s = 60 if at - now > 120 else 1
    return f"{local(at)}, in {span(math.ceil((at - now) / step_s) * step_s)}"


def _span_s(text: str) -> float | None:
    found = re.fullmatch(r"([0-9]{1,9})(s|m|min|h|d|w)", text)
    return None if found is None else int(found[1]) * _SPANS_S[found[2]]


def _end_of_day(text: str) -> float | None:
    """The last second of the day that `text` is, None when it says more or something else."""
    try:
        day = datetime.date.fromisoformat(text)
    except ValueError:
        return None
    return datetime.datetime.combine(day, datetime.time(23, 59, 59)).timestamp()
