"""The private key in a volume: put there, kept there, taken away, and nothing else ever touched."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path

import pytest
import trio
from tests.unit.core.stage import Stage, snapshot, staged, volume

from hatchway.admin import deliveries
from hatchway.errors import ConflictError, HostError, NotFoundError, RefusedError, UsageError
from hatchway.model import IdPair, Ownership
from hatchway.registry.records import Delivery
from hatchway.wire.admin import Confirm, Disable, Enable, Forget
from hatchway.wire.entry import DeliverKey, ExportKey, ListKeys, RenewKey, TakeKeyBack
from hatchway.wire.host import HASHES_MAX

INSTANCE = "shop/web/1"
DATA, LOGS = (volume(path).source or "" for path in ("/data", "/logs"))


async def shared(stage: Stage) -> None:
    await stage.do(Enable(instance=INSTANCE, volumes=("/data", "/logs")))


async def known(stage: Stage) -> tuple[Delivery, ...]:
    """What the core knows of places with a key in them."""
    return await stage.core.db(lambda registry: registry.deliveries())


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
        assert stage.host.keys_there == {(DATA, ""): await private(stage)}
        await stage.do(request_)
        assert stage.host.keys_there == {}
        assert await known(stage) == ()


async def test_a_file_that_is_not_ours_is_never_touched(tmp_path: Path) -> None:
    async with staged(tmp_path) as stage:
        await shared(stage)
        stage.host.keys_there[DATA, ""] = b"the user's own"
        with pytest.raises(ConflictError, match="another file"):
            await stage.do(DeliverKey(instance=INSTANCE, volume="/data"))
        assert stage.host.keys_there == {(DATA, ""): b"the user's own"}
        assert await known(stage) == ()
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
        before = await private(stage)
        stage.host.failure = HostError("hostd is away")
        await stage.do(RenewKey(instance=INSTANCE))
        assert await private(stage) != before
        assert stage.host.keys_there == {(DATA, ""): before}
        assert (await stage.do(ListKeys(INSTANCE))).undelivered == ("/data/id_container is not the present key yet",)
        stage.host.failure = None
        await stage.core.feed(snapshot(volume("/data"), volume("/logs")))
        await stage.deliveries.settle()
        assert stage.host.keys_there == {(DATA, ""): await private(stage)}
        stage.host.failure = HostError("hostd is away")
        found = await stage.do(TakeKeyBack(INSTANCE))
        assert (found.delivered, found.undelivered) == ((), ("/data/id_container could not be taken away yet",))
        assert stage.host.keys_there == {(DATA, ""): await private(stage)}
        stage.host.failure = None
        await stage.deliveries.settle()
        assert stage.host.keys_there == {}
        assert await known(stage) == ()


async def test_it_is_put_only_where_it_may_be(tmp_path: Path) -> None:
    async with staged(tmp_path) as stage:
        await stage.do(Enable(instance=INSTANCE, volumes=("/data",), read_only=True))
        with pytest.raises(ConflictError, match="read-only"):
            await stage.do(DeliverKey(instance=INSTANCE, volume="/data"))
        with pytest.raises(NotFoundError, match="'/logs' is not on; it is on for: /data"):
            await stage.do(DeliverKey(instance=INSTANCE, volume="/logs"))
        for nowhere in ("", "/", "/data/keys"):
            with pytest.raises(NotFoundError, match="is not on"):
                await stage.do(DeliverKey(instance=INSTANCE, volume=nowhere))
        assert stage.host.asked_to_deliver == []
        assert await known(stage) == ()


async def test_another_volume_at_the_path_gets_nothing(tmp_path: Path) -> None:
    async with staged(tmp_path) as stage:
        await shared(stage)
        await stage.do(DeliverKey(instance=INSTANCE, volume="/data"))
        there, before = dict(stage.host.keys_there), list(stage.host.asked_to_deliver)
        stage.host.born[DATA] = "inode:9:9.0"
        await stage.core.feed(snapshot(volume("/data"), volume("/logs")))
        await stage.do(RenewKey(instance=INSTANCE))
        with pytest.raises(ConflictError, match="suspended"):
            await stage.do(DeliverKey(instance=INSTANCE, volume="/data"))
        assert stage.host.asked_to_deliver == before
        found = await stage.do(ListKeys(INSTANCE))
        assert (found.delivered, found.undelivered) == ((), ("/data/id_container is not the present key yet",))
        # The one it was put into is back.
        assert stage.host.keys_there == there
        stage.host.born[DATA] = before[0].volume.birth
        await stage.core.feed(snapshot(volume("/data"), volume("/logs")))
        await stage.deliveries.settle()
        assert stage.host.keys_there == {(DATA, ""): await private(stage)}


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


async def test_what_may_lie_there_is_not_said_to_until_hostd_has_said_so(tmp_path: Path) -> None:
    async with staged(tmp_path) as stage:
        await shared(stage)
        await stage.do(DeliverKey(instance=INSTANCE, volume="/data"))
        stage.host.failure = HostError("hostd is away")
        with pytest.raises(HostError):
            await stage.do(DeliverKey(instance=INSTANCE, volume="/data"))
        found = await stage.do(ListKeys(INSTANCE))
        assert (found.delivered, found.undelivered) == ((), ("/data/id_container is not the present key yet",))
        stage.host.failure = None
        await stage.deliveries.settle()
        assert (await stage.do(ListKeys(INSTANCE))).delivered == ("/data/id_container",)


async def test_asking_again_looks_again(tmp_path: Path) -> None:
    async with staged(tmp_path) as stage:
        await shared(stage)
        await stage.do(DeliverKey(instance=INSTANCE, volume="/data"))
        stage.host.keys_there.clear()
        found = await stage.do(DeliverKey(instance=INSTANCE, volume="/data"))
        assert stage.host.keys_there == {(DATA, ""): await private(stage)}
        assert (found.delivered, found.undelivered) == (("/data/id_container",), ())


async def test_what_cannot_be_taken_away_now_is_not_forgotten(tmp_path: Path) -> None:
    async with staged(tmp_path) as stage:
        await shared(stage)
        await stage.do(DeliverKey(instance=INSTANCE, volume="/data"))
        stage.host.unwithdrawable = RefusedError("the volume is read-only")
        await stage.do(Disable(instance=INSTANCE, volumes=("/data",)))
        found = await stage.do(ListKeys(INSTANCE))
        assert (found.delivered, found.undelivered) == ((), ("/data/id_container could not be taken away yet",))
        assert stage.host.keys_there == {(DATA, ""): await private(stage)}
        stage.host.unwithdrawable = None
        await stage.deliveries.settle()
        assert stage.host.keys_there == {}
        assert await known(stage) == ()
        await stage.do(Enable(instance=INSTANCE, volumes=("/data",)))
        await stage.do(DeliverKey(instance=INSTANCE, volume="/data"))
        # Another directory stands there: what lay in the one before is out of reach, and what lies here is not ours.
        stage.host.born[DATA] = "inode:9:9.0"
        there = dict(stage.host.keys_there)
        found = await stage.do(TakeKeyBack(INSTANCE))
        assert (found.delivered, found.undelivered) == ((), ())
        assert await known(stage) == ()
        assert stage.host.keys_there == there


async def test_a_file_in_the_way_keeps_what_is_known_of_the_key(tmp_path: Path) -> None:
    async with staged(tmp_path) as stage:
        await shared(stage)
        await stage.do(DeliverKey(instance=INSTANCE, volume="/data"))
        before = await known(stage)
        stage.host.unwithdrawable = ConflictError("something is in the way")
        found = await stage.do(TakeKeyBack(INSTANCE))
        assert found.undelivered == ("/data/id_container could not be taken away yet",)
        assert [one.hashes for one in await known(stage)] == [one.hashes for one in before]


async def test_a_volume_that_is_confirmed_has_no_key_until_it_is_put_there(tmp_path: Path) -> None:
    async with staged(tmp_path) as stage:
        await shared(stage)
        await stage.do(DeliverKey(instance=INSTANCE, volume="/data"))
        before = list(stage.host.asked_to_deliver)
        stage.host.keys_there.clear()
        stage.host.born[DATA] = "inode:9:9.0"
        await stage.core.feed(snapshot(volume("/data"), volume("/logs")))
        await stage.do(Confirm(instance=INSTANCE))
        found = await stage.do(ListKeys(INSTANCE))
        assert (found.delivered, found.undelivered) == ((), ("/data/id_container is not the present key yet",))
        await stage.do(RenewKey(instance=INSTANCE))
        assert stage.host.asked_to_deliver == before
        found = await stage.do(DeliverKey(instance=INSTANCE, volume="/data"))
        assert (found.delivered, found.undelivered) == (("/data/id_container",), ())
        assert stage.host.keys_there == {(DATA, ""): await private(stage)}
        assert [one.volume.birth for one in await known(stage)] == ["inode:9:9.0"]


async def test_a_volume_that_became_read_only_is_left_as_it_is(tmp_path: Path) -> None:
    async with staged(tmp_path) as stage:
        await shared(stage)
        await stage.do(DeliverKey(instance=INSTANCE, volume="/data"))
        there = dict(stage.host.keys_there)
        await stage.do(Enable(instance=INSTANCE, volumes=("/data",), read_only=True))
        await stage.do(RenewKey(instance=INSTANCE))
        assert stage.host.keys_there == there
        found = await stage.do(ListKeys(INSTANCE))
        assert (found.delivered, found.undelivered) == ((), ("/data/id_container is not the present key yet",))
        await stage.do(Enable(instance=INSTANCE, volumes=("/data",)))
        await stage.deliveries.settle()
        assert stage.host.keys_there == {(DATA, ""): await private(stage)}
        assert (await stage.do(ListKeys(INSTANCE))).delivered == ("/data/id_container",)


async def test_a_key_that_was_put_there_is_recognised_though_nobody_heard_of_it(tmp_path: Path) -> None:
    """As when hostd, or the core, ends before the answer comes."""
    async with staged(tmp_path) as stage:
        await shared(stage)
        stage.host.unanswered = HostError("hostd ended")
        with pytest.raises(HostError, match="hostd ended"):
            await stage.do(DeliverKey(instance=INSTANCE, volume="/data"))
        assert len(stage.host.asked_to_deliver) == 1
        assert stage.host.keys_there == {}, "it was taken away again"
        stage.host.unanswered = None
        await stage.do(DeliverKey(instance=INSTANCE, volume="/data"))
        stage.host.unanswered = HostError("hostd ended")
        await stage.do(RenewKey(instance=INSTANCE))
        (delivery,) = await known(stage)
        assert (len(delivery.hashes), delivery.done) == (2, False)
        assert (await stage.do(ListKeys(INSTANCE))).delivered == ()
        stage.host.unanswered = None
        await stage.do(RenewKey(instance=INSTANCE))
        assert stage.host.keys_there == {(DATA, ""): await private(stage)}
        (delivery,) = await known(stage)
        assert (len(delivery.hashes), delivery.done) == (1, True)


@pytest.mark.parametrize("lies", [0, -1])
async def test_no_key_that_may_lie_there_is_forgotten_however_many_there_were(tmp_path: Path, lies: int) -> None:
    async with staged(tmp_path) as stage:
        await shared(stage)
        await stage.do(DeliverKey(instance=INSTANCE, volume="/data"))
        (delivery,) = await known(stage)
        # Of so many that were made since nobody knows whether they were put there.
        others = [hashlib.sha256(str(number).encode()).hexdigest() for number in range(HASHES_MAX - 1)]
        hashes = (*delivery.hashes, *others) if lies == 0 else (*others, *delivery.hashes)
        await stage.core.db(lambda registry: registry.put_delivery(replace(delivery, hashes=hashes, done=False)))
        before = dict(stage.host.keys_there)
        stage.host.failure = HostError("hostd is away")
        await stage.do(RenewKey(instance=INSTANCE))
        assert (await known(stage))[0].hashes == hashes
        assert stage.host.keys_there == before
        stage.host.failure = None
        await stage.deliveries.settle()
        assert stage.host.keys_there == {(DATA, ""): await private(stage)}
        assert (await stage.do(ListKeys(INSTANCE))).delivered == ("/data/id_container",)


@pytest.mark.parametrize(("owner", "ids"), [("33:44", IdPair(33, 44)), ("inherit", None)])
async def test_it_belongs_to_whom_what_is_made_there_belongs(tmp_path: Path, owner: str, ids: IdPair | None) -> None:
    async with staged(tmp_path) as stage:
        await stage.do(Enable(instance=INSTANCE, volumes=("/data",), ownership=Ownership(owner=owner)))
        await stage.do(DeliverKey(instance=INSTANCE, volume="/data"))
        assert [one.owner for one in stage.host.asked_to_deliver] == [ids]


async def test_a_volume_and_a_directory_are_the_same_with_and_without_slashes(tmp_path: Path) -> None:
    async with staged(tmp_path) as stage:
        await shared(stage)
        for path, directory in (("/data/", "/keys/of/ours/"), ("/data", "keys/of/ours")):
            found = await stage.do(DeliverKey(instance=INSTANCE, volume=path, directory=directory))
            assert (found.delivered, found.undelivered) == (("/data/keys/of/ours/id_container",), ())
            assert stage.host.keys_there == {(DATA, "keys/of/ours"): await private(stage)}
            assert len(await known(stage)) == 1
        found = await stage.do(DeliverKey(instance=INSTANCE, volume="/data", directory="/"))
        assert found.delivered == ("/data/id_container",)
        assert stage.host.keys_there == {(DATA, ""): await private(stage)}


async def test_what_can_be_no_directory_changes_nothing(tmp_path: Path) -> None:
    async with staged(tmp_path) as stage:
        await shared(stage)
        for directory in ("../../etc", "..", "keys/../..", "a" * 256, "a/" * 65, "a\0b", "a\ud800"):
            with pytest.raises(UsageError, match="can be no directory of a volume"):
                await stage.do(DeliverKey(instance=INSTANCE, volume="/data", directory=directory))
        assert await known(stage) == ()
        assert stage.host.asked_to_deliver == []
        for directory in (".", "./", "//", "keys/./", "./keys//."):
            found = await stage.do(DeliverKey(instance=INSTANCE, volume="/data", directory=directory))
            assert len(found.delivered) == 1
            assert found.undelivered == ()
        assert stage.host.keys_there == {(DATA, "keys"): await private(stage)}


async def test_it_is_tried_again_for_ever(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(deliveries, "RETRY_S", 0.01)
    async with staged(tmp_path) as stage, trio.open_nursery() as nursery:
        await shared(stage)
        await stage.do(DeliverKey(instance=INSTANCE, volume="/data"))
        nursery.start_soon(stage.deliveries.run)
        for _ in range(2):
            before = await private(stage)
            stage.host.failure = HostError("hostd is away")
            await stage.do(RenewKey(instance=INSTANCE))
            assert stage.host.keys_there == {(DATA, ""): before}
            stage.host.failure = None
            with trio.fail_after(10):
                while stage.host.keys_there != {(DATA, ""): await private(stage)}:
                    await trio.sleep(0.01)
        nursery.cancel_scope.cancel()
