"""Feeding the core: everything on each connection, the latest state only, signs of life, reconnecting."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio

from hatchway.catalog import feeder as feeder_module
from hatchway.catalog.feeder import Feeder
from hatchway.model import InstanceInfo, InstanceKey, InstanceState, Snapshot
from hatchway.wire import frames
from hatchway.wire.feed import Alive, Fed
from hatchway.wire.frames import Channel


def snapshot(source: str, *names: str, taken_at: float = 1.0) -> Snapshot:
    return Snapshot(
        source=source,
        taken_at=taken_at,
        instances=tuple(
            InstanceInfo(key=InstanceKey("e", name, 1), runtime_id=name, runtime_name=name, state=InstanceState.RUNNING)
            for name in names
        ),
    )


class Core:
    """The listening end."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @asynccontextmanager
    async def listening(self) -> AsyncIterator[trio.SocketListener]:
        sock = trio.socket.socket(trio.socket.AF_UNIX)
        await sock.bind(str(self.path))
        sock.listen()
        try:
            async with trio.SocketListener(sock) as listener:
                yield listener
        finally:
            os.unlink(self.path)


async def heard(channel: Channel) -> Fed | Alive:
    with trio.fail_after(10):
        message = await channel.receive(Fed | Alive)
    assert isinstance(message, (Fed, Alive))
    return message


@pytest.fixture
def core(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Core:
    monkeypatch.setattr(feeder_module, "BACKOFF_MIN_S", 0.01)
    monkeypatch.setattr(feeder_module, "BACKOFF_MAX_S", 0.05)
    return Core(tmp_path / "catalog.sock")


async def test_everything_then_changes(core: Core, nursery: trio.Nursery) -> None:
    feeder = Feeder(str(core.path))
    feeder.publish(snapshot("docker", "a"))
    feeder.publish(snapshot("static", "s"))
    async with core.listening() as listener:
        nursery.start_soon(feeder.run)
        async with await listener.accept() as stream:
            channel = Channel(stream)
            assert await heard(channel) == Fed(snapshot("docker", "a"))
            assert await heard(channel) == Fed(snapshot("static", "s"))
            feeder.publish(snapshot("docker", "a", "b"))
            assert await heard(channel) == Fed(snapshot("docker", "a", "b"))
    nursery.cancel_scope.cancel()


async def test_a_core_that_restarts_gets_everything_again(core: Core, nursery: trio.Nursery) -> None:
    feeder = Feeder(str(core.path))
    feeder.publish(snapshot("docker", "a"))
    nursery.start_soon(feeder.run)
    await trio.sleep(0.1)  # nobody there
    for _ in range(3):
        async with core.listening() as listener, await listener.accept() as stream:
            assert await heard(Channel(stream)) == Fed(snapshot("docker", "a"))
        await trio.sleep(0.05)
    nursery.cancel_scope.cancel()


async def test_a_slow_core_hears_the_latest_only(core: Core, nursery: trio.Nursery) -> None:
    feeder = Feeder(str(core.path))
    feeder.publish(snapshot("docker", *(f"{number:060}" for number in range(20_000))))
    async with core.listening() as listener:
        nursery.start_soon(feeder.run)
        async with await listener.accept() as stream:
            await trio.sleep(0.2)
            for number in range(100):
                feeder.publish(snapshot("docker", str(number)))
                await trio.lowlevel.checkpoint()
            channel = Channel(stream)
            first = await heard(channel)
            assert isinstance(first, Fed)
            assert len(first.snapshot.instances) == 20_000
            assert await heard(channel) == Fed(snapshot("docker", "99"))
    nursery.cancel_scope.cancel()


async def test_signs_of_life(core: Core, nursery: trio.Nursery, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(feeder_module, "ALIVE_EVERY_S", 0.05)
    feeder = Feeder(str(core.path), now=lambda: 77.0)
    async with core.listening() as listener:
        nursery.start_soon(feeder.run)
        async with await listener.accept() as stream:
            channel = Channel(stream)
            feeder.alive("static")
            feeder.alive("docker")
            assert await heard(channel) == Alive("docker", 77.0)
            assert await heard(channel) == Alive("static", 77.0)
            feeder.alive("static")
            assert await heard(channel) == Alive("static", 77.0)
            # A source that says nothing is not spoken for.
            with trio.move_on_after(0.3) as silence:
                await channel.receive(Fed | Alive)
            assert silence.cancelled_caught
    nursery.cancel_scope.cancel()


async def test_a_core_that_speaks_is_hung_up_on(core: Core, nursery: trio.Nursery) -> None:
    feeder = Feeder(str(core.path))
    feeder.publish(snapshot("docker", "a"))
    async with core.listening() as listener:
        nursery.start_soon(feeder.run)
        async with await listener.accept() as stream:
            channel = Channel(stream)
            await heard(channel)
            await stream.send_all(b"GET / HTTP/1.1\r\n\r\n")
            with trio.fail_after(10):
                assert await channel.receive(Fed | Alive) is None
        async with await listener.accept() as stream:
            assert await heard(Channel(stream)) == Fed(snapshot("docker", "a"))
    nursery.cancel_scope.cancel()


async def test_a_snapshot_larger_than_a_frame(
    core: Core, nursery: trio.Nursery, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(frames, "MAX_FRAME", 10_000)
    feeder = Feeder(str(core.path))
    feeder.publish(snapshot("docker", "a", taken_at=5.0))
    async with core.listening() as listener:
        nursery.start_soon(feeder.run)
        async with await listener.accept() as stream:
            channel = Channel(stream)
            assert await heard(channel) == Fed(snapshot("docker", "a", taken_at=5.0))
            feeder.publish(snapshot("docker", *(str(number) for number in range(1000))))
            instead = await heard(channel)
            assert isinstance(instead, Fed)
            assert instead.snapshot.instances == snapshot("docker", "a").instances
            assert instead.snapshot.taken_at == 5.0
            assert "more instances than can be reported" in (instead.snapshot.problem or "")
            feeder.publish(snapshot("docker", "b"))
            assert await heard(channel) == Fed(snapshot("docker", "b"))
    nursery.cancel_scope.cancel()
