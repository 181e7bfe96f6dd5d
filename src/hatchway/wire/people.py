"""What the admin socket answers about people: who have logins of their own, and what is shared with them.

Passwords, keys, conditions and sessions of a person are asked for as an instance's are (`entry`), by their login.
"""

from __future__ import annotations

import msgspec

from hatchway.model import KEEP_LIMITS, UNSAID, InstanceKey, NewLimits, Ownership
from hatchway.wire.admin import PersonStatus
from hatchway.wire.entry import Confidential, PasswordKind

FULL_NAME_MAX = 100
"""Characters of a person's full name."""


class AddPerson(msgspec.Struct, frozen=True, kw_only=True, tag="add-person"):
    """Make a person with a login, a key and a password of their own, who may do nothing yet. `full_name` is for people
    to read, FULL_NAME_MAX characters at most. Answer: PersonChanged."""

    login: str
    full_name: str = ""


class PersonChanged(Confidential, frozen=True, kw_only=True, tag="person-changed"):
    """The person after a change of what is shared. `changed` are the paths of an instance that were changed;
    `password` as in Changed, `password_kind` as in ConnectionInfo. `web` is how the web pages are called from outside,
    "" when that is not known, None when they are off."""

    person: PersonStatus
    key: InstanceKey | None = None
    changed: tuple[str, ...] = ()
    password: str | None = None
    password_kind: PasswordKind = PasswordKind.NONE
    web: str | None = None


class RemovePerson(msgspec.Struct, frozen=True, tag="remove-person"):
    """Remove a person with all grants and credentials, everywhere; their sessions end. Answer: PersonRemoved."""

    login: str


class PersonRemoved(msgspec.Struct, frozen=True, kw_only=True, tag="person-removed"):
    """Who was removed, and what they could use: instances and paths."""

    login: str
    grants: tuple[tuple[InstanceKey, str], ...]


class ListPeople(msgspec.Struct, frozen=True, kw_only=True, tag="list-people"):
    """All people; with `instance`, called as in Enable, those with whom it shares something. Answer: People."""

    instance: str | None = None


class People(msgspec.Struct, frozen=True, tag="people"):
    """In the order of their logins."""

    people: tuple[PersonStatus, ...]


class GrantPerson(msgspec.Struct, frozen=True, kw_only=True, tag="grant-person"):
    """Let a person use volumes of an instance, called as in Enable; `folder`, with one volume only, is the directory of
    it that they see. What they had of such a volume before is replaced. Who owns new files is as grants of the volume
    say, unless `ownership` says something. What `limits` leave as it was, is as it was. Answer: PersonChanged.
    """

    login: str
    instance: str
    volumes: tuple[str, ...] = ()
    every: bool = False
    read_only: bool = False
    folder: str = ""
    ownership: Ownership = UNSAID
    limits: NewLimits = KEEP_LIMITS


class RevokePerson(msgspec.Struct, frozen=True, kw_only=True, tag="revoke-person"):
    """Take away from a person what GrantPerson gave of an instance. Answer: PersonChanged."""

    login: str
    instance: str
    volumes: tuple[str, ...] = ()
    every: bool = False
