"""A logger for what others can have us say as often as they like.

The journal takes so many lines of a unit in so many seconds and drops all others (RateLimitBurst=, journald.conf(5)):
also those by which fail2ban knows who guesses.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

import trio

LINES = 20
EVERY_S = 10.0
"""So many lines of each event are written in so many seconds; of those beyond how many there were, when these are
over."""


class Sparing:
    """Says what `logger` is to say, of each event LINES in EVERY_S seconds. For an event loop of trio's."""

    def __init__(self, logger: Any) -> None:
        self._logger = logger
        self._counts: Counter[str] = Counter()
        self._counting = False

    def debug(self, event: str, **fields: Any) -> None:
        """Always: whoever has these lines written wants them."""
        self._logger.debug(event, **fields)

    def info(self, event: str, **fields: Any) -> None:
        """If there were not too many."""
        self._say("info", event, fields)

    def warning(self, event: str, **fields: Any) -> None:
        """If there were not too many."""
        self._say("warning", event, fields)

    def error(self, event: str, **fields: Any) -> None:
        """If there were not too many."""
        self._say("error", event, fields)

    def exception(self, event: str, **fields: Any) -> None:
        """If there were not too many, with the traceback of what is being handled."""
        self._say("exception", event, fields)

    def _say(self, level: str, event: str, fields: dict[str, Any]) -> None:
        if not self._counting:
            self._counting = True
            trio.lowlevel.spawn_system_task(self._tell_later)
        self._counts[event] += 1
        if self._counts[event] <= LINES:
            getattr(self._logger, level)(event, **fields)

    async def _tell_later(self) -> None:
        try:
            await trio.sleep(EVERY_S)
        finally:
            counts, self._counts, self._counting = self._counts, Counter(), False
            for event, count in counts.items():
                if count > LINES:
                    self._logger.warning(f"{event}, again and again", more=count - LINES, seconds=EVERY_S)
