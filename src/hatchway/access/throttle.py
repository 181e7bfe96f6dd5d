"""Who has guessed wrong how often, and how long the next guess from there must wait.

Failures are counted for each pair of address and login, and for each address. An address that goes on guessing waits
longer and longer; nobody else does, whatever login it guesses at: one attacker must not lock others out. Of IPv6 a /64
counts as one address, since whoever has one of its addresses has them all, and a customer gets a /56 or a /48 of them
(RFC 6177): so these are counted as well. More of them are free, and there is no more than one wait: customers of one
provider may share a /48. Of IPv4 nothing larger is: 256 addresses get nobody far, and belong to nobody together.

Pure: the time is a parameter. Bounded: under a million addresses those that have been quiet for longest are forgotten.
"""

from __future__ import annotations

import ipaddress
import math
from collections import OrderedDict, deque
from collections.abc import Hashable
from dataclasses import dataclass

from hatchway.addresses import Address, source_of

FREE_AT_LOGIN = 4
"""Failures of an address at one login that cost nothing: people mistype."""

FREE_OF_ADDRESS = 20
"""Failures of an address at any logins that cost nothing: behind one address may be an office."""

FREE_OF_NETWORK = {56: 60, 48: 240}
"""Failures within FORGET_S of all addresses of an IPv6 network that cost nothing, by the length of its prefix.

One address alone, which waits a minute between two guesses before long, does not use them up."""

FIRST_DELAY_S, LONGEST_DELAY_S = 1.0, 60.0
"""The delay after the first failure that costs something, in seconds; it doubles with each up to the longest."""

FORGET_S = 1800.0
"""Failures are forgotten when there has been none for so many seconds."""

FLOOD_S = 3600.0
"""Within which time wrong passwords at a login count together, from wherever, in seconds: login.lock_after."""

ENTRIES_MAX = 20_000
"""Pairs, addresses, networks of each length and who was let in, that are remembered: 23 MB when all are full."""


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


class _Rates:
    """Failures by key, which are forgotten one after the other: `free` of them in FORGET_S. The longest quiet come
    first."""

    def __init__(self, free: int) -> None:
        self._one_s = FORGET_S / free
        self._free = free
        # When all failures of a key will be forgotten.
        self._until: OrderedDict[int, float] = OrderedDict()

    def __len__(self) -> int:
        return len(self._until)

    def count(self, key: int, now: float) -> float:
        return max(0.0, self._until.get(key, now) - now) / self._one_s

    def wait_s(self, key: int, now: float) -> float:
        return max(0.0, self.count(key, now) - self._free) * self._one_s

    def failed(self, key: int, now: float) -> None:
        self._until[key] = max(self._until.get(key, now), now) + self._one_s
        self._until.move_to_end(key)
        while len(self._until) > ENTRIES_MAX:
            self._until.popitem(last=False)


class Throttle:
    """The failures of all addresses. Every `now` is in seconds of a clock that never goes back.

    `address` is None when it is not known where a guess comes from: such guesses count as from one address.
    """

    def __init__(self) -> None:
        self._pairs = _Counts(FREE_AT_LOGIN)
        self._sources = _Counts(FREE_OF_ADDRESS)
        self._networks = {length: _Rates(free) for length, free in FREE_OF_NETWORK.items()}
        self._let_in: OrderedDict[tuple[str, str], None] = OrderedDict()

    def wait_s(self, address: Address | None, login: str, now: float) -> float:
        """How many seconds the next guess from there at that login has to wait; 0: none."""
        source = source_of(address)
        own_s = max(self._pairs.wait_s((source, login), now), self._sources.wait_s(source, now))
        if self.is_known(address, login):
            return own_s  # whoever else is in that network
        return max([own_s, *(self._networks[length].wait_s(key, now) for length, key in _networks_of(address))])

    def wait_of_address_s(self, address: Address | None, now: float) -> float:
        """As `wait_s`, for what was guessed from that address at whatever login, without the networks around it."""
        return self._sources.wait_s(source_of(address), now)

    def suspicion(self, address: Address | None, login: str, now: float) -> int:
        """How many failures there were from there lately: at that login, or, when more, at all logins."""
        source = source_of(address)
        return max(self._pairs.count((source, login), now), self._sources.count(source, now))

    def crowd(self, address: Address | None, now: float) -> int:
        """How many more failures than an address has free there were lately in a network around it; 0: not so many."""
        counts = (self._networks[length].count(key, now) for length, key in _networks_of(address))
        return max(0, math.ceil(max(counts, default=0.0)) - FREE_OF_ADDRESS)

    def failed(self, address: Address | None, login: str, now: float) -> None:
        """A guess was wrong."""
        source = source_of(address)
        self._pairs.failed((source, login), now)
        self._sources.failed(source, now)
        for length, key in _networks_of(address):
            self._networks[length].failed(key, now)

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


class Flood:
    """How many wrong passwords there were at each login, from wherever. `most` 0: it does not matter.

    Each is remembered for FLOOD_S, whenever that begins: hours that were counted one after the other could be guessed
    in twice as often, about the moment between them. More than can be checked in that time are never remembered.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        # When they were, Unix seconds; the login that was guessed at last comes last.
        self._times: dict[str, deque[float]] = {}

    def is_too_much(self, login: str, now: float) -> bool:
        """Count one more at `now`, Unix seconds: whether that makes `most` within FLOOD_S. Then it begins anew."""
        if self._most == 0:
            return False
        times = self._times.pop(login, deque())
        while times and not 0 <= now - times[0] < FLOOD_S:
            times.popleft()
        times.append(now)
        if len(times) >= self._most:
            return True
        self._times[login] = times
        while (oldest := next(iter(self._times))) != login and not 0 <= now - self._times[oldest][-1] < FLOOD_S:
            del self._times[oldest]
        return False


def _networks_of(address: Address | None) -> list[tuple[int, int]]:
    """Length and bits of the prefixes of the networks around `address` that are counted."""
    if not isinstance(address, ipaddress.IPv6Address):
        return []
    return [(length, int(address) >> (128 - length)) for length in FREE_OF_NETWORK]
