"""Limits of volumes: who may say them, that the strictest holds in every view, and that none is lost by the way."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import trio
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec import structs
from tests.unit.core.stage import WEB, Stage, snapshot, staged, volume
from tests.unit.core.test_shares import grant as granted

from hatchway.admin import rules, shares
from hatchway.admin.core import Core
from hatchway.admin.inventory import Inventory
from hatchway.errors import UsageError
from hatchway.model import (
    NO_LIMITS,
    UNSAID,
    AccessRule,
    Directory,
    InstanceInfo,
    InstanceKey,
    InstanceState,
    Limits,
    Login,
    Mode,
    NewLimits,
    Origin,
    Ownership,
    Snapshot,
    Uid,
    VolumeInfo,
    VolumeKind,
    strictest,
)
from hatchway.registry.records import GrantRecord, InstanceRecord
from hatchway.registry.store import Registry
from hatchway.wire.admin import Apply, ChangeKind, Confirm, Disable, Enable, ListInstances
from hatchway.wire.host import View

GB = 1_000_000_000
OTHER = InstanceKey("shop", "backup", 1)
SOURCE = volume("/data").source or ""


def seen(*volumes: VolumeInfo, label: str = "") -> Snapshot:
    """Two containers that both have the volumes."""
    first = snapshot(*(volumes or (volume("/data"), volume("/logs"))), label=label)
    second = structs.replace(first.instances[0], key=OTHER, runtime_id="4567", runtime_name="b", access_label="")
    return structs.replace(first, instances=(*first.instances, second))


def last(stage: Stage, login: str = "shop-web-1") -> dict[str, Limits]:
    """What hostd was told last of a login: limits by path."""
    views: tuple[View, ...] = next(views for to, views in reversed(stage.host.applied) if to == login)
    return {view.path: view.limits for view in views}


async def grants(stage: Stage, key: InstanceKey = WEB) -> list[tuple[str, Origin, Mode, Limits]]:
    record = await stage.core.db(lambda registry: registry.instance(key))
    return [] if record is None else [(one.path, one.origin, one.mode, one.limits) for one in record.grants]


def rule(limits: Limits, **fields: object) -> AccessRule:
    made = {"where": "a.toml, rule 1", "project": "shop", "service": "web", "volumes": ("/data",), **fields}
    return AccessRule(limits=limits, **made)  # type: ignore[arg-type] # checked by the tests


async def test_a_limit_is_kept_until_it_is_changed_or_taken_away(tmp_path: Path) -> None:
    async with staged(tmp_path) as stage:
        said = NewLimits(20 * GB, 1000)
        changed = await stage.do(Enable(instance="shop/web/1", volumes=("/data",), limits=said))
        (data,) = [one for one in changed.instance.volumes if one.path == "/data"]
        assert (data.limits, data.grants[0].limits) == (Limits(20 * GB, 1000), Limits(20 * GB, 1000))
        assert last(stage) == {"/data": Limits(20 * GB, 1000)}
        await stage.do(Enable(instance="shop/web/1", every=True, read_only=True))
        assert await grants(stage) == [
            ("/data", Origin.COMMAND, Mode.READ_ONLY, Limits(20 * GB, 1000)),
            ("/logs", Origin.COMMAND, Mode.READ_ONLY, NO_LIMITS),
        ]
        await stage.do(Enable(instance="shop/web/1", volumes=("/data",), limits=NewLimits(files=None)))
        assert last(stage)["/data"] == Limits(20 * GB, None)
        await stage.do(Enable(instance="shop/web/1", volumes=("/data",), limits=NewLimits(size=2 * GB)))
        assert last(stage)["/data"] == Limits(2 * GB, None)
        await stage.do(Enable(instance="shop/web/1", volumes=("/data",), limits=NewLimits(None)))
        assert last(stage) == {"/data": NO_LIMITS, "/logs": NO_LIMITS}


@pytest.mark.parametrize("limits", [NewLimits(1), NewLimits(1 << 51), NewLimits(files=0), NewLimits(files=1 << 41)])
async def test_limits_that_are_none(tmp_path: Path, limits: NewLimits) -> None:
    async with staged(tmp_path) as stage:
        with pytest.raises(UsageError, match=r"is not allowed: expected .*1.* to "):
            await stage.do(Enable(instance="shop/web/1", volumes=("/data",), limits=limits))
        assert await grants(stage) == []


async def test_a_limit_is_the_volumes_whoever_gave_it(tmp_path: Path) -> None:
    async with staged(tmp_path) as stage:
        await stage.core.feed(seen())
        await stage.do(Enable(instance="shop/web/1", every=True))
        assert last(stage) == {"/data": NO_LIMITS, "/logs": NO_LIMITS}
        told = len(stage.host.applied)
        # Another instance's grant, read-only even.
        await stage.do(Enable(instance="shop/backup/1", volumes=("/data",), read_only=True, limits=NewLimits(GB, 500)))
        both = {"shop-web-1", "shop-backup-1"}
        assert {login for login, _ in stage.host.applied[told:]} == both
        assert last(stage) == {"/data": Limits(GB, 500), "/logs": NO_LIMITS}
        assert last(stage, "shop-backup-1") == {"/data": Limits(GB, 500)}
        # And a rule: of each the strictest.
        await stage.do(Apply(rules=(rule(Limits(3 * GB, 40)),)))
        assert [last(stage, login)["/data"] for login in sorted(both)] == [Limits(GB, 40)] * 2
        listed = (await stage.do(ListInstances())).instances
        assert {one.limits for info in listed for one in info.volumes if one.path == "/data"} == {Limits(GB, 40)}
        # What it said goes with the grant.
        await stage.do(Disable(instance="shop/backup/1", every=True))
        assert last(stage)["/data"] == Limits(3 * GB, 40)
        await stage.do(Apply(rules=()))
        assert last(stage)["/data"] == NO_LIMITS


async def test_a_change_that_changes_no_limit_tells_nobody_else(tmp_path: Path) -> None:
    async with staged(tmp_path) as stage:
        await stage.core.feed(seen())
        await stage.do(Enable(instance="shop/web/1", volumes=("/data",), limits=NewLimits(GB)))
        told = len(stage.host.applied)
        await stage.do(Enable(instance="shop/backup/1", volumes=("/data",), limits=NewLimits(2 * GB)))
        assert [login for login, _ in stage.host.applied[told:]] == ["shop-backup-1"]


async def test_the_first_session_after_a_start_has_everybodys_limits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with staged(tmp_path) as stage:
        await stage.core.feed(seen())
        await stage.do(Enable(instance="shop/web/1", volumes=("/data",)))
        await stage.do(Enable(instance="shop/backup/1", volumes=("/data",), limits=NewLimits(GB)))
        old = stage.core
        successor = Core(old.config, old.registry, old.sealing, Inventory(), stage.host)
        record = await successor.db(lambda registry: registry.by_login("shop-web-1"))
        assert record is not None
        looks, instances = list[Registry](), Registry.instances

        def look(self: Registry) -> tuple[InstanceRecord, ...]:
            looks.append(self)
            return instances(self)

        monkeypatch.setattr(Registry, "instances", look)
        for _ in range(3):
            await successor.open_session(
                record, address="192.0.2.1", method="publickey", key=None, credential_id=None, pid=1
            )
        assert [views[0].limits for _, views, _ in stage.host.sessions.values()] == [Limits(GB)] * 3
        assert len(looks) == 1, "a login must not cost a look at all instances"


async def test_sessions_of_an_instance_that_is_gone_hear_of_limits(tmp_path: Path) -> None:
    async with staged(tmp_path) as stage:
        await stage.core.feed(seen())
        await stage.do(Enable(instance="shop/web/1", volumes=("/data",)))
        alone = structs.replace(seen(), instances=seen().instances[1:])
        await stage.core.feed(alone)
        await stage.do(Enable(instance="shop/backup/1", volumes=("/data",), limits=NewLimits(GB)))
        assert last(stage) == {"/data": Limits(GB)}


async def test_confirming_keeps_limits_and_the_new_volume_has_them(tmp_path: Path) -> None:
    async with staged(tmp_path) as stage:
        await stage.do(Enable(instance="shop/web/1", volumes=("/data",), limits=NewLimits(GB, 7)))
        stage.host.born[SOURCE] = "inode:9:9.0"
        await stage.core.feed(snapshot(volume("/data")))
        (listed,) = (await stage.do(ListInstances())).instances
        # Another volume stands there: nobody limited that one.
        assert [one.limits for one in listed.volumes] == [NO_LIMITS]
        await stage.do(Confirm(instance="shop/web/1"))
        assert await grants(stage) == [("/data", Origin.COMMAND, Mode.READ_WRITE, Limits(GB, 7))]
        assert last(stage) == {"/data": Limits(GB, 7)}


async def test_who_gives_a_limit_means_no_more_than_that(tmp_path: Path) -> None:
    """A read-only volume stays so, and whom new files belong to stays; without a limit both are as the command says."""
    async with staged(tmp_path) as stage:
        owned = Ownership("1000:1000", 0o002)
        await stage.do(Enable(instance="shop/web/1", volumes=("/data",), read_only=True, ownership=owned))

        async def is_now() -> tuple[Mode, Ownership, Limits]:
            record = await stage.core.db(lambda registry: registry.instance(WEB))
            assert record is not None
            (one,) = record.grants
            return one.mode, one.ownership, one.limits

        await stage.do(Enable(instance="shop/web/1", volumes=("/data",), limits=NewLimits(GB)))
        assert await is_now() == (Mode.READ_ONLY, owned, Limits(GB))
        other = Ownership("inherit")
        await stage.do(Enable(instance="shop/web/1", volumes=("/data",), limits=NewLimits(None), ownership=other))
        assert await is_now() == (Mode.READ_ONLY, other, NO_LIMITS)
        await stage.do(Enable(instance="shop/web/1", volumes=("/data",)))
        assert await is_now() == (Mode.READ_WRITE, UNSAID, NO_LIMITS)


async def test_following_keeps_limits(tmp_path: Path) -> None:
    async with staged(tmp_path) as stage:
        first = structs.replace(volume("/data"), name="anonymous-1", anonymous=True)
        await stage.core.feed(snapshot(first))
        await stage.do(Enable(instance="shop/web/1", volumes=("/data",), follow=True, limits=NewLimits(GB)))
        stage.host.born["/v/2"] = "inode:9:9.0"
        await stage.core.feed(snapshot(structs.replace(first, name="anonymous-2", source="/v/2")))
        await stage.reconciler.reconcile()
        assert last(stage) == {"/data": Limits(GB)}
        assert list(stage.core.limits or ()) == [Directory("/v/2", "inode:9:9.0")]


async def test_rules_change_limits_and_a_dry_run_says_so(tmp_path: Path) -> None:
    async with staged(tmp_path) as stage:
        await stage.do(Apply(rules=(rule(NO_LIMITS),)))
        limited = rule(Limits(GB, 100))
        for dry_run in (True, False):
            (change,) = (await stage.do(Apply(rules=(limited,), dry_run=dry_run))).changes
            assert (change.kind, change.limits_before, change.limits) == (
                ChangeKind.ALTER,
                NO_LIMITS,
                Limits(GB, 100),
            )
        assert await stage.core.db(Registry.rules) == (limited,)
        assert await grants(stage) == [("/data", Origin.FILE, Mode.READ_WRITE, Limits(GB, 100))]
        assert (await stage.do(Apply(rules=(limited,)))).changes == ()
        (change,) = (await stage.do(Apply(rules=(rule(NO_LIMITS),)))).changes
        assert (change.limits_before, change.limits) == (Limits(GB, 100), NO_LIMITS)
        assert last(stage) == {"/data": NO_LIMITS}


async def test_labels_give_no_limits_and_take_none(tmp_path: Path) -> None:
    async with staged(tmp_path, labels=True) as stage:
        await stage.core.feed(snapshot(volume("/data"), label="/data"))
        await stage.reconciler.reconcile()
        assert await grants(stage) == [("/data", Origin.LABEL, Mode.READ_WRITE, NO_LIMITS)]
        await stage.do(Enable(instance="shop/web/1", volumes=("/data",), limits=NewLimits(GB)))
        await stage.reconciler.reconcile()
        assert last(stage) == {"/data": Limits(GB)}


async def test_an_engine_that_keeps_its_volumes_elsewhere_now_loses_no_limit(tmp_path: Path) -> None:
    """The directory is the same one, moved as a whole: another instance's grant names the old place."""
    async with staged(tmp_path) as stage:
        await stage.core.feed(seen())
        await stage.do(Enable(instance="shop/web/1", volumes=("/data",)))
        await stage.do(Enable(instance="shop/backup/1", volumes=("/data",), limits=NewLimits(GB)))
        await stage.core.feed(seen(structs.replace(volume("/data"), source="/mnt/volumes/data/_data")))
        assert last(stage) == {"/data": Limits(GB)}


DATA = VolumeInfo(path="/data", kind=VolumeKind.VOLUME, name="shop_data", driver="local", created="1", source="/v/1")


def grant(limits: Limits = NO_LIMITS, mode: Mode = Mode.READ_WRITE, of: VolumeInfo = DATA) -> GrantRecord:
    return replace(granted(of, mode), granted_by="a.toml, rule 1", origin=Origin.FILE, limits=limits)


def record(*grants: GrantRecord, key: InstanceKey = WEB) -> InstanceRecord:
    return InstanceRecord(key, Login("shop-web-1"), Uid(1), 0.0, 0.0, grants, "x")


def planned(rule_limits: list[Limits], had: Limits, *, fresh: bool = True) -> list[rules.Change]:
    made = [rule(limits, where=f"a.toml, rule {number}") for number, limits in enumerate(rule_limits, 1)]
    info = InstanceInfo(key=WEB, runtime_id="x", runtime_name="x", state=InstanceState.RUNNING, volumes=(DATA,))
    return rules.plan(made, False, [record(grant(had))], [info], frozenset({WEB} if fresh else ()))


some_limits = st.builds(Limits, st.none() | st.integers(1, 3), st.none() | st.integers(1, 3))


@settings(database=None, deadline=None)
@given(st.lists(some_limits, min_size=1, max_size=3), some_limits)
def test_of_several_rules_the_strictest_limits_count(ruled: list[Limits], had: Limits) -> None:
    changes = planned(ruled, had)
    expected = strictest(ruled)
    assert [(one.limits_before, one.limits) for one in changes] == ([] if had == expected else [(had, expected)])
    # Whoever may do less afterwards must hear of it first.
    assert [one.takes_away for one in changes] == [strictest((had, expected)) != had] * len(changes)


@settings(database=None, deadline=None)
@given(st.lists(some_limits, min_size=1, max_size=3), some_limits)
def test_while_nothing_is_known_of_a_volume_its_limits_only_get_stricter(ruled: list[Limits], had: Limits) -> None:
    expected = strictest((had, *ruled))
    changes = planned(ruled, had, fresh=False)
    assert [one.limits for one in changes] == ([] if had == expected else [expected])
    assert all(one.kind is ChangeKind.ALTER and one.mode is Mode.READ_WRITE for one in changes)
    gone = rules.plan([rule(limits) for limits in ruled], False, [record(grant(had))], [], frozenset())
    assert [one.limits for one in gone] == [one.limits for one in changes]


@settings(database=None, deadline=None)
@given(st.lists(st.tuples(st.sampled_from(["1", "2"]), some_limits), max_size=5))
def test_all_grants_of_a_volume_say_its_limits_together(given_: list[tuple[str, Limits]]) -> None:
    records = [
        record(grant(limits, of=structs.replace(DATA, created=birth)), key=InstanceKey("shop", "web", number))
        for number, (birth, limits) in enumerate(given_)
    ]
    expected = {
        Directory("/v/1", birth): strictest(limits for at, limits in given_ if at == birth)
        for birth in {birth for birth, _ in given_}
    }
    assert shares.limits(records, Inventory()) == expected


def test_a_grant_without_a_directory_limits_nothing() -> None:
    assert shares.limits([record(replace(grant(Limits(1)), source=None))], Inventory()) == {}


@settings(database=None)
@given(some_limits, some_limits)
def test_what_is_not_said_stays(before: Limits, said: Limits) -> None:
    assert NewLimits.exactly(said).after(before) == said
    assert NewLimits().after(before) == before
    assert NewLimits(size=said.size).after(before) == Limits(said.size, before.files)
    assert NewLimits(files=said.files).after(before) == Limits(before.size, said.files)


async def test_a_session_that_opens_while_a_limit_comes_has_it_in_the_end(tmp_path: Path) -> None:
    async with staged(tmp_path) as stage, trio.open_nursery() as nursery:
        await stage.core.feed(seen())
        await stage.do(Enable(instance="shop/web/1", volumes=("/data",)))
        record = await stage.core.db(lambda registry: registry.by_login("shop-web-1"))
        assert record is not None
        stage.host.opening = trio.Event()

        async def enter() -> None:
            async with stage.core.turn(record.login):
                await stage.core.open_session(
                    record, address="192.0.2.1", method="publickey", key=None, credential_id=None, pid=1
                )

        nursery.start_soon(enter)
        await trio.testing.wait_all_tasks_blocked()
        limited = Enable(instance="shop/backup/1", volumes=("/data",), limits=NewLimits(GB))
        nursery.start_soon(stage.do, limited)
        await trio.sleep(0.2)
        stage.host.opening.set()
        with trio.fail_after(5):
            while stage.host.applied[-1] != (
                "shop-web-1",
                (View("/data", SOURCE, False, "inode:2:1.0", limits=Limits(GB)),),
            ):
                await trio.sleep(0.01)
