"""sshd and what it is given: its version, the helpers, the host keys, the port."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from hatchway import trust
from hatchway.cli.doctor.advice import HERE, Advice
from hatchway.cli.doctor.finding import Finding, failed, ok, warning
from hatchway.config import Config
from hatchway.errors import HatchwayError
from hatchway.sshd import hostkeys, install, render, version

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


def port(config: Config, proc: str = "/proc") -> Finding:
    """Whether the port is free, or taken by our own sshd. `proc` is where proc(5) is mounted."""
    name = f"port {config.sshd.port}"
    inodes = _listening(config.sshd.port, proc)
    if not inodes:
        return ok(name, "is free; nothing listens there now")
    owners = _owners(inodes, proc)
    if any(install.link_path(config) in owner for owner in owners.values()):
        return ok(name, "Hatchway's sshd listens")
    if not owners:
        return warning(name, "something listens there", "run 'hatchway doctor' as root to see what")
    return failed(
        name,
        f"is taken by {next(iter(owners.values()))!r}",
        "stop that program, or set sshd.port to another port",
    )


def in_use(config: Config, how: Advice = HERE, proc: str = "/proc") -> list[Finding]:
    """Whether the sshd that listens is the one that is installed. For each connection it starts another program of
    OpenSSH's, which is the installed one: of another version, that may not understand it."""
    inodes = _listening(config.sshd.port, proc)
    ours = [pid for pid, command in _owners(inodes, proc).items() if install.link_path(config) in command]
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


_GONE = " (deleted)"
"""What the kernel puts behind the name of a program whose file is not there any more (proc_pid_exe(5))."""


def _listening(number: int, proc: str) -> set[str]:
    """Inodes of the sockets that listen on a TCP port (proc_pid_net(5))."""
    found = set()
    for table in ("tcp", "tcp6"):
        try:
            lines = Path(proc, "net", table).read_text(encoding="ascii").splitlines()[1:]
        except OSError:
            continue  # no IPv6
        for line in lines:
            fields = line.split()
            if fields[3] == _LISTEN and int(fields[1].rpartition(":")[2], 16) == number:
                found.add(fields[9])
    return found


def _owners(inodes: set[str], proc: str) -> dict[str, str]:
    """Command lines, by pid, of the processes that hold one of the sockets; only root sees those of others."""
    wanted = {f"socket:[{inode}]" for inode in inodes}
    found = {}
    for process in Path(proc).glob("[0-9]*"):
        try:
            if any(os.readlink(entry) in wanted for entry in (process / "fd").iterdir()):
                command = (process / "cmdline").read_bytes().replace(b"\0", b" ").strip()
                found[process.name] = command.decode("utf-8", "backslashreplace")
        except OSError:
            continue  # gone meanwhile, or somebody else's
    return found
