"""What the registry remembers, and what it refuses to."""

from __future__ import annotations

import sqlite3
import threading
import traceback
from contextlib import closing
from dataclasses import replace
from typing import Any

import pytest
from msgspec import structs
from sqlalchemy import Engine, event
from sqlalchemy.dialects import postgresql
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.sql import ClauseElement

from hatchway.errors import ConflictError, InternalError, NotFoundError, UsageError
from hatchway.model import (
    FILES_MAX,
    NO_LIMITS,
    SIZE_MAX,
    AccessRule,
    Directory,
    EventKind,
    InstanceKey,
    Limits,
    Login,
    Mode,
    NewLimits,
    Origin,
    Uid,
    VolumeInfo,
    VolumeKind,
)
from hatchway.registry import rows, store
from hatchway.registry.records import (
    NO_CONDITIONS,
    AlteredGrant,
    Conditions,
    CredentialKind,
    CredentialRecord,
    FollowedGrant,
    GrantName,
    GrantRecord,
    InstanceRecord,
    NewCredential,
    NewEvent,
    NewLogin,
    SessionRecord,
)
from hatchway.registry.store import Registry
from hatchway.wire.host import Usage

WEB = InstanceKey("shop", "web", 1)
DATA = VolumeInfo(
    path="/data",
    kind=VolumeKind.VOLUME,
    name="shop_data",
    driver="local",
    created="2024-01-01",
    source="/v/shop_data",
)
LOGS = VolumeInfo(path="/logs", kind=VolumeKind.BIND, source="/srv/logs")
SCRATCH = VolumeInfo(path="/a scratch\n", kind=VolumeKind.TMPFS)
PASSWORD = NewCredential(CredentialKind.PASSWORD, "$argon2id$HASHED", b"\x01SEALED", None)
KEY = NewCredential(CredentialKind.KEY, "ssh-ed25519 PUBLIC shop-web-1", b"\x01PRIVATE", "SHA256:FINGER")
NEW = NewLogin(Login("shop-web-1"), Uid(70000), (PASSWORD, KEY))
ONE, TWO, THREE = (Directory("/v/1", birth) for birth in ("inode:1:1.0", "inode:2:2.0", "inode:3:3.0"))


def _share(registry: Registry, number: int, uid: int, *, container: str = "web") -> InstanceRecord:
    new = NewLogin(Login(f"shop-{container}-{number}"), Uid(uid))
    key = InstanceKey("shop", container, number)
    return registry.enable(key, [(DATA, Mode.READ_ONLY)], by="root", now=1.0, new=new)


def _rows(path: str) -> dict[str, int]:
    """How many rows each table has."""
    with closing(sqlite3.connect(path)) as connection:
        names = connection.execute(
            "SELECT name FROM sqlite_master WHERE type = 'table' AND name NOT IN ('alembic_version', 'sqlite_sequence')"
        )
        return {
            name: connection.execute(f"SELECT count(*) FROM {name}").fetchone()[0]  # noqa: S608
            for (name,) in names.fetchall()
        }


def _raw(path: str, statement: str) -> None:
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("PRAGMA foreign_keys = ON")
        connection.execute(statement)


def test_a_new_registry_is_empty(registry: Registry, path: str) -> None:
    assert registry.instances() == ()
    assert registry.instance(WEB) is None
    assert registry.by_login("shop-web-1") is None
    assert registry.credentials("shop-web-1") == ()
    assert registry.open_sessions() == ()
    assert set(_rows(path).values()) == {0}


def test_the_first_enable_makes_everything(registry: Registry, path: str) -> None:
    made = registry.enable(
        WEB,
        [(LOGS, Mode.READ_ONLY), (DATA, Mode.READ_WRITE), (SCRATCH, Mode.READ_ONLY)],
        by="anna",
        now=10.5,
        new=NEW,
    )
    data = GrantRecord(
        path="/data",
        name="shop_data",
        kind=VolumeKind.VOLUME,
        driver="local",
        created="2024-01-01",
        source="/v/shop_data",
        mode=Mode.READ_WRITE,
        identity="volume:local:shop_data:2024-01-01",
        granted_at=10.5,
        granted_by="anna",
    )
    logs = GrantRecord(
        "/logs", "", VolumeKind.BIND, "", "", "/srv/logs", Mode.READ_ONLY, "bind:/srv/logs", 10.5, "anna"
    )
    scratch = GrantRecord(
        "/a scratch\n", "", VolumeKind.TMPFS, "", "", None, Mode.READ_ONLY, "tmpfs:None", 10.5, "anna"
    )
    assert made == InstanceRecord(WEB, Login("shop-web-1"), Uid(70000), 10.5, 10.5, (scratch, data, logs))
    assert registry.instance(WEB) == made
    assert registry.by_login("shop-web-1") == made
    assert registry.instances() == (made,)
    key, password = registry.credentials("shop-web-1")
    assert key == CredentialRecord(
        key.id, CredentialKind.KEY, "ssh-ed25519 PUBLIC shop-web-1", b"\x01PRIVATE", "SHA256:FINGER", 10.5
    )
    assert password == CredentialRecord(
        password.id, CredentialKind.PASSWORD, "$argon2id$HASHED", b"\x01SEALED", None, 10.5
    )
    assert _rows(path) == {
        "instances": 1, "logins": 1, "volumes": 3, "grants": 3, "credentials": 2, "sessions": 0, "rules": 0,
        "sizes": 0, "events": 0, "deliveries": 0, "ended_keys": 0, "people": 0, "person_grants": 0,
        "key_sources": 0, "share_links": 0,
    }  # fmt: skip


def test_it_is_all_there_after_reopening(registry: Registry, path: str) -> None:
    made = registry.enable(WEB, [(DATA, Mode.READ_WRITE)], by="root", now=1.0, new=NEW)
    kept = registry.credentials("shop-web-1")
    registry.close()
    with closing(Registry.open(path)) as again:
        assert again.instances() == (made,)
        assert again.credentials("shop-web-1") == kept


def test_kinds_and_modes_come_back_as_such(registry: Registry) -> None:
    (grant,) = registry.enable(WEB, [(DATA, Mode.READ_ONLY)], by="root", now=1.0, new=NEW).grants
    assert type(grant.kind) is VolumeKind
    assert type(grant.mode) is Mode
    assert {type(credential.kind) for credential in registry.credentials("shop-web-1")} == {CredentialKind}


def test_enabling_again_replaces_the_grant_at_the_path_and_no_other(registry: Registry, path: str) -> None:
    first = registry.enable(WEB, [(DATA, Mode.READ_ONLY), (LOGS, Mode.READ_ONLY)], by="anna", now=1.0, new=NEW)
    before = registry.credentials("shop-web-1")
    other = VolumeInfo(
        path="/data", kind=VolumeKind.VOLUME, name="shop_data", driver="local", created="2025-02-02", source="/v/new"
    )
    second = registry.enable(WEB, [(other, Mode.READ_WRITE)], by="bob", now=2.0, new=None)
    data, logs = second.grants
    assert (data.mode, data.identity, data.created, data.source, data.granted_at, data.granted_by) == (
        Mode.READ_WRITE, "volume:local:shop_data:2025-02-02", "2025-02-02", "/v/new", 2.0, "bob",
    )  # fmt: skip
    assert logs == first.grants[1]
    assert (second.login, second.uid, second.created_at) == (first.login, first.uid, 1.0)
    assert registry.credentials("shop-web-1") == before
    assert _rows(path)["grants"] == _rows(path)["volumes"] == 2


def test_another_kind_of_volume_at_the_path_leaves_nothing_of_the_old(registry: Registry) -> None:
    registry.enable(WEB, [(DATA, Mode.READ_WRITE)], by="anna", now=1.0, new=NEW)
    (grant,) = registry.enable(
        WEB, [(VolumeInfo(path="/data", kind=VolumeKind.TMPFS), Mode.READ_ONLY)], by="bob", now=2.0, new=None
    ).grants
    assert grant == GrantRecord("/data", "", VolumeKind.TMPFS, "", "", None, Mode.READ_ONLY, "tmpfs:None", 2.0, "bob")


def test_two_instances_may_share_the_same_path_and_volume(registry: Registry) -> None:
    first, second = _share(registry, 1, 70000), _share(registry, 2, 70001)
    assert registry.instances() == (first, second)
    assert [[grant.path for grant in record.grants] for record in (first, second)] == [["/data"], ["/data"]]
    registry.enable(first.key, [(DATA, Mode.READ_WRITE)], by="root", now=2.0, new=None)
    assert registry.instance(second.key) == second
    registry.disable(first.key, ["/data"], 3.0)
    assert registry.instance(second.key) == second


def test_nothing_is_made_without_a_volume_or_with_two_at_one_path(registry: Registry, path: str) -> None:
    for volumes in ([], [(DATA, Mode.READ_ONLY), (DATA, Mode.READ_WRITE)]):
        with pytest.raises(UsageError):
            registry.enable(WEB, volumes, by="root", now=1.0, new=NEW)
    assert set(_rows(path).values()) == {0}


def test_the_first_enable_needs_a_login_and_later_ones_take_none(registry: Registry, path: str) -> None:
    with pytest.raises(InternalError):
        registry.enable(WEB, [(DATA, Mode.READ_ONLY)], by="root", now=1.0, new=None)
    assert set(_rows(path).values()) == {0}
    made = registry.enable(WEB, [(DATA, Mode.READ_ONLY)], by="root", now=1.0, new=NEW)
    with pytest.raises(ConflictError, match="has a login already"):
        registry.enable(
            WEB, [(DATA, Mode.READ_WRITE)], by="root", now=2.0, new=NewLogin(Login("shop-web-1x"), Uid(70001))
        )
    assert registry.instances() == (made,)
    assert not registry.login_taken("shop-web-1x")


def test_a_login_or_uid_is_given_once(registry: Registry) -> None:
    made = registry.enable(WEB, [(DATA, Mode.READ_ONLY)], by="root", now=1.0, new=NEW)
    key = InstanceKey("shop", "web", 2)
    for new in (NewLogin(NEW.login, Uid(70001)), NewLogin(Login("shop-web-2"), NEW.uid)):
        with pytest.raises(ConflictError):
            registry.enable(key, [(DATA, Mode.READ_ONLY)], by="root", now=2.0, new=new)
    assert registry.instances() == (made,)
    assert not registry.login_taken("shop-web-2")


@pytest.mark.parametrize("name", ["", "Root", "a" * 32, "shop web", "\udc80", "1st", "a\n"])
def test_only_logins_of_the_grammar_are_made(registry: Registry, path: str, name: str) -> None:
    with pytest.raises(UsageError, match="cannot be a login"):
        registry.enable(WEB, [(DATA, Mode.READ_ONLY)], by="root", now=1.0, new=replace(NEW, login=Login(name)))
    assert set(_rows(path).values()) == {0}


def test_two_credentials_of_a_kind_are_refused_whole(registry: Registry, path: str) -> None:
    with pytest.raises(UsageError, match="at most one key of ours and one password"):
        registry.enable(
            WEB, [(DATA, Mode.READ_ONLY)], by="root", now=1.0, new=replace(NEW, credentials=(KEY, PASSWORD, KEY))
        )
    assert set(_rows(path).values()) == {0}


def test_a_login_stays_taken_when_its_instance_goes(registry: Registry, path: str) -> None:
    registry.enable(WEB, [(DATA, Mode.READ_ONLY)], by="root", now=1.0, new=NEW)
    _raw(path, "DELETE FROM instances")
    assert registry.instances() == ()
    assert registry.by_login("shop-web-1") is None
    assert registry.login_taken("shop-web-1")
    assert registry.next_uid(70000, 70009) == 70001
    with pytest.raises(ConflictError, match="shop-web-1 is taken"):
        registry.enable(WEB, [(DATA, Mode.READ_ONLY)], by="root", now=2.0, new=replace(NEW, uid=Uid(70001)))
    rows = _rows(path)
    assert (rows["logins"], rows["volumes"], rows["grants"]) == (1, 0, 0)
    with pytest.raises(sqlite3.IntegrityError, match="FOREIGN KEY"):
        _raw(path, "DELETE FROM logins")


def test_names_are_compared_exactly(registry: Registry) -> None:
    _share(registry, 1, 70000)
    assert registry.login_taken("shop-web-1")
    for other in ("Shop-web-1", "shop-web-1 ", "shop-web-%", "", "' OR 1=1 --", "shop-web-1\0", "\udc80"):
        assert not registry.login_taken(other)
        assert registry.by_login(other) is None
        assert registry.credentials(other) == ()
        with pytest.raises(NotFoundError):
            registry.replace_credential(other, PASSWORD, 2.0)
        with pytest.raises(NotFoundError):
            _enter(registry, "a", 2.0, login=other)
    assert registry.instance(InstanceKey("Shop", "web", 1)) is None


def test_instances_come_in_the_order_of_their_keys(registry: Registry) -> None:
    for uid, (container, number) in enumerate([("web", 10), ("web", 2), ("db", 1), ("Zoo", 1)]):
        key = InstanceKey("shop", container, number)
        new = NewLogin(Login(f"login-{uid}"), Uid(uid))
        registry.enable(key, [(DATA, Mode.READ_ONLY)], by="root", now=1.0, new=new)
    keys = [record.key for record in registry.instances()]
    assert [(key.container, key.number) for key in keys] == [("Zoo", 1), ("db", 1), ("web", 2), ("web", 10)]


def test_uids_are_given_upwards_and_never_again(registry: Registry) -> None:
    assert registry.next_uid(70000, 70003) == 70000
    assert registry.next_uid(70000, 70003) == 70000, "asking gives nothing away"
    _share(registry, 1, 70000)
    assert registry.next_uid(70000, 70003) == 70001
    _share(registry, 2, 70001)
    registry.disable(InstanceKey("shop", "web", 2), ["/data"], 2.0)
    assert registry.next_uid(70000, 70003) == 70002


def test_a_widened_range_uses_what_was_never_given_and_a_full_one_says_so(registry: Registry) -> None:
    _share(registry, 1, 70001)
    _share(registry, 2, 70003)
    _share(registry, 3, 80000)
    assert registry.next_uid(70000, 70003) == 70000
    _share(registry, 4, 70000)
    assert registry.next_uid(70000, 70003) == 70002
    _share(registry, 5, 70002)
    with pytest.raises(ConflictError, match="all 4 uids from 70000 to 70003"):
        registry.next_uid(70000, 70003)
    assert registry.next_uid(70000, 70004) == 70004


def test_uids_above_the_signed_range_are_kept(registry: Registry) -> None:
    assert _share(registry, 1, 2**32 - 2).uid == 2**32 - 2


def test_disabling_takes_away_what_was_on_and_says_what(registry: Registry, path: str) -> None:
    registry.enable(
        WEB, [(LOGS, Mode.READ_ONLY), (DATA, Mode.READ_ONLY), (SCRATCH, Mode.READ_ONLY)], by="root", now=1.0, new=NEW
    )
    assert registry.disable(WEB, ["/logs", "/data", "/never", "/logs"], 2.0) == ("/data", "/logs")
    assert registry.disable(WEB, ["/logs", "/data"], 3.0) == ()
    assert registry.disable(WEB, [], 3.0) == ()
    assert registry.disable(InstanceKey("shop", "web", 2), ["/a scratch\n"], 3.0) == ()
    kept = registry.instance(WEB)
    assert kept is not None
    assert [grant.path for grant in kept.grants] == ["/a scratch\n"]
    assert registry.disable(WEB, ["/a scratch\n"], 4.0) == ("/a scratch\n",)
    gone = registry.instance(WEB)
    assert gone is not None
    assert (gone.login, gone.uid, gone.grants) == ("shop-web-1", 70000, ())
    assert len(registry.credentials("shop-web-1")) == 2
    assert (_rows(path)["grants"], _rows(path)["volumes"]) == (0, 0)


def test_forgetting_leaves_nothing_but_the_name_and_the_uid(registry: Registry, path: str) -> None:
    made = registry.enable(WEB, [(LOGS, Mode.READ_ONLY), (DATA, Mode.READ_ONLY)], by="root", now=1.0, new=NEW)
    registry.open_session("s", "shop-web-1", address="", method="password", credential=None, now=1.0)
    assert registry.forget(WEB) == made
    assert registry.instances() == ()
    assert registry.by_login("shop-web-1") is None
    assert registry.credentials("shop-web-1") == ()
    rows = _rows(path)
    assert {name: rows[name] for name in ("instances", "volumes", "grants", "credentials")} == {
        "instances": 0, "volumes": 0, "grants": 0, "credentials": 0,
    }  # fmt: skip
    assert registry.login_taken("shop-web-1")
    assert registry.next_uid(70000, 70010) == 70001
    assert [session.id for session in registry.open_sessions()] == ["s"]
    with pytest.raises(NotFoundError):
        registry.forget(WEB)


def test_when_it_was_last_there_is_noted(registry: Registry) -> None:
    other = InstanceKey("shop", "web", 2)
    registry.enable(WEB, [(DATA, Mode.READ_ONLY)], by="root", now=1.0, new=NEW)
    registry.saw({WEB, other}, 5.5)
    assert [record.seen_at for record in registry.instances()] == [5.5]
    registry.saw({other}, 9.0)
    assert [record.seen_at for record in registry.instances()] == [5.5]


def test_the_last_change_of_grants_is_noted(registry: Registry, path: str) -> None:
    def changed_at() -> float:
        with closing(sqlite3.connect(path)) as connection:
            return float(connection.execute("SELECT changed_at FROM instances").fetchone()[0])

    registry.enable(WEB, [(DATA, Mode.READ_ONLY)], by="root", now=1.5, new=NEW)
    assert changed_at() == 1.5
    registry.enable(WEB, [(LOGS, Mode.READ_ONLY)], by="root", now=2.5, new=None)
    assert changed_at() == 2.5
    registry.disable(WEB, ["/never"], 3.5)
    assert changed_at() == 2.5
    registry.disable(WEB, ["/logs"], 4.5)
    assert changed_at() == 4.5


def test_a_new_credential_replaces_the_old_of_its_kind_only(registry: Registry) -> None:
    registry.enable(WEB, [(DATA, Mode.READ_ONLY)], by="root", now=1.0, new=NEW)
    other = NewLogin(Login("shop-web-2"), Uid(70001), (PASSWORD, KEY))
    registry.enable(InstanceKey("shop", "web", 2), [(DATA, Mode.READ_ONLY)], by="root", now=1.0, new=other)
    untouched = registry.credentials("shop-web-2")
    key_before, _ = registry.credentials("shop-web-1")
    registry.replace_credential("shop-web-1", NewCredential(CredentialKind.PASSWORD, "$argon2id$SECOND"), 5.0)
    key, password = registry.credentials("shop-web-1")
    assert key == key_before
    assert (password.public, password.sealed, password.fingerprint, password.created_at) == (
        "$argon2id$SECOND", None, None, 5.0,
    )  # fmt: skip
    assert registry.credentials("shop-web-2") == untouched


def test_a_credential_can_be_added_later(registry: Registry) -> None:
    _share(registry, 1, 70000)
    assert registry.credentials("shop-web-1") == ()
    registry.replace_credential("shop-web-1", KEY, 5.0)
    (key,) = registry.credentials("shop-web-1")
    assert (key.kind, key.public, key.sealed, key.fingerprint) == (KEY.kind, KEY.public, KEY.sealed, KEY.fingerprint)


def test_an_unknown_login_gets_no_credential(registry: Registry, path: str) -> None:
    with pytest.raises(NotFoundError, match="shop-web-1"):
        registry.replace_credential("shop-web-1", PASSWORD, 1.0)
    assert set(_rows(path).values()) == {0}


def test_a_login_may_have_several_keys_that_were_added(registry: Registry) -> None:
    _share(registry, 1, 70000)
    first = NewCredential(CredentialKind.ADDED_KEY, "ssh-ed25519 ONE", None, "SHA256:ONE", "10.0.0.0/8", 99.0, True)
    second = NewCredential(CredentialKind.ADDED_KEY, "ssh-ed25519 TWO", None, "SHA256:TWO")
    for new in (first, PASSWORD, second, KEY):
        registry.replace_credential("shop-web-1", new, 5.0)
    key, password, one, two = registry.credentials("shop-web-1")
    assert [found.kind for found in (key, password, one, two)] == [
        CredentialKind.KEY, CredentialKind.PASSWORD, CredentialKind.ADDED_KEY, CredentialKind.ADDED_KEY,
    ]  # fmt: skip
    assert (one.sources, one.expires_at, one.verify_required) == ("10.0.0.0/8", 99.0, True)
    assert (two.sources, two.expires_at, two.verify_required) == ("", None, False)
    with pytest.raises(ConflictError, match="SHA256:TWO already"):
        registry.replace_credential("shop-web-1", second, 6.0)
    assert registry.remove_credential("shop-web-1", one.id) is True
    assert registry.remove_credential("shop-web-1", one.id) is False
    assert registry.credentials("shop-web-1") == (key, password, two)


def test_no_other_login_takes_a_credential_away(registry: Registry) -> None:
    _share(registry, 1, 70000)
    _share(registry, 2, 70001)
    registry.replace_credential("shop-web-1", KEY, 5.0)
    (key,) = registry.credentials("shop-web-1")
    assert registry.remove_credential("shop-web-2", key.id) is False
    assert registry.credentials("shop-web-1") == (key,)


def test_a_login_has_only_so_many_keys(registry: Registry, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store, "CREDENTIALS_MAX", 2)
    _share(registry, 1, 70000)
    for number in range(2):
        added = NewCredential(CredentialKind.ADDED_KEY, "ssh-ed25519 KEY", None, f"SHA256:{number}")
        registry.replace_credential("shop-web-1", added, 5.0)
    before = registry.credentials("shop-web-1")
    with pytest.raises(ConflictError, match="take some away"):
        registry.replace_credential("shop-web-1", KEY, 6.0)
    assert registry.credentials("shop-web-1") == before


def test_a_new_credential_is_never_taken_for_an_old_one(registry: Registry) -> None:
    _share(registry, 1, 70000)
    seen = set()
    for number in range(3):
        # The newest row is deleted each time: without more, SQLite gives its number again.
        registry.replace_credential("shop-web-1", PASSWORD, float(number))
        (password,) = registry.credentials("shop-web-1")
        seen.add(password.id)
    assert len(seen) == 3


def test_a_password_is_hashed_anew_unless_it_was_changed(registry: Registry) -> None:
    _share(registry, 1, 70000)
    registry.replace_credential("shop-web-1", PASSWORD, 5.0)
    (password,) = registry.credentials("shop-web-1")
    assert registry.rehash(password.id, password.public, "$argon2id$ANEW") is True
    (anew,) = registry.credentials("shop-web-1")
    assert (anew.id, anew.public, anew.created_at) == (password.id, "$argon2id$ANEW", 5.0)
    assert registry.rehash(password.id, password.public, "$argon2id$LATE") is False
    assert registry.credentials("shop-web-1") == (anew,)


def test_conditions_are_kept(registry: Registry) -> None:
    _share(registry, 1, 70000)
    _share(registry, 2, 70001)
    wanted = Conditions(("192.0.2.0/24", "2001:db8::/32"), 99.5, 50.0, "by uid 0", 3, True)
    assert registry.change_conditions("shop-web-1", lambda _before: wanted) == NO_CONDITIONS
    record = registry.by_login("shop-web-1")
    assert record is not None
    assert record.conditions == wanted
    assert registry.change_conditions("shop-web-1", lambda before: replace(before, locked_at=None)) == wanted
    other = registry.by_login("shop-web-2")
    assert other is not None
    assert other.conditions == NO_CONDITIONS
    with pytest.raises(NotFoundError):
        registry.change_conditions("shop-web-9", lambda before: before)


def test_conditions_that_cannot_be_changed_are_as_they_were(registry: Registry) -> None:
    _share(registry, 1, 70000)

    def refuse(_before: Conditions) -> Conditions:
        raise UsageError("no")

    with pytest.raises(UsageError):
        registry.change_conditions("shop-web-1", refuse)
    record = registry.by_login("shop-web-1")
    assert record is not None
    assert record.conditions == NO_CONDITIONS


def test_secrets_are_sealed_anew_all_or_none(registry: Registry) -> None:
    for number in (1, 2):
        _share(registry, number, 70000 + number)
        registry.replace_credential(f"shop-web-{number}", KEY, 1.0)
        registry.replace_credential(f"shop-web-{number}", PASSWORD, 1.0)
        registry.replace_credential(f"shop-web-{number}", NewCredential(CredentialKind.ADDED_KEY, "k", None, "f"), 1.0)
    seen: list[tuple[str, CredentialKind]] = []

    def anew(login: str, record: CredentialRecord) -> bytes:
        seen.append((login, record.kind))
        assert record.sealed is not None
        return b"anew" + record.sealed

    count = registry.reseal(anew)
    assert count == len(seen) == len(set(seen)) > 0
    sealed = {(f"shop-web-{n}", c.kind): c.sealed for n in (1, 2) for c in registry.credentials(f"shop-web-{n}")}
    assert all((sealed[one] or b"").startswith(b"anew") for one in seen)
    assert all(sealed[one] is None for one in sealed.keys() - set(seen))

    def broken(_login: str, record: CredentialRecord) -> bytes:
        if len(seen) > count:
            raise InternalError("in the middle")
        return anew(_login, record)

    with pytest.raises(InternalError):
        registry.reseal(broken)
    assert sealed == {
        (f"shop-web-{n}", c.kind): c.sealed for n in (1, 2) for c in registry.credentials(f"shop-web-{n}")
    }


def _event(at: float, kind: EventKind = EventKind.CHANGE, **fields: Any) -> NewEvent:
    return NewEvent(at=at, kind=kind, what="something", **fields)


def test_what_happened_is_told_oldest_first(registry: Registry) -> None:
    first = _event(
        1.0, EventKind.REFUSED, instance="shop/web/1", login="shop-web-1", address="::1", done=False, times=7
    )
    second = _event(2.0, instance="shop/db/1", who="uid 0")
    registry.add_events([first])
    registry.add_events([second])
    registry.add_events([])
    assert [found.event for found in registry.events(limit=10)] == [first, second]
    assert [found.event for found in registry.events(limit=1)] == [second]
    assert [found.event for found in registry.events(limit=10, instance="shop/web/1")] == [first]
    assert [found.event for found in registry.events(limit=10, kinds=[EventKind.CHANGE])] == [second]
    assert [found.event for found in registry.events(limit=10, since=1.5)] == [second]


def test_the_record_is_bounded_in_rows_and_age(registry: Registry) -> None:
    registry.add_events([_event(float(at)) for at in range(10)])
    assert registry.thin_events(kinds=list(EventKind), keep=10, at_most=99) == 0
    assert registry.thin_events(kinds=list(EventKind), keep=4, at_most=99) == 6
    assert [found.event.at for found in registry.events(limit=99)] == [6.0, 7.0, 8.0, 9.0]
    assert registry.event_times(9.0) == (6.0, 8.0)
    assert registry.event_times(6.0) is None
    assert registry.forget_events(older_than=9.0, at_most=2) == 2
    assert registry.forget_events(older_than=9.0, at_most=2) == 1
    assert registry.forget_events(older_than=9.0, at_most=2) == 0
    registry.add_events([_event(99.0)])
    assert [found.event.at for found in registry.events(limit=99)] == [9.0, 99.0]
    assert registry.thin_events(kinds=list(EventKind), keep=0, at_most=99) == 2
    assert registry.events(limit=99) == ()
    assert registry.event_times(1e12) is None


def test_of_the_record_some_kinds_are_forgotten_and_no_others(registry: Registry) -> None:
    registry.add_events([_event(float(at)) for at in range(4)])
    registry.add_events([_event(float(at), EventKind.REFUSED) for at in range(4)])
    assert registry.thin_events(kinds=[EventKind.REFUSED, EventKind.LOGIN], keep=1, at_most=99) == 3
    kinds = [(found.event.kind, found.event.at) for found in registry.events(limit=99)]
    assert kinds == [(EventKind.CHANGE, float(at)) for at in range(4)] + [(EventKind.REFUSED, 3.0)]


def test_of_the_record_each_instance_keeps_its_share(registry: Registry) -> None:
    def left() -> dict[str, list[float]]:
        found: dict[str, list[float]] = {}
        for one in registry.events(limit=999):
            found.setdefault(one.event.instance, []).append(one.event.at)
        return found

    events = [replace(_event(float(at)), instance="few") for at in range(10)]
    events += [replace(_event(float(at)), instance="none to spare") for at in range(12)]
    events += [replace(_event(float(at)), instance="flood") for at in range(100)]
    events += [replace(_event(float(at)), instance="another") for at in range(40)]
    registry.add_events(events)
    registry.add_events([replace(_event(0.0, EventKind.REFUSED), instance="flood")] * 5)
    steps = []
    while step := registry.thin_events(kinds=[EventKind.CHANGE], keep=50, at_most=50):
        steps.append(step)
    assert steps == [50, 50, 12]
    assert left() == {
        "few": [float(at) for at in range(10)],
        "none to spare": [float(at) for at in range(12)],
        "flood": [*(float(at) for at in range(86, 100)), *[0.0] * 5],
        "another": [float(at) for at in range(26, 40)],
    }
    # More instances than there may be events.
    assert registry.thin_events(kinds=list(EventKind), keep=3, at_most=99) == 52
    assert left() == {"flood": [0.0] * 3}


@pytest.mark.parametrize(
    ("counts", "total", "share"),
    [((), 5, 0), ((1, 2), 5, 2), ((5,), 5, 5), ((6,), 5, 5), ((1, 9, 9), 10, 4), ((1, 1, 1), 2, 0), ((3, 3), 0, 0)],
)
def test_a_fair_share(counts: tuple[int, ...], total: int, share: int) -> None:
    assert rows.fair_share(counts, total) == share


def test_the_record_is_gone_on_with_from_a_number(registry: Registry) -> None:
    registry.add_events([_event(float(at)) for at in range(5)])
    assert [found.event.at for found in registry.events(limit=2, after=1)] == [1.0, 2.0]
    assert [found.event.at for found in registry.events(limit=9, after=3, since=4.0)] == [4.0]
    assert registry.events(limit=9, after=5) == ()


def test_whose_login_it_is(registry: Registry) -> None:
    _share(registry, 1, 70000)
    _share(registry, 2, 70001)
    key = InstanceKey("shop", "web", 1)
    assert registry.whose(["shop-web-1", "nobody"]) == {"shop-web-1": str(key)}
    registry.forget(key)
    assert registry.whose(["shop-web-1"]) == {}


def _enter(registry: Registry, session: str, now: float, login: str = "shop-web-1") -> SessionRecord:
    return registry.open_session(
        session, login, address="192.0.2.7", method="publickey", credential="SHA256:FINGER", now=now
    )


def test_sessions_open_and_close(registry: Registry) -> None:
    _share(registry, 1, 70000)
    second, first = _enter(registry, "b", 20.0), _enter(registry, "a", 10.0)
    assert first == SessionRecord("a", Login("shop-web-1"), 10.0, "192.0.2.7", "publickey", "SHA256:FINGER")
    assert registry.open_sessions() == (first, second)
    assert registry.open_sessions("shop-web-1") == (first, second)
    assert registry.open_sessions("shop-web-2") == ()
    assert registry.close_session("a") == first
    assert registry.open_sessions() == (second,)
    assert registry.close_session("a") is None
    assert registry.close_session("never") is None
    third = registry.open_session("c", "shop-web-1", address="", method="password", credential=None, now=50.0)
    assert third.credential is None
    assert {session.id for session in registry.open_sessions()} == {"b", "c"}


def test_logging_in_and_out_again_and_again_takes_no_room(registry: Registry, path: str) -> None:
    _share(registry, 1, 70000)
    for number in range(50):
        _enter(registry, f"s{number}", float(number))
        registry.close_session(f"s{number}")
    assert _rows(path)["sessions"] == 0


def test_a_session_needs_a_login_and_an_id_of_its_own(registry: Registry) -> None:
    with pytest.raises(NotFoundError):
        _enter(registry, "a", 1.0)
    _share(registry, 1, 70000)
    first = _enter(registry, "a", 1.0)
    with pytest.raises(ConflictError):
        _enter(registry, "a", 2.0)
    assert registry.open_sessions() == (first,)


def test_threads_may_take_turns_and_even_collide(registry: Registry) -> None:
    _share(registry, 1, 70000)
    failures: list[BaseException] = []

    def work(name: str) -> None:
        try:
            for count in range(25):
                _enter(registry, f"{name}-{count}", float(count))
                assert len(registry.instances()) == 1
        except BaseException as exc:
            failures.append(exc)

    threads = [threading.Thread(target=work, args=(name,)) for name in "abcd"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert len(registry.open_sessions()) == 100


def test_another_process_that_writes_is_waited_for(registry: Registry, path: str) -> None:
    _share(registry, 1, 70000)
    blocker = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
    blocker.execute("BEGIN IMMEDIATE")
    timer = threading.Timer(0.3, lambda: blocker.execute("COMMIT"))
    timer.start()
    try:
        assert len(registry.instances()) == 1, "readers do not wait"
        assert _enter(registry, "a", 1.0).id == "a"
    finally:
        timer.join()
        blocker.close()


SECRETS = ("HASHED", "SEALED", "PRIVATE", "PUBLIC")


def test_no_record_shows_hashes_or_sealed_secrets(registry: Registry) -> None:
    registry.enable(WEB, [(DATA, Mode.READ_ONLY)], by="root", now=1.0, new=NEW)
    shown = repr(registry.credentials("shop-web-1")) + repr(NEW) + str(PASSWORD) + f"{KEY}"
    assert not any(secret in shown for secret in SECRETS)
    assert "SHA256:FINGER" in shown


def test_no_error_of_the_database_shows_them(registry: Registry, path: str) -> None:
    for statement in (
        "CREATE TRIGGER broken BEFORE INSERT ON credentials BEGIN SELECT RAISE(ABORT, 'disk trouble'); END",
        "CREATE TRIGGER broken_too BEFORE DELETE ON credentials BEGIN SELECT RAISE(ABORT, 'disk trouble'); END",
    ):
        _raw(path, statement)
    # Made elsewhere than in the calls below: a traceback shows their source.
    renewed = replace(PASSWORD, public="$argon2id$HASHED again")
    with pytest.raises(SQLAlchemyError, match="disk trouble") as first:
        registry.enable(WEB, [(DATA, Mode.READ_ONLY)], by="root", now=1.0, new=NEW)
    assert set(_rows(path).values()) == {0}, "a failed enable must leave nothing"
    _raw(path, "DROP TRIGGER broken")
    registry.enable(WEB, [(DATA, Mode.READ_ONLY)], by="root", now=1.0, new=NEW)
    with pytest.raises(SQLAlchemyError, match="disk trouble") as second:
        registry.replace_credential("shop-web-1", renewed, 2.0)
    for error in (first.value, second.value):
        shown = "".join(traceback.format_exception(error)) + repr(error) + str(error)
        assert not any(secret in shown for secret in SECRETS)


def test_every_statement_is_one_that_postgresql_could_run(registry: Registry) -> None:
    seen: list[ClauseElement] = []

    def executed(_connection: object, clause: Any, *_rest: object) -> None:
        seen.append(clause)

    event.listen(Engine, "before_execute", executed)
    try:
        registry.enable(WEB, [(DATA, Mode.READ_ONLY)], by="root", now=1.0, new=NEW)
        registry.enable(WEB, [(DATA, Mode.READ_WRITE), (LOGS, Mode.READ_ONLY)], by="root", now=2.0, new=None)
        registry.replace_credential("shop-web-1", PASSWORD, 3.0)
        _enter(registry, "a", 4.0)
        registry.instances()
        registry.instance(WEB)
        registry.by_login("shop-web-1")
        registry.credentials("shop-web-1")
        registry.login_taken("shop-web-1")
        registry.next_uid(70000, 70000 + 5)
        with pytest.raises(ConflictError):
            registry.next_uid(70000, 70000)
        registry.open_sessions()
        registry.close_session("a")
        registry.saw({WEB}, 6.0)
        registry.disable(WEB, ["/data"], 8.0)
        _keep_sizes(registry)
        registry.sizes()
        registry.add_events([_event(1.0), replace(_event(2.0), instance="shop/web/1"), _event(3.0)])
        registry.events(limit=1)
        registry.event_times(9.0)
        registry.thin_events(kinds=list(EventKind), keep=2, at_most=9)
        registry.thin_events(kinds=list(EventKind), keep=0, at_most=9)
        registry.forget_events(older_than=9.0, at_most=9)
    finally:
        event.remove(Engine, "before_execute", executed)
    assert len(seen) > 35
    dialect = postgresql.dialect()  # type: ignore[no-untyped-call] # SQLAlchemy does not annotate it
    for clause in seen:
        assert not type(clause).__module__.startswith("sqlalchemy.dialects.sqlite")
        words = str(clause.compile(dialect=dialect)).split()
        assert words[0] in {"SELECT", "INSERT", "UPDATE", "DELETE"}


def _keep_sizes(registry: Registry) -> None:
    """Insert, update and delete."""
    registry.keep_sizes({ONE: Usage(1, 2, 3.5), TWO: Usage(1 << 45, 1 << 40, 4.0)}, {ONE, TWO})
    registry.keep_sizes({ONE: Usage(2, 2, 5.0), THREE: Usage(7, 8, 9.0)}, {ONE, THREE})


def test_sizes_are_kept_of_these_volumes_and_no_others(registry: Registry, path: str) -> None:
    _keep_sizes(registry)
    kept = {ONE: Usage(2, 2, 5.0), THREE: Usage(7, 8, 9.0)}
    assert registry.sizes() == kept
    # What is not counted anew stays, what is not to be kept is not.
    registry.keep_sizes({THREE: Usage(0, 0, 10.0), TWO: Usage(1, 1, 10.0)}, {ONE, THREE})
    assert registry.sizes() == {**kept, THREE: Usage(0, 0, 10.0)}
    registry.close()
    with closing(Registry.open(path)) as again:
        assert again.sizes() == {**kept, THREE: Usage(0, 0, 10.0)}
        again.keep_sizes({}, ())
        assert again.sizes() == {}


def test_limits_are_as_large_as_they_may_be_and_stay_until_they_are_changed(registry: Registry) -> None:
    most = Limits(SIZE_MAX, FILES_MAX)
    registry.enable(WEB, [(DATA, Mode.READ_WRITE)], by="a", now=1.0, new=NEW, limits=NewLimits.exactly(most))
    registry.enable(
        WEB, [(DATA, Mode.READ_ONLY)], by="r", now=1.0, new=None, origin=Origin.FILE, limits=NewLimits(None, 5)
    )

    def limits() -> list[Limits]:
        record = registry.instance(WEB)
        assert record is not None
        return [grant.limits for grant in record.grants]

    assert limits() == [most, Limits(None, 5)]
    # Each origin keeps its own, whichever volume it is for from now on.
    other = VolumeInfo(path="/data", kind=VolumeKind.BIND, source="/other")
    for volume in (DATA, other):
        registry.enable(WEB, [(volume, Mode.READ_ONLY), (LOGS, Mode.READ_ONLY)], by="b", now=2.0, new=None)
        assert limits() == [most, Limits(None, 5), NO_LIMITS]
    registry.enable(WEB, [(other, Mode.READ_ONLY)], by="b", now=3.0, new=None, limits=NewLimits(files=None))
    assert limits() == [Limits(SIZE_MAX, None), Limits(None, 5), NO_LIMITS]
    # A grant that was taken away and is given anew begins without.
    registry.disable(WEB, ["/data"], 4.0)
    registry.enable(WEB, [(other, Mode.READ_ONLY)], by="b", now=5.0, new=None)
    assert limits() == [NO_LIMITS, Limits(None, 5), NO_LIMITS]


def test_altering_a_grant_alters_its_limits_and_going_over_does_not(registry: Registry) -> None:
    registry.enable(
        WEB, [(DATA, Mode.READ_WRITE)], by="r", now=1.0, new=NEW, follow=["/data"], limits=NewLimits(1 << 30)
    )
    other = VolumeInfo(path="/data", kind=VolumeKind.VOLUME, name="n", driver="local", source="/v/n", created="7")
    registry.reconcile(follow=[FollowedGrant(WEB, Origin.COMMAND, other, Mode.READ_WRITE)], now=2.0)
    (grant,) = registry.instance(WEB).grants  # type: ignore[union-attr] # it is there
    assert (grant.source, grant.limits) == ("/v/n", Limits(1 << 30))
    altered = replace(_altered(Origin.COMMAND), limits=Limits(None, 3))
    registry.reconcile(alter=[altered], now=2.0)
    (grant,) = registry.instance(WEB).grants  # type: ignore[union-attr] # it is there
    assert grant.limits == Limits(None, 3)


def test_grants_of_several_origins_come_and_go_by_themselves(registry: Registry, path: str) -> None:
    registry.enable(WEB, [(DATA, Mode.READ_WRITE)], by="anna", now=1.0, new=NEW)
    both = registry.enable(
        WEB, [(DATA, Mode.READ_ONLY)], by="a rule", now=2.0, new=None, origin=Origin.FILE, follow=["/data"]
    )
    assert [(one.origin, one.mode, one.granted_by, one.follows) for one in both.grants] == [
        (Origin.COMMAND, Mode.READ_WRITE, "anna", False),
        (Origin.FILE, Mode.READ_ONLY, "a rule", True),
    ]
    assert _rows(path)["volumes"] == 1
    assert registry.disable(WEB, ["/data"], 3.0, (Origin.LABEL,)) == ()
    assert registry.disable(WEB, ["/data"], 3.0) == ("/data",)
    assert registry.instance(WEB).grants == both.grants[1:]  # type: ignore[union-attr] # it is there
    assert registry.disable(WEB, ["/data"], 4.0, (Origin.FILE, Origin.LABEL)) == ("/data",)
    assert (_rows(path)["grants"], _rows(path)["volumes"]) == (0, 0)


def test_grants_at_one_path_may_be_for_different_volumes(registry: Registry, path: str) -> None:
    registry.enable(WEB, [(DATA, Mode.READ_WRITE)], by="anna", now=1.0, new=NEW)
    other = VolumeInfo(path="/data", kind=VolumeKind.BIND, source="/srv/other", created="7")
    made = registry.enable(WEB, [(other, Mode.READ_ONLY)], by="a rule", now=2.0, new=None, origin=Origin.FILE)
    by_command, by_file = made.grants
    assert (by_command.source, by_command.created, by_command.identity) == (DATA.source, "2024-01-01", DATA.identity)
    assert (by_file.source, by_file.created, by_file.identity) == ("/srv/other", "7", other.identity)
    # Of one origin there is one at a path, whatever it is for.
    (by_command, _) = registry.enable(WEB, [(other, Mode.READ_ONLY)], by="bob", now=3.0, new=None).grants
    assert (by_command.identity, by_command.granted_by) == (other.identity, "bob")
    assert (_rows(path)["grants"], _rows(path)["volumes"]) == (2, 1)


def _altered(origin: Origin, key: InstanceKey = WEB) -> AlteredGrant:
    return AlteredGrant(key, "/data", origin, Mode.READ_ONLY, True, "r2")


def test_altering_a_grant_leaves_what_it_is_for(registry: Registry) -> None:
    registry.enable(WEB, [(DATA, Mode.READ_WRITE)], by="r1", now=1.0, new=NEW, origin=Origin.FILE)
    for origin, expected in ((Origin.COMMAND, Mode.READ_WRITE), (Origin.FILE, Mode.READ_ONLY)):
        registry.reconcile(alter=[_altered(origin), _altered(origin, InstanceKey("no", "such", 1))], now=2.0)
        (grant,) = registry.instance(WEB).grants  # type: ignore[union-attr] # it is there
        assert (grant.mode, grant.identity, grant.source) == (expected, DATA.identity, DATA.source)
    assert (grant.follows, grant.granted_by, grant.granted_at) == (True, "r2", 1.0)


def test_only_the_grant_that_follows_goes_over(registry: Registry, path: str) -> None:
    registry.enable(WEB, [(DATA, Mode.READ_WRITE)], by="anna", now=1.0, new=NEW, follow=["/data"])
    registry.enable(WEB, [(DATA, Mode.READ_WRITE)], by="r", now=1.0, new=None, origin=Origin.FILE, follow=["/data"])
    registry.enable(WEB, [(DATA, Mode.READ_WRITE)], by="l", now=1.0, new=None, origin=Origin.LABEL)
    other = VolumeInfo(path="/data", kind=VolumeKind.VOLUME, name="n", driver="local", source="/v/n", created="7")
    elsewhere = VolumeInfo(path="/logs", kind=VolumeKind.BIND, source="/x")
    follow = [
        FollowedGrant(InstanceKey("no", "such", 1), Origin.FILE, other, Mode.READ_ONLY),
        FollowedGrant(WEB, Origin.FILE, elsewhere, Mode.READ_ONLY),
        FollowedGrant(WEB, Origin.LABEL, other, Mode.READ_ONLY),
        FollowedGrant(WEB, Origin.FILE, other, Mode.READ_ONLY),
    ]
    registry.reconcile(follow=follow, now=2.0)
    by_command, by_file, by_label = registry.instance(WEB).grants  # type: ignore[union-attr] # it is there
    assert [(one.identity, one.mode) for one in (by_command, by_label)] == [(DATA.identity, Mode.READ_WRITE)] * 2
    assert (by_file.identity, by_file.source, by_file.name, by_file.mode) == (
        other.identity, "/v/n", "n", Mode.READ_ONLY,
    )  # fmt: skip
    assert _rows(path)["volumes"] == 2


def test_grants_are_withdrawn_by_origin(registry: Registry, path: str) -> None:
    registry.enable(WEB, [(DATA, Mode.READ_WRITE)], by="anna", now=1.0, new=NEW)
    registry.enable(WEB, [(DATA, Mode.READ_ONLY)], by="r", now=1.0, new=None, origin=Origin.FILE)
    gone = [GrantName(WEB, "/data", Origin.FILE), GrantName(InstanceKey("no", "such", 1), "/data", Origin.FILE)]
    registry.reconcile(withdraw=gone, now=2.0)
    assert [one.origin for one in registry.instance(WEB).grants] == [Origin.COMMAND]  # type: ignore[union-attr]
    registry.reconcile(withdraw=[GrantName(WEB, "/data", Origin.COMMAND)], now=2.0)
    assert (_rows(path)["grants"], _rows(path)["volumes"]) == (0, 0)


def test_which_container_it_was_is_remembered(registry: Registry) -> None:
    made = registry.enable(WEB, [(DATA, Mode.READ_ONLY)], by="anna", now=1.0, new=NEW, runtime_id="c1")
    assert made.runtime_id == "c1"
    registry.disable(WEB, ["/data"], 2.0)
    assert registry.instance(WEB).runtime_id == "c1"  # type: ignore[union-attr] # it is there
    assert registry.enable(WEB, [(DATA, Mode.READ_ONLY)], by="anna", now=3.0, new=None).runtime_id == ""


def test_rules_are_replaced_as_a_whole(registry: Registry) -> None:
    first = AccessRule(where="a, rule 1", project="*", service="web", volumes=("/a,b", "ü\n"), replica=3, follow=True)
    first = structs.replace(first, limits=Limits(1 << 40, 7))
    second = AccessRule(where="b, rule 1", project="shop", service="*", volumes=("*",), read_only=True)
    registry.replace_rules((second, first))
    assert registry.rules() == (second, first)
    registry.replace_rules((first,))
    assert registry.rules() == (first,)
    registry.replace_rules(())
    assert registry.rules() == ()


def test_where_keys_lie_is_kept_of_each_instance_until_it_is_forgotten(
    registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    registry.enable(WEB, [(DATA, Mode.READ_WRITE)], by="root", now=1.0, new=NEW)
    one, two = Directory("/srv/a/.ssh", "inode:1"), Directory("/srv/b/.ssh", "inode:2")
    never = InstanceKey("blog", "app", 1)
    registry.keep_key_sources({WEB: [one], never: [one, two]})
    assert registry.key_sources() == {WEB: frozenset({one}), never: frozenset({one, two})}
    registry.keep_key_sources({never: [two]})
    assert registry.key_sources() == {WEB: frozenset({one}), never: frozenset({two})}
    # What is too much goes, the oldest first, and never of an instance that is shared.
    monkeypatch.setattr(store, "KEY_SOURCES_MAX", 3)
    for number in range(2, 6):
        registry.keep_key_sources({InstanceKey("blog", "app", number): [two]})
    assert sorted(registry.key_sources()) == [InstanceKey("blog", "app", 4), InstanceKey("blog", "app", 5), WEB]
    registry.forget(WEB)
    assert WEB not in registry.key_sources()
