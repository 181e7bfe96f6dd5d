"""What a test run may leave behind: mounts, processes, descriptors, user records, files, containers.

Two uses. tests/conftest.py compares before and after each test of the tiers that touch the kernel. scripts/test calls
it as a program around the whole run, `save FILE` and `check FILE`, with nothing but the standard library.
"""

from __future__ import annotations

import contextlib
import ctypes
import glob
import http.client
import json
import os
import socket
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass

PR_SET_CHILD_SUBREAPER = 36
"""prctl(2): orphans among our descendants become our children instead of init's, so that none gets out of sight."""

FILES = (
    "/run/hatchway*",
    "/run/userdb/*",
    "/etc/pam.d/hatchway*",
    "/etc/hatchway*",
    "/var/lib/hatchway*",
    "/tmp/*hatchway*",
    "/var/tmp/*hatchway*",
)
"""Where a run may put files that are not its own directory's."""


@dataclass(frozen=True, order=True, slots=True)
class Process:
    """A process that cannot be mistaken for a later one of the same pid. `started` is in clock ticks since boot."""

    pid: int
    started: int
    state: str
    what: str

    def __str__(self) -> str:
        return f"process {self.pid} ({self.state}): {self.what}"


def adopt_orphans() -> None:
    """Become the subreaper of this process's descendants."""
    if ctypes.CDLL(None, use_errno=True).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_CHILD_SUBREAPER)")


def mounts() -> set[str]:
    """Mounts that are ours by their mount point, source or type, each as one line. Not those of the tests' engine."""
    found = set()
    engine = os.path.dirname(os.environ.get("HATCHWAY_TEST_DOCKER", "").removeprefix("unix://"))
    with open("/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape") as file:
        for line in file:
            # proc_pid_mountinfo(5): the mount point is the 5th field; type and source follow the separator.
            left, _, right = line.partition(" - ")
            point = left.split()[4]
            kind, source = right.split()[:2]
            if engine and point.startswith(f"{engine}/"):
                continue
            if "hatchway" in f"{point} {kind} {source}".lower():
                found.add(f"mount {point} ({kind}, {source})")
    return found


def _stat(pid: int) -> tuple[str, int, int] | None:
    """State, parent and start time of a process, None when it is gone."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            fields = file.read().rpartition(b")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return None
    return fields[0].decode(), int(fields[1]), int(fields[19])


def _what(pid: int) -> str:
    try:
        with open(f"/proc/{pid}/cmdline", "rb") as file:
            words = file.read(4096).replace(b"\0", b" ").decode(errors="replace").strip()
        with open(f"/proc/{pid}/comm", encoding="utf-8", errors="replace") as text:
            return words or f"[{text.read().strip()}]"
    except (FileNotFoundError, ProcessLookupError):
        return "?"


def _pids() -> Iterator[int]:
    return (int(name) for name in os.listdir("/proc") if name.isdigit())


def processes(above: int | None = None) -> set[Process]:
    """The descendants of `above` (a pid, ours by default), itself not included. With 0: every process there is."""
    top = os.getpid() if above is None else above
    known = {pid: stat for pid in _pids() if (stat := _stat(pid)) is not None}
    found = set()
    for pid, (state, parent, started) in known.items():
        line = parent
        while line not in (0, top) and line in known:
            line = known[line][1]
        if line == top and pid != top:
            found.add(Process(pid, started, state, _what(pid)))
    return found


def descriptors() -> dict[int, str]:
    """This process's open file descriptors and what they are."""
    found = {}
    for name in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):
            found[int(name)] = os.readlink(f"/proc/self/fd/{name}")
    return found


def files() -> set[str]:
    """Files and directories outside the run's own directory that carry our name."""
    found = {path for pattern in FILES for path in glob.glob(pattern)}
    # Roots of scripts/bare-root and of booted hosts, which may run beside us and take away their own.
    others = ("hatchway-root.", "hatchway-host.", "hatchway-debs.")
    return {f"file {path}" for path in found if not os.path.basename(path).startswith(others)}


def loop_devices() -> set[str]:
    """Loop devices that have a file."""
    found = set()
    for path in glob.glob("/sys/block/loop*/loop/backing_file"):
        with contextlib.suppress(OSError), open(path, encoding="utf-8", errors="surrogateescape") as file:
            found.add(f"loop device {path.split('/')[3]} ({file.read().strip()})")
    return found


class _UnixConnection(http.client.HTTPConnection):
    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(30)
        self.sock.connect(self.host)


def engine_objects(url: str) -> set[str]:
    """Containers and volumes of the engine at `url` (unix://…)."""
    found = set()
    connection = _UnixConnection(url.removeprefix("unix://"))
    with contextlib.closing(connection):
        connection.request("GET", "/containers/json?all=1", headers={"Host": "engine"})
        for container in json.loads(connection.getresponse().read()):
            found.add(f"container {', '.join(container['Names'])} ({container['Id'][:12]})")
        connection.request("GET", "/volumes", headers={"Host": "engine"})
        for volume in json.loads(connection.getresponse().read())["Volumes"] or ():
            found.add(f"volume {volume['Name']}")
    return found


def settle(before: set[Process], wait_s: float = 5.0) -> list[Process]:
    """Processes below us that `before` does not know and that do not end within `wait_s` seconds.

    Those that descend from a process in `before` are that one's affair. Reaps orphans that became ours.
    """
    known = {(process.pid, process.started) for process in before}
    deadline = time.monotonic() + wait_s
    while True:
        now = processes()
        theirs = {process.pid for process in now if (process.pid, process.started) in known}
        new = [process for process in now if not theirs.intersection(_line(process.pid))]
        for process in new:
            if process.state == "Z":
                with contextlib.suppress(ChildProcessError):
                    os.waitpid(process.pid, os.WNOHANG)
        new = [process for process in new if process.state != "Z"]
        if not new or time.monotonic() > deadline:
            return sorted(new)
        time.sleep(0.02)


def _line(pid: int) -> Iterator[int]:
    """`pid` and its ancestors."""
    while pid and (stat := _stat(pid)) is not None:
        yield pid
        pid = stat[1]


def everything(engine: str | None) -> set[str]:
    """All that a whole run is answerable for, besides processes."""
    return mounts() | files() | loop_devices() | (engine_objects(engine) if engine else set())


def main(arguments: list[str]) -> int:
    """`save FILE` or `check FILE`: exit status 1 when anything is there that was not when FILE was written."""
    action, path = arguments
    engine = os.environ.get("HATCHWAY_TEST_DOCKER")
    if action == "save":
        with open(path, "w", encoding="utf-8", errors="surrogateescape") as file:
            json.dump(
                {
                    "things": sorted(everything(engine)),
                    "processes": [[process.pid, process.started] for process in processes(above=0)],
                },
                file,
            )
        return 0
    with open(path, encoding="utf-8", errors="surrogateescape") as file:
        saved = json.load(file)
    left = sorted(everything(engine) - set(saved["things"]))
    # Inside scripts/test's own process namespace every process is the run's; elsewhere others come and go.
    if os.environ.get("HATCHWAY_TEST_NAMESPACE"):
        known = {(pid, started) for pid, started in saved["processes"]}
        us = os.getpid()
        left += [
            str(process)
            for process in sorted(processes(above=0))
            if (process.pid, process.started) not in known and process.pid != us and process.state != "Z"
        ]
    for thing in left:
        sys.stderr.write(f"left behind: {thing}\n")
    return 1 if left else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
