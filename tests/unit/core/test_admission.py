"""Conditions, and what follows for sessions that are open when they change."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import trio
from msgspec import structs
from tests.unit.core.stage import WEB, Stage, snapshot, staged, volume

from hatchway.access.attempts import FAILURE_S
from hatchway.access.service import Flood
from hatchway.admin.admission import Admission
from hatchway.admin.volume_keys import VolumeKeys
from hatchway.credentials import keys, passwords
from hatchway.credentials.secret import DamagedSecretError
from hatchway.errors import ConflictError, HostError, NotFoundError, UsageError
from hatchway.model import EventKind, Snapshot
from hatchway.registry.records import NO_CONDITIONS, Conditions, CredentialKind
from hatchway.sshd import hostkeys
from hatchway.wire.admin import Enable, Show
from hatchway.wire.entry import (
    AddKey,
    AllowVolumeKeys,
    ExportKey,
    ImportPassword,
    KeyOrigin,
    Kick,
    ListKeys,
    ListSessions,
    Lock,
    PasswordKind,
    RemoveKey,
    RemovePassword,
    RenewKey,
    ResetPassword,
    RotateKey,
    SetConditions,
    SetPassword,
    ShowConditions,
    ShowPassword,
    Unlock,
)
from hatchway.wire.host import HostStatus, KeyFile, KeyFiles, Skip, Skipped

INSTANCE = "shop/web/1"
LOGIN = "shop-web-1"


@pytest.fixture(autouse=True)
def no_host_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    """sshd has no host keys here, which `show` tells."""
    monkeypatch.setattr(hostkeys, "read", lambda _directory: ())


async def shared(stage: Stage) -> str:
    """Share a volume. Gives the password."""
    await stage.do(Enable(instance=INSTANCE, volumes=("/data",)))
    return str((await stage.do(ShowPassword(INSTANCE))).password)


async def by_password(stage: Stage, password: str, address: str = "192.0.2.1", port: int = 1) -> bool:
    """Whether a client may enter with `password`, from first to last."""
    fields = {"login": LOGIN, "service": "hatchway-sshd", "rhost": address, "connection": f"{address} {port} x 2022"}
    for stage_of_pam, more in (
        ("auth", {"password": password}),
        ("account", {}),
        ("open", {"authinfo": "password\n"}),
    ):
        if not (await stage.ask(stage_of_pam, **fields, **more))[0]:
            return False
    return True


async def by_key(stage: Stage, public: str, address: str = "192.0.2.1") -> bool:
    """Whether a client may enter with a key that sshd was told of."""
    _ok, lines = await stage.ask("keys", login=LOGIN)
    kind, blob = public.split()[:2]
    if f"{kind} {blob}" not in lines:
        return False
    fields = {"login": LOGIN, "service": "hatchway-sshd", "rhost": address}
    entered = (await stage.ask("account", **fields))[0]
    return entered and (await stage.ask("open", **fields, authinfo=f"publickey {kind} {blob}\n"))[0]


async def own_key(stage: Stage) -> str:
    return str((await stage.do(ExportKey(INSTANCE))).public)


def newest(stage: Stage) -> str:
    return list(stage.host.sessions)[-1]


async def test_locked_means_nobody_and_the_sessions_end(tmp_path: Path) -> None:
    async with staged(tmp_path) as stage:
        password, key = await shared(stage), await own_key(stage)
        assert await by_password(stage, password)
        assert await by_key(stage, key)
        found = await stage.do(Lock(instance=INSTANCE, why="rent not paid"))
        assert (found.locked_at is not None, found.locked_why) == (True, "rent not paid")
        assert sorted(stage.host.ended) == sorted(stage.host.sessions)
        assert not await by_password(stage, password)
        assert not await by_key(stage, key)
        with pytest.raises(ConflictError, match="locked already: rent not paid"):
            await stage.do(Lock(instance=INSTANCE))
        assert "rent not paid" in " ".join((await stage.do(Show(instance=INSTANCE))).problems)
        assert (await stage.do(Unlock(INSTANCE))).locked_at is None
        with pytest.raises(ConflictError, match="is not locked"):
            await stage.do(Unlock(INSTANCE))
        assert await by_password(stage, password)
        assert await by_key(stage, key)


async def test_an_allow_list_keeps_others_out_and_ends_their_sessions(tmp_path: Path) -> None:
    async with staged(tmp_path) as stage:
        password, key = await shared(stage), await own_key(stage)
        assert await by_key(stage, key, "192.0.2.1")
        inside = newest(stage)
        assert await by_key(stage, key, "198.51.100.1")
        outside = newest(stage)
        found = await stage.do(SetConditions(instance=INSTANCE, allowed_from=("192.0.2.0/24", "2001:db8::/32")))
        assert found.allowed_from == ("192.0.2.0/24", "2001:db8::/32")
        assert stage.host.ended == [outside]
        for address, may in (
            ("192.0.2.9", True),
            ("2001:db8::9", True),
            ("::ffff:192.0.2.9", True),
            ("198.51.100.1", False),
            ("2001:db9::9", False),
            ("", False),
            ("client.example.org", False),
        ):
            assert await by_password(stage, password, address) is may
            assert await by_key(stage, key, address) is may
        _ok, lines = await stage.ask("keys", login=LOGIN)
        assert 'from="192.0.2.0/24,2001:db8::/32"' in lines
        assert inside not in stage.host.ended
        with pytest.raises(UsageError, match=r"192\.0\.2\.7/24"):
            await stage.do(SetConditions(instance=INSTANCE, allowed_from=("192.0.2.7/24",)))
        assert (await stage.do(SetConditions(instance=INSTANCE, allowed_from=()))).allowed_from == ()
        assert await by_password(stage, password, "198.51.100.1")


async def test_an_allow_list_too_long_for_sshd_is_kept_by_us(tmp_path: Path) -> None:
    async with staged(tmp_path) as stage:
        await shared(stage)
        key = await own_key(stage)
        many = tuple(f"2001:db8:{number:x}::/48" for number in range(1, 100))
        await stage.do(SetConditions(instance=INSTANCE, allowed_from=many))
        assert "from=" not in (await stage.ask("keys", login=LOGIN))[1]
        assert await by_key(stage, key, "2001:db8:5::1")
        assert not await by_key(stage, key, "2001:db9::1")


async def test_whoever_expires_is_ended_at_that_moment(tmp_path: Path) -> None:
    async with staged(tmp_path) as stage, trio.open_nursery() as nursery:
        password = await shared(stage)
        clock = 1000.0
        stage.core.now = lambda: clock
        started = trio.current_time()
        stage.core.now = lambda: clock + trio.current_time() - started
        assert await by_password(stage, password)
        nursery.start_soon(stage.admission.run)
        await stage.do(SetConditions(instance=INSTANCE, expires_at=stage.core.now() + 0.5))
        assert stage.host.ended == []
        with trio.fail_after(5):
            while not stage.host.ended:
                await trio.sleep(0.01)
        late = stage.core.now() - (await stage.do(ShowConditions(INSTANCE))).expires_at
        assert 0 <= late < 1
        assert not await by_password(stage, password)
        assert "has expired" in " ".join((await stage.do(Show(instance=INSTANCE))).problems)
        await stage.do(SetConditions(instance=INSTANCE, expires_at=None))
        assert await by_password(stage, password)
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize("at", [0.0, -1.0, float("nan"), float("inf"), 1e12])
async def test_a_time_that_cannot_be_is_refused(tmp_path: Path, at: float) -> None:
    async with staged(tmp_path) as stage:
        await shared(stage)
        for request in (
            SetConditions(instance=INSTANCE, expires_at=at),
            AddKey(instance=INSTANCE, public=keys.generate_ed25519("x").public, expires_at=at),
        ):
            with pytest.raises(UsageError):
                await stage.do(request)


async def test_only_so_many_sessions_at_once_whoever_asks_first(tmp_path: Path) -> None:
    async with staged(tmp_path) as stage:
        password = await shared(stage)
        await stage.do(SetConditions(instance=INSTANCE, sessions_max=3))
        let_in: list[bool] = []

        async def enter(number: int) -> None:
            let_in.append(await by_password(stage, password, port=number))

        async with trio.open_nursery() as nursery:
            for number in range(8):
                nursery.start_soon(enter, number)
        assert sorted(let_in) == [False] * 5 + [True] * 3
        assert len(stage.host.sessions) == 3
        await stage.core.session_ended(newest(stage))
        assert await by_password(stage, password)
        # Who is in stays.
        await stage.do(SetConditions(instance=INSTANCE, sessions_max=1))
        assert stage.host.ended == []
        for bad in (0, 129):
            with pytest.raises(UsageError, match="from 1 to 128"):
                await stage.do(SetConditions(instance=INSTANCE, sessions_max=bad))


async def test_what_is_not_said_stays_as_it_was(tmp_path: Path) -> None:
    async with staged(tmp_path) as stage:
        await shared(stage)
        await stage.do(SetConditions(instance=INSTANCE, allowed_from=("10.0.0.0/8",), sessions_max=5))
        found = await stage.do(SetConditions(instance=INSTANCE, expires_at=9e9))
        assert (found.allowed_from, found.sessions_max, found.expires_at) == (("10.0.0.0/8",), 5, 9e9)
        found = await stage.do(SetConditions(instance=INSTANCE, sessions_max=None))
        assert (found.allowed_from, found.sessions_max, found.sessions_default) == (("10.0.0.0/8",), None, 40)


async def test_an_added_key_lets_in_from_where_and_until_it_may(tmp_path: Path) -> None:
    async with staged(tmp_path) as stage:
        await shared(stage)
        now = stage.core.now()
        stage.core.now = lambda: now
        pair = keys.generate_ed25519("anna@laptop")
        found = await stage.do(
            AddKey(instance=INSTANCE, public=pair.public, sources="192.0.2.0/24", expires_at=now + 3600)
        )
        added = next(one for one in found.keys if one.origin is KeyOrigin.ADDED)
        assert (added.comment, added.fingerprint, added.sources) == ("anna@laptop", pair.fingerprint, "192.0.2.0/24")
        assert found.changed == (pair.fingerprint,)
        assert (await stage.do(Show(instance=INSTANCE))).keys == 1
        assert await by_key(stage, pair.public)
        session = newest(stage)
        assert not await by_key(stage, pair.public, "198.51.100.1")
        with pytest.raises(ConflictError, match="already"):
            await stage.do(AddKey(instance=INSTANCE, public=pair.public))
        now += 3600
        assert not await by_key(stage, pair.public)
        await stage.admission._look_at_all()
        assert stage.host.ended == [session]


async def test_a_key_that_is_removed_lets_nobody_in_or_stay(tmp_path: Path) -> None:
    async with staged(tmp_path) as stage:
        await shared(stage)
        own, first, second = await own_key(stage), keys.generate_ed25519("first"), keys.generate_ed25519("second")
        for pair in (first, second):
            await stage.do(AddKey(instance=INSTANCE, public=pair.public))
        sessions = []
        for public in (own, first.public, second.public):
            assert await by_key(stage, public)
            sessions.append(newest(stage))
        for text in ("third", "", "SHA256:", "id_container shop-web-1", own.split()[1][:8]):
            with pytest.raises(NotFoundError, match="no key"):
                await stage.do(RemoveKey(instance=INSTANCE, key=text))
        assert (await stage.do(RemoveKey(instance=INSTANCE, key="first"))).changed == (first.fingerprint,)
        assert stage.host.ended == [sessions[1]]
        await stage.do(RemoveKey(instance=INSTANCE, key=second.fingerprint[:14]))
        assert list(dict.fromkeys(stage.host.ended)) == sessions[1:]
        assert [await by_key(stage, key) for key in (own, first.public, second.public)] == [True, False, False]


@pytest.mark.parametrize("kind", ["rsa2048", "ed25519"])
async def test_a_key_is_renewed_as_the_kind_that_is_wanted(tmp_path: Path, kind: str) -> None:
    async with staged(tmp_path) as stage:
        await shared(stage)
        before = await own_key(stage)
        (key,) = (await stage.do(RenewKey(instance=INSTANCE, kind=kind))).keys
        assert key.algorithm == ("ssh-rsa" if kind == "rsa2048" else "ssh-ed25519")
        assert not await by_key(stage, before)
        exported = await stage.do(ExportKey(INSTANCE))
        file = tmp_path / "key"
        file.touch(mode=0o600)
        file.write_text(exported.private)
        derived = (await trio.run_process(["ssh-keygen", "-y", "-f", file], capture_stdout=True)).stdout.decode()
        assert derived.split()[:2] == exported.public.split()[:2]
        with pytest.raises(UsageError, match="no kind of key 'dsa'"):
            await stage.do(RenewKey(instance=INSTANCE, kind="dsa"))


async def test_a_password_is_kept_as_it_is_wanted(tmp_path: Path) -> None:
    async with staged(tmp_path) as stage:
        generated = await shared(stage)
        found = await stage.do(
            SetPassword(instance=INSTANCE, password="correct horse battery", kind=PasswordKind.HASHED)
        )
        assert (found.kind, found.password, found.hash) == (PasswordKind.HASHED, None, "argon2id")
        with pytest.raises(ConflictError, match="cannot be shown"):
            await stage.do(ShowPassword(INSTANCE))
        assert not await by_password(stage, generated)
        assert await by_password(stage, "correct horse battery")
        found = await stage.do(SetPassword(instance=INSTANCE, password="another one of mine"))
        assert found.kind is PasswordKind.RAW
        assert (await stage.do(ShowPassword(INSTANCE))).password == "another one of mine"
        for bad in ("short", "x" * 513, "with\nnewline", "with\0nul here"):
            with pytest.raises(UsageError) as refused:
                await stage.do(SetPassword(instance=INSTANCE, password=bad))
            assert bad not in str(refused.value)
        assert await by_password(stage, "another one of mine")
        assert (await stage.do(RemovePassword(INSTANCE))).kind is PasswordKind.NONE
        assert not await by_password(stage, "another one of mine")
        with pytest.raises(NotFoundError, match="key-only"):
            await stage.do(RemovePassword(INSTANCE))
        again = await stage.do(ResetPassword(instance=INSTANCE, kind=PasswordKind.HASHED))
        assert again.kind is PasswordKind.HASHED
        assert await by_password(stage, again.password)


async def test_a_hash_from_elsewhere_is_hashed_anew_at_the_first_login(tmp_path: Path) -> None:
    async with staged(tmp_path) as stage:
        await shared(stage)
        made = await trio.run_process(["openssl", "passwd", "-6", "from the old host"], capture_stdout=True)
        found = await stage.do(ImportPassword(instance=INSTANCE, encoded=made.stdout.decode().strip()))
        assert (found.kind, found.hash) == (PasswordKind.HASHED, "sha512-crypt")
        assert not await by_password(stage, "from another host")
        assert await by_password(stage, "from the old host")
        session = newest(stage)
        (password,) = [
            one
            for one in await stage.core.db(lambda registry: registry.credentials(LOGIN))
            if one.kind is CredentialKind.PASSWORD
        ]
        assert passwords.kind(password.public) == "argon2id"
        assert not passwords.needs_rehash(password.public)
        assert await by_password(stage, "from the old host")
        await stage.admission._look_at_all()
        assert session not in stage.host.ended, "it is the same password"


async def test_wrong_passwords_lock_a_login_where_that_is_wanted(tmp_path: Path) -> None:
    async with staged(tmp_path, lock_after=10) as stage:
        password = await shared(stage)
        assert await by_password(stage, password)
        for number in range(10):
            assert not await by_password(stage, "guess", f"198.51.100.{number}")
        assert stage.host.ended == [newest(stage)]
        assert not await by_password(stage, password)
        assert (await stage.do(ShowConditions(INSTANCE))).locked_why == "10 wrong passwords within an hour"
        page = await stage.core.journal.read(limit=50, instance=None, kinds=(), since=None, after=None)
        assert [event.kind for _, event in page.events].count(EventKind.LOCKED) == 1


async def test_one_attacker_locks_nobody_else_out(tmp_path: Path) -> None:
    async with staged(tmp_path) as stage:
        password = await shared(stage)
        before = trio.current_time()
        async with trio.open_nursery() as nursery:
            for number in range(30):
                nursery.start_soon(by_password, stage, "guess", "198.51.100.1", number)
            await trio.sleep(FAILURE_S)
            assert await by_password(stage, password, "192.0.2.1")
            assert trio.current_time() - before < FAILURE_S + 2
            nursery.cancel_scope.cancel()
        assert not await by_password(stage, password, "198.51.100.1"), "who guesses waits"


async def test_who_is_in_is_told_and_can_be_sent_away(tmp_path: Path) -> None:
    async with staged(tmp_path) as stage:
        password, pair = await shared(stage), keys.generate_ed25519("anna@laptop")
        await stage.do(AddKey(instance=INSTANCE, public=pair.public))
        assert await by_password(stage, password)
        assert await by_key(stage, pair.public, "192.0.2.2")
        first, second = (await stage.do(ListSessions())).sessions
        assert (first.method, first.credential, first.address, first.key) == ("password", "", "192.0.2.1", WEB)
        assert (second.method, second.credential, second.comment) == ("publickey", pair.fingerprint, "anna@laptop")
        assert (second.read, second.idle_s, second.files) == (None, None, ())
        stage.host.failure = HostError("hostd is away")
        assert len((await stage.do(ListSessions(instance=INSTANCE))).sessions) == 2
        with pytest.raises(HostError):
            await stage.do(Kick(sessions=(second.id,)))
        stage.host.failure = None
        assert [one.id for one in (await stage.do(Kick(sessions=(second.id[:8],)))).sessions] == [second.id]
        assert stage.host.ended == [second.id]
        for request, error in (
            (Kick(), UsageError),
            (Kick(sessions=("",)), NotFoundError),
            (Kick(sessions=("zzz",)), NotFoundError),
        ):
            with pytest.raises(error):
                await stage.do(request)
        await stage.do(Kick(instance=INSTANCE))
        assert stage.host.ended == [second.id, first.id, second.id]


async def test_all_secrets_survive_a_new_sealing_key(tmp_path: Path) -> None:
    async with staged(tmp_path) as stage:
        password, private = await shared(stage), (await stage.do(ExportKey(INSTANCE))).private
        sealed = [one.sealed for one in await stage.core.db(lambda registry: registry.credentials(LOGIN))]
        before = Path(stage.core.config.sealing_key_path).read_bytes()
        assert (await stage.do(RotateKey())).secrets == 2
        assert Path(stage.core.config.sealing_key_path).read_bytes() != before
        after = [one.sealed for one in await stage.core.db(lambda registry: registry.credentials(LOGIN))]
        assert not set(sealed) & set(after)
        assert (await stage.do(ShowPassword(INSTANCE))).password == password
        assert (await stage.do(ExportKey(INSTANCE))).private == private


SSH = volume("/home/u/.ssh")


def key_files(*lines: str, name: bytes = b"authorized_keys") -> KeyFiles:
    return KeyFiles(token=b"1", files=(KeyFile(name, "\n".join(lines).encode()),))


async def test_keys_in_a_volume_count_where_that_is_allowed(
    tmp_path: Path, autojump_clock: trio.testing.MockClock
) -> None:
    async with staged(tmp_path) as stage:
        await stage.core.feed(snapshot(volume("/data"), SSH))
        await stage.do(Enable(instance=INSTANCE, volumes=("/data",)))
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
        assert found.problems[0] in shown.problems
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
        await stage.admission._look_at_all()
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
        await stage.core.feed(snapshot(volume("/data"), SSH))
        await stage.do(Enable(instance=INSTANCE, volumes=("/data",)))
        pair = keys.generate_ed25519("in the volume")
        stage.host.key_files[SSH.source or ""] = key_files(pair.public)
        await stage.do(AllowVolumeKeys(instance=INSTANCE, allow=True))
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


def test_no_conditions_are_none() -> None:
    assert replace(NO_CONDITIONS, volume_keys=False) == Conditions() == NO_CONDITIONS


async def test_an_instance_is_found_without_its_number_where_that_is_clear(tmp_path: Path) -> None:
    async with staged(tmp_path) as stage:
        await shared(stage)
        assert (await stage.do(ShowConditions("shop/web"))).login == LOGIN
        with pytest.raises(NotFoundError, match="did you mean shop/web/1"):
            await stage.do(ShowConditions("shop/wep"))
        info = stage.inventory.instances()[0]
        both = (info, structs.replace(info, key=structs.replace(WEB, number=2), runtime_name="shop-web-2"))
        await stage.core.feed(Snapshot(source="docker", taken_at=1.0, instances=both))
        with pytest.raises(UsageError, match="may be shop/web/1 or shop/web/2: say which"):
            await stage.do(ShowConditions("shop/web"))


async def test_a_key_that_ended_is_not_brought_back_by_a_volume(
    tmp_path: Path, autojump_clock: trio.testing.MockClock
) -> None:
    async with staged(tmp_path) as stage:
        await stage.core.feed(snapshot(volume("/data"), SSH))
        await stage.do(Enable(instance=INSTANCE, volumes=("/data",)))
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
        # An operator may.
        await stage.do(AddKey(instance=INSTANCE, public=added.public))
        assert await by_key(stage, added.public)


async def test_sessions_by_a_volumes_key_outlive_what_nobody_can_look_at(
    tmp_path: Path, autojump_clock: trio.testing.MockClock
) -> None:
    async with staged(tmp_path) as stage:
        await stage.core.feed(snapshot(volume("/data"), SSH))
        await stage.do(Enable(instance=INSTANCE, volumes=("/data",)))
        pair = keys.generate_ed25519("in the volume")
        stage.host.key_files[SSH.source or ""] = key_files(pair.public)
        await stage.do(AllowVolumeKeys(instance=INSTANCE, allow=True))
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


async def test_a_secret_that_is_damaged_keeps_the_sealing_key(tmp_path: Path) -> None:
    async with staged(tmp_path) as stage:
        await shared(stage)
        before = Path(stage.core.config.sealing_key_path).read_bytes()
        await stage.core.db(lambda registry: registry.reseal(lambda _login, _record: b"\x01damaged"))
        with pytest.raises(DamagedSecretError):
            await stage.do(RotateKey())
        assert Path(stage.core.config.sealing_key_path).read_bytes() == before
        assert not stage.core.sealing.rotating


async def test_a_lockdown_is_told_also_when_hostd_is_away(tmp_path: Path) -> None:
    async with staged(tmp_path, lock_after=10) as stage:
        password = await shared(stage)
        stage.host.failure = HostError("hostd is away")
        for number in range(10):
            assert not await by_password(stage, "guess", f"198.51.100.{number}")
        page = await stage.core.journal.read(limit=50, instance=None, kinds=(), since=None, after=None)
        assert EventKind.LOCKED in [event.kind for _, event in page.events]
        refused = [event for _, event in page.events if event.kind is EventKind.REFUSED]
        assert sum(event.times for event in refused) == 10
        stage.host.failure = None
        assert not await by_password(stage, password)


async def test_a_session_nobody_knows_of_is_ended_as_soon_as_that_can_be(tmp_path: Path) -> None:
    async with staged(tmp_path) as stage, trio.open_nursery() as nursery:
        await shared(stage)
        stage.host.sessions["f" * 32] = (LOGIN, (), 1)
        status = await stage.host.status()
        nursery.start_soon(stage.admission.run)
        await trio.testing.wait_all_tasks_blocked()
        stage.host.unendable = HostError("for a moment")
        await stage.admission.hostd_connected(status, 0.0)
        assert stage.host.ended == []
        stage.host.unendable = None
        with trio.fail_after(10):
            while stage.host.ended != ["f" * 32]:
                await trio.sleep(0.05)
        nursery.cancel_scope.cancel()


async def test_a_pin_is_asked_for_keys_in_hardware_only(tmp_path: Path) -> None:
    async with staged(tmp_path) as stage:
        await shared(stage)
        with pytest.raises(UsageError, match="only a key in hardware"):
            await stage.do(AddKey(instance=INSTANCE, public=keys.generate_ed25519("x").public, verify_required=True))


async def test_sshd_is_told_what_it_can_decide_by_itself(tmp_path: Path) -> None:
    async with staged(tmp_path) as stage:
        await shared(stage)
        stage.core.now = lambda: 1_000_000.0
        own, pair = await own_key(stage), keys.generate_ed25519("added")
        await stage.do(
            AddKey(instance=INSTANCE, public=pair.public, sources="192.0.2.0/24,!192.0.2.66", expires_at=1_000_500.0)
        )
        await stage.do(SetConditions(instance=INSTANCE, allowed_from=("192.0.0.0/16",), expires_at=1_001_000.0))
        _ok, lines = await stage.ask("keys", login=LOGIN)
        assert lines.splitlines() == [
            f'restrict,from="192.0.0.0/16",expiry-time="19700112140320Z" {own}',
            f'restrict,from="192.0.2.0/24,!192.0.2.66",expiry-time="19700112135500Z" {pair.public}',
        ]
        await stage.do(SetConditions(instance=INSTANCE, expires_at=1_000_100.0))
        _ok, lines = await stage.ask("keys", login=LOGIN)
        assert lines.count('expiry-time="19700112134820Z"') == 2, "whichever comes first"
        stage.core.now = lambda: 1_000_100.0
        assert await stage.ask("keys", login=LOGIN) == (False, "")


async def test_an_expired_key_is_not_even_offered(tmp_path: Path) -> None:
    async with staged(tmp_path) as stage, trio.open_nursery() as nursery:
        await shared(stage)
        started, began = trio.current_time(), stage.core.now()
        stage.core.now = lambda: began + trio.current_time() - started
        pair = keys.generate_ed25519("added")
        until = stage.core.now() + 0.7
        await stage.do(AddKey(instance=INSTANCE, public=pair.public, expires_at=until))
        assert await by_key(stage, pair.public)
        session = newest(stage)
        assert await by_key(stage, await own_key(stage))
        nursery.start_soon(stage.admission.run)
        with trio.fail_after(5):
            while not stage.host.ended:
                await trio.sleep(0.01)
        assert 0 <= stage.core.now() - until < 1
        assert stage.host.ended == [session]
        assert pair.public not in (await stage.ask("keys", login=LOGIN))[1]
        nursery.cancel_scope.cancel()


async def test_a_session_that_opens_has_its_expiry_waited_for(tmp_path: Path) -> None:
    async with staged(tmp_path) as stage, trio.open_nursery() as nursery:
        password = await shared(stage)
        await stage.do(SetConditions(instance=INSTANCE, expires_at=stage.core.now() + 1.0))
        nursery.start_soon(stage.admission.run)
        await trio.sleep(0.1)
        # It waits for nothing yet: there is no session.
        assert await by_password(stage, password)
        with trio.fail_after(5):
            while not stage.host.ended:
                await trio.sleep(0.01)
        nursery.cancel_scope.cancel()


async def test_what_is_no_login_has_no_guesses_of_its_own(tmp_path: Path) -> None:
    async with staged(tmp_path) as stage:
        await shared(stage)
        fields = {"service": "hatchway-sshd", "rhost": "192.0.2.1", "connection": "a"}
        before = trio.current_time()
        for number in range(6):
            assert not (await stage.ask("auth", login=f"No Login {number}", **fields, password="x"))[0]
        assert trio.current_time() - before >= 6 * FAILURE_S + 0.5, "the sixth had to wait"


@pytest.mark.parametrize("sources", ["client.example.org", "192.0.2.7/24", 'a"b', "10.0.0.0/8, 192.0.2.1"])
async def test_an_added_key_says_from_where_as_sshd_understands_it(tmp_path: Path, sources: str) -> None:
    async with staged(tmp_path) as stage:
        await shared(stage)
        with pytest.raises(UsageError):
            await stage.do(AddKey(instance=INSTANCE, public=keys.generate_ed25519("x").public, sources=sources))
        with pytest.raises(UsageError, match="expired already"):
            await stage.do(AddKey(instance=INSTANCE, public=keys.generate_ed25519("x").public, expires_at=1.0))


async def test_a_key_is_named_so_that_no_other_is_meant(tmp_path: Path) -> None:
    async with staged(tmp_path) as stage:
        await shared(stage)
        pairs = [keys.generate_ed25519("same comment") for _ in range(2)]
        for pair in pairs:
            await stage.do(AddKey(instance=INSTANCE, public=pair.public))
        with pytest.raises(UsageError, match="say which"):
            await stage.do(RemoveKey(instance=INSTANCE, key="same comment"))
        with pytest.raises(NotFoundError):
            await stage.do(RemoveKey(instance=INSTANCE, key=pairs[0].fingerprint[7:12]))
        found = await stage.do(RemoveKey(instance=INSTANCE, key=pairs[0].fingerprint[7:13]))
        assert found.changed == (pairs[0].fingerprint,)


def test_wrong_passwords_count_together_for_an_hour() -> None:
    flood = Flood(3)
    assert [flood.is_too_much("web", at) for at in (0.0, 1.0, 3599.0)] == [False, False, True]
    flood = Flood(3)
    assert [flood.is_too_much("web", at) for at in (0.0, 1.0, 3600.0, 3601.0, 3602.0)] == [False] * 4 + [True]
    assert not any(Flood(3).is_too_much(f"login-{number}", 0.0) for number in range(10))
    assert not any(Flood(0).is_too_much("web", 0.0) for _ in range(1000))


async def test_a_key_of_ours_that_is_gone_asks_no_volume(
    tmp_path: Path, autojump_clock: trio.testing.MockClock
) -> None:
    """Else whoever controls the volume kept the session of a stolen key by making it unreadable."""
    async with staged(tmp_path) as stage:
        await stage.core.feed(snapshot(volume("/data"), SSH))
        await stage.do(Enable(instance=INSTANCE, volumes=("/data",)))
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
