"""Who is signed in to the web pages, by token. The time is a parameter. In memory only: a core that is started
again knows nobody.

Of a token only its hash is kept, so that what is read from our memory opens nothing. Bounded: each viewer has a few,
and viewers of one kind never push out those of another.
"""

from __future__ import annotations

import hashlib
import math
import secrets
from collections.abc import Callable
from dataclasses import dataclass, field

import trio

from hatchway.wire.web import ViewerKind

TOKEN_BYTES = 32

PER_VIEWER_MAX = 10
"""Visits of one viewer at once: browsers and devices. With one more, that which was not used for longest ends."""

PER_KIND_MAX = 2000
"""As PER_VIEWER_MAX, of all viewers of one kind."""


@dataclass(slots=True, kw_only=True, eq=False)
class Visit:
    """Somebody who is signed in. `name` as in Viewer; `uid` is that of the account or login they had when signing in,
    `credential` the row of the password a person used, or of the link, which is called `link`.

    Times are seconds of a clock that never goes back. `ends_at`: at the latest. `looked_at`: when it was last looked
    whether that viewer still may be here; who looks has `looking`.
    """

    kind: ViewerKind
    name: str
    uid: int
    ends_at: float
    used_at: float
    looked_at: float
    credential: int | None = None
    link: str = ""
    looking: trio.Lock = field(default_factory=trio.Lock)


class Visits:
    """All of them. A visit ends after `idle_s` seconds without use, and after `lifetime_s` in any case."""

    def __init__(self, idle_s: float, lifetime_s: float) -> None:
        self._idle_s = idle_s
        self._lifetime_s = lifetime_s
        self._visits: dict[bytes, Visit] = {}

    def __len__(self) -> int:
        return len(self._visits)

    def begin(
        self,
        kind: ViewerKind,
        name: str,
        uid: int,
        now: float,
        credential: int | None = None,
        *,
        link: str = "",
        most_s: float = math.inf,
    ) -> tuple[str, Visit]:
        """A new visit, which ends after `most_s` seconds at the latest, and the token for it, which is nowhere else."""
        self._drop(lambda visit: self._is_over(visit, now))
        self._make_room(PER_VIEWER_MAX, lambda visit: (visit.kind, visit.name, visit.link) == (kind, name, link))
        self._make_room(PER_KIND_MAX, lambda visit: visit.kind is kind)
        token = secrets.token_urlsafe(TOKEN_BYTES)
        visit = Visit(
            kind=kind,
            name=name,
            uid=uid,
            ends_at=now + min(self._lifetime_s, most_s),
            used_at=now,
            looked_at=now,
            credential=credential,
            link=link,
        )
        self._visits[_digest(token)] = visit
        return token, visit

    def find(self, token: str, now: float) -> Visit | None:
        """The visit that `token` is for, which is used by that; None when there is none, or it is over."""
        digest = _digest(token)
        visit = self._visits.get(digest)
        if visit is None:
            return None
        if self._is_over(visit, now):
            del self._visits[digest]
            return None
        visit.used_at = now
        return visit

    def end(self, token: str, now: float) -> Visit | None:
        """End the visit that `token` is for, and return it; None when it was over anyway."""
        visit = self._visits.pop(_digest(token), None)
        return None if visit is None or self._is_over(visit, now) else visit

    def end_all(self, kind: ViewerKind, name: str) -> int:
        """End all visits of one viewer; how many there were."""
        return self._drop(lambda visit: (visit.kind, visit.name) == (kind, name))

    def _is_over(self, visit: Visit, now: float) -> bool:
        return now >= visit.ends_at or now - visit.used_at >= self._idle_s

    def _make_room(self, most: int, of: Callable[[Visit], bool]) -> None:
        found = sorted((visit.used_at, digest) for digest, visit in self._visits.items() if of(visit))
        for _, digest in found[: max(0, len(found) - most + 1)]:
            del self._visits[digest]

    def _drop(self, over: Callable[[Visit], bool]) -> int:
        found = [digest for digest, visit in self._visits.items() if over(visit)]
        for digest in found:
            del self._visits[digest]
        return len(found)


def _digest(token: str) -> bytes:
    return hashlib.sha256(token.encode("utf-8", "surrogatepass")).digest()
