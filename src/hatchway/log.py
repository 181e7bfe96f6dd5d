"""Logging of every Hatchway process: structlog, one logfmt line per event on standard error.

The supervisor (or systemd's journal) collects it. Text that comes from a client or a container is quoted and
escaped: it can neither start a line of its own nor do anything to the terminal that shows the log. Secrets are kept
out by their types: see `credentials.secret`.
"""

from __future__ import annotations

import io
import logging
import sys
from collections.abc import MutableMapping
from typing import Any, TextIO, cast

import structlog

from hatchway.printable import escaped

Logger = structlog.stdlib.BoundLogger


def configure(process: str, level: str) -> None:
    """Send this process's log to standard error. `process` names it in each line; `level` as in the config."""
    number = getattr(logging, level.upper())
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            _printable,
            structlog.processors.LogfmtRenderer(key_order=["timestamp", "level", "process", "event"]),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(number),
        logger_factory=structlog.PrintLoggerFactory(cast(TextIO, _Steadfast())),
        cache_logger_on_first_use=False,
    )
    structlog.contextvars.bind_contextvars(process=process)


class _Steadfast(io.TextIOBase):
    """Standard error, for as long as somebody reads it. When nobody does any more, stopping must go on all the same."""

    def write(self, text: str, /) -> int:
        try:
            return sys.stderr.write(text)
        except (OSError, ValueError):
            return len(text)

    def flush(self) -> None:
        try:
            sys.stderr.flush()
        except (OSError, ValueError):
            pass


def _printable(_logger: Any, _method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """Escape what would do something to a terminal, or look like another line or another order of the words."""
    for key, value in event.items():
        if isinstance(value, str):
            event[key] = escaped(value)
        elif not isinstance(value, bool | int | float | None):
            event[key] = escaped(str(value))
    return event


def get(**fields: Any) -> Any:
    """A logger with `fields` bound to it."""
    return structlog.get_logger(**fields)
