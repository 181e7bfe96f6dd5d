"""Figures that tests measure, printed at the end of the run, also when all is well. Few are asserted: hosts differ."""

from __future__ import annotations

_LINES: list[str] = []


def note(text: str) -> None:
    """Have `text`, one line or more, printed at the end of the run."""
    _LINES.extend(text.splitlines())


def noted() -> tuple[str, ...]:
    """The lines so far."""
    return tuple(_LINES)
