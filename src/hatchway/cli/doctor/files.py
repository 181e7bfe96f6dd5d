"""Files the daemons trust: who can change them, who can read the secrets."""

from __future__ import annotations

import os
import stat
import tomllib
from collections.abc import Callable, Sequence
from pathlib import Path

from hatchway import rulefiles
from hatchway.cli.doctor.finding import Finding, failed, ok, warning
from hatchway.cli.text import count
from hatchway.config import DEFAULT_PATH, Config
from hatchway.errors import HatchwayError
from hatchway.model import AccessRule
from hatchway.sshd import trust


def configuration(path: Path | None, flaw: Callable[[str], str | None] = trust.flaw) -> Finding:
    """Whether only root can change the configuration. `path` None means the default place."""
    file = path or DEFAULT_PATH
    if path is None and not file.exists():
        return ok("configuration", f"no {file}: built-in defaults are used")
    found = flaw(str(file.absolute()))
    if found is not None:
        return failed("configuration", found, f"chown root:root and chmod go-w what is named, down to {file}")
    return ok("configuration", f"{file} is root's alone")


def static(config: Config, flaw: Callable[[str], str | None] = trust.flaw) -> Finding:
    """Whether the static catalog can be read and only root can change it."""
    file = config.static.file
    if not file:
        return ok("static instances", "none configured")
    try:
        tomllib.loads(Path(file).read_text(encoding="utf-8"))
    except OSError as exc:
        return failed("static instances", f"{file}: {exc.strerror}", "make the file, or empty static.file")
    except (UnicodeDecodeError, tomllib.TOMLDecodeError) as exc:
        return failed("static instances", f"{file}: {exc}", "mend the file")
    found = flaw(file)
    if found is not None:
        return failed("static instances", found, f"chown root:root and chmod go-w what is named, down to {file}")
    return ok("static instances", f"{file} is root's alone")


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
        return ok("secrets", f"none yet: 'hatchway run' makes them in {config.paths.state_dir}")
    return ok("secrets", f"registry and sealing key in {config.paths.state_dir} are their owner's alone")
