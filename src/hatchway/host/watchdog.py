"""Looking after a worker that serves: whether it answers, and its directory is where it was, and its memory is bounded.

Nothing is taken away here: whoever asked for the watch is told why, and does so in the right order.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Awaitable, Callable
from typing import Any

import trio

from hatchway.config import Config
from hatchway.errors import HatchwayError, HostError
from hatchway.host import sources
from hatchway.host.patience import Patience
from hatchway.host.skeleton import Skeleton
from hatchway.host.workers import Worker
from hatchway.kernel import mounts
from hatchway.wire.host import View

WATCHDOG_S = 15.0
"""How often a worker is asked how it is, and whether its directory is where it was. It has host.worker_timeout_s to
answer, and is asked as often as that if that is less."""

FORGET_FROM = 500_000
"""Files of a volume that the kernel may know before it is told to forget those that nobody uses.

A worker remembers some 400 bytes for each, and a session that walks a tree of millions would use up the worker's
memory (volumefs.confinement.MAX_MEMORY) on a host that is not short of memory itself."""

BUSY_WATCHDOG_S = 3.0
"""How often a worker is asked that is on the way there: it may list 100,000 files a second."""


class Watchdog:
    """Looks after workers of one login's root, which is `skeleton`."""

    def __init__(self, config: Config, patience: Patience, skeleton: Skeleton, logger: Any) -> None:
        self._config = config
        self._patience = patience
        self._skeleton = skeleton
        self._logger = logger

    async def watch(
        self,
        worker: Worker,
        serving: Callable[[], bool],
        take_away: Callable[[str, str], Awaitable[None]],
        readmit: Callable[[], Awaitable[None]],
    ) -> None:
        """Look after `worker` as long as `serving` says so. `take_away` is awaited, once, with what is to be logged.

        `readmit` is awaited when it refuses everything to some processes: unless a session is just being ended they
        have ended, and others may have their pids.
        """
        limit_s = self._config.host.worker_timeout_s
        missed, pause_s = "", min(WATCHDOG_S, limit_s)
        while True:
            await trio.sleep(pause_s)
            if not serving():
                return
            before = missed
            try:
                state = await worker.ping(limit_s)
                nodes = state.nodes
                if state.expelled:
                    await readmit()
                missed = await self._vanished(worker.view)
                if not missed or not before:
                    if nodes > FORGET_FROM:
                        await self._relieve(worker, nodes)
                    pause_s = min(BUSY_WATCHDOG_S if nodes > FORGET_FROM // 4 else WATCHDOG_S, limit_s)
                    continue
                # Twice: where the engine mounts something there is a moment when it is not there.
                event, problem = "its directory is gone, sessions end", missed
            except Exception as exc:
                event, problem = "worker taken away, it is stuck", str(exc)
            await take_away(event, problem)
            return

    async def _relieve(self, worker: Worker, nodes: int) -> None:
        """Have the kernel forget the files of `worker` that nobody uses."""

        def forget() -> str:
            place = self._skeleton.open(worker.target)
            try:
                mounts.forget_unused(place)
            finally:
                os.close(place)
            return ""

        try:
            # In a thread: it takes seconds, and the way to a volume inside another leads through that one's worker. Not
            # under the target's own name, for nothing else about it need wait.
            await self._patience.text(f"the kernel's memory of {worker.target}", forget)
        except (HostError, OSError) as exc:
            self._logger.warning("files not forgotten", path=worker.view.path, files=nodes, error=str(exc))
        else:
            self._logger.info("files forgotten", path=worker.view.path, files=nodes)

    async def _vanished(self, view: View) -> str:
        """Why a session must not go on with what is mounted, "" when it may or that is not certain."""
        if not view.birth:
            return ""
        look = functools.partial(sources.vanished, self._config, view.source, view.birth)
        try:
            return await self._patience.text(view.source, look)
        except HatchwayError as exc:
            self._logger.debug("cannot be looked at now", path=view.path, error=str(exc))
            return ""
