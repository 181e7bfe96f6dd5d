"""The registry: every way in which what Hatchway remembers is asked for or changed.

Each method is one transaction, which takes place whole or not at all. Methods block, on the disk and for at most
`opening.BUSY_TIMEOUT_S` on another process: call them in a worker thread, one at a time (a second one waits). Time is
a parameter; nothing here reads a clock. Database errors pass through as SQLAlchemy's, without the values. What a
stranger gives as a login reaches the database only if it could be one: other text (a lone surrogate, a NUL on
PostgreSQL) is an error there.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import AbstractContextManager
from types import MappingProxyType
from typing import Concatenate, ParamSpec, TypeVar

from msgspec import structs
from sqlalchemy import Connection, Engine, and_, bindparam, delete, exists, func, insert, select, update
from sqlalchemy.exc import DBAPIError

from hatchway import log
from hatchway.errors import ConfigError, ConflictError, InternalError, NotFoundError, UsageError
from hatchway.model import (
    KEEP_LIMITS,
    NO_LIMITS,
    UNSAID,
    VOLUMES_MAX,
    AccessRule,
    Directory,
    EventKind,
    IdPair,
    InstanceKey,
    Mode,
    NewLimits,
    Origin,
    Ownership,
    Uid,
    VolumeInfo,
    valid_login,
)
from hatchway.registry import rows, share_links
from hatchway.registry import tables as t
from hatchway.registry.opening import WRITES, checkpoint, open_database
from hatchway.registry.records import (
    AlteredGrant,
    Conditions,
    CredentialRecord,
    Delivery,
    EventRecord,
    FollowedGrant,
    GrantName,
    InstanceRecord,
    LoginRecord,
    NewCredential,
    NewEvent,
    NewLogin,
    NewShareLink,
    PersonRecord,
    SessionRecord,
    ShareLinkRecord,
)
from hatchway.registry.reserve import FOR_ACCESS, NoRoomError, Reserve, is_full
from hatchway.wire.host import Usage

P = ParamSpec("P")
T = TypeVar("T")

CREDENTIALS_MAX = 100
"""Credentials of one login. sshd looks at all its keys for each one a client offers."""


KEY_SOURCES_MAX = 10_000
"""Directories in which keys may lie that are remembered."""

Method = Callable[Concatenate["Registry", P], T]


def storing(leave: int | None) -> Callable[[Method[P, T]], Method[P, T]]:
    """For a method that stores something: `leave` is how much of the reserve it must not touch, in bytes.

    When the file system is full, some of the reserve is given up and the method is called again, until it is done or
    no more than `leave` is left. With None it is something that can wait, and is done only where there is plenty of
    room. The method raises NoRoomError when it was not done for such a reason.
    """

    def decorate(method: Method[P, T]) -> Method[P, T]:
        @functools.wraps(method)
        def stored(self: Registry, /, *args: P.args, **kwargs: P.kwargs) -> T:
            if leave is None and not self._reserve.has_room_for_more():
                raise NoRoomError("the registry's disk is full, what is left is kept for taking access away")
            while True:
                try:
                    return method(self, *args, **kwargs)
                except DBAPIError as exc:
                    if not is_full(exc):
                        raise
                    if leave is None or not _give_up(self._reserve, leave, exc):
                        raise NoRoomError(f"nothing can be stored: {exc.orig}") from exc
                    # While there is room for the database to grow: then this has all of -wal.
                    checkpoint(self._engine)

        return stored

    return decorate


def _give_up(reserve: Reserve, leave: int, why: BaseException | None) -> bool:
    done = reserve.give_up(leave)
    if done:
        error = str(getattr(why, "orig", why))
        log.get().error("the registry's file system is full: room kept for this is given up", error=error)
    return done


class Registry:
    """The database of one host. Made by `open`.

    Every method that stores something raises NoRoomError when the file system is full, and then has changed nothing.
    """

    def __init__(self, engine: Engine, reserve: Reserve) -> None:
        self._engine = engine
        self._writing = engine.execution_options(**{WRITES: True})
        self._reserve = reserve

    @classmethod
    def open(cls, path: str) -> Registry:
        """Open the registry in the file `path`, made (mode 0600) if there is none. Its directory must exist.

        An older version's tables are brought up to date. Raises ConfigError when the file cannot be made or used, is
        open to other users, is no registry or was written by a newer Hatchway.
        """
        reserve = Reserve(path)
        while True:
            try:
                return cls(open_database(path), reserve)
            except ConfigError as exc:
                if not (is_full(exc.__cause__) and _give_up(reserve, 0, exc.__cause__)):
                    raise

    def close(self) -> None:
        """Let go of the file. The object is of no more use."""
        self._engine.dispose()

    def keep_reserve(self) -> bool:
        """Make the reserve, or make it whole again, if there is room for it: see `reserve`. Whether it is whole."""
        return self._reserve.make()

    def instances(self) -> tuple[InstanceRecord, ...]:
        """All instances that were ever shared, in the order of their keys."""
        with self._read() as connection:
            return rows.instances(connection)

    def instance(self, key: InstanceKey) -> InstanceRecord | None:
        """The instance called `key`, None if it was never shared."""
        with self._read() as connection:
            return _only(rows.instances(connection, rows.called(key)))

    def people(self) -> tuple[PersonRecord, ...]:
        """All people, in the order of their logins."""
        with self._read() as connection:
            return rows.people(connection)

    def person(self, login: str) -> PersonRecord | None:
        """The person with `login`, any text; None if there is none."""
        if not valid_login(login):
            return None
        with self._read() as connection:
            return next(iter(rows.people(connection, t.logins.c.name == login)), None)

    def by_login(self, login: str) -> LoginRecord | None:
        """Whose `login`, any text, is; None if it is nobody's."""
        if not valid_login(login):
            return None
        with self._read() as connection:
            return rows.by_login(connection, t.logins.c.name == login)

    def instance_of(self, login: str) -> InstanceRecord | None:
        """The instance that `login`, any text, enters; None if there is none."""
        record = self.by_login(login)
        return record if isinstance(record, InstanceRecord) else None

    def login_taken(self, name: str) -> bool:
        """Whether `name` was ever given to an instance or a person, be they gone since."""
        if not valid_login(name):
            return False
        with self._read() as connection:
            return connection.execute(select(exists().where(t.logins.c.name == name))).scalar_one()

    def next_uid(self, first: int, last: int) -> Uid:
        """A uid of the range `first` to `last`, inclusive, that was never given. `enable` gives it, not this.

        Raises ConflictError when all were.
        """
        given = select(t.logins.c.uid).where(t.logins.c.uid.between(first, last))
        with self._read() as connection:
            highest = connection.execute(select(func.max(given.subquery().c.uid))).scalar_one()
            if highest is None:
                return Uid(first)
            if highest < last:
                return Uid(highest + 1)
            # Gaps are left when the range was configured differently before.
            taken = set(connection.execute(given).scalars())
        for candidate in range(first, last + 1):
            if candidate not in taken:
                return Uid(candidate)
        raise ConflictError(f"all {last - first + 1} uids from {first} to {last} were given; widen ids.login_uids")

    @storing(FOR_ACCESS)
    def enable(
        self,
        key: InstanceKey,
        volumes: Sequence[tuple[VolumeInfo, Mode]],
        *,
        by: str,
        now: float,
        new: NewLogin | None,
        origin: Origin = Origin.COMMAND,
        follow: Collection[str] = (),
        runtime_id: str = "",
        ownership: Ownership = UNSAID,
        owner_ids: IdPair | None = None,
        limits: NewLimits = KEEP_LIMITS,
    ) -> InstanceRecord:
        """Grant access to `volumes` of the instance `key`, each in its mode; other grants stay as they are.

        A grant of the same origin at the same path is replaced: it is for the volume given now. Grants at the paths
        `follow` go over to an anonymous volume's successor, see `reconcile`. If the instance was never shared, it gets
        the login `new` with its credentials. `by` says who did it, `now` is Unix seconds, `runtime_id` which container
        of the engine the instance is. `ownership` and `owner_ids` are as in GrantRecord. What `limits` leave as it was,
        is as the grant that is replaced has it.

        Raises UsageError when there is no volume, two are at one path, `new` is no valid login or has two keys or
        passwords; ConflictError when its name or uid was ever given, or the instance has a login already;
        InternalError when it has none and `new` is None.
        """
        paths = [volume.path for volume, _ in volumes]
        if not paths or len(set(paths)) != len(paths):
            raise UsageError(f"{key}: at least one volume must be named, and each only once")
        with self._write() as connection:
            instance = rows.instance_id(connection, key)
            if instance is None:
                if new is None:
                    raise InternalError(f"{key} was never shared, and no login was made for it")
                instance = rows.insert_instance(connection, key, new, now)
            elif new is not None:
                # The caller has made credentials, and would show a password that opens nothing.
                raise ConflictError(f"{key} has a login already; {new.login} was not made")
            else:
                self._changed(connection, instance, now)
            for volume, mode in volumes:
                values = {
                    "mode": mode.value,
                    "follows": volume.path in follow,
                    "granted_at": now,
                    "granted_by": by,
                    **rows.ownership_values(ownership, owner_ids),
                    **rows.limits_values(limits.after(rows.limits_at(connection, instance, volume.path, origin))),
                }
                rows.put_grant(connection, instance, volume, origin, values)
            is_now = update(t.instances).where(t.instances.c.id == instance).values(runtime_id=runtime_id)
            connection.execute(is_now)
            (record,) = rows.instances(connection, t.instances.c.id == instance)
            return record

    @storing(0)
    def reconcile(
        self,
        *,
        withdraw: Sequence[GrantName] = (),
        alter: Sequence[AlteredGrant] = (),
        follow: Sequence[FollowedGrant] = (),
        now: float,
    ) -> None:
        """Take grants away, change others in everything but the volume they are for, and let others go over.

        What is not there (any more) is passed over. `now` is Unix seconds.
        """
        with self._write() as connection:
            for key, path, origin in withdraw:
                if (instance := rows.instance_id(connection, key)) is not None:
                    self._take_away(connection, instance, [path], origin, now)
            for change in alter:
                if (instance := rows.instance_id(connection, change.key)) is not None:
                    found = rows.grant_ids(connection, instance, [change.path], change.origin)
                    values = {
                        "mode": change.mode.value,
                        "follows": change.follows,
                        "granted_by": change.by,
                        **rows.ownership_values(change.ownership, change.owner_ids),
                        **rows.limits_values(change.limits),
                    }
                    connection.execute(update(t.grants).where(t.grants.c.id.in_(found)).values(values))
                    self._changed(connection, instance, now)
            for gone_over in follow:
                if (instance := rows.instance_id(connection, gone_over.key)) is not None:
                    found = rows.grant_ids(connection, instance, [gone_over.volume.path], gone_over.origin)
                    row = rows.put_volume(connection, instance, gone_over.volume)
                    following = and_(t.grants.c.id.in_(found), t.grants.c.follows)
                    goes_over = update(t.grants).where(following)
                    connection.execute(goes_over.values(volume_id=row, mode=gone_over.mode.value))
                    rows.drop_unused_volumes(connection, instance)
                    self._changed(connection, instance, now)

    def rules(self) -> tuple[AccessRule, ...]:
        """The rules of the access files as they were applied last, in their order."""
        with self._read() as connection:
            return tuple(rows.rule(row) for row in connection.execute(select(t.rules).order_by(t.rules.c.id)))

    @storing(0)
    def replace_rules(self, rules: Sequence[AccessRule]) -> None:
        """Remember `rules`, and nothing of those before."""
        with self._write() as connection:
            connection.execute(delete(t.rules))
            for number, rule in enumerate(rules):
                connection.execute(insert(t.rules).values(id=number, **rows.rule_values(rule)))

    def sizes(self) -> dict[Directory, Usage]:
        """What was counted last in each volume."""
        with self._read() as connection:
            return {directory: usage for directory, (_, usage) in rows.sizes(connection).items()}

    @storing(None)
    def keep_sizes(self, counted: Mapping[Directory, Usage], of: Collection[Directory]) -> None:
        """Remember what was `counted`, in place of what was before; forget that of all volumes but those in `of`."""
        with self._write() as connection:
            known = rows.sizes(connection)
            gone = [{"row": row} for directory, (row, _) in known.items() if directory not in of]
            changed = [
                {"row": row, **rows.size_values(usage)}
                for directory, (row, before) in known.items()
                if directory in of and (usage := counted.get(directory, before)) != before
            ]
            new = [
                {"source": directory.source, "birth": directory.birth, **rows.size_values(usage)}
                for directory, usage in counted.items()
                if directory in of and directory not in known
            ]
            this = t.sizes.c.id == bindparam("row")
            for statement, values in ((delete(t.sizes).where(this), gone), (update(t.sizes).where(this), changed)):
                if values:
                    connection.execute(statement, values)
            if new:
                connection.execute(insert(t.sizes), new)

    @storing(0)
    def disable(
        self, key: InstanceKey, paths: Sequence[str], now: float, origins: Sequence[Origin] = (Origin.COMMAND,)
    ) -> tuple[str, ...]:
        """Take the grants of `origins` at `paths` away, at `now`, Unix seconds. Login and credentials stay.

        Gives the paths at which there was one, sorted; none for an instance that was never shared.
        """
        with self._write() as connection:
            instance = rows.instance_id(connection, key)
            if instance is None:
                return ()
            taken = [self._take_away(connection, instance, paths, origin, now) for origin in origins]
            return tuple(sorted({path for paths in taken for path in paths}))

    def _take_away(
        self, connection: Connection, instance: int, paths: Sequence[str], origin: Origin, now: float
    ) -> tuple[str, ...]:
        found = rows.grant_ids(connection, instance, paths, origin)
        if found:
            rows.leave_limits(connection, found)
            connection.execute(delete(t.grants).where(t.grants.c.id.in_(found)))
            rows.drop_unused_volumes(connection, instance)
            self._changed(connection, instance, now)
        return tuple(sorted(found.values()))

    @storing(None)
    def saw(self, keys: Collection[InstanceKey], now: float) -> None:
        """Record that the instances called `keys` are there at `now`, Unix seconds. Those never shared are left out."""
        with self._write() as connection:
            for record in rows.instances(connection):
                if record.key in keys:
                    connection.execute(update(t.instances).where(rows.called(record.key)).values(seen_at=now))

    @storing(0)
    def forget(self, key: InstanceKey) -> InstanceRecord:
        """Remove the instance `key`, its grants and its credentials. Its login and uid are never given again.

        Gives what there was. Raises NotFoundError when it was never shared.
        """
        with self._write() as connection:
            record = _only(rows.instances(connection, rows.called(key)))
            if record is None:
                raise NotFoundError(f"{key} was never shared")
            owner = rows.login_id(connection, record.login)
            connection.execute(delete(t.credentials).where(t.credentials.c.login_id == owner))
            # Its volumes and grants go with it, its login is left without an instance (tables).
            connection.execute(delete(t.instances).where(rows.called(key)))
            connection.execute(delete(t.key_sources).where(rows.of_key(t.key_sources.c, key)))
            return record

    @storing(FOR_ACCESS)
    def add_person(self, new: NewLogin, *, full_name: str, now: float) -> PersonRecord:
        """Make a person, who is called by the login `new`, at `now`, Unix seconds.

        Raises UsageError when `new` is no valid login or has two keys or passwords, ConflictError when its name or uid
        was ever given.
        """
        with self._write() as connection:
            person = rows.insert_person(connection, new, full_name, now)
            (record,) = rows.people(connection, t.people.c.id == person)
            return record

    @storing(0)
    def remove_person(self, login: str) -> PersonRecord:
        """Remove a person with all grants and credentials. Their login and uid are never given again.

        Gives what there was. Raises NotFoundError.
        """
        with self._write() as connection:
            person = rows.person_id(connection, login)
            (record,) = rows.people(connection, t.people.c.id == person)
            owner = rows.login_id(connection, login)
            connection.execute(delete(t.credentials).where(t.credentials.c.login_id == owner))
            connection.execute(delete(t.people).where(t.people.c.id == person))
            for key in {grant.key for grant in record.grants}:
                if (instance := rows.instance_id(connection, key)) is not None:
                    rows.drop_unused_volumes(connection, instance)
            return record

    @storing(FOR_ACCESS)
    def grant_person(
        self,
        login: str,
        key: InstanceKey,
        volumes: Sequence[tuple[VolumeInfo, Mode, str]],
        *,
        by: str,
        now: float,
        new: NewLogin | None,
        ownerships: Mapping[str, tuple[Ownership, IdPair | None]] = MappingProxyType({}),
        runtime_id: str = "",
        limits: NewLimits = KEEP_LIMITS,
    ) -> PersonRecord:
        """Let the person with `login` use `volumes` of the instance `key`, each in its mode and only that folder of it.

        A grant of that person's at the same path is replaced. `new` as in `enable`, for an instance that has no login
        yet, and `runtime_id`. `ownerships` are as in GrantRecord, by path; `limits` as in
        `enable`. Raises NotFoundError for no such person, ConflictError when they have VOLUMES_MAX, and as `enable`.
        """
        with self._write() as connection:
            person = rows.person_id(connection, login)
            instance = rows.instance_id(connection, key)
            if instance is None:
                if new is None:
                    raise InternalError(f"{key} was never shared, and no login was made for it")
                instance = rows.insert_instance(connection, key, new, now)
                is_now = update(t.instances).where(t.instances.c.id == instance).values(runtime_id=runtime_id)
                connection.execute(is_now)
            elif new is not None:
                raise ConflictError(f"{key} has a login already; {new.login} was not made")
            paths = [volume.path for volume, _, _ in volumes]
            before = rows.person_grant_ids(connection, person, instance, paths)
            limited = rows.person_limits(connection, before)
            connection.execute(delete(t.person_grants).where(t.person_grants.c.id.in_(before)))
            for volume, mode, folder in volumes:
                values = {
                    "person_id": person,
                    "volume_id": rows.put_volume(connection, instance, volume),
                    "mode": mode.value,
                    "folder": folder,
                    "granted_at": now,
                    "granted_by": by,
                    **rows.ownership_values(*ownerships.get(volume.path, (UNSAID, None))),
                    **rows.limits_values(limits.after(limited.get(volume.path, NO_LIMITS))),
                }
                connection.execute(insert(t.person_grants).values(values))
            count = select(func.count()).where(t.person_grants.c.person_id == person)
            if connection.execute(count).scalar_one() > VOLUMES_MAX:
                raise ConflictError(f"at most {VOLUMES_MAX} volumes can be shared with one person at once")
            rows.drop_unused_volumes(connection, instance)
            (record,) = rows.people(connection, t.people.c.id == person)
            return record

    @storing(0)
    def revoke_person(self, login: str, key: InstanceKey, paths: Collection[str]) -> tuple[str, ...]:
        """Take the grants of the person with `login` at `paths` of an instance away. Gives at which there was one,
        sorted. Raises NotFoundError for no such person."""
        with self._write() as connection:
            person = rows.person_id(connection, login)
            instance = rows.instance_id(connection, key)
            if instance is None:
                return ()
            found = rows.person_grant_ids(connection, person, instance, paths)
            connection.execute(delete(t.person_grants).where(t.person_grants.c.id.in_(found)))
            rows.drop_unused_volumes(connection, instance)
            return tuple(sorted(found.values()))

    def credentials(self, login: str) -> tuple[CredentialRecord, ...]:
        """The credentials of `login`, any text, keys first; none for an unknown one."""
        if not valid_login(login):
            return ()
        with self._read() as connection:
            return rows.credentials(connection, login)

    @storing(0)
    def replace_credential(self, login: str, new: NewCredential, now: float, instead_of: int | None = None) -> int:
        """Give `login` the credential `new`, made at `now` (Unix seconds), in place of the one of its kind, if any.
        With `instead_of` only if that is in this row. Gives the row of the new one.

        Raises NotFoundError for an unknown login, ConflictError when it has the key already, or something else by now.
        """
        with self._write() as connection:
            owner = rows.login_id(connection, login)
            if instead_of is not None:
                this = and_(t.credentials.c.login_id == owner, t.credentials.c.id == instead_of)
                if not connection.execute(select(exists().where(this))).scalar_one():
                    raise ConflictError(f"the {new.kind.value} of {login} was changed meanwhile")
            if new.kind in rows.SINGLE:
                rows.end_keys(connection, owner, t.credentials.c.kind == new.kind.value)
            self._check_new(connection, owner, login, new)
            made = connection.execute(insert(t.credentials).values(login_id=owner, **rows.credential_values(new, now)))
            return int(made.lastrowid)

    @staticmethod
    def _check_new(connection: Connection, owner: int, login: str, new: NewCredential) -> None:
        same = and_(t.credentials.c.login_id == owner, t.credentials.c.fingerprint == new.fingerprint)
        if new.fingerprint is not None and connection.execute(select(exists().where(same))).scalar_one():
            raise ConflictError(f"{login} has the key {new.fingerprint} already")
        count = select(func.count()).where(t.credentials.c.login_id == owner)
        if connection.execute(count).scalar_one() >= CREDENTIALS_MAX:
            raise ConflictError(f"{login} has {CREDENTIALS_MAX} keys already: take some away")

    @storing(0)
    def remove_credential(self, login: str, credential: int) -> bool:
        """Take the credential in row `credential` away from `login`. False if it has none such (any more)."""
        with self._write() as connection:
            owner = rows.login_id(connection, login)
            this = and_(t.credentials.c.login_id == owner, t.credentials.c.id == credential)
            there = connection.execute(select(exists().where(this))).scalar_one()
            rows.end_keys(connection, owner, t.credentials.c.id == credential)
            return bool(there)

    def key_sources(self) -> dict[InstanceKey, frozenset[Directory]]:
        """What `keep_key_sources` was told last of each instance."""
        found: dict[InstanceKey, set[Directory]] = {}
        with self._read() as connection:
            for row in connection.execute(select(t.key_sources)):
                key = InstanceKey(row.environment, row.container, row.number)
                found.setdefault(key, set()).add(Directory(row.source, row.birth))
        return {key: frozenset(directories) for key, directories in found.items()}

    @storing(FOR_ACCESS)
    def keep_key_sources(self, sources: Mapping[InstanceKey, Collection[Directory]]) -> None:
        """Remember in which volumes of these instances keys may lie that let somebody in.

        Of more than KEY_SOURCES_MAX those go that were told first, of instances that were never shared.
        """
        columns = t.key_sources.c
        with self._write() as connection:
            for key, directories in sources.items():
                connection.execute(delete(t.key_sources).where(rows.of_key(columns, key)))
                for one in directories:
                    values = {**structs.asdict(key), "source": one.source, "birth": one.birth}
                    connection.execute(insert(t.key_sources).values(values))
            count = connection.execute(select(func.count()).select_from(t.key_sources)).scalar_one()
            if count > KEY_SOURCES_MAX:
                shared = and_(*(columns[name] == t.instances.c[name] for name in InstanceKey.__struct_fields__))
                never = select(columns.id).where(~exists().where(shared)).order_by(columns.id)
                oldest = never.limit(count - KEY_SOURCES_MAX).scalar_subquery()
                connection.execute(delete(t.key_sources).where(columns.id.in_(oldest)))

    @storing(FOR_ACCESS)
    def make_share_link(self, key: InstanceKey, new: NewShareLink) -> ShareLinkRecord:
        """Make a link to the instance `key`. Raises NotFoundError for one that was never shared, ConflictError when
        there are too many."""
        with self._write() as connection:
            instance = rows.instance_id(connection, key)
            if instance is None:
                raise NotFoundError(f"{key} was never shared")
            (record,) = share_links.found(connection, t.share_links.c.id == share_links.make(connection, instance, new))
            return record

    def share_links(self, key: InstanceKey | None = None) -> tuple[ShareLinkRecord, ...]:
        """All links, or those to the instance `key`, the latest first."""
        with self._read() as connection:
            return share_links.found(connection, *(() if key is None else (rows.called(key),)))

    def share_link(self, *, digest: str | None = None, row: int | None = None) -> ShareLinkRecord | None:
        """The link whose token has that SHA-256, hex digits, or which is in that row; None when there is none."""
        this = t.share_links.c.digest == digest if row is None else t.share_links.c.id == row
        with self._read() as connection:
            found = share_links.found(connection, this)
        return found[0] if found else None

    @storing(0)
    def use_share_link(self, row: int, now: float, wrong_max: int) -> bool:
        """Count that the link in that row is opened at `now`, Unix seconds. False when it may not be (any more), also
        after `wrong_max` wrong passphrases."""
        links = t.share_links.c
        usable = and_(links.id == row, links.uses < links.uses_max, links.wrong < wrong_max, links.expires_at > now)
        with self._write() as connection:
            counted = connection.execute(update(t.share_links).where(usable).values(uses=links.uses + 1))
            return bool(counted.rowcount)

    @storing(0)
    def miss_share_link(self, row: int) -> None:
        """Count a wrong passphrase for the link in that row."""
        links = t.share_links.c
        with self._write() as connection:
            connection.execute(update(t.share_links).where(links.id == row).values(wrong=links.wrong + 1))

    @storing(0)
    def drop_share_link(self, name: str) -> ShareLinkRecord:
        """Take a link back. Gives what it was. Raises NotFoundError."""
        with self._write() as connection:
            found = share_links.found(connection, t.share_links.c.name == name)
            if not found:
                raise NotFoundError(f"there is no link {name!r}; 'hatchway link ls' lists them")
            connection.execute(delete(t.share_links).where(t.share_links.c.id == found[0].id))
            return found[0]

    def ended_keys(self, login: str) -> frozenset[str]:
        """The fingerprints of the keys of `login` that were renewed or taken away."""
        query = select(t.ended_keys.c.fingerprint).join(t.logins).where(t.logins.c.name == login)
        with self._read() as connection:
            return frozenset(connection.execute(query).scalars())

    @storing(None)
    def rehash(self, credential: int, before: str, after: str) -> bool:
        """Keep the same password by another hash, if it still is by the one `before`. False when it is not."""
        with self._write() as connection:
            this = and_(t.credentials.c.id == credential, t.credentials.c.public == before)
            return connection.execute(update(t.credentials).where(this).values(public=after)).rowcount > 0

    @storing(0)
    def change_conditions(self, login: str, change: Callable[[Conditions], Conditions]) -> Conditions:
        """Have the conditions of `login` be what `change` makes of them. Gives those before.

        Raises NotFoundError for an unknown login, and what `change` raises; then nothing has been changed.
        """
        with self._write() as connection:
            owner = rows.login_id(connection, login)
            record = rows.by_login(connection, t.logins.c.id == owner)
            if record is None:
                raise NotFoundError(f"{login} is nobody's login any more")
            values = rows.conditions_values(change(record.conditions))
            connection.execute(update(t.logins).where(t.logins.c.id == owner).values(values))
            return record.conditions

    def deliveries(self, login: str | None = None) -> tuple[Delivery, ...]:
        """Where private keys lie, or are to lie or not to lie: that of `login`, or all, in the order they were made."""
        query = select(t.deliveries, t.logins.c.name).join(t.logins).order_by(t.deliveries.c.id)
        if login is not None:
            query = query.where(t.logins.c.name == login)
        with self._read() as connection:
            return tuple(rows.delivery(row) for row in connection.execute(query))

    @storing(0)
    def put_delivery(self, delivery: Delivery) -> Delivery:
        """Store `delivery`, in place of the one with its id. Gives it as it is stored. Raises NotFoundError."""
        with self._write() as connection:
            values = rows.delivery_values(delivery)
            if delivery.id is None:
                owner = rows.login_id(connection, delivery.login)
                made = connection.execute(insert(t.deliveries).values(login_id=owner, **values))
                return dataclasses.replace(delivery, id=rows.key_of(made))
            connection.execute(update(t.deliveries).where(t.deliveries.c.id == delivery.id).values(values))
            return delivery

    @storing(0)
    def drop_delivery(self, delivery: Delivery) -> None:
        """Forget `delivery`."""
        with self._write() as connection:
            connection.execute(delete(t.deliveries).where(t.deliveries.c.id == delivery.id))

    @storing(0)
    def reseal(self, change: Callable[[str, CredentialRecord], bytes]) -> int:
        """Seal every secret anew, all or none: `change` gives what is to be kept of a login's credential. Gives how
        many there were. Raises what `change` raises."""
        with self._write() as connection:
            sealed = rows.sealed(connection)
            for login, record in sealed:
                anew = update(t.credentials).where(t.credentials.c.id == record.id)
                connection.execute(anew.values(sealed=change(login, record)))
            return len(sealed)

    def sealed(self) -> list[tuple[str, CredentialRecord]]:
        """Each credential with a sealed secret, and whose it is."""
        with self._read() as connection:
            return rows.sealed(connection)

    @storing(FOR_ACCESS)
    def open_session(
        self,
        session: str,
        login: str,
        *,
        address: str,
        method: str,
        credential: str | None,
        now: float,
        credential_id: int | None = None,
    ) -> SessionRecord:
        """Record that the session with the id `session` was let in at `now`, Unix seconds.

        The other fields are those of SessionRecord. Raises NotFoundError for an unknown login, ConflictError for the
        id of a session that is open.
        """
        with self._write() as connection:
            owner = rows.login_id(connection, login)
            if connection.execute(select(exists().where(t.sessions.c.id == session))).scalar_one():
                raise ConflictError(f"a session {session!r} is open already")
            entry = {"id": session, "login_id": owner, "opened_at": now}
            how = {"address": address, "method": method, "credential": credential, "credential_id": credential_id}
            connection.execute(insert(t.sessions).values(**entry, **how))
            (record,) = rows.sessions(connection, t.sessions.c.id == session)
            return record

    @storing(FOR_ACCESS)
    def close_session(self, session: str) -> SessionRecord | None:
        """Forget a session, which has ended. Gives what there was; None when it is not open."""
        with self._write() as connection:
            found = next(iter(rows.sessions(connection, t.sessions.c.id == session)), None)
            connection.execute(delete(t.sessions).where(t.sessions.c.id == session))
            return found

    def open_sessions(self, login: str | None = None) -> tuple[SessionRecord, ...]:
        """The sessions that have not ended, of `login` or of all, oldest first."""
        with self._read() as connection:
            return rows.sessions(connection, *([] if login is None else [t.logins.c.name == login]))

    @storing(None)
    def add_events(self, events: Sequence[NewEvent]) -> None:
        """Add `events` to the record."""
        if events:
            with self._write() as connection:
                connection.execute(insert(t.events), [dataclasses.asdict(event) for event in events])

    def events(
        self,
        *,
        limit: int,
        instance: str | None = None,
        kinds: Collection[EventKind] = (),
        since: float | None = None,
        after: int | None = None,
    ) -> tuple[EventRecord, ...]:
        """The latest `limit` events, oldest first: of the instance with that key, of `kinds`, since `since` (Unix
        seconds); None, or no kinds: of all. With `after` the first `limit` of those that came after the event with
        that id."""
        query = select(t.events)
        if instance is not None:
            query = query.where(t.events.c.instance == instance)
        if kinds:
            query = query.where(t.events.c.kind.in_([kind.value for kind in kinds]))
        if since is not None:
            query = query.where(t.events.c.at >= since)
        with self._read() as connection:
            if after is not None:
                return rows.events(connection, query.where(t.events.c.id > after).order_by(t.events.c.id).limit(limit))
            return rows.events(connection, query.order_by(t.events.c.id.desc()).limit(limit))[::-1]

    def whose(self, logins: Collection[str]) -> dict[str, str]:
        """Whose logins these are, as in InstanceRecord.whose, as far as they are anybody's. Of no use for more than
        some hundreds at once."""
        query = select(t.logins.c.name, t.instances.c.environment, t.instances.c.container, t.instances.c.number)
        theirs = select(t.logins.c.name).join(t.people)
        with self._read() as connection:
            found = connection.execute(query.join(t.instances).where(t.logins.c.name.in_(logins)))
            known = {row.name: str(InstanceKey(row.environment, row.container, row.number)) for row in found}
            people = connection.execute(theirs.where(t.logins.c.name.in_(logins))).scalars()
            return known | {name: name for name in people}

    def event_times(self, before: float) -> tuple[float, float] | None:
        """When the first event was, and the last of those from before `before`; Unix seconds. None: no such event."""
        at, number = t.events.c.at, t.events.c.id
        with self._read() as connection:
            first = connection.execute(select(at).order_by(number).limit(1)).scalar()
            last = connection.execute(select(at).where(at < before).order_by(number.desc()).limit(1)).scalar()
            return None if first is None or last is None else (first, last)

    @storing(None)
    def forget_events(self, *, older_than: float, at_most: int) -> int:
        """Forget events from before `older_than`, Unix seconds, the oldest first, `at_most` at once. Gives how many."""
        with self._write() as connection:
            return rows.delete_oldest_events(connection, at_most, t.events.c.at < older_than)

    @storing(None)
    def thin_events(self, *, kinds: Collection[EventKind], keep: int, at_most: int) -> int:
        """Forget events of `kinds` as long as there are more than `keep`, `at_most` at once. Gives how many.

        Each instance has the same share, and what one does not need of it the others have: who has more loses the
        oldest, who has less loses nothing. Events of no instance are one instance's. With more instances than `keep`
        the oldest of all are forgotten.
        """
        of_kinds = t.events.c.kind.in_([kind.value for kind in kinds])
        instance, left = t.events.c.instance, at_most
        with self._write() as connection:
            found = connection.execute(select(instance, func.count()).where(of_kinds).group_by(instance))
            counts: dict[str, int] = {row[0]: row[1] for row in found}
            if (too_many := sum(counts.values()) - keep) <= 0:
                return 0
            share = rows.fair_share(counts.values(), keep)
            if share == 0:
                return rows.delete_oldest_events(connection, min(too_many, at_most), of_kinds)
            for name in sorted(counts, key=counts.__getitem__, reverse=True):
                if left > 0 and counts[name] > share:
                    over = min(counts[name] - share, left)
                    left -= rows.delete_oldest_events(connection, over, of_kinds, instance == name)
            return at_most - left

    def _read(self) -> AbstractContextManager[Connection]:
        # In a transaction too: several statements then see one state.
        return self._engine.begin()

    def _write(self) -> AbstractContextManager[Connection]:
        return self._writing.begin()

    @staticmethod
    def _changed(connection: Connection, instance: int, now: float) -> None:
        connection.execute(update(t.instances).where(t.instances.c.id == instance).values(changed_at=now))


def _only(found: tuple[InstanceRecord, ...]) -> InstanceRecord | None:
    return found[0] if found else None
