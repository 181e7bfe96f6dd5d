"""Calls on file systems that may never answer (NFS, somebody's FUSE), outside the event loop and with a deadline.

Such a call cannot be ended. So there is never more than one for a path: the next one waits for its turn, and once one
hangs, further questions about that path are answered at once with "it does not answer". One tenant's dead server thus
costs one thread, and nobody else's logins or revocations wait for it.
"""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from typing import Generic, TypeVar

import trio

from hatchway.errors import HostError

T = TypeVar("T", str, int)

DEADLINE_S = 5.0

LANES = 32
"""Threads that a question about many paths may have: so many may hang before the other paths wait."""

LANE_EVERY_S = 0.05
"""How soon one more of them starts. Where file systems answer, the first is enough: handing each path to a thread
takes ten times as long as looking at it."""

SHIFT_S = 0.2
"""How long such a thread goes on to the next path before it reports. A deadline is one of its whole shift."""


class Patience:
    """Runs calls for paths, within one trio run. `limit` is how many threads may run, or hang, at once."""

    def __init__(self, limit: int = 512) -> None:
        self._limiter = trio.CapacityLimiter(limit)
        self._turns = _Turns()

    async def text(self, path: str, call: Callable[[], str]) -> str:
        """The result of `call`, about `path`. Raises what it raises; HostError when it takes too long."""
        return await self._one(path, call)

    async def descriptor(self, path: str, call: Callable[[], int]) -> int:
        """As `text`, for a call that opens a descriptor; one that comes too late is closed."""
        return await self._one(path, call)

    async def texts(self, calls: Mapping[str, Callable[[], str]]) -> dict[str, str | Exception]:
        """What `text` would return or raise for each path, in a tenth of the time when there are many."""
        waiting = deque(calls)
        answers: dict[str, str | Exception] = {}
        busy: list[str] = []
        all_taken = trio.Event()

        async def lane() -> None:
            while waiting:
                shift = _Shift(self._turns, calls, waiting)
                begun = await self._work(shift)
                answers.update(shift.answers)
                busy.extend(shift.busy)
                while waiting and not begun:
                    path = waiting.popleft()
                    answers[path] = HostError(f"{path} was not looked at: too much else does not answer")
            all_taken.set()

        async def later(path: str) -> None:
            try:
                answers[path] = await self.text(path, calls[path])
            except Exception as exc:
                answers[path] = exc

        async with trio.open_nursery() as nursery:
            for _ in range(LANES):
                if all_taken.is_set():
                    break
                nursery.start_soon(lane)
                with trio.move_on_after(LANE_EVERY_S):
                    await all_taken.wait()
        async with trio.open_nursery() as nursery:
            for path in busy:
                nursery.start_soon(later, path)
        return answers

    async def _one(self, path: str, call: Callable[[], T]) -> T:
        with trio.move_on_after(DEADLINE_S) as waiting:
            await self._turns.wait(path)
        if waiting.cancelled_caught:
            raise HostError(f"{path} does not answer in {DEADLINE_S:g} s")
        shift = _Shift(self._turns, {path: call}, deque(), first=path)
        try:
            await self._work(shift)
        except BaseException:
            # The caller is cancelled, and does not take what was opened.
            opened = shift.answers.get(path)
            if isinstance(opened, int):
                os.close(opened)
            raise
        answer = shift.answers[path]
        if isinstance(answer, Exception):
            raise answer
        return answer

    async def _work(self, shift: _Shift[T]) -> bool:
        """Have a thread do `shift`. Whether it began: all threads may hang."""
        try:
            with trio.move_on_after(DEADLINE_S) as waiting:
                await trio.to_thread.run_sync(shift.run, limiter=self._limiter, abandon_on_cancel=True)
        finally:
            begun = shift.leave(too_late=waiting.cancelled_caught)
        return begun


class _Turns:
    """Which paths somebody is at. Used by the event loop and by threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        # What is set when the path is free again, None as long as nobody waits for that.
        self._taken: dict[str, tuple[trio.lowlevel.TrioToken, trio.Event] | None] = {}
        self._hanging: set[str] = set()

    def take(self, path: str) -> bool:
        """Whether it was free, and is taken now. Raises HostError when whoever has it hangs."""
        with self._lock:
            if path in self._hanging:
                raise HostError(f"{path} does not answer")
            return path not in self._taken and self._taken.setdefault(path) is None

    async def wait(self, path: str) -> None:
        """Take it as soon as it is free. Raises HostError when whoever has it hangs."""
        while not self.take(path):
            with self._lock:
                if path not in self._taken:
                    continue
                told = self._taken[path]
                if told is None:
                    told = self._taken[path] = trio.lowlevel.current_trio_token(), trio.Event()
            await told[1].wait()

    def hangs(self, path: str) -> None:
        """Whoever has it is not waited for any longer."""
        with self._lock:
            self._hanging.add(path)
            told, self._taken[path] = self._taken[path], None
        self._tell(told)

    def give_back(self, path: str) -> None:
        """It is free again."""
        with self._lock:
            self._hanging.discard(path)
            told = self._taken.pop(path)
        self._tell(told)

    @staticmethod
    def _tell(told: tuple[trio.lowlevel.TrioToken, trio.Event] | None) -> None:
        if told is not None:
            # The loop has ended: then nobody waits.
            with contextlib.suppress(trio.RunFinishedError):
                told[0].run_sync_soon(told[1].set)


class _Shift(Generic[T]):
    """What one thread does before it reports: the calls for some paths, `first` (whose turn it is) and `waiting`.

    Whoever started it may have left by the time it ends.
    """

    def __init__(
        self, turns: _Turns, calls: Mapping[str, Callable[[], T]], waiting: deque[str], *, first: str | None = None
    ) -> None:
        self.answers: dict[str, T | Exception] = {}
        self.busy: list[str] = []
        """Paths somebody else was at."""
        self._turns = turns
        self._calls: Mapping[str, Callable[[], T]] = calls
        self._waiting = waiting
        self._at = first
        self._began = self._left = False
        self._lock = threading.Lock()

    def run(self) -> None:
        """The thread's part."""
        end = time.monotonic() + SHIFT_S
        while self._begin():
            assert self._at is not None
            path = self._at
            try:
                answer: T | Exception = self._calls[path]()
            except Exception as exc:
                answer = exc
            if not self._end(path, answer) or time.monotonic() >= end:
                return

    def _begin(self) -> bool:
        """Go to the next path. False when there is none, or nobody wants to know any more."""
        with self._lock:
            self._began = self._began or not self._left
            while self._at is None and not self._left:
                try:
                    path = self._waiting.popleft()
                except IndexError:
                    return False
                try:
                    if self._turns.take(path):
                        self._at = path
                    else:
                        self.busy.append(path)
                except HostError as exc:
                    self.answers[path] = exc
            return not self._left

    def _end(self, path: str, answer: T | Exception) -> bool:
        """Report on a path. False when nobody wants to know any more."""
        with self._lock:
            self._at = None
            left = self._left
            if not left:
                self.answers[path] = answer
        if left and isinstance(answer, int):
            os.close(answer)
        self._turns.give_back(path)
        return not left

    def leave(self, *, too_late: bool) -> bool:
        """The loop's part: it waits no longer, because the thread is done or because it takes too long.

        Whether the thread ever began. `too_late`: what it is at hangs.
        """
        with self._lock:
            self._left = True
            if self._at is not None:
                self.answers[self._at] = HostError(f"{self._at} does not answer in {DEADLINE_S:g} s")
                if not self._began:
                    self._turns.give_back(self._at)
                elif too_late:
                    self._turns.hangs(self._at)
            return self._began
