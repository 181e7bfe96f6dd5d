"""Between rows and records: reading the one as the other, and the inserts that several methods of the store share.

Runs inside the transaction of whoever calls; never begins or ends one.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Iterable
from typing import Any

import msgspec
from sqlalchemy import (
    Column,
    ColumnElement,
    Connection,
    CursorResult,
    Row,
    Select,
    and_,
    delete,
    exists,
    insert,
    select,
    update,
)
from sqlalchemy.sql.base import ReadOnlyColumnCollection

from hatchway.errors import ConflictError, NotFoundError, UsageError
from hatchway.model import (
    NO_LIMITS,
    AccessRule,
    Directory,
    EventKind,
    IdPair,
    InstanceKey,
    Limits,
    Login,
    Mode,
    Origin,
    Ownership,
    Uid,
    VolumeInfo,
    VolumeKind,
    valid_login,
)
from hatchway.registry import tables as t
from hatchway.registry.records import (
    NO_CONDITIONS,
    Conditions,
    CredentialKind,
    CredentialRecord,
    Delivery,
    EventRecord,
    GrantRecord,
    InstanceRecord,
    LoginRecord,
    NewCredential,
    NewEvent,
    NewLogin,
    PersonGrant,
    PersonRecord,
    SessionRecord,
)
from hatchway.wire.host import Usage

Condition = ColumnElement[bool]
Columns = ReadOnlyColumnCollection[str, Column[Any]]

SINGLE = (CredentialKind.KEY, CredentialKind.PASSWORD)
"""Kinds of which a login has one at most."""


def called(key: InstanceKey) -> Condition:
    """That an instance is the one called `key`."""
    return of_key(t.instances.c, key)


def of_key(columns: Columns, key: InstanceKey) -> Condition:
    """That these columns of a table name the instance `key`."""
    return and_(
        columns.environment == key.environment, columns.container == key.container, columns.number == key.number
    )


def instance_id(connection: Connection, key: InstanceKey) -> int | None:
    """The row of the instance called `key`, None if it was never shared."""
    found: int | None = connection.execute(select(t.instances.c.id).where(called(key))).scalar()
    return found


def login_id(connection: Connection, login: str) -> int:
    """The row of `login`. Raises NotFoundError."""
    found: int | None = None
    if valid_login(login):
        found = connection.execute(select(t.logins.c.id).where(t.logins.c.name == login)).scalar()
    if found is None:
        raise NotFoundError(f"there is no login {login!r}")
    return found


def instances(connection: Connection, *conditions: Condition) -> tuple[InstanceRecord, ...]:
    """The instances that meet all `conditions` (on instances and logins), in the order of their keys."""

    def matching(query: Select[Any]) -> Select[Any]:
        return query.join(t.logins, t.logins.c.instance_id == t.instances.c.id).where(*conditions)

    granted: dict[int, list[GrantRecord]] = {}
    columns = [column for column in t.grants.c if column.name not in ("id", "volume_id")]
    of_grants = select(t.volumes, *columns).join(t.grants, t.grants.c.volume_id == t.volumes.c.id).join(t.instances)
    for row in connection.execute(matching(of_grants)):
        granted.setdefault(row.instance_id, []).append(_own_grant(row))
    of_login = [column for column in t.logins.c if column.name not in ("id", "instance_id", "person_id", "created_at")]
    # Sorted here and not by the database, whose order of text may be another (PostgreSQL's collations).
    records = [
        InstanceRecord(
            key=InstanceKey(row.environment, row.container, row.number),
            login=Login(row.name),
            uid=Uid(row.uid),
            created_at=row.created_at,
            seen_at=row.seen_at,
            runtime_id=row.runtime_id,
            grants=tuple(sorted(granted.get(row.id, ()), key=lambda grant: (grant.path, grant.origin))),
            conditions=_conditions(row),
        )
        for row in connection.execute(matching(select(t.instances, *of_login)))
    ]
    return tuple(sorted(records, key=lambda record: record.key))


def people(connection: Connection, *conditions: Condition) -> tuple[PersonRecord, ...]:
    """The people that meet all `conditions` (on people and logins), in the order of their logins."""

    def matching(query: Select[Any]) -> Select[Any]:
        return query.join(t.logins, t.logins.c.person_id == t.people.c.id).where(*conditions)

    granted: dict[int, list[PersonGrant]] = {}
    theirs = t.logins.alias("instance_logins")
    columns = [column for column in t.person_grants.c if column.name not in ("id", "volume_id")]
    named = (t.instances.c.environment, t.instances.c.container, t.instances.c.number)
    of_grants = (
        select(t.volumes, *columns, *named, theirs.c.name.label("instance_login"))
        .join(t.person_grants, t.person_grants.c.volume_id == t.volumes.c.id)
        .join(t.people, t.people.c.id == t.person_grants.c.person_id)
        .join(t.instances, t.instances.c.id == t.volumes.c.instance_id)
        .join(theirs, theirs.c.instance_id == t.instances.c.id)
    )
    for row in connection.execute(matching(of_grants)):
        key = InstanceKey(row.environment, row.container, row.number)
        grant = PersonGrant(key, Login(row.instance_login), _grant(row), row.folder)
        granted.setdefault(row.person_id, []).append(grant)
    of_login = [column for column in t.logins.c if column.name not in ("id", "person_id", "created_at")]
    records = [
        PersonRecord(
            login=Login(row.name),
            uid=Uid(row.uid),
            created_at=row.created_at,
            full_name=row.full_name,
            grants=tuple(sorted(granted.get(row.id, ()), key=lambda one: (one.key, one.grant.path))),
            conditions=_conditions(row),
        )
        for row in connection.execute(matching(select(t.people, *of_login)))
    ]
    return tuple(sorted(records, key=lambda record: record.login))


def by_login(connection: Connection, *conditions: Condition) -> LoginRecord | None:
    """Whose the login is that meets `conditions`; None when it is nobody's."""
    found: tuple[LoginRecord, ...] = instances(connection, *conditions) or people(connection, *conditions)
    return found[0] if found else None


def person_id(connection: Connection, login: str) -> int:
    """The row of the person with `login`. Raises NotFoundError."""
    found: int | None = None
    if valid_login(login):
        found = connection.execute(select(t.logins.c.person_id).where(t.logins.c.name == login)).scalar()
    if found is None:
        raise NotFoundError(f"there is no person {login!r}")
    return found


def _conditions(row: Row[Any]) -> Conditions:
    return Conditions(
        allowed_from=tuple(row.allowed_from.split()),
        expires_at=row.expires_at,
        locked_at=row.locked_at,
        locked_why=row.locked_why,
        sessions_max=row.sessions_max,
        volume_keys=row.volume_keys,
    )


def conditions_values(conditions: Conditions) -> dict[str, Any]:
    """The columns of `conditions`."""
    return {**dataclasses.asdict(conditions), "allowed_from": " ".join(conditions.allowed_from)}


def _own_grant(row: Row[Any]) -> GrantRecord:
    return dataclasses.replace(_grant(row), origin=Origin(row.origin), follows=row.follows)


def _grant(row: Row[Any]) -> GrantRecord:
    return GrantRecord(
        path=row.path,
        name=row.name,
        kind=VolumeKind(row.kind),
        driver=row.driver,
        created=row.created,
        source=row.source,
        mode=Mode(row.mode),
        identity=row.identity,
        granted_at=row.granted_at,
        granted_by=row.granted_by,
        ownership=Ownership(row.owner, row.umask),
        owner_ids=None if row.owner_uid is None or row.owner_gid is None else IdPair(row.owner_uid, row.owner_gid),
        limits=Limits(row.size, row.files),
    )


def ownership_values(ownership: Ownership, ids: IdPair | None) -> dict[str, Any]:
    """The columns of a grant's `ownership`, whose owner is `ids` of the host."""
    return {
        "owner": ownership.owner,
        "umask": ownership.umask,
        "owner_uid": None if ids is None else ids.uid,
        "owner_gid": None if ids is None else ids.gid,
    }


def limits_values(limits: Limits) -> dict[str, Any]:
    """The columns of `limits`."""
    return {"size": limits.size, "files": limits.files}


def limits_at(connection: Connection, instance: int, path: str, origin: Origin) -> Limits:
    """The limits of the grant of an origin at `path`, be it for another volume; none when there is no grant."""
    query = select(t.grants.c.size, t.grants.c.files).join(t.volumes)
    of_path = and_(t.volumes.c.instance_id == instance, t.volumes.c.path == path, t.grants.c.origin == origin.value)
    row = connection.execute(query.where(of_path)).first()
    return NO_LIMITS if row is None else Limits(row.size, row.files)


def insert_instance(connection: Connection, key: InstanceKey, new: NewLogin, now: float) -> int:
    """Make the instance `key` with its login and credentials. Gives its row.

    Raises ConflictError when the name or uid was ever given, UsageError for an invalid name or two credentials of a
    kind.
    """
    _check_free(connection, new)
    made = connection.execute(
        insert(t.instances).values(
            environment=key.environment,
            container=key.container,
            number=key.number,
            runtime_id="",
            created_at=now,
            changed_at=now,
            seen_at=now,
        )
    )
    instance = key_of(made)
    _insert_login(connection, new, now, instance_id=instance)
    return instance


def insert_person(connection: Connection, new: NewLogin, full_name: str, now: float) -> int:
    """Make a person with their login and credentials. Gives their row. Raises as `insert_instance`."""
    _check_free(connection, new)
    person = key_of(connection.execute(insert(t.people).values(full_name=full_name, created_at=now)))
    _insert_login(connection, new, now, person_id=person)
    return person


def _check_free(connection: Connection, new: NewLogin) -> None:
    if not valid_login(new.login):
        raise UsageError(f"{new.login!r} cannot be a login")
    if connection.execute(select(exists().where(t.logins.c.name == new.login))).scalar_one():
        raise ConflictError(f"the login {new.login} is taken")
    if connection.execute(select(exists().where(t.logins.c.uid == new.uid))).scalar_one():
        raise ConflictError(f"the uid {new.uid} was given before")
    if any(sum(other.kind is kind for other in new.credentials) > 1 for kind in SINGLE):
        raise UsageError(f"{new.login}: a login has at most one key of ours and one password")


def _insert_login(connection: Connection, new: NewLogin, now: float, **whose: int) -> None:
    made = connection.execute(
        insert(t.logins).values(
            name=new.login, uid=new.uid, created_at=now, **whose, **conditions_values(NO_CONDITIONS)
        )
    )
    login = key_of(made)
    for credential in new.credentials:
        connection.execute(insert(t.credentials).values(login_id=login, **credential_values(credential, now)))


def put_volume(connection: Connection, instance: int, volume: VolumeInfo) -> int:
    """Describe the `volume` of the instance in row `instance`. Gives its row."""
    described = {
        "name": volume.name,
        "kind": volume.kind.value,
        "driver": volume.driver,
        "created": volume.created,
        "source": volume.source,
    }
    same = and_(
        t.volumes.c.instance_id == instance,
        t.volumes.c.path == volume.path,
        t.volumes.c.identity == volume.identity,
    )
    row: int | None = connection.execute(select(t.volumes.c.id).where(same)).scalar()
    if row is None:
        named = {"instance_id": instance, "path": volume.path, "identity": volume.identity}
        return key_of(connection.execute(insert(t.volumes).values(**named, **described)))
    connection.execute(update(t.volumes).where(t.volumes.c.id == row).values(described))
    return row


def grant_ids(connection: Connection, instance: int, paths: Collection[str], origin: Origin) -> dict[int, str]:
    """The grants of an origin at `paths` of the instance in row `instance`: row to path."""
    query = select(t.grants.c.id, t.volumes.c.path).join(t.volumes)
    query = query.where(
        t.volumes.c.instance_id == instance, t.volumes.c.path.in_(set(paths)), t.grants.c.origin == origin.value
    )
    return {row.id: row.path for row in connection.execute(query)}


def put_grant(
    connection: Connection, instance: int, volume: VolumeInfo, origin: Origin, values: dict[str, Any]
) -> None:
    """Grant `volume`, in place of the grant of that origin at its path, be it for another volume."""
    before = grant_ids(connection, instance, [volume.path], origin)
    connection.execute(delete(t.grants).where(t.grants.c.id.in_(before)))
    row = put_volume(connection, instance, volume)
    connection.execute(insert(t.grants).values(volume_id=row, origin=origin.value, **values))
    drop_unused_volumes(connection, instance)


def drop_unused_volumes(connection: Connection, instance: int) -> None:
    """Forget the volumes of an instance for which there is no grant."""
    granted = exists().where(t.grants.c.volume_id == t.volumes.c.id)
    to_somebody = exists().where(t.person_grants.c.volume_id == t.volumes.c.id)
    connection.execute(delete(t.volumes).where(t.volumes.c.instance_id == instance, ~granted, ~to_somebody))


def person_grant_ids(connection: Connection, person: int, instance: int, paths: Collection[str]) -> dict[int, str]:
    """The grants of the person in row `person` at `paths` of the instance in row `instance`: row to path."""
    query = select(t.person_grants.c.id, t.volumes.c.path).join(t.volumes)
    query = query.where(
        t.person_grants.c.person_id == person, t.volumes.c.instance_id == instance, t.volumes.c.path.in_(set(paths))
    )
    return {row.id: row.path for row in connection.execute(query)}


def person_limits(connection: Connection, grants: Collection[int]) -> dict[str, Limits]:
    """The limits of a person's grants in these rows, by path."""
    columns = (t.volumes.c.path, t.person_grants.c.size, t.person_grants.c.files)
    query = select(*columns).join(t.volumes).where(t.person_grants.c.id.in_(grants))
    return {row.path: Limits(row.size, row.files) for row in connection.execute(query)}


def leave_limits(connection: Connection, grants: Collection[int]) -> None:
    """Have the limits of the grants in these rows, which end, hold for the people who have the volumes: nobody gets
    more by what another loses. Limits of their own stay."""
    query = select(t.grants.c.volume_id, t.grants.c.size, t.grants.c.files).where(t.grants.c.id.in_(grants))
    for row in connection.execute(query).all():
        for column, limit in ((t.person_grants.c.size, row.size), (t.person_grants.c.files, row.files)):
            unlimited = and_(t.person_grants.c.volume_id == row.volume_id, column.is_(None))
            connection.execute(update(t.person_grants).where(unlimited).values({column: limit}))


def rule(row: Row[Any]) -> AccessRule:
    """A rule of an access file."""
    return AccessRule(
        where=row.place,
        project=row.project,
        service=row.service,
        volumes=msgspec.json.decode(row.volumes, type=tuple[str, ...]),
        replica=row.replica,
        read_only=row.read_only,
        follow=row.follow,
        ownership=Ownership(row.owner, row.umask),
        limits=Limits(row.size, row.files),
    )


def rule_values(rule: AccessRule) -> dict[str, Any]:
    """The columns of `rule`."""
    return {
        "place": rule.where,
        "project": rule.project,
        "service": rule.service,
        "replica": rule.replica,
        "volumes": msgspec.json.encode(rule.volumes).decode(),
        "read_only": rule.read_only,
        "follow": rule.follow,
        "owner": rule.ownership.owner,
        "umask": rule.ownership.umask,
        **limits_values(rule.limits),
    }


def sizes(connection: Connection) -> dict[Directory, tuple[int, Usage]]:
    """What was counted in each volume, with its row."""
    return {
        Directory(row.source, row.birth): (row.id, Usage(row.size, row.files, row.measured_at))
        for row in connection.execute(select(t.sizes))
    }


def size_values(usage: Usage) -> dict[str, Any]:
    """The columns of `usage`."""
    return {"size": usage.size, "files": usage.files, "measured_at": usage.measured_at}


def credential_values(new: NewCredential, now: float) -> dict[str, Any]:
    """The columns of `new`, made at `now`."""
    return {
        "kind": new.kind.value,
        "public": new.public,
        "sealed": new.sealed,
        "fingerprint": new.fingerprint,
        "sources": new.sources,
        "expires_at": new.expires_at,
        "verify_required": new.verify_required,
        "created_at": now,
    }


def credentials(connection: Connection, login: str) -> tuple[CredentialRecord, ...]:
    """The credentials of `login`: the generated key, the password, the keys that were added, in this order."""
    of_login = select(t.credentials).join(t.logins).where(t.logins.c.name == login)
    records = [_credential(row) for row in connection.execute(of_login)]
    order = list(CredentialKind)
    return tuple(sorted(records, key=lambda record: (order.index(record.kind), record.id)))


def _credential(row: Row[Any]) -> CredentialRecord:
    return CredentialRecord(
        id=row.id,
        kind=CredentialKind(row.kind),
        public=row.public,
        sealed=row.sealed,
        fingerprint=row.fingerprint,
        created_at=row.created_at,
        sources=row.sources,
        expires_at=row.expires_at,
        verify_required=row.verify_required,
    )


def sealed(connection: Connection) -> list[tuple[str, CredentialRecord]]:
    """Each credential with a sealed secret, and whose it is."""
    query = select(t.credentials, t.logins.c.name).join(t.logins).where(t.credentials.c.sealed.is_not(None))
    return [(row.name, _credential(row)) for row in connection.execute(query.order_by(t.credentials.c.id))]


def delivery(row: Row[Any]) -> Delivery:
    """A delivery, from a row that has the login's name."""
    return Delivery(
        login=Login(row.name),
        path=row.path,
        directory=row.directory,
        volume=Directory(row.source, row.birth),
        hashes=tuple(row.hashes.split()),
        wanted=row.wanted,
        done=row.done,
        id=row.id,
    )


def delivery_values(delivery: Delivery) -> dict[str, Any]:
    """The columns of `delivery`, but for whose it is."""
    return {
        "path": delivery.path,
        "directory": delivery.directory,
        "source": delivery.volume.source,
        "birth": delivery.volume.birth,
        "hashes": " ".join(delivery.hashes),
        "wanted": delivery.wanted,
        "done": delivery.done,
    }


def end_keys(connection: Connection, owner: int, *conditions: Condition) -> None:
    """Delete the credentials of the login in row `owner` that meet all `conditions`; keys are noted to have ended."""
    columns = t.credentials.c
    found = select(columns.fingerprint).where(columns.login_id == owner, *conditions)
    gone = {key for key in connection.execute(found).scalars() if key is not None}
    known = set(
        connection.execute(select(t.ended_keys.c.fingerprint).where(t.ended_keys.c.login_id == owner)).scalars()
    )
    if new := gone - known:
        connection.execute(insert(t.ended_keys), [{"login_id": owner, "fingerprint": key} for key in sorted(new)])
    connection.execute(delete(t.credentials).where(columns.login_id == owner, *conditions))


def events(connection: Connection, query: Select[Any]) -> tuple[EventRecord, ...]:
    """The events that `query` selects."""
    return tuple(
        EventRecord(
            id=row.id,
            event=NewEvent(
                at=row.at,
                kind=EventKind(row.kind),
                what=row.what,
                instance=row.instance,
                login=row.login,
                address=row.address,
                who=row.who,
                done=row.done,
                times=row.times,
                read=row.read,
                written=row.written,
            ),
        )
        for row in connection.execute(query)
    )


def delete_oldest_events(connection: Connection, at_most: int, *conditions: Condition) -> int:
    """Delete the first `at_most` events that meet all `conditions`. Gives how many there were."""
    first = select(t.events.c.id).where(*conditions).order_by(t.events.c.id).limit(at_most)
    return connection.execute(delete(t.events).where(t.events.c.id.in_(first))).rowcount


def fair_share(counts: Iterable[int], total: int) -> int:
    """The most that each of `counts` may be cut down to so that they make `total` together, at most; those that are
    less stay as they are."""
    ascending = sorted(counts)
    for number, count in enumerate(ascending):
        share = total // (len(ascending) - number)
        if count > share:
            return share
        total -= count
    return max(ascending, default=0)


def sessions(connection: Connection, *conditions: Condition) -> tuple[SessionRecord, ...]:
    """The open sessions that meet all `conditions`, oldest first."""
    query = select(t.sessions, t.logins.c.name).join(t.logins).where(*conditions)
    return tuple(
        SessionRecord(
            id=row.id,
            login=Login(row.name),
            opened_at=row.opened_at,
            address=row.address,
            method=row.method,
            credential=row.credential,
            credential_id=row.credential_id,
        )
        for row in connection.execute(query.order_by(t.sessions.c.opened_at, t.sessions.c.id))
    )


def key_of(made: CursorResult[Any]) -> int:
    """The number of the row that was made."""
    key = made.inserted_primary_key
    assert key is not None
    return int(key[0])
