"""The private key in a volume that an instance has at several paths, as a whole or in part."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from msgspec import structs
from tests.unit.core.stage import Stage, snapshot, staged, volume

from hatchway.errors import ConflictError, HostError, UsageError
from hatchway.wire.admin import Disable, Enable
from hatchway.wire.entry import DeliverKey, ExportKey, ListKeys, RenewKey, TakeKeyBack
from hatchway.wire.host import Deliver, Withdraw, Withdrawal

INSTANCE = "shop/web/1"

WHOLE = volume("/data")
AGAIN = structs.replace(WHOLE, path="/again")
PART = structs.replace(WHOLE, path="/part", name="", source=f"{WHOLE.source}/part")
AT_DATA, AT_PART = (WHOLE.source or "", ""), (WHOLE.source or "", "part")


@asynccontextmanager
async def placed(directory: Path) -> AsyncIterator[Stage]:
    """A stage whose instance has a volume twice, and a part of it. What is done in the part is done in the whole."""
    async with staged(directory) as stage:
        deliver, withdraw = stage.host.deliver, stage.host.withdraw

        def really(request: Deliver | Withdraw) -> Deliver | Withdraw:
            if request.volume.source == PART.source:
                whole = structs.replace(request.volume, source=WHOLE.source)
                return structs.replace(request, volume=whole, directory="part")
            return request

        async def deliver_really(request: Deliver) -> bool:
            return await deliver(really(request))  # type: ignore[arg-type] # of the same kind

        async def withdraw_really(request: Withdraw) -> Withdrawal:
            return await withdraw(really(request))  # type: ignore[arg-type] # of the same kind

        stage.host.deliver, stage.host.withdraw = deliver_really, withdraw_really  # type: ignore[method-assign]
        await stage.core.feed(snapshot(WHOLE, AGAIN, PART))
        await stage.do(Enable(instance=INSTANCE, volumes=("/data", "/again", "/part")))
        yield stage


async def private(stage: Stage) -> bytes:
    return bytes((await stage.do(ExportKey(INSTANCE))).private.encode())


async def delivered(stage: Stage) -> tuple[tuple[str, ...], tuple[str, ...]]:
    found = await stage.do(ListKeys(INSTANCE))
    return found.delivered, found.undelivered


async def test_at_another_path_of_the_volume_it_stays_for_that(tmp_path: Path) -> None:
    async with placed(tmp_path) as stage:
        await stage.do(DeliverKey(instance=INSTANCE, volume="/data"))
        await stage.do(DeliverKey(instance=INSTANCE, volume="/again"))
        assert await delivered(stage) == (("/again/id_container",), ())
        await stage.do(Disable(instance=INSTANCE, volumes=("/data",)))
        assert stage.host.keys_there == {AT_DATA: await private(stage)}
        await stage.do(RenewKey(instance=INSTANCE))
        assert stage.host.keys_there == {AT_DATA: await private(stage)}
        await stage.do(Disable(instance=INSTANCE, volumes=("/again",)))
        assert stage.host.keys_there == {}
        assert await delivered(stage) == ((), ())


async def test_taken_back_it_is_nowhere(tmp_path: Path) -> None:
    async with placed(tmp_path) as stage:
        await stage.do(DeliverKey(instance=INSTANCE, volume="/data"))
        await stage.do(DeliverKey(instance=INSTANCE, volume="/again"))
        await stage.do(TakeKeyBack(INSTANCE))
        assert (stage.host.keys_there, await delivered(stage)) == ({}, ((), ()))


async def test_of_a_name_that_is_there_twice_a_path_is_asked_for(tmp_path: Path) -> None:
    async with placed(tmp_path) as stage:
        with pytest.raises(UsageError, match="'data' is mounted more than once: name a path of /again, /data"):
            await stage.do(DeliverKey(instance=INSTANCE, volume="data"))
        assert stage.host.keys_there == {}


@pytest.mark.parametrize("first", [("/data", "part"), ("/part", "")])
async def test_the_same_file_by_another_way_is_not_taken_away(tmp_path: Path, first: tuple[str, str]) -> None:
    (second,) = {("/data", "part"), ("/part", "")} - {first}
    async with placed(tmp_path) as stage:
        await stage.do(DeliverKey(instance=INSTANCE, volume=first[0], directory=first[1]))
        await stage.do(DeliverKey(instance=INSTANCE, volume=second[0], directory=second[1]))
        assert stage.host.keys_there == {AT_PART: await private(stage)}
        path = "/".join(part for part in (*second, "id_container") if part)
        assert await delivered(stage) == ((path,), ())
        await stage.do(RenewKey(instance=INSTANCE))
        assert stage.host.keys_there == {AT_PART: await private(stage)}
        await stage.do(Disable(instance=INSTANCE, volumes=(first[0],)))
        assert stage.host.keys_there == {AT_PART: await private(stage)}
        await stage.do(TakeKeyBack(INSTANCE))
        assert (stage.host.keys_there, await delivered(stage)) == ({}, ((), ()))


async def test_what_could_not_be_taken_away_then_takes_nothing_later(tmp_path: Path) -> None:
    async with placed(tmp_path) as stage:
        await stage.do(DeliverKey(instance=INSTANCE, volume="/data", directory="part"))
        stage.host.unwithdrawable = HostError("hostd is away")
        await stage.do(DeliverKey(instance=INSTANCE, volume="/part"))
        assert await delivered(stage) == (
            ("/part/id_container",), ("/data/part/id_container could not be taken away yet",)
        )  # fmt: skip
        stage.host.unwithdrawable = None
        # It was done, and the core did not live to write that down.
        del stage.host.keys_there[AT_PART]
        await stage.deliveries.settle()
        assert stage.host.keys_there == {AT_PART: await private(stage)}
        assert await delivered(stage) == (("/part/id_container",), ())


async def test_a_failed_move_to_the_same_file_leaves_it(tmp_path: Path) -> None:
    async with placed(tmp_path) as stage:
        await stage.do(DeliverKey(instance=INSTANCE, volume="/data", directory="part"))
        deliver = stage.host.deliver

        async def unsure(request: Deliver) -> bool:
            stage.host.deliver = deliver  # type: ignore[method-assign]
            await deliver(request)
            raise HostError("no answer in time")

        for other, directory in (("/part", ""), ("/again", "part")):
            stage.host.deliver = unsure  # type: ignore[method-assign]
            with pytest.raises(HostError, match="no answer"):
                await stage.do(DeliverKey(instance=INSTANCE, volume=other, directory=directory))
            await stage.deliveries.settle()
            assert stage.host.keys_there == {AT_PART: await private(stage)}
            assert await delivered(stage) == (("/data/part/id_container",), ())


async def test_a_file_of_anothers_by_another_way_is_left(tmp_path: Path) -> None:
    async with placed(tmp_path) as stage:
        stage.host.keys_there[AT_PART] = b"the user's own"
        for other, directory in (("/part", ""), ("/data", "part")):
            with pytest.raises(ConflictError, match="another file"):
                await stage.do(DeliverKey(instance=INSTANCE, volume=other, directory=directory))
        assert stage.host.keys_there == {AT_PART: b"the user's own"}
