"""Serving a socket of ours until the process is to end: what has been asked is answered first."""

from __future__ import annotations

import socket
from pathlib import Path

import msgspec
import pytest
import trio

from hatchway.errors import NotRunningError, ProtocolError
from hatchway.wire import frames
from hatchway.wire.service import Peer, Request, Work, serve


class Slow(msgspec.Struct, frozen=True, tag="slow"):
    """Answered when the test says so."""


class Answer(msgspec.Struct, frozen=True, tag="answer"):
    """The answer."""


class Bench:
    """A listener that outlives who serves it, as one of systemd's does."""

    def __init__(self, path: Path) -> None:
        self.path = str(path)
        self.listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.listening.bind(self.path)
        self.listening.listen()
        self.go_on = trio.Event()
        self.asked = 0

    async def answer(self, _request: Slow, _peer: Peer) -> Answer:
        self.asked += 1
        await self.go_on.wait()
        return Answer()

    async def serve(self, work: Work) -> None:
        listener = trio.SocketListener(trio.socket.from_stdlib_socket(self.listening.dup()))
        await serve("test", listener, {Slow: Request((0,), self.answer)}, work)

    async def ask(self) -> Answer:
        return await frames.call(self.path, Slow(), Answer)


async def test_what_was_asked_is_answered_and_who_comes_later_waits_for_the_next_process(tmp_path: Path) -> None:
    bench, work = Bench(tmp_path / "sock"), Work()
    answered: list[str] = []

    async def ask(name: str) -> None:
        await bench.ask()
        answered.append(name)

    with trio.fail_after(10):
        async with trio.open_nursery() as clients:
            async with trio.open_nursery() as process:
                process.start_soon(bench.serve, work)
                clients.start_soon(ask, "early")
                while not bench.asked:
                    await trio.sleep(0.01)
                async with trio.open_nursery() as ending:
                    ending.start_soon(work.finish, 10)
                    await trio.sleep(0.05)
                    clients.start_soon(ask, "late")
                    await trio.sleep(0.1)
                    assert bench.asked == 1, "it is not even read"
                    bench.go_on.set()
                # Whoever waits for the end does so no longer.
                await trio.sleep(0.05)
                assert answered == ["early"]
                process.cancel_scope.cancel()
            async with trio.open_nursery() as successor:
                successor.start_soon(bench.serve, Work())
                while len(answered) < 2:
                    await trio.sleep(0.01)
                successor.cancel_scope.cancel()
    assert answered == ["early", "late"]
    bench.listening.close()


async def test_it_is_not_waited_for_for_ever(tmp_path: Path) -> None:
    bench, work = Bench(tmp_path / "sock"), Work()
    with trio.fail_after(10):
        async with trio.open_nursery() as process:
            process.start_soon(bench.serve, work)

            async def ask() -> None:
                with pytest.raises((trio.BrokenResourceError, NotRunningError, ProtocolError)):
                    await bench.ask()

            async with trio.open_nursery() as clients:
                clients.start_soon(ask)
                while not bench.asked:
                    await trio.sleep(0.01)
                began = trio.current_time()
                await work.finish(0.3)
                assert 0.25 < trio.current_time() - began < 5
                process.cancel_scope.cancel()
    bench.listening.close()


async def test_who_asks_nothing_is_not_waited_for(tmp_path: Path) -> None:
    bench, work = Bench(tmp_path / "sock"), Work()
    with trio.fail_after(10):
        async with trio.open_nursery() as process:
            process.start_soon(bench.serve, work)
            channel = await frames.connect(bench.path)
            await trio.sleep(0.05)
            began = trio.current_time()
            await work.finish(5)
            assert trio.current_time() - began < 1
            process.cancel_scope.cancel()
            await channel.stream.aclose()
    bench.listening.close()
