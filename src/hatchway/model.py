"""What things are called and look like, everywhere in Hatchway. No I/O, no state.

Text that comes from containers (names, paths, labels) is data: nothing here or elsewhere may interpret it.
"""

from __future__ import annotations

import enum
import hashlib
import posixpath
import re
from collections.abc import Iterable
from typing import NamedTuple, NewType

import msgspec

from hatchway.errors import UsageError

Uid = NewType("Uid", int)
"""A user id of the host, unsigned 32 bit."""
Gid = NewType("Gid", int)
"""A group id of the host, unsigned 32 bit."""
Login = NewType("Login", str)
"""A user name that `valid_login` accepts."""

LOGIN_MAX = 31
"""Longest login in characters: utmp and useradd(8) allow 32 with the NUL."""
_LOGIN = re.compile(r"[a-z_][a-z0-9_-]{0,30}")
_PROBE = re.compile(r"nobody-[0-9a-f]{12}")

VOLUMES_MAX = 256
"""Volumes of one login. Each is a mount and a process."""

SESSIONS_MAX = 128
"""Sessions of one login at once. Each holds descriptors of hostd's: nobody may use up what revoking others needs."""

DEPTH_MAX = 64
"""Directories on the way to a volume. Each one inside another volume is a fixed node, kept open while it is in use."""

RESERVED_PREFIXES = (
    "/bin", "/boot", "/dev", "/etc", "/lib", "/lib32", "/lib64", "/libx32", "/proc", "/run", "/sbin", "/sys", "/usr",
    "/volumes",
)  # fmt: skip
"""Top directories a volume is never mounted below in a session's root: after chroot(2) sshd's child still does
name look-ups, which read /etc, load from /lib* and /usr and connect to sockets in /run."""


class VolumeKind(enum.StrEnum):
    """Where a volume's contents live."""

    VOLUME = "volume"
    BIND = "bind"
    TMPFS = "tmpfs"
    DIRECTORY = "directory"
    OTHER = "other"


class InstanceState(enum.StrEnum):
    """The engine's word for what the container does; `STATIC` for a directory without an engine."""

    CREATED = "created"
    RUNNING = "running"
    PAUSED = "paused"
    RESTARTING = "restarting"
    REMOVING = "removing"
    EXITED = "exited"
    DEAD = "dead"
    STATIC = "static"
    UNKNOWN = "unknown"


class Mode(enum.StrEnum):
    """What a grant allows."""

    READ_ONLY = "ro"
    READ_WRITE = "rw"


class EventKind(enum.StrEnum):
    """What the record is of. `REFUSED` is an attempt to log in that failed, `CHANGE` whatever an operator did, `GUEST`
    what people and whoever opened a share link did in the web pages, `AUTO` what rules, labels and the catalog's news
    did to access by themselves. `LOST` stands for events that could not be kept.
    """

    LOGIN = "login"
    REFUSED = "refused"
    END = "end"
    CHANGE = "change"
    GUEST = "guest"
    AUTO = "auto"
    LOCKED = "locked"
    LOST = "lost"


class Origin(enum.StrEnum):
    """Where a grant comes from. A volume may have one of each; each is taken away only where it was given."""

    COMMAND = "command"
    FILE = "file"
    LABEL = "label"


class InstanceKey(msgspec.Struct, frozen=True, order=True):
    """One container as its operator thinks of it. It outlives the container's id."""

    environment: str
    container: str
    number: int

    def __str__(self) -> str:
        return f"{self.environment}/{self.container}/{self.number}"


class IdPair(msgspec.Struct, frozen=True):
    """A uid and a gid."""

    uid: int
    gid: int

    def __str__(self) -> str:
        return f"{self.uid}:{self.gid}"


ID_MAX = 2**32 - 2
"""The largest uid or gid: the next one means "leave it" (chown(2))."""


class IdRange(msgspec.Struct, frozen=True):
    """A line of a user namespace's map (user_namespaces(7)): `count` ids from `inside` on are those from `outside`."""

    inside: int
    outside: int
    count: int


def outside(number: int, ranges: tuple[IdRange, ...]) -> int | None:
    """What id of the host a container's id `number` is; no `ranges`: the same. None when it is none."""
    if not ranges:
        return number
    return next((one.outside + number - one.inside for one in ranges if 0 <= number - one.inside < one.count), None)


class Owning(enum.StrEnum):
    """Whom what a session makes belongs to on disk, besides `UID:GID` in so many numbers.

    `INHERIT`: whom the directory belongs to. `CONTAINER`: the container's configured user. `REAL`: whoever makes it,
    and all owners and modes are shown, and count, as they are.
    """

    INHERIT = "inherit"
    CONTAINER = "container"
    REAL = "real"


class Ownership(msgspec.Struct, frozen=True):
    """What a grant says of owners and modes. None: nothing.

    `owner` is a word of Owning or "UID:GID", the container's ids; `umask` the permission bits taken from new files.
    """

    owner: str | None = None
    umask: int | None = None


UNSAID = Ownership()
"""Says nothing of owners and modes."""


def parse_owner(text: str) -> str:
    """`text` as `Ownership.owner`. Raises UsageError."""
    if text in list(Owning) or owner_ids(text) is not None:
        return text
    raise UsageError(f"owner {text!r} is not allowed: expected {', '.join(Owning)} or UID:GID, such as 1000:1000")


def owner_ids(owner: str) -> IdPair | None:
    """The ids in an owner "UID:GID", None when it is none."""
    found = re.fullmatch(r"([0-9]{1,10}):([0-9]{1,10})", owner, re.ASCII)
    if found is None or max(int(found[1]), int(found[2])) > ID_MAX:
        return None
    return IdPair(int(found[1]), int(found[2]))


def parse_umask(text: str) -> int:
    """`text`, octal, as a umask. Raises UsageError."""
    if re.fullmatch(r"0?[0-7]{3}", text, re.ASCII) is None:
        raise UsageError(f"umask {text!r} is not allowed: expected three octal digits, such as 022")
    return int(text, 8)


class Limits(msgspec.Struct, frozen=True):
    """How large SFTP may make a volume. None: nothing is said.

    `size` is the nominal size in bytes, of which sizes.index_reserve is kept for the index; `files` counts names
    of files, directories and symlinks.
    """

    size: int | None = None
    files: int | None = None


NO_LIMITS = Limits()


class NewLimits(msgspec.Struct, frozen=True):
    """What somebody who gives access says of its limits. UNSET: they stay as they were, None: there are none."""

    size: int | msgspec.UnsetType | None = msgspec.UNSET
    files: int | msgspec.UnsetType | None = msgspec.UNSET

    @classmethod
    def exactly(cls, limits: Limits) -> NewLimits:
        """`limits`, whatever they were."""
        return cls(limits.size, limits.files)

    def after(self, before: Limits) -> Limits:
        """The limits of a grant that had `before`."""
        return Limits(
            before.size if self.size is msgspec.UNSET else self.size,
            before.files if self.files is msgspec.UNSET else self.files,
        )


KEEP_LIMITS = NewLimits()

SIZE_MIN, SIZE_MAX = 1 << 20, 1 << 50
"""The least and the greatest size limit, in bytes."""

FILES_MAX = 1 << 40
"""The greatest limit of files."""

_UNITS: dict[str, int] = {"": 1, "b": 1} | {
    unit: base**power
    for power, letter in enumerate("kmgt", 1)
    for unit, base in ((letter, 1024), (f"{letter}ib", 1024), (f"{letter}b", 1000))
}


def strictest(limits: Iterable[Limits]) -> Limits:
    """The limits that hold when each of `limits` does."""
    found = list(limits)
    sizes = [one.size for one in found if one.size is not None]
    files = [one.files for one in found if one.files is not None]
    return Limits(min(sizes, default=None), min(files, default=None))


def parse_size(text: str) -> int:
    """`text` in bytes: a number with K, M, G or T (or KiB, …: powers of 1024), or kB, MB, GB or TB (powers of 1000).

    Raises UsageError.
    """
    found = re.fullmatch(r"([0-9]{1,19})(?:\.([0-9]{1,9}))? ?([a-z]{0,3})", text.lower(), re.ASCII)
    if found is not None and found[3] in _UNITS:
        scale: int = 10 ** len(found[2] or "")
        size = int(found[1] + (found[2] or "")) * _UNITS[found[3]] // scale
        if SIZE_MIN <= size <= SIZE_MAX:
            return size
    raise UsageError(f"size {text!r} is not allowed: expected 1M to 1024T in a form such as 500M, 1.5G or 20GB")


def check_limits(limits: Limits) -> Limits:
    """`limits`, as they came from outside. Raises UsageError."""
    if limits.size is not None and not SIZE_MIN <= limits.size <= SIZE_MAX:
        raise UsageError(f"size {limits.size} is not allowed: expected {SIZE_MIN} to {SIZE_MAX} bytes")
    if limits.files is not None and not 1 <= limits.files <= FILES_MAX:
        raise UsageError(f"files {limits.files} is not allowed: expected a number from 1 to {FILES_MAX}")
    return limits


class Directory(NamedTuple):
    """A directory of the host: where it is, and which one that is (see wire.host.Births). What a limit is about."""

    source: str
    birth: str


class VolumeInfo(msgspec.Struct, frozen=True, kw_only=True):
    """One mount of an instance as the catalog sees it.

    `path` is absolute, inside the container. `source` is the directory on the host, None when there is none.
    `created` is opaque text that, with driver and name, identifies the volume: the engine's creation time in the
    catalog's snapshots, in the core which directory the host has there (see wire.host.Births);
    see `identity`. `anonymous`: nobody gave it a name, so a container that is made again gets another one.
    `refusal` says why access cannot be enabled, None when it can.
    """

    path: str
    kind: VolumeKind
    name: str = ""
    driver: str = ""
    created: str = ""
    source: str | None = None
    read_only: bool = False
    anonymous: bool = False
    refusal: str | None = None

    @property
    def is_ssh_directory(self) -> bool:
        """Whether its root is somebody's .ssh."""
        return is_ssh_directory(self.path)

    @property
    def identity(self) -> str:
        """What a grant binds to: another volume of the same name or at the same path has another identity."""
        if self.kind is VolumeKind.VOLUME:
            return f"volume:{self.driver}:{self.name}:{self.created}"
        return f"{self.kind}:{self.source}" + (f":{self.created}" if self.created else "")


class InstanceInfo(msgspec.Struct, frozen=True, kw_only=True):
    """One instance as the catalog sees it now. `user` is the container's configured user ("", "1000", "app:app").

    `access_label` is the container's own word on which volumes to share, see ACCESS_LABEL; "" when it has none.
    `owner` is that user as the container counts, None when it cannot be told, for the reason `owner_problem`. `uid_map`
    and `gid_map` say which ids of the host the container's are; `ids_problem` why that cannot be told, "" when it can.
    `provisional`: it is a throw-away container, one that is just being replaced, or has another key than its name or
    labels ask for, since that is taken; no rule and no label is about it.
    """

    key: InstanceKey
    runtime_id: str
    runtime_name: str
    state: InstanceState
    user: str = ""
    image: str = ""
    access_label: str = ""
    provisional: bool = False
    volumes: tuple[VolumeInfo, ...] = ()
    owner: IdPair | None = None
    owner_problem: str = ""
    ids_problem: str = ""
    uid_map: tuple[IdRange, ...] = ()
    gid_map: tuple[IdRange, ...] = ()


class AccessRule(msgspec.Struct, frozen=True, kw_only=True):
    """A rule of an access file: gives access to volumes of the instances that match it.

    `project` (an instance's environment), `service` (its container) and `volumes` (paths in the container, or names)
    are patterns of fnmatch; `replica` None is any. `where` says which rule of which file this is. `follow`: access to
    an anonymous volume goes over to the one that the container gets when it is made again.
    """

    where: str
    project: str
    service: str
    volumes: tuple[str, ...]
    replica: int | None = None
    read_only: bool = False
    follow: bool = False
    ownership: Ownership = UNSAID
    limits: Limits = NO_LIMITS


ACCESS_LABEL = "hatchway.volumes"
"""The label by which a container asks for access to its volumes, where the operator allows that: paths or names as in
AccessRule but without sets of characters, separated by commas, each perhaps with ":ro"."""


class Snapshot(msgspec.Struct, frozen=True, kw_only=True):
    """All instances at one moment. `source` is "docker" or "static"; `taken_at` is Unix time in seconds.

    `problem` is a sentence for the operator when the source could not be read; `instances` is then the last known
    state (empty if there never was one) and `taken_at` its time. With `partly`, it is about some of them only: these
    are missing or as they were last, the others are as they are.
    """

    source: str
    taken_at: float
    instances: tuple[InstanceInfo, ...] = ()
    data_root: str | None = None
    problem: str | None = None
    partly: bool = False


def valid_host(text: str) -> bool:
    """Whether `text` can be a host's name or address that clients are told: it stands in their files and commands."""
    return re.fullmatch(r"[A-Za-z0-9._:][A-Za-z0-9._:-]{0,252}", text) is not None


def valid_login(name: str) -> bool:
    """Whether `name` fits the login grammar: `[a-z_][a-z0-9_-]*`, at most 31 characters (useradd(8))."""
    return _LOGIN.fullmatch(name) is not None


def is_probe(name: str) -> bool:
    """Whether `name` is of the form that `hatchway doctor` makes up, to see that a stranger is not let in."""
    return _PROBE.fullmatch(name) is not None


PERSON = "person:"
"""What stands before a person's login where nobody else may be meant, a container of that name, say."""


def person_named(text: str) -> str | None:
    """The login in `text`, if that can mean nobody but a person; None for any other text."""
    login = text.removeprefix(PERSON)
    return login if text.startswith(PERSON) and valid_login(login) else None


def login_candidates(key: InstanceKey) -> tuple[Login, Login]:
    """The login an instance gets, and the one it gets if the first is taken.

    The first is `<environment>-<container>-<number>` when that is within the grammar as it stands; if characters had
    to be replaced or cut, it carries a hash of the exact key, so that two keys never collapse into one login.
    The second always carries the hash.
    """
    exact = f"{key.environment}-{key.container}-{key.number}"
    hashed = _hashed_login(key)
    plain = Login(exact) if valid_login(exact) else hashed
    return plain, hashed


def later_login(key: InstanceKey, attempt: int) -> Login:
    """The login of an instance whose candidates are taken: its `attempt`th, 2 or more, since it was forgotten."""
    return _hashed_login(key, str(attempt))


def _hashed_login(key: InstanceKey, *more: str) -> Login:
    number = str(key.number)
    exact = "\0".join((key.environment, key.container, number, *more))
    digest = hashlib.sha256(exact.encode()).hexdigest()[:8]
    stem = re.sub(r"[^a-z0-9_-]+", "-", f"{key.environment}-{key.container}".lower()).strip("-") or "instance"
    if not re.match(r"[a-z_]", stem):
        stem = f"i{stem}"
    tail = f"-{digest}-{number}" if len(number) <= 6 else f"-{digest}"
    return Login(stem[: LOGIN_MAX - len(tail)].rstrip("-") + tail)


def parse_instance_key(text: str) -> InstanceKey:
    """Read `environment/container/number`, as `InstanceKey.__str__` writes it.

    Raises UsageError with the expected form.
    """
    environment, _, rest = text.partition("/")
    container, _, number = rest.rpartition("/")
    if not environment or not container or not number.isascii() or not number.isdigit():
        raise UsageError(f"{text!r} is no instance: expected ENVIRONMENT/CONTAINER/NUMBER, such as shop/web/1")
    return InstanceKey(environment, container, int(number))


def valid_volume_path(path: str) -> bool:
    """Whether `path` is an absolute, normalised path of usable components (each at most 255 bytes, path(7))."""
    if not path.startswith("/") or path == "/" or "\0" in path or posixpath.normpath(path) != path or path[1] == "/":
        return False
    try:
        return all(len(part.encode()) <= 255 for part in path.split("/")) and len(path.encode()) < 4096
    except UnicodeEncodeError:
        return False


def is_ssh_directory(path: str) -> bool:
    """Whether a volume at `path`, in its container, has somebody's .ssh as its root."""
    return path.endswith("/.ssh")


def below(path: str, prefix: str) -> bool:
    """Whether `path` is `prefix` or lies beneath it, component by component."""
    return path == prefix or path.startswith(prefix.rstrip("/") + "/")


ANONYMOUS_PREFIX = "anonymous-"
"""What the catalog calls a volume that nobody gave a name begins with this, and goes on with the engine's own name."""


def anonymous(name: str) -> bool:
    """Whether a volume is called so by the catalog because it has no name of its own, or is called as if it were."""
    return name.startswith(ANONYMOUS_PREFIX)


def session_paths(volumes: dict[str, str]) -> dict[str, str]:
    """Where each volume stands in its session's root. Maps path in the container to path in the session.

    `volumes` maps each enabled volume's path in the container to its name (may be empty). A volume stands where it
    stands in the container, also inside another one; below a reserved top directory it stands under `/volumes/<name>`
    instead. Volumes whose names are the same there all carry a hash of their path: so a place that
    was one volume's never becomes another's, into which somebody's script would go on writing.
    """
    result: dict[str, str] = {}
    stems: dict[str, str] = {}
    for path in sorted(volumes):
        if not any(below(path, prefix) for prefix in RESERVED_PREFIXES):
            result[path] = path
            continue
        stem = re.sub(r"[^A-Za-z0-9._-]+", "-", volumes[path] or path.strip("/")).strip(".-")[:200] or "volume"
        stems[path] = stem
    for path, stem in stems.items():
        clash = list(stems.values()).count(stem) > 1
        mark = hashlib.sha256(path.encode("utf-8", "surrogatepass")).hexdigest()[:12]
        result[path] = f"/volumes/{stem}-{mark}" if clash else f"/volumes/{stem}"
    return result
