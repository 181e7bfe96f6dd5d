"""Logging of every Hatchway process: structlog, one logfmt line per event on standard error.

The supervisor (or systemd's journal) collects it. Text that comes from a client or a container is quoted and
escaped: it can neither start a line of its own nor do anything to the terminal that shows the log. Secrets are kept
out by their types: see `credentials.secret`.
"""

from __future__ import annotations

import io
import logging
import os
import sys
import time
from collections.abc import MutableMapping
from typing import Any, NoReturn, TextIO, cast

import structlog

from hatchway.errors import ConfigError, HatchwayError
from hatchway.printable import escaped, harmless

Logger = structlog.stdlib.BoundLogger


def configure(process: str, level: str) -> None:
    """Send this process's log to standard error. `process` names it in each line; `level` as in the config.

    Where that is the journal, which knows the time, lines have none, and begin with their priority (sd-daemon(3)).
    """
    number = getattr(logging, level.upper())
    journal = _is_journal()
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            *([] if journal else [structlog.processors.TimeStamper(fmt="iso", utc=True)]),
            structlog.processors.format_exc_info,
            _printable,
            structlog.processors.LogfmtRenderer(
                key_order=["timestamp", "level", "process", "event"], drop_missing=True
            ),
            *([cast(structlog.types.Processor, _with_priority)] if journal else []),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(number),
        logger_factory=structlog.PrintLoggerFactory(cast(TextIO, _Steadfast())),
        cache_logger_on_first_use=False,
    )
    structlog.contextvars.bind_contextvars(process=process)


RETRY_S = 5.0
"""How long a unit's process waits before it ends for a reason that will be the same when it is started again."""


def fatal(program: str, error: HatchwayError, *, status: int | None = None) -> NoReturn:
    """Say why this process ends, and end it, with `status` if that is not to be the error's own.

    A unit starts it again at once, and for ever: what ends it may pass. A wrong configuration does not by itself, so
    that it is not tried again every second.
    """
    sys.stderr.write(f"{'<3>' if _is_journal() else ''}{program}: {escaped(str(error))}\n")
    sys.stderr.flush()
    if isinstance(error, ConfigError) and "INVOCATION_ID" in os.environ:  # systemd.exec(5)
        time.sleep(RETRY_S)
    sys.exit(error.exit_code if status is None else status)


_PRIORITIES = {"debug": 7, "info": 6, "warning": 4, "error": 3, "exception": 3, "critical": 2}


def _with_priority(_logger: Any, method: str, line: str) -> str:
    return f"<{_PRIORITIES[method]}>{line}"


def _is_journal() -> bool:
    """Whether standard error is a stream to systemd's journal (systemd.exec(5), JOURNAL_STREAM)."""
    try:
        found = os.fstat(2)
    except OSError:
        return False
    return os.environ.get("JOURNAL_STREAM") == f"{found.st_dev}:{found.st_ino}"


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
        elif isinstance(value, list | tuple | set | frozenset):
            event[key] = ",".join(map(_item, value)) or None
        elif not isinstance(value, bool | int | float | None):
            event[key] = escaped(str(value))
    return event


def _item(value: object) -> str:
    """One of several, which are separated by commas: its own are escaped."""
    text = str(value)
    if "," not in text:
        return escaped(text)
    return harmless(text.replace("\\", r"\\").replace(",", r"\x2c"))


def get(**fields: Any) -> Any:
    """A logger with `fields` bound to it."""
    return structlog.get_logger(**fields)
