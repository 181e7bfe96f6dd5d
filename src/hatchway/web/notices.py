"""What an operation has to say, until the page after it says it. Never a secret, and never in a URL."""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Callable

import msgspec

KEPT_S = 120.0
"""How long a notice waits for its page."""
SESSIONS_MAX = 1000
OF_SESSION_MAX = 5


class Notice(msgspec.Struct, frozen=True):
    """A sentence or two. `good`: it was done."""

    text: str
    good: bool
    at: float


class Notices:
    """Those that wait, by session. `now` gives seconds of a clock that only goes on."""

    def __init__(self, now: Callable[[], float]) -> None:
        self._now = now
        self._waiting: OrderedDict[bytes, list[Notice]] = OrderedDict()

    def add(self, token: str, text: str, *, good: bool) -> None:
        """Say `text` on the next page of the session with this token."""
        key = _key(token)
        waiting = self._waiting.setdefault(key, [])
        waiting.append(Notice(text, good, self._now()))
        del waiting[:-OF_SESSION_MAX]
        self._waiting.move_to_end(key)
        while len(self._waiting) > SESSIONS_MAX:
            self._waiting.popitem(last=False)

    def take(self, token: str) -> list[Notice]:
        """Those of the session, each once."""
        oldest = self._now() - KEPT_S
        return [one for one in self._waiting.pop(_key(token), []) if one.at >= oldest]


def _key(token: str) -> bytes:
    # Tokens are kept nowhere in this process.
    return hashlib.sha256(token.encode()).digest()
