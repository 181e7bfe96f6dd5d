"""The private key in a volume: put there, kept there, taken away, and nothing else ever touched."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.unit.core.stage import Stage, snapshot, staged, volume

from hatchway.errors import ConflictError, HostError, NotFoundError, RefusedError
from hatchway.wire.admin import Disable, Enable, Forget
from hatchway.wire.entry import DeliverKey, ExportKey, ListKeys, RenewKey, TakeKeyBack

INSTANCE = "shop/web/1"
DATA, LOGS = (volume(path).source or "" for path in ("/data", "/logs"))


async def shared(stage: Stage) -> None:
    await stage.do(Enable(instance=INSTANCE, volumes=("/data", "/logs")))


async def private(stage: Stage) -> bytes:
    return bytes((await stage.do(ExportKey(INSTANCE))).private.encode())


async def test_it_lies_where_it_is_wanted_and_follows_the_key(tmp_path: Path) -> None:
    async with staged(tmp_path) as stage:
        await shared(stage)
        found = await stage.do(DeliverKey(instance=INSTANCE, volume="/data"))
        assert found.delivered == ("/data/id_container",)
        assert stage.host.keys_there == {(DATA, ""): await private(stage)}
        before = await private(stage)
        await stage.do(RenewKey(instance=INSTANCE))
        assert stage.host.keys_there == {(DATA, ""): await private(stage)}
        assert await private(stage) != before
        # By name, and elsewhere: one place at a time.
        found = await stage.do(DeliverKey(instance=INSTANCE, volume="logs", directory="keys"))
        assert found.delivered == ("/logs/keys/id_container",)
        assert stage.host.keys_there == {(LOGS, "keys"): await private(stage)}
        found = await stage.do(TakeKeyBack(INSTANCE))
        assert (found.delivered, found.undelivered) == ((), ())
        assert stage.host.keys_there == {}
        with pytest.raises(NotFoundError, match="put into no volume"):
            await stage.do(TakeKeyBack(INSTANCE))


@pytest.mark.parametrize("request_", [Disable(instance=INSTANCE, volumes=("/data",)), Forget(instance=INSTANCE)])
async def test_it_goes_with_access(tmp_path: Path, request_: Disable | Forget) -> None:
    async with staged(tmp_path) as stage:
        await shared(stage)
        await stage.do(DeliverKey(instance=INSTANCE, volume="/data"))
        await stage.do(Disable(instance=INSTANCE, volumes=("/logs",)))
        assert stage.host.keys_there != {}
        await stage.do(request_)
        assert stage.host.keys_there == {}
        assert await stage.core.db(lambda registry: registry.deliveries()) == ()


async def test_a_file_that_is_not_ours_is_never_touched(tmp_path: Path) -> None:
    async with staged(tmp_path) as stage:
        await shared(stage)
        stage.host.keys_there[DATA, ""] = b"the user's own"
        with pytest.raises(ConflictError, match="another file"):
            await stage.do(DeliverKey(instance=INSTANCE, volume="/data"))
        assert stage.host.keys_there == {(DATA, ""): b"the user's own"}
        assert await stage.core.db(lambda registry: registry.deliveries()) == ()
        del stage.host.keys_there[DATA, ""]
        await stage.do(DeliverKey(instance=INSTANCE, volume="/data"))
        stage.host.keys_there[DATA, ""] = b"put in its place"
        await stage.do(RenewKey(instance=INSTANCE))
        found = await stage.do(ListKeys(INSTANCE))
        assert (found.delivered, found.undelivered) == ((), ("/data/id_container is not the present key yet",))
        await stage.do(TakeKeyBack(INSTANCE))
        assert stage.host.keys_there == {(DATA, ""): b"put in its place"}


async def test_what_could_not_be_done_is_done_later(tmp_path: Path) -> None:
    async with staged(tmp_path) as stage:
        await shared(stage)
        stage.host.failure = HostError("hostd is away")
        with pytest.raises(HostError):
            await stage.do(DeliverKey(instance=INSTANCE, volume="/data"))
        stage.host.failure = None
        await stage.do(DeliverKey(instance=INSTANCE, volume="/data"))
        stage.host.failure = HostError("hostd is away")
        await stage.do(RenewKey(instance=INSTANCE))
        assert stage.host.keys_there != {(DATA, ""): await private(stage)}
        stage.host.failure = None
        await stage.core.feed(snapshot(volume("/data"), volume("/logs")))
        await _settled(stage)
        assert stage.host.keys_there == {(DATA, ""): await private(stage)}
        stage.host.failure = HostError("hostd is away")
        found = await stage.do(TakeKeyBack(INSTANCE))
        assert found.undelivered == ("/data/id_container could not be taken away yet",)
        stage.host.failure = None
        await _settled(stage)
        assert stage.host.keys_there == {}


async def _settled(stage: Stage) -> None:
    await stage.deliveries.settle()


async def test_it_is_put_only_where_it_may_be(tmp_path: Path) -> None:
    async with staged(tmp_path) as stage:
        await stage.do(Enable(instance=INSTANCE, volumes=("/data",), read_only=True))
        with pytest.raises(ConflictError, match="read-only"):
            await stage.do(DeliverKey(instance=INSTANCE, volume="/data"))
        with pytest.raises(NotFoundError, match="'/logs' is not on; it is on for: /data"):
            await stage.do(DeliverKey(instance=INSTANCE, volume="/logs"))
        assert stage.host.keys_there == {}


async def test_another_volume_at_the_path_gets_nothing(tmp_path: Path) -> None:
    async with staged(tmp_path) as stage:
        await shared(stage)
        await stage.do(DeliverKey(instance=INSTANCE, volume="/data"))
        stage.host.keys_there.clear()
        stage.host.born[DATA] = "inode:9:9.0"
        await stage.core.feed(snapshot(volume("/data"), volume("/logs")))
        await stage.do(RenewKey(instance=INSTANCE))
        assert stage.host.keys_there == {}


async def test_what_was_not_put_there_is_not_said_to_be(tmp_path: Path) -> None:
    async with staged(tmp_path) as stage:
        await shared(stage)
        stage.host.failure = HostError("hostd is away")
        with pytest.raises(HostError):
            await stage.do(DeliverKey(instance=INSTANCE, volume="/data"))
        stage.host.failure = None
        assert (await stage.do(ListKeys(INSTANCE))).delivered == ()
        await stage.do(RenewKey(instance=INSTANCE))
        assert stage.host.keys_there == {}, "it is not wanted there"
        # A move that fails leaves it where it was, and comes to nothing later.
        await stage.do(DeliverKey(instance=INSTANCE, volume="/data"))
        stage.host.failure = HostError("hostd is away")
        with pytest.raises(HostError):
            await stage.do(DeliverKey(instance=INSTANCE, volume="/logs"))
        stage.host.failure = None
        await stage.do(RenewKey(instance=INSTANCE))
        assert stage.host.keys_there == {(DATA, ""): await private(stage)}
        assert (await stage.do(ListKeys(INSTANCE))).delivered == ("/data/id_container",)


async def test_asking_again_looks_again(tmp_path: Path) -> None:
    async with staged(tmp_path) as stage:
        await shared(stage)
        await stage.do(DeliverKey(instance=INSTANCE, volume="/data"))
        stage.host.keys_there.clear()
        await stage.do(DeliverKey(instance=INSTANCE, volume="/data"))
        assert stage.host.keys_there == {(DATA, ""): await private(stage)}


async def test_what_cannot_be_taken_away_now_is_not_forgotten(tmp_path: Path) -> None:
    async with staged(tmp_path) as stage:
        await shared(stage)
        await stage.do(DeliverKey(instance=INSTANCE, volume="/data"))
        stage.host.unwithdrawable = RefusedError("the volume is read-only")
        await stage.do(Disable(instance=INSTANCE, volumes=("/data",)))
        found = await stage.do(ListKeys(INSTANCE))
        assert found.undelivered == ("/data/id_container could not be taken away yet",)
        stage.host.unwithdrawable = None
        await stage.deliveries.settle()
        assert stage.host.keys_there == {}
        await stage.do(Enable(instance=INSTANCE, volumes=("/data",)))
        await stage.do(DeliverKey(instance=INSTANCE, volume="/data"))
        # Another directory stands there: what lay in the one before is out of reach.
        stage.host.unwithdrawable = RefusedError("another directory stands there")
        stage.host.born[DATA] = "inode:9:9.0"
        await stage.do(TakeKeyBack(INSTANCE))
        assert (await stage.do(ListKeys(INSTANCE))).undelivered == ()


async def test_a_volume_that_became_read_only_is_left_as_it_is(tmp_path: Path) -> None:
    async with staged(tmp_path) as stage:
        await shared(stage)
        await stage.do(DeliverKey(instance=INSTANCE, volume="/data"))
        there = dict(stage.host.keys_there)
        await stage.do(Enable(instance=INSTANCE, volumes=("/data",), read_only=True))
        await stage.do(RenewKey(instance=INSTANCE))
        assert stage.host.keys_there == there
        assert (await stage.do(ListKeys(INSTANCE))).delivered == ()
