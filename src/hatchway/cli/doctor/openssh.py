"""sshd and what it is given: its version, the helpers, the host keys, the port."""

from __future__ import annotations

import ipaddress
import os
import stat
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from hatchway import trust
from hatchway.cli.doctor import settings
from hatchway.cli.doctor.advice import HERE, Advice
from hatchway.cli.doctor.finding import Finding, failed, ok, warning
from hatchway.config import Config
from hatchway.errors import HatchwayError
from hatchway.sshd import changeover, hostkeys, install, render, version

_LISTEN = "0A"
"""TCP_LISTEN in /proc/net/tcp (include/net/tcp_states.h)."""


def installed(config: Config, version_of: Callable[[str], version.Version] = version.of) -> Finding:
    """Whether sshd is there and new enough."""
    try:
        found = version_of(config.sshd.binary)
    except HatchwayError as exc:
        return failed("sshd", str(exc), "apt install openssh-server, or set sshd.binary")
    if found < version.OLDEST:
        return failed(
            "sshd",
            f"OpenSSH {version.text(found)} is older than {version.text(version.OLDEST)}",
            "install a newer OpenSSH, or set sshd.binary to one",
        )
    return ok("sshd", f"OpenSSH {version.text(found)} at {config.sshd.binary}")


def privsep(running: bool, directory: str = install.PRIVSEP_DIR, how: Advice = HERE, owner: int = 0) -> Finding:
    """Whether the directory is there that sshd confines its unprivileged half in, and belongs to the uid `owner` alone.

    sshd looks at it when it starts (sshd.c, "must be owned by root and not group or world-writable"), and goes there
    for each connection, which ends where it cannot. `running`: sshd, or what starts it, does now.
    """
    name = "privilege separation"
    try:
        found = os.stat(directory)
    except FileNotFoundError:
        if not running:
            return ok(name, f"{directory} is not there yet: it is made at the start")
        make = f"install -d -m 0755 {directory}"
        if how.packaged:
            make = f"{how.again('hatchway-sshd')}, which ends no session; if that does not make it: {make}"
        return failed(name, f"{directory} is not there: sshd resets every connection", make)
    except OSError as exc:
        return failed(name, f"{directory}: {exc.strerror}", "look at it as root")
    if not stat.S_ISDIR(found.st_mode):
        fix = f"rm {directory}, then: install -d -m 0755 {directory}"
        return failed(name, f"{directory} is no directory: sshd lets nobody in", fix)
    mode = stat.S_IMODE(found.st_mode)
    if found.st_uid != owner or mode & 0o022:
        return failed(
            name,
            f"{directory} belongs to uid {found.st_uid} and has mode {mode:04o}: sshd does not accept that",
            f"chown root:root {directory} && chmod 0755 {directory}",
        )
    return ok(name, f"{directory} is root's alone")


def helpers(config: Config, flaw: Callable[[str], str | None] | None = None, how: Advice = HERE) -> Finding:
    """Whether sshd and PAM can trust the programs they run. `flaw` says what is wrong with a path."""
    look = flaw if flaw is not None else _executable_flaw
    for name in install.HELPERS:
        found = look(f"{config.paths.libexec_dir}/{name}")
        if found is not None:
            return failed(
                "login helpers",
                found,
                how.reinstall("install Hatchway where only root can write")
                + f"; see that paths.libexec_dir ({config.paths.libexec_dir}) and every directory above it is root's "
                "and mode 0755",
            )
    return ok("login helpers", f"{config.paths.libexec_dir} is root's alone")


def _executable_flaw(path: str) -> str | None:
    return trust.flaw(path, executable=True)


def host_keys(config: Config) -> Finding:
    """Whether the host keys are there and closed."""
    directory = config.sshd.host_key_dir
    if not os.path.lexists(directory) or (os.path.isdir(directory) and not _has_host_keys(directory)):
        return ok("host keys", f"none yet: they are made in {directory} at the first start")
    try:
        keys = hostkeys.read(directory)
        for name in render.HOST_KEYS:
            mode = os.stat(f"{directory}/{name}").st_mode & 0o777
            if mode & 0o077:
                return failed("host keys", f"{directory}/{name} has mode {mode:04o}", f"chmod 600 {directory}/{name}")
    except HatchwayError as exc:
        return failed(
            "host keys",
            str(exc),
            "restore the missing half of the pair, or remove both: new ones are made at the next start",
        )
    except OSError as exc:
        return failed("host keys", f"{exc.filename}: {exc.strerror}", f"look at {directory} as root")
    return ok("host keys", ", ".join(f"{key.algorithm} {key.fingerprint}" for key in keys))


def _has_host_keys(directory: str) -> bool:
    """Whether there is a half of one, or cannot be seen whether there is."""
    try:
        present = set(os.listdir(directory))
    except OSError:
        return True
    return any({name, f"{name}.pub"} & present for name in render.HOST_KEYS)


def port(
    config: Config,
    proc: str = "/proc",
    how: Advice = HERE,
    root: bool | None = None,
    no_address: Callable[[str], str | None] = settings.why_not,
) -> list[Finding]:
    """Whether the port is free, or taken by our own sshd, at each address. `proc` is where proc(5) is mounted.

    `no_address` says why nobody can listen at an address: another finding then says it.
    """
    name = f"port {config.sshd.port}"
    sockets = _listening(config.sshd.port, proc)
    if not sockets:
        return [ok(name, "is free; nothing listens there now")]
    owners = _owners({one.inode for one in sockets}, proc)
    ours = {inode for inode, (_, command) in owners.items() if install.link_path(config) in command}
    listens: list[str] = []
    lacks: list[str] = []
    taken: dict[_Listener, list[str]] = {}
    for text in config.sshd.listen:
        address = ipaddress.ip_address(text)
        if any(one.address == address and one.inode in ours for one in sockets):
            listens.append(text)
            continue
        if no_address(text) is not None:
            continue
        others = [one for one in sockets if one.inode not in ours and one.bars(address)]
        if others:
            taken.setdefault(next((one for one in others if one.inode in owners), others[0]), []).append(text)
        else:
            lacks.append(text)
    told = [
        _taken(name, one, texts, owners, root=os.geteuid() == 0 if root is None else root, restart=bool(ours), how=how)
        for one, texts in taken.items()
    ]
    if lacks and ours:
        told.append(
            failed(
                name,
                f"Hatchway's sshd does not listen at {', '.join(lacks)}",
                f"{how.again('hatchway-sshd')}; no session ends" if how.packaged else how.again(),
            )
        )
    if told:
        return told
    return [ok(name, f"Hatchway's sshd listens at {', '.join(listens)}" if listens else "is free at sshd.listen")]


def _taken(
    name: str,
    one: _Listener,
    wanted: list[str],
    owners: dict[str, tuple[str, str]],
    *,
    root: bool,
    restart: bool,
    how: Advice,
) -> Finding:
    """What to say of another program's socket that keeps our sshd from the addresses that are `wanted`."""
    again = f", then {how.again('hatchway-sshd')}" * restart
    where = f"{' and '.join(wanted)}: taken by"
    if one.inode in owners:
        pid, command = owners[one.inode]
        return failed(
            name,
            f"{where} process {pid} ({command}), which listens at {one.address}",
            f"stop that program, or set sshd.port to another port{again}",
        )
    if root:
        return failed(
            name,
            f"{where} something that listens at {one.address}, no process that is seen from here: the kernel's, or a "
            "container's",
            f"stop it, or set sshd.port to another port{again}",
        )
    return warning(name, "something listens there", "run 'hatchway doctor' as root to see what")


def drop_in(
    config: Config, root: bool | None = None, problems: Callable[[Config], Sequence[str]] = changeover.problems
) -> list[Finding]:
    """Whether the host's own sshd serves the port as it should, which it is to do."""
    name = "drop-in"
    if not (os.geteuid() == 0 if root is None else root):
        return [warning(name, "the host's own sshd serves the port; not looked at", "run 'hatchway doctor' as root")]
    found = problems(config)
    again = "hatchway drop-in enable: it changes nothing until sshd accepts it"
    return [failed(name, one, again) for one in found] or [
        ok(name, f"the host's own sshd serves port {config.sshd.port}")
    ]


def in_use(config: Config, how: Advice = HERE, proc: str = "/proc") -> list[Finding]:
    """Whether the sshd that listens is the one that is installed. For each connection it starts another program of
    OpenSSH's, which is the installed one: of another version, that may not understand it."""
    inodes = {one.inode for one in _listening(config.sshd.port, proc)}
    ours = {pid for pid, command in _owners(inodes, proc).values() if install.link_path(config) in command}
    for pid in ours:
        try:
            program = os.readlink(f"{proc}/{pid}/exe")
        except OSError:
            continue  # it has ended, or we are not root
        if program.endswith(_GONE):
            return [
                failed(
                    "sshd in use",
                    f"was started from a file that has been replaced ({program.removesuffix(_GONE)}), by an upgrade of "
                    "OpenSSH for example: it may not be able to let anybody in",
                    "systemctl restart hatchway-sshd: no session ends"
                    if how.packaged
                    else f"kill {pid}: 'hatchway run' starts the new one, and no session ends",
                )
            ]
    return []


_COMMAND_MAX = 200
"""Characters of a command line that are shown."""

_GONE = " (deleted)"
"""What the kernel puts behind the name of a program whose file is not there any more (proc_pid_exe(5))."""


_Address = ipaddress.IPv4Address | ipaddress.IPv6Address


@dataclass(frozen=True, slots=True)
class _Listener:
    """A socket that listens."""

    address: _Address
    inode: str

    def bars(self, address: _Address) -> bool:
        """Whether nobody else can listen at `address`, the port being the same. One of IPv6 may be for both."""
        if self.address == address:
            return True
        if self.address.version == address.version:
            return self.address.is_unspecified or address.is_unspecified
        return self.address.version == 6 and self.address.is_unspecified


def _listening(number: int, proc: str) -> list[_Listener]:
    """The sockets that listen on a TCP port (proc_pid_net(5)). Those of IPv4 come first."""
    found = []
    for table in ("tcp", "tcp6"):
        try:
            lines = Path(proc, "net", table).read_text(encoding="ascii").splitlines()[1:]
        except OSError:
            continue  # no IPv6
        for line in lines:
            fields = line.split()
            if fields[3] == _LISTEN and int(fields[1].rpartition(":")[2], 16) == number:
                found.append(_Listener(_address(fields[1].partition(":")[0]), fields[9]))
    return found


def _address(digits: str) -> _Address:
    """An address as the kernel writes it: words of four bytes, each in the order of this machine."""
    words = [int(digits[at : at + 8], 16).to_bytes(4, sys.byteorder) for at in range(0, len(digits), 8)]
    return ipaddress.ip_address(b"".join(words))


def _owners(inodes: set[str], proc: str) -> dict[str, tuple[str, str]]:
    """Pid and command line of a process that holds the socket, by inode; only root sees those of others."""
    wanted = {f"socket:[{inode}]": inode for inode in inodes}
    found: dict[str, tuple[str, str]] = {}
    for process in Path(proc).glob("[0-9]*"):
        try:
            held = {wanted[link] for entry in (process / "fd").iterdir() if (link := _link(entry)) in wanted}
            for inode in held - found.keys():
                command = (process / "cmdline").read_bytes().replace(b"\0", b" ").strip()
                found[inode] = process.name, command.decode("utf-8", "backslashreplace")[:_COMMAND_MAX]
        except OSError:
            continue  # gone meanwhile, or somebody else's
    return found


def _link(entry: Path) -> str:
    try:
        return os.readlink(entry)
    except OSError:
        return ""  # closed meanwhile: the others still count
