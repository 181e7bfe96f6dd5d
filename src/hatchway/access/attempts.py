"""Checking passwords, a few at a time: in whose turn, and after what wait.

A check takes a processor and memory for a while (credentials.passwords), and anybody who reaches the port can ask for
one. So there are PARALLEL at a time, one for each pair of address and login, and in this order: who has been let in
at that login from there before; who comes from no network that guesses from ever new addresses; the login at which the
fewest wait; who has guessed wrong least; the network of which the fewest wait. So a flood at one login does not keep
those of another waiting, nor its owner where they were let in before, and one from a network nobody outside it.
"""

from __future__ import annotations

import heapq
import itertools
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Hashable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from typing import NamedTuple, TypeVar

import trio

from hatchway.access.throttle import Throttle
from hatchway.addresses import Address, site_of, source_of

T = TypeVar("T")

PARALLEL = 2
"""Checks at once. Each has 64 MiB."""

WAITING_MAX = 100
"""Guesses that wait for a check. With more, those from where most wrong ones came are refused unchecked."""

SUSPECTS_MAX = 10
"""As WAITING_MAX, of guesses from where there were wrong ones already. Guesses that wait hold connections open, and
when there are many sshd turns others away by chance, before it asks us anything."""

HOLD_S = 2.0
"""Longest delay, in seconds, that a guess waits for here; one that had to wait longer is refused unchecked.

Each guess that waits holds one of the connections sshd allows before login (MaxStartups, sshd_config(5))."""

FAILURE_S = 0.3
"""A guess that is refused is refused after so many seconds at the earliest: that the login is unknown, that it has no
password, or which kind of hash, does not show unless a check takes longer than this."""


class UncheckedError(Exception):
    """The guess was not looked at; says why. `wait_s`: how many seconds until the next one is, if that is known."""

    def __init__(self, why: str, wait_s: float | None = None) -> None:
        super().__init__(why)
        self.wait_s = wait_s


class Priority(NamedTuple):
    """In which order guesses are looked at: the smaller first.

    `crowd` and `suspicion` are the Throttle's; `waiting` guesses wait at the same login, `beside` from the same
    network.
    """

    stranger: bool
    crowd: int
    waiting: int
    suspicion: int
    beside: int

    @property
    def suspect(self) -> bool:
        """Whether it is of SUSPECTS_MAX."""
        return self.stranger and (self.crowd > 0 or self.suspicion > 0)


@dataclass(slots=True)
class _Waiter:
    """Somebody who waits until `event`: for a turn that is passed on to them, or for being `refused`."""

    event: trio.Event = field(default_factory=trio.Event)
    refused: bool = False


class _Turns:
    """`most` turns at once, the lowest priority first, and of the same priority who came first."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._taken = 0
        self._numbers = itertools.count()
        self._waiting: list[tuple[Priority, int, _Waiter]] = []

    @asynccontextmanager
    async def turn(self, priority: Priority) -> AsyncIterator[None]:
        """Wait for a turn and have it. Raises UncheckedError when too many wait that come first."""
        if self._taken < self._most:
            self._taken += 1
        else:
            await self._wait(priority)
        try:
            yield
        finally:
            self._pass_on()

    async def _wait(self, priority: Priority) -> None:
        waiter = _Waiter()
        entry = (priority, next(self._numbers), waiter)
        heapq.heappush(self._waiting, entry)
        suspects = [one for one in self._waiting if one[0].suspect]
        if len(self._waiting) > WAITING_MAX or len(suspects) > SUSPECTS_MAX:
            # Nobody makes room for those who have guessed wrong but one of them.
            worst = max(suspects if len(suspects) > SUSPECTS_MAX else self._waiting)
            self._remove(worst)
            worst[2].refused = True
            worst[2].event.set()
        try:
            await waiter.event.wait()
        except trio.Cancelled:
            if not waiter.event.is_set():
                self._remove(entry)
            elif not waiter.refused:
                # We left in the very moment in which the turn was passed on to us.
                self._pass_on()
            raise
        if waiter.refused:
            raise UncheckedError("too many guesses at once")

    def _remove(self, entry: tuple[Priority, int, _Waiter]) -> None:
        self._waiting.remove(entry)
        heapq.heapify(self._waiting)

    def _pass_on(self) -> None:
        if self._waiting:
            heapq.heappop(self._waiting)[2].event.set()
        else:
            self._taken -= 1


@contextmanager
def _counted(counts: Counter[Hashable], key: Hashable) -> Iterator[None]:
    """Count one more of `key` for a while. Nothing is kept of those of which there are none."""
    counts[key] += 1
    try:
        yield
    finally:
        counts[key] -= 1
        if not counts[key]:
            del counts[key]


class Attempts:
    """All guesses at passwords of one sort. For one event loop.

    `failure_s` as FAILURE_S. Who is refused has had their turn, and that of their pair, for `hold_s` seconds at the
    least, so that what a check was does not show by how long others wait. What `beside` has counted of an address makes
    guesses from there wait here too, but nothing that is counted here makes any wait there: it is for guesses of which
    somebody else says where they come from, and may be wrong.
    """

    def __init__(self, *, failure_s: float | None = None, hold_s: float = 0.0, beside: Throttle | None = None) -> None:
        self.throttle = Throttle()
        self._beside = beside
        self._failure_s = failure_s
        self._hold_s = hold_s
        self._turns = _Turns(PARALLEL)
        self._slow_turns = _Turns(1)
        # Of their own: whatever else takes long in threads, no check waits for it.
        self._threads = trio.CapacityLimiter(PARALLEL + 1)
        # Guesses that wait or are looked at, by login and by network.
        self._logins: Counter[Hashable] = Counter()
        self._networks: Counter[Hashable] = Counter()
        self._pairs: dict[Hashable, tuple[trio.Lock, int]] = {}

    async def check(
        self, address: Address | None, login: str, verify: Callable[[], bool], *, slow: bool = False
    ) -> bool:
        """Whether `verify`, called in a thread, says that the guess is right. `slow`: that may take a second.

        `address` is where it comes from, None if that is not known. Raises UncheckedError when it was not looked at,
        and what `verify` raises. Does not return before FAILURE_S seconds unless the guess is right.
        """

        async def ask() -> bool:
            return await self.in_thread(verify)

        return await self._late(address, login, ask, self._slow_turns if slow else self._turns)

    async def ask(
        self, address: Address | None, login: str, ask: Callable[[], Awaitable[bool]], *, slow: bool = False
    ) -> bool:
        """As `check`, where `ask` has somebody else look at the guess."""
        return await self._late(address, login, ask, self._slow_turns if slow else self._turns)

    async def in_thread(self, call: Callable[[], T]) -> T:
        """Run `call`, which a guess is looked at with, in a thread that is for guesses of this sort alone."""
        return await trio.to_thread.run_sync(call, limiter=self._threads)

    async def _late(
        self, address: Address | None, login: str, ask: Callable[[], Awaitable[bool]], turns: _Turns
    ) -> bool:
        earliest = trio.current_time() + (FAILURE_S if self._failure_s is None else self._failure_s)
        right = False
        try:
            right = await self._check(address, login, ask, turns)
        finally:
            if not right:
                await trio.sleep_until(earliest)
        return right

    async def _check(
        self, address: Address | None, login: str, ask: Callable[[], Awaitable[bool]], turns: _Turns
    ) -> bool:
        # Of each pair one at a time: else all that arrive at once were free.
        async with self._pair((source_of(address), login)):
            await trio.sleep(self._check_wait(address, login, HOLD_S))
            network, now = site_of(address), trio.current_time()
            priority = Priority(
                stranger=not self.throttle.is_known(address, login),
                crowd=self.throttle.crowd(address, now),
                waiting=self._logins[login],
                suspicion=self.throttle.suspicion(address, login, now),
                beside=self._networks[network],
            )
            with _counted(self._logins, login), _counted(self._networks, network):
                async with turns.turn(priority):
                    # Others from there may have been wrong meanwhile: else all that arrive at once were free.
                    self._check_wait(address, login, HOLD_S)
                    right = await self._held(ask)
            if right:
                self.throttle.succeeded(address, login)
            else:
                self.throttle.failed(address, login, trio.current_time())
            return right

    async def _held(self, ask: Callable[[], Awaitable[bool]]) -> bool:
        earliest, right = trio.current_time() + self._hold_s, False
        try:
            right = await ask()
        finally:
            if not right:
                await trio.sleep_until(earliest)
        return right

    def _check_wait(self, address: Address | None, login: str, most_s: float) -> float:
        """How many seconds the next guess has to wait. Raises UncheckedError when that is more than `most_s`."""
        wait_s = self.throttle.wait_s(address, login, trio.current_time())
        if self._beside is not None:
            wait_s = max(wait_s, self._beside.wait_of_address_s(address, trio.current_time()))
        if wait_s > most_s:
            raise UncheckedError("too many wrong guesses", wait_s)
        return wait_s

    @asynccontextmanager
    async def _pair(self, pair: Hashable) -> AsyncIterator[None]:
        lock, users = self._pairs.get(pair, (trio.Lock(), 0))
        self._pairs[pair] = lock, users + 1
        try:
            async with lock:
                yield
        finally:
            lock, users = self._pairs[pair]
            if users == 1:
                del self._pairs[pair]
            else:
                self._pairs[pair] = lock, users - 1
