"""Registry, inventory and hostd kept in step: news that hostd does not hear at first, and what must not wait."""

from __future__ import annotations

from pathlib import Path

import pytest
import trio
from msgspec import structs
from tests.unit.core.stage import WEB, snapshot, staged, volume
from trio.testing import MockClock

from hatchway.admin import shares
from hatchway.admin.core import Core
from hatchway.admin.hostlink import HostLink
from hatchway.admin.inventory import Inventory
from hatchway.errors import ConflictError, HostError
from hatchway.model import AccessRule, InstanceInfo, InstanceKey, InstanceState, Snapshot, VolumeInfo, VolumeKind
from hatchway.registry.store import Registry
from hatchway.wire.admin import Apply, Enable
from hatchway.wire.frames import Channel, encode
from hatchway.wire.host import HostStatus, SessionEnded, Watch


async def test_core_and_hostd_started_again_together_end_no_session(tmp_path: Path) -> None:
    """The catalog's news comes before hostd is back: unidentified, every volume looks like another's."""
    async with staged(tmp_path) as stage:
        await stage.do(Enable(instance="shop/web/1", volumes=("/data",)))
        old = stage.core
        successor = Core(old.config, old.registry, old.sealing, Inventory(), stage.host)
        status = HostStatus((), {"s" * 32: "shop-web-1"})
        stage.host.failure = HostError("nothing answers at hostd.sock")
        await successor.feed(snapshot(structs.replace(volume("/data"), created="2026-01-01T00:00:00Z")))
        stage.host.failure = None
        stage.host.applied.clear()
        await successor.hostd_connected(status, trio.current_time())
        assert [view.path for _, views in stage.host.applied for view in views] == ["/data"]


async def test_news_that_hostd_did_not_identify_is_told_again(tmp_path: Path, autojump_clock: MockClock) -> None:
    async with staged(tmp_path) as stage, trio.open_nursery() as nursery:
        stage.host.failure = HostError("hostd.sock gave no answer in 60 s")
        await stage.core.feed(snapshot(volume("/data"), volume("/new")))
        stage.host.failure = None
        nursery.start_soon(stage.core.keep_in_step)
        with trio.fail_after(10):
            while (info := stage.inventory.get(WEB)) is None or len(info.volumes) != 2:
                await trio.sleep(0.1)
        assert [one.created for one in info.volumes] == ["inode:2:1.0"] * 2
        nursery.cancel_scope.cancel()


async def test_a_directory_that_hostd_would_not_mount_is_looked_at_again(
    tmp_path: Path, autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody tells of a directory that was replaced; a login is what shows it."""

    async def refuse(*_: object) -> None:
        raise ConflictError("it is another directory than the one access was given to")

    async with staged(tmp_path) as stage, trio.open_nursery() as nursery:
        await stage.do(Enable(instance="shop/web/1", volumes=("/data",)))
        stage.host.born[volume("/data").source or ""] = "inode:2:2.0"
        monkeypatch.setattr(stage.host, "open_session", refuse)
        (record,) = await stage.core.db(Registry.instances)
        nursery.start_soon(stage.core.keep_in_step)
        await trio.sleep(10)
        assert shares.host_views(record, stage.inventory), "so far it is not known"
        with pytest.raises(ConflictError):
            await stage.core.open_session(
                record, address="192.0.2.1", method="publickey", key=None, credential_id=None, pid=1
            )
        with trio.fail_after(10):
            while shares.host_views(record, stage.inventory):
                await trio.sleep(0.1)
        nursery.cancel_scope.cancel()


async def test_what_must_be_heard_is_heard_once_also_when_it_changes_nothing(tmp_path: Path) -> None:
    async with staged(tmp_path) as stage:
        await stage.do(Enable(instance="shop/web/1", volumes=("/data",)))
        rule = AccessRule(where="a", project="*", service="*", volumes=("/data",))
        await stage.do(Apply(rules=(rule,)))
        told = len(stage.host.applied)
        await stage.do(Apply(rules=()))
        await stage.core.sync()
        assert len(stage.host.applied) == told + 1
        await stage.core.sync()
        assert len(stage.host.applied) == told + 1


def test_an_instance_is_as_fresh_as_the_source_it_is_shown_from() -> None:
    key = InstanceKey("backup", "nas", 1)
    archive = VolumeInfo(path="/archive", kind=VolumeKind.DIRECTORY, source="/srv/archive")
    static = InstanceInfo(key=key, runtime_id="", runtime_name="nas", state=InstanceState.STATIC, volumes=(archive,))
    inventory = Inventory()
    inventory.feed(Snapshot(source="static", taken_at=1.0, instances=(static,)))
    assert inventory.fresh() == {key}
    inventory.feed(Snapshot(source="static", taken_at=1.0, instances=(static,), problem="the file is broken"))
    assert inventory.fresh() == frozenset()
    inventory.feed(snapshot(volume("/data"), key=key))
    assert inventory.fresh() == frozenset()


async def test_whoever_follows_hostd_hears_when_everything_is_told(tmp_path: Path) -> None:
    """Rules are held against the inventory then: earlier, nothing in it is identified."""
    async with staged(tmp_path) as stage:
        config = structs.replace(
            stage.core.config, paths=structs.replace(stage.core.config.paths, run_dir=str(tmp_path / "host"))
        )
        (tmp_path / "host").mkdir()
        listener = trio.socket.socket(trio.socket.AF_UNIX)
        await listener.bind(config.hostd_socket)
        listener.listen()
        link, heard = HostLink(config), list[tuple[object, ...]]()

        async def serve() -> None:
            server, _ = await listener.accept()
            async with trio.SocketStream(server) as stream:
                await Channel(stream).receive(Watch)
                await stream.send_all(encode(HostStatus((), {})))
                await stream.send_all(encode(SessionEnded("s-1", 7, 1 << 62)))
                await trio.sleep_forever()

        async def connected(_status: HostStatus, _asked_at: float) -> None:
            heard.append(("connected", link.problem))

        async def ended(session: str, read: int, written: int, by_hostd: bool) -> None:
            heard.append(("ended", session, read, written, by_hostd))

        def ready() -> None:
            heard.append(("ready", link.problem))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(serve)
            nursery.start_soon(link.follow, connected, ended, ready)
            with trio.fail_after(5):
                while len(heard) < 3:
                    await trio.sleep(0.01)
            nursery.cancel_scope.cancel()
        listener.close()
        assert heard == [
            ("connected", "hostd has not answered yet"),
            ("ready", None),
            ("ended", "s-1", 7, 1 << 62, False),
        ]
