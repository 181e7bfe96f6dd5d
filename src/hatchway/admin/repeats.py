"""What somebody does again and again, counted for the record: of a minute one row for the first time, and one for all
others. Pure.
"""

from __future__ import annotations

from dataclasses import replace

from hatchway.registry.records import NewEvent

ROWS_MAX = 200
"""Events of one minute that are told apart. Of more, each has a row of its own."""


class Repeats:
    """Those of one minute: `minute` is Unix time in minutes."""

    def __init__(self, minute: int) -> None:
        self.minute = minute
        # By what an event says but for its time: None after the first.
        self._counts: dict[NewEvent, NewEvent | None] = {}

    def add(self, event: NewEvent) -> bool:
        """Whether `event` is one more of the same, and counted; else it is to be recorded by itself."""
        key = replace(event, at=0.0)
        if key not in self._counts:
            if len(self._counts) < ROWS_MAX:
                self._counts[key] = None
            return False
        before = self._counts[key]
        self._counts[key] = event if before is None else replace(before, times=before.times + event.times)
        return True

    def events(self) -> list[NewEvent]:
        """The rows: each since the second time, and how often."""
        return [event for event in self._counts.values() if event is not None]
