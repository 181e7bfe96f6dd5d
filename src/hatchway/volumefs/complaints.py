"""What an operator must hear of the file system beneath: it is full, read-only, failing; or a limit of ours is met.

A client is told little (see `fault`), and a client that tries again and again must not fill the log: each kind of
failure is told at once and then at most once in PERIOD_S seconds, with how often it happened meanwhile.
"""

from __future__ import annotations

import contextlib
import errno
import os
import time
from collections.abc import Callable
from typing import Final

from hatchway import log
from hatchway.volumefs.fault import LimitError

PERIOD_S: Final = 60.0

_WARNED = {
    errno.ENOSPC: "the file system of the volume is full",
    errno.EDQUOT: "a quota of the file system of the volume is used up",
    errno.ENFILE: "too many files of the volume are open at once",
    errno.EMFILE: "too many files of the volume are open at once",
    errno.ENOMEM: "out of memory",
    errno.EROFS: "the file system of the volume is read-only, although access is not",
}
_FAILING = {
    errno.EIO,
    errno.ENXIO,
    errno.ENODEV,
    errno.EUCLEAN,
    errno.EBADMSG,
    errno.EREMOTEIO,
    errno.ESHUTDOWN,
    errno.ETIMEDOUT,
    errno.ENOTCONN,
    errno.ECONNABORTED,
    errno.EHOSTDOWN,
    errno.EHOSTUNREACH,
    errno.ENOLINK,
}


class Complaints:
    """What was told when. `now` gives seconds on a clock that does not go back."""

    def __init__(self, now: Callable[[], float] = time.monotonic) -> None:
        self._now = now
        # By what is said: when it was last told, and how often it happened since.
        self._told: dict[str, tuple[float, int]] = {}

    def heard(self, operation: str, exc: OSError) -> None:
        """`operation` failed with `exc`, which a client is answered. Says so if an operator must know."""
        number = exc.errno
        if number is None or (number not in _WARNED and number not in _FAILING):
            return
        now = self._now()
        words = _WARNED.get(number, "the file system of the volume fails")
        if isinstance(exc, LimitError):
            words = exc.reason
        kind = words if number in _WARNED else str(number)
        last, times = self._told.get(kind, (-PERIOD_S, 0))
        if now - last < PERIOD_S:
            self._told[kind] = last, times + 1
            return
        self._told[kind] = now, 0
        say = log.get().warning if number in _WARNED else log.get().error
        say(words, operation=operation, error=os.strerror(number), times=times + 1)

    def lost(self, operation: str, exc: Exception) -> None:
        """`operation` failed with `exc`, which no client may hear of: this process ends. Never raises."""
        with contextlib.suppress(Exception):
            unforeseen = None if isinstance(exc, OSError) else exc
            log.get().error(
                "a listing cannot go on: this worker ends, and with it the login's sessions",
                operation=operation, error=str(exc), exc_info=unforeseen,
            )  # fmt: skip
