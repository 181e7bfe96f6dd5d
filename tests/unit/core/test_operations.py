"""Operations of the command line and questions of sshd's helpers, on a real registry with hostd faked."""

from __future__ import annotations

import functools
import os
from pathlib import Path

import pytest
import structlog
import trio
from msgspec import structs
from tests.unit.core.stage import WEB, Stage, snapshot, staged, volume
from trio.testing import wait_all_tasks_blocked

from hatchway import log
from hatchway.admin.core import Core
from hatchway.admin.inventory import Inventory
from hatchway.credentials import passwords
from hatchway.credentials.sealing import SealingKey
from hatchway.errors import ConflictError, HostError, NotFoundError, UsageError
from hatchway.model import InstanceKey, Snapshot, VolumeKind
from hatchway.registry.records import NewCredential
from hatchway.sshd import dropin, hostkeys
from hatchway.wire.admin import (
    Access,
    DaemonStatus,
    Disable,
    Enable,
    Forget,
    Forgotten,
    GoneInstance,
    ListInstances,
    Prune,
    Pruned,
    Show,
)
from hatchway.wire.entry import (
    ExportKey,
    Lock,
    PasswordKind,
    RenewKey,
    ResetPassword,
    ShowPassword,
)
from hatchway.wire.host import HostStatus, UserRecord

CONNECTION = "192.0.2.1 40000 192.0.2.9 2022"


async def test_nothing_exists_before_the_first_enable(tmp_path: Path) -> None:
    async with staged(tmp_path) as stage:
        listing = await stage.do(ListInstances())
        assert [(i.key, i.login) for i in listing.instances] == [(WEB, None)]
        assert stage.core.registry.instances() == ()
        assert stage.host.published == ()
        with pytest.raises(NotFoundError, match="never been enabled"):
            await stage.do(ExportKey(instance="shop/web/1"))
        assert await stage.ask("account", login="shop-web-1", service="hatchway-sshd") == (False, "")


async def test_enable_makes_a_login_with_key_and_password(tmp_path: Path) -> None:
    async with staged(tmp_path) as stage:
        changed = await stage.do(Enable(instance="shop/web/1", volumes=("/data",)))
        assert changed.changed == ("/data",)
        assert changed.password is None  # raw: it can be shown at any time
        assert changed.instance.login == "shop-web-1"
        assert stage.host.published == (UserRecord("shop-web-1", 1_900_100_000, "/data"),)
        key = await stage.do(ExportKey(instance="shop-web-1"))
        assert key.private.startswith("-----BEGIN OPENSSH PRIVATE KEY-----")
        ok, lines = await stage.ask("keys", login="shop-web-1")
        assert ok
        assert lines == f"restrict {' '.join(key.public.split()[:2])}\n"
        shown = await stage.do(ShowPassword(instance="shop/web/1"))
        assert shown.kind is PasswordKind.RAW
        service = "hatchway-sshd"
        assert (await stage.ask("auth", login="shop-web-1", service=service, password=shown.password))[0]
        assert not (await stage.ask("auth", login="shop-web-1", service=service, password="wrong"))[0]
        assert not (await stage.ask("auth", login="shop-web-1", service="sshd", password=shown.password))[0]
        assert not (await stage.ask("auth", login="shop-web-2", service=service, password=shown.password))[0]


async def test_the_hosts_own_sshd_is_believed_where_it_serves_the_port(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only of connections to that port: it has others, at which our logins are good for nothing."""
    monkeypatch.setattr(dropin, "FILE", str(tmp_path / "00-hatchway.conf"))
    monkeypatch.setattr(hostkeys, "read", lambda _directory: ())
    public = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIP1skrKklOu3YgxS58k+CzFQjl++0dqXbeKPdV/K4i0q"
    (tmp_path / "host_key.pub").write_text(f"{public} root@host\n")
    async with staged(tmp_path) as stage:
        await stage.do(Enable(instance="shop/web/1", volumes=("/data",)))

        async def enters(service: str, connection: str = CONNECTION) -> bool:
            return (await stage.ask("account", login="shop-web-1", service=service, connection=connection))[0]

        assert not await enters("sshd")
        assert (await stage.do(Show(instance="shop/web/1"))).host_keys == ()
        config = stage.core.config
        text = dropin.sshd_text(config, (9, 2), (), [str(tmp_path / "host_key")])
        Path(dropin.FILE).write_text(text)
        assert await enters("sshd")
        assert not await enters("sshd", CONNECTION.replace(" 2022", " 22"))
        assert not await enters("sshd", CONNECTION.replace(" 2022", " 12022"))
        assert not await enters("sshd", "")
        assert not await enters("cron")
        assert await enters("hatchway-sshd")
        assert [key.public for key in (await stage.do(Show(instance="shop/web/1"))).host_keys] == [public]
        Path(dropin.FILE).write_text(text.replace(config.auth_socket, "/run/another/auth.sock"))
        assert not await enters("sshd")


async def test_a_second_enable_keeps_login_and_credentials(tmp_path: Path) -> None:
    async with staged(tmp_path) as stage:
        await stage.do(Enable(instance="shop/web/1", volumes=("/data",)))
        before = await stage.do(ExportKey(instance="shop/web/1"))
        await stage.do(Enable(instance="shop/web/1", volumes=("logs",), read_only=True))
        assert (await stage.do(ExportKey(instance="shop/web/1"))).private == before.private
        modes = {view.path: view.read_only for view in stage.host.applied[-1][1]}
        assert modes == {"/data": False, "/logs": True}
        assert stage.host.published[0].home == "/"


async def test_enable_without_a_volume_lists_and_refuses(tmp_path: Path) -> None:
    async with staged(tmp_path) as stage:
        with pytest.raises(UsageError, match="/data, /logs, /tmp/x"):
            await stage.do(Enable(instance="shop/web/1"))
        with pytest.raises(ConflictError, match="it is a tmpfs"):
            await stage.do(Enable(instance="shop/web/1", volumes=("/data", "/tmp/x")))
        with pytest.raises(NotFoundError, match="no volume '/nope'"):
            await stage.do(Enable(instance="shop/web/1", volumes=("/data", "/nope")))
        with pytest.raises(NotFoundError, match="shop/web/1"):
            await stage.do(Enable(instance="shop/web/2", volumes=("/data",)))
        assert stage.core.registry.instances() == ()
        changed = await stage.do(Enable(instance="shop/web/1", every=True))
        assert changed.changed == ("/data", "/logs")


async def test_a_path_is_the_same_with_a_slash_behind_it(tmp_path: Path) -> None:
    async with staged(tmp_path) as stage:
        await stage.do(Enable(instance="shop/web/1", volumes=("/data/", "/logs")))
        record = await stage.core.db(lambda registry: registry.instance(WEB))
        assert record is not None
        assert [grant.path for grant in record.grants] == ["/data", "/logs"]
        assert (await stage.do(Disable(instance="shop/web/1", volumes=("/data/",)))).changed == ("/data",)


async def test_volumes_beneath_another_root_say_which(tmp_path: Path) -> None:
    async with staged(tmp_path) as stage:
        stage.host.born["/var/lib/docker/volumes/data/_data"] = ""
        remapped = "/var/lib/docker/100000.100000"
        await stage.core.feed(structs.replace(snapshot(volume("/data"), volume("/logs")), data_root=remapped))
        with pytest.raises(ConflictError) as caught:
            await stage.do(Enable(instance="shop/web/1", volumes=("/data",)))
        assert f"the engine keeps its volumes in {remapped}/volumes, which is not beneath" in str(caught.value)
        assert "host.volume_roots (/var/lib/docker/volumes): add" in str(caught.value)
        # hostd has the say: what it takes is shared.
        await stage.do(Enable(instance="shop/web/1", volumes=("/logs",)))
        await stage.core.feed(structs.replace(snapshot(volume("/data")), data_root="/var/lib/docker"))
        with pytest.raises(ConflictError, match="there is no directory"):
            await stage.do(Enable(instance="shop/web/1", volumes=("/data",)))


async def test_a_hashed_password_is_shown_once(tmp_path: Path) -> None:
    async with staged(tmp_path, "argon2id") as stage:
        first = (await stage.do(Enable(instance="shop/web/1", volumes=("/data",)))).password
        assert first is not None
        with pytest.raises(ConflictError, match="kept as a hash"):
            await stage.do(ShowPassword(instance="shop/web/1"))
        second = await stage.do(ResetPassword(instance="shop/web/1"))
        assert second.kind is PasswordKind.HASHED
        service = "hatchway-sshd"
        assert (await stage.ask("auth", login="shop-web-1", service=service, password=second.password))[0]
        assert not (await stage.ask("auth", login="shop-web-1", service=service, password=first))[0]
        stored = Path(stage.core.config.registry_path).read_bytes()
        assert first.encode() not in stored
        assert second.password.encode() not in stored


async def test_disable_takes_away_at_once_and_withdraws_the_login_with_the_last(tmp_path: Path) -> None:
    async with staged(tmp_path) as stage:
        await stage.do(Enable(instance="shop/web/1", every=True))
        changed = await stage.do(Disable(instance="shop/web/1", volumes=("/data",)))
        assert changed.changed == ("/data",)
        assert [view.path for view in stage.host.applied[-1][1]] == ["/logs"]
        await stage.do(Disable(instance="shop/web/1", every=True))
        assert stage.host.applied[-1] == ("shop-web-1", ())
        assert [user.login for user in stage.host.published] == []
        assert not (await stage.ask("account", login="shop-web-1", service="hatchway-sshd"))[0]
        assert not (await stage.ask("keys", login="shop-web-1"))[0]
        again = await stage.do(Enable(instance="shop/web/1", volumes=("/data",)))
        assert again.instance.login == "shop-web-1"
        assert stage.host.published[0].uid == 1_900_100_000


async def test_revoking_works_while_the_instance_is_gone_and_transfers_of_the_rest_go_on(tmp_path: Path) -> None:
    async with staged(tmp_path) as stage:
        await stage.do(Enable(instance="shop/web/1", every=True))
        await stage.core.feed(Snapshot(source="docker", taken_at=2.0))
        assert [view.path for view in stage.host.applied[-1][1]] == ["/data", "/logs"]
        assert not (await stage.ask("account", login="shop-web-1", service="hatchway-sshd"))[0]
        await stage.do(Disable(instance="shop-web-1", volumes=("/logs",)))
        assert [view.path for view in stage.host.applied[-1][1]] == ["/data"]


async def test_another_volume_at_the_path_is_taken_away_from_open_sessions(tmp_path: Path) -> None:
    async with staged(tmp_path) as stage:
        await stage.do(Enable(instance="shop/web/1", volumes=("/data",)))
        stage.host.born[volume("/data").source or ""] = "inode:2:2.0"
        await stage.core.feed(snapshot(volume("/data")))
        assert stage.host.applied[-1] == ("shop-web-1", ())
        assert not (await stage.ask("account", login="shop-web-1", service="hatchway-sshd"))[0]
        status = (await stage.do(ListInstances())).instances[0]
        assert status.volumes[0].access is Access.SUSPENDED


async def test_a_volume_the_host_does_not_have_cannot_be_enabled(tmp_path: Path) -> None:
    async with staged(tmp_path) as stage:
        stage.host.born[volume("/data").source or ""] = ""
        await stage.core.feed(snapshot(volume("/data")))
        with pytest.raises(ConflictError, match="there is no directory"):
            await stage.do(Enable(instance="shop/web/1", volumes=("/data",)))


async def test_the_catalogs_news_are_not_lost_while_hostd_is_away(tmp_path: Path) -> None:
    async with staged(tmp_path) as stage:
        await stage.do(Enable(instance="shop/web/1", volumes=("/data",)))
        stage.host.failure = HostError("hostd is away")
        await stage.core.feed(snapshot(volume("/data"), volume("/more")))
        assert len(stage.inventory.instances()[0].volumes) == 3
        stage.host.failure = None
        await stage.core.hostd_connected(HostStatus((), {}), trio.current_time())
        assert [v.path for v in stage.inventory.instances()[0].volumes] == ["/data", "/more"]


async def test_a_session_is_mounted_and_recorded(tmp_path: Path) -> None:
    async with staged(tmp_path) as stage:
        await stage.do(Enable(instance="shop/web/1", volumes=("/data",)))
        key = await stage.do(ExportKey(instance="shop/web/1"))
        fields = {"login": "shop-web-1", "service": "hatchway-sshd", "rhost": "192.0.2.7"}
        used = " ".join(key.public.split()[:2])
        assert (await stage.ask("open", **fields, authinfo=f"publickey {used}\n"))[0]
        (session,) = stage.host.sessions
        login, views, pid = stage.host.sessions[session]
        assert (login, pid) == ("shop-web-1", os.getpid())
        assert [view.path for view in views] == ["/data"]
        recorded = stage.core.registry.open_sessions()[0]
        assert (recorded.id, recorded.address, recorded.method) == (session, "192.0.2.7", "publickey")
        await stage.core.session_ended(session)
        assert stage.core.registry.open_sessions() == ()


async def test_a_session_with_another_key_or_no_mount_is_refused(tmp_path: Path) -> None:
    async with staged(tmp_path) as stage:
        await stage.do(Enable(instance="shop/web/1", volumes=("/data",)))
        fields = {"login": "shop-web-1", "service": "hatchway-sshd"}
        other = "AAAAC3NzaC1lZDI1NTE5AAAAIGtra2tra2tra2tra2tra2tra2tra2tra2tra2tra2tr"
        assert not (await stage.ask("open", **fields, authinfo=f"publickey ssh-ed25519 {other}\n"))[0]
        assert not (await stage.ask("open", **fields, authinfo=""))[0]
        assert stage.host.sessions == {}
        stage.host.failure = HostError("the disk is on fire")
        assert not (await stage.ask("open", **fields, authinfo="password\n"))[0]
        assert stage.core.registry.open_sessions() == ()


async def test_access_taken_away_while_a_session_opens_is_taken_from_that_session(tmp_path: Path) -> None:
    """Whatever the order, hostd hears last that nothing is shared any more."""
    async with staged(tmp_path) as stage:
        await stage.do(Enable(instance="shop/web/1", volumes=("/data",)))
        stage.host.opening = trio.Event()
        stage.host.applied.clear()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(functools.partial(open_by_password, stage))
            while not stage.core.registry.open_sessions():
                await trio.sleep(0.01)
            nursery.start_soon(stage.do, Disable(instance="shop/web/1", every=True))
            while stage.core.registry.by_login("shop-web-1").grants:  # type: ignore[union-attr] # it is there
                await trio.sleep(0.01)
            await trio.sleep(0.05)
            assert stage.host.applied == []  # it waits for the session that is opening
            stage.host.opening.set()
        assert stage.host.applied == [("shop-web-1", ())]
        assert not await open_by_password(stage)


async def open_by_password(stage: Stage) -> bool:
    right = (await stage.do(ShowPassword("shop-web-1"))).password
    assert await prove(stage, right)
    return await open_proved(stage)


async def open_by_key(stage: Stage, public: str | None = None) -> bool:
    line = public or (await stage.do(ExportKey("shop-web-1"))).public
    kind, blob = line.split()[:2]
    fields = {"login": "shop-web-1", "service": "hatchway-sshd", "connection": "1 2 3 4", "rhost": "192.0.2.1"}
    return (await stage.ask("open", **fields, authinfo=f"publickey {kind} {blob}\n"))[0]


async def prove(stage: Stage, password: str) -> bool:
    """Whether `password` is right, on the connection of `open_proved`."""
    fields = {"login": "shop-web-1", "service": "hatchway-sshd", "connection": CONNECTION, "rhost": "192.0.2.1"}
    return (await stage.ask("auth", **fields, password=password))[0]


async def open_proved(stage: Stage) -> bool:
    fields = {"login": "shop-web-1", "service": "hatchway-sshd", "connection": CONNECTION, "rhost": "192.0.2.1"}
    return (await stage.ask("open", **fields, authinfo="password\n"))[0]


async def test_a_revocation_that_failed_is_done_as_soon_as_it_can_be(tmp_path: Path) -> None:
    async with staged(tmp_path) as stage:
        await stage.do(Enable(instance="shop/web/1", volumes=("/data",)))
        assert await open_by_password(stage)
        stage.host.failure = HostError("hostd is away")
        with pytest.raises(HostError, match="is tried again until it does"):
            await stage.do(Disable(instance="shop/web/1", every=True))
        stage.host.failure = None
        stage.host.applied.clear()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(stage.core.keep_in_step)
            with trio.fail_after(10):
                while not stage.host.applied:
                    await trio.sleep(0.05)
            nursery.cancel_scope.cancel()
        assert stage.host.applied == [("shop-web-1", ())]


async def test_a_revocation_the_core_did_not_live_to_hand_over_is_done_by_the_next_one(tmp_path: Path) -> None:
    async with staged(tmp_path) as stage:
        await stage.do(Enable(instance="shop/web/1", volumes=("/data",)))
        assert await open_by_password(stage)
        status = await stage.host.status()
        stage.core.registry.disable(WEB, ["/data"], 1.0)
        config, registry, sealing = stage.core.config, stage.core.registry, stage.core.sealing
        successor = Core(config, registry, sealing, Inventory(), stage.host)
        stage.host.applied.clear()
        await successor.hostd_connected(status, trio.current_time())
        assert stage.host.applied == [("shop-web-1", ())]


async def test_one_login_that_hostd_refuses_is_nobody_elses_problem(tmp_path: Path) -> None:
    async with staged(tmp_path) as stage:
        await stage.do(Enable(instance="shop/web/1", volumes=("/data",)))
        stage.host.refused = {"shop-web-1"}
        await stage.core.hostd_connected(HostStatus((), {}), trio.current_time())
        other = InstanceKey("shop", "web", 2)
        info = stage.inventory.instances()[0]
        both = Snapshot(source="docker", taken_at=1.0, instances=(info, structs.replace(info, key=other)))
        await stage.core.feed(both)
        await stage.do(Enable(instance="shop/web/2", volumes=("/data",)))
        assert {user.login for user in stage.host.published} == {"shop-web-1", "shop-web-2"}


async def test_what_is_read_only_for_the_container_is_read_only_over_sftp(tmp_path: Path) -> None:
    async with staged(tmp_path) as stage:
        await stage.core.feed(snapshot(structs.replace(volume("/data"), read_only=True), volume("/logs")))
        changed = await stage.do(Enable(instance="shop/web/1", every=True))
        assert {v.path: v.access for v in changed.instance.volumes} == {
            "/data": Access.READ_ONLY,
            "/logs": Access.READ_WRITE,
        }
        assert {view.path: view.read_only for view in stage.host.applied[-1][1]} == {"/data": True, "/logs": False}
        await stage.core.feed(snapshot(volume("/data"), structs.replace(volume("/logs"), read_only=True)))
        assert {view.path: view.read_only for view in stage.host.applied[-1][1]} == {"/data": True, "/logs": True}


async def test_a_static_directory_made_again_is_another(tmp_path: Path) -> None:
    async with staged(tmp_path) as stage:
        static = structs.replace(volume("/data"), kind=VolumeKind.DIRECTORY, driver="", source="/srv/www")
        await stage.core.feed(snapshot(static))
        await stage.do(Enable(instance="shop/web/1", every=True))
        assert stage.host.applied[-1][1][0].birth == "inode:2:1.0"
        stage.host.born["/srv/www"] = "inode:2:2.0"
        await stage.core.feed(snapshot(static))
        assert stage.host.applied[-1] == ("shop-web-1", ())


async def test_many_first_enables_at_once(tmp_path: Path) -> None:
    async with staged(tmp_path) as stage:
        info = stage.inventory.instances()[0]
        infos = tuple(structs.replace(info, key=InstanceKey("shop", "web", n)) for n in range(1, 6))
        await stage.core.feed(Snapshot(source="docker", taken_at=1.0, instances=infos))
        async with trio.open_nursery() as nursery:
            for number in range(1, 6):
                nursery.start_soon(stage.do, Enable(instance=f"shop/web/{number}", volumes=("/data",)))
        assert len({record.uid for record in stage.core.registry.instances()}) == 5


async def test_every_attempt_costs_the_same_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One hash of the same parameters, whether the login exists, has nothing shared, or is nonsense."""
    async with staged(tmp_path) as stage:
        await stage.do(Enable(instance="shop/web/1", volumes=("/data",)))
        hashed: list[str] = []
        verify = passwords.verify

        def counting(encoded: str, attempt: bytes) -> bool:
            hashed.append(encoded.rpartition("$")[0].rpartition("$")[0])
            return verify(encoded, attempt)

        monkeypatch.setattr(passwords, "verify", counting)
        for login in ("shop-web-1", "shop-web-2", "root", "../x", ""):
            assert not (await stage.ask("auth", login=login, service="hatchway-sshd", password="a guess"))[0]
        assert len(hashed) == 5
        assert len(set(hashed)) == 1, "algorithm, version and costs"


async def test_a_directory_that_does_not_answer_is_its_own_problem_only(tmp_path: Path) -> None:
    async with staged(tmp_path) as stage:
        await stage.do(Enable(instance="shop/web/1", volumes=("/data",)))
        stage.host.hung = {volume("/data").source or "", volume("/new").source or ""}
        stage.host.applied.clear()
        await stage.core.feed(snapshot(volume("/data"), volume("/new"), volume("/logs")))
        assert stage.host.applied == [], "nothing is known against it, so nothing is taken away"
        with pytest.raises(ConflictError, match="does not answer"):
            await stage.do(Enable(instance="shop/web/1", volumes=("/new",)))
        await stage.do(Enable(instance="shop/web/1", volumes=("/logs",)))


async def test_a_password_reset_ends_the_sessions_that_came_in_by_it(tmp_path: Path) -> None:
    async with staged(tmp_path) as stage:
        await stage.do(Enable(instance="shop/web/1", volumes=("/data",)))
        assert await open_by_password(stage)
        (by_password,) = stage.host.sessions
        assert await open_by_key(stage)
        stage.host.applied.clear()
        await stage.do(ResetPassword(instance="shop/web/1"))
        assert stage.host.ended == [by_password]
        assert stage.host.applied == [], "nothing is unmounted: the other session goes on"
        assert await open_by_password(stage)
        assert stage.host.ended == [by_password]


async def test_a_new_key_ends_the_sessions_that_came_in_by_the_old(tmp_path: Path) -> None:
    async with staged(tmp_path) as stage:
        await stage.do(Enable(instance="shop/web/1", volumes=("/data",)))
        assert await open_by_password(stage)
        assert await open_by_key(stage)
        _by_password, by_key = stage.host.sessions
        before = (await stage.do(ExportKey(instance="shop/web/1"))).public
        (fingerprint,) = (await stage.do(RenewKey(instance="shop/web/1"))).changed
        assert stage.host.ended == [by_key]
        after = await stage.do(ExportKey(instance="shop/web/1"))
        assert after.fingerprint == fingerprint
        assert after.public != before
        assert not (await open_by_key(stage, before))
        assert await open_by_key(stage)


async def test_a_password_that_was_proved_before_it_was_changed_opens_nothing(tmp_path: Path) -> None:
    async with staged(tmp_path) as stage:
        await stage.do(Enable(instance="shop/web/1", volumes=("/data",)))
        old = (await stage.do(ShowPassword("shop/web/1"))).password
        assert await prove(stage, old)
        await stage.do(ResetPassword(instance="shop/web/1"))
        assert not await open_proved(stage)
        assert not await prove(stage, old)
        assert not await open_proved(stage)


async def test_a_proved_password_opens_one_session(tmp_path: Path) -> None:
    async with staged(tmp_path) as stage:
        await stage.do(Enable(instance="shop/web/1", volumes=("/data",)))
        assert not await open_proved(stage), "nothing was proved"
        assert await open_by_password(stage)
        assert not await open_proved(stage)


async def test_sessions_end_also_when_hostd_dies_meanwhile(tmp_path: Path) -> None:
    """The next hostd takes the sessions over, and shows them what they may see: that is not enough."""
    async with staged(tmp_path) as stage:
        await stage.do(Enable(instance="shop/web/1", volumes=("/data",)))
        assert await open_by_password(stage)
        stage.host.failure = HostError("hostd is away")
        assert (await stage.do(ResetPassword(instance="shop/web/1"))).not_ended == "hostd is away"
        assert stage.host.ended == []
        stage.host.failure = None
        await stage.admission.hostd_connected(await stage.host.status(), 0.0)
        assert stage.host.ended == list(stage.host.sessions)


async def test_what_was_not_ended_is_tried_again(tmp_path: Path) -> None:
    async with staged(tmp_path) as stage, trio.open_nursery() as nursery:
        await stage.do(Enable(instance="shop/web/1", volumes=("/data",)))
        assert await open_by_password(stage)
        nursery.start_soon(stage.admission.run)
        stage.host.failure = HostError("hostd is away")
        with pytest.raises(HostError, match="is locked, but its sessions are not ended yet: hostd is away"):
            await stage.do(Lock(instance="shop/web/1"))
        stage.host.failure = None
        with trio.fail_after(10):
            while not stage.host.ended:
                await trio.sleep(0.05)
        nursery.cancel_scope.cancel()


async def test_a_core_that_died_in_a_password_reset_ends_the_sessions_when_it_is_back(tmp_path: Path) -> None:
    async with staged(tmp_path) as stage:
        await stage.do(Enable(instance="shop/web/1", volumes=("/data",)))
        assert await open_by_password(stage)
        session = next(iter(stage.host.sessions))
        status = HostStatus((), {session: "shop-web-1"})
        await stage.admission.hostd_connected(status, 0.0)
        assert stage.host.ended == []
        _key, password = await stage.core.db(lambda registry: registry.credentials("shop-web-1"))
        new = NewCredential(password.kind, password.public, password.sealed, None)
        await stage.core.db(lambda registry: registry.replace_credential("shop-web-1", new, 1.0))
        await stage.admission.hostd_connected(status, 0.0)
        assert stage.host.ended == [session]


async def test_sessions_nobody_knows_of_are_ended(tmp_path: Path) -> None:
    async with staged(tmp_path) as stage:
        await stage.do(Enable(instance="shop/web/1", volumes=("/data",)))
        stage.host.sessions["f" * 32] = ("shop-web-1", (), 1)
        await stage.admission.hostd_connected(await stage.host.status(), 0.0)
        assert stage.host.ended == ["f" * 32]


async def test_a_strangers_name_does_nothing_to_the_terminal(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    log.configure("test", "info")
    try:
        await one_stranger(tmp_path)
    finally:
        structlog.reset_defaults()
    printed = capfd.readouterr().err
    assert "password refused" in printed
    assert not set("\x1b\x07\r\u202e") & set(printed)


async def one_stranger(directory: Path) -> None:
    async with staged(directory) as stage:
        await stage.ask("auth", login="\x1b]0;pwned\x07\r\u202e", service="x", rhost="\x1b[2J", password="x")


async def test_a_login_whose_name_the_host_has_got_meanwhile_is_said(tmp_path: Path) -> None:
    async with staged(tmp_path) as stage:
        stage.host.conflicts["shop-web-1"] = "the host already has an account shop-web-1"
        with pytest.raises(ConflictError, match="nobody can enter as shop-web-1: the host already has"):
            await stage.do(Enable(instance="shop/web/1", volumes=("/data",)))


async def test_the_books_are_closed_on_sessions_hostd_does_not_have(tmp_path: Path) -> None:
    async with staged(tmp_path) as stage:
        await stage.do(Enable(instance="shop/web/1", volumes=("/data",)))
        asked_before = trio.current_time()
        assert await open_by_password(stage)
        await stage.core.hostd_connected(HostStatus((), {}), asked_before)
        assert len(stage.core.registry.open_sessions()) == 1, "it opened after hostd was asked"
        await stage.core.hostd_connected(HostStatus((), {}), trio.current_time() + 1)
        assert stage.core.registry.open_sessions() == ()


async def test_a_host_that_is_away_is_said_and_told_later(tmp_path: Path) -> None:
    async with staged(tmp_path) as stage:
        stage.host.problem = "hostd is away"
        with pytest.raises(HostError, match="nothing can be enabled now: hostd is away"):
            await stage.do(Enable(instance="shop/web/1", volumes=("/data",)))
        assert stage.core.registry.instances() == ()
        stage.host.problem = None
        stage.host.failure = HostError("hostd is away")
        with pytest.raises(HostError, match="access is granted, but the host did not take it: hostd is away"):
            await stage.do(Enable(instance="shop/web/1", volumes=("/data",)))
        stage.host.failure = None
        await stage.core.hostd_connected(HostStatus((), {}), trio.current_time())
        assert [user.login for user in stage.host.published] == ["shop-web-1"]


@pytest.mark.parametrize(
    "question", [b"", b"op=nonsense", b"op=auth\0op=auth", b"\xff" * 40_000, b"op=keys\0login=../x"]
)
async def test_garbage_is_answered_no(tmp_path: Path, question: bytes) -> None:
    async with staged(tmp_path) as stage:
        stream = await trio.open_unix_socket(stage.gate_path)
        async with stream:
            await stream.send_all(question)
            await stream.send_eof()
            assert await stream.receive_some(100) == b"no\n"


async def test_no_answer_names_a_secret(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    async with staged(tmp_path) as stage:
        await stage.do(Enable(instance="shop/web/1", volumes=("/data",)))
        password = (await stage.do(ShowPassword(instance="shop/web/1"))).password
        await stage.ask("auth", login="shop-web-1", service="hatchway-sshd", password="an attempt of mine")
        await stage.ask("auth", login="shop-web-1", service="hatchway-sshd", password=password)
    printed = "".join(capfd.readouterr())
    assert "password refused" in printed
    assert password not in printed
    assert "an attempt of mine" not in printed


async def test_forget_takes_everything_away_and_the_login_is_nobodys_again(tmp_path: Path) -> None:
    async with staged(tmp_path) as stage:
        await stage.do(Enable(instance="shop/web/1", every=True))
        logins = ["shop-web-1"]
        for _ in range(4):
            answer = await stage.do(Forget(instance=logins[-1]))
            assert answer == Forgotten(key=InstanceKey("shop", "web", 1), login=logins[-1], paths=("/data", "/logs"))
            assert not (await stage.ask("account", login=logins[-1], service="hatchway-sshd"))[0]
            assert not (await stage.ask("keys", login=logins[-1]))[0]
            assert stage.host.published == ()
            with pytest.raises(NotFoundError):
                await stage.do(Show(instance="shop/web/1"))
            with pytest.raises(NotFoundError):
                await stage.do(Forget(instance="shop/web/1"))
            again = await stage.do(Enable(instance="shop/web/1", every=True))
            assert again.instance.login is not None
            logins.append(again.instance.login)
        assert len(set(logins)) == 5
        assert len({user.uid for user in stage.host.published}) == 1
        assert stage.host.published[0].uid == 1_900_100_004


async def test_forget_ends_what_is_open_also_when_the_instance_is_gone(tmp_path: Path) -> None:
    async with staged(tmp_path) as stage:
        await stage.do(Enable(instance="shop/web/1", every=True))
        await stage.core.feed(Snapshot(source="docker", taken_at=2.0))
        await stage.do(Forget(instance="shop-web-1"))
        assert stage.host.applied[-1] == ("shop-web-1", ())


async def test_prune_forgets_what_has_been_gone_for_long_and_nothing_else(tmp_path: Path) -> None:
    async with staged(tmp_path) as stage:
        now = [1000.0]
        stage.core.now = lambda: now[0]
        await stage.do(Enable(instance="shop/web/1", every=True))
        now[0] += 86400.0
        assert (await stage.do(Prune(gone_s=0.0))).instances == (), "it is there"
        # The engine is down: what is not told is not gone.
        await stage.core.feed(Snapshot(source="docker", taken_at=2.0, problem="the engine does not answer"))
        now[0] += 10 * 86400.0
        assert (await stage.do(Prune(gone_s=86400.0))).instances == ()
        await stage.core.feed(Snapshot(source="docker", taken_at=3.0))
        assert (await stage.do(Prune(gone_s=11 * 86400.0))).instances == ()
        expected = GoneInstance(key=WEB, login="shop-web-1", gone_s=10 * 86400.0)
        assert await stage.do(Prune(gone_s=86400.0, dry_run=True)) == Pruned(instances=(expected,), dry_run=True)
        assert [user.login for user in stage.host.published] == ["shop-web-1"]
        assert await stage.do(Prune(gone_s=86400.0)) == Pruned(instances=(expected,), dry_run=False)
        assert [user.login for user in stage.host.published] == []
        with pytest.raises(NotFoundError):
            await stage.do(Show(instance="shop/web/1"))


@pytest.mark.parametrize("request_", [Disable(instance="shop/web/1", every=True), Forget(instance="shop/web/1")])
async def test_what_is_taken_away_while_a_session_opens_after_a_password_reset_is_gone(
    tmp_path: Path, request_: Disable | Forget
) -> None:
    """The reset leaves hostd without a word on this login, and the session that opens has the turn."""
    async with staged(tmp_path) as stage:
        await stage.do(Enable(instance="shop/web/1", volumes=("/data",)))
        assert await open_by_password(stage)
        await stage.do(ResetPassword(instance="shop/web/1"))
        assert await prove(stage, (await stage.do(ShowPassword("shop/web/1"))).password)
        stage.host.opening = trio.Event()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(open_proved, stage)
            await wait_all_tasks_blocked(0.05)
            stage.host.applied.clear()
            nursery.start_soon(stage.do, request_)
            await wait_all_tasks_blocked(0.05)
            stage.host.opening.set()
        assert ("shop-web-1", ()) in stage.host.applied


async def test_secrets_that_do_not_open_are_told(tmp_path: Path) -> None:
    """As after a registry was put back without its sealing key."""
    async with staged(tmp_path) as stage:
        await stage.do(Enable(instance="shop/web/1", volumes=("/data",)))
        assert (await stage.do(DaemonStatus())).unopened == ()
        stage.core.sealing = SealingKey.load_or_create(str(tmp_path / "another.key"))
        told = await stage.do(DaemonStatus())
        assert (told.unopened, told.sealing_lost) == (("shop-web-1",), False)
        stage.core.sealing = SealingKey.load_or_create(str(tmp_path / "none.key"), needed=True)
        told = await stage.do(DaemonStatus())
        assert (told.unopened, told.sealing_lost) == (("shop-web-1",), True)


async def test_what_cannot_be_shared_any_more_is_not_to_be_confirmed(tmp_path: Path) -> None:
    async with staged(tmp_path) as stage:
        await stage.do(Enable(instance="shop/web/1", volumes=("/data", "/logs")))
        stage.host.born["/var/lib/docker/volumes/logs/_data"] = "inode:99:9.0"
        await stage.core.feed(snapshot(volume("/data", refusal="/x is not below any prefix"), volume("/logs")))
        status = await stage.do(DaemonStatus())
        assert (status.unshareable, status.waiting) == (("shop/web/1 /data",), ("shop/web/1 /logs",))


async def test_leftovers_are_looked_for_when_asked(tmp_path: Path) -> None:
    async with staged(tmp_path) as stage:
        assert (await stage.do(DaemonStatus())).leftovers is None
        (found,) = (await stage.do(DaemonStatus(leftovers=True))).leftovers.found
        assert found.pid == 7
        stage.host.failure = HostError("hostd is away")
        status = await stage.do(DaemonStatus(leftovers=True))
        assert (status.leftovers, status.host_problem) == (None, "hostd is away")
