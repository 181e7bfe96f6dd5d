"""Processes, held by pidfd: which sshd process a session is, and ending it with all that belongs to it.

Sources: pidfd_open(2), proc_pid_stat(5). A pid alone is never signalled: it may be another process by then.
"""

from __future__ import annotations

import os
import signal
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Iterable
from contextlib import asynccontextmanager
from typing import NamedTuple

import trio

from hatchway import log
from hatchway.errors import RefusedError

FORK_ROUNDS = 20
"""How often new children of a session that is ended are looked for. Each round stops all it finds."""

STOP_TIMEOUT_S = 0.25
"""Longest wait, in seconds, until what was sent SIGSTOP has stopped, in each round."""

_FORKS_NOT = frozenset("TtZXD")
"""States (proc_pid_stat(5)) in which a process makes no child: stopped, traced, ended, asleep in the kernel."""


class Process:
    """One process for as long as it lives. Close it when done."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self._fd = os.pidfd_open(pid)

    @classmethod
    def adopt(cls, pid: int, pidfd: int) -> Process:
        """Wrap a pidfd received from elsewhere."""
        self = cls.__new__(cls)
        self.pid = pid
        self._fd = pidfd
        return self

    def fileno(self) -> int:
        """The pidfd, which stays ours; -1 once closed."""
        return self._fd

    def signal(self, number: int) -> None:
        """Send a signal; nothing happens when the process has ended."""
        if self._fd < 0:
            return
        try:
            signal.pidfd_send_signal(self._fd, number)
        except ProcessLookupError:
            pass

    async def wait(self) -> None:
        """Return when the process has ended, or was closed. Any number of tasks may wait."""
        if self._fd < 0:
            return
        # trio lets one task wait for a descriptor, and closing one under a waiter is an error: each gets its own.
        waiting = os.dup(self._fd)
        try:
            await trio.lowlevel.wait_readable(waiting)
        finally:
            os.close(waiting)

    def alive(self) -> bool:
        """Whether it has not ended. A zombie has ended, and so has whatever was closed."""
        if self._fd < 0:
            return False
        try:
            signal.pidfd_send_signal(self._fd, 0)
        except ProcessLookupError:
            return False
        status = _stat(self.pid)
        return status is not None and status[0] not in "ZX"

    def stopped(self) -> bool:
        """Whether it was sent SIGSTOP and not SIGCONT since."""
        status = _stat(self.pid)
        return status is not None and status[0] == "T" and self.alive()

    def close(self) -> None:
        """Let go of the descriptor."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


def _stat(pid: int) -> tuple[str, int] | None:
    """State letter and parent of a process, None when there is none."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            # The name, in parentheses, may hold anything.
            fields = file.read().rpartition(b") ")[2].split()
        return fields[0].decode("ascii"), int(fields[1])
    except (OSError, IndexError, ValueError):
        return None


def exists(pid: int) -> bool:
    """Whether there is such a process; taken to be so for 0, which is what one of another pid namespace is called."""
    return pid == 0 or _stat(pid) is not None


def session_monitor(helper_pid: int, login: str, program: str) -> Process:
    """The sshd process that waits for the PAM helper `helper_pid` while it opens a session for `login`.

    It is the helper's parent, runs as root, and names itself "<program>: <login> [priv]", the name our sshd was started
    by, or "sshd" where the host's own serves our port, or from 9.8 on "sshd-session" (setproctitle in sshd.c,
    sshd-session.c). The helper is still waiting for our answer, so its parent cannot have changed in between.
    Raises RefusedError when the process is anything else: hostd signals nothing else on the core's word.
    """
    try:
        helper = Process(helper_pid)
    except OSError:
        raise RefusedError(f"there is no process {helper_pid}") from None
    try:
        status = _stat(helper_pid)
        if status is None:
            raise RefusedError(f"process {helper_pid} has ended")
        try:
            monitor = Process(status[1])
        except OSError:
            raise RefusedError(f"the parent of process {helper_pid} has ended") from None
        if not (helper.alive() and _stat(helper_pid) == status and _is_monitor(monitor.pid, login, program)):
            monitor.close()
            raise RefusedError(f"process {helper_pid} is no PAM helper of a session of {login}")
        return monitor
    finally:
        helper.close()


def _is_monitor(pid: int, login: str, program: str) -> bool:
    seen = _look(pid)
    return seen is not None and seen.monitored(program) == login


class Seen(NamedTuple):
    """A process as it was when it was looked at (proc_pid_status(5)).

    `uids` are real, effective, saved and file-system uid. `title` is the command line of one that is root's alone,
    "" of others.
    """

    pid: int
    parent: int
    state: str
    uids: tuple[int, ...]
    title: str = ""

    def monitored(self, program: str) -> str | None:
        """Whose session this sshd monitor is for, or who is logging in by it; None when it is no monitor."""
        if self.uids[:3] != (0, 0, 0) or not self.title.endswith(" [priv]"):
            return None
        for name in (program, "sshd", "sshd-session"):
            if self.title.startswith(f"{name}: "):
                return self.title[len(name) + 2 : -len(" [priv]")]
        return None


def everyone() -> list[Seen]:
    """All processes that have not ended, but for those of containers: whoever starts one chooses its processes' uids.

    A process of another pid namespace has more than one number in NSpid (proc_pid_status(5)), ours have one.
    """
    found = (_look(int(entry)) for entry in os.listdir("/proc") if entry.isdigit())
    return [seen for seen in found if seen is not None and seen.state not in "ZX"]


def _look(pid: int) -> Seen | None:
    try:
        with open(f"/proc/{pid}/status", encoding="ascii", errors="replace") as file:
            fields = dict(line.partition(":")[::2] for line in file)
        if len(fields.get("NSpid", "1").split()) != 1:
            return None
        state, parent = fields["State"].split()[0], int(fields["PPid"])
        uids = tuple(int(uid) for uid in fields["Uid"].split())
        title = ""
        if set(uids[:3]) == {0}:
            with open(f"/proc/{pid}/cmdline", "rb") as cmdline:
                title = cmdline.read().rstrip(b"\0 ").decode("ascii", "replace")
        return Seen(pid, parent, state, uids, title)
    except (OSError, KeyError, IndexError, ValueError):
        return None  # it has ended


def hold(found: Iterable[Seen]) -> list[Process]:
    """Those of the processes that were looked at which have not ended since."""
    held = []
    for seen in found:
        try:
            process = Process(seen.pid)
        except OSError:
            continue
        now = _look(seen.pid)
        if now is not None and (now.uids, now.title) == (seen.uids, seen.title):
            held.append(process)
        else:
            process.close()
    return held


def descendants(*pids: int) -> list[Process]:
    """All processes below those of `pids`, each held by pidfd."""
    parents: dict[int, list[int]] = {}
    for entry in os.listdir("/proc"):
        if entry.isdigit() and (status := _stat(int(entry))) is not None:
            parents.setdefault(status[1], []).append(int(entry))
    found, queue = [], list(pids)
    while queue:
        for child in parents.get(queue.pop(), []):
            queue.append(child)
            try:
                found.append(Process(child))
            except ProcessLookupError:
                pass  # it has ended
            except OSError:
                for process in found:
                    process.close()
                raise
    return found


def below(pid: int) -> set[int]:
    """Pids of the processes below `pid`, as far as they can be seen without looking at every process of the host.

    Source: proc_pid_task(5), "children": of one that ends meanwhile the list may lack others. A kernel without
    CONFIG_PROC_CHILDREN tells none.
    """
    found: set[int] = set()
    queue = [pid]
    while queue:
        above = queue.pop()
        try:
            with open(f"/proc/{above}/task/{above}/children", encoding="ascii") as file:
                children = {int(word) for word in file.read().split()}
        except OSError:
            continue
        queue += children - found
        found |= children
    return found


async def _nothing(_pids: Collection[int]) -> None:
    return


async def end(
    monitors: Iterable[Process],
    *,
    grace_s: float = 2.0,
    stopped: Callable[[Collection[int]], Awaitable[None]] = _nothing,
    killed: Callable[[], None] = lambda: None,
) -> bool:
    """End sessions by their monitors, and every process that belongs to them. False when some of these live on.

    Takes `grace_s` seconds twice at most, besides stopping them (FORK_ROUNDS times STOP_TIMEOUT_S at most). `stopped`
    is awaited, with the pids of all, when none of them runs any more, as far as they could be found, before they are
    killed. `killed` is called when all below the monitors have been sent SIGKILL, whether they have ended yet or not.

    A session that is just beginning may be forking: its monitor is stopped first, then all below it, until there is
    nothing new, so that no child escapes. These are killed; the monitor gets SIGTERM and goes on, so that it closes
    its PAM session. SIGKILL of the monitor alone would leave the session's other processes alive.
    """
    listed = list(monitors)
    for monitor in listed:
        monitor.signal(signal.SIGSTOP)
    family: dict[int, Process] = {}
    try:
        try:
            await _stop_all_below(listed, family)
        except OSError as exc:
            # Out of descriptors, say. The monitors must not stay stopped: sshd itself then ends its children.
            log.get().error("not all processes of the sessions were found", error=str(exc))
        await stopped({process.pid for process in (*listed, *family.values())})
        for process in family.values():
            process.signal(signal.SIGKILL)
        killed()
        for monitor in listed:
            monitor.signal(signal.SIGTERM)
            monitor.signal(signal.SIGCONT)
        everyone = [*listed, *family.values()]
        await _wait_for(everyone, grace_s)
        for process in everyone:
            process.signal(signal.SIGKILL)
        await _wait_for(everyone, grace_s)
        return not any(process.alive() for process in everyone)
    finally:
        # Also when this was cancelled meanwhile: nothing may stay stopped.
        for process in family.values():
            process.signal(signal.SIGKILL)
        for monitor in listed:
            monitor.signal(signal.SIGCONT)
        for process in family.values():
            process.close()


@asynccontextmanager
async def paused(monitors: Collection[Process]) -> AsyncIterator[Callable[[Process], set[int]]]:
    """Stop sessions, with all processes that belong to them, and let them go on afterwards.

    Gives what tells the pids that belong to one of `monitors`. Those may be ended meanwhile (`end`). Raises OSError
    when not all could be found. If this process dies meanwhile they stay stopped: whoever takes over ends them.
    """
    family: dict[int, Process] = {}
    for monitor in monitors:
        monitor.signal(signal.SIGSTOP)
    try:
        # All at once: each look at /proc is one at all processes of the host.
        await _stop_all_below(monitors, family)
        # What was sent SIGSTOP last must have stopped too.
        await _until_stopped(family.values())
        parents = {pid: status[1] for pid in family if (status := _stat(pid)) is not None}
        roots = {monitor.pid for monitor in monitors}
        yield lambda monitor: {monitor.pid, *(pid for pid in family if _belongs(pid, monitor.pid, parents, roots))}
    finally:
        for process in family.values():
            process.signal(signal.SIGCONT)
            process.close()
        for monitor in monitors:
            monitor.signal(signal.SIGCONT)


def _belongs(pid: int, monitor: int, parents: dict[int, int], roots: set[int]) -> bool:
    """Whether `pid` is below `monitor`, or below none of `roots` that could be found: then it may be anybody's."""
    while pid in parents:
        pid = parents[pid]
    return pid == monitor or pid not in roots


async def _stop_all_below(monitors: Collection[Process], family: dict[int, Process]) -> None:
    """Stop every process below `monitors` and add it to `family`, until there is nothing new. Raises OSError.

    kill(2) returns before the other has stopped: a fork(2) it is in the middle of still makes a child
    (kernel/fork.c, copy_process). So children are looked for only when all that is known has stopped.
    """
    for _ in range(FORK_ROUNDS):
        await _until_stopped([*monitors, *family.values()])
        new = False
        for process in descendants(*(monitor.pid for monitor in monitors)):
            if process.pid in family:
                process.close()
            else:
                family[process.pid] = process
                process.signal(signal.SIGSTOP)
                new = True
        if not new:
            return


async def _until_stopped(everyone: Iterable[Process]) -> None:
    with trio.move_on_after(STOP_TIMEOUT_S):
        for process in everyone:
            while _may_fork(process):  # noqa: ASYNC110 - nobody tells us of a state, there is only looking again
                await trio.sleep(0.001)


def _may_fork(process: Process) -> bool:
    status = _stat(process.pid)
    return status is not None and status[0] not in _FORKS_NOT and process.alive()


async def _wait_for(everyone: Iterable[Process], timeout_s: float) -> None:
    with trio.move_on_after(timeout_s):
        for process in everyone:
            await process.wait()
