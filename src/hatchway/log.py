"""Logging of every Hatchway process: structlog, one logfmt line per event on standard error.

The supervisor (or systemd's journal) collects it. Values are quoted, so text from a client or a container cannot
start a line of its own. Secrets are kept out by their types: see `credentials.secret`.
"""

from __future__ import annotations

import logging
import sys
from typing import Any

import structlog

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
            structlog.processors.LogfmtRenderer(key_order=["timestamp", "level", "process", "event"]),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(number),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
        cache_logger_on_first_use=False,
    )
    structlog.contextvars.bind_contextvars(process=process)


def get(**fields: Any) -> Any:
    """A logger with `fields` bound to it."""
    return structlog.get_logger(**fields)
