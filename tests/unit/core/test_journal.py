"""The record: bounded whatever strangers do, and nothing of it lost without saying so."""

from __future__ import annotations

import itertools
import sqlite3
import sys
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import TypeVar

import pytest
import trio
from sqlalchemy.exc import OperationalError
from structlog.testing import capture_logs
from trio.testing import MockClock, wait_all_tasks_blocked

from hatchway.access.decision import Denial
from hatchway.admin import attempts
from hatchway.admin.attempts import LOGINS_MAX, OTHERS_MAX, REASONS_COUNTED, ROWS_MAX, Attempts
from hatchway.admin.journal import BATCH, DAY_S, TRIM_AFTER, WAITING_MAX, WHAT_LENGTH, Journal
from hatchway.admin.repeats import ROWS_MAX as REPEATS_MAX
from hatchway.config import Log
from hatchway.model import EventKind, InstanceKey, Login, Mode, Uid, VolumeInfo, VolumeKind
from hatchway.registry.records import NewEvent, NewLogin
from hatchway.registry.store import Registry

T = TypeVar("T")

START = 1_700_000_040.0
"""The beginning of a minute."""


class Bed:
    """A journal on a real registry, with a clock and a database that fail on request."""

    def __init__(self, registry: Registry, config: Log) -> None:
        self.registry = registry
        self.now = START
        self.broken = False
        self.calls = 0
        self.before: Callable[[], None] | None = None
        self.journal = Journal(self.db, config, lambda: self.now)

    async def db(self, call: Callable[[Registry], T], /) -> T:
        await trio.lowlevel.checkpoint()
        self.calls += 1
        if self.before is not None:
            self.before()
        if self.broken:
            raise OperationalError("INSERT INTO events", {}, sqlite3.OperationalError("database or disk is full"))
        return call(self.registry)

    def rows(self) -> list[NewEvent]:
        return [found.event for found in self.registry.events(limit=1_000_000)]

    def change(self, what: str, kind: EventKind = EventKind.CHANGE) -> None:
        self.journal.record(NewEvent(self.now, kind, what, who="uid 0"))


@pytest.fixture
def registry(tmp_path: Path) -> Iterator[Registry]:
    with closing(Registry.open(str(tmp_path / "registry.sqlite"))) as made:
        yield made


@pytest.fixture
def bed(registry: Registry) -> Bed:
    return Bed(registry, Log())


async def test_what_is_told_is_written_in_order_a_moment_later(bed: Bed, autojump_clock: MockClock) -> None:
    async with trio.open_nursery() as nursery:
        nursery.start_soon(bed.journal.run)
        for number in range(2 * BATCH + 1):
            bed.change(f"change {number}")
        assert bed.rows() == []
        await trio.sleep(1.5)
        assert [row.what for row in bed.rows()] == [f"change {number}" for number in range(2 * BATCH + 1)]
        calls = bed.calls
        await trio.sleep(30)
        assert bed.calls == calls, "nothing to write, and yet the registry was asked"
        nursery.cancel_scope.cancel()


async def test_stopping_writes_what_there_is(bed: Bed, autojump_clock: MockClock) -> None:
    async with trio.open_nursery() as nursery:
        nursery.start_soon(bed.journal.run)
        await wait_all_tasks_blocked()
        bed.change("the last")
        bed.journal.refused("anna", "192.0.2.1", "wrong password")
        nursery.cancel_scope.cancel()
    assert [row.what for row in bed.rows()] == ["the last", "wrong password"]
    # A handler may end after that.
    bed.change("even later")
    await bed.journal.finish()
    assert [row.what for row in bed.rows()] == ["the last", "wrong password", "even later"]


async def test_failures_are_one_row_for_address_login_and_minute(bed: Bed) -> None:
    for second in range(120):
        bed.now = START + second
        bed.journal.refused("anna", "192.0.2.1", "wrong password")
        if second % 2:
            bed.journal.refused("anna", "192.0.2.2", "wrong password")
    bed.journal.refused("anna", "192.0.2.1", "locked")
    await bed.journal.write()
    assert [(row.at - START, row.login, row.address, row.times) for row in bed.rows()] == [
        (0, "anna", "192.0.2.1", 60),
        (1, "anna", "192.0.2.2", 30),
    ]
    await bed.journal.finish()
    last = bed.rows()[2:]
    assert [(row.at - START, row.address, row.times) for row in last] == [(60, "192.0.2.1", 61), (61, "192.0.2.2", 30)]
    assert last[0] == NewEvent(
        START + 60,
        EventKind.REFUSED,
        "wrong password (60); locked (1)",
        login="anna",
        address="192.0.2.1",
        done=False,
        times=61,
    )


async def test_a_row_is_written_when_its_minute_is_over_though_nothing_more_comes(
    bed: Bed, autojump_clock: MockClock
) -> None:
    async with trio.open_nursery() as nursery:
        nursery.start_soon(bed.journal.run)
        bed.journal.refused("anna", "192.0.2.1", "wrong password")
        await trio.sleep(5)
        assert bed.rows() == []
        bed.now += 60
        await trio.sleep(5)
        assert [row.times for row in bed.rows()] == [1]
        nursery.cancel_scope.cancel()


async def test_a_million_failures_from_100_000_addresses(registry: Registry, autojump_clock: MockClock) -> None:
    """Five minutes of them: few rows, little memory, and whatever else happens is there."""
    bed = Bed(registry, Log(keep_events=3000))
    minutes, most = 5, 0
    async with trio.open_nursery() as nursery:
        nursery.start_soon(bed.journal.run)
        numbers = itertools.count()
        for minute in range(minutes):
            for _ in range(20):
                for _ in range(10_000):
                    number = next(numbers)
                    address = f"10.{number % 100_000 >> 16}.{number >> 8 & 255}.{number & 255}"
                    bed.journal.refused(f"u{number}", address, "wrong password")
                most = max(most, _size(bed.journal))
                bed.change(f"change {minute}")
                bed.journal.record(NewEvent(bed.now, EventKind.LOGIN, "logged in", login="anna"))
                bed.now += 3
                await trio.sleep(3)
        nursery.cancel_scope.cancel()
    rows = bed.rows()
    refused = [row for row in rows if row.kind is EventKind.REFUSED]
    assert len(refused) <= minutes * (ROWS_MAX + 1)
    assert sum(row.times for row in refused) == 1_000_000
    assert max(row.times for row in refused) > 100_000
    assert f"from {OTHERS_MAX:,} or more other addresses" in refused[ROWS_MAX].what
    assert [row.what for row in rows if row.kind is EventKind.CHANGE] == [
        f"change {minute}" for minute in range(minutes) for _ in range(20)
    ]
    assert sum(row.kind is EventKind.LOGIN for row in rows) == 20 * minutes
    assert not any(row.kind is EventKind.LOST for row in rows)
    assert most < 4 << 20
    assert bed.journal._attempts.events() == []
    # The oldest failures go when there are too many, and take nothing else with them.
    await bed.journal._trim()
    kinds = [row.kind for row in bed.rows()]
    assert kinds.count(EventKind.REFUSED) == 3000
    assert kinds.count(EventKind.CHANGE) == kinds.count(EventKind.LOGIN) == 100


def _size(journal: Journal) -> int:
    """Bytes that what is counted in this minute and waits takes up."""
    seen: set[int] = set()

    def size(value: object) -> int:
        if id(value) in seen:
            return 0
        seen.add(id(value))
        total = sys.getsizeof(value)
        if isinstance(value, dict):
            return total + sum(size(key) + size(one) for key, one in value.items())
        if isinstance(value, list | set | tuple):
            return total + sum(size(one) for one in value)
        if isinstance(value, Attempts):
            return total + size(vars(value))
        slots = getattr(type(value), "__slots__", ())
        return total + sum(size(getattr(value, name)) for name in slots)

    return size(journal._attempts) + size(journal._waiting)


def test_one_address_cannot_take_all_rows_of_a_minute() -> None:
    minute = Attempts(0)
    for number in range(5000):
        minute.add(f"user{number}", "192.0.2.66", "wrong password", "", float(number))
    minute.add("anna", "192.0.2.1", "wrong password", "shop/web/1", 5000.0)
    rows = minute.events()
    assert len(rows) == LOGINS_MAX + 2
    assert rows[LOGINS_MAX].what == "wrong password, of other logins"
    assert (rows[LOGINS_MAX].login, rows[LOGINS_MAX].address) == ("", "192.0.2.66")
    assert rows[LOGINS_MAX].times == 5000 - LOGINS_MAX
    assert (rows[-1].login, rows[-1].instance, rows[-1].times) == ("anna", "shop/web/1", 1)


def test_of_those_beyond_the_rows_the_addresses_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attempts, "ROWS_MAX", 1)
    minute = Attempts(0)
    for address in ("a", "b", "c", "b"):
        minute.add("anna", address, f"why {address}", "shop/web/1", 1.0)
    row = minute.events()[-1]
    assert (row.what, row.times) == ("why b (2); why c (1), from 2 other addresses", 3)
    assert (row.instance, row.login, row.address) == ("", "", "")


def test_a_few_reasons_are_named_and_all_counted() -> None:
    minute = Attempts(0)
    for number in range(8):
        minute.add("anna", "192.0.2.1", f"why {min(number, 5)}", "", 1.0)
    (row,) = minute.events()
    assert row.what == "why 5 (3); why 0 (1); why 1 (1); why 2 (1); for other reasons (2)"


def test_the_most_frequent_reason_comes_first_whenever_it_came() -> None:
    minute = Attempts(0)
    for number in range(100):
        minute.add("anna", "192.0.2.1", f"why {number}", "", 1.0)
    for _ in range(3):
        minute.add("anna", "192.0.2.1", "why 15", "", 1.0)
    (row,) = minute.events()
    assert row.times == 103
    assert row.what == "why 15 (4); why 0 (1); why 1 (1); why 2 (1); for other reasons (96)"
    assert len(minute._counts["192.0.2.1", "anna"].reasons) == REASONS_COUNTED + 1


def test_all_reasons_there_are_can_be_told_apart() -> None:
    unchecked, wrong_password = 2, 1
    assert len(Denial) + unchecked + wrong_password <= REASONS_COUNTED


async def test_what_strangers_say_is_bounded_and_printable(bed: Bed) -> None:
    bed.journal.refused("a\n\x1b[31m\udc80\0" + "x" * 100_000, "1.2.3.4\u202e", "wrong password")
    bed.journal.record(NewEvent(bed.now, EventKind.CHANGE, "y" * 100_000, instance="a\nb", who="\x7f"))
    await bed.journal.finish()
    change, refused = bed.rows()
    assert refused.login == "a\ufffd\ufffd[31m\ufffd\ufffd" + "x" * 54 + "…"
    assert refused.address == "1.2.3.4\ufffd"
    assert len(change.what) == WHAT_LENGTH
    assert (change.instance, change.who) == ("a\ufffdb", "\ufffd")


async def test_a_failure_is_found_under_the_instance_whose_login_it_was(bed: Bed) -> None:
    data = VolumeInfo(path="/data", kind=VolumeKind.VOLUME, name="d", driver="local", source="/d")
    bed.registry.enable(
        InstanceKey("shop", "web", 1),
        [(data, Mode.READ_ONLY)],
        by="root",
        now=1.0,
        new=NewLogin(Login("shop-web-1"), Uid(70000)),
    )
    for login in ("shop-web-1", "shop-web-2", "x'; --"):
        bed.journal.refused(login, "192.0.2.1", "wrong password")
    page = await bed.journal.read(limit=10, instance="shop/web/1")
    assert [(number, event.login) for number, event in page.events] == [(None, "shop-web-1")]
    await bed.journal.finish()
    assert [row.instance for row in bed.rows()] == ["shop/web/1", "", ""]


async def test_a_flood_of_one_kind_costs_no_other(bed: Bed) -> None:
    bed.broken = True
    for number in range(WAITING_MAX + 5):
        bed.now = START + number / 1000
        bed.change(f"login {number}", EventKind.LOGIN)
    bed.change("a change")
    await bed.journal.write()
    bed.broken = False
    await bed.journal.write()
    rows = bed.rows()
    assert [row.what for row in rows[:WAITING_MAX]] == [f"login {number}" for number in range(WAITING_MAX)]
    assert rows[WAITING_MAX].what == "a change"
    lost = rows[WAITING_MAX + 1 :]
    assert [(row.kind, row.times, row.done, row.at) for row in lost] == [(EventKind.LOST, 5, False, START + 10)]
    # The loss is told once, and there is room again.
    bed.change("after", EventKind.LOGIN)
    await bed.journal.write()
    assert [row.what for row in bed.rows()[WAITING_MAX + 2 :]] == ["after"]


async def test_a_full_disk_loses_nothing_and_is_told_once(bed: Bed, autojump_clock: MockClock) -> None:
    bed.broken = True
    with capture_logs() as logs:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(bed.journal.run)
            for number in range(5):
                bed.change(f"change {number}")
                await trio.sleep(30)
            assert bed.rows() == []
            assert bed.calls < 30
            bed.broken = False
            await trio.sleep(15)
            assert [row.what for row in bed.rows()] == [f"change {number}" for number in range(5)]
            bed.broken = True
            bed.change("more")
            await trio.sleep(15)
            nursery.cancel_scope.cancel()
    fails = "the record cannot be written, will be tried again"
    assert [entry["event"] for entry in logs] == [fails, "the record is written again", fails]
    assert logs[0]["error"] == "database or disk is full"


async def test_what_comes_while_rows_are_written_is_written_next(bed: Bed) -> None:
    bed.change("first")
    bed.before = lambda: bed.change("meanwhile") if bed.calls == 1 else None
    await bed.journal.write()
    assert [row.what for row in bed.rows()] == ["first", "meanwhile"]


async def test_reading_shows_what_is_not_written_yet_and_nothing_twice(bed: Bed) -> None:
    bed.now = START + 5
    bed.journal.refused("anna", "192.0.2.1", "wrong password")
    bed.now = START + 7
    bed.change("a change")
    page = await bed.journal.read(limit=10)
    assert [(number, event.what) for number, event in page.events] == [(None, "wrong password"), (1, "a change")]
    assert page.last == 1
    assert (await bed.journal.read(limit=10, kinds=[EventKind.REFUSED])).events[0][1].times == 1
    assert [event.what for _, event in (await bed.journal.read(limit=10, since=START + 6)).events] == ["a change"]
    assert (await bed.journal.read(limit=10, instance="shop/web/1")).events == ()
    assert (await bed.journal.read(limit=1)).events == page.events[1:]
    bed.now = START + 65
    page = await bed.journal.read(limit=10)
    # In the order of their time, not of their numbers.
    assert [(number, event.what) for number, event in page.events] == [(2, "wrong password"), (1, "a change")]
    assert page.last == 2
    # And so the newest is the newest, though the other was written later.
    assert [event.what for _, event in (await bed.journal.read(limit=1)).events] == ["a change"]
    refused = await bed.journal.read(limit=1, kinds=[EventKind.REFUSED])
    assert [event.what for _, event in refused.events] == ["wrong password"]
    bed.broken = True
    bed.change("one more")
    with pytest.raises(OperationalError):
        await bed.journal.read(limit=10)


async def test_going_on_after_what_was_read_gives_each_event_once(bed: Bed) -> None:
    for number in range(5):
        bed.change(f"change {number}")
    page = await bed.journal.read(limit=2)
    assert ([event.what for _, event in page.events], page.last) == (["change 3", "change 4"], 5)
    for number in range(5, 8):
        bed.change(f"change {number}")
    bed.journal.refused("anna", "192.0.2.1", "wrong password")
    page = await bed.journal.read(limit=2, after=page.last)
    assert ([event.what for _, event in page.events], page.last) == (["change 5", "change 6"], 7)
    page = await bed.journal.read(limit=2, after=page.last)
    # What is still counted comes behind it, with no number, each time.
    for _ in range(2):
        assert [(number, event.what) for number, event in page.events] == [(8, "change 7"), (None, "wrong password")]
        assert page.last == 8
        page = await bed.journal.read(limit=2, after=7)
    # Past what is of no interest, too.
    page = await bed.journal.read(limit=2, after=page.last, kinds=[EventKind.LOGIN])
    bed.change("of no interest")
    page = await bed.journal.read(limit=2, after=page.last, kinds=[EventKind.LOGIN])
    assert (page.events, page.last) == ((), 9)


async def test_the_oldest_are_forgotten_each_sort_by_itself(registry: Registry, autojump_clock: MockClock) -> None:
    bed = Bed(registry, Log(keep_events=1000, keep_days=2))
    bed.now = START - 3 * 86400
    bed.change("too old")
    bed.now = START - 86400 - 1
    bed.change("in between", EventKind.AUTO)
    bed.now = START
    bed.change("by an operator")
    for number in range(1500):
        bed.change(f"by a label {number}", EventKind.AUTO)
        bed.change(f"in {number}", EventKind.LOGIN)
        bed.change(f"out {number}", EventKind.END)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(bed.journal.run)
        await trio.sleep(1)
        rows = bed.rows()
        assert [row.what for row in rows if row.kind is EventKind.CHANGE] == ["by an operator"]
        assert next(row.what for row in rows if row.kind is EventKind.AUTO) == "by a label 500"
        assert next(row.what for row in rows if row.kind in (EventKind.LOGIN, EventKind.END)) == "in 1000"
        assert len(rows) == 2001
        # And again before an hour is over, when many have come.
        for number in range(TRIM_AFTER):
            bed.change(f"again {number}", EventKind.AUTO)
        await trio.sleep(2)
        assert len([row for row in bed.rows() if row.kind is EventKind.AUTO]) == 1000
        nursery.cancel_scope.cancel()


async def test_exactly_so_many_are_kept_and_for_exactly_so_long(registry: Registry, autojump_clock: MockClock) -> None:
    bed = Bed(registry, Log(keep_events=1000, keep_days=1))
    bed.now = START - 86400.25
    bed.change("too old by a quarter of a second")
    bed.now = START - 86400
    bed.change("just not too old")
    for number in range(999):
        bed.change(f"change {number}")
    for number in range(1001):
        bed.change(f"label {number}", EventKind.AUTO)
    bed.now = START
    async with trio.open_nursery() as nursery:
        nursery.start_soon(bed.journal.run)
        await trio.sleep(1)
        nursery.cancel_scope.cancel()
    kept = {kind: [row.what for row in bed.rows() if row.kind is kind] for kind in (EventKind.CHANGE, EventKind.AUTO)}
    assert kept[EventKind.CHANGE] == ["just not too old", *(f"change {number}" for number in range(999))]
    assert kept[EventKind.AUTO] == [f"label {number}" for number in range(1, 1001)]


async def test_who_logs_in_again_and_again_pushes_out_nobody_elses_logins(registry: Registry) -> None:
    bed = Bed(registry, Log(keep_events=1000))

    def login(instance: str, what: str) -> None:
        bed.journal.record(NewEvent(bed.now, EventKind.LOGIN, what, instance))

    for number in range(300):
        login("shop/web/1", f"in {number}")
    for number in range(3000):
        login("evil/web/1", f"in {number}")
    await bed.journal.write()
    calls = bed.calls
    await bed.journal._trim()
    assert bed.calls > calls + 3, "in more than one transaction"
    rows = bed.rows()
    assert [row.what for row in rows if row.instance == "shop/web/1"] == [f"in {number}" for number in range(300)]
    assert [row.what for row in rows if row.instance == "evil/web/1"] == [
        f"in {number}" for number in range(2300, 3000)
    ]


async def test_a_clock_that_is_set_forward_takes_nothing_for_a_day(registry: Registry) -> None:
    config = Log(keep_days=30)
    bed = Bed(registry, config)
    for day in range(10):
        bed.now = START + day * DAY_S
        bed.change(f"day {day}")
    await bed.journal.write()
    bed.now += 400 * DAY_S
    bed.change("the clock was set")
    await bed.journal.write()
    everything = bed.rows()
    for hours in (0, 1, 12):
        bed.now += hours * 3600
        # Another core does not know better than the one before.
        bed.journal = Journal(bed.db, config, lambda: bed.now)
        with capture_logs() as logs:
            await bed.journal._trim()
            await bed.journal._trim()
        assert bed.rows() == everything
        assert [(entry["log_level"], entry["days"]) for entry in logs] == [("warning", 399)]
    # If that is the right time, it counts from then on.
    bed.now += 12 * 3600
    with capture_logs() as logs:
        await bed.journal._trim()
    assert ([row.what for row in bed.rows()], logs) == (["the clock was set"], [])


async def test_what_is_too_old_is_forgotten_day_by_day(registry: Registry) -> None:
    bed = Bed(registry, Log(keep_days=3))
    with capture_logs() as logs:
        for day in range(10):
            bed.now = START + day * DAY_S
            bed.change(f"day {day}")
            await bed.journal.write()
            bed.now += 3600
            await bed.journal._trim()
    assert [row.what for row in bed.rows()] == ["day 7", "day 8", "day 9"]
    assert logs == []


# --- what people and holders of share links do -----------------------------------------------------------------------


async def test_what_a_guest_does_again_within_a_minute_is_counted(bed: Bed) -> None:
    def did(what: str, who: str = "link a (web) from 192.0.2.1") -> None:
        bed.journal.record(NewEvent(bed.now, EventKind.GUEST, what, instance="shop/web/1", who=who))

    def rows() -> list[tuple[str, str, float, int]]:
        return [(row.what, row.who[5:6], row.at - START, row.times) for row in bed.rows()]

    did("password shown")
    did("password shown", "link b (web)")
    await bed.journal.write()
    first = [("password shown", "a", 0.0, 1), ("password shown", "b", 0.0, 1)]
    assert rows() == first, "the first is written at once"
    for second in range(10, 50):
        bed.now = START + second
        did("password shown")
    bed.change("changed")
    await bed.journal.write()
    page = await bed.journal.read(limit=10)
    assert [(number is None, one.what, one.times) for number, one in page.events if one.kind is EventKind.GUEST] == [
        (False, "password shown", 1),
        (False, "password shown", 1),
        (True, "password shown", 40),
    ]
    assert [one.times for _, one in (await bed.journal.read(limit=1, kinds=[EventKind.GUEST])).events] == [40]
    bed.now = START + 60
    did("password shown")
    await bed.journal.write()
    again = [("password shown", "a", 10.0, 40), ("password shown", "a", 60.0, 1)]
    assert [row for row in rows() if row[0] != "changed"] == [*first, *again]
    latest = (await bed.journal.read(limit=3)).events
    assert [one.at - START for _, one in latest] == [10.0, 49.0, 60.0], "by their time, whenever they were written"


async def test_what_is_counted_of_guests_is_bounded_and_not_lost(bed: Bed) -> None:
    for number in range(2 * REPEATS_MAX):
        for _ in range(3):
            bed.change(f"key removed: {number}", EventKind.GUEST)
    assert len(bed.journal._repeats._counts) == REPEATS_MAX
    await bed.journal.finish()
    assert sum(row.times for row in bed.rows()) == 3 * 2 * REPEATS_MAX
    assert len(bed.rows()) == REPEATS_MAX * 2 + REPEATS_MAX * 3


async def test_guests_push_out_nothing_that_operators_did(registry: Registry) -> None:
    bed = Bed(registry, Log(keep_events=1000))
    bed.change("by an operator")
    for number in range(3000):
        bed.now += 61
        bed.change(f"password shown {number}", EventKind.GUEST)
    await bed.journal.finish()
    await bed.journal._trim()
    kinds = [row.kind for row in bed.rows()]
    assert (kinds.count(EventKind.CHANGE), kinds.count(EventKind.GUEST)) == (1, 1000)
