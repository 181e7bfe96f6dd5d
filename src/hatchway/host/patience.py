"""Calls on file systems that may never answer (NFS, somebody's FUSE), outside the event loop and with a deadline.

Such a call cannot be ended. So each runs in a thread of its own, and there is never more than one for a path: while
one hangs, the next question about that path is answered at once with "it does not answer". One tenant's dead server
thus costs one thread, and nobody else's logins or revocations wait for it.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable

import trio

from hatchway.errors import HostError

DEADLINE_S = 5.0


class Patience:
    """Runs calls for paths. `limit` is how many may run, or hang, at once."""

    def __init__(self, limit: int = 512) -> None:
        self._limiter = trio.CapacityLimiter(limit)
        self._busy: set[str] = set()

    async def text(self, path: str, call: Callable[[], str]) -> str:
        """The result of `call`, about `path`. Raises what it raises; HostError when it takes too long."""
        result = await self._run(path, call)
        assert isinstance(result, str)
        return result

    async def descriptor(self, path: str, call: Callable[[], int]) -> int:
        """As `text`, for a call that opens a descriptor; one that comes too late is closed."""
        result = await self._run(path, call)
        assert isinstance(result, int)
        return result

    async def _run(self, path: str, call: Callable[[], str | int]) -> str | int:
        if path in self._busy:
            raise HostError(f"{path} does not answer")
        self._busy.add(path)
        attempt = _Attempt(call, lambda: self._busy.discard(path))
        try:
            with trio.fail_after(DEADLINE_S):
                return await trio.to_thread.run_sync(attempt.run, limiter=self._limiter, abandon_on_cancel=True)
        except trio.TooSlowError:
            raise HostError(f"{path} does not answer in {DEADLINE_S:g} s") from None
        finally:
            attempt.leave()


class _Attempt:
    """One call, which its caller may have left by the time it ends."""

    def __init__(self, call: Callable[[], str | int], ended: Callable[[], None]) -> None:
        self._call = call
        self._ended = ended
        self._lock = threading.Lock()
        self._begun = threading.Event()
        self._left = threading.Event()

    def run(self) -> str | int:
        with self._lock:
            if self._left.is_set():
                return ""
            self._begun.set()
        try:
            result = self._call()
        finally:
            self._ended()
        with self._lock:
            if self._left.is_set() and isinstance(result, int):
                os.close(result)
                return ""
        return result

    def leave(self) -> None:
        """The caller waits no longer, because it has the result or because it gave up."""
        with self._lock:
            self._left.set()
            if not self._begun.is_set():
                self._ended()
