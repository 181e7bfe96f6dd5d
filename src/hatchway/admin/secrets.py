"""Passwords and keys of an instance's login: the admin socket's requests about them.

Whatever takes a credential away has the login's sessions looked at before it answers: those that came in by it are
ended then.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from msgspec import structs

from hatchway import addresses, log
from hatchway.admin.admission import Admission
from hatchway.admin.callers import Caller, Requests
from hatchway.admin.conditions import check_moment
from hatchway.admin.core import Core
from hatchway.admin.deliveries import Deliveries
from hatchway.admin.finding import Finding
from hatchway.admin.granting import Granting, context_of
from hatchway.admin.volume_keys import VolumeKeys
from hatchway.credentials import imported, keys, passwords, ppk
from hatchway.credentials.keys import PublicKey
from hatchway.credentials.sealing import SealingKey
from hatchway.credentials.secret import DamagedSecretError, Secret
from hatchway.errors import ConflictError, HatchwayError, NotFoundError, UsageError
from hatchway.model import EventKind, Login
from hatchway.registry.records import (
    CredentialKind,
    CredentialRecord,
    LoginRecord,
    NewCredential,
)
from hatchway.registry.store import Registry
from hatchway.wire.entry import (
    AddKey,
    AllowVolumeKeys,
    DeliverKey,
    ExportKey,
    ImportPassword,
    KeyExport,
    KeyForm,
    KeyOrigin,
    Keys,
    KeyStatus,
    ListKeys,
    Password,
    PasswordKind,
    RemoveKey,
    RemovePassword,
    RenewKey,
    ResetPassword,
    Rotated,
    RotateKey,
    SetPassword,
    ShowPassword,
    TakeKeyBack,
)
from hatchway.wire.service import Request
from hatchway.wire.sparing import Sparing

ROOT = (0,)

BEGINNING_MIN = 6
"""Characters of a fingerprint that say which key is meant."""


class Secrets:
    """The requests, on one Core."""

    def __init__(
        self,
        core: Core,
        finding: Finding,
        granting: Granting,
        admission: Admission,
        volume_keys: VolumeKeys,
        deliveries: Deliveries,
    ) -> None:
        self._core = core
        self._finding = finding
        self._granting = granting
        self._admission = admission
        self._volume_keys = volume_keys
        self._deliveries = deliveries
        self._logger = log.get()
        self._sparing = Sparing(self._logger)
        self._renewing: set[Login] = set()

    def table(self) -> Requests:
        """Their part of the admin socket's request table."""
        return {
            ShowPassword: Request(ROOT, self._show_password),
            ResetPassword: Request(ROOT, self._reset_password),
            SetPassword: Request(ROOT, self._set_password),
            ImportPassword: Request(ROOT, self._import_password),
            RemovePassword: Request(ROOT, self._remove_password),
            ExportKey: Request(ROOT, self._export_key),
            RenewKey: Request(ROOT, self._renew_key),
            AddKey: Request(ROOT, self._add_key),
            RemoveKey: Request(ROOT, self._remove_key),
            AllowVolumeKeys: Request(ROOT, self._allow_volume_keys),
            DeliverKey: Request(ROOT, self._deliver_key),
            TakeKeyBack: Request(ROOT, self._take_key_back),
            ListKeys: Request(ROOT, self._list_keys),
            RotateKey: Request(ROOT, self._rotate_key),
        }

    def _of(self, caller: Caller) -> Any:
        """The logger for what `caller` does: guests may do it as often as they like."""
        return self._sparing if caller.kind is EventKind.GUEST else self._logger

    # Passwords

    async def _show_password(self, request: ShowPassword, caller: Caller) -> Password:
        record = await self._finding.holder(request.instance)
        password = of_kind(await self._credentials(record.login), CredentialKind.PASSWORD)
        match password_kind(password):
            case PasswordKind.NONE:
                raise NotFoundError(f"{record.login} has no password: it is key-only")
            case PasswordKind.HASHED:
                raise ConflictError(
                    f"the password of {record.login} is kept as a hash and cannot be shown; "
                    f"'hatchway password reset {record.login}' makes a new one and shows it once"
                )
            case _:
                shown = _password(record.login, password, unsealed(self._core, record.login, password))
                self._of(caller).info("password shown", login=record.login, by=caller.name)
                return shown

    async def _reset_password(self, request: ResetPassword, caller: Caller) -> Password:
        record = await self._finding.holder(request.instance)
        password = passwords.generate()
        kind, encoded = wanted_kind(self._core, request.kind), await self._granting.hash(password)
        async with self._core.sealing_turn:
            new = self._granting.new_password(record.login, password, encoded, kind)
            await self._store(record.login, new, "password reset", caller)
        not_ended = await self._end(record.login)
        return _password(record.login, new, password, not_ended)

    async def _set_password(self, request: SetPassword, caller: Caller) -> Password:
        record = await self._finding.holder(request.instance)
        password = Secret(request.password)
        check_chosen(password)
        kind, encoded = wanted_kind(self._core, request.kind), await self._granting.hash(password)
        async with self._core.sealing_turn:
            new = self._granting.new_password(record.login, password, encoded, kind)
            await self._store(record.login, new, "password set", caller)
        not_ended = await self._end(record.login)
        return _password(record.login, new, not_ended=not_ended)

    async def _import_password(self, request: ImportPassword, caller: Caller) -> Password:
        record = await self._finding.holder(request.instance)
        # It is checked once, to see what that costs.
        stored = await self._core.hashed(lambda: imported.import_hash(request.encoded))
        new = NewCredential(CredentialKind.PASSWORD, stored)
        await self._store(record.login, new, "password imported", caller)
        not_ended = await self._end(record.login)
        return _password(record.login, new, not_ended=not_ended)

    async def _remove_password(self, request: RemovePassword, caller: Caller) -> Password:
        record = await self._finding.holder(request.instance)
        password = of_kind(await self._credentials(record.login), CredentialKind.PASSWORD)
        if password is None:
            raise NotFoundError(f"{record.login} has no password: it is key-only already")
        await self._remove(record.login, password, "password removed", caller)
        return _password(record.login, None)

    # Keys

    async def _export_key(self, request: ExportKey, caller: Caller) -> KeyExport:
        record = await self._finding.holder(request.instance)
        key = of_kind(await self._credentials(record.login), CredentialKind.KEY)
        if key is None or key.sealed is None or key.fingerprint is None:
            raise NotFoundError(f"{record.login} has no key of ours; 'hatchway key renew {record.login}' makes one")
        passphrase = None if request.passphrase is None else Secret(request.passphrase)
        if passphrase is not None and request.form is not KeyForm.PPK:
            raise UsageError("a passphrase is for PuTTY's format; 'ssh-keygen -p -f FILE' gives one to OpenSSH's")
        if passphrase is not None:
            ppk.check_passphrase(passphrase)
        private = self._core.sealing.unseal(key.sealed, context_of(record.login, CredentialKind.KEY))
        if request.form is KeyForm.PPK:
            # Also without a passphrase: an RSA key is checked when it is read.
            private = await self._core.hashed(partial(ppk.encode, private, record.login, passphrase))
        self._of(caller).info("key exported", login=record.login, form=request.form.value, by=caller.name)
        return KeyExport(login=record.login, private=private.reveal(), public=key.public, fingerprint=key.fingerprint)

    async def _renew_key(self, request: RenewKey, caller: Caller) -> Keys:
        record = await self._finding.holder(request.instance)
        if record.login in self._renewing:
            raise ConflictError(f"the key of {record.login} is being renewed at this moment")
        self._renewing.add(record.login)
        try:
            pair = await self._granting.pair(record.login, request.kind)
            async with self._core.sealing_turn:
                new = self._granting.new_key(record.login, pair)
                await self._store(record.login, new, "key renewed", caller)
        finally:
            self._renewing.remove(record.login)
        not_ended = await self._end(record.login)
        await self._deliveries.settle(record.login)
        return structs.replace(await self._keys(record, (new.fingerprint or "",)), not_ended=not_ended)

    async def _add_key(self, request: AddKey, caller: Caller) -> Keys:
        record = await self._finding.holder(request.instance)
        public = keys.parse_public(request.public)
        if request.sources:
            addresses.check_from(request.sources)
        if request.verify_required and not public.on_security_key:
            raise UsageError("only a key in hardware (sk-…) can ask for a PIN: verify-required says nothing of others")
        check_moment(request.expires_at)
        if request.expires_at is not None and request.expires_at <= self._core.now():
            raise UsageError("the key would have expired already")
        new = NewCredential(
            CredentialKind.ADDED_KEY,
            public.with_comment,
            fingerprint=public.fingerprint,
            sources=request.sources,
            expires_at=request.expires_at,
            verify_required=request.verify_required,
        )
        await self._store(record.login, new, "key added", caller)
        # It may have let somebody in from a volume, with less restrictions than these.
        await self._admission.look_again(record.login, "the key is added")
        return await self._keys(record, (public.fingerprint,))

    async def _remove_key(self, request: RemoveKey, caller: Caller) -> Keys:
        record = await self._finding.holder(request.instance)
        credentials = await self._credentials(record.login)
        known = {one: keys.parse_public(one.public) for one in credentials if one.kind is CredentialKind.ADDED_KEY}
        found = [one for one, public in known.items() if _is_called(public, request.key)]
        if not found:
            await self._say_whose_it_is(record, of_kind(credentials, CredentialKind.KEY), request.key)
            listed = ", ".join(" ".join((one.fingerprint, one.comment)).strip() for one in known.values()) or "none"
            raise NotFoundError(f"{record.login} has no key {request.key!r} that was added; added are: {listed}")
        if len(found) > 1:
            raise UsageError(f"{request.key!r} may be {' or '.join(one.fingerprint or '' for one in found)}: say which")
        await self._remove(record.login, found[0], "key removed", caller)
        return await self._keys(record, (found[0].fingerprint or "",))

    async def _say_whose_it_is(self, record: LoginRecord, own: CredentialRecord | None, called: str) -> None:
        """Raise ConflictError when the key that is `called` so is not taken away as one that was added is."""
        if own is not None and _is_called(keys.parse_public(own.public), called):
            raise ConflictError(f"that is the generated key: 'hatchway key renew {record.login}' makes another instead")
        for place, one in (await self._volume_keys.shown(record)).keys:
            if _is_called(one.key, called):
                raise ConflictError(f"that key is in {place}: take it out there")

    async def _allow_volume_keys(self, request: AllowVolumeKeys, caller: Caller) -> Keys:
        record = await self._finding.granted(request.instance)
        allow = request.allow
        await self._core.db(
            lambda registry: registry.change_conditions(record.login, lambda before: replace(before, volume_keys=allow))
        )
        self._logger.info("volume keys", login=record.login, allowed=request.allow, by=caller.name)
        await self._admission.look_again(record.login, "noted")
        return await self._keys(await self._finding.again(record))

    async def _deliver_key(self, request: DeliverKey, _caller: Caller) -> Keys:
        record = await self._finding.granted(request.instance)
        await self._deliveries.want(record, request.volume, request.directory)
        return await self._keys(record)

    async def _take_key_back(self, request: TakeKeyBack, _caller: Caller) -> Keys:
        record = await self._finding.granted(request.instance)
        outcomes = await self._deliveries.unwant(record)
        return structs.replace(await self._keys(record), taken_back=outcomes)

    async def _list_keys(self, request: ListKeys, _caller: Caller) -> Keys:
        return await self._keys(await self._finding.holder(request.instance))

    async def _keys(self, record: LoginRecord, changed: tuple[str, ...] = ()) -> Keys:
        statuses = []
        for one in await self._credentials(record.login):
            if one.kind is not CredentialKind.PASSWORD:
                origin = KeyOrigin.GENERATED if one.kind is CredentialKind.KEY else KeyOrigin.ADDED
                statuses.append(
                    _key_status(
                        keys.parse_public(one.public),
                        origin,
                        created_at=one.created_at,
                        sources=one.sources,
                        expires_at=one.expires_at,
                        verify_required=one.verify_required,
                    )
                )
        in_volumes = await self._volume_keys.shown(record)
        ended = await self._core.db(lambda registry: registry.ended_keys(record.login))
        ended -= {one.fingerprint for one in statuses}
        statuses += [
            _key_status(
                one.key,
                KeyOrigin.VOLUME,
                sources=one.sources or "",
                expires_at=one.expires_at,
                verify_required=one.verify_required,
                place=place,
            )
            for place, one in in_volumes.keys
            if one.key.fingerprint not in ended
        ]
        back = [
            f"{place}: this key was renewed or taken away; 'hatchway key add' lets it in again"
            for place, one in in_volumes.keys
            if one.key.fingerprint in ended
        ]
        delivered, undelivered = await self._deliveries.places(record.login)
        return Keys(
            delivered=delivered,
            undelivered=undelivered,
            login=record.login,
            keys=tuple(statuses),
            volume_keys=record.conditions.volume_keys,
            problems=(*in_volumes.problems, *back),
            changed=changed,
        )

    # All secrets

    async def _rotate_key(self, _request: RotateKey, caller: Caller) -> Rotated:
        sealing = self._core.sealing
        async with self._core.sealing_turn:
            # First whether all can be opened: else there would be two keys for good.
            await self._core.db(lambda registry: registry.reseal(_unchanged(sealing)))
            sealing.begin_rotation()
            count = await self._core.db(lambda registry: seal_anew(registry, sealing))
            sealing.finish()
        self._logger.info("sealing key rotated", secrets=count, by=caller.name)
        return Rotated(count)

    # Both

    async def _store(self, login: Login, new: NewCredential, done: str, caller: Caller) -> None:
        now = self._core.now()
        await self._core.db(lambda registry: registry.replace_credential(login, new, now))
        self._of(caller).info(done, login=login, fingerprint=new.fingerprint, by=caller.name)

    async def _end(self, login: Login) -> str:
        """End the sessions by what there was before. Gives why they go on for now, "" when none does: the answer shows
        what was made, and an error in its place would lose it."""
        try:
            await self._admission.changed(login)
        except HatchwayError as exc:
            self._logger.error("sessions not ended yet", login=login, error=str(exc))
            return str(exc)
        return ""

    async def _remove(self, login: Login, credential: CredentialRecord, done: str, caller: Caller) -> None:
        await self._core.db(lambda registry: registry.remove_credential(login, credential.id))
        self._of(caller).info(done, login=login, fingerprint=credential.fingerprint, by=caller.name)
        await self._admission.look_again(login, done)

    async def _credentials(self, login: Login) -> tuple[CredentialRecord, ...]:
        return await self._core.db(lambda registry: registry.credentials(login))


def of_kind(known: Sequence[CredentialRecord], kind: CredentialKind) -> CredentialRecord | None:
    """The credential of a kind of which there is one at most."""
    return next((one for one in known if one.kind is kind), None)


def password_kind(password: CredentialRecord | NewCredential | None) -> PasswordKind:
    """How a password is kept."""
    if password is None:
        return PasswordKind.NONE
    return PasswordKind.HASHED if password.sealed is None else PasswordKind.RAW


def wanted_kind(core: Core, wanted: PasswordKind | None) -> PasswordKind:
    """How a password that there is to be is kept. Raises UsageError."""
    if wanted is PasswordKind.NONE:
        raise UsageError("a password is kept raw or hashed")
    return wanted or (PasswordKind.RAW if core.config.credentials.password == "raw" else PasswordKind.HASHED)


def check_chosen(password: Secret) -> None:
    """Check a password that somebody chose. Raises UsageError without it."""
    passwords.check_given(password)
    if imported.is_hash(password.reveal()):
        raise UsageError("that is the hash of a password: 'hatchway password import' takes those")


def unsealed(core: Core, login: Login, password: CredentialRecord | None) -> Secret | None:
    """The password, if it is kept in a form that can be shown. Raises DamagedSecretError."""
    if password is None or password.sealed is None:
        return None
    return core.sealing.unseal(password.sealed, context_of(login, CredentialKind.PASSWORD))


def _unchanged(sealing: SealingKey) -> Callable[[str, CredentialRecord], bytes]:
    """Opens a secret and leaves it as it is."""

    def opened(login: str, record: CredentialRecord) -> bytes:
        assert record.sealed is not None
        sealing.unseal(record.sealed, context_of(login, record.kind))
        return record.sealed

    return opened


def seal_anew(registry: Registry, sealing: SealingKey) -> int:
    """Seal every secret with the newest key. Gives how many there are. Raises DamagedSecretError; then none is."""

    def anew(login: str, record: CredentialRecord) -> bytes:
        assert record.sealed is not None
        return sealing.reseal(record.sealed, context_of(login, record.kind))

    return registry.reseal(anew)


def unopened(registry: Registry, sealing: SealingKey) -> tuple[str, ...]:
    """Logins of which a sealed secret does not open: the key is not the one it was sealed with, or it is damaged."""
    closed = []
    for login, record in registry.sealed():
        assert record.sealed is not None
        try:
            sealing.unseal(record.sealed, context_of(login, record.kind))
        except DamagedSecretError:
            closed.append(login)
    return tuple(dict.fromkeys(closed))


def _password(
    login: Login,
    kept: CredentialRecord | NewCredential | None,
    shown: Secret | None = None,
    not_ended: str = "",
) -> Password:
    return Password(
        login=login,
        kind=password_kind(kept),
        hash="" if kept is None else passwords.kind(kept.public),
        password=None if shown is None else shown.reveal(),
        not_ended=not_ended,
    )


def _key_status(
    key: PublicKey,
    origin: KeyOrigin,
    *,
    created_at: float | None = None,
    sources: str = "",
    expires_at: float | None = None,
    verify_required: bool = False,
    place: str = "",
) -> KeyStatus:
    return KeyStatus(
        origin=origin,
        algorithm=key.algorithm,
        fingerprint=key.fingerprint,
        comment=key.comment,
        bits=key.bits,
        created_at=created_at,
        sources=sources,
        expires_at=expires_at,
        verify_required=verify_required,
        place=place,
    )


def _is_called(key: PublicKey, text: str) -> bool:
    """Whether an operator may mean `key` by `text`: its fingerprint, with or without "SHA256:", the beginning of that
    if it is long enough to be no accident, or its comment."""
    fingerprint = key.fingerprint.removeprefix("SHA256:")
    beginning = text.removeprefix("SHA256:")
    if len(beginning) >= BEGINNING_MIN and fingerprint.startswith(beginning):
        return True
    return text != "" and text == key.comment
