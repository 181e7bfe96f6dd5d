"""The type of everything that must not be seen: passwords and private keys.

A secret reaches a log, a traceback or a socket by accident only through text, and this type has none: every way of
formatting it gives the same placeholder, and encoders refuse it. `reveal` is the only way out, so a search for that
word finds every place where a secret leaves.
"""

from __future__ import annotations

import hmac
from typing import NoReturn, final

from hatchway.errors import ConfigError

_SHOWN = "<secret>"


class DamagedSecretError(ConfigError):
    """A stored secret is of no use: it was changed, moved to another place or belongs to another key."""


@final
class Secret:
    """Text that is never shown. Not hashable, not copyable, not to be pickled or encoded.

    Raises TypeError for anything but text and ValueError for text that UTF-8 cannot express, neither with the value.
    """

    __slots__ = ("_value",)

    def __init__(self, value: str) -> None:
        if not isinstance(value, str):
            raise TypeError(f"a secret is text, not {type(value).__name__}")
        # UnicodeEncodeError carries the whole text: refused here, it cannot happen where the secret is used.
        if any("\ud800" <= character <= "\udfff" for character in value):
            raise ValueError("a secret must be text that UTF-8 can express")
        self._value = value

    def reveal(self) -> str:
        """The text itself."""
        return self._value

    def __repr__(self) -> str:
        return _SHOWN

    def __str__(self) -> str:
        return _SHOWN

    def __format__(self, format_spec: str) -> str:
        return _SHOWN

    def __eq__(self, other: object) -> bool:
        """Whether both hold the same text; takes the same time wherever they differ."""
        if not isinstance(other, Secret):
            return NotImplemented
        return hmac.compare_digest(self._value.encode(), other._value.encode())

    def __reduce__(self) -> NoReturn:
        raise TypeError("a secret is neither pickled nor copied")
