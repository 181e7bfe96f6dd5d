"""`hatchway sessions` and `hatchway kick`."""

from __future__ import annotations

import datetime
from typing import TYPE_CHECKING, Any

import pytest

from hatchway.cli.sessions import id_chars
from hatchway.errors import NotFoundError
from hatchway.model import InstanceKey
from hatchway.wire.entry import Kick, Kicked, ListSessions, OpenPath, Sessions, SessionStatus

if TYPE_CHECKING:
    from tests.unit.cli.conftest import Cli, FakeDaemon

NOW = datetime.datetime(2026, 1, 31, 14, 5).timestamp()


def session(id_: str = "a1b2c3d4", **more: Any) -> SessionStatus:
    fields: dict[str, Any] = {
        "key": InstanceKey("shop", "web", 1),
        "login": "shop-web-1",
        "address": "192.0.2.7",
        "method": "publickey",
        "opened_at": NOW - 7200,
        **more,
    }
    return SessionStatus(id=id_.ljust(32, "0"), **fields)


BUSY = session(
    credential="SHA256:abc",
    comment="alice@laptop",
    read=12_400_000,
    written=0,
    idle_s=3.2,
    files=(OpenPath("/home/work/new", True), OpenPath("/home/work/old", False)),
)
PARTIAL = session(
    "b",
    login="shop-db-1",
    address="2001:db8::7",
    method="password",
    read=1,
    written=2048,
    idle_s=600.0,
    partial=True,
)
UNKNOWN = session("c", method="keyboard-interactive/pam", opened_at=NOW - 10)


@pytest.fixture(autouse=True)
def clock(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("time.time", lambda: NOW)


def test_the_whole_table(run: Cli, daemon: FakeDaemon) -> None:
    daemon.answers[ListSessions] = Sessions(sessions=(BUSY, PARTIAL, UNKNOWN))
    done = run("sessions")
    assert (done.exit_code, done.stderr) == (0, "")
    assert (
        done.stdout
        == """\
ID        LOGIN       ADDRESS      SINCE  IDLE    DOWN      UP
a1b2c3d4  shop-web-1  192.0.2.7    2 h    3 s     11.8 MiB  0 B
    since 2026-01-31 12:05:00 by key SHA256:abc  alice@laptop
    writing /home/work/new
    reading /home/work/old
b0000000  shop-db-1   2001:db8::7  2 h    10 min  1 B+      2 KiB+
    since 2026-01-31 12:05:00 by password
    a volume does not answer: more may be open, and have gone over
c0000000  shop-web-1  192.0.2.7    10 s   ?       ?         ?
    since 2026-01-31 14:04:50 by keyboard-interactive/pam
"""
    )
    assert daemon.requests == [ListSessions()]
    assert run.json("sessions", "web")["sessions"][0]["id"] == "a1b2c3d4".ljust(32, "0")
    assert daemon.requests[-1] == ListSessions(instance="web")


def test_an_empty_list_says_so(run: Cli, daemon: FakeDaemon) -> None:
    daemon.answers[ListSessions] = Sessions(sessions=())
    assert run("sessions").stdout == "Nobody is in.\n"
    assert run("sessions", "shop/web/1").stdout == "Nobody is in shop/web/1.\n"
    assert run.json("sessions") == {"type": "sessions", "sessions": []}


def test_many_files_are_counted(run: Cli, daemon: FakeDaemon) -> None:
    files = tuple(OpenPath(f"/{number}", False) for number in range(20))
    daemon.answers[ListSessions] = Sessions(sessions=(session(files=files),))
    out = run("sessions").stdout
    assert out.count("    reading /") == 5
    assert out.endswith("    and 15 more files\n")
    assert len(run.json("sessions")["sessions"][0]["files"]) == 20


def test_what_clients_send_does_nothing_to_the_terminal(run: Cli, daemon: FakeDaemon) -> None:
    evil, shown = "[red]x\x1b]0;owned\x07\n\u202ey", "[red]x\\x1b]0;owned\\x07\\x0a\\u202ey"
    one = session(login=evil, address=evil, credential=evil, comment=evil, files=(OpenPath(evil, True),))
    daemon.answers |= {ListSessions: Sessions(sessions=(one,)), Kick: Kicked(sessions=(one,))}
    assert run("sessions").stdout.count(shown) == 5
    assert run("kick", "x").stdout.count(shown) == 4
    out = run("sessions").stdout + run("kick", "x").stdout
    assert all(character.isprintable() for line in out.splitlines() for character in line)


@pytest.mark.parametrize(
    ("ids", "shown"),
    [([], 8), (["a" * 32], 8), (["a" * 32, "a" * 9 + "b" * 23], 10), (["a" * 32, "a" * 32], 8), (["a", "ab"], 8)],
)
def test_as_much_of_an_id_is_shown_as_tells_them_apart(ids: list[str], shown: int) -> None:
    assert id_chars(ids) == shown


def test_kick_an_instance(run: Cli, daemon: FakeDaemon) -> None:
    daemon.answers[Kick] = Kicked(sessions=(BUSY, UNKNOWN))
    assert (
        run("kick", "shop/web/1").stdout
        == """\
2 sessions ended:
  a1b2c3d4  shop-web-1  192.0.2.7  key SHA256:abc  alice@laptop
  c0000000  shop-web-1  192.0.2.7  keyboard-interactive/pam
"""
    )
    assert daemon.requests == [Kick(instance="shop/web/1")]


def test_kick_sessions(run: Cli, daemon: FakeDaemon) -> None:
    daemon.answers[Kick] = Kicked(sessions=(BUSY,))
    run("kick", "--session", "a1b2c3d4", "--session", "c0")
    run("kick", "x", "--session", "a1")
    assert daemon.requests == [Kick(sessions=("a1b2c3d4", "c0")), Kick(instance="x", sessions=("a1",))]
    assert run.json("kick", "x")["sessions"][0]["login"] == "shop-web-1"


def test_nobody_is_kicked_by_accident(run: Cli, daemon: FakeDaemon) -> None:
    assert run("kick").exit_code == 2
    assert daemon.requests == []
    # A variable of a script that is not set.
    daemon.answers[Kick] = NotFoundError("no instance ''")
    assert run("kick", "").exit_code == 5
    assert run("kick", "--session", "").exit_code == 5
    assert daemon.requests == [Kick(instance=""), Kick(sessions=("",))]
