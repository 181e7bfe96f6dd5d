"""`hatchway access`, `lock`, `unlock` and `rotate-key`."""

from __future__ import annotations

import datetime
import threading
import time
from typing import TYPE_CHECKING, Any

import pytest
from msgspec import UNSET

from hatchway.errors import ConfigError, ConflictError
from hatchway.wire.entry import Hindrance, Lock, Rotated, RotateKey, SetConditions, ShowConditions, Unlock

if TYPE_CHECKING:
    from tests.unit.cli.conftest import Cli, FakeDaemon

NOW = datetime.datetime(2026, 1, 1).timestamp()


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("time.time", lambda: NOW)


def test_show_without_conditions(run: Cli, daemon: FakeDaemon, make: Any) -> None:
    daemon.answers[ShowConditions] = make.conditions()
    assert (
        run("access", "show", "shop/web/1").stdout
        == """\
shop-web-1
  Locked        no
  From          anywhere
  Expires       never
  At most       32 sessions, as configured
"""
    )
    assert daemon.requests == [ShowConditions("shop/web/1")]


def test_show_all_conditions(run: Cli, daemon: FakeDaemon, make: Any, clock: None) -> None:
    daemon.answers[ShowConditions] = make.conditions(
        allowed_from=tuple(f"10.{number}.0.0/16" for number in range(7)),
        expires_at=NOW + 86400 * 12,
        sessions_max=4,
        locked_at=NOW - 60,
        locked_why="guessing \x1b[31m",
    )
    assert (
        run("access", "show", "x").stdout
        == """\
shop-web-1
  Locked        since 2025-12-31 23:59:00: guessing \\x1b[31m
  From          10.0.0.0/16, 10.1.0.0/16, 10.2.0.0/16, 10.3.0.0/16, 10.4.0.0/16,
                10.5.0.0/16, 10.6.0.0/16
  Expires       2026-01-13 00:00:00, in 12 days
  At most       4 sessions
"""
    )
    assert run.json("access", "show", "x")["sessions_max"] == 4


def test_show_what_has_expired(run: Cli, daemon: FakeDaemon, make: Any, clock: None) -> None:
    daemon.answers[ShowConditions] = make.conditions(expires_at=NOW - 7200)
    assert "  Expired       2025-12-31 22:00:00, 2 h ago\n" in run("access", "show", "x").stdout


@pytest.mark.parametrize(
    ("options", "request_"),
    [
        (["--from", "10.0.0.0/8"], {"allowed_from": ("10.0.0.0/8",)}),
        (["--from", "10.0.0.0/8, ::1", "--from", "192.0.2.7"], {"allowed_from": ("10.0.0.0/8", "::1", "192.0.2.7")}),
        (["--from-anywhere"], {"allowed_from": ()}),
        (["--expires", "never"], {"expires_at": None}),
        (["--expires", "7d"], {"expires_at": NOW + 7 * 86400}),
        (["--expires", "2026-01-31"], {"expires_at": datetime.datetime(2026, 1, 31, 23, 59, 59).timestamp()}),
        (["--sessions", "128"], {"sessions_max": 128}),
        (["--sessions", "default"], {"sessions_max": None}),
        (
            ["--from", "::1", "--expires", "1h", "--sessions", "1"],
            {"allowed_from": ("::1",), "expires_at": NOW + 3600, "sessions_max": 1},
        ),
    ],
)
def test_set_changes_what_is_said_in_one_request(
    run: Cli, daemon: FakeDaemon, make: Any, clock: None, options: list[str], request_: dict[str, Any]
) -> None:
    daemon.answers[SetConditions] = make.conditions()
    done = run("access", "set", "x", *options)
    assert done.exit_code == 0
    assert done.stdout.startswith("shop-web-1  Conditions from now on:\n  Locked        no\n")
    unsaid = {"allowed_from": UNSET, "expires_at": UNSET, "sessions_max": UNSET}
    assert daemon.requests == [SetConditions(instance="x", **{**unsaid, **request_})]


@pytest.mark.parametrize(
    "options",
    [
        [],
        ["--from", ""],
        ["--from", "10.0.0.0/8,"],
        ["--from", ","],
        ["--from", "::1", "--from-anywhere"],
        ["--expires", ""],
        ["--expires", "0s"],
        ["--expires", "2020-01-31"],
        ["--expires", "2026-02-30"],
        ["--expires", "Never"],
        ["--sessions", ""],
        ["--sessions", "0"],
        ["--sessions", "129"],
        ["--sessions", "-1"],
        ["--sessions", "٣"],
        ["--sessions", "9" * 5000],
    ],
)
def test_what_makes_no_sense_changes_nothing(run: Cli, daemon: FakeDaemon, clock: None, options: list[str]) -> None:
    done = run("access", "set", "x", *options)
    assert (done.exit_code, done.stdout) == (2, "")
    assert done.stderr.startswith("hatchway: ")
    assert daemon.requests == []


def test_lock(run: Cli, daemon: FakeDaemon, make: Any) -> None:
    daemon.answers[Lock] = make.conditions(locked_at=NOW, locked_why="by uid 0 \x07")
    head = "shop-web-1  Locked, and its sessions are ended.\n"
    tail = "  hatchway unlock shop-web-1 lets in again who may.\n"
    # Who did it is no reason.
    assert run("lock", "x").stdout == head + tail
    daemon.answers[Lock] = make.conditions(locked_at=NOW, locked_why="guesses \x07")
    assert run("lock", "x", "--reason", "guesses \x07").stdout == f"{head}  Reason: guesses \\x07\n{tail}"
    assert run.json("lock", "x", "--reason", "guesses")["locked_at"] == NOW
    assert daemon.requests == [
        Lock(instance="x"),
        Lock(instance="x", why="guesses \x07"),
        Lock(instance="x", why="guesses"),
    ]


def test_a_reason_is_kept_whole_or_refused(run: Cli, daemon: FakeDaemon, make: Any) -> None:
    daemon.answers[Lock] = make.conditions(locked_at=NOW, locked_why="é" * 200)
    assert run("lock", "x", "--reason", f" {'é' * 200}\n").exit_code == 0
    done = run("lock", "x", "--reason", "é" * 201)
    assert (done.exit_code, done.stderr) == (2, "hatchway: --reason has 201 characters: at most 200 are kept\n")
    assert len(daemon.requests) == 1


@pytest.mark.parametrize(
    ("locked_at", "told"),
    [
        (NOW, "shop-web-1 is locked: nobody is let in any more. Waiting for its sessions to end"),
        (None, "no answer yet, waiting for it"),
    ],
)
def test_lock_says_that_it_waits_and_whether_it_holds(
    run: Cli, daemon: FakeDaemon, make: Any, monkeypatch: pytest.MonkeyPatch, locked_at: float | None, told: str
) -> None:
    monkeypatch.setattr("hatchway.cli.app.SILENT_S", 0.1)
    asked = threading.Event()

    def slow(_request: object) -> object:
        assert asked.wait(10)
        time.sleep(0.5)
        return make.conditions(locked_at=NOW, locked_why="rent")

    def show(_request: object) -> object:
        asked.set()
        return make.conditions(locked_at=locked_at)

    daemon.answers |= {Lock: slow, ShowConditions: show}
    done = run("lock", "x")
    assert done.exit_code == 0
    assert " ".join(done.stderr.split()) == told
    assert done.stdout.startswith("shop-web-1  Locked, and its sessions are ended.\n")


def test_what_is_answered_soon_is_not_said_to_be_waited_for(
    run: Cli, daemon: FakeDaemon, make: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hatchway.cli.app.SILENT_S", 0.3)
    daemon.answers[Unlock] = make.conditions()
    done = run("unlock", "x")
    time.sleep(0.5)
    assert done.stderr == ""


def test_locked_already(run: Cli, daemon: FakeDaemon) -> None:
    daemon.answers[Lock] = ConflictError("x is locked already: why")
    assert run("lock", "x").exit_code == 6


def test_unlock(run: Cli, daemon: FakeDaemon, make: Any) -> None:
    daemon.answers[Unlock] = make.conditions()
    assert run("unlock", "x").stdout == "shop-web-1  Unlocked.\n"
    assert run.json("unlock", "x")["locked_at"] is None
    assert daemon.requests == [Unlock("x")] * 2


def test_unlock_says_when_still_nobody_is_let_in(run: Cli, daemon: FakeDaemon, make: Any) -> None:
    daemon.answers[Unlock] = make.conditions(
        hindrances=(Hindrance("nobody can enter: it has expired \x07"), Hindrance("nor then", "mend it"))
    )
    assert run("unlock", "x").stdout == (
        "shop-web-1  Unlocked.\n  nobody can enter: it has expired \\x07\n  nor then\n      mend it\n"
    )


@pytest.mark.parametrize(("secrets", "said"), [(0, "0 secrets are"), (1, "1 secret is"), (12, "12 secrets are")])
def test_rotate_key(run: Cli, daemon: FakeDaemon, secrets: int, said: str) -> None:
    daemon.answers[RotateKey] = Rotated(secrets)
    out = run("rotate-key").stdout
    assert out.startswith(f"{said} sealed with a new key")
    assert "backup" in out
    assert run.json("rotate-key") == {"type": "rotated", "secrets": secrets}


def test_a_key_that_is_not_ours_to_rotate(run: Cli, daemon: FakeDaemon) -> None:
    daemon.answers[RotateKey] = ConfigError("it is systemd's")
    assert run("rotate-key").exit_code == 3
