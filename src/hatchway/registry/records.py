"""What the registry takes and gives. Plain values: changing one changes nothing in the database."""

from __future__ import annotations

import enum
from dataclasses import dataclass, field
from typing import NamedTuple

from hatchway.model import (
    NO_LIMITS,
    UNSAID,
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
)


class CredentialKind(enum.StrEnum):
    """What a credential is. A login has at most one `KEY`, which is generated, and one `PASSWORD`."""

    KEY = "key"
    PASSWORD = "password"
    ADDED_KEY = "added-key"


@dataclass(frozen=True, slots=True)
class Conditions:
    """Under which conditions a login may be used.

    `allowed_from` are networks in CIDR notation, none: from anywhere. `expires_at` is Unix seconds, None: never.
    `locked_at` is since when it is locked, None: it is not; `locked_why` is for people. `sessions_max` None: as many as
    is configured. `volume_keys`: keys that the instance keeps in a volume of its own are valid.
    """

    allowed_from: tuple[str, ...] = ()
    expires_at: float | None = None
    locked_at: float | None = None
    locked_why: str = ""
    sessions_max: int | None = None
    volume_keys: bool = False


NO_CONDITIONS = Conditions()


@dataclass(frozen=True, slots=True)
class GrantRecord:
    """Access to one volume, which is described as it was when granted; see VolumeInfo for the fields they share.

    `identity` is VolumeInfo.identity at that time, `granted_at` Unix seconds, `granted_by` for people to read.
    `follows`: it is for whichever anonymous volume the instance has there. `owner_ids` are whom `ownership.owner` meant
    when it was granted, as the host counts; None when it names nobody. `limits` are what this grant says of the volume.
    """

    path: str
    name: str
    kind: VolumeKind
    driver: str
    created: str
    source: str | None
    mode: Mode
    identity: str
    granted_at: float
    granted_by: str
    origin: Origin = Origin.COMMAND
    follows: bool = False
    ownership: Ownership = UNSAID
    owner_ids: IdPair | None = None
    limits: Limits = NO_LIMITS


class GrantName(NamedTuple):
    """Which grant: of one origin there is at most one at a path."""

    key: InstanceKey
    path: str
    origin: Origin


@dataclass(frozen=True, slots=True)
class AlteredGrant:
    """What a grant is to be. Fields as in GrantRecord, `by` is `granted_by`."""

    key: InstanceKey
    path: str
    origin: Origin
    mode: Mode
    follows: bool
    by: str
    ownership: Ownership = UNSAID
    owner_ids: IdPair | None = None
    limits: Limits = NO_LIMITS


@dataclass(frozen=True, slots=True)
class FollowedGrant:
    """A grant that goes over to `volume`, which has come for the anonymous one it was for."""

    key: InstanceKey
    origin: Origin
    volume: VolumeInfo
    mode: Mode


@dataclass(frozen=True, slots=True)
class InstanceRecord:
    """An instance that somebody shared at least once. `runtime_id` is the container it was then, "" if not known.

    `created_at` and `seen_at`, when the catalog last had it, are Unix seconds; grants are in order of path and origin.
    """

    key: InstanceKey
    login: Login
    uid: Uid
    created_at: float
    seen_at: float
    grants: tuple[GrantRecord, ...]
    runtime_id: str = ""
    conditions: Conditions = NO_CONDITIONS

    @property
    def whose(self) -> str:
        """Whose login it is, for the record and for people."""
        return str(self.key)


@dataclass(frozen=True, slots=True)
class PersonGrant:
    """What a person may use of the instance `key`, whose login is `instance_login`: the volume of `grant`, or only the
    directory `folder` of it, relative to its root; "" is all of it."""

    key: InstanceKey
    instance_login: Login
    grant: GrantRecord
    folder: str = ""


@dataclass(frozen=True, slots=True)
class PersonRecord:
    """Somebody with a login of their own, by which they are called; grants are in order of instance and path.

    `full_name` is for people to read, "" when it is not known. `created_at` is Unix seconds.
    """

    login: Login
    uid: Uid
    created_at: float
    full_name: str
    grants: tuple[PersonGrant, ...]
    conditions: Conditions = NO_CONDITIONS

    @property
    def whose(self) -> str:
        """As in InstanceRecord. No instance is called so: theirs have slashes."""
        return self.login


LoginRecord = InstanceRecord | PersonRecord
"""Whose a login is."""


@dataclass(frozen=True, slots=True)
class NewCredential:
    """A credential to keep.

    `public` is an authorized_keys line without options, or a password's hash; `sealed` the private key or password,
    None when it is not to be shown again; `fingerprint` "SHA256:…", None for a password. `sources` are from where it
    may be used, as in from= of sshd(8), "" from anywhere; `expires_at` is Unix seconds, None: never. `verify_required`
    as in sshd(8).
    """

    kind: CredentialKind
    public: str = field(repr=False)  # a password's hash belongs in no log
    sealed: bytes | None = field(default=None, repr=False)
    fingerprint: str | None = None
    sources: str = ""
    expires_at: float | None = None
    verify_required: bool = False


@dataclass(frozen=True, slots=True)
class NewLogin:
    """What an instance gets at its first enable, or a person: a login nobody has, a uid nobody had, and credentials."""

    login: Login
    uid: Uid
    credentials: tuple[NewCredential, ...] = ()


@dataclass(frozen=True, slots=True)
class CredentialRecord:
    """A credential of a login; fields as in NewCredential. `created_at` is Unix seconds; no other ever has its `id`."""

    id: int
    kind: CredentialKind
    public: str = field(repr=False)
    sealed: bytes | None = field(repr=False)
    fingerprint: str | None
    created_at: float
    sources: str = ""
    expires_at: float | None = None
    verify_required: bool = False


@dataclass(frozen=True, slots=True)
class Delivery:
    """A place in a volume where a login's private key lies, or is to lie or not to lie: see `tables.deliveries`.

    `hashes` are hex digits. `id` None: it is not stored yet.
    """

    login: Login
    path: str
    directory: str
    volume: Directory
    hashes: tuple[str, ...] = ()
    wanted: bool = True
    done: bool = False
    id: int | None = None


@dataclass(frozen=True, slots=True)
class NewShareLink:
    """A link to make, called `name`. `digest` is the SHA-256 of its token, hex digits; `passphrase` the hash of one
    that is asked for besides, None: none is. Times are Unix seconds; `note` and `made_by` are for people to read."""

    name: str
    digest: str = field(repr=False)
    passphrase: str | None = field(repr=False)
    note: str
    made_at: float
    made_by: str
    expires_at: float
    uses_max: int


@dataclass(frozen=True, slots=True)
class ShareLinkRecord:
    """A link to the instance `key`; no other ever has its `id`. `uses` is how often it was opened, `wrong` how often
    with a wrong passphrase; other fields as in NewShareLink."""

    id: int
    key: InstanceKey
    login: Login
    name: str
    passphrase: str | None = field(repr=False)
    note: str
    made_at: float
    made_by: str
    expires_at: float
    uses_max: int
    uses: int
    wrong: int


@dataclass(frozen=True, slots=True)
class SessionRecord:
    """A session that is open, since `opened_at`, Unix seconds.

    `address` is the client's, `method` sshd's word ("publickey", "password"), `credential` the key's fingerprint,
    None when no key was used; `credential_id` that of its CredentialRecord, which may be gone, None for a key of a
    volume's and where it is not known.
    """

    id: str
    login: Login
    opened_at: float
    address: str
    method: str
    credential: str | None
    credential_id: int | None = None


@dataclass(frozen=True, slots=True)
class NewEvent:
    """Something that happened `at`, Unix seconds, `times` times since; fields as in `tables.events`."""

    at: float
    kind: EventKind
    what: str
    instance: str = ""
    login: str = ""
    address: str = ""
    who: str = ""
    done: bool = True
    times: int = 1
    read: int | None = None
    written: int | None = None


@dataclass(frozen=True, slots=True)
class EventRecord:
    """A row of the record; `id` gives the order."""

    id: int
    event: NewEvent
