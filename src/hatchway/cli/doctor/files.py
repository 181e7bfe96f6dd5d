"""Files the daemons trust: who can change them, who can read the secrets."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Sequence
from pathlib import Path

from hatchway import rulefiles, staticfile, trust
from hatchway.cli.doctor import catalog
from hatchway.cli.doctor.advice import HERE, Advice
from hatchway.cli.doctor.finding import Finding, failed, ok, warning
from hatchway.cli.sizes import amount
from hatchway.cli.text import count
from hatchway.config import DEFAULT_PATH, RESERVE_SIZE, Config
from hatchway.errors import ConfigError, HatchwayError
from hatchway.model import AccessRule

NEARLY_FULL = 256 << 20
"""Bytes that should be free where the registry is: the record of a busy host takes 100 MB, see log.keep_events."""


def configuration(path: Path | None, flaw: Callable[[str], str | None] = trust.flaw) -> Finding:
    """Whether only root can change the configuration. `path` None means the default place."""
    file = path or DEFAULT_PATH
    if path is None and not file.exists():
        return ok("configuration", f"no {file}: built-in defaults are used")
    found = flaw(str(file.absolute()))
    if found is not None:
        return failed("configuration", found, f"chown root:root and chmod go-w what is named, down to {file}")
    return ok("configuration", f"{file} is root's alone")


def static(
    config: Config,
    flaw: Callable[[str], str | None] = trust.flaw,
    reads: Callable[[Config], Finding | None] = catalog.reads,
) -> Finding:
    """Whether the static catalog can be read, by the account that `reads` it too, and only root can change it."""
    file = config.static.file
    if not file:
        return ok("static instances", "none configured")
    try:
        staticfile.parse(Path(file).read_text(encoding="utf-8"), file)
    except OSError as exc:
        return failed("static instances", f"{file}: {exc.strerror}", "make the file, or empty static.file")
    except UnicodeDecodeError as exc:
        return failed("static instances", f"{file}: {exc}", "mend the file")
    except ConfigError as exc:
        return failed("static instances", str(exc), "mend the file")
    found = flaw(file)
    if found is not None:
        return failed("static instances", found, f"chown root:root and chmod go-w what is named, down to {file}")
    return reads(config) or ok("static instances", f"{file} is root's alone, and {config.ids.catalog_user} reads it")


def access(
    config: Config, applied: Sequence[AccessRule] | None = None, flaw: Callable[[str], str | None] = trust.flaw
) -> Finding:
    """Whether access files can be read, only root can change them, and they say what was `applied` (None: unknown)."""
    name, directory = "access files", config.access.dir
    if not os.path.lexists(directory):
        if applied:
            return warning(
                name,
                f"no {directory}, but what was applied last still counts: {count(len(applied), 'rule')}",
                "make it, and say 'hatchway apply'",
            )
        return ok(name, f"no {directory}: access is given by command" + (" and by label" * config.access.labels))
    try:
        for path in (directory, *rulefiles.names(directory)):
            if (found := flaw(path)) is not None:
                return failed(name, found, f"chown root:root and chmod go-w what is named, down to {path}")
        rules = rulefiles.read(directory)
    except HatchwayError as exc:
        return failed(name, str(exc), "mend it; docs/access.md explains the files")
    if applied is not None and tuple(applied) != rules:
        return warning(
            name, f"what {directory} says is not what was applied last", "see 'hatchway apply --dry-run', then apply it"
        )
    return ok(name, f"{count(len(rules), 'rule')} in {directory}")


def secrets(config: Config) -> Finding:
    """Whether nobody but their owner can read the registry and the key that seals its secrets."""
    seen = False
    # The second is there while the first is being changed.
    for path in (config.registry_path, config.sealing_key_path, f"{config.sealing_key_path}.new"):
        try:
            found = os.lstat(path)
        except FileNotFoundError:
            continue
        except OSError:
            return warning("secrets", f"{path} cannot be looked at", "run 'hatchway doctor' as root")
        seen = True
        mode = stat.S_IMODE(found.st_mode)
        if not stat.S_ISREG(found.st_mode) or mode & 0o077:
            return failed("secrets", f"{path} has mode {mode:04o} and may be read by others", f"chmod 600 {path}")
    if not seen:
        return ok("secrets", f"none yet: they are made in {config.paths.state_dir} at the first start")
    return ok("secrets", f"registry and sealing key in {config.paths.state_dir} are their owner's alone")


def room(config: Config, statvfs: Callable[[str], os.statvfs_result] = os.statvfs, how: Advice = HERE) -> Finding:
    """Whether the registry has room, and the reserve is there with which access can be taken away on a full disk."""
    name, directory = "room for the registry", config.paths.state_dir
    fix = "free some room; give it a file system of its own if a volume without a limit is on the same"
    try:
        if not os.path.lexists(config.registry_path):
            return ok(name, f"none yet: it is made in {directory} at the first start")
        found = statvfs(directory)
        reserve = os.lstat(config.reserve_path).st_size if os.path.lexists(config.reserve_path) else None
    except OSError:
        return warning(name, f"{directory} cannot be looked at", "run 'hatchway doctor' as root")
    free = found.f_bavail * found.f_frsize
    left = f"{amount(free)} are free in {directory}"
    if reserve is not None and reserve < RESERVE_SIZE:
        return failed(name, f"the disk was full, and room kept for that is used up in part; {left}", fix)
    if free < RESERVE_SIZE or (found.f_files and not found.f_favail):
        return failed(name, f"the disk is full: {left}", fix)
    if reserve is None:
        return warning(
            name,
            f"no {config.reserve_path}, which keeps room for when the disk is full; {left}",
            f"{how.log('hatchway-core')}: the core makes it every ten minutes if it can",
        )
    if free < NEARLY_FULL:
        return warning(name, f"the disk is nearly full: {left}", fix)
    return ok(name, left)
