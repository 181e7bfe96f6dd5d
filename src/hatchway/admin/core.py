"""What the core does with what it knows: registry, inventory and hostd kept in step.

Concurrency: the registry is used from one worker thread at a time. What one login may see is decided and handed to
hostd within one `turn`, so that hostd always hears the latest last; logins do not wait for each other.
"""

from __future__ import annotations

import contextlib
import math
import time
import uuid
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping
from typing import NamedTuple, TypeVar

import trio
from msgspec import structs

from hatchway import log
from hatchway.admin import personal, sentences, shares
from hatchway.admin.hostlink import HostLink
from hatchway.admin.inventory import Inventory
from hatchway.admin.journal import Journal
from hatchway.admin.key_places import KeyPlaces
from hatchway.admin.suspensions import Suspensions
from hatchway.config import Config
from hatchway.credentials.sealing import SealingKey
from hatchway.errors import ConflictError, HatchwayError, UnfinishedError
from hatchway.model import (
    Directory,
    EventKind,
    InstanceInfo,
    InstanceKey,
    Limits,
    Login,
    Snapshot,
    VolumeInfo,
    VolumeKind,
    below,
)
from hatchway.registry.records import Delivery, InstanceRecord, LoginRecord, NewEvent, PersonRecord, SessionRecord
from hatchway.registry.reserve import NoRoomError
from hatchway.registry.store import KEY_SOURCES_MAX, Registry
from hatchway.wire.host import HostStatus, UserRecord, View

T = TypeVar("T")

RETRY_S = 2.0
"""How soon what hostd did not take is tried again."""

PARALLEL_APPLIES = 8
"""Logins whose changes are handed to hostd at once."""

IDENTIFIED = (VolumeKind.VOLUME, VolumeKind.BIND, VolumeKind.DIRECTORY)
"""Kinds that have a directory of the host, which hostd identifies."""

LOOK_EVERY_S = 30.0
"""How often it is looked whether the directories that access was given to are still the same."""

SEEN_EVERY_S = 600.0
"""How often it is noted which instances are there."""


class _End(NamedTuple):
    """The end of a session: when, Unix seconds, why, in words, if that is known, and the bytes of SessionEnded."""

    at: float
    why: str
    read: int | None
    written: int | None


class Core:
    """Everything the core holds. `now` gives Unix time in seconds."""

    def __init__(
        self,
        config: Config,
        registry: Registry,
        sealing: SealingKey,
        inventory: Inventory,
        host: HostLink,
        now: Callable[[], float] = time.time,
    ) -> None:
        self.config = config
        self.registry = registry
        self.sealing = sealing
        # Held from sealing a secret until it is stored: else the key it was sealed with may be gone by then. Everybody
        # waits for it, so nothing is done in it that takes long.
        self.sealing_turn = trio.Lock()
        self.inventory = inventory
        self.host = host
        self.now = now
        self.journal = Journal(self.db, config.log, now)
        self._suspensions = Suspensions(self.journal, now)
        self._registry_turn = trio.CapacityLimiter(1)
        self._hashing_turn = trio.CapacityLimiter(1)
        self._pairing_turn = trio.CapacityLimiter(1)
        self._feeding = trio.Lock()
        self._publishing = trio.Lock()
        self._turns: dict[Login, trio.Lock] = {}
        self._latest: dict[str, Snapshot] = {}
        # Sources whose latest news hostd has not identified.
        self._untold: set[str] = set()
        # What hostd was last told of each login, absent when that is not known.
        self._applied: dict[Login, tuple[View, ...]] = {}
        # Which directory stood at a path when hostd last knew; absent when there was none to share.
        self._births: dict[str, str] = {}
        # All volumes there are grants for, with their limits, and those of them that are shared now; None before the
        # first look. A limit may come from another instance's grant: no login can tell by its own.
        self.limits: dict[Directory, Limits] | None = None
        self.shared: dict[Directory, Limits] | None = None
        # Where directories are on their file systems, as hostd knew last; by path.
        self._whereabouts: dict[str, str] = {}
        # Where keys lie, see `admin.key_places`. The volumes of each instance in which they do, when it was last there,
        # and where private keys were put; None before the first look.
        self.key_places = KeyPlaces()
        self._key_sources: dict[InstanceKey, frozenset[Directory]] | None = None
        self._deliveries: tuple[Delivery, ...] = ()
        # The logins of the people with whom an instance's volume is shared, or was before another came.
        self.people_of: Mapping[tuple[InstanceKey, str], tuple[str, ...]] = {}
        self._looking = trio.Lock()
        self._sharing = trio.Event()
        # Logins for which hostd has still to take something.
        self._pending: set[Login] = set()
        self._published: tuple[UserRecord, ...] = ()
        self.unpublished: dict[str, str] = {}
        # When the sessions opened by this process were opened (trio's clock, seconds), infinity while they are.
        self._young: dict[str, float] = {}
        # Whose sessions they are: an instance may be forgotten before they end.
        self._entered: dict[str, str] = {}
        # Sessions that have ended, or were not let in, which the registry does not know.
        self._unclosed: dict[str, _End | None] = {}
        # Why sessions end that hostd was asked to end.
        self._reasons: dict[str, str] = {}
        self._news = trio.Event()
        self._logger = log.get()

    async def news(self) -> None:
        """Wait until there is something new to hold rules and labels against. For one task."""
        await self._news.wait()
        self._news = trio.Event()

    def tell_news(self) -> None:
        """There is something new: see `news`."""
        self._news.set()

    async def sharing(self) -> None:
        """Wait until other volumes are shared than before, or with other limits. For one task."""
        await self._sharing.wait()
        self._sharing = trio.Event()

    def tell_sharing(self) -> None:
        """Others are shared, or nobody knows: see `sharing`."""
        self._sharing.set()

    async def db(self, call: Callable[[Registry], T]) -> T:
        """Run `call` with the registry in its thread."""
        return await trio.to_thread.run_sync(call, self.registry, limiter=self._registry_turn)

    async def hashed(self, call: Callable[[], T]) -> T:
        """Run `call`, which makes a hash of a password or a file of a key, in a thread: one at a time, since it takes
        64 MiB and a processor for a moment. What lets somebody in has threads of its own (Attempts)."""
        return await trio.to_thread.run_sync(call, limiter=self._hashing_turn)

    async def paired(self, call: Callable[[], T]) -> T:
        """As `hashed`, for what finds a pair of keys, which may take seconds: hashes do not wait for it."""
        return await trio.to_thread.run_sync(call, limiter=self._pairing_turn)

    def user_record(self, record: LoginRecord) -> UserRecord:
        """What NSS says of a login."""
        views = self._shown(record)
        return UserRecord(record.login, record.uid, shares.start_directory(views))

    def shares_of(self, record: LoginRecord) -> int:
        """How many of the grants of `record` are in force now."""
        if isinstance(record, PersonRecord):
            return len(self._shown(record))
        return len(shares.live_grants(record, self.inventory))

    async def feed(self, snapshot: Snapshot) -> None:
        """Take the catalog's news, and take away at once what it shows to be another's."""
        self._latest[snapshot.source] = snapshot
        try:
            async with self._feeding:
                self.inventory.feed(await self._identified(self._latest[snapshot.source]))
            self._untold.discard(snapshot.source)
            self.tell_news()
            await self.sync_logged()
        except HatchwayError as exc:
            # Not the catalog's fault; the link to hostd reports it, and repeats this when hostd is back. Until then
            # what is known stays: nobody new can enter without hostd, and open sessions need not end.
            self._logger.warning("hostd not told of the catalog's news", error=str(exc))
            self._untold.add(snapshot.source)
            if not self.inventory.fed(snapshot.source):
                self.inventory.feed(snapshot)

    async def _identified(self, snapshot: Snapshot) -> Snapshot:
        """`snapshot` with each volume's `created` from the host: which directory it is, not what the engine says.

        An engine's creation time is not enough: before Docker 23.0 it was the time of the directory's last change,
        and it has a resolution of a second. Raises HatchwayError when hostd does not answer.
        """
        paths = _paths(snapshot)
        if not paths:
            return snapshot
        await self._know_keys()
        # What is not there now may hold keys, and is to be recognised under another name.
        answer = await self.host.births(tuple(sorted(paths | {one.source for one in self._key_directories()})))
        self._whereabouts |= answer.whereabouts

        def identified(volume: VolumeInfo) -> VolumeInfo:
            source = volume.source
            if volume.kind not in IDENTIFIED or volume.refusal is not None or source is None:
                return volume
            if source in answer.births:
                self._births[source] = answer.births[source]
                return structs.replace(volume, created=answer.births[source])
            if source in answer.unknown and source in self._births:
                # What it was when it last answered. hostd looks again before it mounts it for anybody.
                return structs.replace(volume, created=self._births[source])
            if source in answer.refused:
                self._births.pop(source, None)
            problem = answer.refused.get(source) or answer.unknown.get(source) or f"nothing is known of {source}"
            if volume.kind is VolumeKind.VOLUME and source in answer.refused:
                problem = self._elsewhere(snapshot) or problem
            return structs.replace(volume, created="", refusal=problem)

        instances = tuple(
            structs.replace(info, volumes=tuple(identified(volume) for volume in info.volumes))
            for info in snapshot.instances
        )
        return structs.replace(snapshot, instances=instances)

    def _elsewhere(self, snapshot: Snapshot) -> str | None:
        """What mends it, when hostd may open none of the engine's volumes."""
        if snapshot.data_root is None or (directory := self.config.volumes_elsewhere(snapshot.data_root)) is None:
            return None
        host = self.config.host
        if any(below(directory, prefix) for prefix in host.bind_prefixes):
            return None
        roots = ", ".join(host.volume_roots) or "none"
        return (
            f"the engine keeps its volumes in {directory}, which is not beneath host.volume_roots ({roots}): "
            f'add "{directory}" there and start Hatchway again'
        )

    @contextlib.asynccontextmanager
    async def turn(self, login: Login) -> AsyncIterator[None]:
        """Have the say over one login: what it may see is read and handed to hostd within one turn, so that a session
        that opens while access is taken away either does not open or is ended."""
        async with self._turns.setdefault(login, trio.Lock()):
            yield

    async def sync(self, *, everything: bool = False) -> dict[Login, HatchwayError]:
        """Make hostd publish and show what the registry and the inventory say now.

        `everything` tells hostd also what it should know already. Logins do not wait for each other, and one that
        fails spoils nobody else's: returned are those hostd did not take, which are tried again by `keep_in_step`.
        Raises HatchwayError when hostd could not publish at all.
        """
        views = await self._look()
        limit = trio.CapacityLimiter(PARALLEL_APPLIES)
        errors: dict[Login, HatchwayError] = {}

        async def one(login: Login) -> None:
            try:
                async with limit:
                    await self._apply(login, everything)
            except HatchwayError as exc:
                errors[login] = exc

        async with trio.open_nursery() as nursery:
            for login in {*views, *self._applied, *self._pending}:
                same = login in views and self._applied.get(login) == views[login]
                # While somebody else has the turn, a session opens with what was true a moment ago.
                if (
                    everything
                    or not same
                    or login in self._pending
                    or self._turns.setdefault(login, trio.Lock()).locked()
                ):
                    nursery.start_soon(one, login)
        await self._publish(everything)
        return errors

    async def _look(self) -> dict[Login, tuple[View, ...]]:
        """What each login may see, and with that which volumes are shared and what limits they have."""
        # In turn: what was read last counts.
        async with self._looking:
            instances, people, self._deliveries = await self.db(
                lambda registry: (registry.instances(), registry.people(), registry.deliveries())
            )
            await self._look_at_keys()
            self.people_of = personal.by_volume(people)
            shared_by = [record for record in instances if record.grants]
            self.limits = shares.limits([*shared_by, *personal.as_given(people)], self.inventory)
            records: list[LoginRecord] = [*shared_by, *(person for person in people if person.grants)]
            views = {record.login: self._views_for_open(record) for record in records}
            if not self._untold:
                # Else every volume looks like another's.
                self._suspensions.look(shared_by, self.inventory)
        shared = {Directory(view.source, view.birth): view.limits for seen in views.values() for view in seen}
        if shared != self.shared:
            self.shared = shared
            self.tell_sharing()
        return views

    async def _know_keys(self) -> dict[InstanceKey, frozenset[Directory]]:
        """In which volumes keys lie, by what was known last."""
        if self._key_sources is None:
            found, self._deliveries = await self.db(lambda registry: (registry.key_sources(), registry.deliveries()))
            self._key_sources = found
        return self._key_sources

    async def _look_at_keys(self) -> None:
        """Know where keys lie: of an instance that is not there now as it was when it was."""
        before = await self._know_keys()
        now = {key: _ssh_directories(self.inventory.get(key)) for key in self.inventory.fresh()}
        changed = {key: found for key, found in now.items() if found != before.get(key, frozenset())}
        self._key_sources = {key: found for key, found in (before | now).items() if found}
        if changed:
            try:
                await self.db(lambda registry: registry.keep_key_sources(changed))
                if sum(len(found) for found in self._key_sources.values()) > KEY_SOURCES_MAX:
                    # Of those that are not kept any more none is to stay here for ever, either.
                    self._key_sources = await self.db(lambda registry: registry.key_sources())
            except NoRoomError as exc:
                self._logger.error("where keys lie is not stored, will be tried again", error=str(exc))
                # What was known of them besides holds until it is.
                for key in changed:
                    self._key_sources[key] = before.get(key, frozenset())
        directories = {one for info in self.inventory.instances() for one in _ssh_directories(info)}
        self.key_places = KeyPlaces(
            directories | set().union(*self._key_sources.values()), self._deliveries, self._whereabouts
        )

    def forget_keys(self, key: InstanceKey) -> None:
        """An instance is forgotten, so nobody can be let in by what lies in its volumes, unless it is there."""
        if self._key_sources is not None:
            self._key_sources.pop(key, None)

    def places_of(self, deliveries: Iterable[Delivery]) -> KeyPlaces:
        """Those of `deliveries` only."""
        return KeyPlaces((), deliveries, self._whereabouts)

    def _key_directories(self) -> set[Directory]:
        """All directories in which keys lie, or may."""
        sources = set().union(*(self._key_sources or {}).values())
        return sources | {one.volume for one in self._deliveries}

    async def sync_logged(self) -> None:
        """As `sync`, for whoever can only leave it to be tried again what hostd did not take."""
        self._log_errors(await self.sync())

    async def hand_over(self, done: str, *logins: Login) -> None:
        """Have hostd take what `logins` may see now, for whoever answers an operator: what was `done` holds anyway.

        Raises UnfinishedError when hostd did not take it, ConflictError when nobody can enter by one of them.
        """
        errors: dict[Login, HatchwayError] = {}
        try:
            # What was taken away does not wait until all other logins were looked at.
            for login in logins if self.limits is not None else ():
                if login in self._pending:
                    try:
                        await self._apply(login, everything=False)
                    except HatchwayError as exc:
                        errors[login] = exc
            errors = errors or await self.sync()
            for login in logins:
                if (error := errors.get(login)) is not None:
                    raise error
        except HatchwayError as exc:
            text = f"{done}, but the host did not take it: {exc}. It is tried again until it does"
            raise UnfinishedError(text) from exc
        for login in logins:
            if (problem := self.unpublished.get(login)) is not None:
                raise ConflictError(f"{done}, but nobody can enter as {login}: {problem}")

    async def keep_in_step(self) -> None:
        """Try again, for ever, what hostd did not take: a revocation must not be forgotten."""
        while True:
            await trio.sleep(RETRY_S)
            await self._close_again()
            await self._tell_again()
            if self._pending:
                try:
                    await self.sync_logged()
                except HatchwayError as exc:
                    self._logger.warning("hostd still does not take what is to be done", error=str(exc))
                except Exception:
                    self._logger.exception("hostd still does not take what is to be done")

    async def _tell_again(self) -> None:
        """Have hostd identify what it could not when it was news."""
        for source in list(self._untold) if self.host.problem is None else ():
            try:
                await self.feed(self._latest[source])
            except Exception:
                self._logger.exception("the catalog's news not taken", source=source)

    async def keep_looking(self) -> None:
        """Look, for ever, whether a directory was replaced of which no engine tells: see `look_again`."""
        while True:
            await trio.sleep(LOOK_EVERY_S)
            try:
                if self.host.problem is None:
                    await self.look_again()
            except HatchwayError as exc:
                self._logger.warning("directories not looked at again", error=str(exc))
            except Exception:
                self._logger.exception("directories not looked at again")

    async def look_again(self) -> None:
        """Take the catalog's latest news once more where another directory stands now than access was given to.

        Of one that is gone, or does not answer, this says nothing: it may be back in a moment, and hostd looks again
        before it mounts anything. Raises HatchwayError.
        """
        granted = {one.source for one in self.limits or ()}
        paths = {path for snapshot in self._latest.values() for path in _paths(snapshot)} & granted
        if not paths:
            return
        answer = await self.host.births(tuple(sorted(paths)))
        changed = {path for path, birth in answer.births.items() if birth != self._births.get(path)}
        for snapshot in list(self._latest.values()):
            if _paths(snapshot) & changed:
                await self.feed(self._latest[snapshot.source])

    async def keep_note(self) -> None:
        """Note, for ever, which instances are there: see `gone`."""
        while True:
            try:
                await self.note_seen()
            except HatchwayError as exc:
                self._logger.warning("not noted which instances are there", error=str(exc))
            except Exception:
                self._logger.exception("not noted which instances are there")
            await trio.sleep(SEEN_EVERY_S)

    async def note_seen(self) -> None:
        """Note which instances are there now, as far as their sources can be read."""
        keys, now = self.inventory.fresh(), self.now()
        if keys:
            await self.db(lambda registry: registry.saw(keys, now))

    async def gone(self, for_s: float) -> list[InstanceRecord]:
        """Instances that have not been there for `for_s` seconds; none of a source that cannot be read now."""
        await self.note_seen()
        now = self.now()
        return [
            record
            for record in await self.db(Registry.instances)
            if self.inventory.get(record.key) is None
            and self.inventory.readable(record.grants[0].kind if record.grants else None)
            and now - record.seen_at >= for_s
        ]

    def must_hear(self, login: Login) -> None:
        """Something was taken away from `login`: the next `sync` tells hostd, also while a session is opening."""
        self._pending.add(login)

    def _log_errors(self, errors: dict[Login, HatchwayError]) -> None:
        for login, error in errors.items():
            self._logger.error("not handed to hostd, will be tried again", login=login, error=str(error))

    async def _apply(self, login: Login, everything: bool) -> None:
        async with self.turn(login):
            record = await self.db(lambda registry: registry.by_login(login))
            views = () if record is None or not record.grants else self._views_for_open(record)
            if not everything and login not in self._pending and self._applied.get(login) == views:
                return
            # Unknown, and to be done, until hostd has answered.
            self._applied.pop(login, None)
            self._pending.add(login)
            await self._apply_views(login, views, "no volume is shared any more" if record else "access was forgotten")
            self._pending.discard(login)
            if record is not None and record.grants:
                self._applied[login] = views

    async def _apply_views(self, login: Login, views: tuple[View, ...], why: str) -> None:
        """Have hostd show `views`. With none of them it ends the sessions, for the reason `why`."""
        if views:
            await self.host.apply(login, views)
            return
        with self.ending({one.id: why for one in await self.db(lambda registry: registry.open_sessions(login))}):
            await self.host.apply(login, views)

    async def _publish(self, everything: bool) -> None:
        async with self._publishing:
            records: list[LoginRecord] = [*await self.db(Registry.instances), *await self.db(Registry.people)]
            users = tuple(self.user_record(record) for record in records if record.grants)
            if everything or users != self._published:
                self._published = ()
                self.unpublished = await self.host.publish(users)
                self._published = users

    async def open_session(
        self,
        record: LoginRecord,
        *,
        address: str,
        method: str,
        key: str | None,
        pid: int,
        credential_id: int | None = None,
    ) -> str:
        """Mount what `record` shares and count the session whose PAM helper is `pid`, within a `turn` of its login.

        `key` is the fingerprint of the key that was used, `credential_id` as in SessionRecord. Returns the session's
        id. Raises HatchwayError: then there must be no session.
        """
        session, login, now = uuid.uuid4().hex, record.login, self.now()
        self._young[session] = math.inf
        stored = False
        try:
            await self.db(
                lambda registry: registry.open_session(
                    session,
                    login,
                    address=address,
                    method=method,
                    credential=key,
                    credential_id=credential_id,
                    now=now,
                )
            )
            stored = True
            if self.limits is None:
                await self._look()
            views = self._views(record)
            await self.host.open_session(session, self.user_record(record), views, pid)
            self._applied[login] = views
        except BaseException as exc:
            if isinstance(exc, HatchwayError):
                if stored:
                    # A directory may not be the one it was; no engine tells of that. See `keep_in_step`.
                    self._untold.update(self._latest)
                self.journal.refused(login, address, f"not let in: {exc}", record.whose)
            self._young.pop(session, None)
            if stored:
                with trio.CancelScope(shield=True):
                    await self._close(session, None)
            raise
        self._young[session] = trio.current_time()
        self._entered[session] = record.whose
        who = sentences.entered(method, key)
        self.journal.record(NewEvent(now, EventKind.LOGIN, "logged in", record.whose, login, address=address, who=who))
        self._logger.info("session opened", session=session, login=login, address=address, method=method)
        return session

    def _views_for_open(self, record: LoginRecord) -> tuple[View, ...]:
        """What sessions that are open now may go on to see.

        An instance that is not there at all may be between removal and recreation: nobody new enters, but a transfer
        goes on as long as its volume is granted. What it has mounted stays the volume it was.
        """
        applied = self._applied.get(record.login, ())
        if isinstance(record, PersonRecord):
            shown = self._shown(record)
            places = {view.path for view in shown}
            kept = (
                view
                for view in personal.kept_views(record, applied, self.inventory, self.key_places)
                if view.path not in places
            )
            views = tuple(sorted((*shown, *kept), key=lambda view: view.path))
            return shares.limited(views, self.limits or {})
        if self.inventory.get(record.key) is not None:
            return self._views(record)
        return shares.limited(shares.kept_views(record, applied), self.limits or {}) or self._views(record)

    def _views(self, record: LoginRecord) -> tuple[View, ...]:
        return shares.limited(self._shown(record), self.limits or {})

    def _shown(self, record: LoginRecord) -> tuple[View, ...]:
        """What a new session may see; its limits are to be added."""
        if isinstance(record, PersonRecord):
            return personal.host_views(record, self.inventory, self.key_places)
        return shares.host_views(record, self.inventory)

    async def hostd_connected(self, status: HostStatus, asked_at: float) -> None:
        """hostd is (again) there: tell it everything, and close the books on sessions it does not have.

        Sessions that opened since `asked_at` (trio's clock, seconds) need not be in `status`.
        """
        # First what was taken away while nobody told hostd: by a core that died, or while hostd was away.
        self._pending.update(Login(login) for login in status.sessions.values())
        self._pending.update(Login(mount.login) for mount in status.mounts)
        # What an engine shows without it being identified looks like another's: sessions would end for nothing.
        async with self._feeding:
            for snapshot in list(self._latest.values()):
                self.inventory.feed(await self._identified(snapshot))
                self._untold.discard(snapshot.source)
        self._log_errors(await self.sync(everything=True))
        for session in await self.db(Registry.open_sessions):
            if session.id not in status.sessions and self._young.get(session.id, -math.inf) < asked_at:
                self._reasons.setdefault(session.id, sentences.UNSEEN)
                await self.session_ended(session.id)

    @contextlib.contextmanager
    def ending(self, reasons: Mapping[str, str]) -> Iterator[None]:
        """While hostd is asked to end the sessions that are the keys of `reasons`: why, in words for the record."""
        self._reasons.update(reasons)
        try:
            yield
        except BaseException:
            # They may go on, and end for another reason.
            for session in reasons:
                self._reasons.pop(session, None)
            raise

    def still_open(self, sessions: Iterable[SessionRecord]) -> tuple[SessionRecord, ...]:
        """Of `sessions` that are open as the registry knows, those that have not ended meanwhile."""
        return tuple(session for session in sessions if session.id not in self._unclosed)

    async def session_ended(
        self, session: str, read: int | None = None, written: int | None = None, by_hostd: bool = False
    ) -> None:
        """Write down that a session is over. What cannot be written down is kept, and tried again.

        `read` and `written` are bytes as in SessionEnded, None when nobody knows; `by_hostd`: hostd ended it.
        """
        why = self._reasons.pop(session, sentences.NOT_TOLD if by_hostd else "")
        await self._close(session, _End(self.now(), why, read, written))

    async def _close(self, session: str, end: _End | None) -> None:
        """Close the books on a session that has ended; None for one that was not let in."""
        self._young.pop(session, None)
        end = self._unclosed.get(session, end)
        try:
            record = await self.db(lambda registry: registry.close_session(session))
        except Exception as exc:
            if session not in self._unclosed:
                self._logger.error("the end of a session not stored, will be tried again", error=str(exc))
            self._unclosed[session] = end
            return
        self._unclosed.pop(session, None)
        whose = self._entered.pop(session, "")
        if record is None:
            return
        self._logger.info("session ended", session=session, login=record.login)
        if end is None:
            return
        what = f"session ended {sentences.lasted(end.at - record.opened_at)}{end.why and f': {end.why}'}"
        self.journal.record(
            NewEvent(
                end.at,
                EventKind.END,
                what,
                instance=whose,
                login=record.login,
                address=record.address,
                who=sentences.entered(record.method, record.credential),
                read=end.read,
                written=end.written,
            )
        )

    async def _close_again(self) -> None:
        for session, end in list(self._unclosed.items()):
            await self._close(session, end)
            if session in self._unclosed:
                return


def _ssh_directories(info: InstanceInfo | None) -> frozenset[Directory]:
    volumes = () if info is None else info.volumes
    return frozenset(
        Directory(one.source, one.created) for one in volumes if one.is_ssh_directory and one.source is not None
    )


def _paths(snapshot: Snapshot) -> set[str]:
    """The directories of the host that are to be identified."""
    return {
        volume.source
        for info in snapshot.instances
        for volume in info.volumes
        if volume.kind in IDENTIFIED and volume.refusal is None and volume.source is not None
    }
