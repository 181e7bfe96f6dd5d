"""Taking over one login's root from an earlier hostd: its workers and sessions, all of them or none.

Nothing is ended here. What is not taken over is left as it is for `hostd.clean_up`, which ends things in the right
order.
"""

from __future__ import annotations

import os
from collections.abc import Iterable

import trio

from hatchway.config import Config
from hatchway.errors import HostError
from hatchway.host import policy, workers
from hatchway.host.handover import Handover, KeptRoot, kept_names, session_name, worker_names
from hatchway.host.processes import Process
from hatchway.host.sizes import Accounts
from hatchway.host.workers import Worker


class Adopted:
    """What was taken over of `kept`."""

    def __init__(self, kept: KeptRoot, accounts: Accounts) -> None:
        self.kept = kept
        self._accounts = accounts
        self.workers: list[Worker] = []
        # The places of other volumes each worker was started with.
        self.placed: dict[str, tuple[str, ...]] = {}
        self.sessions: dict[str, Process] = {}
        self.ending: list[str] = []
        """Those of the sessions that the earlier hostd was ending: they have been stopped."""

    def close(self) -> None:
        """Let go of it again."""
        for worker in self.workers:
            worker.close()
            self._accounts.leave(worker.account)
        for monitor in self.sessions.values():
            monitor.close()


async def adopt(
    config: Config, handover: Handover, accounts: Accounts, kept: KeptRoot, *, gid: int, mounted: Iterable[str]
) -> Adopted:
    """Take over `kept`; `gid` is the logins' group, `mounted` are the mount points there are.

    Raises an exception when anything of it was half done, does not answer, was being taken away or may not be any
    more. Then nothing is taken over.
    """
    adopted = Adopted(kept, accounts)
    try:
        _take(config, handover, accounts, adopted, gid, set(mounted))
        await _ask_all(adopted.workers)
    except BaseException:
        adopted.close()
        for name in kept_names(kept):
            handover.forget(name)
        raise
    return adopted


def _take(
    config: Config, handover: Handover, accounts: Accounts, adopted: Adopted, gid: int, mounted: set[str]
) -> None:
    kept = adopted.kept
    policy.check_login(config, kept.login, kept.uid)
    policy.check_views(config, tuple(worker.view for worker in kept.workers))
    if kept.gid != gid:
        raise HostError("the logins' group is another one")
    if kept.starting:
        raise HostError(f"{', '.join(kept.starting)} was being mounted")
    for one in kept.workers:
        target = f"{config.mount_dir}/{kept.login}{one.view.path}"
        if target not in mounted:
            raise HostError(f"{one.view.path} is not mounted")
        taken: list[int] = []
        try:
            for name in worker_names(one.uid):
                taken.append(handover.descriptor(name))
        except BaseException:
            for fd in taken:
                os.close(fd)
            raise
        control, pidfd, ledger = taken
        try:
            account = accounts.adopt(one.view, ledger)
        except BaseException:
            for fd in (control, pidfd):
                os.close(fd)
            raise
        adopted.placed[one.view.path] = one.places
        adopted.workers.append(Worker.adopt(one.pid, pidfd, control, one.view, target, one.uid, account, one.mount_id))
    for session, pid in kept.sessions.items():
        monitor = Process.adopt(pid, handover.descriptor(session_name(session)))
        adopted.sessions[session] = monitor
        if monitor.stopped():
            adopted.ending.append(session)


async def _ask_all(found: Iterable[Worker]) -> None:
    """Raise HostError unless every worker answers soon and serves."""
    problems: list[str] = []

    async def ask(worker: Worker) -> None:
        # All at once: logins and revocations wait until hostd has started.
        try:
            if not worker.process.alive():
                # Its sessions see errors, which sftp-server tells as the end of a listing: they must not go on.
                problems.append(f"the worker of {worker.view.path} has died")
            elif (state := await worker.ping(workers.RESTRICT_TIMEOUT_S)).refused:
                problems.append(f"{worker.view.path} was being taken away")
            elif state.read_only != worker.view.read_only:
                problems.append(f"{worker.view.path} was being made read-only or writable")
            else:
                await worker.hold()
        except HostError as exc:
            problems.append(str(exc))

    async with trio.open_nursery() as nursery:
        for worker in found:
            nursery.start_soon(ask, worker)
    if problems:
        raise HostError("; ".join(problems))
