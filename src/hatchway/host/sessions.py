"""Who is in a login's root: each session is known by its sshd monitor, and counted for as long as that lives.

What a session does in the volumes is done by processes below its monitor. They are looked for now and then, since
workers know processes, not sessions, and nothing can be told of one that has ended.

Concurrency: sessions are added and ended under the root's lock; that one has ended may be noticed at any time.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection, Iterable, Iterator, Mapping
from typing import Any

import trio

from hatchway.errors import RefusedError
from hatchway.host import processes
from hatchway.host.activity import Answers, Moved, total
from hatchway.host.handover import Handover, session_name
from hatchway.host.processes import Process
from hatchway.model import SESSIONS_MAX
from hatchway.wire.host import FILES_MAX, SessionActivity

LOOK_S = (0.003, 10.0)
"""Shortest and longest pause between two looks for the processes of a session, in seconds.

The pause is an eighth of the session's age: of one that moves a single file, which lives for a twentieth of a second,
the process that does it lives for a third of that. A look takes a tenth of a millisecond."""


class Session:
    """One session. `pids` are processes of it that were seen and have not been seen to have ended.

    `read` and `written` are bytes that were moved besides what the workers tell of `pids`. `since` is when it was
    first known (trio's clock, seconds); `over` is set when its end has been told. `ended` says that it was us who ended
    it.
    """

    __slots__ = ("ended", "id", "monitor", "over", "pids", "read", "since", "written")

    def __init__(self, session: str, monitor: Process) -> None:
        self.id = session
        self.monitor = monitor
        self.pids: set[int] = set()
        self.read = 0
        self.written = 0
        self.ended = False
        self.since = trio.current_time()
        self.over = trio.Event()

    def look(self) -> set[int]:
        """Look for its processes. Returns those that have ended."""
        found = processes.below(self.monitor.pid)
        if not self.monitor.alive():
            return set()  # its pid may be another's
        gone = self.pids - found
        self.pids |= found
        return gone

    def has_moved(self, moved: Iterable[Moved]) -> None:
        """Add what no worker will tell any more."""
        listed = tuple(moved)
        self.read = total(self.read, (one.read for one in listed))
        self.written = total(self.written, (one.written for one in listed))


class Sessions:
    """The sessions of `login`.

    `changed` is called when one is over; then, when it is known what it moved, `ended` with its id, bytes read and
    written, and whether it was us who ended it. `ask` gives what processes did; its second argument says whether they
    have ended.
    """

    def __init__(
        self,
        login: str,
        handover: Handover,
        changed: Callable[[], None],
        ask: Callable[[Collection[int], bool], Awaitable[Answers]],
        ended: Callable[[str, int, int, bool], None],
        logger: Any,
    ) -> None:
        self.idle_since: float | None = trio.current_time()
        """Since when nobody has been in (trio's clock, seconds); None while somebody is, or nothing need be done."""
        self._login = login
        self._handover = handover
        self._changed = changed
        self._ask = ask
        self._ended = ended
        self._logger = logger
        self._open: dict[str, Session] = {}

    def __len__(self) -> int:
        return len(self._open)

    def __iter__(self) -> Iterator[Session]:
        return iter(tuple(self._open.values()))

    @property
    def pids(self) -> dict[str, int]:
        """The monitors' pids by session."""
        return {session: one.monitor.pid for session, one in self._open.items()}

    def check_room(self) -> None:
        """Raise RefusedError when there may be no more."""
        if len(self._open) >= SESSIONS_MAX:
            raise RefusedError(f"{self._login} has {SESSIONS_MAX} sessions already")

    def add(self, session: str, monitor: Process) -> Session:
        """Count a session, whose monitor becomes ours. It must be watched: see `watch`."""
        (added,) = self.adopt({session: monitor})
        self._handover.keep(session_name(session), monitor.fileno())
        return added

    def adopt(self, sessions: Mapping[str, Process]) -> list[Session]:
        """As `add`, for those that an earlier hostd had."""
        adopted = [Session(session, monitor) for session, monitor in sessions.items()]
        self._open.update((one.id, one) for one in adopted)
        if adopted:
            self.idle_since = None
        return adopted

    async def watch(self, session: Session) -> None:
        """Look for the session's processes until it is over, and notice that."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._follow, session)
            await session.monitor.wait()
            nursery.cancel_scope.cancel()
        await self._gone(session)
        session.monitor.close()

    async def _follow(self, session: Session) -> None:
        shortest, longest = LOOK_S
        while True:
            age_s = trio.current_time() - session.since
            await trio.sleep(min(max(shortest, age_s / 8), longest))
            if gone := session.look():
                await self._settle(session, gone)

    async def _settle(self, session: Session, ended: set[int]) -> None:
        """Add what processes that have ended have moved. The workers forget them."""
        session.pids -= ended
        try:
            # The session may end meanwhile, and nobody can ask twice.
            with trio.CancelScope(shield=True):
                session.has_moved((await self._ask(ended, True)).of(ended))
        except Exception:
            # Who is in must be known whatever becomes of what they have moved.
            self._logger.exception("what a session has moved is not known", session=session.id)

    async def activity(self) -> list[SessionActivity]:
        """What each session does."""
        listed = tuple(self)
        for session in listed:
            session.look()
        answers = await self._ask({pid for session in listed for pid in session.pids}, False)
        return [self._activity_of(session, answers) for session in listed]

    def _activity_of(self, session: Session, answers: Answers) -> SessionActivity:
        done = answers.of(session.pids)
        return SessionActivity(
            session=session.id,
            login=self._login,
            read=total(session.read, (one.read for one in done)),
            written=total(session.written, (one.written for one in done)),
            # One that has never asked for anything has been idle since it began.
            idle_s=min((one.idle_s for one in done), default=trio.current_time() - session.since),
            files=tuple(file for one in done for file in one.files)[:FILES_MAX],
            partial=answers.partial,
        )

    async def end(
        self,
        stopped: Callable[[Collection[int]], Awaitable[None]] | None = None,
        killed: Callable[[], None] = lambda: None,
        *,
        only: Collection[Session] | None = None,
        grace_s: float = 2.0,
    ) -> bool:
        """End all sessions, or `only` some; the rest, and what is returned, as in `processes.end`.

        What they have moved is known when this returns.
        """
        ending = [one for one in self if only is None or one in only]
        if ending:
            self._logger.info("ending sessions", count=len(ending))
        for one in ending:
            one.ended = True
            one.look()
        monitors = [one.monitor for one in ending]
        if stopped is None:
            done = await processes.end(monitors, killed=killed, grace_s=grace_s)
        else:
            done = await processes.end(monitors, stopped=stopped, killed=killed, grace_s=grace_s)
        async with trio.open_nursery() as nursery:
            for one in ending:
                if not one.monitor.alive():
                    nursery.start_soon(self._gone, one)
        return done

    async def _gone(self, session: Session) -> None:
        if self._open.pop(session.id, None) is None:
            await session.over.wait()
            return
        if not self._open:
            self.idle_since = trio.current_time()
        self._changed()
        self._handover.forget(session_name(session.id))
        await self._settle(session, set(session.pids))
        session.over.set()
        self._ended(session.id, session.read, session.written, session.ended)
