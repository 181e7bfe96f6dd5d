"""Keys that an instance keeps in a volume: when they count, and what follows for sessions by them."""

from __future__ import annotations

import functools
from dataclasses import replace
from pathlib import Path

import pytest
import trio
from tests.unit.core.logins import (
    INSTANCE,
    LOGIN,
    SSH,
    by_key,
    by_password,
    in_hardware,
    key_files,
    newest,
    own_key,
    shared,
    with_a_key,
    with_a_volume,
)
from tests.unit.core.stage import Stage, snapshot, staged, volume

from hatchway.admin import admission, volume_keys
from hatchway.admin.admission import PARALLEL_LOOKS, Admission
from hatchway.admin.volume_keys import FAILED_S, KEYS_MAX, VolumeKeys
from hatchway.credentials import keys
from hatchway.errors import ConflictError, HostError
from hatchway.model import InstanceKey, Login, Snapshot
from hatchway.registry.records import InstanceRecord
from hatchway.registry.store import Registry
from hatchway.wire.admin import Enable, Show
from hatchway.wire.entry import (
    AddKey,
    AllowVolumeKeys,
    Hindrance,
    KeyOrigin,
    ListKeys,
    Lock,
    RemoveKey,
    RenewKey,
    ResetPassword,
    SetConditions,
    Unlock,
)
from hatchway.wire.host import HostStatus, KeyFiles, Skip, Skipped

pytestmark = pytest.mark.usefixtures("no_host_keys")

OTHER_SSH = volume("/root/.ssh")


async def test_keys_in_a_volume_count_where_that_is_allowed(
    tmp_path: Path, autojump_clock: trio.testing.MockClock
) -> None:
    async with staged(tmp_path) as stage:
        await with_a_volume(stage)
        pair, other = keys.generate_ed25519("in the volume"), keys.generate_ed25519("another")
        stage.host.key_files[SSH.source or ""] = key_files(
            "# my keys", f'from="192.0.2.0/24" {pair.public}', f'command="rsync" {other.public}'
        )
        assert not await by_key(stage, pair.public)
        assert stage.host.read == [], "nothing is read that is not allowed"
        found = await stage.do(AllowVolumeKeys(instance=INSTANCE, allow=True))
        (key,) = [one for one in found.keys if one.origin is KeyOrigin.VOLUME]
        assert (key.fingerprint, key.place) == (pair.fingerprint, "/home/u/.ssh/authorized_keys:2")
        assert key.sources == "192.0.2.0/24"
        shown = await stage.do(Show(instance=INSTANCE))
        assert (shown.volume_keys, shown.keys) == (1, 0)
        why = "not all that is in its volumes counts as a key"
        assert shown.problems == (Hindrance(why, "hatchway key list shop-web-1"),)
        with pytest.raises(ConflictError, match=r"in /home/u/\.ssh/authorized_keys:2: take it out there"):
            await stage.do(RemoveKey(instance=INSTANCE, key="in the volume"))
        (problem,) = found.problems
        assert problem.startswith("/home/u/.ssh/authorized_keys:3: command=")
        assert await by_key(stage, pair.public)
        session = newest(stage)
        assert not await by_key(stage, pair.public, "198.51.100.1")
        assert not await by_key(stage, other.public)
        await stage.do(Lock(instance=INSTANCE))
        assert not await by_key(stage, pair.public)
        await stage.do(Unlock(INSTANCE))
        assert stage.host.ended == [session]
        assert await by_key(stage, pair.public)
        session = newest(stage)
        # The line is taken out: nobody new, and whoever is in is ended at the next look.
        stage.host.key_files[SSH.source or ""] = key_files(other.public)
        await trio.sleep(1.1)
        assert not await by_key(stage, pair.public)
        assert await by_key(stage, other.public)
        await stage.admission._look_at_volumes(Login(LOGIN))
        assert session in stage.host.ended
        found = await stage.do(AllowVolumeKeys(instance=INSTANCE, allow=False))
        assert found.problems == ()
        assert (await stage.do(Show(instance=INSTANCE))).volume_keys is None
        assert newest(stage) in stage.host.ended
        assert not await by_key(stage, other.public)


async def test_an_unchanged_volume_is_not_judged_again_and_a_silent_one_not_believed_long(
    tmp_path: Path, autojump_clock: trio.testing.MockClock
) -> None:
    async with staged(tmp_path) as stage:
        pair = await with_a_key(stage)
        read = len(stage.host.read)
        assert await by_key(stage, pair.public)
        assert len(stage.host.read) == read, "one look a second is enough"
        stage.host.key_files[SSH.source or ""] = KeyFiles(token=b"2", unchanged=True)
        await trio.sleep(1.1)
        assert await by_key(stage, pair.public)
        assert stage.host.read[-1][2] == b"1"
        del stage.host.key_files[SSH.source or ""]
        stage.host.failure = HostError("hostd is away")
        await trio.sleep(30)
        assert pair.fingerprint in [one.fingerprint for one in (await stage.do(ListKeys(INSTANCE))).keys]
        await trio.sleep(31)
        found = await stage.do(ListKeys(INSTANCE))
        assert pair.fingerprint not in [one.fingerprint for one in found.keys]
        assert found.problems == ("/home/u/.ssh: it cannot be read now: hostd is away",)


async def test_what_cannot_be_read_is_said(tmp_path: Path) -> None:
    async with staged(tmp_path) as stage:
        await stage.do(Enable(instance=INSTANCE, volumes=("/data",)))
        found = await stage.do(AllowVolumeKeys(instance=INSTANCE, allow=True))
        assert found.problems == ("it has no volume at a path that ends in /.ssh",)
        await stage.core.feed(snapshot(volume("/data"), SSH))
        stage.host.key_files[SSH.source or ""] = KeyFiles(
            token=b"", skipped=(Skipped(b"a\x1b\xff.pub", Skip.SYMLINK), Skipped(b"", Skip.CROWDED)), more=3
        )
        found = await stage.do(ListKeys(INSTANCE))
        assert found.problems == (
            "/home/u/.ssh/a\x1b\\xff.pub: it is a symbolic link",
            "/home/u/.ssh: there are too many names in it",
            "/home/u/.ssh: 3 more files were passed over",
        )


async def test_a_key_that_ended_is_not_brought_back_by_a_volume(
    tmp_path: Path, autojump_clock: trio.testing.MockClock
) -> None:
    async with staged(tmp_path) as stage:
        await with_a_volume(stage)
        old, added = await own_key(stage), keys.generate_ed25519("added")
        await stage.do(AddKey(instance=INSTANCE, public=added.public))
        stage.host.key_files[SSH.source or ""] = key_files(old, added.public)
        await stage.do(AllowVolumeKeys(instance=INSTANCE, allow=True))
        sessions = []
        for public in (old, added.public):
            assert await by_key(stage, public)
            sessions.append(newest(stage))
        await stage.do(RenewKey(instance=INSTANCE))
        await stage.do(RemoveKey(instance=INSTANCE, key="added"))
        assert list(dict.fromkeys(stage.host.ended)) == sessions
        assert not await by_key(stage, old)
        assert not await by_key(stage, added.public)
        why = "this key was renewed or taken away; 'hatchway key add' lets it in again"
        places = [f"/home/u/.ssh/authorized_keys:{number}: {why}" for number in (1, 2)]
        found = await stage.do(ListKeys(INSTANCE))
        assert ([one.origin for one in found.keys], list(found.problems)) == ([KeyOrigin.GENERATED], places)
        # An operator may.
        await stage.do(AddKey(instance=INSTANCE, public=added.public))
        assert (await stage.do(ListKeys(INSTANCE))).problems == (places[0],)
        assert await by_key(stage, added.public)


async def test_sessions_by_a_volumes_key_outlive_what_nobody_can_look_at(
    tmp_path: Path, autojump_clock: trio.testing.MockClock
) -> None:
    async with staged(tmp_path) as stage:
        pair = await with_a_key(stage)
        assert await by_key(stage, pair.public)
        session = newest(stage)
        # The container is made anew.
        await stage.core.feed(Snapshot(source="docker", taken_at=2.0, instances=()))
        await stage.admission._look_at_all()
        assert stage.host.ended == []
        assert not await by_key(stage, pair.public)
        await stage.core.feed(snapshot(volume("/data"), SSH))
        # Another core, which has read nothing yet, and cannot.
        stage.host.key_files[SSH.source or ""] = HostError("the volume does not answer")
        another = Admission(stage.core, VolumeKeys(stage.core))
        await another.hostd_connected(HostStatus((), {session: LOGIN}), 0.0)
        assert stage.host.ended == []
        await stage.do(Lock(instance=INSTANCE))
        assert stage.host.ended == [session], "for that no volume is asked"


async def test_a_volume_that_does_not_answer_delays_nobodys_end(tmp_path: Path) -> None:
    async with staged(tmp_path) as stage:
        await stage.core.feed(snapshot(volume("/data"), SSH))
        password = await shared(stage)
        pair = keys.generate_ed25519("in the volume")
        stage.host.key_files[SSH.source or ""] = key_files(pair.public)
        await stage.do(AllowVolumeKeys(instance=INSTANCE, allow=True))
        assert await by_key(stage, pair.public)
        assert await by_password(stage, password)
        by_its_password = newest(stage)
        stage.host.reading = trio.Event()
        async with trio.open_nursery() as nursery:
            await trio.sleep(1.2)
            nursery.start_soon(stage.do, ResetPassword(instance=INSTANCE))
            with trio.fail_after(3):
                while by_its_password not in stage.host.ended:
                    await trio.sleep(0.01)
            stage.host.reading.set()


async def test_a_key_of_ours_that_is_gone_asks_no_volume(
    tmp_path: Path, autojump_clock: trio.testing.MockClock
) -> None:
    """Else whoever controls the volume kept the session of a stolen key by making it unreadable."""
    async with staged(tmp_path) as stage:
        await with_a_volume(stage)
        in_volume = keys.generate_ed25519("in the volume")
        stage.host.key_files[SSH.source or ""] = key_files(in_volume.public)
        await stage.do(AllowVolumeKeys(instance=INSTANCE, allow=True))
        assert await by_key(stage, await own_key(stage))
        by_ours = newest(stage)
        assert await by_key(stage, in_volume.public)
        by_theirs = newest(stage)
        stage.host.key_files[SSH.source or ""] = HostError("the volume does not answer")
        await trio.sleep(61)
        await stage.do(RenewKey(instance=INSTANCE))
        assert stage.host.ended == [by_ours]
        # Added and taken away by the operator, it has ended, wherever else it is.
        await stage.do(AddKey(instance=INSTANCE, public=in_volume.public))
        await stage.do(RemoveKey(instance=INSTANCE, key="in the volume"))
        assert by_theirs in stage.host.ended


async def test_of_very_many_keys_the_first_count(tmp_path: Path) -> None:
    async with staged(tmp_path) as stage:
        await stage.core.feed(snapshot(volume("/data"), SSH, OTHER_SSH))
        await stage.do(Enable(instance=INSTANCE, volumes=("/data",)))
        pairs = [keys.generate_ed25519(f"number {number}") for number in range(KEYS_MAX + 2)]
        publics = [pair.public for pair in pairs]
        # One file has no more than LINES_MAX.
        stage.host.key_files[SSH.source or ""] = key_files(*publics[:150])
        stage.host.key_files[OTHER_SSH.source or ""] = key_files(*publics[150:-1])
        found = await stage.do(AllowVolumeKeys(instance=INSTANCE, allow=True))
        assert found.problems == ("only the first 200 of 201 keys count",)
        assert [one.comment for one in found.keys if one.origin is KeyOrigin.VOLUME] == [
            f"number {number}" for number in range(200)
        ]
        assert await by_key(stage, publics[0])
        assert await by_key(stage, publics[199])
        assert not await by_key(stage, publics[200])


async def test_exactly_so_many_keys_all_count(tmp_path: Path) -> None:
    async with staged(tmp_path) as stage:
        await with_a_volume(stage)
        publics = [keys.generate_ed25519("one of many").public for _ in range(KEYS_MAX)]
        stage.host.key_files[SSH.source or ""] = key_files(*publics)
        found = await stage.do(AllowVolumeKeys(instance=INSTANCE, allow=True))
        assert found.problems == ()
        assert await by_key(stage, publics[-1])


async def test_a_line_says_that_a_pin_must_be_asked_for(tmp_path: Path) -> None:
    async with staged(tmp_path) as stage:
        await with_a_volume(stage)
        with_pin, without = in_hardware("with"), in_hardware("without")
        stage.host.key_files[SSH.source or ""] = key_files(f"verify-required {with_pin}", without)
        found = await stage.do(AllowVolumeKeys(instance=INSTANCE, allow=True))
        assert {one.comment: one.verify_required for one in found.keys if one.origin is KeyOrigin.VOLUME} == {
            "with": True,
            "without": False,
        }
        _ok, lines = await stage.ask("keys", login=LOGIN)
        assert lines.splitlines()[1:] == [
            f"restrict,verify-required {with_pin.removesuffix(' with')}",
            f"restrict {without.removesuffix(' without')}",
        ]


async def test_a_volume_that_no_instance_has_any_more_is_forgotten(tmp_path: Path) -> None:
    async with staged(tmp_path) as stage:
        await with_a_volume(stage)
        for one in (SSH, OTHER_SSH):
            stage.host.key_files[one.source or ""] = key_files(keys.generate_ed25519("x").public)
        allowed = await allowed_record(stage)
        seen = VolumeKeys(stage.core)
        await seen.read(allowed)
        await stage.core.feed(snapshot(volume("/data"), OTHER_SSH))
        await seen.read(allowed)
        assert len(seen._known) == len(seen._turns) == 1
        await stage.core.feed(snapshot(volume("/data"), SSH))
        await seen.read(allowed)
        assert [(source, token) for source, _birth, token in stage.host.read] == [
            (SSH.source, b""),
            (OTHER_SSH.source, b""),
            (SSH.source, b""),
        ]


async def test_a_volume_has_one_reading_at_a_time_also_when_it_was_gone_meanwhile(tmp_path: Path) -> None:
    async with staged(tmp_path) as stage, trio.open_nursery() as nursery:
        await with_a_volume(stage)
        for one in (SSH, OTHER_SSH):
            stage.host.key_files[one.source or ""] = key_files(keys.generate_ed25519("x").public)
        allowed = await allowed_record(stage)
        seen = VolumeKeys(stage.core)
        stage.host.reading = answering = trio.Event()
        nursery.start_soon(seen.read, allowed)
        await trio.testing.wait_all_tasks_blocked()
        stage.host.reading = None
        await stage.core.feed(snapshot(volume("/data"), OTHER_SSH))
        await seen.read(allowed)
        await stage.core.feed(snapshot(volume("/data"), SSH))
        nursery.start_soon(seen.read, allowed)
        await trio.testing.wait_all_tasks_blocked()
        assert [source for source, *_ in stage.host.read] == [SSH.source, OTHER_SSH.source]
        answering.set()


async def allowed_record(stage: Stage) -> InstanceRecord:
    """The instance, as if keys in its volumes were allowed."""
    record = await stage.core.db(lambda registry: registry.instance_of(LOGIN))
    assert record is not None
    return replace(record, conditions=replace(record.conditions, volume_keys=True))


def session_by_an_unknown_key(login: str, registry: Registry) -> None:
    registry.open_session(
        login, login, address="192.0.2.1", method="publickey", credential="SHA256:its volume may know it", now=1.0
    )


async def test_only_so_many_logins_are_looked_at_at_once(tmp_path: Path) -> None:
    """A look may read a volume, and hostd reads few at a time."""
    count = PARALLEL_LOOKS + 3
    instances = [InstanceKey("shop", "web", number) for number in range(1, count + 1)]
    volumes = {key: volume(f"/home/u{key.number}/.ssh") for key in instances}
    async with staged(tmp_path, "none") as stage:
        infos = [info for key in instances for info in snapshot(volume("/data"), volumes[key], key=key).instances]
        await stage.core.feed(Snapshot(source="docker", taken_at=1.0, instances=tuple(infos)))
        stage.host.key_files = {one.source or "": key_files() for one in volumes.values()}
        for key in instances:
            await stage.do(Enable(instance=str(key), volumes=("/data",)))
            login = (await stage.do(AllowVolumeKeys(instance=str(key), allow=True))).login
            await stage.core.db(functools.partial(session_by_an_unknown_key, login))
            stage.host.sessions[login] = (login, (), 1)
        stage.host.read.clear()
        stage.host.reading = trio.Event()
        another = Admission(stage.core, VolumeKeys(stage.core))
        async with trio.open_nursery() as nursery:
            nursery.start_soon(another.run)
            with trio.fail_after(10):
                while len(stage.host.read) < PARALLEL_LOOKS:
                    await trio.sleep(0.01)
            await trio.testing.wait_all_tasks_blocked(0.05)
            assert len(stage.host.read) == PARALLEL_LOOKS == 8
            stage.host.reading.set()
            with trio.fail_after(10):
                while len(stage.host.ended) < count:
                    await trio.sleep(0.01)
            nursery.cancel_scope.cancel()


async def test_a_line_is_good_for_the_second_it_names_and_no_longer(tmp_path: Path) -> None:
    async with staged(tmp_path) as stage:
        await with_a_volume(stage)
        pair = keys.generate_ed25519("in the volume")
        stage.host.key_files[SSH.source or ""] = key_files(f'expiry-time="19700112134640Z" {pair.public}')
        await stage.do(AllowVolumeKeys(instance=INSTANCE, allow=True))
        stage.core.now = lambda: 1_000_000.9
        assert await by_key(stage, pair.public)
        await stage.admission._look_at_volumes(Login(LOGIN))
        assert stage.host.ended == []
        stage.core.now = lambda: 1_000_001.0
        assert not await by_key(stage, pair.public)
        await stage.admission._look_at_volumes(Login(LOGIN))
        assert stage.host.ended == [newest(stage)]


async def test_a_volume_that_nobody_may_share_is_not_read_for_keys(tmp_path: Path) -> None:
    async with staged(tmp_path) as stage:
        await stage.core.feed(snapshot(volume("/data"), volume("/home/u/.ssh", refusal="it lies outside")))
        await stage.do(Enable(instance=INSTANCE, volumes=("/data",)))
        found = await stage.do(AllowVolumeKeys(instance=INSTANCE, allow=True))
        assert found.problems == ("/home/u/.ssh: it lies outside",)
        assert stage.host.read == []


async def test_nothing_waits_for_a_volume(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not what is done to the login, not what expires elsewhere, and not hostd's return."""
    monkeypatch.setattr(admission, "LOOK_EVERY_S", 0.05)
    monkeypatch.setattr(volume_keys, "FRESH_S", 0.0)
    monkeypatch.setattr(volume_keys, "ANSWER_S", 0.1)
    async with staged(tmp_path) as stage, trio.open_nursery() as nursery:
        pair = await with_a_key(stage)
        assert await by_key(stage, await own_key(stage))
        by_ours = newest(stage)
        assert await by_key(stage, pair.public)
        stage.host.reading = trio.Event()
        stage.host.read.clear()
        nursery.start_soon(stage.admission.run)
        nursery.start_soon(by_key_alone, stage, pair.public)
        with trio.fail_after(10):
            while not stage.host.read:
                await trio.sleep(0.01)
            await stage.admission.hostd_connected(HostStatus((), {newest(stage): LOGIN}), 0.0)
            assert stage.host.ended == []
            renewed = await stage.do(RenewKey(instance=INSTANCE))
            assert renewed.problems == ("keys in its volumes are not known yet: a volume takes its time",)
            assert set(stage.host.ended) == {by_ours}
            stage.core.now = lambda: 1e10
            await stage.do(SetConditions(instance=INSTANCE, expires_at=2e10))
            stage.core.now = lambda: 2e10
            stage.admission.opened(Login("another"))
            while newest(stage) not in stage.host.ended:
                await trio.sleep(0.01)
            await stage.do(Lock(instance=INSTANCE))
        stage.host.reading.set()
        nursery.cancel_scope.cancel()


async def test_who_is_refused_anyway_has_no_volume_read(tmp_path: Path) -> None:
    async with staged(tmp_path) as stage:
        await with_a_volume(stage)
        stage.host.key_files[SSH.source or ""] = key_files()
        await stage.do(AllowVolumeKeys(instance=INSTANCE, allow=True))
        await stage.do(Lock(instance=INSTANCE))
        stage.host.read.clear()
        stage.host.reading = trio.Event()
        fields = {"login": LOGIN, "service": "hatchway-sshd", "rhost": "192.0.2.1"}
        kind, blob = keys.generate_ed25519("x").public.split()[:2]
        with trio.fail_after(5):
            assert not (await stage.ask("open", **fields, authinfo=f"publickey {kind} {blob}\n"))[0]
            await stage.do(Unlock(INSTANCE))
            assert await by_key_alone(stage, await own_key(stage))
        assert stage.host.read == []


async def by_key_alone(stage: Stage, public: str) -> bool:
    """Whether a session opens by a key that sshd knows already."""
    kind, blob = public.split()[:2]
    fields = {"login": LOGIN, "service": "hatchway-sshd", "rhost": "192.0.2.1"}
    return (await stage.ask("open", **fields, authinfo=f"publickey {kind} {blob}\n"))[0]


async def test_whoever_waits_for_a_volume_shares_what_came_of_it(
    tmp_path: Path, autojump_clock: trio.testing.MockClock
) -> None:
    async with staged(tmp_path) as stage:
        await with_a_volume(stage)
        stage.host.key_files[SSH.source or ""] = HostError("the volume does not answer")
        allowed = await allowed_record(stage)
        seen = VolumeKeys(stage.core)
        found = []

        async def read() -> None:
            found.append(await seen.read(allowed))

        stage.host.reading = trio.Event()
        async with trio.open_nursery() as nursery:
            for _ in range(40):
                nursery.start_soon(read)
            await trio.testing.wait_all_tasks_blocked()
            stage.host.reading.set()
        assert len(stage.host.read) == 1
        problem = "/home/u/.ssh: it cannot be read now: the volume does not answer"
        assert {one.problems for one in found} == {(problem,)}
        await trio.sleep(FAILED_S - 0.1)
        assert (await seen.read(allowed)).problems == (problem,)
        await trio.sleep(0.2)
        stage.host.key_files[SSH.source or ""] = key_files(keys.generate_ed25519("x").public)
        assert len((await seen.read(allowed)).keys) == 1
        assert len(stage.host.read) == 2


async def test_a_session_does_not_outlive_its_volume_for_ever(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(admission, "LOOK_EVERY_S", 0.02)
    for name in ("FRESH_S", "FAILED_S", "KEPT_S"):
        monkeypatch.setattr(volume_keys, name, 0.0)
    async with staged(tmp_path) as stage, trio.open_nursery() as nursery:
        pair = await with_a_key(stage)
        assert await by_key(stage, pair.public)
        nursery.start_soon(stage.admission.run)

        async def looked() -> None:
            stage.host.read.clear()
            with trio.fail_after(10):
                while len(stage.host.read) < 3:
                    await trio.sleep(0.01)

        stage.host.key_files[SSH.source or ""] = HostError("the volume does not answer")
        await looked()
        assert stage.host.ended == []
        # Once it answers, the time begins anew.
        stage.host.key_files[SSH.source or ""] = key_files(pair.public)
        await looked()
        monkeypatch.setattr(admission, "UNCERTAIN_S", 0.0)
        await looked()
        assert stage.host.ended == []
        stage.host.key_files[SSH.source or ""] = HostError("the volume does not answer")
        with trio.fail_after(10):
            while newest(stage) not in stage.host.ended:
                await trio.sleep(0.01)
        nursery.cancel_scope.cancel()


async def test_a_session_ends_when_its_line_expires(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And not only when it would have been looked at anyway."""
    monkeypatch.setattr(admission, "LOOK_EVERY_S", 1000.0)
    async with staged(tmp_path) as stage, trio.open_nursery() as nursery:
        stage.core.now = lambda: 1_000_000.5
        await with_a_volume(stage)
        pair = keys.generate_ed25519("in the volume")
        stage.host.key_files[SSH.source or ""] = key_files(f'expiry-time="19700112134640Z" {pair.public}')
        await stage.do(AllowVolumeKeys(instance=INSTANCE, allow=True))
        nursery.start_soon(stage.admission.run)
        await trio.testing.wait_all_tasks_blocked(0.1)
        assert await by_key(stage, pair.public)
        assert stage.host.ended == []
        began = trio.current_time()
        stage.core.now = lambda: 1_000_000.5 + trio.current_time() - began
        with trio.fail_after(10):
            while not stage.host.ended:
                await trio.sleep(0.01)
        assert stage.core.now() >= 1_000_001.0
        assert stage.host.ended == [newest(stage)]
        nursery.cancel_scope.cancel()
