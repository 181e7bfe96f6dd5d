"""Rules and labels carried out: on a real registry, with hostd faked."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import trio
from msgspec import structs
from tests.unit.core.stage import WEB, Stage, snapshot, staged, volume
from trio.testing import wait_all_tasks_blocked

from hatchway.admin import shares
from hatchway.admin.granting import Granting
from hatchway.admin.inventory import Inventory
from hatchway.admin.reconcile import GRANTS_AT_ONCE
from hatchway.errors import ConflictError, HostError, NotFoundError
from hatchway.model import AccessRule, InstanceKey, Mode, Origin
from hatchway.wire.admin import Access, Apply, ChangeKind, Confirm, DaemonStatus, Disable, Enable, Forget, ListInstances

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
        assert ([one.kind for one in answer.waiting], answer.changes) == ([ChangeKind.CONFIRM], ())
        assert (await access(stage))["/data"] is Access.SUSPENDED
        with pytest.raises(NotFoundError, match="no volume '/nope'"):
            await stage.do(Confirm(instance="shop/web/1", volumes=("/nope",)))
        with pytest.raises(ConflictError, match="nothing there that waits"):
            await stage.do(Confirm(instance="shop/web/1", volumes=("/logs",)))
        confirmed = await stage.do(Confirm(instance="shop/web/1"))
        assert confirmed.changed == ("/data",)
        assert (await access(stage))["/data"] is Access.READ_WRITE


async def test_a_grant_for_another_volume_is_of_no_account(tmp_path: Path) -> None:
    """A rule that gives the new volume, read-only, must not bring back what a command gave to the old one."""
    async with staged(tmp_path) as stage:
        await stage.do(Enable(instance="shop/web/1", volumes=("/data",)))
        stage.host.born["/var/lib/docker/volumes/data/_data"] = "inode:99:9.0"
        await stage.core.feed(snapshot(volume("/data"), volume("/logs")))
        rule = structs.replace(RULE, read_only=True)
        await stage.do(Apply(rules=(rule,)))
        assert (await access(stage))["/data"] is Access.READ_ONLY
        (view,) = stage.host.applied[-1][1]
        assert (view.read_only, view.birth) == (True, "inode:99:9.0")
        # Without the catalog, too, only the grant that is for the volume counts.
        record = stage.core.registry.instance(WEB)
        assert record is not None
        assert [(one.read_only, one.birth) for one in shares.host_views(record, Inventory())] == [
            (True, "inode:99:9.0")
        ]
        # The container goes away, and then the rule: nothing is left that the open session may see.
        await stage.core.feed(structs.replace(snapshot(), instances=()))
        assert stage.host.applied[-1][1] == (view,)
        await stage.do(Apply(rules=()))
        assert stage.host.applied[-1] == ("shop-web-1", ())


async def test_a_volume_that_comes_back_is_shared_as_before(tmp_path: Path) -> None:
    async with staged(tmp_path) as stage:
        await stage.do(Apply(rules=(RULE,)))
        first = stage.host.applied[-1][1]
        source = "/var/lib/docker/volumes/data/_data"
        stage.host.born[source] = "inode:99:9.0"
        await stage.core.feed(snapshot(volume("/data")))
        await stage.do(Enable(instance="shop/web/1", volumes=("/data",)))
        del stage.host.born[source]
        await stage.core.feed(snapshot(volume("/data")))
        assert (await access(stage))["/data"] is Access.READ_WRITE
        assert stage.host.applied[-1][1] == first


async def test_confirm_leaves_grants_as_they_were(tmp_path: Path) -> None:
    async with staged(tmp_path) as stage:
        await stage.do(Enable(instance="shop/web/1", volumes=("/logs",), read_only=True))
        await stage.do(Apply(rules=(RULE,)))
        for name in ("data", "logs"):
            stage.host.born[f"/var/lib/docker/volumes/{name}/_data"] = "inode:99:9.0"
        await stage.core.feed(snapshot(volume("/data"), volume("/logs")))
        assert set((await access(stage)).values()) == {Access.SUSPENDED}
        await stage.do(Confirm(instance="shop/web/1", volumes=("logs",)))
        assert await access(stage) == {"/data": Access.SUSPENDED, "/logs": Access.READ_ONLY}
        await stage.do(Confirm(instance="shop/web/1"))
        assert granted(stage) == [
            ("/data", Origin.FILE, Mode.READ_WRITE),
            ("/logs", Origin.COMMAND, Mode.READ_ONLY),
        ]
        assert await access(stage) == {"/data": Access.READ_WRITE, "/logs": Access.READ_ONLY}


async def test_a_name_in_other_hands_gets_nothing_by_a_rule(tmp_path: Path) -> None:
    """The old owner's login and password still work: the new owner's volumes must not be behind them."""
    async with staged(tmp_path) as stage:
        rule = structs.replace(RULE, volumes=("*",))
        await stage.do(Apply(rules=(rule,)))
        assert len(granted(stage)) == 2
        theirs = snapshot(volume("/theirs"))
        await stage.core.feed(
            structs.replace(theirs, instances=(structs.replace(theirs.instances[0], runtime_id="4567"),))
        )
        await stage.reconciler.reconcile()
        assert (await access(stage))["/theirs"] is Access.OFF
        assert stage.host.applied[-1] == ("shop-web-1", ())
        answer = await stage.do(Apply(rules=(rule,)))
        assert [(one.kind, one.path) for one in answer.waiting] == [(ChangeKind.CONFIRM, "/theirs")]
        assert "still the same owner's" in answer.waiting[0].reason
        (listed,) = (await stage.do(ListInstances())).instances
        assert {one.path: one.held_back for one in listed.volumes if one.held_back} == {
            "/theirs": answer.waiting[0].reason
        }
        assert (await stage.do(DaemonStatus())).waiting == ("shop/web/1 /theirs",)
        confirmed = await stage.do(Confirm(instance="shop/web/1"))
        assert (await stage.do(DaemonStatus())).waiting == ()
        assert [one.held_back for one in confirmed.instance.volumes if one.path == "/theirs"] == [None]
        assert (await access(stage))["/theirs"] is Access.READ_WRITE


async def test_what_hostd_does_not_take_is_told_and_tried_again(tmp_path: Path) -> None:
    async with staged(tmp_path) as stage:
        await stage.do(Apply(rules=(RULE,)))
        stage.host.refused.add("shop-web-1")
        answer = await stage.do(Apply(rules=()))
        assert ["hostd" in one or "did not take what shop-web-1" in one for one in answer.problems] == [True]
        stage.host.refused.clear()
        stage.host.conflicts["shop-web-1"] = "the host has an account of that name"
        answer = await stage.do(Apply(rules=(RULE,)))
        assert answer.problems == ("nobody can enter as shop-web-1: the host has an account of that name",)


async def test_one_failure_stops_nothing_else_and_waits_before_it_is_tried_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with staged(tmp_path) as stage:
        both = snapshot(volume("/data"), volume("/logs"))
        more = structs.replace(both.instances[0], key=SECOND, runtime_id="9")
        await stage.core.feed(structs.replace(both, instances=(*both.instances, more)))
        grant, tried = Granting.grant, []

        async def failing(self: Granting, key: InstanceKey, *args: Any, **kwargs: Any) -> Any:
            tried.append(key)
            if key == WEB:
                raise ConflictError("no uid is left")
            return await grant(self, key, *args, **kwargs)

        monkeypatch.setattr(Granting, "grant", failing)
        answer = await stage.do(Apply(rules=(RULE,)))
        assert answer.problems == ("shop/web/1 /data: no uid is left",)
        assert (granted(stage), granted(stage, SECOND)) == ([], [("/data", Origin.FILE, Mode.READ_WRITE)])
        assert (await stage.reconciler.reconcile()).problems == []
        assert tried == [WEB, SECOND]


async def test_many_are_given_access_in_turns_and_what_is_taken_away_does_not_wait(tmp_path: Path) -> None:
    async with staged(tmp_path) as stage:
        await stage.do(Apply(rules=(RULE,)))
        one = snapshot(volume("/data"))
        news = tuple(
            structs.replace(one.instances[0], key=InstanceKey("blog", "web", number), runtime_id=str(number))
            for number in range(GRANTS_AT_ONCE + 3)
        )
        await stage.core.feed(structs.replace(one, instances=(*one.instances, *news)))
        told = len(stage.host.applied)
        answer = await stage.do(Apply(rules=(structs.replace(RULE, project="blog"),)))
        assert answer.pending == 3
        # The first that hostd hears is what was taken away.
        assert stage.host.applied[told] == ("shop-web-1", ())
        assert len(stage.core.registry.instances()) == GRANTS_AT_ONCE + 1
        await stage.reconciler.reconcile()
        assert len(stage.core.registry.instances()) == GRANTS_AT_ONCE + 4


async def test_a_core_that_was_killed_before_it_took_away_does_so_before_anybody_enters(tmp_path: Path) -> None:
    async with staged(tmp_path, labels=False) as stage:
        await stage.do(Apply(rules=(RULE,)))
        stage.core.registry.replace_rules(())
        stage.core.registry.enable(
            WEB, [(volume("/logs"), Mode.READ_ONLY)], by="label", now=1.0, new=None, origin=Origin.LABEL
        )
        stage.core.inventory = Inventory()
        await stage.reconciler.take_away()
        assert granted(stage) == []


async def test_a_rule_that_only_moved_in_its_file_is_no_change(tmp_path: Path) -> None:
    async with staged(tmp_path) as stage:
        await stage.do(Apply(rules=(RULE,)))
        answer = await stage.do(Apply(rules=(structs.replace(RULE, where="/etc/a.toml, rule 7"),)))
        assert (answer.changes, answer.waiting) == ((), ())
        record = stage.core.registry.instance(WEB)
        assert record is not None
        assert record.grants[0].granted_by == "/etc/a.toml, rule 7"


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
        # Nobody can change the label of a container that is gone.
        await stage.do(Disable(instance="shop/web/1", every=True))
        assert granted(stage) == []
        await stage.core.feed(snapshot(volume("/data"), volume("/logs"), label="/data:ro"))
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
        stage.host.failure = HostError("nothing answers at hostd.sock")
        answer = await stage.do(Apply(rules=(structs.replace(RULE, volumes=("/logs",)),)))
        assert "access is given only when hostd is back: hostd hung up" in answer.problems[-1]
        assert granted(stage) == []
        await stage.reconciler.reconcile()
        assert granted(stage) == []
        stage.host.problem = stage.host.failure = None
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
