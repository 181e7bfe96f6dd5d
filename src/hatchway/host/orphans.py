"""What is left of logins, mounts, workers and sessions that nobody uses any more: the one definition of it.

hostd ends it when it starts, `hatchway doctor` names it. Nothing is changed here, and no path behind a mount point is
touched. One look may meet what is just beginning or ending: left over is what two looks, PAUSE_S apart, both found.

Processes are known by their uids, which are Hatchway's alone (see ids in the configuration). Where records show that
there is another Hatchway, its workers cannot be told from ours and are not named, nor are sessions of its logins.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Collection, Iterable
from dataclasses import dataclass

from hatchway.config import Config
from hatchway.host import processes
from hatchway.host.processes import Seen
from hatchway.host.records import Published, Records
from hatchway.kernel.mounts import MountEntry, mount_table
from hatchway.model import below
from hatchway.wire.host import Leftover, LeftoverKind

PAUSE_S = 2.0
"""Seconds between two looks."""


@dataclass(frozen=True, slots=True)
class InUse:
    """What is in use, as hostd knows it; nothing while Hatchway does not run.

    `names` are users and groups that are to be published, `roots` logins whose directory is in use, `targets` mount
    points, `worker_uids` uids of workers, `monitors` pids of the sshd monitors of the sessions that are counted.
    """

    names: frozenset[str] = frozenset()
    roots: frozenset[str] = frozenset()
    targets: frozenset[str] = frozenset()
    worker_uids: frozenset[int] = frozenset()
    monitors: frozenset[int] = frozenset()


def find(config: Config, in_use: InUse) -> list[Leftover]:
    """One look at everything. Needs root. Raises OSError when it cannot be looked at."""
    records = published(config)
    logins = {record.number: record.name for record in records if record.file.endswith(".user")}
    foreign = {record.name for record in records if record.owner != config.paths.run_dir}
    alone = not others(config)
    running = processes.everyone()
    left = mounts(config, in_use.targets)
    found = []
    for seen in sessions(config, running, logins.values(), in_use.monitors):
        login = seen.monitored(config.sshd.pam_service) or logins.get(seen.uids[0], "")
        if login not in foreign:
            found.append(Leftover(kind=LeftoverKind.SESSION, pid=seen.pid, uid=seen.uids[0], login=login))
    if alone:
        found += [
            Leftover(kind=LeftoverKind.WORKER, pid=seen.pid, uid=seen.uids[0])
            for seen in workers(config, running, in_use.worker_uids)
        ]
    found += [
        Leftover(kind=LeftoverKind.MOUNT, path=_text(entry.target), login=_login_of(config, entry.target))
        for entry in left
    ]
    found += [
        Leftover(kind=LeftoverKind.DIRECTORY, path=_text(path), login=_login_of(config, path))
        for path in _directories(config, in_use.roots)
        if not any(below(entry.target, path) for entry in left)
    ]
    found += [
        Leftover(kind=LeftoverKind.RECORD, path=_text(one.file), uid=one.number, login=one.name, owner=_text(one.owner))
        for one in records
        if (one.name not in in_use.names if one.owner == config.paths.run_dir else not _runs(one.owner))
    ]
    return found


def published(config: Config) -> list[Published]:
    """The records of any Hatchway whose uid or gid is in the ranges of this one's logins and services."""
    ranges = (config.ids.login_uids, config.ids.service_uids)
    records = Records(config.paths.userdb_dir, config.paths.run_dir).everybodys()
    return [one for one in records if any(first <= one.number <= last for first, last in ranges)]


def others(config: Config) -> set[str]:
    """Run directories of other Hatchways on this host, as the records they published say.

    Whichever uids these name: workers have none published, and may have ours.
    """
    records = Records(config.paths.userdb_dir, config.paths.run_dir).everybodys()
    return {one.owner for one in records} - {config.paths.run_dir}


def mounts(config: Config, targets: Collection[str]) -> list[MountEntry]:
    """Mounts at and below the directory of the logins' roots that are none of `targets`, in mount order."""
    return [entry for entry in mount_table() if below(entry.target, config.mount_dir) and entry.target not in targets]


def workers(config: Config, running: Iterable[Seen], uids: Collection[int]) -> list[Seen]:
    """Those of `running` that have a worker's uid, and none of `uids`."""
    first, last = config.ids.worker_uids
    return [seen for seen in running if first <= seen.uids[0] <= last and seen.uids[0] not in uids]


def sessions(config: Config, running: Iterable[Seen], logins: Collection[str], monitors: Collection[int]) -> list[Seen]:
    """Those of `running` that belong to a session, but to none whose sshd monitor is one of the pids `monitors`.

    That is every process with a login's uid, and its monitor. A monitor without such a process is that of somebody who
    is logging in, which may take a person half a minute; but one of `logins` that was stopped was being ended.
    """
    first, last = config.ids.login_uids
    by_pid = {seen.pid: seen for seen in running}
    found: dict[int, Seen] = {}
    for seen in by_pid.values():
        login = seen.monitored(config.sshd.pam_service)
        if first <= seen.uids[0] <= last:
            line = _line(seen, by_pid)
            if not any(each.pid in monitors for each in line):
                found |= {each.pid: each for each in line if each is seen or each.monitored(config.sshd.pam_service)}
        elif login in logins and seen.state == "T" and seen.pid not in monitors:
            found[seen.pid] = seen
    return [found[pid] for pid in sorted(found)]


def _line(seen: Seen, by_pid: dict[int, Seen]) -> list[Seen]:
    """A process and its ancestors."""
    line: list[Seen] = []
    while seen not in line:
        line.append(seen)
        seen = by_pid.get(seen.parent, seen)
    return line


def _runs(run_dir: str) -> bool:
    """Whether a Hatchway runs with that run directory: it holds the lock there."""
    try:
        lock = os.open(f"{run_dir}/lock", os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(lock)
    return False


def _directories(config: Config, roots: Collection[str]) -> list[str]:
    try:
        names = sorted(os.listdir(config.mount_dir))
    except FileNotFoundError:
        return []
    return [f"{config.mount_dir}/{name}" for name in names if name not in roots]


def _login_of(config: Config, path: str) -> str:
    return _text(path[len(config.mount_dir) + 1 :].partition("/")[0])


def _text(path: str) -> str:
    """`path` as text that any message can carry; ours are, whatever somebody has made beside them need not be."""
    return os.fsencode(path).decode("utf-8", "replace")
