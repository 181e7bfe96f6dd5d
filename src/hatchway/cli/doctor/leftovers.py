"""What an earlier Hatchway left that nobody uses any more: sessions, workers, mounts, records."""

from __future__ import annotations

import os
import shlex
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from hatchway.cli.doctor.advice import HERE, Advice
from hatchway.cli.doctor.finding import Finding, ok, warning
from hatchway.config import Config
from hatchway.errors import HatchwayError
from hatchway.host import orphans
from hatchway.host.orphans import InUse
from hatchway.wire.admin import Status
from hatchway.wire.host import Leftover, LeftoverKind

NAME = "leftovers"
_AS_ROOT = "run 'hatchway doctor' as root"


def not_asked(unit: str) -> Finding:
    """What to say when the daemon would not answer because of `unit`."""
    return warning(NAME, f"cannot be told, since {unit} does not run", f"see the finding of {unit}")


def look(
    config: Config,
    running: bool,
    status: Callable[[], Status],
    *,
    root: bool | None = None,
    find: Callable[[Config, InUse], Sequence[Leftover]] = orphans.find,
    pause: Callable[[float], None] = time.sleep,
    unix_sockets: str = "/proc/net/unix",
    how: Advice = HERE,
) -> Finding:
    """What is left over: hostd, asked through `status`, tells it while Hatchway runs, else nothing is in use.

    `root`: we are root. `unix_sockets` is the kernel's table of them (proc_pid_net(5)).
    """
    if not (os.geteuid() == 0 if root is None else root):
        return warning(NAME, "not looked for: only root can", _AS_ROOT)
    if running:
        return _ask(config, status, how)
    if _held(config.hostd_socket, unix_sockets):
        # What is in use only hostd knows.
        return warning(NAME, "cannot be told: Hatchway runs, but its daemon does not answer", how.log("hatchway-core"))
    found = find(config, InUse())
    if found:
        # Something may just be ending.
        pause(orphans.PAUSE_S)
        again = set(find(config, InUse()))
        found = [one for one in found if one in again]
    start = "systemctl start hatchway" if how.packaged else "start 'hatchway run'"
    return _told(config, found, f"{start}: it ends and removes them before anybody can log in")


def _ask(config: Config, status: Callable[[], Status], how: Advice) -> Finding:
    try:
        answer = status()
    except HatchwayError as exc:
        # Whether that is a failure, the daemon's finding says.
        return warning(NAME, f"cannot be told: {exc}", how.log("hatchway-core"))
    if answer.leftovers is None:
        return warning(NAME, f"cannot be told: {answer.host_problem}", how.log("hatchway-hostd"))
    another = "systemctl restart hatchway-hostd" if how.packaged else f"kill -HUP {answer.leftovers.hostd_pid}"
    return _told(
        config,
        answer.leftovers.found,
        f"{another}: another hostd takes over what is in use, then ends and removes the rest",
    )


def _told(config: Config, found: Sequence[Leftover], mend: str) -> Finding:
    if not found:
        return ok(NAME, "none")
    foreign = [one for one in found if one.owner not in ("", config.paths.run_dir)]
    fixes = [mend] if len(foreign) < len(found) else []
    for owner in sorted({one.owner for one in foreign}):
        files = " ".join(shlex.quote(file) for one in foreign if one.owner == owner for file in _files(one))
        fixes.append(f"if no Hatchway runs in {shlex.quote(owner)} any more: rm {files}")
    return warning(NAME, "; ".join(_name(config, one) for one in found), "; ".join(fixes))


def _files(record: Leftover) -> list[str]:
    """The files of a record: itself and the link by its number."""
    path = Path(record.path)
    link = path.with_name(f"{record.uid}{path.suffix}")
    return [str(path), str(link)]


def _name(config: Config, one: Leftover) -> str:
    of = f" of {one.login}" if one.login else ""
    match one.kind:
        case LeftoverKind.SESSION | LeftoverKind.WORKER:
            return f"{one.kind} process {one.pid} (uid {one.uid}){of}"
        case LeftoverKind.RECORD:
            made = "" if one.owner == config.paths.run_dir else f", made by the Hatchway in {shlex.quote(one.owner)}"
            return f"record {shlex.quote(one.path)} ({Path(one.path).suffix[1:]} {one.login}, {one.uid}{made})"
        case _:
            # Names come from containers: quoted, one cannot look like the next item.
            return f"{one.kind} {shlex.quote(one.path)}"


def _held(path: str, table: str) -> bool:
    """Whether a process holds the socket at `path`, whether it answers or not."""
    try:
        lines = Path(table).read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return False
    return any(line.endswith(f" {path}") for line in lines)
