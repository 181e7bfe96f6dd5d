"""What a process tells the supervisor and leaves with it: both ends of the notify socket."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import trio
from trio.testing import MockClock

from hatchway import kept as kept_module
from hatchway.kept import Kept, Messages
from hatchway.wire import notify


@pytest.fixture
def incoming(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.bind(str(tmp_path / "notify"))
        monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
        yield sock


@pytest.fixture
def kept() -> Iterator[Kept]:
    made = Kept(100)
    yield made
    made.close()


def is_open(fd: int) -> bool:
    try:
        os.fstat(fd)
    except OSError:
        return False
    return True


async def test_ready(incoming: socket.socket, kept: Kept) -> None:
    said = trio.Event()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(Messages(incoming, kept, said.set).follow)
        notify.ready()
        with trio.fail_after(5):
            await said.wait()
        nursery.cancel_scope.cancel()
    assert kept.all() == []


async def test_who_is_watched_over_says_that_it_is_well(
    incoming: socket.socket, kept: Kept, monkeypatch: pytest.MonkeyPatch, autojump_clock: MockClock
) -> None:
    monkeypatch.setenv("WATCHDOG_USEC", "60000000")
    said: list[float] = []
    with trio.move_on_after(61):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(notify.stay_well)
            while True:
                await trio.sleep(0.5)
                Messages(incoming, kept, lambda: None, lambda: said.append(trio.current_time())).drain()
    assert len(said) == 4, "three times as often as it must be heard"


@pytest.mark.parametrize(
    ("environment", "every"),
    [
        ({}, None),
        ({"WATCHDOG_USEC": ""}, None),
        ({"WATCHDOG_USEC": "0"}, None),
        ({"WATCHDOG_USEC": "x"}, None),
        ({"WATCHDOG_USEC": "3000000"}, 1.0),
        ({"WATCHDOG_USEC": "3000000", "WATCHDOG_PID": str(os.getpid())}, 1.0),
        ({"WATCHDOG_USEC": "3000000", "WATCHDOG_PID": "1"}, None),
    ],
)
def test_how_often(environment: dict[str, str], every: float | None, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("WATCHDOG_USEC", "WATCHDOG_PID"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert notify.watchdog_s() == every


def test_it_is_told_after_the_socket_cannot_be_found_any_more(
    incoming: socket.socket, kept: Kept, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(notify, "_held", None)
    notify.hold()
    os.unlink(incoming.getsockname())
    said: list[str] = []
    notify.ready()
    notify.well()
    Messages(incoming, kept, lambda: said.append("ready"), lambda: said.append("well")).drain()
    assert said == ["ready", "well"]
    assert notify._held is not None
    notify._held.close()


def test_descriptors_are_kept_in_order_until_they_are_forgotten(incoming: socket.socket, kept: Kept) -> None:
    reader, writer = os.pipe()
    assert notify.keep("worker-1", reader)
    assert notify.keep("worker-1", writer)
    assert notify.keep("session-x", reader)
    os.close(reader)
    os.close(writer)
    # The sender may be dead by the time they are read.
    messages = Messages(incoming, kept, lambda: pytest.fail("ready"))
    messages.drain()
    assert [name for name, _ in kept.all()] == ["worker-1", "worker-1", "session-x"]
    (_, first), (_, second), (_, third) = kept.all()
    os.write(second, b"through")
    assert os.read(first, 10) == b"through"
    assert not os.get_inheritable(first)
    notify.forget("worker-1")
    messages.drain()
    assert kept.all() == [("session-x", third)]
    assert not is_open(first)
    assert not is_open(second)


def test_over_the_limit_and_without_a_name_they_are_closed(incoming: socket.socket) -> None:
    kept = Kept(3)
    messages = Messages(incoming, kept, lambda: None)
    before = len(os.listdir("/proc/self/fd"))
    for number in range(5):
        notify.keep(f"x{number}", 0)
    messages.drain()  # a socket's queue may hold as few as ten
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.connect(os.environ["NOTIFY_SOCKET"])
        socket.send_fds(sock, [b"FDSTORE=1"], [0])
        socket.send_fds(sock, [b"\xff=\0\nnothing"], [0])
        for name in (b"a:b", b"a\0b", b"a b", b"\xff", b"x" * 65):
            socket.send_fds(sock, [b"FDSTORE=1\nFDNAME=" + name], [0])
    messages.drain()
    assert [name for name, _ in kept.all()] == ["x0", "x1", "x2"]
    assert len(os.listdir("/proc/self/fd")) == before + 3
    kept.close()
    assert len(os.listdir("/proc/self/fd")) == before


@pytest.mark.parametrize("name", ["", "a:b", "a\nb", "a b", "a/b", "ü", "x" * 65, "x\n"])
def test_names_that_would_not_be_kept_are_not_sent(incoming: socket.socket, name: str) -> None:
    for send in (lambda: notify.keep(name, 0), lambda: notify.forget(name)):
        with pytest.raises(ValueError, match="cannot name"):
            send()


@pytest.mark.parametrize("name", ["x" * 64, "A.b_c-9"])
def test_names_that_are_sent_are_kept(incoming: socket.socket, kept: Kept, name: str) -> None:
    assert notify.keep(name, 0)
    Messages(incoming, kept, lambda: None).drain()
    assert [held for held, _ in kept.all()] == [name]


def test_nobody_listens(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NOTIFY_SOCKET", raising=False)
    notify.keep("x", 0)
    monkeypatch.setenv("NOTIFY_SOCKET", "/nonexistent")
    notify.ready()


def test_what_was_passed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LISTEN_FDS", "3")
    monkeypatch.setenv("LISTEN_FDNAMES", "hostd:worker-1:worker-1")
    monkeypatch.delenv("LISTEN_PID", raising=False)
    assert notify.passed() == [("hostd", 3), ("worker-1", 4), ("worker-1", 5)]
    monkeypatch.setenv("LISTEN_PID", "1")
    assert notify.passed() == []


def test_names_never_outgrow_the_next_environment(incoming: socket.socket, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kept_module, "NAMES_MAX", 100)
    kept = Kept(1000)
    messages = Messages(incoming, kept, lambda: None)
    for number in range(30):
        notify.keep(f"s{number:031}", 0)
        messages.drain()
    assert len(kept.all()) == 3
    assert len(":".join(name for name, _ in kept.all())) <= 100
    kept.close()


def test_who_does_not_read_is_waited_for_once(incoming: socket.socket, monkeypatch: pytest.MonkeyPatch) -> None:
    """A supervisor that was stopped must not stop hostd, of all processes."""
    monkeypatch.setattr(notify, "_patience_s", notify.SEND_S)
    begin = time.monotonic()
    taken = [notify.keep("x", 0) for _ in range(2000)]
    assert not taken[-1]
    assert time.monotonic() - begin < 10
    kept = Kept(5000)
    Messages(incoming, kept, lambda: None).drain()
    assert len(kept.all()) == sum(taken)
    assert notify.keep("x", 0)
    kept.close()
