"""What the catalog's account must reach: the file of static instances, and the engine's socket. Root can anyway."""

from __future__ import annotations

import grp
import os
import pwd
import stat
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from hatchway.cli.doctor import settings, unit_files
from hatchway.cli.doctor.advice import HERE, Advice
from hatchway.cli.doctor.command_line import run
from hatchway.cli.doctor.finding import Finding, failed, ok, warning
from hatchway.config import Config
from hatchway.model import below

UNIT = settings.CATALOG_UNIT

_HIDDEN = {"ProtectHome": ("/home", "/root", "/run/user"), "PrivateTmp": ("/tmp", "/var/tmp")}  # noqa: S108
"""Directories that settings of a unit hide from it (systemd.exec(5))."""

_TRY = 'test "$0" "$1" && exit 0; shift; for d; do test -x "$d" || { printf %s "$d"; exit 1; }; done; exit 1'
"""Shell: $0 is an operator of test(1), $1 the path, the rest the directories above it."""


@dataclass(frozen=True, slots=True)
class Who:
    """An account, with the groups that its process has."""

    name: str
    uid: int
    gid: int
    groups: tuple[int, ...]


def who(config: Config, how: Advice = HERE) -> Who | None:
    """The catalog's account. None where there is none now: `hatchway run` makes it."""
    try:
        entry = pwd.getpwnam(config.ids.catalog_user)
    except KeyError:
        return None
    # 'hatchway run' gives its process the socket's group, and no other.
    groups = tuple(os.getgrouplist(entry.pw_name, entry.pw_gid)) if how.packaged else ()
    return Who(entry.pw_name, entry.pw_uid, entry.pw_gid, groups)


def barred(account: Who, path: str, operator: str = "-r") -> str | None:
    """Where `account` cannot get on to `path`: the path itself, or a directory above. None: it can use it.

    `operator` is one of test(1). Asked of the kernel, as that account, since there are access lists besides modes.
    Needs root.
    """
    real = os.path.realpath(path)
    above = [str(one) for one in reversed(Path(real).parents)]
    ran = run(["sh", "-c", _TRY, operator, real, *above], account=(account.uid, account.gid, account.groups))
    return None if ran.status == 0 else ran.output or real


def hidden(path: str, directories: tuple[str, ...] = unit_files.DIRECTORIES, unit: str = UNIT) -> str | None:
    """The directory above `path` that the unit, by default the catalog's, does not see."""
    said = unit_files.said(unit, directories)
    empty = said.get("TemporaryFileSystem")
    for one in [] if empty is None else empty.text.split():
        if below(os.path.realpath(path), directory := one.partition(":")[0]):
            return directory
    for key, above in _HIDDEN.items():
        value = said.get(key)
        if value is not None and value.text.lower() in ("yes", "true", "on", "1", "tmpfs", "disconnected"):
            for directory in above:
                if below(path, directory) or below(os.path.realpath(path), directory):
                    return directory
    return None


def reads(
    config: Config, how: Advice = HERE, barred: Callable[[Who, str], str | None] = barred, root: bool | None = None
) -> Finding | None:
    """Whether the catalog can read the file of static instances, which is there. None: it can."""
    name, file = "static instances", config.static.file
    if how.packaged and (directory := hidden(file)) is not None:
        return failed(
            name,
            f"{UNIT} does not see what is in {directory}",
            f"put {file} elsewhere, in /etc/hatchway for example, and set static.file",
        )
    account = who(config, how)
    if account is None or not (os.geteuid() == 0 if root is None else root):
        return next(iter(settings.readable(name, file)), None)
    where = barred(account, file)
    if where is None:
        return None
    if where == os.path.realpath(file):
        fix = f"chmod 644 {file}; or, if not everybody is to read it, chgrp {account.name} {file} and chmod 640 {file}"
        return failed(name, f"{account.name} cannot read {file}", fix)
    return failed(
        name,
        f"{account.name} cannot read {file}: it may not go through {where}",
        f"chmod o+x {where}; or put the file elsewhere, in /etc/hatchway for example, and set static.file",
    )


def uses_engine(
    config: Config,
    how: Advice = HERE,
    pid: int = 0,
    proc: str = "/proc",
    barred: Callable[[Who, str, str], str | None] = barred,
    root: bool | None = None,
) -> Finding | None:
    """Whether the catalog may use the engine's socket. `pid` is its process, 0 if there is none.

    None where there is nothing to say: no engine, no socket (that is another finding), or 'hatchway run', which gives
    its process the group.
    """
    name = "engine access"
    path = config.engine.url.removeprefix("unix://")
    if not how.packaged or not config.engine.enabled or not os.path.exists(path):
        return None
    if not (os.geteuid() == 0 if root is None else root):
        return warning(name, "not looked at: only root can", "run 'hatchway doctor' as root")
    account = who(config, how)
    if account is None:
        return failed(name, f"there is no account {config.ids.catalog_user}", how.reinstall(""))
    restart = f"systemctl restart {UNIT.removesuffix('.service')}"
    where = barred(account, path, "-w")
    if where is not None:
        found = os.stat(path)
        if where == os.path.realpath(path) and stat.S_IMODE(found.st_mode) & 0o020 and found.st_gid != 0:
            group = _group(found.st_gid)
            return failed(
                name,
                f"{account.name} is not in the group {group}, which may use {path}: no container is found",
                f"usermod -aG {group} {account.name} && {restart}",
            )
        return failed(
            name,
            f"{account.name} may not use {path}, because of {where}: no container is found",
            f"have the engine give its socket to a group other than root's, and the directories above it too; put "
            f"{account.name} in that group, and {restart}",
        )
    found = os.stat(path)
    if pid and found.st_gid in account.groups and found.st_uid != account.uid and not stat.S_IMODE(found.st_mode) & 2:
        has = _groups_of(pid, proc)
        if has is not None and found.st_gid not in has:
            return failed(
                name,
                f"the catalog was started before {account.name} came into the group {_group(found.st_gid)}: no "
                "container is found",
                restart,
            )
    return ok(name, f"{account.name} may use {path}")


def _group(gid: int) -> str:
    try:
        return grp.getgrgid(gid).gr_name
    except KeyError:
        return str(gid)


def _groups_of(pid: int, proc: str) -> set[int] | None:
    """The groups that a process has (proc_pid_status(5)); None when it cannot be looked at."""
    try:
        lines = Path(proc, str(pid), "status").read_text(encoding="ascii", errors="replace").splitlines()
    except OSError:
        return None
    words = [line.split() for line in lines if line.startswith(("Gid:", "Groups:"))]
    return {int(number) for line in words for number in line[1:]}
