"""Sends the core what the sources see: the latest snapshot of each, whole, and signs of life in between.

A slow or absent core costs nothing: there is no queue, only the latest state. Every connection gets all of it anew.
The feed goes one way: a core that says anything is not ours, and the connection is closed.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import NoReturn, Protocol

import msgspec
import trio

from hatchway import log
from hatchway.errors import NotRunningError, ProtocolError
from hatchway.model import Snapshot
from hatchway.wire.feed import Alive, Fed
from hatchway.wire.frames import Channel, connect

ALIVE_EVERY_S = 5.0
BACKOFF_MIN_S = 0.2
BACKOFF_MAX_S = 2.0


class Sink(Protocol):
    """Where a source puts what it sees."""

    def publish(self, snapshot: Snapshot) -> None:
        """This is the source's state now."""
        ...

    def alive(self, source: str) -> None:
        """The source was asked just now and answered, whether or not anything changed."""
        ...


class Feeder:
    """The Sink that feeds the core at the socket `path`. `now` gives Unix time in seconds."""

    def __init__(self, path: str, *, now: Callable[[], float] = time.time) -> None:
        self._path = path
        self._now = now
        self._latest: dict[str, Snapshot] = {}
        self._fitting: dict[str, Snapshot] = {}
        self._alive: set[str] = set()
        self._changed = trio.Event()
        self._logger = log.get(socket="catalog")

    def publish(self, snapshot: Snapshot) -> None:
        """See Sink."""
        self._latest[snapshot.source] = snapshot
        self._changed.set()

    def alive(self, source: str) -> None:
        """See Sink."""
        self._alive.add(source)

    async def run(self) -> NoReturn:
        """Feed the core, whenever there is one, until cancelled."""
        backoff_s = BACKOFF_MIN_S
        absent = False
        while True:
            try:
                channel = await connect(self._path)
            except NotRunningError as exc:
                if not absent:
                    self._logger.warning("no core to feed", error=str(exc))
                absent = True
            else:
                absent = False
                self._logger.info("feeding the core")
                if await self._feed(channel):
                    backoff_s = BACKOFF_MIN_S
                self._logger.info("the core hung up")
            await trio.sleep(backoff_s)
            backoff_s = min(backoff_s * 2, BACKOFF_MAX_S)

    async def _feed(self, channel: Channel) -> bool:
        """Feed one connection until it ends. True when it lasted long enough to be no fault of its own."""
        start = trio.current_time()
        async with channel.stream, trio.open_nursery() as nursery:

            async def listen() -> None:
                try:
                    if await channel.stream.receive_some(1):
                        self._logger.warning("the core sent something, which it never should: connection closed")
                except trio.BrokenResourceError:
                    pass
                nursery.cancel_scope.cancel()

            nursery.start_soon(listen)
            try:
                await self._send(channel)
            except trio.BrokenResourceError:
                nursery.cancel_scope.cancel()
        return trio.current_time() - start >= BACKOFF_MAX_S

    async def _send(self, channel: Channel) -> NoReturn:
        sent: dict[str, Snapshot] = {}
        next_alive = trio.current_time() + ALIVE_EVERY_S
        while True:
            self._changed = trio.Event()
            for source, snapshot in list(self._latest.items()):
                if sent.get(source) is not snapshot:
                    await self._send_snapshot(channel, snapshot)
                    sent[source] = snapshot
            if trio.current_time() >= next_alive:
                alive, self._alive = self._alive, set()
                for source in sorted(alive):
                    await channel.send(Alive(source=source, at=self._now()))
                next_alive = trio.current_time() + ALIVE_EVERY_S
            with trio.move_on_at(next_alive):
                await self._changed.wait()

    async def _send_snapshot(self, channel: Channel, snapshot: Snapshot) -> None:
        try:
            await channel.send(Fed(snapshot))
        except ProtocolError as exc:
            # Larger than a frame: the last state that did fit is better than none, and than a feed that always fails.
            self._logger.error("snapshot not sent", source=snapshot.source, error=str(exc))
            last = self._fitting.get(snapshot.source, Snapshot(source=snapshot.source, taken_at=0.0))
            problem = f"there are more instances than can be reported: {exc}"
            await channel.send(Fed(msgspec.structs.replace(last, problem=problem)))
        else:
            self._fitting[snapshot.source] = snapshot
