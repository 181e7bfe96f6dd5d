"""Who has guessed wrong how often, and how long the next guess from there must wait.

Failures are counted for each pair of address and login, and for each address. An address that goes on guessing waits
longer and longer; nobody else does, whatever login it guesses at: one attacker must not lock others out. Of IPv6 a /64
counts as one address, since whoever has one of its addresses has them all (RFC 6177). Pure: the time is a parameter.
Bounded: under a million addresses those that have been quiet for longest are forgotten.
"""

from __future__ import annotations

import ipaddress
from collections import OrderedDict
from collections.abc import Hashable
from dataclasses import dataclass

from hatchway.addresses import Address

FREE_AT_LOGIN = 4
"""Failures of an address at one login that cost nothing: people mistype."""

FREE_OF_ADDRESS = 20
"""Failures of an address at any logins that cost nothing: behind one address may be an office."""

FIRST_DELAY_S, LONGEST_DELAY_S = 1.0, 60.0
"""The delay after the first failure that costs something, in seconds; it doubles with each up to the longest."""

FORGET_S = 1800.0
"""Failures are forgotten when there has been none for so many seconds."""

ENTRIES_MAX = 20_000
"""Pairs, and addresses, that are remembered: some 10 MB."""


@dataclass(slots=True)
class _Failures:
    count: int
    last_at: float


class _Counts:
    """Failures by key. The longest quiet come first."""

    def __init__(self, free: int) -> None:
        self._free = free
        self._known: OrderedDict[Hashable, _Failures] = OrderedDict()

    def __len__(self) -> int:
        return len(self._known)

    def count(self, key: Hashable, now: float) -> int:
        found = self._known.get(key)
        return 0 if found is None or now - found.last_at >= FORGET_S else found.count

    def wait_s(self, key: Hashable, now: float) -> float:
        costly = self.count(key, now) - self._free
        if costly <= 0:
            return 0.0
        # More than this many doublings reach the longest delay anyway, and a float has its bounds.
        delay_s = min(FIRST_DELAY_S * 2.0 ** min(costly - 1, 32), LONGEST_DELAY_S)
        return max(0.0, self._known[key].last_at + delay_s - now)

    def failed(self, key: Hashable, now: float) -> None:
        self._known[key] = _Failures(self.count(key, now) + 1, now)
        self._known.move_to_end(key)
        while len(self._known) > ENTRIES_MAX:
            self._known.popitem(last=False)

    def forget(self, key: Hashable) -> None:
        self._known.pop(key, None)


class Throttle:
    """The failures of all addresses. Every `now` is in seconds of a clock that never goes back.

    `address` is None when it is not known where a guess comes from: such guesses count as from one address.
    """

    def __init__(self) -> None:
        self._pairs = _Counts(FREE_AT_LOGIN)
        self._sources = _Counts(FREE_OF_ADDRESS)
        self._let_in: OrderedDict[tuple[str, str], None] = OrderedDict()

    def wait_s(self, address: Address | None, login: str, now: float) -> float:
        """How many seconds the next guess from there at that login has to wait; 0: none."""
        source = source_of(address)
        return max(self._pairs.wait_s((source, login), now), self._sources.wait_s(source, now))

    def suspicion(self, address: Address | None, login: str, now: float) -> int:
        """How many failures there were from there lately: at that login, or, when more, at all logins."""
        source = source_of(address)
        return max(self._pairs.count((source, login), now), self._sources.count(source, now))

    def failed(self, address: Address | None, login: str, now: float) -> None:
        """A guess was wrong."""
        source = source_of(address)
        self._pairs.failed((source, login), now)
        self._sources.failed(source, now)

    def is_known(self, address: Address | None, login: str) -> bool:
        """Whether somebody was let in from there at that login, since this process was started."""
        return (source_of(address), login) in self._let_in

    def succeeded(self, address: Address | None, login: str) -> None:
        """A password was right: whoever is there has mistyped before. Their guesses at other logins stay counted."""
        pair = (source_of(address), login)
        self._pairs.forget(pair)
        self._let_in[pair] = None
        self._let_in.move_to_end(pair)
        while len(self._let_in) > ENTRIES_MAX:
            self._let_in.popitem(last=False)


def source_of(address: Address | None) -> str:
    """What counts as one address."""
    if isinstance(address, ipaddress.IPv6Address):
        return str(ipaddress.IPv6Network((int(address) >> 64 << 64, 64)))
    return "" if address is None else str(address)
