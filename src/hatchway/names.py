"""Text of an engine made fit for keys, frames and terminals. Pure.

An engine passes on what a container's owner wrote: control characters that would forge a line of a log or of a
terminal, marks that turn text around, lone surrogates that no UTF-8 frame can hold.
"""

from __future__ import annotations

import hashlib
import unicodedata

KEY_PART_MAX = 255
"""Longest part of an instance's key, in characters. A longer one is cut and ends in a hash of the whole."""

_INVISIBLE = frozenset({"Cc", "Cf", "Cs", "Zl", "Zp"})
"""Unicode's general categories of control and format characters, surrogates, line and paragraph separators."""


def encodable(text: str) -> str:
    """`text` as it is, but with "?" for what UTF-8 cannot express."""
    return text.encode(errors="replace").decode()


def printable(text: str) -> str:
    """`text` without control characters, line breaks, direction marks and the like."""
    if text.isascii() and text.isprintable():
        return text
    return "".join(char for char in text if unicodedata.category(char) not in _INVISIBLE)


def key_part(text: str) -> str:
    """`text` as environment or container of an InstanceKey: printable, without "/". Empty when nothing is left.

    If anything had to be changed it ends in a hash of the whole: no other text becomes what an honest one is.
    """
    part = printable(text).replace("/", "_").strip()
    if not part or (part == text and len(part) <= KEY_PART_MAX):
        return part
    digest = hashlib.sha256(text.encode(errors="surrogatepass")).hexdigest()[:16]
    return f"{part[: KEY_PART_MAX - 17]}-{digest}"
