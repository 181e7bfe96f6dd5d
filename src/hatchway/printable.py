"""Making text from elsewhere safe to print. Pure.

Names and paths of containers and their volumes, and whatever a stranger sends to sshd, are anything at all. Printed
as they are they could move the cursor, set the window's title or forge lines of our output.
"""

from __future__ import annotations

import re
import shlex
import unicodedata
from collections.abc import Iterable

# Control, format (bidirectional overrides among them), surrogate, private and unassigned characters, and separators
# but for the plain space (Unicode Standard, 4.5).
_UNSAFE = frozenset({"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp", "Zs"})
# Letters and symbols by their category that are blanks to look at: Hangul's fillers, and braille without a dot.
_BLANK = frozenset("\u115f\u1160\u2800\u3164\uffa0")
_AMBIGUOUS = re.compile(r"\\[xuU\\]")


def escaped(text: str) -> str:
    r"""`text` with every character that is not plainly visible written as `\xNN`, `\uNNNN` or `\UNNNNNNNN`.

    Text without such characters is unchanged. Where a backslash could be taken for the start of an escape, all
    backslashes of that text are doubled, so that two different texts never look the same.
    """
    if not any(_unsafe(char) for char in text) and not _AMBIGUOUS.search(text):
        return text
    return "".join(_escape(char) if _unsafe(char) else "\\\\" if char == "\\" else char for char in text)


def harmless(text: str) -> str:
    r"""`text` with what `escaped` escapes, and no backslash doubled: text that is escaped already stays as it is.

    Doubling backslashes again would open the quotes of a line of our logs: a `\"` would become `\\"`.
    """
    return "".join(_escape(char) if _unsafe(char) else char for char in text)


def shell_command(arguments: Iterable[str]) -> str:
    r"""`arguments` as a command for a shell, to be copied as it is: every character in it is plainly visible.

    Quoted as by shlex.join. An argument with others is a $'…' with their bytes in UTF-8 as `\xNN`, which bash, zsh and
    a POSIX shell of 2024 read.
    """
    return " ".join(_shell_quoted(argument) for argument in arguments)


def _shell_quoted(argument: str) -> str:
    if not any(map(_unsafe, argument)):
        return shlex.quote(argument)
    return "$'" + "".join(map(_in_quotes, argument)) + "'"


def _in_quotes(char: str) -> str:
    if _unsafe(char):
        return "".join(f"\\x{byte:02x}" for byte in char.encode("utf-8", "surrogateescape"))
    return f"\\{char}" if char in "\\'" else char


def plain(text: str, longest: int) -> str:
    """`text` with every character that is not plainly visible replaced by U+FFFD, and cut to `longest` characters.

    For what is kept: two texts may become one, but no more room is needed than for what is seen.
    """
    cut = text if len(text) <= longest else f"{text[: longest - 1]}…"
    return (
        cut
        if cut.isprintable()
        else "".join(char if char.isprintable() else "\N{REPLACEMENT CHARACTER}" for char in cut)
    )


def _unsafe(char: str) -> bool:
    return char != " " and (unicodedata.category(char) in _UNSAFE or char in _BLANK)


def _escape(char: str) -> str:
    code = ord(char)
    if code < 0x100:
        return f"\\x{code:02x}"
    return f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"
