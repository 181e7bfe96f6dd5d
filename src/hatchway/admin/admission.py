"""Who is let in, and who may stay: what the decision is about, and what follows from it for sessions that are open.

Whoever takes something away - a key, a password, an address, time - changes it in the registry and then has the login
looked at again (`changed`): every open session is decided anew, by the same function that let it in, and those that
may not stay are ended. So nobody has to say which sessions a change concerns. What hostd did not take is tried again,
also by the next core.

Only whether a key still lies in a volume is the volume's word, and that may take its time. So nothing here waits for
it: it is looked at beside the rest, for what came in by such a key, every LOOK_EVERY_S and when a line expires.

Concurrency: sessions of a login are opened and looked at within one `Core.turn`, in which no volume is read.
"""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import NamedTuple

import trio

from hatchway import addresses, log
from hatchway.access.decision import CredentialFacts, Denial, LoginFacts, UsedCredential, decide_open_session
from hatchway.access.throttle import Flood
from hatchway.admin.core import RETRY_S, Core
from hatchway.admin.volume_keys import NOTHING, InVolumes, VolumeKeys
from hatchway.credentials import authorized, keys
from hatchway.credentials.authorized import Entry
from hatchway.credentials.keys import PublicKey
from hatchway.errors import HatchwayError, NotFoundError, UnfinishedError
from hatchway.model import EventKind, Login
from hatchway.registry.records import (
    Conditions,
    CredentialKind,
    CredentialRecord,
    LoginRecord,
    NewEvent,
    SessionRecord,
)
from hatchway.registry.reserve import NoRoomError
from hatchway.registry.store import Registry
from hatchway.wire.host import HostStatus

LOOK_EVERY_S = 30.0
"""How often it is looked, at least, whether something has expired: the clock may have been set."""


UNCERTAIN_S = 600.0
"""How long a session goes on, in seconds, whose key lies in a volume that nobody can look at."""

PARALLEL_LOOKS = 8
"""Logins that are looked at at once: one whose volume does not answer must not keep others."""


@dataclass(frozen=True, slots=True)
class ValidKey:
    """A key that is valid for a login now, but for what `facts` say. `id` is that of its CredentialRecord, None for one
    of a volume's."""

    public: PublicKey
    facts: CredentialFacts
    verify_required: bool
    id: int | None

    def line(self, *, allowed_from: str, expires_at: float | None, expiry_known: bool) -> str:
        """Its line for sshd, with what sshd can decide by itself. `allowed_from` and `expires_at` are those of the
        login, as from= and Unix seconds; of two from= lists sshd takes one only, and none that is too long.
        `expiry_known`: it is authorized.EXPIRY_SINCE or newer."""
        allowed_from = allowed_from if len(allowed_from) <= addresses.FROM_MAX else ""
        times = [int(time) for time in (self.facts.expires_at, expires_at) if time is not None and expiry_known]
        return authorized.line(
            self.public.line,
            sources=self.facts.sources or allowed_from or None,
            expires_at=min(times, default=None),
            verify_required=self.verify_required,
        )


class Used(NamedTuple):
    """What came in, for the decision, and the row it has; None when it has none."""

    credential: UsedCredential
    id: int | None


@dataclass(frozen=True, slots=True)
class Valid:
    """What is valid for a login now, but for its conditions."""

    keys: tuple[ValidKey, ...] = ()
    password: CredentialRecord | None = None

    def used(self, method: str, fingerprint: str | None, password: int | None) -> Used:
        """What it was that was used by sshd's `method`: the key with that fingerprint, or the password in that row."""
        if method == "password":
            if self.password is None or self.password.id != password:
                return Used(UsedCredential(method), None)
            return Used(UsedCredential(method, (facts_of(self.password),)), password)
        found = [key for key in self.keys if key.public.fingerprint == fingerprint]
        return Used(UsedCredential(method, tuple(key.facts for key in found)), found[0].id if found else None)


class _Volumes(NamedTuple):
    """What a volume has the say of: `sessions` of `record`, which has `own`."""

    record: LoginRecord
    own: Valid
    sessions: tuple[SessionRecord, ...]


class Admission:
    """For one Core. `run` ends what expires, and what has no key in a volume any more."""

    def __init__(self, core: Core, volume_keys: VolumeKeys) -> None:
        self._core = core
        self._volume_keys = volume_keys
        # Logins whose sessions are to be looked at.
        self._due: set[Login] = set()
        # Sessions of which nobody knows what they came in with.
        self._strangers: dict[str, Login] = {}
        # Since when (trio's clock) nobody knows whether the keys of sessions still lie in a volume.
        self._uncertain: dict[Login, float] = {}
        # When the volumes of a login are to be looked at, Unix seconds.
        self._looks: dict[Login, float] = {}
        # Logins that are locked as far as this core knows, since when and why: their locks could not be stored.
        self._locks: dict[Login, tuple[float, str]] = {}
        self._locking = trio.Lock()
        self._flood = Flood(core.config.login.lock_after)
        self._news = trio.Event()
        self._volume_news = trio.Event()
        self._logger = log.get()

    # What the decision is about

    def facts(
        self,
        record: LoginRecord | None,
        *,
        address: str,
        service_is_ours: bool = True,
        sessions: int = 0,
    ) -> LoginFacts:
        """What is known of whoever wants in as `record` says, None for an unknown login. Arguments as in LoginFacts;
        `address` is text, of anything."""
        now, client = self._core.now(), addresses.address(address)
        if record is None:
            return LoginFacts(known=False, now=now, service_is_ours=service_is_ours, address=client)
        conditions, most = self.conditions(record), self._core.config.login.sessions_max
        return LoginFacts(
            known=True,
            now=now,
            shares=self._core.shares_of(record),
            service_is_ours=service_is_ours,
            locked=conditions.locked_at is not None,
            expires_at=conditions.expires_at,
            address=client,
            allowed_from=addresses.networks(conditions.allowed_from),
            sessions=sessions,
            sessions_max=most if conditions.sessions_max is None else conditions.sessions_max,
        )

    def conditions(self, record: LoginRecord) -> Conditions:
        """The conditions of `record`, with a lock that could not be stored."""
        since, why = self._locks.get(record.login, (None, ""))
        if since is None or record.conditions.locked_at is not None:
            return record.conditions
        return replace(record.conditions, locked_at=since, locked_why=why)

    async def valid(self, record: LoginRecord, in_volumes: InVolumes) -> Valid:
        """The password of a login and its keys: the generated one, those that were added, and `in_volumes`, if they
        count."""
        own = await self._own(record)
        return await self._with_volumes(record, own, in_volumes) if record.conditions.volume_keys else own

    async def in_volumes(self, record: LoginRecord, key: str | None = None) -> InVolumes:
        """The keys its instance keeps in volumes, for `valid`; with `key`, a fingerprint, no more than tells whether
        that one is valid. Not to be called within a turn: a volume may take its time."""
        if not record.conditions.volume_keys:
            return NOTHING
        if key is not None and any(one.public.fingerprint == key for one in (await self._own(record)).keys):
            return NOTHING
        return await self._volume_keys.read(record)

    async def _own(self, record: LoginRecord) -> Valid:
        """What is valid without those in volumes."""
        known = await self._core.db(lambda registry: registry.credentials(record.login))
        own = tuple(
            ValidKey(keys.parse_public(one.public), facts_of(one), one.verify_required, one.id)
            for one in known
            if one.kind is not CredentialKind.PASSWORD
        )
        return Valid(own, next((one for one in known if one.kind is CredentialKind.PASSWORD), None))

    async def _with_volumes(self, record: LoginRecord, own: Valid, found: InVolumes) -> Valid:
        # What an operator says of a key counts, not what a container says of it: also that it has ended.
        settled = {key.public.fingerprint for key in own.keys}
        settled |= await self._core.db(lambda registry: registry.ended_keys(record.login))
        in_volumes = (
            ValidKey(one.key, _facts_of_entry(one), one.verify_required, None)
            for _place, one in found.keys
            if one.key.fingerprint not in settled
        )
        return Valid((*own.keys, *in_volumes), own.password)

    async def sessions(self, login: str) -> int:
        """How many sessions of `login` are open."""
        return len(self._core.still_open(await self._core.db(lambda registry: registry.open_sessions(login))))

    # What follows for open sessions

    async def changed(self, login: Login) -> None:
        """Look at the sessions of `login` again: the conditions for them have changed. Those that may not stay have
        been ended when this returns. Raises HatchwayError when hostd did not; then it is tried again until it does."""
        self._due.add(login)
        try:
            await self._look_at(login)
        finally:
            # What was not done is due, and what expires may be another.
            self._tell()
            self._look_at_volumes_soon(login)

    async def look_again(self, login: Login, done: str) -> None:
        """As `changed`, for whoever answers an operator: what was `done` holds, whether sessions could be ended or not.

        Raises UnfinishedError, which says so.
        """
        try:
            await self.changed(login)
        except HatchwayError as exc:
            text = f"{done}, but its sessions are not ended yet: {exc}. It is tried until they are"
            raise UnfinishedError(text) from exc

    async def guessed_wrong(self, login: Login) -> None:
        """Somebody guessed wrong at the password of `login`, which has one, wherever that is asked for. Lock it, if
        that is wanted and it happens too often."""
        if not self._flood.is_too_much(login, self._core.now()):
            return
        why = f"{self._core.config.login.lock_after} wrong passwords within an hour"
        if await self.lock(login, why):
            self._logger.warning("login locked", login=login, reason=why)
            self._core.journal.record(NewEvent(self._core.now(), EventKind.LOCKED, why, login=login))
            try:
                await self.changed(login)
            except HatchwayError as exc:
                self._logger.error("sessions not ended yet", login=login, error=str(exc))

    async def lock(self, login: Login, why: str) -> bool:
        """Lock `login`: `changed` ends its sessions. False if it is locked already.

        A lock that cannot be stored holds as long as this process runs, and is stored as soon as it can be: see
        `is_stored`.
        """
        now = self._core.now()
        async with self._locking:
            if login in self._locks:
                return False
            try:
                return await self._store_lock(login, now, why)
            except NoRoomError as exc:
                self._logger.error("a lock not stored, will be tried again", login=login, error=str(exc))
                self._locks[login] = now, why
        self._tell()
        return True

    def is_stored(self, login: Login) -> bool:
        """Whether a lock of `login`, if there is one, outlives this process."""
        return login not in self._locks

    async def unlock(self, login: Login) -> None:
        """Take the lock of `login` away. Raises NoRoomError when that cannot be stored."""

        def unlock(registry: Registry) -> None:
            record = registry.by_login(login)
            # One that is not stored can be taken away without storing anything.
            if record is None or record.conditions.locked_at is not None:
                registry.change_conditions(login, lambda before: replace(before, locked_at=None, locked_why=""))

        async with self._locking:
            await self._core.db(unlock)
            self._locks.pop(login, None)

    async def _store_lock(self, login: Login, at: float, why: str) -> bool:
        def locked(before: Conditions) -> Conditions:
            return before if before.locked_at is not None else replace(before, locked_at=at, locked_why=why)

        before = await self._core.db(lambda registry: registry.change_conditions(login, locked))
        return before.locked_at is None

    async def _store_locks(self) -> None:
        async with self._locking:
            for login, (at, why) in list(self._locks.items()):
                try:
                    await self._store_lock(login, at, why)
                    self._logger.info("a lock is stored now", login=login)
                except NoRoomError:
                    return
                except NotFoundError:
                    pass  # the instance was forgotten meanwhile
                del self._locks[login]

    def opened(self, login: Login) -> None:
        """A session of `login` was opened, which may expire sooner than those there were."""
        self._tell()
        self._look_at_volumes_soon(login)

    async def hostd_connected(self, status: HostStatus, asked_at: float) -> None:
        """hostd is (again) there: first end what was revoked while nobody told it, by a core that died, say."""
        recorded = {session.id for session in await self._core.db(Registry.open_sessions)}
        for login in {Login(name) for name in status.sessions.values()}:
            self._due.add(login)
        self._strangers = {one: Login(name) for one, name in status.sessions.items() if one not in recorded}
        await self._look_at_all()
        await self._core.hostd_connected(status, asked_at)
        self._tell()

    async def run(self) -> None:
        """End sessions when they may not stay, and try again what hostd did not take, for ever."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._end_what_expires)
            nursery.start_soon(self._end_what_left_a_volume)

    async def _end_what_expires(self) -> None:
        while True:
            self._news = trio.Event()
            wait_s = LOOK_EVERY_S
            try:
                await self._store_locks()
                await self._look_at_all()
                wait_s = (
                    RETRY_S if self._due or self._strangers or self._locks else min(LOOK_EVERY_S, await self._next_s())
                )
            except Exception:
                self._logger.exception("sessions not looked at")
            with trio.move_on_after(wait_s):
                await self._news.wait()

    async def _end_what_left_a_volume(self) -> None:
        limit, looking = trio.CapacityLimiter(PARALLEL_LOOKS), set[Login]()

        async def look(login: Login) -> None:
            async with limit:
                try:
                    await self._look_at_volumes(login)
                except Exception as exc:
                    self._looks[login] = self._core.now() + RETRY_S
                    if isinstance(exc, HatchwayError):
                        self._logger.warning("sessions not ended yet", login=login, error=str(exc))
                    else:
                        self._logger.exception("sessions not looked at", login=login)
            looking.discard(login)
            self._volume_news.set()

        async with trio.open_nursery() as nursery:
            while True:
                self._volume_news = trio.Event()
                wait_s = LOOK_EVERY_S
                try:
                    for login in self._to_be_looked_at(await self._logins()) - looking:
                        looking.add(login)
                        nursery.start_soon(look, login)
                    waiting = [at for login, at in self._looks.items() if login not in looking]
                    wait_s = max(0.0, min(wait_s, min(waiting, default=math.inf) - self._core.now()))
                except Exception:
                    self._logger.exception("sessions not looked at")
                with trio.move_on_after(wait_s):
                    await self._volume_news.wait()

    def _to_be_looked_at(self, logins: set[Login]) -> set[Login]:
        """Those of `logins`, all that have sessions, whose time has come."""
        for gone in self._looks.keys() - logins:
            del self._looks[gone]
        now = self._core.now()
        # The clock may have been set.
        return {login for login in logins if not now < self._looks.get(login, now) <= now + LOOK_EVERY_S}

    def _tell(self) -> None:
        self._news.set()

    def _look_at_volumes_soon(self, login: Login) -> None:
        self._looks.pop(login, None)
        self._volume_news.set()

    async def _end_strangers(self) -> None:
        for session, login in list(self._strangers.items()):
            try:
                await self._core.host.end_sessions(login, (session,))
                del self._strangers[session]
            except HatchwayError as exc:
                self._logger.error("a session nobody knows of not ended", login=login, error=str(exc))

    async def _look_at_all(self) -> None:
        await self._end_strangers()
        logins = await self._logins()
        # What there is no session of needs no looking at.
        self._due &= logins
        self._due |= await self._each(logins, self._look_at)

    async def _logins(self) -> set[Login]:
        """Those that have sessions."""
        return {session.login for session in await self._core.db(Registry.open_sessions)}

    async def _each(self, logins: set[Login], look: Callable[[Login], Awaitable[None]]) -> set[Login]:
        """Have `look` at each; those with which hostd did not do what it should."""
        limit = trio.CapacityLimiter(PARALLEL_LOOKS)
        failed = set()

        async def one(login: Login) -> None:
            async with limit:
                try:
                    await look(login)
                except HatchwayError as exc:
                    failed.add(login)
                    self._logger.warning("sessions not ended yet", login=login, error=str(exc))

        async with trio.open_nursery() as nursery:
            for login in sorted(logins):
                nursery.start_soon(one, login)
        return failed

    async def _look_at(self, login: Login) -> None:
        """End what may not stay, but for what a volume has the say of."""
        async with self._core.turn(login):
            record, sessions = await self._core.db(
                lambda registry: (registry.by_login(login), registry.open_sessions(login))
            )
            sessions = self._core.still_open(sessions)
            own = await self._own(record) if record is not None and sessions else Valid()
            denied = self._denied(record, sessions, own)
            asked = await self._of_volumes(record, denied)
            await self._end(login, {one: why for one, why in denied.items() if one not in asked})
        self._due.discard(login)

    async def _look_at_volumes(self, login: Login) -> None:
        """End what came in by a key that is in no volume any more."""
        self._looks[login] = self._core.now() + LOOK_EVERY_S
        before = await self._asked(login)
        if before is None:
            self._uncertain.pop(login, None)
            return
        found = await self._volume_keys.read(before.record)
        now = self._core.now()
        times = [at for _place, one in found.keys if (at := _facts_of_entry(one).expires_at) is not None and at > now]
        if login in self._looks:
            self._looks[login] = min([self._looks[login], *times])
        if found.certain:
            self._uncertain.pop(login, None)
        elif trio.current_time() - self._uncertain.setdefault(login, trio.current_time()) < UNCERTAIN_S:
            return
        async with self._core.turn(login):
            asked = await self._asked(login)
            if asked is not None:
                # What came in meanwhile may have a key that was not there when it was looked.
                sessions = [one for one in asked.sessions if one in before.sessions]
                valid = await self._with_volumes(asked.record, asked.own, found)
                await self._end(login, self._denied(asked.record, sessions, valid))

    async def _asked(self, login: Login) -> _Volumes | None:
        """What a volume has the say of; None when there is nothing."""
        record, sessions = await self._core.db(
            lambda registry: (registry.by_login(login), registry.open_sessions(login))
        )
        if record is None or not record.conditions.volume_keys:
            return None
        own = await self._own(record)
        asked = await self._of_volumes(record, self._denied(record, self._core.still_open(sessions), own))
        return _Volumes(record, own, asked) if asked else None

    async def _of_volumes(
        self, record: LoginRecord | None, denied: Mapping[SessionRecord, Denial]
    ) -> tuple[SessionRecord, ...]:
        """Those of `denied`, by what is known here, that may have come in by a key in a volume.

        Not what came in by a credential of ours, or by a key that has ended: it is gone, whether a volume can be asked
        or not.
        """
        if record is None or not record.conditions.volume_keys or not denied:
            return ()
        ended = await self._core.db(lambda registry: registry.ended_keys(record.login))
        return tuple(
            one
            for one, why in denied.items()
            if why is Denial.CREDENTIAL_GONE
            and one.method == "publickey"
            and one.credential_id is None
            and one.credential not in ended
        )

    def _denied(
        self, record: LoginRecord | None, sessions: Iterable[SessionRecord], valid: Valid
    ) -> dict[SessionRecord, Denial]:
        """Those of `sessions` that may not stay, and why."""
        denied = {}
        for session in sessions:
            used = valid.used(session.method, session.credential, session.credential_id)
            why = decide_open_session(self.facts(record, address=session.address), used.credential)
            if why is not None:
                denied[session] = why
        return denied

    async def _end(self, login: Login, denied: Mapping[SessionRecord, Denial]) -> None:
        for session, why in denied.items():
            self._logger.info("session ends", session=session.id, login=login, reason=str(why))
        if denied:
            with self._core.ending({session.id: _told(session, why) for session, why in denied.items()}):
                await self._core.host.end_sessions(login, tuple(session.id for session in denied))

    async def _next_s(self) -> float:
        """Seconds until the next session may expire, by its login or a credential of it."""
        now = self._core.now()

        def soonest(registry: Registry) -> float:
            times: list[float | None] = []
            for login in {session.login for session in registry.open_sessions()}:
                record = registry.by_login(login)
                times += [] if record is None else [record.conditions.expires_at]
                times += [one.expires_at for one in registry.credentials(login)]
            return min((time for time in times if time is not None and time > now), default=math.inf)

        return await self._core.db(soonest) - now


def facts_of(credential: CredentialRecord) -> CredentialFacts:
    """What the decision is to know of `credential`."""
    return CredentialFacts(expires_at=credential.expires_at, sources=credential.sources)


def _facts_of_entry(entry: Entry) -> CredentialFacts:
    # A line names the last second it is good for.
    expires_at = None if entry.expires_at is None else float(entry.expires_at + 1)
    return CredentialFacts(expires_at=expires_at, sources=entry.sources or "")


def _told(session: SessionRecord, why: Denial) -> str:
    """Why a session ends, for the record."""
    if why is Denial.CREDENTIAL_GONE:
        return f"its {'key' if session.method == 'publickey' else session.method} is not valid any more"
    return str(why)
