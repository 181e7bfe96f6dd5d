"""Registry, inventory and hostd kept in step: news that hostd does not hear at first, and what must not wait."""

from __future__ import annotations

from pathlib import Path

import pytest
import structlog
import trio
from msgspec import structs
from tests.unit.core.stage import WEB, snapshot, staged, volume
from trio.testing import MockClock

from hatchway.admin import shares
from hatchway.admin.core import LOOK_EVERY_S, Core
from hatchway.admin.hostlink import HostLink
from hatchway.admin.inventory import Inventory
from hatchway.errors import ConflictError, HostError
from hatchway.model import AccessRule, InstanceInfo, InstanceKey, InstanceState, Snapshot, VolumeInfo, VolumeKind
from hatchway.registry.store import Registry
from hatchway.wire.admin import Access, Apply, Confirm, DaemonStatus, Enable, ListInstances
from hatchway.wire.frames import Channel, encode
from hatchway.wire.host import Births, HostStatus, SessionEnded, Watch


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


async def test_a_directory_that_was_replaced_is_found_while_nobody_logs_in(tmp_path: Path) -> None:
    """As after a restore while Hatchway runs, of which no engine tells: the other one must be confirmed."""
    source = volume("/data").source or ""
    async with staged(tmp_path) as stage:
        await stage.do(Enable(instance="shop/web/1", volumes=("/data",)))

        async def access() -> tuple[Access, tuple[str, ...]]:
            """What `ls` says of the volume after a look, and what waits to be confirmed."""
            await stage.core.look_again()
            (instance,) = (await stage.do(ListInstances())).instances
            (found,) = (one.access for one in instance.volumes if one.path == "/data")
            return found, (await stage.do(DaemonStatus())).waiting

        in_force, suspended = (Access.READ_WRITE, ()), (Access.SUSPENDED, ("shop/web/1 /data",))
        assert await access() == in_force
        # Gone, or on a disk that does not answer, is not replaced: it may be as it was in a moment.
        stage.host.born[source] = ""
        assert await access() == in_force
        stage.host.hung.add(source)
        assert await access() == in_force
        stage.host.hung.clear()
        stage.host.born[source] = "inode:9:9.0"
        stage.host.applied.clear()
        assert await access() == suspended
        assert stage.host.applied == [("shop-web-1", ())], "whoever is in there is sent away"
        stage.host.born[source] = "inode:2:1.0"
        assert await access() == in_force
        stage.host.born[source] = "inode:9:9.0"
        assert await access() == suspended
        await stage.do(Confirm(instance="shop/web/1"))
        assert await access() == in_force


async def test_directories_are_looked_at_for_ever(
    tmp_path: Path, autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks = list[float]()

    async def look() -> None:
        looks.append(trio.current_time() - began)
        raise [HostError("no answer"), RuntimeError("a fault")][len(looks) % 2]

    async with staged(tmp_path) as stage, trio.open_nursery() as nursery:
        monkeypatch.setattr(stage.core, "look_again", look)
        began = trio.current_time()
        with structlog.testing.capture_logs() as logged:
            nursery.start_soon(stage.core.keep_looking)
            await trio.sleep(2.5 * LOOK_EVERY_S)
            # That hostd is away, the link to it reports.
            stage.host.problem = "hostd hung up"
            await trio.sleep(LOOK_EVERY_S)
            nursery.cancel_scope.cancel()
    assert looks == [LOOK_EVERY_S, 2 * LOOK_EVERY_S]
    assert [one["log_level"] for one in logged] == ["error", "warning"]


async def test_what_has_come_back_is_found_as_well(tmp_path: Path) -> None:
    """It was not there when the catalog had news, and the catalog has no more."""
    source = volume("/data").source or ""
    async with staged(tmp_path) as stage:
        await stage.do(Enable(instance="shop/web/1", volumes=("/data",)))
        (record,) = await stage.core.db(Registry.instances)
        stage.host.born[source] = ""
        await stage.core.feed(snapshot(volume("/data")))
        assert not shares.host_views(record, stage.inventory)
        del stage.host.born[source]
        await stage.core.look_again()
        assert shares.host_views(record, stage.inventory)


async def test_directories_are_looked_at_where_access_was_given_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = list[tuple[str, ...]]()

    async with staged(tmp_path) as stage:
        births = stage.host.births

        async def counted(sources: tuple[str, ...]) -> Births:
            asked.append(sources)
            return await births(sources)

        monkeypatch.setattr(stage.host, "births", counted)
        await stage.core.look_again()
        assert asked == []
        await stage.do(Enable(instance="shop/web/1", volumes=("/data",)))
        asked.clear()
        await stage.core.look_again()
        # Nothing is new, so the catalog's news is not taken again.
        assert asked == [(volume("/data").source,)]


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


async def test_where_keys_lie_is_not_remembered_without_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Containers that come and go, each with its own .ssh, were never shared."""
    monkeypatch.setattr("hatchway.registry.store.KEY_SOURCES_MAX", 3)
    monkeypatch.setattr("hatchway.admin.core.KEY_SOURCES_MAX", 3)
    async with staged(tmp_path) as stage:
        for number in range(1, 10):
            ssh = structs.replace(volume("/home/u/.ssh"), source=f"/var/lib/docker/volumes/ssh{number}/_data")
            await stage.core.feed(snapshot(ssh, key=InstanceKey("shop", "job", number)))
        known = await stage.core._know_keys()
        assert [key.number for key in sorted(known)] == [7, 8, 9]
        assert await stage.core.db(Registry.key_sources) == known
