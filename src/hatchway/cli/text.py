"""Making text from elsewhere safe to print, and a few forms of numbers. Pure.

Names and paths of containers and their volumes are whatever somebody's image or compose file says. Printed as they
are they could move the cursor, set the window's title, forge lines of our output or, through rich's markup, its
colours.
"""

from __future__ import annotations

from rich.text import Text

from hatchway.printable import escaped, harmless

YEAR_S = 365.2425 * 86400
"""Seconds of a year of the calendar, on the average."""


def safe(text: str, style: str = "") -> Text:
    """`text`, escaped, as rich prints it: literally, in `style`, with no markup in it read."""
    return Text(escaped(text), style=style)


def command(text: str, style: str = "") -> Text:
    """A command as `shell_command` quotes it, to be copied: what is visible in it is not escaped once more."""
    return Text(harmless(text), style=style)


def count(number: int, what: str) -> str:
    """`number` of `what`, as "1 session" or "2 sessions"."""
    return f"{number} {what}" if number == 1 else f"{number} {what}s"


def span(seconds: float) -> str:
    """A time span in words: "2 s", "5 min", "3 h", "4 days", "7 years"."""
    if seconds < 120:
        return f"{max(0, int(seconds))} s"
    if seconds < 7200:
        return f"{int(seconds / 60)} min"
    if seconds < 172800:
        return f"{int(seconds / 3600)} h"
    if seconds < 2 * YEAR_S:
        return f"{int(seconds / 86400)} days"
    return f"{int(seconds / YEAR_S):,} years"


def ago(seconds: float) -> str:
    """How long ago, as `span` says it: "5 min ago"."""
    return f"{span(seconds)} ago"
