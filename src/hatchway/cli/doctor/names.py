"""Name look-ups (NSS): whether the host finds the logins Hatchway publishes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from hatchway.cli.doctor.command_line import Ran, run
from hatchway.cli.doctor.finding import Finding, failed, ok
from hatchway.config import Config

_INSTALL = (
    "apt install libnss-systemd, and have 'systemd' behind 'files' in the passwd and group lines of /etc/nsswitch.conf"
)


def switch(path: str = "/etc/nsswitch.conf") -> Finding:
    """Whether nsswitch.conf(5) asks nss-systemd for users and groups."""
    try:
        text = Path(path).read_text(encoding="utf-8", errors="replace")
    except OSError as exc:
        return failed("nsswitch", f"{path}: {exc.strerror}", _INSTALL)
    services = {}
    for line in text.splitlines():
        database, colon, rest = line.partition("#")[0].partition(":")
        if colon:
            services[database.strip()] = rest.split()
    missing = [database for database in ("passwd", "group") if "systemd" not in services.get(database, [])]
    if missing:
        return failed("nsswitch", f"no 'systemd' in the {' and '.join(missing)} line of {path}", _INSTALL)
    return ok("nsswitch", "passwd and group look-ups ask nss-systemd")


def answers(config: Config, execute: Callable[[Sequence[str]], Ran] = run) -> Finding:
    """Whether nss-systemd finds a record we published, or, with none published, its built-in root.

    Through getent(1) in a process of its own: a look-up may hang for 45 s on somebody else's name service.
    """
    published = _published(config)
    name = published or "root"
    ran = execute(["getent", "-s", "systemd", "passwd", name])
    if ran.status == 0 and ran.output.startswith(f"{name}:"):
        text = f"finds {name}" if published else "answers; nothing is published now"
        return ok("nss-systemd", text)
    if ran.status is None:
        return failed("nss-systemd", ran.output, "find what hangs: getent -s systemd passwd root; systemctl --failed")
    return failed("nss-systemd", f"does not find {name}", f"{_INSTALL}; it needs systemd 249 or newer")


def _published(config: Config) -> str | None:
    """A login or account with a record in the user database; the links by uid are left out."""
    try:
        entries = sorted(path.stem for path in Path(config.paths.userdb_dir).glob("*.user"))
    except OSError:
        return None
    names = [name for name in entries if not name.isdigit()]
    return config.ids.core_user if config.ids.core_user in names else (names[0] if names else None)
