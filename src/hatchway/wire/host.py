"""What the core may ask of hostd, and what it hears back. hostd checks every value again: see host/policy.py."""

from __future__ import annotations

import enum

import msgspec

from hatchway.model import NO_LIMITS, IdPair, Limits

PATH_MAX = 512
"""Characters of the path of a file that is open, as it is told."""

FILES_MAX = 20
"""Files that a session is told to have open, and each process of it by a worker."""

HASHES_MAX = 64
"""Digests in one Deliver or Withdraw: of so many keys that an instance has or had a file is recognised to be one."""


class UserRecord(msgspec.Struct, frozen=True, tag="user"):
    """A login to publish to NSS. `home` is the directory a session starts in, as seen inside its root."""

    login: str
    uid: int
    home: str


class View(msgspec.Struct, frozen=True, tag="view"):
    """One volume in a session's root: the directory `source` of the host, shown at `path`.

    `birth` is which directory that must be, see Births; "" for whichever is there. What a session makes belongs to
    `owner`, ids of the host; None: to whom the directory belongs. With `real` it belongs to whoever makes it, and
    owners and modes are shown as they are. `umask` are the permission bits taken from it; None: as configured.
    `limits` are those of the volume, the same in every view of it. With `folder`, names with a slash between two, only
    that directory of it is shown. `optional`: when it cannot be had, the session opens without it, and its place can
    neither be entered nor listed.
    """

    path: str
    source: str
    read_only: bool
    birth: str = ""
    owner: IdPair | None = None
    real: bool = False
    umask: int | None = None
    limits: Limits = NO_LIMITS
    folder: str = ""
    optional: bool = False


class PublishUsers(msgspec.Struct, frozen=True, tag="publish-users"):
    """Make the published records exactly these, as far as they may be. Answer: Published."""

    users: tuple[UserRecord, ...]


class Published(msgspec.Struct, frozen=True, tag="published"):
    """Logins that were not published, and why: the host has got an account of that name, for example."""

    problems: dict[str, str]


class OpenSession(msgspec.Struct, frozen=True, tag="open-session"):
    """Mount `views` for `login` and watch the session whose PAM helper is `helper_pid`. Answer: Done."""

    session: str
    login: str
    uid: int
    views: tuple[View, ...]
    helper_pid: int


class ApplyViews(msgspec.Struct, frozen=True, tag="apply-views"):
    """Make a login's root show exactly `views`, if it is mounted now.

    A view that is gone or became read-only is refused at once. Sessions go on with the others, where that is safe: see
    host/roots.py. Answer: Done.
    """

    login: str
    views: tuple[View, ...]


class EndSessions(msgspec.Struct, frozen=True, tag="end-sessions"):
    """End sessions of `login`: these and no others, or every one, and take its root away (`sessions` None).

    What they have open is dead before they end; whoever is not named goes on. Those that are not open are passed over.
    Answer: Done, when they have ended.
    """

    login: str
    sessions: tuple[str, ...] | None = None


class AskActivity(msgspec.Struct, frozen=True, tag="ask-activity"):
    """What do the sessions of `login` (None: of all) do? Answer: Activities, after half a second at most."""

    login: str | None = None


class OpenFile(msgspec.Struct, frozen=True):
    """A file that is open, for `writing` or only for reading.

    `path` is where it stands in the session, printable and PATH_MAX characters at most (its end, after "…"); that of
    its volume when it has no name any more.
    """

    path: str
    writing: bool


class SessionActivity(msgspec.Struct, frozen=True, kw_only=True):
    """One session: bytes downloaded (`read`) and uploaded (`written`), seconds since it asked for anything.

    `files` are FILES_MAX at most of those it has open. `partial`: not every worker of the login has answered, so there
    may be more of everything.
    """

    session: str
    login: str
    read: int
    written: int
    idle_s: float
    files: tuple[OpenFile, ...] = ()
    partial: bool = False


class Activities(msgspec.Struct, frozen=True, tag="activities"):
    """Each session that is open."""

    sessions: tuple[SessionActivity, ...]


class AskBirths(msgspec.Struct, frozen=True, tag="ask-births"):
    """Which directories stand at these paths now? Answer: Births."""

    sources: tuple[str, ...]


class Births(msgspec.Struct, frozen=True, tag="births"):
    """For each directory that could be opened, an opaque text no other directory ever has.

    `refused` are those that cannot be shared, with why. `unknown` are those of which nothing can be said now, with
    why: they do not answer. That is not their absence. `whereabouts` are where those that could be opened are on their
    file systems, opaque paths that meet where directories do; "" where that cannot be told.
    """

    births: dict[str, str]
    refused: dict[str, str] = {}
    unknown: dict[str, str] = {}
    whereabouts: dict[str, str] = {}


class Usage(msgspec.Struct, frozen=True):
    """What was counted in a volume at `measured_at` (Unix seconds), and has come and gone over SFTP since.

    `size` is in bytes: that of each file, holes included, in whole blocks of 4096. `files` are names, of files,
    directories and whatever else there is.
    """

    size: int
    files: int
    measured_at: float


class SharedVolume(msgspec.Struct, frozen=True, kw_only=True):
    """A volume somebody has access to. `source`, `birth` and `limits` as in View, `known` what was counted last."""

    source: str
    birth: str
    limits: Limits = NO_LIMITS
    known: Usage | None = None


class Measure(msgspec.Struct, frozen=True, tag="measure"):
    """These and no other volumes are shared: know their sizes, now and from now on. Answer: Sizes, without waiting."""

    volumes: tuple[SharedVolume, ...]


class VolumeSize(msgspec.Struct, frozen=True, kw_only=True):
    """The size of a volume, in bytes and files; None where it is not known, or not known yet.

    `nominal` is what the volume is called: its limit, or the device its own file system is on; `usable` what files may
    use of that, `available` what is left of it for a session. Those of a directory without a limit are None, but for
    `available`. `used` is more than `usable` when the container, which nothing limits, has gone beyond the limit.
    `limits` are those that hold, `own` whether the volume is a file system of its own. `counted` is what was counted,
    `problem` why it could not be.
    """

    used: int | None = None
    usable: int | None = None
    nominal: int | None = None
    available: int | None = None
    files_used: int | None = None
    files_usable: int | None = None
    limits: Limits = NO_LIMITS
    own: bool = False
    counted: Usage | None = None
    problem: str = ""


class Sizes(msgspec.Struct, frozen=True, tag="sizes"):
    """One for each volume that was asked for, in that order."""

    sizes: tuple[VolumeSize, ...]


class Folder(msgspec.Struct, frozen=True):
    """The directory `folder` of a volume. `source` and `birth` as in View."""

    source: str
    birth: str
    folder: str


class AskFolders(msgspec.Struct, frozen=True, tag="ask-folders"):
    """Could a session be shown these now? No device is mounted for that. Answer: Folders, after a second at most."""

    folders: tuple[Folder, ...]


class FolderState(enum.StrEnum):
    """What is where a folder should be. `NOTHING`: nothing. `FILE`: what is no directory. `LINK`: a link, or something
    else that is mounted there, stands in the way. `UNKNOWN`: nothing can be said, of the volume perhaps."""

    THERE = "there"
    NOTHING = "nothing"
    FILE = "file"
    LINK = "link"
    UNKNOWN = "unknown"


class Folders(msgspec.Struct, frozen=True, tag="folders"):
    """One for each folder that was asked for, in that order."""

    states: tuple[FolderState, ...]


class ReadKeys(msgspec.Struct, frozen=True, tag="read-keys"):
    """Which public keys are in the volume `source`, whose root is somebody's .ssh? Answer: KeyFiles.

    `birth` as in View. `token` is that of the answer this is held against, b"" for none.
    """

    source: str
    birth: str
    token: bytes = b""


class KeyFile(msgspec.Struct, frozen=True):
    """A file as it is on disk: name and contents are whatever the container likes."""

    name: bytes
    data: bytes


class Skip(enum.StrEnum):
    """Why a file was passed over.

    `SYMLINK`, `KIND`: it is no regular file. `SIZE`: it is too large. `TOGETHER`: the files before it are as much as is
    read. `MANY`: there are too many. `WRITABLE`: others than its owner may write it, so it says nothing; of the
    directory: the same of all that is in it. `OWNER`: it belongs neither to the directory's owner nor to root. `BUSY`:
    a program holds a lease on it. `CHANGING`: it did not stay the same while it was read. `FAILED`: it cannot be read.
    `CROWDED`, of the directory: it has too many names to be looked through.
    """

    SYMLINK = "symlink"
    KIND = "kind"
    SIZE = "size"
    TOGETHER = "together"
    MANY = "many"
    WRITABLE = "writable"
    OWNER = "owner"
    BUSY = "busy"
    CHANGING = "changing"
    FAILED = "failed"
    CROWDED = "crowded"


class Skipped(msgspec.Struct, frozen=True):
    """A file that was passed over; the directory itself when `name` is b""."""

    name: bytes
    reason: Skip


class KeyFiles(msgspec.Struct, frozen=True, tag="key-files"):
    """authorized_keys, if it is there, and then the *.pub in the order of their names.

    `unchanged`: nothing has changed since the answer with the token that was asked about, and nothing was read.
    `token` is for the next question; b"" when a change in the next moment might not show. `more` is how many were
    passed over besides `skipped`.
    """

    token: bytes = b""
    unchanged: bool = False
    files: tuple[KeyFile, ...] = ()
    skipped: tuple[Skipped, ...] = ()
    more: int = 0


class PrivateBytes(msgspec.Struct, frozen=True):
    """A private key's file on its way. It is not shown when a message that holds it is."""

    value: bytes

    def __repr__(self) -> str:
        return "<secret>"

    def __rich_repr__(self) -> list[tuple[str, object]]:
        """Nothing."""
        return []


class Deliver(msgspec.Struct, frozen=True, kw_only=True, tag="deliver"):
    """Put `key` into a volume, as the file id_container in `directory`. Answer: Delivered.

    `directory` is relative to the volume's root, which is "". The file gets the mode 0600 and belongs to `owner`, ids
    of the host; None: to whom the directory belongs. A file of that name whose SHA-256 is in `replaces` is replaced,
    one that is the same already stays as it is, and any other is a ConflictError. The limits of `volume` count where
    hostd has not been told of it otherwise.
    """

    volume: SharedVolume
    directory: str = ""
    owner: IdPair | None = None
    key: PrivateBytes
    replaces: tuple[bytes, ...] = ()


class Delivered(msgspec.Struct, frozen=True, tag="delivered"):
    """It is there. `changed`: it was not before."""

    changed: bool


class Withdraw(msgspec.Struct, frozen=True, kw_only=True, tag="withdraw"):
    """Remove the file id_container from `directory` if its SHA-256 is in `hashes`. Answer: Withdrawn."""

    volume: SharedVolume
    directory: str = ""
    hashes: tuple[bytes, ...]


class Withdrawal(enum.StrEnum):
    """What became of it. `ABSENT`: there was none. `FOREIGN`: it has other contents, and stays."""

    REMOVED = "removed"
    ABSENT = "absent"
    FOREIGN = "foreign"


class Withdrawn(msgspec.Struct, frozen=True, tag="withdrawn"):
    """What was found is no key of ours any more."""

    outcome: Withdrawal


class Status(msgspec.Struct, frozen=True, tag="status"):
    """Ask for what is mounted and who is in. Answer: HostStatus."""


class Watch(msgspec.Struct, frozen=True, tag="watch"):
    """Answer: HostStatus; then the connection carries one more HostStatus and a SessionEnded for each session."""


class Done(msgspec.Struct, frozen=True, tag="done"):
    """It is done."""


class MountStatus(msgspec.Struct, frozen=True, tag="mount"):
    """One mounted volume. `worker_uid` is the worker's own uid."""

    login: str
    path: str
    read_only: bool
    worker_pid: int
    worker_uid: int


class HostStatus(msgspec.Struct, frozen=True, tag="host-status"):
    """What hostd holds. `sessions` maps a session's id to its login."""

    mounts: tuple[MountStatus, ...]
    sessions: dict[str, str]


class SessionEnded(msgspec.Struct, frozen=True, tag="session-ended"):
    """The session's sshd process is gone. `read` and `written` as in SessionActivity, as far as it is known.

    `by_hostd`: hostd ended it, because it was told to or by itself.
    """

    session: str
    read: int = 0
    written: int = 0
    by_hostd: bool = False


class AskLeftovers(msgspec.Struct, frozen=True, tag="ask-leftovers"):
    """Look for what nobody uses any more. Takes some seconds when there is any. Answer: Leftovers."""


class LeftoverKind(enum.StrEnum):
    """What it is. `RECORD`: a user or group in the user database."""

    SESSION = "session"
    WORKER = "worker"
    MOUNT = "mount"
    DIRECTORY = "directory"
    RECORD = "record"


class Leftover(msgspec.Struct, frozen=True, kw_only=True):
    """Something of Hatchway's that nobody uses any more.

    `path` is that of a mount, directory or record; `pid` and `uid` are a process's, `uid` also a record's; `login` is
    whose it was, as far as it is known. `owner` is the run directory of the Hatchway that made a record.
    """

    kind: LeftoverKind
    path: str = ""
    pid: int = 0
    uid: int = 0
    login: str = ""
    owner: str = ""


class Leftovers(msgspec.Struct, frozen=True, tag="leftovers"):
    """What was found, and hostd's own pid."""

    found: tuple[Leftover, ...]
    hostd_pid: int
