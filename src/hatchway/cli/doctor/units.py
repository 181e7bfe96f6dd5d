"""The package's units: whether they run, and run where they must."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from hatchway.cli.doctor import unit_files
from hatchway.cli.doctor.advice import PACKAGE
from hatchway.cli.doctor.command_line import Ran, run
from hatchway.cli.doctor.finding import Finding, failed, ok, warning
from hatchway.cli.text import count
from hatchway.printable import harmless

UMBRELLA, SESSIONS = "hatchway.service", "hatchway-sessions.service"
HOSTD, SSHD, CATALOG = "hatchway-hostd.service", "hatchway-sshd.service", "hatchway-catalog.service"
CORE = "hatchway-core.service"
SIGNIN, WEB = "hatchway-signin.service", "hatchway-web.service"

NAMES = (
    UMBRELLA,
    SESSIONS,
    *(f"hatchway-{name}.socket" for name in ("admin", "auth", "catalog", "hostd", "signin", "web", "workers")),
    "hatchway-workers.service",
    HOSTD,
    SIGNIN,
    CORE,
    CATALOG,
    WEB,
    SSHD,
)
"""All units, in the order in which they start."""

ONLY_WEB = frozenset({SIGNIN, WEB, "hatchway-signin.socket", "hatchway-web.socket"})
"""Units that are of no use unless `web.enabled` is on. The services end at once then, and well."""

IN_HOSTS_NAMESPACE = (SESSIONS, HOSTD, SSHD)
"""Units that see what the others mount only in the mount name space of the host."""

_PROPERTIES = (
    "Id",
    "LoadState",
    "ActiveState",
    "SubState",
    "Result",
    "ExecMainStatus",
    "UnitFileState",
    "MainPID",
    "NeedDaemonReload",
    "NRestarts",
    "Job",
)

SETTLE_S = 5.0
"""How long is waited for units that are starting, before they are judged: a start returns before they are ready."""

SETTLE_EVERY_S = 0.25
"""How often systemd is asked meanwhile."""

_PASSING = ("activating", "deactivating", "reloading")
"""Values of ActiveState of a unit that is on its way to another."""

_TAKEN = "6"
"""What hatchway-sessions.service ends with where a `hatchway run` has the run directory."""

_ANOTHER_NAMESPACE = frozenset(
    {
        "BindLogSockets",
        "BindPaths",
        "BindReadOnlyPaths",
        "DynamicUser",
        "ExecPaths",
        "ExtensionDirectories",
        "ExtensionImages",
        "InaccessiblePaths",
        "IPCNamespacePath",
        "LogNamespace",
        "MountAPIVFS",
        "MountFlags",
        "MountImages",
        "NetworkNamespacePath",
        "NoExecPaths",
        "PrivateDevices",
        "PrivateIPC",
        "PrivateMounts",
        "PrivateNetwork",
        "PrivatePIDs",
        "PrivateTmp",
        "PrivateUsers",
        "ProcSubset",
        "ProtectControlGroups",
        "ProtectHome",
        "ProtectKernelLogs",
        "ProtectKernelModules",
        "ProtectKernelTunables",
        "ProtectProc",
        "ProtectSystem",
        "ReadOnlyPaths",
        "ReadWritePaths",
        "RootDirectory",
        "RootImage",
        "TemporaryFileSystem",
    }
)
"""Settings that give a service a mount name space of its own (systemd.exec(5)), or take away root's rights over it.
Those of the network do so from systemd 254 or so on: it mounts a /sys of that network."""

_OFF = frozenset({"no", "false", "off", "0", "n", "f", "default", "all", "shared"})
"""Values of these that change nothing."""


@dataclass(frozen=True, slots=True)
class State:
    """What systemd says of its units, by name; `problem` when it says nothing."""

    units: Mapping[str, Mapping[str, str]]
    problem: str | None = None

    def pid(self, name: str) -> int:
        """The main process of a service, 0 if there is none."""
        number = self.units.get(name, {}).get("MainPID", "0")
        return int(number) if number.isdecimal() else 0

    def runs(self, name: str) -> bool:
        """Whether a unit is active."""
        return self.units.get(name, {}).get("ActiveState") == "active"

    @property
    def in_the_way(self) -> str | None:
        """The unit because of which the daemon would not answer, though its socket is there: one would wait for long.

        The daemon itself, or hostd, which it asks.
        """
        for name in (CORE, HOSTD):
            unit = self.units.get(name, {})
            if _unsteady(unit) or (unit.get("ActiveState") in ("failed", "inactive") and self.runs(UMBRELLA)):
                return name
        return None

    @property
    def changes(self) -> bool:
        """Whether a unit is on its way to another state, or has a job that waits for its turn.

        One that fails at each start is no such unit: nobody knows when that ends.
        """
        return any(
            (unit.get("ActiveState") in _PASSING or unit.get("Job", "") not in ("", "0")) and not _unsteady(unit)
            for unit in self.units.values()
        )


def settle(
    ask: Callable[[], State], pause: Callable[[float], None] = time.sleep, now: Callable[[], float] = time.monotonic
) -> State:
    """What `ask` says when nothing `changes` any more, or after SETTLE_S seconds in any case."""
    until = now() + SETTLE_S
    while (state := ask()).changes and now() < until:
        pause(SETTLE_EVERY_S)
    return state


def ask(execute: Callable[[Sequence[str]], Ran] = run) -> State:
    """Ask systemd."""
    ran = execute(["systemctl", "show", "--no-pager", f"--property={','.join(_PROPERTIES)}", *NAMES])
    if ran.status != 0:
        return State({}, ran.output or f"exit status {ran.status}")
    found: dict[str, dict[str, str]] = {}
    for block in ran.output.split("\n\n"):
        pairs = dict(line.split("=", 1) for line in block.splitlines() if "=" in line)
        if "Id" in pairs:
            found[pairs["Id"]] = pairs
    return State(found)


_LINE_MAX = 400
"""Characters of a line of the journal that are shown."""


def last_line(name: str, execute: Callable[[Sequence[str]], Ran] = run) -> str | None:
    """What the processes of a unit said last since this host was started; what systemd says of them does not count."""
    ran = execute(["journalctl", "--quiet", "--no-pager", "-b", "-n", "1", "-o", "cat", f"_SYSTEMD_UNIT={name}"])
    lines = ran.output.splitlines() if ran.status == 0 else []
    if not lines:
        return None
    line = harmless(lines[-1].strip())
    return line if len(line) <= _LINE_MAX else f"{line[:_LINE_MAX]}…"


def active(
    state: State,
    running: bool,
    last_line: Callable[[str], str | None] = lambda _: None,
    *,
    web: bool = False,
    drop_in: bool = False,
) -> list[Finding]:
    """Whether each unit is active. `running`: the daemon answers. `last_line` tells what a unit that fails said. `web`:
    there are to be web pages. `drop_in`: the host's own sshd serves the port."""
    name = "units"
    if state.problem is not None:
        return [warning(name, f"systemd cannot be asked: {state.problem}", "see 'systemctl status'")]
    missing = [one for one in NAMES if state.units.get(one, {}).get("LoadState", "not-found") == "not-found"]
    if missing:
        return [failed(name, f"systemd does not know {', '.join(missing)}", PACKAGE.reinstall(""))]
    wanted = [one for one in NAMES if (web or one not in ONLY_WEB) and not (drop_in and one == SSHD)]
    bad = [one for one in NAMES if state.units[one].get("ActiveState") != "active" and _is_wanted(one, state, wanted)]
    if UMBRELLA in bad and running and state.in_the_way is None:
        return [ok(name, "off: Hatchway was started by 'hatchway run'")]
    # What belongs to nothing that is to run is off as well, which is no finding of its own.
    stopped = state.units[UMBRELLA].get("ActiveState") == "inactive"
    told = [_bad(one, state.units[one], last_line) for one in bad if not stopped or _has_failed(state.units[one])]
    if stopped:
        told.insert(0, _stopped(state.units[UMBRELLA]))
    told += _settled(state)
    return told or [ok(name, f"all {len(wanted)} are active")]


def _is_wanted(name: str, state: State, wanted: Sequence[str]) -> bool:
    unit = state.units[name]
    return name in wanted or (_has_failed(unit) and unit.get("LoadState") != "masked")


def _has_failed(unit: Mapping[str, str]) -> bool:
    return (
        unit.get("ActiveState") == "failed" or _unsteady(unit) or unit.get("LoadState") not in ("loaded", "not-found")
    )


def _unsteady(unit: Mapping[str, str]) -> bool:
    """Whether a unit that is starting did so before and ended: of what an administrator starts NRestarts is 0."""
    if unit.get("ActiveState") != "activating":
        return False
    restarts = unit.get("NRestarts", "0")
    return (
        unit.get("SubState", "").startswith("auto-restart")
        or unit.get("Result", "success") != "success"
        or (restarts.isdecimal() and int(restarts) > 1)
    )


def _stopped(umbrella: Mapping[str, str]) -> Finding:
    if umbrella.get("LoadState") == "masked":
        return _bad(UMBRELLA, umbrella)
    enabled = umbrella.get("UnitFileState") == "enabled"
    return warning(UMBRELLA, "is stopped", f"systemctl {'start' if enabled else 'enable --now'} hatchway")


def _bad(name: str, unit: Mapping[str, str], last_line: Callable[[str], str | None] = lambda _: None) -> Finding:
    why = f"see why: journalctl -b -n 50 -u {name}; when it is mended: systemctl restart hatchway"
    if unit.get("LoadState") == "masked":
        return failed(name, "is masked", f"systemctl unmask {name} && systemctl restart hatchway")
    if unit.get("LoadState") not in ("loaded", None):
        return failed(name, f"cannot be loaded ({unit['LoadState']})", f"see systemctl status {name}")
    if name == SESSIONS and unit.get("ExecMainStatus") == _TAKEN:
        return failed(name, "has not started beside a 'hatchway run'", "stop that, then: systemctl start hatchway")
    now = unit.get("ActiveState", "?")
    if now == "failed" or _unsteady(unit):
        said = last_line(name)
        # While it is being started this is of that start, of which nothing is known yet.
        result = unit.get("Result", "success")
        because = f" ({result})" * (result != "success")
        again = f"does not stay up{because}: it is started again and again"
        text = f"has failed{because}" if now == "failed" else again
        return failed(name, text if said is None else f"{text}. It said last: {said}", why)
    if now in _PASSING:
        return warning(name, f"is {now} now", "look again in a minute")
    return failed(name, f"is {now}", why)


def _settled(state: State) -> Iterator[Finding]:
    """What holds whether they run or not."""
    umbrella = state.units[UMBRELLA]
    if umbrella.get("ActiveState") == "active" and umbrella.get("UnitFileState") == "disabled":
        yield warning(UMBRELLA, "is not started when this host starts", "systemctl enable hatchway")
    changed = [name for name in NAMES if state.units[name].get("NeedDaemonReload") == "yes"]
    if changed:
        yield warning(
            "units",
            f"{count(len(changed), 'unit')} changed since systemd read them: {', '.join(changed)}",
            "systemctl daemon-reload && systemctl restart hatchway",
        )


def namespaces(
    state: State, proc: str = "/proc", directories: tuple[str, ...] = unit_files.DIRECTORIES
) -> list[Finding]:
    """Whether privileged half and sshd are in the host's mount name space, and what would put them into another.

    What would is looked for in the files of units that do not run, too: it may be why. Else nothing is said of those,
    which is a finding of `active`.
    """
    name, told, seen = "mount name space", list[Finding](), set[str]()
    try:
        hosts = os.readlink(f"{proc}/1/ns/mnt")
    except OSError:
        return [warning(name, "not looked at: only root can", "run 'hatchway doctor' as root")]
    for unit in IN_HOSTS_NAMESPACE:
        elsewhere, pid = False, state.pid(unit)
        if pid:
            try:
                elsewhere = os.readlink(f"{proc}/{pid}/ns/mnt") != hosts
                seen.add(unit)
            except OSError:
                pass  # it has ended meanwhile
        guilty = _guilty(unit, directories)
        if not elsewhere and not guilty:
            continue
        what = "is started in one of its own"
        if pid:
            what = "has one of its own" if elsewhere else "will have one of its own when it is started again"
        because = "".join(f"; {value.file} says {key}={value.text}" for key, value in guilty)
        out = " and ".join(f"{key}= out of {value.file}" for key, value in guilty)
        told.append(
            failed(
                name,
                f"{unit} {what}: sessions find no volumes then{because}",
                (f"take {out}, then: " if guilty else "")
                + "systemctl daemon-reload && systemctl restart hatchway"
                + ("" if guilty else f"; if that is no help, see systemctl cat {unit}"),
            )
        )
    if not told and {HOSTD, SSHD} <= seen:
        told = [ok(name, "privileged half and sshd are in the host's")]
    return told


def _guilty(unit: str, directories: tuple[str, ...]) -> list[tuple[str, unit_files.Value]]:
    found = unit_files.said(unit, directories)
    return [(key, found[key]) for key in sorted(_ANOTHER_NAMESPACE & set(found)) if found[key].text.lower() not in _OFF]
