"""Rules and labels carried out: on a real registry, with hostd faked."""

from __future__ import annotations

from pathlib import Path

import pytest
import trio
from msgspec import structs
from tests.unit.core.stage import WEB, Stage, snapshot, staged, volume
from trio.testing import wait_all_tasks_blocked

from hatchway.errors import ConflictError, HostError
from hatchway.model import AccessRule, InstanceKey, Mode, Origin
from hatchway.wire.admin import Access, Apply, ChangeKind, Disable, Enable, Forget, ListInstances

SECOND = InstanceKey("shop", "web", 2)
RULE = AccessRule(where="/etc/a.toml, rule 1", project="shop", service="web", volumes=("/data",))


def granted(stage: Stage, key: InstanceKey = WEB) -> list[tuple[str, Origin, Mode]]:
    record = stage.core.registry.instance(key)
    return [] if record is None else [(one.path, one.origin, one.mode) for one in record.grants]


async def access(stage: Stage) -> dict[str, Access]:
    (found,) = [one for one in (await stage.do(ListInstances())).instances if one.key == WEB]
    return {one.path: one.access for one in found.volumes}


async def test_a_dry_run_changes_nothing(tmp_path: Path) -> None:
    async with staged(tmp_path) as stage:
        idle = structs.replace(RULE, where="b", volumes=("/nope",))
        answer = await stage.do(Apply(rules=(RULE, idle), dry_run=True))
        assert [(one.kind, one.key, one.path, one.by) for one in answer.changes] == [
            (ChangeKind.GRANT, WEB, "/data", "/etc/a.toml, rule 1")
        ]
        assert answer.idle == ("b",)
        assert stage.core.registry.instances() == ()
        assert stage.core.registry.rules() == ()
        await stage.reconciler.reconcile()
        assert granted(stage) == []


async def test_applied_rules_give_access_now_and_to_what_comes(tmp_path: Path) -> None:
    async with staged(tmp_path) as stage, trio.open_nursery() as nursery:
        nursery.start_soon(stage.reconciler.run)
        await stage.do(Apply(rules=(RULE,)))
        assert granted(stage) == [("/data", Origin.FILE, Mode.READ_WRITE)]
        assert [view.path for view in stage.host.applied[-1][1]] == ["/data"]
        login = stage.core.registry.instance(WEB).login  # type: ignore[union-attr] # it is there
        assert [user.login for user in stage.host.published] == [login]
        both = snapshot(volume("/data"), volume("/logs"))
        more = structs.replace(both.instances[0], key=SECOND, runtime_id="9")
        await stage.core.feed(structs.replace(both, instances=(*both.instances, more)))
        with trio.fail_after(5):
            while not granted(stage, SECOND):
                await trio.sleep(0.01)
        assert [record.login for record in stage.core.registry.instances()] == ["shop-web-1", "shop-web-2"]
        nursery.cancel_scope.cancel()


async def test_what_the_files_do_not_say_any_more_ends_at_once(tmp_path: Path) -> None:
    async with staged(tmp_path) as stage:
        await stage.do(Enable(instance="shop/web/1", volumes=("/logs",)))
        await stage.do(Apply(rules=(structs.replace(RULE, volumes=("*",)),)))
        assert granted(stage) == [
            ("/data", Origin.FILE, Mode.READ_WRITE),
            ("/logs", Origin.COMMAND, Mode.READ_WRITE),
            ("/logs", Origin.FILE, Mode.READ_WRITE),
        ]
        answer = await stage.do(Apply(rules=()))
        assert [(one.kind, one.path) for one in answer.changes] == [
            (ChangeKind.WITHDRAW, "/data"),
            (ChangeKind.WITHDRAW, "/logs"),
        ]
        assert granted(stage) == [("/logs", Origin.COMMAND, Mode.READ_WRITE)]
        assert [view.path for view in stage.host.applied[-1][1]] == ["/logs"]


async def test_another_volume_is_suspended_until_confirmed(tmp_path: Path) -> None:
    async with staged(tmp_path) as stage:
        await stage.do(Apply(rules=(RULE,)))
        stage.host.born["/var/lib/docker/volumes/data/_data"] = "inode:99:9.0"
        await stage.core.feed(snapshot(volume("/data"), volume("/logs")))
        await stage.reconciler.reconcile()
        assert (await access(stage))["/data"] is Access.SUSPENDED
        assert stage.host.applied[-1] == ("shop-web-1", ())
        answer = await stage.do(Apply(rules=(RULE,)))
        assert [one.kind for one in answer.changes] == [ChangeKind.CONFIRM]
        assert (await access(stage))["/data"] is Access.SUSPENDED
        await stage.do(Apply(rules=(RULE,), confirm=True))
        assert (await access(stage))["/data"] is Access.READ_WRITE


async def test_confirming_one_grant_confirms_no_other(tmp_path: Path) -> None:
    """A rule that is confirmed, read-only, must not bring back what a command gave to another volume."""
    async with staged(tmp_path) as stage:
        await stage.do(Enable(instance="shop/web/1", volumes=("/data",)))
        stage.host.born["/var/lib/docker/volumes/data/_data"] = "inode:99:9.0"
        await stage.core.feed(snapshot(volume("/data"), volume("/logs")))
        await stage.do(Apply(rules=(structs.replace(RULE, read_only=True),)))
        assert (await access(stage))["/data"] is Access.READ_ONLY
        (view,) = stage.host.applied[-1][1]
        assert (view.read_only, view.birth) == (True, "inode:99:9.0")
        record = stage.core.registry.instance(WEB)
        assert record is not None
        by_command, by_file = record.grants
        assert (by_command.source, by_command.created) == (None, "")
        assert by_file.source is not None
        # Without the catalog, too, only the grant that is for the volume counts.
        stage.core.inventory = type(stage.core.inventory)()
        assert [one.read_only for one in stage.core._views_for_open(record)] == [True]


async def test_disable_says_where_access_is_taken_away(tmp_path: Path) -> None:
    async with staged(tmp_path) as stage:
        await stage.do(Apply(rules=(RULE,)))
        with pytest.raises(ConflictError, match=r"/etc/a.toml, rule 1; take it out there, then 'hatchway apply'"):
            await stage.do(Disable(instance="shop/web/1", every=True))
        assert granted(stage) == [("/data", Origin.FILE, Mode.READ_WRITE)]
        await stage.do(Enable(instance="shop/web/1", volumes=("/data", "/logs")))
        changed = await stage.do(Disable(instance="shop/web/1", every=True))
        assert changed.changed == ("/data", "/logs")
        assert await access(stage) == {
            "/data": Access.READ_WRITE,
            "/logs": Access.OFF,
            "/tmp/x": Access.OFF,
        }


async def test_labels_give_and_take(tmp_path: Path) -> None:
    async with staged(tmp_path, labels=True) as stage:
        await stage.core.feed(snapshot(volume("/data"), volume("/logs"), label="/data:ro"))
        await stage.reconciler.reconcile()
        assert granted(stage) == [("/data", Origin.LABEL, Mode.READ_ONLY)]
        with pytest.raises(ConflictError, match="container's label"):
            await stage.do(Disable(instance="shop/web/1", every=True))
        await stage.core.feed(structs.replace(snapshot(), instances=()))
        await stage.reconciler.reconcile()
        assert granted(stage) == [("/data", Origin.LABEL, Mode.READ_ONLY)]
        await stage.core.feed(snapshot(volume("/data"), volume("/logs")))
        await stage.reconciler.reconcile()
        assert granted(stage) == []


async def test_an_anonymous_volume_is_followed(tmp_path: Path) -> None:
    first = structs.replace(volume("/tmp/a"), name="anonymous-1", source="/v/1", anonymous=True)
    second = structs.replace(first, name="anonymous-2", source="/v/2")
    async with staged(tmp_path) as stage:
        await stage.core.feed(snapshot(first, volume("/data")))
        with pytest.raises(ConflictError, match="/data is no anonymous volume"):
            await stage.do(Enable(instance="shop/web/1", volumes=("/data", "/tmp/a"), follow=True))
        await stage.do(Enable(instance="shop/web/1", every=True, follow=True))
        record = stage.core.registry.instance(WEB)
        assert record is not None
        assert [(one.path, one.follows) for one in record.grants] == [("/data", False), ("/tmp/a", True)]
        await stage.core.feed(snapshot(second, volume("/data")))
        assert (await access(stage))["/tmp/a"] is Access.SUSPENDED
        await stage.reconciler.reconcile()
        assert (await access(stage))["/tmp/a"] is Access.READ_WRITE
        assert {view.source for view in stage.host.applied[-1][1]} >= {"/v/2"}
        # Also with nothing known but the registry.
        record = stage.core.registry.instance(WEB)
        assert record is not None
        assert record.grants[1].source == "/v/2"


async def test_a_forgotten_instance_gets_another_login_by_its_rule(tmp_path: Path) -> None:
    async with staged(tmp_path) as stage, trio.open_nursery() as nursery:
        await stage.do(Apply(rules=(RULE,)))
        nursery.start_soon(stage.reconciler.run)
        await wait_all_tasks_blocked()
        forgotten = await stage.do(Forget(instance="shop/web/1"))
        assert forgotten.login == "shop-web-1"
        with trio.fail_after(5):
            while not granted(stage):
                await trio.sleep(0.01)
        record = stage.core.registry.instance(WEB)
        assert record is not None
        assert record.login != "shop-web-1"
        nursery.cancel_scope.cancel()


async def test_while_hostd_is_away_access_is_only_taken_away(tmp_path: Path) -> None:
    async with staged(tmp_path) as stage:
        await stage.do(Apply(rules=(RULE,)))
        stage.host.problem = "hostd hung up"
        with pytest.raises(HostError, match="cannot be said now: hostd hung up"):
            await stage.do(Apply(rules=(), dry_run=True))
        with pytest.raises(HostError, match="only when hostd is back"):
            await stage.do(Apply(rules=(structs.replace(RULE, volumes=("/logs",)),)))
        assert granted(stage) == []
        await stage.reconciler.reconcile()
        assert granted(stage) == []
        stage.host.problem = None
        await stage.reconciler.reconcile()
        assert granted(stage) == [("/logs", Origin.FILE, Mode.READ_WRITE)]


async def test_a_container_that_cannot_be_read_keeps_no_other_from_its_access(tmp_path: Path) -> None:
    async with staged(tmp_path) as stage:
        both = snapshot(volume("/data"))
        await stage.core.feed(structs.replace(both, problem="the engine does not answer"))
        await stage.do(Apply(rules=(RULE,)))
        assert granted(stage) == []
        await stage.core.feed(structs.replace(both, problem="1 containers cannot be read", partly=True))
        await stage.reconciler.reconcile()
        assert granted(stage) == [("/data", Origin.FILE, Mode.READ_WRITE)]
        # But what is missing there may only be unreadable.
        await stage.core.feed(structs.replace(both, instances=(), problem="1 containers cannot be read", partly=True))
        assert await stage.core.gone(0.0) == []
        await stage.core.feed(structs.replace(both, instances=()))
        assert [record.key for record in await stage.core.gone(0.0)] == [WEB]
