"""Making text from elsewhere safe to print, and a few forms of numbers. Pure.

Names and paths of containers and their volumes are whatever somebody's image or compose file says. Printed as they
are they could move the cursor, set the window's title, forge lines of our output or, through rich's markup, its
colours.
"""

from __future__ import annotations

import re
import unicodedata

from rich.text import Text

# Control, format (bidirectional overrides among them), surrogate, private and unassigned characters, and separators
# but for the plain space (Unicode Standard, 4.5).
_UNSAFE = frozenset({"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp", "Zs"})
_AMBIGUOUS = re.compile(r"\\[xuU\\]")


def escaped(text: str) -> str:
    r"""`text` with every character that is not plainly visible written as `\xNN`, `\uNNNN` or `\UNNNNNNNN`.

    Text without such characters is unchanged. Where a backslash could be taken for the start of an escape, all
    backslashes of that text are doubled, so that two different texts never look the same.
    """
    if not any(_unsafe(char) for char in text) and not _AMBIGUOUS.search(text):
        return text
    return "".join(_escape(char) if _unsafe(char) else "\\\\" if char == "\\" else char for char in text)


def safe(text: str, style: str = "") -> Text:
    """`text`, escaped, as rich prints it: literally, in `style`, with no markup in it read."""
    return Text(escaped(text), style=style)


def _unsafe(char: str) -> bool:
    return char != " " and unicodedata.category(char) in _UNSAFE


def _escape(char: str) -> str:
    code = ord(char)
    if code < 0x100:
        return f"\\x{code:02x}"
    return f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


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
