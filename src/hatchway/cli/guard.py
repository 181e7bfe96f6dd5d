"""The one place where a command's end becomes an exit status and, if need be, an error message.

Nobody gets a traceback, unless HATCHWAY_TRACEBACK is set. With --json the error is a document on standard output, in
place of the answer; its text is on standard error either way.
"""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Callable, Sequence

import click

from hatchway.cli import output
from hatchway.cli.app import App, flush
from hatchway.errors import HatchwayError, InternalError, UsageError
from hatchway.printable import escaped

EXIT_INTERRUPTED = 130
"""Ended by Ctrl-C: 128 + SIGINT, as shells say it."""
EXIT_BROKEN_PIPE = 141
"""Whoever read our output left: 128 + SIGPIPE."""


def guard(app: App, arguments: Sequence[str], command: Callable[[], object]) -> int:
    """Run `command` and return the exit status. An int it returns is one already."""
    try:
        try:
            result = command()
        except Exception as exc:
            result = _failed(app, arguments, exc)
        flush()
    except BrokenPipeError:
        _silence()
        return EXIT_BROKEN_PIPE
    except (KeyboardInterrupt, click.Abort):
        return EXIT_INTERRUPTED
    return result if isinstance(result, int) else 0


def _failed(app: App, arguments: Sequence[str], exc: Exception) -> int:
    if isinstance(exc, BrokenPipeError | click.Abort):
        raise exc
    if isinstance(exc, click.exceptions.Exit):
        return exc.exit_code
    if os.environ.get("HATCHWAY_TRACEBACK"):
        traceback.print_exception(exc)
    if isinstance(exc, click.exceptions.NoArgsIsHelpError) and not _wants_json(app, arguments):
        sys.stderr.write(f"{exc.ctx.get_help()}\n")
        return UsageError.exit_code
    error = _as_ours(exc)
    if _wants_json(app, arguments):
        output.document({"error": {"code": error.code, "text": str(error)}})
    sys.stderr.write(f"hatchway: {escaped(str(error))}\n")
    return error.exit_code


def _as_ours(exc: Exception) -> HatchwayError:
    if isinstance(exc, HatchwayError):
        return exc
    if isinstance(exc, click.ClickException):
        return UsageError(_usage(exc))
    return InternalError(f"internal error, a fault of Hatchway: {type(exc).__name__}: {exc}")


def _usage(exc: click.ClickException) -> str:
    context = exc.ctx if isinstance(exc, click.UsageError) else None
    if isinstance(exc, click.exceptions.NoArgsIsHelpError):
        text = "a command is missing"
    else:
        text = exc.format_message().rstrip(".")
    if context is None:
        return text
    # Click's own ends in a question here and there, also in brackets.
    stop = "" if text.rstrip(")'\"").endswith((".", "?", "!")) else "."
    return f"{text}{stop} See '{context.command_path} --help'"


def _wants_json(app: App, arguments: Sequence[str]) -> bool:
    """Whether --json was given, even when the command line could not be read as far as that."""
    before = arguments[: arguments.index("--")] if "--" in arguments else arguments
    return app.json or "--json" in before


def _silence() -> None:
    """Send what is still buffered nowhere: the interpreter writes it out at exit and would complain."""
    try:
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, sys.stdout.fileno())
        os.close(null)
    except (OSError, ValueError):
        pass  # standard output is no file, as in tests
