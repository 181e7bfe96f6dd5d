"""What the admin socket answers: every operation of the command line, once. `admin/` implements it."""

from __future__ import annotations

import enum

import msgspec

from hatchway.model import (
    KEEP_LIMITS,
    NO_LIMITS,
    UNSAID,
    AccessRule,
    EventKind,
    IdPair,
    InstanceKey,
    InstanceState,
    Limits,
    Mode,
    NewLimits,
    Origin,
    Ownership,
    VolumeKind,
)
from hatchway.wire.entry import ConditionsStatus, Confidential, Hindrance, PasswordKind
from hatchway.wire.host import Leftovers, VolumeSize


class Access(enum.StrEnum):
    """Whether a volume can be reached. `SUSPENDED`: another volume than the granted one stands at the path now."""

    OFF = "off"
    READ_ONLY = "ro"
    READ_WRITE = "rw"
    SUSPENDED = "suspended"

    @property
    def is_on(self) -> bool:
        """Whether sessions reach it."""
        return self in (Access.READ_ONLY, Access.READ_WRITE)


class GrantStatus(msgspec.Struct, frozen=True, kw_only=True):
    """One of the grants of a volume. `in_force` is False when it was given to another volume at that path.

    `follows`: it goes over to the anonymous volume that succeeds this one. `granted_at` is Unix seconds.
    """

    origin: Origin
    mode: Mode
    in_force: bool
    follows: bool
    granted_by: str
    granted_at: float
    ownership: Ownership = UNSAID
    limits: Limits = NO_LIMITS


class VolumeStatus(msgspec.Struct, frozen=True, kw_only=True):
    """A volume of an instance and the access to it, which is what those of its `grants` in force give together.

    `path` is inside the container, `session_path` where a session finds it (None when access is off). `present` is
    False for a granted volume the instance no longer has. `ownership` is what the grants in force say together, and
    `owner_ids` whom that means, as the host counts. `limits` are those of the volume, whoever's grant says so; `size`
    is None when it is not shared or hostd is away. `refusal` says why access cannot be enabled, `held_back` why a rule
    or label does not give access by itself. `people` are the logins of those with whom it, or a part of it, is shared.
    """

    path: str
    name: str
    kind: VolumeKind
    driver: str
    read_only: bool
    access: Access
    session_path: str | None = None
    refusal: str | None = None
    present: bool = True
    anonymous: bool = False
    held_back: str | None = None
    grants: tuple[GrantStatus, ...] = ()
    ownership: Ownership = UNSAID
    owner_ids: IdPair | None = None
    limits: Limits = NO_LIMITS
    size: VolumeSize | None = None
    people: tuple[str, ...] = ()


class InstanceStatus(msgspec.Struct, frozen=True, kw_only=True):
    """An instance, its volumes and its login (None before the first enable). `present`: the catalog has it now.

    `locked` and `expired`: the login is, so nobody is let in by it.
    """

    key: InstanceKey
    state: InstanceState
    runtime_name: str
    image: str
    user: str
    present: bool
    login: str | None
    volumes: tuple[VolumeStatus, ...]
    sessions: int = 0
    locked: bool = False
    expired: bool = False


class PersonVolume(msgspec.Struct, frozen=True, kw_only=True):
    """A volume of the instance `key`, or only its directory `folder`, that is shared with a person.

    `mode` is what was granted, `access` what they have; `key_source`: that is less since keys may lie there that let
    somebody in. `session_path` is where a session of theirs finds it, None while it is suspended, for the reason
    `problem`. `refused` says why they get "permission denied" there for now although they have access, "" when they do
    not or that is not known: of what is shared as a folder, the container decides whether it is there. Other fields as
    in VolumeStatus and InstanceStatus; `size` is the whole volume's.
    """

    key: InstanceKey
    state: InstanceState
    present: bool
    path: str
    folder: str
    name: str
    driver: str
    kind: VolumeKind
    mode: Mode
    access: Access
    session_path: str | None
    granted_at: float
    granted_by: str
    problem: str = ""
    refused: str = ""
    key_source: bool = False
    ownership: Ownership = UNSAID
    limits: Limits = NO_LIMITS
    size: VolumeSize | None = None


class PersonStatus(msgspec.Struct, frozen=True, kw_only=True):
    """A person, called by their login; `full_name` is "" when it is not known. `created_at` is Unix seconds.

    `locked` and `expired`: the login is, so nobody is let in by it. `sessions` of theirs are open.
    """

    login: str
    full_name: str
    created_at: float
    volumes: tuple[PersonVolume, ...]
    sessions: int = 0
    locked: bool = False
    expired: bool = False


class SourceStatus(msgspec.Struct, frozen=True, kw_only=True):
    """How fresh one source of the catalog is. `age_s` is seconds since its last sign of life, None if never."""

    source: str
    age_s: float | None
    instances: int
    problem: str | None


class ListInstances(msgspec.Struct, frozen=True, tag="list"):
    """Every known instance. Answer: Listing."""


class Listing(msgspec.Struct, frozen=True, tag="listing"):
    """Instances in the order of their keys."""

    instances: tuple[InstanceStatus, ...]
    sources: tuple[SourceStatus, ...]


class Enable(msgspec.Struct, frozen=True, kw_only=True, tag="enable"):
    """Grant access to volumes of an instance. `instance` is a key, a login or a container's name.

    `volumes` are paths or names; empty is a UsageError that lists them, unless `every`. `follow`: access to anonymous
    volumes goes over to those the container gets when it is made again. What `limits` leave as it was, is as Enable
    said last of that path. Answer: Changed.
    """

    instance: str
    volumes: tuple[str, ...] = ()
    every: bool = False
    read_only: bool = False
    follow: bool = False
    ownership: Ownership = UNSAID
    limits: NewLimits = KEEP_LIMITS


class Disable(msgspec.Struct, frozen=True, kw_only=True, tag="disable"):
    """Take access away that was given by Enable; the login's sessions end. Arguments as in Enable. Answer: Changed."""

    instance: str
    volumes: tuple[str, ...] = ()
    every: bool = False


class Apply(msgspec.Struct, frozen=True, kw_only=True, tag="apply"):
    """Make `rules` those that give access, and take away what rules before gave; with `dry_run` only say what that
    would change. Answer: Applied.
    """

    rules: tuple[AccessRule, ...]
    dry_run: bool = False


class Confirm(msgspec.Struct, frozen=True, kw_only=True, tag="confirm"):
    """Let suspended grants be for the volumes that stand at their paths now, each in its mode. `volumes` are paths or
    names; none means all that are suspended. Answer: Changed.
    """

    instance: str
    volumes: tuple[str, ...] = ()


class ChangeKind(enum.StrEnum):
    """What applying rules does to a grant, or does not. `CONFIRM`: another volume stands there than it was for, so it
    stays suspended until that is confirmed. `REFUSED`: the volume cannot be shared."""

    GRANT = "grant"
    ALTER = "alter"
    FOLLOW = "follow"
    CONFIRM = "confirm"
    WITHDRAW = "withdraw"
    REFUSED = "refused"


class AccessChange(msgspec.Struct, frozen=True, kw_only=True):
    """A change of one grant. `by` is the rule or label, `before` the mode until now (None: there is no grant yet),
    `owned_before` the ownership and `limits_before` the limits until now, `reason` a sentence for people, "" when there
    is none."""

    kind: ChangeKind
    key: InstanceKey
    path: str
    origin: Origin
    mode: Mode
    by: str
    before: Mode | None = None
    ownership: Ownership = UNSAID
    owned_before: Ownership = UNSAID
    limits: Limits = NO_LIMITS
    limits_before: Limits = NO_LIMITS
    reason: str = ""


class Applied(msgspec.Struct, frozen=True, kw_only=True, tag="applied"):
    """What was, or with `dry_run` would be, changed. Of these `pending` are still being made, and what is in `waiting`
    is not: it is to be confirmed, or cannot be shared.

    `idle` names rules and labels that match no volume there is now. Of `sources` that cannot be read now nothing new is
    shared until they can. `problems` are sentences about what could not be done, and is tried again.
    """

    changes: tuple[AccessChange, ...]
    waiting: tuple[AccessChange, ...]
    pending: int
    problems: tuple[str, ...]
    idle: tuple[str, ...]
    sources: tuple[SourceStatus, ...]
    dry_run: bool


class Forget(msgspec.Struct, frozen=True, kw_only=True, tag="forget"):
    """Remove an instance's grants and credentials for good; its sessions end. Answer: Forgotten."""

    instance: str


class Forgotten(msgspec.Struct, frozen=True, kw_only=True, tag="forgotten"):
    """What there was: the login, which nobody gets again, and the paths that were shared.

    `again`: a rule or label shared some of it, and gives the instance access again, by another login.
    """

    key: InstanceKey
    login: str
    paths: tuple[str, ...]
    again: bool = False


class Prune(msgspec.Struct, frozen=True, kw_only=True, tag="prune"):
    """Forget the instances that have been gone for `gone_s` seconds; with `dry_run` only name them. Answer: Pruned."""

    gone_s: float
    dry_run: bool = False


class GoneInstance(msgspec.Struct, frozen=True, kw_only=True):
    """An instance that was last there `gone_s` seconds ago."""

    key: InstanceKey
    login: str
    gone_s: float


class Pruned(msgspec.Struct, frozen=True, kw_only=True, tag="pruned"):
    """Those that were, or with `dry_run` would be, forgotten."""

    instances: tuple[GoneInstance, ...]
    dry_run: bool


class Changed(Confidential, frozen=True, kw_only=True, tag="changed"):
    """The instance after a change.

    `changed` are the paths that were changed. `password` is a newly made password that cannot be shown again
    (only with hashed passwords, only when it was made now). `other_hands`: the instance's login was made for other
    volumes, perhaps somebody else's, who has its key and password.
    """

    instance: InstanceStatus
    changed: tuple[str, ...]
    password: str | None = None
    other_hands: bool = False


class Show(msgspec.Struct, frozen=True, kw_only=True, tag="show"):
    """Everything a client needs. `secrets` asks for the password too. Answer: ConnectionInfo."""

    instance: str
    secrets: bool = False


class HostKey(msgspec.Struct, frozen=True, tag="host-key"):
    """One host key of the dedicated sshd: `public` is "type base64", `fingerprint` "SHA256:…"."""

    algorithm: str
    fingerprint: str
    public: str


class ConnectionInfo(Confidential, frozen=True, kw_only=True, tag="connection-info"):
    """What a person needs to connect. `host` and `port` are for clients, wherever sshd listens. `password` is None when
    hidden, unknown (hashed) or absent. `keys` is how many keys there are besides the generated one, `volume_keys` those
    in its own volumes, None when these do not count.

    It is of an `instance` or a `person`. `password_hash` names the kind of its hash, as in Password; "" when there is
    none. `password_rehash`: it is not as we hash them, and is hashed anew at the next login by it. So nobody has used
    one that was imported so yet.
    `problems` are what stands in a client's way.
    """

    instance: InstanceStatus | None = None
    person: PersonStatus | None = None
    host: str
    port: int
    login: str
    start_directory: str
    password_kind: PasswordKind
    password: str | None
    key_fingerprint: str | None
    key_public: str | None
    host_keys: tuple[HostKey, ...]
    conditions: ConditionsStatus
    keys: int = 0
    volume_keys: int | None = None
    problems: tuple[Hindrance, ...] = ()
    password_hash: str = ""
    password_rehash: bool = False

    @property
    def whose(self) -> str:
        """Whose login it is: an instance's key, or the login itself."""
        return self.login if self.instance is None else str(self.instance.key)

    @property
    def environment(self) -> str:
        """What it stands under where there are many: an instance's environment, or "People"."""
        return "People" if self.instance is None else self.instance.key.environment

    @property
    def places(self) -> tuple[str, ...]:
        """Where a session finds the volumes it reaches."""
        volumes: tuple[VolumeStatus | PersonVolume, ...] = ()
        if self.instance is not None:
            volumes = self.instance.volumes
        elif self.person is not None:
            volumes = self.person.volumes
        return tuple(volume.session_path for volume in volumes if volume.session_path is not None)


class ShowServer(msgspec.Struct, frozen=True, tag="show-server"):
    """Where clients connect to, whoever they are. Answer: Server."""


class Server(msgspec.Struct, frozen=True, tag="server"):
    """Fields as in ConnectionInfo."""

    host: str
    port: int
    host_keys: tuple[HostKey, ...]


HOST_STARTING = "hostd has not answered yet"
"""The `host_problem` of a daemon that has just been started."""


class DaemonStatus(msgspec.Struct, frozen=True, tag="daemon-status"):
    """How the daemon is; with `leftovers` also what nobody uses any more. Answer: Status."""

    leftovers: bool = False


class Status(msgspec.Struct, frozen=True, kw_only=True, tag="status"):
    """`host_problem` is a sentence when hostd cannot be reached, None when all is well.

    `leftovers` is None when they were not asked for, or hostd did not tell. `rules` are the access rules that count,
    `waiting` instances and paths at which access is suspended or held back until it is confirmed, `unshareable` those
    at which it is suspended since what is there cannot be shared, `full` those to which nothing can be added.
    `locked` and `expired` are logins, `unopened` those of which a secret does not open with the sealing key; with
    `sealing_lost` since there is none, though secrets were sealed with it.
    """

    version: str
    sources: tuple[SourceStatus, ...]
    logins: int
    sessions: int
    mounts: int
    host_problem: str | None
    rules: tuple[AccessRule, ...] = ()
    waiting: tuple[str, ...] = ()
    unshareable: tuple[str, ...] = ()
    full: tuple[str, ...] = ()
    locked: tuple[str, ...] = ()
    expired: tuple[str, ...] = ()
    unopened: tuple[str, ...] = ()
    sealing_lost: bool = False
    leftovers: Leftovers | None = None


LOG_MAX = 5000
"""The most events of one Log, each of a few kilobytes at most."""


class ReadLog(msgspec.Struct, frozen=True, kw_only=True, tag="read-log"):
    """The record of what happened: the latest `limit` events, 1 to LOG_MAX, since `since` (Unix seconds, None: ever).

    `instance` as in Enable, also one that is forgotten; "" and no kinds: of all. With `after`, a `Log.last`, the first
    that were written after that, and what is still counted, each time anew; not for people. Answer: Log.
    """

    limit: int = 100
    instance: str = ""
    kinds: tuple[EventKind, ...] = ()
    since: float | None = None
    after: int | None = None


class LogEntry(msgspec.Struct, frozen=True, kw_only=True):
    """Something that happened `at`, Unix seconds, `times` times since. `id` None: not written yet, and still counted.

    `instance` is a key, `login` whatever a client said, `address` the client's, `who` a session's credential or who
    made a change, each "" when there is none. `done`: it was done, or let in. `read` and `written` are bytes that the
    client of a session that ended has got and sent, None when that is not known, and with every other kind. People are
    told 0 as every `id`.
    """

    id: int | None
    at: float
    kind: EventKind
    instance: str
    login: str
    address: str
    who: str
    what: str
    done: bool
    times: int
    read: int | None = None
    written: int | None = None


class Log(msgspec.Struct, frozen=True, kw_only=True, tag="log"):
    """Events in the order of their time. `last` is what to go on after; people are told 0."""

    entries: tuple[LogEntry, ...]
    last: int
