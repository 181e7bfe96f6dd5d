"""What the admin socket answers about who may enter: passwords, keys, conditions and sessions. `admin/` implements it.

Requests and answers that hold a secret show none of it when they are printed: a traceback would.
"""

from __future__ import annotations

import enum

import msgspec
from msgspec import UNSET, UnsetType

from hatchway.model import InstanceKey


class Confidential(msgspec.Struct, frozen=True):
    """A message that is printed without its fields."""

    def __repr__(self) -> str:
        return f"<{type(self).__name__}>"


class PasswordKind(enum.StrEnum):
    """How the password is kept: `RAW` can be shown again, `HASHED` cannot, `NONE` means key only."""

    RAW = "raw"
    HASHED = "hashed"
    NONE = "none"


class ShowPassword(msgspec.Struct, frozen=True, tag="show-password"):
    """The instance's password, if it is kept raw. Answer: Password."""

    instance: str


class ResetPassword(msgspec.Struct, frozen=True, kw_only=True, tag="reset-password"):
    """Make a new password, kept as `kind` says, None as is configured. The old one is of no use from now on, and the
    sessions that came in by it end. Answer: Password.
    """

    instance: str
    kind: PasswordKind | None = None


class SetPassword(Confidential, frozen=True, kw_only=True, tag="set-password"):
    """Have the password be `password`, kept as `kind` says, None as is configured. As ResetPassword. Answer: Password,
    without it."""

    instance: str
    password: str
    kind: PasswordKind | None = None


class ImportPassword(Confidential, frozen=True, kw_only=True, tag="import-password"):
    """Have the password be the one with the hash `encoded`: see credentials.imported. Answer: Password, without it."""

    instance: str
    encoded: str


class RemovePassword(msgspec.Struct, frozen=True, tag="remove-password"):
    """Have no password: key only. The sessions that came in by it end. Answer: Password, without it."""

    instance: str


class Password(Confidential, frozen=True, kw_only=True, tag="password"):
    """How a password is kept; `hash` names the kind of its hash. `password` is in clear, for the operator's eyes, None
    when it is not to be shown. `not_ended` says why sessions by the one before go on for now, "" when none does."""

    login: str
    kind: PasswordKind
    hash: str = ""
    password: str | None = None
    not_ended: str = ""


class KeyForm(enum.StrEnum):
    """The format of a private key's file: OpenSSH's, or PuTTY's, version 3."""

    OPENSSH = "openssh"
    PPK = "ppk"


class ExportKey(Confidential, frozen=True, tag="export-key"):
    """The instance's private key, `id_container`, in a file of `form`, encrypted with `passphrase` if there is one, as
    only PPK can be. Answer: KeyExport."""

    instance: str
    form: KeyForm = KeyForm.OPENSSH
    passphrase: str | None = None


class KeyExport(Confidential, frozen=True, kw_only=True, tag="key-export"):
    """`private` is the private key file; `public` the key's authorized_keys line."""

    login: str
    private: str
    public: str
    fingerprint: str


class RenewKey(msgspec.Struct, frozen=True, kw_only=True, tag="renew-key"):
    """Make a new `id_container`, of `kind` as in credentials.key of the configuration, None as is configured. The old
    one is of no use from now on, and the sessions that came in by it end. Answer: Keys.
    """

    instance: str
    kind: str | None = None


class AddKey(Confidential, frozen=True, kw_only=True, tag="add-key"):
    """Let in whoever has the private key of `public`, a line such as "ssh-ed25519 AAAA… comment".

    `sources` are from where, as in from= of sshd(8), "" from anywhere; `expires_at` is Unix seconds, None: never.
    `verify_required` as in sshd(8), for keys in hardware. Answer: Keys.
    """

    instance: str
    public: str
    sources: str = ""
    expires_at: float | None = None
    verify_required: bool = False


class RemoveKey(msgspec.Struct, frozen=True, kw_only=True, tag="remove-key"):
    """Take a key away that was added: `key` is its fingerprint, the beginning of it, or its comment. The sessions that
    came in by it end. Answer: Keys.
    """

    instance: str
    key: str


class AllowVolumeKeys(msgspec.Struct, frozen=True, kw_only=True, tag="allow-volume-keys"):
    """Whether keys count that the instance keeps in a volume at a path ending in /.ssh. Answer: Keys."""

    instance: str
    allow: bool


class DeliverKey(msgspec.Struct, frozen=True, kw_only=True, tag="deliver-key"):
    """Put the private key, id_container, into a shared volume, called by path or name, and keep it there as it is now,
    until access to the volume is taken away. It lies in `directory`, relative to the volume's root; "" is that. What
    was put elsewhere is taken away. Answer: Keys.
    """

    instance: str
    volume: str
    directory: str = ""


class TakeKeyBack(msgspec.Struct, frozen=True, tag="take-key-back"):
    """Take the private key out of the volume. Answer: Keys."""

    instance: str


class ListKeys(msgspec.Struct, frozen=True, tag="list-keys"):
    """The keys of an instance. Answer: Keys."""

    instance: str


class KeyOrigin(enum.StrEnum):
    """Where a key comes from: `GENERATED` is id_container, `VOLUME` the instance's own volume."""

    GENERATED = "generated"
    ADDED = "added"
    VOLUME = "volume"


class KeyStatus(msgspec.Struct, frozen=True, kw_only=True):
    """A key that may be used. Times are Unix seconds; `created_at` is None for one of a volume's, which is said in
    `place`. Other fields as in AddKey; `bits` are those of RSA, None for others."""

    origin: KeyOrigin
    algorithm: str
    fingerprint: str
    comment: str
    bits: int | None = None
    created_at: float | None = None
    sources: str = ""
    expires_at: float | None = None
    verify_required: bool = False
    place: str = ""


class Keys(msgspec.Struct, frozen=True, kw_only=True, tag="keys"):
    """The keys of a login. `volume_keys`: those in its volumes count. `problems` are sentences about lines and files
    that do not; `changed` are the fingerprints of what was added or taken away. `delivered` are the paths, in the
    container, at which the private key lies, `undelivered` sentences about those at which it does not as it should.
    `taken_back` says what TakeKeyBack did, for each path. `not_ended` as in Password.
    """

    login: str
    keys: tuple[KeyStatus, ...]
    volume_keys: bool
    problems: tuple[str, ...] = ()
    changed: tuple[str, ...] = ()
    delivered: tuple[str, ...] = ()
    undelivered: tuple[str, ...] = ()
    taken_back: tuple[str, ...] = ()
    not_ended: str = ""


class ShowConditions(msgspec.Struct, frozen=True, tag="show-conditions"):
    """Under which conditions an instance's login may be used. Answer: ConditionsStatus."""

    instance: str


class SetConditions(msgspec.Struct, frozen=True, kw_only=True, tag="set-conditions"):
    """Change those that are set. Sessions end that may not stay. Fields as in ConditionsStatus. Answer: that."""

    instance: str
    allowed_from: tuple[str, ...] | UnsetType = UNSET
    expires_at: float | UnsetType | None = UNSET
    sessions_max: int | UnsetType | None = UNSET


WHY_MAX = 200
"""Characters of why a login is locked."""


class Lock(msgspec.Struct, frozen=True, kw_only=True, tag="lock"):
    """Let nobody in, whatever they have, until Unlock; sessions end. `why` is for people, WHY_MAX characters at most,
    without space around it. Answer: ConditionsStatus."""

    instance: str
    why: str = ""


class Unlock(msgspec.Struct, frozen=True, tag="unlock"):
    """Let in again who may. Answer: ConditionsStatus."""

    instance: str


class Hindrance(msgspec.Struct, frozen=True):
    """What stands in a client's way: `text` is a sentence without stop, `mend` the command that ends it, quoted for a
    shell and plainly visible, with words in capitals for what only the operator knows; "" when there is none."""

    text: str
    mend: str = ""


class ConditionsStatus(msgspec.Struct, frozen=True, kw_only=True, tag="conditions"):
    """Under which conditions a login may be used.

    `allowed_from` are networks in CIDR notation, none: from anywhere. `expires_at` is Unix seconds, None: never.
    `sessions_max` is what was said of this login, None: nothing, so `sessions_default` counts. `locked_at` is None when
    it is not locked. `hindrances` are what of this keeps everybody out now.
    """

    login: str
    allowed_from: tuple[str, ...]
    expires_at: float | None
    sessions_max: int | None
    sessions_default: int
    locked_at: float | None
    locked_why: str
    hindrances: tuple[Hindrance, ...] = ()


class ListSessions(msgspec.Struct, frozen=True, kw_only=True, tag="list-sessions"):
    """The sessions of an instance, None: of all. Answer: Sessions."""

    instance: str | None = None


class OpenPath(msgspec.Struct, frozen=True):
    """A file that is open: its path as the session sees it, and whether it is written to."""

    path: str
    writing: bool


class SessionStatus(msgspec.Struct, frozen=True, kw_only=True):
    """An open session.

    `method` is sshd's word; `credential` the fingerprint of the key used, `comment` that key's comment. `opened_at` is
    Unix seconds; `read` and `written` are bytes that the client has got and sent, `idle_s` how long it has done
    nothing, None when that is not known; `files` what it has open. `partial`: more may be open and have gone over.
    """

    id: str
    key: InstanceKey | None
    login: str
    address: str
    method: str
    opened_at: float
    credential: str = ""
    comment: str = ""
    read: int | None = None
    written: int | None = None
    idle_s: float | None = None
    files: tuple[OpenPath, ...] = ()
    partial: bool = False


class Sessions(msgspec.Struct, frozen=True, kw_only=True, tag="sessions"):
    """Oldest first."""

    sessions: tuple[SessionStatus, ...]


class Kick(msgspec.Struct, frozen=True, kw_only=True, tag="kick"):
    """End the sessions with these ids, or ids that begin so; with none, all of `instance`. Who was in may come in
    again: Lock prevents that. Answer: Kicked.
    """

    instance: str | None = None
    sessions: tuple[str, ...] = ()


class Kicked(msgspec.Struct, frozen=True, kw_only=True, tag="kicked"):
    """The sessions that were ended."""

    sessions: tuple[SessionStatus, ...]


class RotateKey(msgspec.Struct, frozen=True, tag="rotate-key"):
    """Seal all secrets with a new sealing key. Answer: Rotated."""


class Rotated(msgspec.Struct, frozen=True, tag="rotated"):
    """How many secrets there are."""

    secrets: int
