"""Waiting for requests: quick when they come, and everybody else has a turn."""

from __future__ import annotations

import itertools
import os
import time
from collections.abc import Iterator

import pyfuse3
import pytest
import trio

from hatchway.volumefs.waiting import TURN_S, polling


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    """Reading and writing end."""
    ends = os.pipe()
    yield ends
    for fd in ends:
        os.close(fd)


def test_what_pyfuse3_uses_is_put_back() -> None:
    before = vars(pyfuse3)["trio"]
    with pytest.raises(ZeroDivisionError), polling():
        assert vars(pyfuse3)["trio"] is not before
        raise ZeroDivisionError
    assert vars(pyfuse3)["trio"] is before


async def test_everything_else_is_trio() -> None:
    with polling():
        module = vars(pyfuse3)["trio"]
        assert module.open_nursery is trio.open_nursery
        assert module.ClosedResourceError is trio.ClosedResourceError
        assert module.lowlevel.current_task() is trio.lowlevel.current_task()
        assert module.lowlevel.notify_closing is trio.lowlevel.notify_closing
        async with module.Lock():
            pass


async def test_others_have_their_turn(pipe: tuple[int, int]) -> None:
    """A descriptor that is always readable, as with a client that never pauses."""
    os.write(pipe[1], b"x")
    turns = []

    async def other() -> None:
        while True:
            turns.append(time.monotonic())
            await trio.lowlevel.checkpoint()

    with polling():
        wait = vars(pyfuse3)["trio"].lowlevel.wait_readable
        async with trio.open_nursery() as nursery:
            nursery.start_soon(other)
            until = time.monotonic() + 0.3
            while time.monotonic() < until:
                await wait(pipe[0])
            nursery.cancel_scope.cancel()
    assert len(turns) > 10
    longest = max(after - before for before, after in itertools.pairwise(turns))
    assert longest < TURN_S + 0.1  # a loaded machine, not a rule


async def test_an_idle_connection_is_left_to_trio(pipe: tuple[int, int]) -> None:
    woken = []

    async def later() -> None:
        await trio.sleep(0.05)
        woken.append("later")
        os.write(pipe[1], b"x")

    with polling():
        wait = vars(pyfuse3)["trio"].lowlevel.wait_readable
        os.write(pipe[1], b"x")
        await wait(pipe[0])
        os.read(pipe[0], 1)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(later)
            await wait(pipe[0])
            woken.append("wait")
    assert woken == ["later", "wait"]


async def test_waiting_can_be_cancelled(pipe: tuple[int, int]) -> None:
    with polling():
        with trio.move_on_after(0.05) as scope:
            while True:
                await vars(pyfuse3)["trio"].lowlevel.wait_readable(pipe[0])
        assert scope.cancelled_caught
