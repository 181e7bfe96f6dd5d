"""Who is in a login's root: each session is known by its sshd monitor, and counted for as long as that lives.

Concurrency: sessions are added and ended under the root's lock; that one has ended may be noticed at any time.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection, Mapping
from typing import Any

import trio

from hatchway.errors import RefusedError
from hatchway.host import processes
from hatchway.host.handover import Handover, session_name
from hatchway.host.processes import Process

SESSIONS_MAX = 128
"""Sessions of one login at once. Each holds descriptors of ours: nobody may use up what revoking others needs."""


class Sessions:
    """The sessions of `login`. `changed` is called when one is over, then `ended` with its id."""

    def __init__(
        self, login: str, handover: Handover, changed: Callable[[], None], ended: Callable[[str], None], logger: Any
    ) -> None:
        self.idle_since: float | None = trio.current_time()
        """Since when nobody has been in (trio's clock, seconds); None while somebody is, or nothing need be done."""
        self._login = login
        self._handover = handover
        self._changed = changed
        self._ended = ended
        self._logger = logger
        self._monitors: dict[str, Process] = {}

    def __len__(self) -> int:
        return len(self._monitors)

    @property
    def ids(self) -> tuple[str, ...]:
        """Ids of those that are open."""
        return tuple(self._monitors)

    @property
    def monitors(self) -> tuple[Process, ...]:
        """Their sshd monitors."""
        return tuple(self._monitors.values())

    @property
    def pids(self) -> dict[str, int]:
        """The monitors' pids by session."""
        return {session: monitor.pid for session, monitor in self._monitors.items()}

    def check_room(self) -> None:
        """Raise RefusedError when there may be no more."""
        if len(self._monitors) >= SESSIONS_MAX:
            raise RefusedError(f"{self._login} has {SESSIONS_MAX} sessions already")

    def add(self, session: str, monitor: Process) -> None:
        """Count a session, whose monitor becomes ours. Somebody must `watch` it."""
        self._monitors[session] = monitor
        self.idle_since = None
        self._handover.keep(session_name(session), monitor.fileno())

    def adopt(self, sessions: Mapping[str, Process]) -> None:
        """As `add`, for those that an earlier hostd had."""
        self._monitors.update(sessions)
        if sessions:
            self.idle_since = None

    async def watch(self, session: str, monitor: Process) -> None:
        """Notice when the session is over."""
        await monitor.wait()
        self._gone(session)
        monitor.close()

    async def end(
        self,
        stopped: Callable[[], Awaitable[None]] | None = None,
        killed: Callable[[], None] = lambda: None,
        *,
        only: Collection[Process] | None = None,
    ) -> None:
        """End all sessions, or those of the monitors `only`; `stopped` and `killed` as in `processes.end`."""
        ending = {session: one for session, one in self._monitors.items() if only is None or one in only}
        if ending:
            self._logger.info("ending sessions", count=len(ending))
        if stopped is None:
            await processes.end(ending.values(), killed=killed)
        else:
            await processes.end(ending.values(), stopped=stopped, killed=killed)
        for session, monitor in ending.items():
            if not monitor.alive():
                self._gone(session)

    def _gone(self, session: str) -> None:
        if self._monitors.pop(session, None) is None:
            return
        if not self._monitors:
            self.idle_since = trio.current_time()
        self._changed()
        self._handover.forget(session_name(session))
        self._ended(session)
