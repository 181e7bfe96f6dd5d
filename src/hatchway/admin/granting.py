"""Giving access: the grant, and at the first one the instance's login with its credentials."""

from __future__ import annotations

import itertools
from collections.abc import Collection, Sequence
from dataclasses import dataclass

import trio
from msgspec import UNSET, structs

from hatchway import accounts, log
from hatchway.admin import owners
from hatchway.admin.core import Core
from hatchway.credentials import keys, passwords
from hatchway.credentials.keys import KeyPair
from hatchway.credentials.secret import Secret
from hatchway.errors import ConflictError, UsageError
from hatchway.model import (
    KEEP_LIMITS,
    NO_LIMITS,
    UNSAID,
    InstanceKey,
    Login,
    Mode,
    NewLimits,
    Origin,
    Ownership,
    Uid,
    VolumeInfo,
    check_limits,
    later_login,
    login_candidates,
    parse_owner,
    parse_umask,
)
from hatchway.registry.records import CredentialKind, InstanceRecord, NewCredential, NewLogin, PersonRecord
from hatchway.registry.store import Registry
from hatchway.wire.entry import PasswordKind

LOGINS_MAX = 100
"""How many logins one instance may use up by being forgotten."""


RSA_BITS = {"rsa2048": 2048, "rsa3072": 3072, "rsa4096": 4096}
"""Kinds of RSA keys, as credentials.key of the configuration names them."""


def context_of(login: str, kind: CredentialKind) -> str:
    """What a secret of a login is sealed for: see credentials.sealing."""
    return f"{kind.value}:{login}"


@dataclass(frozen=True, slots=True)
class _Made:
    """What a new login has. `password` None: it is to have none; `encoded` is its hash."""

    login: Login
    uid: Uid
    pair: KeyPair
    password: Secret | None
    encoded: str


class Granting:
    """Gives access in the registry of one Core. hostd hears of it by `Core.sync`."""

    def __init__(self, core: Core) -> None:
        self._core = core
        self._turn = trio.Lock()
        self._logger = log.get()

    async def grant(
        self,
        key: InstanceKey,
        volumes: Sequence[tuple[VolumeInfo, Mode]],
        *,
        origin: Origin,
        by: str,
        follow: Collection[str] = (),
        ownership: Ownership = UNSAID,
        limits: NewLimits = KEEP_LIMITS,
    ) -> tuple[InstanceRecord, Secret | None]:
        """Grant `volumes` of an instance; see Registry.enable. Gives it, and a new password that is not kept.

        Raises HatchwayError; then nothing has been granted.
        """
        owner_ids = owners.resolve(ownership.owner, self._core.inventory.get(key))
        # A login and uid are free when they are looked for; nobody else may take them before they are stored.
        async with self._turn:
            known = await self._core.db(lambda registry: registry.instance(key))
            made = await self._new_login(key) if known is None else None
            now = self._core.now()
            info = self._core.inventory.get(key)
            runtime_id = "" if info is None else info.runtime_id
            async with self._core.sealing_turn:
                new, shown = self._sealed(made)
                record = await self._core.db(
                    lambda registry: registry.enable(
                        key,
                        volumes,
                        by=by,
                        now=now,
                        new=new,
                        origin=origin,
                        follow=frozenset(follow),
                        runtime_id=runtime_id,
                        ownership=ownership,
                        owner_ids=owner_ids,
                        limits=limits,
                    )
                )
        self._logger.info(
            "enabled",
            instance=str(key),
            login=record.login,
            paths=tuple(volume.path for volume, _ in volumes),
            read_only=[volume.path for volume, mode in volumes if mode is Mode.READ_ONLY],
            owner=ownership.owner,
            umask=ownership.umask,
            **{what: value for what, value in structs.asdict(limits).items() if value is not UNSET},
            origin=origin.value,
            by=by,
        )
        return record, shown

    async def hash(self, password: Secret) -> str:
        """The hash of a password there is to be: also a raw one is checked by that, so that an attempt takes the same
        time for every login. Takes its time: not within `Core.sealing_turn`."""
        return await self._core.hashed(lambda: passwords.hash_password(password))

    def new_password(self, login: str, password: Secret, encoded: str, kind: PasswordKind) -> NewCredential:
        """`password`, of which `encoded` is the hash, as the login's credential, kept as `kind` says. To be stored
        within the same `Core.sealing_turn`."""
        context = context_of(login, CredentialKind.PASSWORD)
        sealed = self._core.sealing.seal(password, context) if kind is PasswordKind.RAW else None
        return NewCredential(CredentialKind.PASSWORD, encoded, sealed, None)

    async def pair(self, login: str, kind: str | None = None) -> KeyPair:
        """A new key pair for a login. `kind` as of credentials.key of the configuration, None as is configured there.
        Raises UsageError for a kind there is not. Takes its time: not within `Core.sealing_turn`."""
        wanted, comment = kind or self._core.config.credentials.key, f"id_container {login}"
        if wanted == "ed25519":
            return keys.generate_ed25519(comment)
        if wanted in RSA_BITS:
            # Finding primes may take a second.
            return await self._core.paired(lambda: keys.generate_rsa(RSA_BITS[wanted], comment))
        raise UsageError(f"there is no kind of key {wanted!r}; there are: ed25519, {', '.join(RSA_BITS)}")

    def new_key(self, login: str, pair: KeyPair) -> NewCredential:
        """`pair` as the login's `id_container`. To be stored within the same `Core.sealing_turn`."""
        sealed = self._core.sealing.seal(pair.private, context_of(login, CredentialKind.KEY))
        return NewCredential(CredentialKind.KEY, pair.public, sealed, pair.fingerprint)

    async def grant_person(
        self,
        login: Login,
        key: InstanceKey,
        volumes: Sequence[tuple[VolumeInfo, Mode, str]],
        *,
        by: str,
        ownership: Ownership,
        limits: NewLimits,
    ) -> PersonRecord:
        """Let a person use `volumes` of an instance; see Registry.grant_person. With an `ownership` that says nothing,
        what grants of the volume say; what `limits` leave as it was, is as the grant that is replaced has it.

        Raises HatchwayError; then nothing has been granted.
        """
        info = self._core.inventory.get(key)
        async with self._turn:
            known = await self._core.db(lambda registry: registry.instance(key))
            made = await self._new_login(key) if known is None else None
            ownerships = {}
            for volume, _mode, _folder in volumes:
                said = ownership if ownership != UNSAID else _said(known, volume)
                ownerships[volume.path] = (said, owners.resolve(said.owner, info))
            now, runtime_id = self._core.now(), "" if info is None else info.runtime_id
            async with self._core.sealing_turn:
                # Its password, if it is kept as a hash, nobody learns: 'password reset' makes one that is shown.
                new, _shown = self._sealed(made)
                record = await self._core.db(
                    lambda registry: registry.grant_person(
                        login,
                        key,
                        volumes,
                        by=by,
                        now=now,
                        new=new,
                        ownerships=ownerships,
                        runtime_id=runtime_id,
                        limits=limits,
                    )
                )
        self._logger.info(
            "person enabled",
            login=login,
            instance=str(key),
            paths=tuple(volume.path for volume, _, _ in volumes),
            read_only=[volume.path for volume, mode, _ in volumes if mode is Mode.READ_ONLY],
            folder=next((folder for _, _, folder in volumes), ""),
            by=by,
        )
        return record

    async def add_person(self, login: Login, full_name: str, *, by: str) -> tuple[PersonRecord, Secret | None]:
        """Make a person called `login`, a valid one. Gives them, and a password that is not kept.

        Raises ConflictError when somebody had that login before, or the host has an account of that name.
        """

        def allocate(registry: Registry) -> Uid:
            if registry.by_login(login) is not None:
                raise ConflictError(f"there is a login {login} already")
            if registry.login_taken(login):
                raise ConflictError(f"{login} was somebody's login before, and nobody else gets it: choose another")
            if accounts.name_taken(login):
                raise ConflictError(
                    f"this host has an account or a group {login}: choose another, such as {login}-sftp"
                )
            return registry.next_uid(*self._core.config.ids.login_uids)

        async with self._turn:
            uid = await self._core.db(allocate)
            made = await self._with_credentials(login, uid)
            async with self._core.sealing_turn:
                new, shown = self._sealed(made)
                assert new is not None
                now = self._core.now()
                record = await self._core.db(lambda registry: registry.add_person(new, full_name=full_name, now=now))
        self._logger.info("person added", login=login, by=by)
        return record, shown

    async def _new_login(self, key: InstanceKey) -> _Made:
        first, last = self._core.config.ids.login_uids

        def allocate(registry: Registry) -> tuple[Login, Uid]:
            later = (later_login(key, attempt) for attempt in range(2, LOGINS_MAX))
            for candidate in itertools.chain(login_candidates(key), later):
                if not registry.login_taken(candidate) and not accounts.name_taken(candidate):
                    return candidate, registry.next_uid(first, last)
            raise ConflictError(f"{login_candidates(key)[0]} and {LOGINS_MAX - 1} others are taken: no login for {key}")

        return await self._with_credentials(*await self._core.db(allocate))

    async def _with_credentials(self, login: Login, uid: Uid) -> _Made:
        password, encoded = None, ""
        if self._core.config.credentials.password != "none":
            password = passwords.generate()
            encoded = await self.hash(password)
        return _Made(login, uid, await self.pair(login), password, encoded)

    def _sealed(self, made: _Made | None) -> tuple[NewLogin | None, Secret | None]:
        """What is to be stored of it within the same `Core.sealing_turn`, and the password if that is not kept."""
        if made is None:
            return None, None
        credentials, shown = [self.new_key(made.login, made.pair)], None
        if made.password is not None:
            kind = PasswordKind.RAW if self._core.config.credentials.password == "raw" else PasswordKind.HASHED
            credentials.append(self.new_password(made.login, made.password, made.encoded, kind))
            shown = made.password if kind is PasswordKind.HASHED else None
        return NewLogin(login=made.login, uid=made.uid, credentials=tuple(credentials)), shown


def _said(record: InstanceRecord | None, volume: VolumeInfo) -> Ownership:
    """What an instance's grants of `volume` say of owners and modes."""
    grants = () if record is None else record.grants
    return owners.effective(one for one in grants if (one.path, one.identity) == (volume.path, volume.identity))


def check_ownership(ownership: Ownership) -> Ownership:
    """`ownership`, as it came from outside. Raises UsageError."""
    if ownership.owner is not None:
        parse_owner(ownership.owner)
    if ownership.umask is not None:
        parse_umask(f"{ownership.umask:03o}")
    return ownership


def check_new_limits(limits: NewLimits) -> NewLimits:
    """`limits`, as they came from outside. Raises UsageError."""
    check_limits(limits.after(NO_LIMITS))
    return limits
