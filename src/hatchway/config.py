"""The one configuration file, `/etc/hatchway/hatchway.toml`: read once, checked whole, then frozen.

Every key is documented in `hatchway.toml.example`, which is also the shipped file. Unknown keys and bad values are
errors that name the key, the value and what is allowed: a mistyped security setting must never be ignored. Nor is a
file used that anybody but root could have written, since root's processes do what it says.
"""

from __future__ import annotations

import difflib
import ipaddress
import os
import re
import sys
import tomllib
import types
import typing
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, NoReturn, TypeVar

import msgspec

from hatchway import addresses, trust
from hatchway.errors import ConfigError, UsageError
from hatchway.model import SESSIONS_MAX, below, valid_host, valid_login

T = TypeVar("T", bound=msgspec.Struct)

DEFAULT_PATH = Path("/etc/hatchway/hatchway.toml")

PACKAGE_PREFIX = "/usr/lib/hatchway"
"""`sys.prefix` of a Hatchway that Debian's package installed. Units and accounts are the package's there."""

RESERVE_SUFFIX = "-reserve"
RESERVE_SIZE = 8 << 20
"""What is added to the registry's name for the file beside it that holds room, and how much it holds, in bytes."""


SIGNIN_SERVICE = "hatchway-signin"
"""The PAM service by which operators sign in. Not configurable: what is in that file opens everything."""


def default_libexec_dir(prefix: str) -> str:
    """Where the login helpers are of a Hatchway installed in `prefix`."""
    return "/usr/libexec/hatchway" if prefix == PACKAGE_PREFIX else f"{prefix}/libexec/hatchway"


class Paths(msgspec.Struct, frozen=True, kw_only=True):
    """Where Hatchway keeps things. All absolute."""

    run_dir: str = "/run/hatchway"
    state_dir: str = "/var/lib/hatchway"
    libexec_dir: str = default_libexec_dir(sys.prefix)
    userdb_dir: str = "/run/userdb"
    pam_dir: str = "/etc/pam.d"


class Sshd(msgspec.Struct, frozen=True, kw_only=True):
    """The dedicated sshd. Times in seconds."""

    port: int = 2022
    listen: tuple[str, ...] = ("0.0.0.0", "::")
    host_key_dir: str = "/etc/hatchway/ssh"
    pam_service: str = "hatchway-sshd"
    binary: str = "/usr/sbin/sshd"
    login_grace_s: int = 30
    max_startups: str = "400:30:600"


class Host(msgspec.Struct, frozen=True, kw_only=True):
    """What the privileged half may touch. Times in seconds."""

    volume_roots: tuple[str, ...] = ("/var/lib/docker/volumes",)
    bind_prefixes: tuple[str, ...] = ()
    volume_devices: tuple[str, ...] = ()
    idle_unmount_s: int = 300
    umask: str = "022"
    worker_timeout_s: int = 60


class Sizes(msgspec.Struct, frozen=True, kw_only=True):
    """How sizes of volumes are told. `index_reserve` in percent, times in seconds."""

    index_reserve: float = 7.5
    measure_every_s: int = 300


class Ids(msgspec.Struct, frozen=True, kw_only=True):
    """Names and uid ranges. Each range is first and last uid, inclusive."""

    core_user: str = "hatchway"
    catalog_user: str = "hatchway-catalog"
    keys_user: str = "hatchway-keys"
    web_user: str = "hatchway-web"
    session_group: str = "hatchway-sftp"
    service_uids: tuple[int, int] = (1_900_000_000, 1_900_000_009)
    login_uids: tuple[int, int] = (1_900_100_000, 1_900_999_999)
    worker_uids: tuple[int, int] = (1_901_000_000, 1_901_999_999)

    @property
    def names(self) -> frozenset[str]:
        """Accounts and groups of our own, which are no login's names."""
        return frozenset({self.core_user, self.catalog_user, self.keys_user, self.web_user, self.session_group})


class Engine(msgspec.Struct, frozen=True, kw_only=True):
    """The container engine. Times in seconds."""

    enabled: bool = True
    url: str = "unix:///var/run/docker.sock"
    timeout_s: int = 20
    container_users: bool = False


class Static(msgspec.Struct, frozen=True, kw_only=True):
    """Instances listed in a file, for hosts without an engine."""

    file: str = ""


class Access(msgspec.Struct, frozen=True, kw_only=True):
    """How access is given besides by command."""

    dir: str = "/etc/hatchway/access.d"
    labels: bool = False


class Connect(msgspec.Struct, frozen=True, kw_only=True):
    """What clients are told. `port` 0: that of sshd."""

    host: str = ""
    port: int = 0


class Credentials(msgspec.Struct, frozen=True, kw_only=True):
    """What an instance gets at its first enable: how its password is kept, and which kind of key."""

    password: Literal["raw", "argon2id", "none"] = "raw"
    key: Literal["ed25519", "rsa2048", "rsa3072", "rsa4096"] = "ed25519"


class Login(msgspec.Struct, frozen=True, kw_only=True):
    """Who may log in, unless it is said of an instance. `lock_after` is in wrong passwords within an hour, 0: never."""

    sessions_max: int = 40
    lock_after: int = 0


class Web(msgspec.Struct, frozen=True, kw_only=True):
    """The web pages. Times in seconds.

    `tls`: "own" makes a certificate of its own at the first start, "files" takes `certificate` and `key`, "proxy" has
    TLS ended by a proxy, one of `trusted_proxies`, "off" is for loopback addresses only. `url` is how they are called
    from outside.
    """

    enabled: bool = False
    listen: tuple[str, ...] = ("127.0.0.1:8022",)
    tls: Literal["own", "files", "proxy", "off"] = "own"
    certificate: str = ""
    key: str = ""
    url: str = ""
    trusted_proxies: tuple[str, ...] = ()
    operators_group: str = "hatchway-operators"
    session_idle_s: int = 1800
    session_s: int = 43200


class Log(msgspec.Struct, frozen=True, kw_only=True):
    """Logging of all processes, and how much of the record is kept."""

    level: Literal["debug", "info", "warning", "error"] = "info"
    keep_events: int = 100_000
    keep_days: int = 365


class Config(msgspec.Struct, frozen=True, kw_only=True):
    """Everything that can be configured."""

    paths: Paths = Paths()
    sshd: Sshd = Sshd()
    host: Host = Host()
    sizes: Sizes = Sizes()
    ids: Ids = Ids()
    engine: Engine = Engine()
    static: Static = Static()
    access: Access = Access()
    connect: Connect = Connect()
    credentials: Credentials = Credentials()
    login: Login = Login()
    web: Web = Web()
    log: Log = Log()

    @property
    def auth_socket(self) -> str:
        """Where the login helpers ask."""
        return f"{self.paths.run_dir}/auth.sock"

    @property
    def admin_socket(self) -> str:
        """Where the command line asks."""
        return f"{self.paths.run_dir}/admin.sock"

    @property
    def hostd_socket(self) -> str:
        """Where the core asks the privileged half."""
        return f"{self.paths.run_dir}/hostd.sock"

    @property
    def workers_socket(self) -> str:
        """Where hostd has workers started."""
        return f"{self.paths.run_dir}/workers.sock"

    @property
    def catalog_socket(self) -> str:
        """Where the catalog feeds the core."""
        return f"{self.paths.run_dir}/catalog.sock"

    @property
    def web_socket(self) -> str:
        """Where the web process asks the core."""
        return f"{self.paths.run_dir}/web.sock"

    @property
    def web_dir(self) -> str:
        """What the web process keeps: its certificate. Not in the state directory, which is the core's alone."""
        return f"{self.paths.state_dir}-web"

    @property
    def signin_socket(self) -> str:
        """Where the core has operators' passwords checked."""
        return f"{self.paths.run_dir}/signin.sock"

    @property
    def signin_pam_path(self) -> str:
        """The file of the PAM service by which operators sign in."""
        return f"{self.paths.pam_dir}/{SIGNIN_SERVICE}"

    @property
    def mount_dir(self) -> str:
        """The directory that holds each login's root."""
        return f"{self.paths.run_dir}/mnt"

    @property
    def handover_dir(self) -> str:
        """Where hostd keeps what its successor needs to know."""
        return f"{self.paths.run_dir}/handover"

    def volumes_elsewhere(self, data_root: str) -> str | None:
        """The engine's directory of volumes when it is beneath none of host.volume_roots, else None.

        `data_root` is where the engine says it keeps its data: with user namespaces, `<root>/<uid>.<gid>` (dockerd(8),
        --userns-remap).
        """
        volumes = f"{data_root.rstrip('/')}/volumes"
        return None if any(below(volumes, root) for root in self.host.volume_roots) else volumes

    @property
    def reserve_path(self) -> str:
        """The file that holds room for the registry: see `registry.reserve`."""
        return f"{self.registry_path}{RESERVE_SUFFIX}"

    @property
    def registry_path(self) -> str:
        """The SQLite file of the registry."""
        return f"{self.paths.state_dir}/registry.sqlite"

    @property
    def sealing_key_path(self) -> str:
        """The 32-byte key that seals secrets in the registry."""
        return f"{self.paths.state_dir}/sealing.key"


class Problem(msgspec.Struct, frozen=True):
    """Something that is wrong in a file. `key` is dotted, and None where it is no key's; `text` says all of it.

    `value` as Python writes it, and what is `allowed`, are empty where it is not a value that is wrong.
    """

    key: str | None
    text: str
    value: str = ""
    allowed: str = ""


Report = Callable[[Problem], None]
"""What is told of a problem: it raises, or has the rest looked at too."""

_BAD = object()
"""In place of a value that has been reported."""


def load(path: Path | None = None) -> Config:
    """Read and check the configuration.

    `path` None means DEFAULT_PATH, and built-in defaults if that does not exist. A path given must exist.
    Raises ConfigError naming file, key, value and what is allowed, or who could change the file.
    """
    text = read(path)
    return Config() if text is None else parse(text, str(path or DEFAULT_PATH))


def read(path: Path | None = None, *, anybodys: bool = False) -> str | None:
    """The text of the configuration file, None when `path` is None and there is none at DEFAULT_PATH.

    Raises ConfigError when it cannot be read or, unless it may be `anybodys`, is `untrusted`.
    """
    file = path or DEFAULT_PATH
    try:
        try:
            os.lstat(file)
        except FileNotFoundError:
            if path is None:
                return None
            raise ConfigError(f"{file}: no such file") from None
        if not anybodys and (found := untrusted(file)) is not None:
            raise ConfigError(f"{file} is not used: {found}")
        return file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as exc:
        raise ConfigError(f"{file}: {exc}") from exc


def untrusted(file: Path) -> str | None:
    """Why the configuration in `file` is not obeyed, None when only root and this process's user can change it."""
    # Where nobody can move what is not theirs, as in /tmp, others change nothing.
    found = trust.flaw(str(file.absolute()), owners={0, os.geteuid()}, sticky=True)
    return None if found is None else f"{found}; chown root:root and chmod go-w what is named, down to the file"


def parse(text: str, origin: str = "configuration") -> Config:
    """Parse TOML text into a checked Config. `origin` names the text in errors. Raises ConfigError."""
    config, problems = examine(text)
    if problems:
        raise ConfigError(f"{origin}: {problems[0].text}")
    return config


def examine(text: str) -> tuple[Config, list[Problem]]:
    """The Config that is in TOML text, with defaults for what cannot be used, and all that is wrong with it."""
    problems: list[Problem] = []
    try:
        data = tomllib.loads(text)
    except tomllib.TOMLDecodeError as exc:
        return Config(), [Problem(None, _twice(text, str(exc)) or str(exc))]
    config = _decode(data, Config, "", problems.append)
    unusable = {problem.key for problem in problems}

    def report(problem: Problem) -> None:
        # What is checked in place of a value that cannot be used is its default.
        if problem.key not in unusable and problem not in problems:
            problems.append(problem)

    _check(config, report)
    return config, problems


def _twice(text: str, error: str) -> str | None:
    """What to say when tomllib's `error` is about a section that has been there before, else None.

    Lines copied from the documentation to the end of the shipped file, which has all sections, make this mistake.
    """
    at = re.search(r"\(at line (\d+), ", error)
    if at is None:
        return None
    first: dict[str, int] = {}
    for number, line in enumerate(text.split("\n")[: int(at[1])], 1):
        if (header := re.fullmatch(r"\s*\[\s*([A-Za-z0-9_.-]+)\s*\]\s*(?:#.*)?", line)) is None:
            continue
        if (before := first.setdefault(header[1], number)) != number == int(at[1]):
            return (
                f"section [{header[1]}] stands twice, in lines {before} and {number}: "
                "put all its keys below one of them"
            )
    return None


def given(text: str) -> frozenset[str]:
    """The dotted keys that a good configuration says, also where it says what is the default anyway."""
    return frozenset(f"{section}.{key}" for section, keys in tomllib.loads(text).items() for key in keys)


def decode(data: object, cls: type[T], origin: str, at: str = "") -> T:
    """Turn parsed TOML into the struct `cls`, which may nest structs and tuples of structs.

    `at` is the dotted key of `data`. Raises ConfigError naming key, value and what is allowed.
    """

    def report(problem: Problem) -> NoReturn:
        raise ConfigError(f"{origin}: {problem.text}")

    return _decode(data, cls, at, report)


def _decode(data: object, cls: type[T], at: str, report: Report) -> T:
    """As `decode`. Where `report` returns, all fields of `cls` must have defaults."""
    if not isinstance(data, dict):
        report(Problem(at or None, f"{at or 'the file'} must be a table of keys, not {data!r}"))
        return cls()
    fields = {field.encode_name: field for field in msgspec.structs.fields(cls)}
    values: dict[str, Any] = {}
    for key, value in data.items():
        name = f"{at}.{key}" if at else key
        if key not in fields:
            close = difflib.get_close_matches(key, fields, 1)
            hint = f"; did you mean {close[0]!r}?" if close else "."
            report(Problem(name, f"unknown key {name!r}{hint} Allowed here: {', '.join(sorted(fields))}"))
        elif (found := _value(value, fields[key].type, name, report)) is not _BAD:
            values[fields[key].name] = found
    for key, field in fields.items():
        if field.required and field.name not in values:
            report(Problem(f"{at}.{key}" if at else key, f"{f'{at}.{key}' if at else key} is missing"))
    return cls(**values)


def _value(value: object, kind: Any, name: str, report: Report) -> Any:
    if isinstance(kind, type) and issubclass(kind, msgspec.Struct):
        return _decode(value, kind, name, report)
    if typing.get_origin(kind) is tuple and isinstance(value, list):
        inner = typing.get_args(kind)
        if (
            len(inner) == 2
            and inner[1] is Ellipsis
            and isinstance(inner[0], type)
            and issubclass(inner[0], msgspec.Struct)
        ):
            return tuple(_decode(item, inner[0], f"{name}[{n}]", report) for n, item in enumerate(value))
    try:
        return msgspec.convert(value, kind, strict=True)
    except msgspec.ValidationError:
        report(_not_allowed(name, value, _allowed(kind)))
        return _BAD


def _not_allowed(key: str, value: object, allowed: str) -> Problem:
    return Problem(key, f"{key} = {value!r} is not allowed: expected {allowed}", repr(value), allowed)


def _allowed(kind: Any) -> str:
    if typing.get_origin(kind) is Literal:
        return "one of " + ", ".join(repr(choice) for choice in typing.get_args(kind))
    if typing.get_origin(kind) is tuple:
        inner = typing.get_args(kind)
        if len(inner) == 2 and inner[1] is Ellipsis:
            return f"a list, each item {_allowed(inner[0])}"
        return f"a list of {len(inner)}, each item {_allowed(inner[0])}"
    if isinstance(kind, types.UnionType):
        return " or ".join(_allowed(part) for part in typing.get_args(kind) if part is not type(None))
    return {bool: "true or false", int: "a whole number", float: "a number", str: "a text in quotes"}.get(
        kind, getattr(kind, "__name__", str(kind))
    )


def _check(config: Config, report: Report) -> None:
    """Ranges and forms that types cannot express."""

    def require(ok: bool, key: str, value: object, allowed: str) -> None:
        if not ok:
            report(_not_allowed(key, value, allowed))

    def absolute(key: str, value: str) -> None:
        ok = re.fullmatch(r"/[^\0\n\"\\]*[^\0\n\"\\/]", value) is not None and ".." not in value.split("/")
        require(
            ok,
            key,
            value,
            "an absolute path of a directory other than /, without .., quotes or a slash at its end",
        )

    for key in ("run_dir", "state_dir", "libexec_dir", "userdb_dir", "pam_dir"):
        absolute(f"paths.{key}", getattr(config.paths, key))
        require(
            " " not in getattr(config.paths, key),
            f"paths.{key}",
            getattr(config.paths, key),
            "a path without spaces",
        )
    # sun_path holds 108 bytes (unix(7)); the longest name below run_dir is notify-workers.sock.
    require(len(config.paths.run_dir) <= 80, "paths.run_dir", config.paths.run_dir, "at most 80 characters")
    require(1 <= config.sshd.port <= 65535, "sshd.port", config.sshd.port, "a port from 1 to 65535")
    require(config.sshd.port != 22, "sshd.port", 22, "any port but 22, which belongs to the host's own sshd")
    require(len(config.sshd.listen) > 0, "sshd.listen", config.sshd.listen, "at least one address")
    for address in config.sshd.listen:
        try:
            ipaddress.ip_address(address)
        except ValueError:
            require(False, "sshd.listen", address, "IPv4 or IPv6 addresses, such as '0.0.0.0' and '::'")
    absolute("sshd.host_key_dir", config.sshd.host_key_dir)
    absolute("sshd.binary", config.sshd.binary)
    service_ok = re.fullmatch(r"[a-z][a-z0-9_-]{0,40}", config.sshd.pam_service) is not None
    require(service_ok, "sshd.pam_service", config.sshd.pam_service, "a file name such as 'hatchway-sshd'")
    # Names that mean another service's rules: overwriting /etc/pam.d/sshd would change who enters on port 22.
    require(
        config.sshd.pam_service.startswith("hatchway"),
        "sshd.pam_service",
        config.sshd.pam_service,
        "a name that begins with 'hatchway'",
    )
    umask_ok = re.fullmatch(r"0?[0-7]{3}", config.host.umask) is not None
    require(umask_ok, "host.umask", config.host.umask, "an octal umask in quotes, such as '022'")
    require(
        5 <= config.sshd.login_grace_s <= 600,
        "sshd.login_grace_s",
        config.sshd.login_grace_s,
        "seconds from 5 to 600",
    )
    startups_ok = re.fullmatch(r"\d+(:\d+:\d+)?", config.sshd.max_startups) is not None
    require(
        startups_ok,
        "sshd.max_startups",
        config.sshd.max_startups,
        "start:rate:full as in sshd_config(5), such as '400:30:600'",
    )
    for key in ("volume_roots", "bind_prefixes"):
        for value in getattr(config.host, key):
            absolute(f"host.{key}", value)
    for value in config.host.volume_devices:
        parts = value.split("/")[2:]
        plain = re.fullmatch(r"/dev/[^\0\n\"\\]+", value) is not None and not {"", ".", ".."}.intersection(parts)
        require(
            plain, "host.volume_devices", value, "a path below /dev, such as '/dev/vg0/data-*', without .. or quotes"
        )
    require(
        0 <= config.host.idle_unmount_s <= 86400,
        "host.idle_unmount_s",
        config.host.idle_unmount_s,
        "seconds from 0 to 86400",
    )
    require(
        2 <= config.host.worker_timeout_s <= 3600,
        "host.worker_timeout_s",
        config.host.worker_timeout_s,
        "seconds from 2 to 3600",
    )
    require(
        0 <= config.sizes.index_reserve <= 50,
        "sizes.index_reserve",
        config.sizes.index_reserve,
        "a percentage from 0 to 50",
    )
    require(
        10 <= config.sizes.measure_every_s <= 86400,
        "sizes.measure_every_s",
        config.sizes.measure_every_s,
        "seconds from 10 to 86400",
    )
    for key in ("core_user", "catalog_user", "keys_user", "web_user", "session_group"):
        name = getattr(config.ids, key)
        require(
            valid_login(name),
            f"ids.{key}",
            name,
            "a user name: lower-case letters, digits, - and _, at most 31",
        )
    ids = config.ids
    names = [ids.core_user, ids.catalog_user, ids.keys_user, ids.web_user, ids.session_group]
    require(len(set(names)) == 5, "ids", names, "five different names: each separates one process from the others")
    ranges = {key: getattr(config.ids, key) for key in ("service_uids", "login_uids", "worker_uids")}
    for place, (key, (first, last)) in enumerate(ranges.items()):
        # systemd's UIDS-GIDS document: below 65536 lie system, human and dynamic users and 16-bit nobody; 524288 to
        # 1879048191 are container ranges; from 2^31 on programs misread the sign.
        free = 65536 <= first <= last < 524288 or 1879048192 <= first <= last < 2**31
        require(
            free,
            f"ids.{key}",
            [first, last],
            "first and last uid, both in 65536-524287 or 1879048192-2147483647",
        )
        for other, (low, high) in list(ranges.items())[place + 1 :]:
            require(
                last < low or first > high,
                f"ids.{key}",
                [first, last],
                f"no overlap with ids.{other}",
            )
    # The web process has one only where there is one.
    needed = 5 if config.web.enabled else 4
    require(
        ranges["service_uids"][1] - ranges["service_uids"][0] >= needed - 1,
        "ids.service_uids",
        list(ranges["service_uids"]),
        f"at least {'five' if config.web.enabled else 'four'} uids",
    )
    require(
        config.engine.url.startswith("unix:///"),
        "engine.url",
        config.engine.url,
        "the engine's socket, such as 'unix:///var/run/docker.sock'",
    )
    require(
        1 <= config.engine.timeout_s <= 300,
        "engine.timeout_s",
        config.engine.timeout_s,
        "seconds from 1 to 300",
    )
    if config.static.file:
        absolute("static.file", config.static.file)
    absolute("access.dir", config.access.dir)
    most = config.login.sessions_max
    require(1 <= most <= SESSIONS_MAX, "login.sessions_max", most, f"a number from 1 to {SESSIONS_MAX}")
    after = config.login.lock_after
    require(after == 0 or 10 <= after <= 1_000_000, "login.lock_after", after, "0 (never), or 10 to 1000000")
    host_ok = config.connect.host == "" or valid_host(config.connect.host)
    require(host_ok, "connect.host", config.connect.host, "a host name or address, such as 'sftp.example.org'")
    port = config.connect.port
    require(0 <= port <= 65535, "connect.port", port, "a port from 1 to 65535, or 0 for that of sshd")
    _check_web(config.web, require)
    require(
        1000 <= config.log.keep_events <= 10_000_000,
        "log.keep_events",
        config.log.keep_events,
        "a number from 1000 to 10000000",
    )
    require(1 <= config.log.keep_days <= 36500, "log.keep_days", config.log.keep_days, "days from 1 to 36500")


_LISTEN = re.compile(r"(?:\[([0-9A-Fa-f:.]+)\]|([0-9.]+)):([0-9]{1,5})")


def web_address(text: str) -> tuple[str, int] | None:
    """Host and port of one of web.listen, None when it is none."""
    found = _LISTEN.fullmatch(text)
    host = "" if found is None else found[1] or found[2]
    if found is None or addresses.address(host) is None or not 1 <= int(found[3]) <= 65535:
        return None
    return host, int(found[3])


def _check_web(web: Web, require: Callable[[bool, str, object, str], None]) -> None:
    require(len(web.listen) > 0, "web.listen", web.listen, "at least one address")
    for text in web.listen:
        address = web_address(text)
        require(address is not None, "web.listen", text, "an address and a port, '127.0.0.1:8022' or '[::1]:8022'")
        if address is not None and web.tls == "off":
            loopback = ipaddress.ip_address(address[0]).is_loopback
            require(loopback, "web.listen", text, 'a loopback address, with web.tls = "off"')
    for key in ("certificate", "key"):
        value = getattr(web, key)
        ok = value == "" if web.tls != "files" else re.fullmatch(r"/[^\0\n]+", value) is not None
        meant = "an absolute path" if web.tls == "files" else f"empty, with web.tls = {web.tls!r}"
        require(ok, f"web.{key}", value, meant)
    url_ok = web.url == "" or re.fullmatch(r"https?://[A-Za-z0-9.-]+(:[0-9]{1,5})?/?", web.url, re.ASCII) is not None
    url_ok = url_ok or re.fullmatch(r"https?://\[[0-9A-Fa-f:.]+\](:[0-9]{1,5})?/?", web.url, re.ASCII) is not None
    require(url_ok, "web.url", web.url, "the beginning of an address, such as 'https://files.example.org'")
    for text in web.trusted_proxies:
        try:
            addresses.networks((text,))
        except UsageError:
            require(False, "web.trusted_proxies", text, "addresses or networks, such as '127.0.0.1'")
    if web.tls == "proxy":
        require(len(web.trusted_proxies) > 0, "web.trusted_proxies", [], 'at least one address, with web.tls = "proxy"')
    group_ok = re.fullmatch(r"[A-Za-z0-9_.][A-Za-z0-9_.@ \\-]{0,254}", web.operators_group) is not None
    require(group_ok, "web.operators_group", web.operators_group, "the name of a group")
    require(60 <= web.session_idle_s <= 86400, "web.session_idle_s", web.session_idle_s, "seconds from 60 to 86400")
    allowed = "seconds from 300 to 2592000, and no fewer than web.session_idle_s"
    most_ok = 300 <= web.session_s <= 2_592_000 and web.session_s >= web.session_idle_s
    require(most_ok, "web.session_s", web.session_s, allowed)
