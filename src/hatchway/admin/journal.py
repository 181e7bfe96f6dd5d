"""The record of what happened: logins, failures, ends of sessions and every change, in the registry's table of events.

What happens never waits for its record: it is told here, without blocking, and written a moment later, many rows at
once. Everything is bounded, each sort of event by itself, in memory as in the table: whoever can make many events of
one sort (anybody, of failed attempts; a login's holder, of logins; people and holders of share links, of what they do
in the web pages; a maker of containers, of what labels do) must not be able to push others out. In the table one
instance's events do not push out another's either. What is lost is counted, and the record says so.
Concurrency: all methods are for the event loop's thread. No secret is ever given to it.
"""

from __future__ import annotations

import functools
import itertools
import math
from collections import Counter
from collections.abc import Awaitable, Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Protocol, TypeVar

import trio

from hatchway import log
from hatchway.admin.attempts import ADDRESS_LENGTH, LOGIN_LENGTH, MINUTE_S, ROWS_MAX, Attempts
from hatchway.admin.repeats import ROWS_MAX as REPEATS_MAX
from hatchway.admin.repeats import Repeats
from hatchway.config import Log
from hatchway.model import EventKind, valid_login
from hatchway.printable import plain
from hatchway.registry.records import NewEvent
from hatchway.registry.store import Registry

T = TypeVar("T")

WRITE_EVERY_S = 1.0
RETRY_S = 10.0
"""How soon it is tried again when nothing can be written."""

FINISH_S = 5.0
"""How long stopping waits for what is still to be written."""

WAITING_MAX = 10_000
"""Events of one kind that wait to be written."""

BATCH = 500
"""Rows of one transaction: logins wait for the registry meanwhile."""

LATE_MAX = 2 * (ROWS_MAX + 1 + REPEATS_MAX)
"""Rows at most that were written after one whose event is later: those of what was counted for a minute, which are
written when it is over, and of the one before, which may have just been."""

COUNTED = frozenset({EventKind.REFUSED, EventKind.GUEST})
"""Kinds of events that are counted for a minute."""

TRIM_EVERY_S = 3600.0
TRIM_AFTER = 10_000
"""After how much time, or how many rows, the oldest are forgotten."""

TRIM_BATCH = 1000
"""Rows that are forgotten in one transaction."""

DAY_S = 86400.0

SORTS = (
    (EventKind.CHANGE, EventKind.LOST),
    (EventKind.GUEST,),
    (EventKind.AUTO, EventKind.LOCKED),
    (EventKind.LOGIN, EventKind.END),
    (EventKind.REFUSED,),
)
"""What is kept apart when the oldest are forgotten."""

INSTANCE_LENGTH = 300
WHO_LENGTH = 200
WHAT_LENGTH = 500
"""Characters that are kept."""


class Database(Protocol):
    """Runs a call with the registry in the registry's thread, as Core.db does."""

    def __call__(self, call: Callable[[Registry], T], /) -> Awaitable[T]: ...


@dataclass(frozen=True, slots=True)
class Page:
    """Events in the order of their time, each with its number, None for one that is not written yet.

    `last` is the number to go on after: nothing that was asked for and is written up to there is missing; 0 when there
    is nothing yet.
    """

    events: tuple[tuple[int | None, NewEvent], ...]
    last: int


class Journal:
    """One record. `now` gives Unix time in seconds."""

    def __init__(self, db: Database, config: Log, now: Callable[[], float]) -> None:
        self._db = db
        self._config = config
        self._now = now
        self._waiting: list[NewEvent] = []
        self._kinds: Counter[EventKind] = Counter()
        self._attempts = Attempts(0)
        self._repeats = Repeats(0)
        self._lost = 0
        self._lost_at = 0.0
        self._writing = trio.Lock()
        self._fails = False
        self._untrimmed = 0
        self._ahead = False
        self._logger = log.get()

    def record(self, event: NewEvent) -> None:
        """Have `event` written soon. Texts are cut to what is kept, and what is not plainly visible is taken out.

        Of what is of kind GUEST the same again within a minute is counted, and written when the minute is over.
        """
        event = _cut(event)
        if event.kind is EventKind.GUEST:
            self._end_minute()
            if self._repeats.add(event):
                return
        self._keep(event)

    def _keep(self, event: NewEvent) -> None:
        if self._kinds[event.kind] >= WAITING_MAX:
            self._lost_at = self._lost_at if self._lost else event.at
            self._lost += event.times
            return
        self._kinds[event.kind] += 1
        self._waiting.append(event)

    def refused(self, login: str, address: str, why: str, instance: str = "") -> None:
        """An attempt to log in failed. All texts may be a stranger's; `why` is one of few sentences of ours, without
        full stop. The row is written when the minute is over."""
        self._end_minute()
        self._attempts.add(login, address, why, instance, self._now())

    def _end_minute(self) -> None:
        minute = int(self._now() // MINUTE_S)
        if minute != self._attempts.minute:
            self._begin_minute(minute)

    def _begin_minute(self, minute: int) -> None:
        ended = self._counted()
        self._attempts, self._repeats = Attempts(minute), Repeats(minute)
        for event in ended:
            self._keep(_cut(event))

    def _counted(self) -> list[NewEvent]:
        return [*self._attempts.events(), *self._repeats.events()]

    async def run(self) -> None:
        """Write and trim for ever; when cancelled, write what there is."""
        trimmed_at = -math.inf
        try:
            while True:
                self._end_minute()
                await self.write()
                if not self._fails and (
                    trio.current_time() - trimmed_at >= TRIM_EVERY_S or self._untrimmed >= TRIM_AFTER
                ):
                    await self._trim()
                    trimmed_at = trio.current_time()
                await trio.sleep(RETRY_S if self._fails else WRITE_EVERY_S)
        finally:
            with trio.move_on_after(FINISH_S, shield=True):
                await self.finish()

    async def finish(self) -> None:
        """Write all there is, also of a minute that is not over. For when nothing more is to come."""
        self._begin_minute(self._attempts.minute)
        await self.write()

    async def write(self) -> None:
        """Write what waits. What cannot be written goes on waiting."""
        async with self._writing:
            while batch := self._batch():
                try:
                    await self._db(functools.partial(_store, events=batch))
                except Exception as exc:
                    if not self._fails:
                        # What SQLAlchemy raises says the whole statement, and has the database's own error in `orig`.
                        why = str(getattr(exc, "orig", exc))
                        self._logger.error("the record cannot be written, will be tried again", error=why)
                    self._fails = True
                    return
                if self._fails:
                    self._logger.info("the record is written again")
                self._fails = False
                del self._waiting[: len(batch)]
                self._kinds -= Counter(event.kind for event in batch)
                self._untrimmed += len(batch)

    def _batch(self) -> list[NewEvent]:
        if not self._waiting and self._lost:
            self._waiting += self._loss()
            self._kinds[EventKind.LOST] += 1
            self._lost = 0
        return self._waiting[:BATCH]

    def _loss(self) -> list[NewEvent]:
        if not self._lost:
            return []
        what = "not recorded: more happened at once than could be written"
        return [NewEvent(self._lost_at, EventKind.LOST, what, done=False, times=self._lost)]

    async def _trim(self) -> None:
        keep = self._config.keep_events
        try:
            if (before := await self._too_old()) is not None:
                await self._forget(functools.partial(Registry.forget_events, older_than=before, at_most=TRIM_BATCH))
            for kinds in SORTS:
                thin = functools.partial(Registry.thin_events, kinds=kinds, keep=keep, at_most=TRIM_BATCH)
                await self._forget(thin)
        except Exception:
            self._logger.exception("old events not forgotten")
        self._untrimmed = 0

    async def _forget(self, call: Callable[[Registry], int]) -> None:
        """`call` again and again, others having the registry in between, until it has forgotten all there is."""
        while await self._db(call):
            pass

    async def _too_old(self) -> float | None:
        """From before when events are too old, Unix seconds; None: there are none.

        Where the record has nothing of the last day but one, the clock may have been set forward, by which everything
        would be too old at once. So until there is a day of the new time, age is reckoned from the last event before
        the gap, however often the core is started meanwhile.
        """
        now, kept_s = self._now(), self._config.keep_days * DAY_S
        times = await self._db(functools.partial(Registry.event_times, before=now - DAY_S))
        if times is None or times[0] >= now - kept_s:
            self._ahead = False
            return None
        ahead_s = now - DAY_S - times[1]
        if ahead_s > DAY_S and not self._ahead:
            self._logger.warning(
                "the clock was set forward, or nothing happened: events that are too old by it are kept a day longer",
                days=int(ahead_s / DAY_S),
            )
        self._ahead = ahead_s > DAY_S
        return (times[1] + DAY_S if self._ahead else now) - kept_s

    async def read(
        self,
        *,
        limit: int,
        instance: str | None = None,
        kinds: Collection[EventKind] = (),
        since: float | None = None,
        after: int | None = None,
    ) -> Page:
        """The latest `limit` events by their time, also those not written yet. Arguments as in Registry.events; with
        `after` the first that were written since, and behind these what is still counted."""
        self._end_minute()
        await self.write()
        only = None if instance is None else plain(instance, INSTANCE_LENGTH)

        def look(registry: Registry) -> Page:
            late = LATE_MAX if after is None and (not kinds or COUNTED.intersection(kinds)) else 0
            found = registry.events(limit=limit + late, instance=only, kinds=kinds, since=since, after=after)
            written: list[tuple[int | None, NewEvent]] = [(one.id, one.event) for one in found]
            more: list[tuple[int | None, NewEvent]] = [
                (None, event)
                for event in _placed(registry, unwritten)
                if (only is None or event.instance == only)
                and (not kinds or event.kind in kinds)
                and (since is None or event.at >= since)
            ]
            # The record is written in the registry's thread only, in which this is.
            latest = found[-1:] if after is not None and len(found) == limit else registry.events(limit=1)
            if after is not None:
                more = more[: limit - len(written)]
            events = sorted([*written, *more], key=lambda one: one[1].at)
            return Page(tuple(events[-limit:]), latest[0].id if latest else 0)

        async with self._writing:
            # Not before: what was written meanwhile would be there twice.
            unwritten = self._counted()
            if after is None:
                unwritten = [*self._waiting, *self._loss(), *unwritten]
            return await self._db(look)


def _cut(event: NewEvent) -> NewEvent:
    return replace(
        event,
        instance=plain(event.instance, INSTANCE_LENGTH),
        login=plain(event.login, LOGIN_LENGTH),
        address=plain(event.address, ADDRESS_LENGTH),
        who=plain(event.who, WHO_LENGTH),
        what=plain(event.what, WHAT_LENGTH),
    )


def _store(registry: Registry, *, events: Sequence[NewEvent]) -> None:
    registry.add_events(_placed(registry, events))


def _placed(registry: Registry, events: Iterable[NewEvent]) -> list[NewEvent]:
    """`events`, those of a login with the instance it is of."""
    result: list[NewEvent] = []
    remaining = iter(events)
    while some := list(itertools.islice(remaining, BATCH)):
        logins = {one.login for one in some if not one.instance and valid_login(one.login)}
        whose = registry.whose(logins) if logins else {}
        result += [
            replace(one, instance=plain(whose[one.login], INSTANCE_LENGTH))
            if not one.instance and one.login in whose
            else one
            for one in some
        ]
    return result
