"""What every command needs: the configuration, the admin socket, and whether to speak JSON."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from hatchway import config as configuration
from hatchway.cli import output
from hatchway.config import Config
from hatchway.errors import NotRunningError, RefusedError

T = TypeVar("T")
F = TypeVar("F", bound=Callable[..., Any])


class App:
    """One run of the command line. `config_path` None means the default place."""

    def __init__(self) -> None:
        self.json = False
        self.config_path: Path | None = None
        self._config: Config | None = None
        self._out: output.Terminal | None = None

    @property
    def config(self) -> Config:
        """The configuration, read at first use. Raises ConfigError."""
        if self._config is None:
            self._config = configuration.load(self.config_path)
        return self._config

    @property
    def out(self) -> output.Terminal:
        """Standard output, for people."""
        if self._out is None:
            self._out = output.Terminal()
        return self._out

    def ask(self, request: object, answer: type[T]) -> T:
        """Make one request of the admin socket. Raises the HatchwayError it answers with, or NotRunningError."""
        # Here, not above: the frames load an event loop, which `--help` and mistyped commands can do without.
        from hatchway.wire.frames import call_blocking

        path = self.config.admin_socket
        try:
            return call_blocking(path, request, answer)
        except NotRunningError:
            if _denied(path):
                raise RefusedError(f"{path} is root's alone: run this command with sudo") from None
            raise

    def emit(self, answer: object, human: Callable[[output.Terminal], None]) -> None:
        """Print `answer` as JSON, or have `human` print it."""
        if self.json:
            output.document(answer)
        else:
            human(self.out)


def _denied(path: str) -> bool:
    """Whether this process may not use the socket at `path`, or may not even see it."""
    try:
        os.stat(path)
    except PermissionError:
        return True
    except OSError:
        return False
    return not os.access(path, os.W_OK)


def _set_json(context: click.Context, _parameter: click.Parameter, value: bool) -> None:
    if value:
        context.ensure_object(App).json = True


def json_option(function: F) -> F:
    """Give a command the option --json, so that it works behind the command as well as before it."""
    option = click.option(
        "--json",
        is_flag=True,
        expose_value=False,
        is_eager=True,
        callback=_set_json,
        help="Print one JSON document instead of text.",
    )
    return option(function)


def flush() -> None:
    """Write out what is buffered, so that a reader that left is noticed now and not at exit."""
    sys.stdout.flush()
