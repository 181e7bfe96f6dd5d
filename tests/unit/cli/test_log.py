"""`hatchway log`."""

from __future__ import annotations

import datetime
import itertools
import json
from typing import TYPE_CHECKING, Any

import pytest

from hatchway.cli.log import Counting
from hatchway.model import EventKind
from hatchway.wire.admin import Log, LogEntry, ReadLog

if TYPE_CHECKING:
    from tests.unit.cli.conftest import Cli, FakeDaemon


def entry(**more: Any) -> LogEntry:
    fields: dict[str, Any] = {
        "id": 1,
        "at": datetime.datetime(2026, 1, 31, 14, 5).timestamp(),
        "kind": EventKind.CHANGE,
        "instance": "shop/web/1",
        "login": "shop-web-1",
        "address": "",
        "who": "",
        "what": "something",
        "done": True,
        "times": 1,
        **more,
    }
    return LogEntry(**fields)


def test_the_whole_table(run: Cli, daemon: FakeDaemon) -> None:
    daemon.answers[ReadLog] = Log(
        entries=(
            entry(what="enable /data", who="uid 0, logged in as uid 1000"),
            entry(kind=EventKind.LOGIN, address="192.0.2.7", what="logged in", who="key SHA256:abc"),
            entry(
                id=None,
                kind=EventKind.REFUSED,
                instance="",
                login="root",
                address="::1",
                what="no",
                done=False,
                times=5700,
            ),
            entry(what="disable /x: no such volume", done=False),
            entry(kind=EventKind.AUTO, what="access given to /x: hung up", done=False),
            entry(kind=EventKind.LOST, instance="", login="", what="not recorded", done=False, times=2),
            entry(kind=EventKind.END, what="session ended", who="password", read=12_373_197, written=0),
            entry(kind=EventKind.END, what="session ended after 3 s", who="password"),
        ),
        last=5,
    )
    done = run("log")
    assert (done.exit_code, done.stderr) == (0, "")
    assert done.stdout.splitlines() == [
        "2026-01-31 14:05:00  change   shop/web/1  -          enable /data  by uid 0, logged in as uid 1000",
        "2026-01-31 14:05:00  login    shop/web/1  192.0.2.7  logged in  by key SHA256:abc",
        "2026-01-31 14:05:00  refused  root        ::1        no  x 5,700",
        "2026-01-31 14:05:00  change   shop/web/1  -          not done: disable /x: no such volume",
        "2026-01-31 14:05:00  auto     shop/web/1  -          not done: access given to /x: hung up",
        "2026-01-31 14:05:00  lost     -           -          not recorded  x 2",
        "2026-01-31 14:05:00  end      shop/web/1  -          session ended: 11.8 MiB down, 0 B up  by password",
        "2026-01-31 14:05:00  end      shop/web/1  -          session ended after 3 s  by password",
    ]
    assert daemon.requests == [ReadLog()]


def test_an_empty_record_says_so(run: Cli, daemon: FakeDaemon) -> None:
    daemon.answers[ReadLog] = Log(entries=(), last=0)
    assert run("log").stdout == "Nothing is recorded of that.\n"
    assert run.json("log") == {"entries": [], "last": 0, "type": "log"}


def test_what_is_asked_for(run: Cli, daemon: FakeDaemon, monkeypatch: pytest.MonkeyPatch) -> None:
    daemon.answers[ReadLog] = Log(entries=(), last=0)
    monkeypatch.setattr("time.time", lambda: 100_000.0)
    run("log", "web", "--since", "2h", "--kind", "login", "--kind", "end", "-n", "7")
    kinds = (EventKind.LOGIN, EventKind.END)
    assert daemon.requests == [ReadLog(instance="web", since=92_800.0, kinds=kinds, limit=7)]


@pytest.mark.parametrize("arguments", [["--kind", "nonsense"], ["-n", "0"], ["-n", "5001"], ["--since", "yesterday"]])
def test_what_makes_no_sense_is_refused(run: Cli, daemon: FakeDaemon, arguments: list[str]) -> None:
    assert run("log", *arguments).exit_code == 2
    assert daemon.requests == []


def test_what_strangers_say_does_nothing_to_the_terminal(run: Cli, daemon: FakeDaemon) -> None:
    evil = "[red]x\x1b]0;owned\x07\n\u202ey"
    daemon.answers[ReadLog] = Log(
        entries=(
            entry(instance="", login=evil, address=evil, who=evil, what=evil),
            entry(instance=evil),
        ),
        last=1,
    )
    out = run("log").stdout
    shown = "[red]x\\x1b]0;owned\\x07\\x0a\\u202ey"
    assert out.splitlines()[0].endswith(f"{shown}  {shown}  {shown}  by {shown}")
    assert len(out.splitlines()) == 2
    assert run.json("log")["entries"][0]["login"] == evil


@pytest.fixture
def pauses(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """How long it waited each time; it is interrupted in the third."""
    taken: list[float] = []

    def sleep(seconds: float) -> None:
        taken.append(seconds)
        if len(taken) == 3:
            raise KeyboardInterrupt

    monkeypatch.setattr("time.sleep", sleep)
    return taken


def test_following_prints_each_event_once(run: Cli, daemon: FakeDaemon, pauses: list[float]) -> None:
    pages = itertools.chain(
        [
            Log(entries=(entry(id=4, what="four"), entry(id=None, what="still counted")), last=6),
            Log(entries=(), last=9),
            Log(entries=(entry(id=10, what="ten"),), last=10),
        ]
    )
    daemon.answers[ReadLog] = lambda _: next(pages)
    done = run("log", "--follow", "-n", "3", "--kind", "change")
    assert done.exit_code == 130
    assert [line.rpartition("  ")[2] for line in done.stdout.splitlines()] == ["four", "ten"]
    asked = [(request.limit, request.after) for request in daemon.requests if isinstance(request, ReadLog)]
    assert asked == [(3, None), (5000, 6), (5000, 9)]
    assert pauses == [1.0] * 3


def refused(times: int, identity: int | None = None, **more: Any) -> LogEntry:
    fields = {"kind": EventKind.REFUSED, "address": "192.0.2.7", "what": "no", "done": False, **more}
    return entry(id=identity, times=times, **fields)


def test_following_shows_refusals_at_once_and_how_many_there_are(
    run: Cli, daemon: FakeDaemon, pauses: list[float]
) -> None:
    pages = itertools.chain(
        [
            Log(entries=(refused(1), refused(1, login="x", instance="")), last=6),
            Log(entries=(refused(2), refused(1, login="x", instance="")), last=6),
            Log(entries=(refused(5, 7), refused(1, 8, login="x", instance="")), last=8),
        ]
    )
    daemon.answers[ReadLog] = lambda _: next(pages)
    done = run("log", "-f")
    shown = [line.split(maxsplit=3)[3] for line in done.stdout.splitlines()]
    assert [" ".join(line.split()) for line in shown] == [
        "shop/web/1 192.0.2.7 no",
        "x 192.0.2.7 no",
        "shop/web/1 192.0.2.7 no x 2",
        "shop/web/1 192.0.2.7 no x 5",
    ]


def test_a_flood_of_refusals_is_shown_less_and_less_often() -> None:
    counting = Counting()
    shown = [times for times in range(1, 1001) if counting.news([refused(times)])]
    assert shown == [*range(1, 11), 20, 40, 80, 160, 320, 640]
    assert [found.times for found in counting.news([refused(1000, 5)])] == [1000]
    assert counting._shown == {}


def test_following_in_json_is_one_document_a_line(run: Cli, daemon: FakeDaemon, pauses: list[float]) -> None:
    daemon.answers[ReadLog] = Log(entries=(entry(id=4, what="\u202efour"),), last=4)
    done = run("log", "-f", "--json")
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert [line["what"] for line in lines] == ["\u202efour"] * 3
    assert done.stdout.isascii()
