"""Passwords and keys of a login: how they are kept, and whom they let in."""

from __future__ import annotations

from pathlib import Path

import pytest
import trio
from structlog.testing import capture_logs
from tests.unit.core.logins import INSTANCE, LOGIN, by_key, by_password, in_hardware, newest, own_key, shared
from tests.unit.core.stage import staged

from hatchway.credentials import keys, passwords
from hatchway.credentials.secret import DamagedSecretError
from hatchway.errors import ConflictError, NotFoundError, UsageError
from hatchway.registry.records import CredentialKind
from hatchway.wire.admin import Show
from hatchway.wire.entry import (
    AddKey,
    ExportKey,
    ImportPassword,
    KeyOrigin,
    PasswordKind,
    RemoveKey,
    RemovePassword,
    RenewKey,
    ResetPassword,
    RotateKey,
    SetConditions,
    SetPassword,
    ShowPassword,
)

pytestmark = pytest.mark.usefixtures("no_host_keys")


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
        with pytest.raises(ConflictError, match="that is the generated key: 'hatchway key renew"):
            await stage.do(RemoveKey(instance=INSTANCE, key="id_container shop-web-1"))
        for text in ("third", "", "SHA256:", own.split()[1][:8]):
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
        info = await stage.do(Show(instance=INSTANCE))
        assert (info.password_hash, info.password_rehash) == ("sha512-crypt", True)
        assert not await by_password(stage, "from another host")
        assert await by_password(stage, "from the old host")
        info = await stage.do(Show(instance=INSTANCE))
        assert (info.password_hash, info.password_rehash) == ("argon2id", False)
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


async def test_a_secret_that_is_damaged_keeps_the_sealing_key(tmp_path: Path) -> None:
    async with staged(tmp_path) as stage:
        await shared(stage)
        before = Path(stage.core.config.sealing_key_path).read_bytes()
        await stage.core.db(lambda registry: registry.reseal(lambda _login, _record: b"\x01damaged"))
        with pytest.raises(DamagedSecretError):
            await stage.do(RotateKey())
        assert Path(stage.core.config.sealing_key_path).read_bytes() == before
        assert not stage.core.sealing.rotating


async def test_a_password_is_shown_only_when_it_opens(tmp_path: Path) -> None:
    async with staged(tmp_path) as stage:
        await shared(stage)
        with capture_logs() as logs:
            await stage.do(ShowPassword(INSTANCE))
        assert "password shown" in [one["event"] for one in logs]
        await stage.core.db(lambda registry: registry.reseal(lambda _login, _record: b"\x01damaged"))
        with capture_logs() as logs, pytest.raises(DamagedSecretError):
            await stage.do(ShowPassword(INSTANCE))
        assert "password shown" not in [one["event"] for one in logs]


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
        bare_own, bare_added = (" ".join(public.split()[:2]) for public in (own, pair.public))
        assert lines.splitlines() == [
            f'restrict,from="192.0.0.0/16",expiry-time="19700112140320Z" {bare_own}',
            f'restrict,from="192.0.2.0/24,!192.0.2.66",expiry-time="19700112135500Z" {bare_added}',
        ]
        await stage.do(SetConditions(instance=INSTANCE, expires_at=1_000_100.0))
        _ok, lines = await stage.ask("keys", login=LOGIN)
        assert lines.count('expiry-time="19700112134820Z"') == 2, "whichever comes first"
        stage.core.now = lambda: 1_000_100.0
        assert await stage.ask("keys", login=LOGIN) == (False, "")


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


async def test_a_pin_is_asked_for_the_keys_it_was_said_of(tmp_path: Path) -> None:
    async with staged(tmp_path) as stage:
        await shared(stage)
        with_pin, without = in_hardware("with"), in_hardware("without")
        await stage.do(AddKey(instance=INSTANCE, public=with_pin, verify_required=True))
        found = await stage.do(AddKey(instance=INSTANCE, public=without))
        assert {one.comment: one.verify_required for one in found.keys if one.origin is KeyOrigin.ADDED} == {
            "with": True,
            "without": False,
        }
        _ok, lines = await stage.ask("keys", login=LOGIN)
        assert lines.splitlines()[1:] == [
            f"restrict,verify-required {with_pin.removesuffix(' with')}",
            f"restrict {without.removesuffix(' without')}",
        ]


@pytest.mark.parametrize(
    "request_",
    [
        SetPassword(instance=INSTANCE, password="correct horse battery"),
        ImportPassword(instance=INSTANCE, encoded=passwords.DUMMY),
        ResetPassword(instance=INSTANCE),
        RemovePassword(INSTANCE),
    ],
)
async def test_another_password_ends_the_sessions_by_the_one_before(tmp_path: Path, request_: object) -> None:
    async with staged(tmp_path) as stage:
        password = await shared(stage)
        assert await by_password(stage, password)
        session = newest(stage)
        assert await by_key(stage, await own_key(stage))
        await stage.do(request_)
        assert stage.host.ended == [session]
