"""Making text from elsewhere safe to print, and a few forms of numbers. Pure.

Names and paths of containers and their volumes are whatever somebody's image or compose file says. Printed as they
are they could move the cursor, set the window's title, forge lines of our output or, through rich's markup, its
colours.
"""

from __future__ import annotations

from rich.text import Text

from hatchway.printable import escaped


def safe(text: str, style: str = "") -> Text:
    """`text`, escaped, as rich prints it: literally, in `style`, with no markup in it read."""
    return Text(escaped(text), style=style)


def count(number: int, what: str) -> str:
    """`number` of `what`, as "1 session" or "2 sessions"."""
    return f"{number} {what}" if number == 1 else f"{number} {what}s"


def ago(seconds: float) -> str:
    """A time span in words: "2 s ago", "5 min ago", "3 h ago", "4 days ago"."""
    if seconds < 120:
        return f"{max(0, int(seconds))} s ago"
    if seconds < 7200:
        return f"{int(seconds / 60)} min ago"
    if seconds < 172800:
        return f"{int(seconds / 3600)} h ago"
    return f"{int(seconds / 86400)} days ago"
