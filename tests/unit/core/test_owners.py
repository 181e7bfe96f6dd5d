"""Whom new files belong to: several grants together, ids of the container on the host, and what cannot be told."""

from __future__ import annotations

from pathlib import Path

import pytest
from msgspec import structs
from tests.unit.core.stage import WEB, snapshot, staged, volume

from hatchway.admin import owners
from hatchway.errors import ConflictError, UsageError
from hatchway.model import (
    AccessRule,
    IdPair,
    IdRange,
    InstanceInfo,
    InstanceState,
    Mode,
    Origin,
    Ownership,
    Snapshot,
    VolumeKind,
    parse_owner,
    parse_umask,
)
from hatchway.registry.records import GrantRecord
from hatchway.wire.admin import Apply, Changed, ChangeKind, Confirm, Enable
from hatchway.wire.host import View

INFO = InstanceInfo(
    key=WEB,
    runtime_id="x",
    runtime_name="x",
    state=InstanceState.RUNNING,
    user="app",
    owner=IdPair(1000, 50),
    uid_map=(IdRange(0, 300000, 65536),),
    gid_map=(IdRange(0, 400000, 65536),),
)


def grant(origin: Origin, ownership: Ownership, ids: IdPair | None = None) -> GrantRecord:
    return GrantRecord(
        path="/data",
        name="data",
        kind=VolumeKind.VOLUME,
        driver="local",
        created="1",
        source="/v",
        mode=Mode.READ_WRITE,
        identity="i",
        granted_at=0.0,
        granted_by="x",
        origin=origin,
        ownership=ownership,
        owner_ids=ids,
    )


@pytest.mark.parametrize("text", ["inherit", "container", "real", "0:0", "1000:50", "4294967294:0"])
def test_owners(text: str) -> None:
    assert parse_owner(text) == text


@pytest.mark.parametrize("text", ["", "root", "1000", "1000:", "4294967295:0", "-1:0", "1:2:3", "Inherit", "1:\u0662"])
def test_what_is_no_owner(text: str) -> None:
    with pytest.raises(UsageError, match="expected inherit, container, real or UID:GID"):
        parse_owner(text)


@pytest.mark.parametrize(("text", "umask"), [("022", 0o022), ("0002", 2), ("000", 0), ("777", 0o777)])
def test_umasks(text: str, umask: int) -> None:
    assert parse_umask(text) == umask


@pytest.mark.parametrize("text", ["", "22", "0x12", "088", "1777", "u=rwx"])
def test_what_is_no_umask(text: str) -> None:
    with pytest.raises(UsageError, match="three octal digits"):
        parse_umask(text)


def test_commands_come_before_files_and_what_one_does_not_say_another_may() -> None:
    command = grant(Origin.COMMAND, Ownership(umask=0o002))
    file = grant(Origin.FILE, Ownership("container", 0o077))
    assert owners.effective([file, command]) == Ownership("container", 0o002)
    assert owners.effective([]) == Ownership()


def test_ids_are_the_containers() -> None:
    assert owners.resolve("container", INFO) == IdPair(301000, 400050)
    assert owners.resolve("7:8", INFO) == IdPair(300007, 400008)
    for nobody in (None, "inherit", "real"):
        assert owners.resolve(nobody, INFO) is None
    assert owners.resolve("7:8", structs.replace(INFO, uid_map=(), gid_map=())) == IdPair(7, 8)


@pytest.mark.parametrize(
    ("owner", "info", "words"),
    [
        ("container", None, "not there now"),
        ("container", structs.replace(INFO, owner=None, owner_problem="it says so"), r"its user's \(app\): it says so"),
        ("70000:0", INFO, "no such ids"),
        (
            "1000:1000",
            structs.replace(INFO, uid_map=(), gid_map=(), ids_problem="rootless"),
            "cannot be told: rootless",
        ),
        ("container", structs.replace(INFO, ids_problem="rootless"), "cannot be told: rootless"),
        ("0:70000", INFO, "no such ids"),
    ],
)
def test_what_cannot_be_told(owner: str, info: InstanceInfo | None, words: str) -> None:
    with pytest.raises(ConflictError, match=words):
        owners.resolve(owner, info)


def test_who_it_was_stands_in_while_it_is_not_known_who_it_is() -> None:
    known = grant(Origin.COMMAND, Ownership("container"), IdPair(9, 9))
    assert owners.now([known], INFO) == IdPair(301000, 400050)
    assert owners.now([known], None) == IdPair(9, 9)
    with pytest.raises(ConflictError):
        owners.now([grant(Origin.COMMAND, Ownership("container"))], None)
    with pytest.raises(ConflictError, match="rootless"):
        owners.now([known], structs.replace(INFO, ids_problem="rootless"))
    # Whom another grant, with another owner, meant says nothing.
    other = grant(Origin.FILE, Ownership("5:6"), IdPair(5, 6))
    with pytest.raises(ConflictError):
        owners.now([grant(Origin.COMMAND, Ownership("container")), other], None)


def seen(**changes: object) -> Snapshot:
    shown = snapshot(volume("/data"), volume("/logs"))
    instances = tuple(structs.replace(one, **changes) for one in shown.instances)
    return structs.replace(shown, instances=instances)


async def test_enable_hands_the_owner_to_the_host(tmp_path: Path) -> None:
    async with staged(tmp_path) as stage:
        await stage.core.feed(seen(user="app", owner=IdPair(1000, 50), uid_map=(IdRange(0, 300000, 65536),)))
        ownership = Ownership("container", 0o002)
        changed: Changed = await stage.do(Enable(instance="shop-web-1", volumes=("/data",), ownership=ownership))
        (data,) = [one for one in changed.instance.volumes if one.path == "/data"]
        assert (data.ownership, data.owner_ids) == (ownership, IdPair(301000, 50))
        record = await stage.core.db(lambda registry: registry.instance(WEB))
        assert record is not None
        assert record.grants[0].owner_ids == IdPair(301000, 50)
        # A container made again as another user: from now on that one.
        await stage.core.feed(seen(user="7:7", owner=IdPair(7, 7)))
        assert shown(stage.core, record) == [(IdPair(7, 7), False, 0o002)]
        await stage.reconciler.reconcile()
        record = await stage.core.db(lambda registry: registry.instance(WEB))
        assert record is not None
        # Not known for a while, or gone: its last one still is.
        await stage.core.feed(seen(user="?", owner=None, owner_problem="it says so"))
        assert shown(stage.core, record) == [(IdPair(7, 7), False, 0o002)]
        # Said anew, without an owner.
        await stage.do(Enable(instance="shop-web-1", volumes=("/data",)))
        record = await stage.core.db(lambda registry: registry.instance(WEB))
        assert record is not None
        assert shown(stage.core, record) == [(None, False, None)]
        await stage.do(Enable(instance="shop-web-1", volumes=("/data",), ownership=Ownership("real")))
        record = await stage.core.db(lambda registry: registry.instance(WEB))
        assert record is not None
        assert shown(stage.core, record) == [(None, True, None)]


def shown(core: object, record: object) -> list[tuple[IdPair | None, bool, int | None]]:
    from hatchway.admin import shares

    views: tuple[View, ...] = shares.host_views(record, core.inventory)  # type: ignore[arg-type,attr-defined] # a Core
    return [(view.owner, view.real, view.umask) for view in views]


async def test_an_owner_nobody_knows_is_refused(tmp_path: Path) -> None:
    async with staged(tmp_path) as stage:
        await stage.core.feed(seen(user="app", owner=None, owner_problem="the container has no user 'app'"))
        with pytest.raises(ConflictError, match="has no user 'app'"):
            await stage.do(Enable(instance="shop-web-1", volumes=("/data",), ownership=Ownership("container")))
        with pytest.raises(UsageError, match="owner 'app' is not allowed"):
            await stage.do(Enable(instance="shop-web-1", volumes=("/data",), ownership=Ownership("app")))
        with pytest.raises(UsageError, match="umask"):
            await stage.do(Enable(instance="shop-web-1", volumes=("/data",), ownership=Ownership(umask=0o1000)))
        assert await stage.core.db(lambda registry: registry.instance(WEB)) is None


def rule(ownership: Ownership) -> AccessRule:
    return AccessRule(where="a.toml, rule 1", project="shop", service="*", volumes=("/data",), ownership=ownership)


async def test_rules_give_owners_too(tmp_path: Path) -> None:
    async with staged(tmp_path) as stage:
        await stage.core.feed(seen(user="app", owner=IdPair(1000, 50)))
        first = await stage.do(Apply(rules=(rule(Ownership("container")),)))
        assert [(one.kind, one.ownership) for one in first.changes] == [(ChangeKind.GRANT, Ownership("container"))]
        assert (await stage.do(Apply(rules=(rule(Ownership("container")),)))).changes == ()
        second = await stage.do(Apply(rules=(rule(Ownership("5:6", 0o077)),)))
        (change,) = second.changes
        assert (change.kind, change.owned_before, change.ownership) == (
            ChangeKind.ALTER,
            Ownership("container"),
            Ownership("5:6", 0o077),
        )
        record = await stage.core.db(lambda registry: registry.instance(WEB))
        assert record is not None
        assert record.grants[0].owner_ids == IdPair(5, 6)
        assert stage.host.applied == [] or stage.host.applied[-1][1][0].owner == IdPair(5, 6)
        assert await stage.core.db(lambda registry: registry.rules()) == (rule(Ownership("5:6", 0o077)),)


async def test_a_rule_for_an_owner_nobody_knows_gives_nothing(tmp_path: Path) -> None:
    async with staged(tmp_path) as stage:
        await stage.core.feed(seen(user="app", owner=None, owner_problem="the container has no user 'app'"))
        applied = await stage.do(Apply(rules=(rule(Ownership("container")),)))
        assert applied.changes == ()
        ((kind, reason),) = [(one.kind, one.reason) for one in applied.waiting]
        assert kind is ChangeKind.REFUSED
        assert "no user 'app'" in reason


async def test_confirming_keeps_the_owner(tmp_path: Path) -> None:
    async with staged(tmp_path) as stage:
        await stage.core.feed(seen(owner=IdPair(0, 0)))
        await stage.do(Enable(instance="shop-web-1", volumes=("/data",), ownership=Ownership("7:8", 0o027)))
        stage.host.born = {"/var/lib/docker/volumes/data/_data": "inode:9:9.0"}
        await stage.core.feed(seen(owner=IdPair(0, 0)))
        await stage.do(Confirm(instance="shop-web-1"))
        record = await stage.core.db(lambda registry: registry.instance(WEB))
        assert record is not None
        (one,) = record.grants
        assert (one.ownership, one.owner_ids, one.created) == (Ownership("7:8", 0o027), IdPair(7, 8), "inode:9:9.0")


async def test_what_the_container_has_read_only_stays_so_while_nothing_is_known_of_it(tmp_path: Path) -> None:
    async with staged(tmp_path) as stage:
        await stage.core.feed(seen(owner=IdPair(0, 0)))
        await stage.do(Enable(instance="shop-web-1", volumes=("/data",)))
        fixed = tuple(structs.replace(one, read_only=True) for one in seen().instances[0].volumes)
        await stage.core.feed(seen(owner=IdPair(0, 0), volumes=fixed))
        await stage.reconciler.reconcile()
        record = await stage.core.db(lambda registry: registry.instance(WEB))
        assert record is not None
        assert [one.mode for one in record.grants] == [Mode.READ_ONLY]


async def test_a_rule_narrowed_while_its_owner_is_not_known_keeps_the_owner(tmp_path: Path) -> None:
    async with staged(tmp_path) as stage:
        await stage.core.feed(seen(user="app", owner=IdPair(1000, 50)))
        await stage.do(Apply(rules=(rule(Ownership("container")),)))
        await stage.core.feed(seen(user="app", owner=None, owner_problem="it says so"))
        await stage.reconciler.reconcile()
        narrowed = structs.replace(rule(Ownership("container")), read_only=True)
        await stage.do(Apply(rules=(narrowed,)))
        record = await stage.core.db(lambda registry: registry.instance(WEB))
        assert record is not None
        (one,) = record.grants
        assert (one.mode, one.ownership, one.owner_ids) == (Mode.READ_ONLY, Ownership("container"), IdPair(1000, 50))


async def test_a_rules_grant_follows_a_changed_user(tmp_path: Path) -> None:
    async with staged(tmp_path) as stage:
        await stage.core.feed(seen(user="app", owner=IdPair(1000, 50)))
        await stage.do(Apply(rules=(rule(Ownership("container")),)))
        await stage.core.feed(seen(user="app", owner=IdPair(2000, 60)))
        await stage.reconciler.reconcile()
        record = await stage.core.db(lambda registry: registry.instance(WEB))
        assert record is not None
        assert record.grants[0].owner_ids == IdPair(2000, 60)
