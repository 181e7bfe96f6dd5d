"""Settings that are allowed, but will not do what whoever wrote them wants. Findings are named after the key."""

from __future__ import annotations

import errno
import glob
import grp
import ipaddress
import os
import pwd
import re
import socket
import stat
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

from hatchway import trust
from hatchway.cli.doctor import engine, unit_files
from hatchway.cli.doctor.finding import Finding, warning
from hatchway.config import PACKAGE_PREFIX, Config
from hatchway.host.policy import private_directories
from hatchway.model import below

HOSTD_UNIT = "hatchway-hostd.service"
CORE_UNIT = "hatchway-core.service"
CATALOG_UNIT = "hatchway-catalog.service"
SSHD_UNIT = "hatchway-sshd.service"


def examine(
    config: Config,
    *,
    prefix: str = sys.prefix,
    units: tuple[str, ...] = unit_files.DIRECTORIES,
    proc: str = "/proc",
    flaw: Callable[[str], str | None] = trust.flaw,
    hostname: Callable[[], str] = socket.gethostname,
    no_address: Callable[[str], str | None] | None = None,
) -> Iterator[Finding]:
    """What is to be said of `config`. `prefix` is where Hatchway is installed, `proc` where proc(5) is mounted."""
    yield from _sources(config)
    yield from _directories(config, flaw)
    yield from _addresses(config, no_address or why_not)
    yield from _own_name(config, hostname())
    yield from _operators(config)
    if prefix == PACKAGE_PREFIX:
        yield from _fixed(config, units)
        yield from _devices(config, units, proc)


def _sources(config: Config) -> Iterator[Finding]:
    static = config.static
    if not config.engine.enabled and not static.file:
        yield warning(
            "engine.enabled",
            "there is no engine, and static.file names no file: there is nothing to share",
            "set engine.enabled = true, or list instances in a file and set static.file",
        )
    if static.file and not config.host.bind_prefixes:
        yield warning(
            "static.file",
            "no directory it lists can be shared: host.bind_prefixes is empty",
            "name in host.bind_prefixes the directories beneath which they are",
        )
    if not config.engine.enabled:
        users = config.engine.container_users
        for key, value in (("access.labels", config.access.labels), ("engine.container_users", users)):
            if value:
                yield warning(key, "it does nothing while engine.enabled = false", f"take {key} out")


def _directories(config: Config, flaw: Callable[[str], str | None]) -> Iterator[Finding]:
    named = [("host.bind_prefixes", path) for path in config.host.bind_prefixes]
    # Without an engine its directories are missing, too: that is a finding of the engine.
    there = engine.absent(config) is None
    if config.engine.enabled:
        named = [*(("host.volume_roots", path) for path in config.host.volume_roots), *named]
    for key, path in named:
        own = next((own for own in private_directories(config) if below(path, own)), None)
        if own is not None:
            yield warning(key, f"nothing in {path} is ever shared: it is in {own}, Hatchway's own", f"take {path} out")
        elif key == "host.volume_roots" and not there:
            continue
        elif _missing(path):
            fix = "set it to where the engine keeps its volumes: the directory volumes in the data root it names "
            fix += "('docker info', Docker Root Dir)"
            if key == "host.bind_prefixes":
                fix = f"make it, or take {path} out"
            yield warning(key, f"there is no directory {path}: nothing can be shared from there", fix)
        elif key == "host.bind_prefixes" and (found := flaw(os.path.dirname(path))) is not None:
            yield warning(
                key,
                f"somebody but root decides where {path} leads: {found}",
                "chown root:root and chmod go-w what is named, or share from elsewhere",
            )


def _missing(path: str) -> bool:
    try:
        return not stat.S_ISDIR(os.stat(path).st_mode)
    except PermissionError:
        return False  # root sees
    except OSError:
        return True


_NOT_HERE = "is no address of this host"


def why_not(address: str) -> str | None:
    """Why nobody can listen at `address` on this host, whatever the port. None: one can."""
    try:
        family, kind, protocol, _, place = socket.getaddrinfo(
            address, 0, type=socket.SOCK_STREAM, flags=socket.AI_NUMERICHOST | socket.AI_PASSIVE
        )[0]
        with socket.socket(family, kind, protocol) as sock:
            if family == socket.AF_INET6:
                sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            # Port 0 is any that is free: Hatchway's own may be in use, by its sshd.
            sock.bind(place)
    except OSError as exc:
        if exc.errno in (errno.EADDRNOTAVAIL, errno.ENODEV):
            return _NOT_HERE
        if exc.errno in (errno.EAFNOSUPPORT, errno.EPROTONOSUPPORT) or isinstance(exc, socket.gaierror):
            return "cannot be used: this host has no IPv6" if ":" in address else "cannot be used on this host"
        return None  # not for us to say
    return None


def _addresses(config: Config, no_address: Callable[[str], str | None]) -> Iterator[Finding]:
    seen: list[str] = []
    for address in map(ipaddress.ip_address, config.sshd.listen):
        every = "0.0.0.0" if address.version == 4 else "::"
        text = str(address)
        if text in seen or (text != every and every in map(str, map(ipaddress.ip_address, config.sshd.listen))):
            why = "is listed twice" if text in seen else f"is one of {every}, which is listed too"
            yield warning("sshd.listen", f"{text} {why}: sshd complains at each start", f"take {text} out")
        elif (found := no_address(text)) is not None:
            yield warning(
                "sshd.listen",
                f"{text} {found}: sshd does not listen there",
                f"take {text} out"
                + ", or have the network give this host the address before Hatchway starts" * (found == _NOT_HERE),
            )
        seen.append(text)
    host, colon, port = config.connect.host.rpartition(":")
    if colon and ":" not in host and re.fullmatch(r"[0-9]{1,5}", port):
        yield warning(
            "connect.host",
            f"{config.connect.host} ends in a port: as a name of a host it leads nowhere",
            f'set connect.host = "{host}", and connect.port = {port} if that is the port clients shall connect to',
        )


def _own_name(config: Config, name: str) -> Iterator[Finding]:
    if not config.connect.host and "." not in name:
        yield warning(
            "connect.host",
            f"it is empty, so clients are told this host's own name, {name}, which few of them can look up",
            "set it to the name or address by which clients reach this host",
        )


def _operators(config: Config) -> Iterator[Finding]:
    group = config.web.operators_group
    if not config.web.enabled:
        return
    if not _known(grp.getgrnam, group):
        yield warning(
            "web.operators_group",
            f"there is no group {group}: nobody can sign in to the web pages as an operator",
            f"groupadd --system {group}, and gpasswd --add NAME {group} for each operator",
        )
    elif not members(group):
        yield warning(
            "web.operators_group",
            f"nobody is in the group {group}, as far as this host lists accounts: nobody can sign in to the web pages",
            f"gpasswd --add NAME {group} for each operator",
        )


def members(group: str) -> list[str]:
    """Names of those in a group that there is, in addition or primarily. A directory need not list all it knows."""
    entry = grp.getgrnam(group)
    return sorted({*entry.gr_mem, *(one.pw_name for one in pwd.getpwall() if one.pw_gid == entry.gr_gid)})


def _fixed(config: Config, units: tuple[str, ...]) -> Iterator[Finding]:
    """What the package and its units have decided."""
    usual = Config()
    for key, why in _DECIDED.items():
        section, _, name = key.partition(".")
        given, expected = (getattr(getattr(one, section), name) for one in (config, usual))
        if given != expected:
            yield warning(key, f"with the package it is {expected}, not {given}: {why}", "take it out")
    for key, look in (("keys_user", pwd.getpwnam), ("session_group", grp.getgrnam)):
        name = getattr(config.ids, key)
        if name != getattr(usual.ids, key) and not _known(look, name):
            yield warning(f"ids.{key}", f"there is no {name}, and nobody makes it", "take it out, or make it")
    state = config.paths.state_dir
    if state != usual.paths.state_dir and not _may_write(state, units):
        yield warning(
            "paths.state_dir",
            f"{CORE_UNIT} may not write there",
            "take it out, or " + _add(CORE_UNIT, "state", f"ReadWritePaths={state}"),
        )
    most = max(int(number) for number in config.sshd.max_startups.split(":")[::2])
    limits = unit_files.said(SSHD_UNIT, units).get("LimitNOFILE")
    soft = limits.text.partition(":")[0] if limits is not None else ""
    limit = int(soft) if soft.isdecimal() else None  # "infinity" as well: no limit
    if limit is not None and most + OWN_DESCRIPTORS > limit:
        yield warning(
            "sshd.max_startups",
            f"{SSHD_UNIT} may have {limit} descriptors, too few for {most} connections",
            f"take less than {limit - OWN_DESCRIPTORS}, or "
            + _add(SSHD_UNIT, "limits", f"LimitNOFILE={most + OWN_DESCRIPTORS}"),
        )


_DECIDED = {
    "paths.run_dir": "the units have their sockets there",
    "paths.pam_dir": "the PAM service is there",
    "sshd.pam_service": "the unit of sshd starts it under that name",
    "ids.core_user": "the units run as that",
    "ids.catalog_user": "the units run as that",
    "ids.web_user": "the units run as that",
}

OWN_DESCRIPTORS = 96
"""What sshd needs besides one for each connection before login: a guess on the safe side."""


def _known(look: Callable[[str], object], name: str) -> bool:
    try:
        look(name)
    except KeyError:
        return False
    return True


def readable(name: str, path: str, within: str = "/") -> Iterator[Finding]:
    """What to say, as `name`, where a process that is nobody special cannot read the file at `path`.

    That core and catalog are. By modes only; a file that is not there is for others to find. Directories above `within`
    are not looked at: for tests.
    """
    real = Path(os.path.realpath(path))
    for step in (*reversed(real.parents), real):
        try:
            mode = os.stat(step).st_mode
        except OSError:
            return
        if below(str(step), within) and not mode & (stat.S_IROTH if step == real else stat.S_IXOTH):
            yield warning(
                name,
                f"core and catalog, which are not root, may not read {path}: {step} has mode {stat.S_IMODE(mode):04o}",
                f"chmod o+{'r' if step == real else 'x'} {step}; there is no secret in it",
            )
            return


def _devices(config: Config, units: tuple[str, ...], proc: str) -> Iterator[Finding]:
    """The unit of the process that opens devices allows none but those it names (systemd.resource-control(5))."""
    allowed = _allowed(units)
    missing: list[str] = []
    for pattern in config.host.volume_devices:
        for wanted in _specifiers(pattern, proc):
            there = wanted in allowed
            if wanted == _ANY_NAME:
                there = any(one.startswith("block-") for one in allowed)
            if not there and wanted not in missing:
                missing.append(wanted)
    if missing:
        kind = "; NAME is the device's kind in /proc/devices" if _ANY_NAME in missing else ""
        yield warning(
            "host.volume_devices",
            f"{HOSTD_UNIT} may not open all of them",
            _add(HOSTD_UNIT, "devices", *(f"DeviceAllow={one} rw" for one in missing)) + kind,
        )


def _add(unit: str, name: str, *lines: str) -> str:
    """How `lines` come to be a part of a unit (systemd.unit(5))."""
    text = ", ".join(f"'{line}'" for line in ("[Service]", *lines))
    path = f"/etc/systemd/system/{unit}.d/{name}.conf"
    return f"write the lines {text} to {path}; then 'systemctl daemon-reload' and 'systemctl restart {unit}'"


_ANY_NAME = "block-NAME"
"""What stands for devices of which there is none yet."""


def _specifiers(pattern: str, proc: str) -> list[str]:
    """What DeviceAllow= must name for the devices that `pattern` does: only kinds of them may be patterns there."""
    if not glob.has_magic(pattern):
        return [pattern]
    kinds = set()
    for path in glob.glob(pattern):
        try:
            found = os.stat(path)
        except OSError:
            continue
        if stat.S_ISBLK(found.st_mode) and (kind := _kinds(proc).get(os.major(found.st_rdev))) is not None:
            kinds.add(f"block-{kind}")
    return sorted(kinds) or [_ANY_NAME]


def _kinds(proc: str) -> dict[int, str]:
    """Names of the kernel's kinds of block devices by their major number (proc_devices(5))."""
    try:
        text = Path(proc, "devices").read_text(encoding="ascii")
    except OSError:
        return {}
    lines = (line.split() for line in text.partition("Block devices:")[2].splitlines())
    return {int(words[0]): words[1] for words in lines if len(words) == 2}


def _allowed(units: tuple[str, ...]) -> set[str]:
    """What hostd's unit and what is added to it let it open for writing."""
    rules = [value.text.split() for value in unit_files.read(HOSTD_UNIT, units).get("DeviceAllow", [])]
    return {words[0] for words in rules if words and (len(words) == 1 or {"r", "w"} <= set(words[1]))}


def _may_write(path: str, units: tuple[str, ...]) -> bool:
    """Whether the core's unit lets it write below `path` (systemd.exec(5), ReadWritePaths=)."""
    lines = unit_files.read(CORE_UNIT, units).get("ReadWritePaths", [])
    named = [word.strip("\"'").lstrip("-+") for line in lines for word in line.text.split()]
    return any(below(path, one) for one in named)
