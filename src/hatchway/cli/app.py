"""What every command needs: the configuration, the admin socket, and whether to speak JSON."""

from __future__ import annotations

import contextlib
import os
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import click

from hatchway import config as configuration
from hatchway.cli import output
from hatchway.config import Config
from hatchway.errors import ConfigError, HatchwayError, NotRunningError, RefusedError

ANSWER_TIMEOUT_S = 90.0
"""How long an answer is waited for: the daemon gives hostd a minute, and is to say what became of that."""

SILENT_S = 3.0
"""How long nothing is said while an answer is waited for."""

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

    def ask(self, request: object, answer: type[T], waiting: Callable[[], str | None] = lambda: None) -> T:
        """Make one request of the admin socket. Raises the HatchwayError it answers with, or NotRunningError.

        When that takes long it is said on standard error, once: what `waiting` tells is known by then, in a thread of
        its own, or that there is no answer yet.
        """
        # Here, not above: `--help` and mistyped commands can do without.
        from hatchway.wire.frames import call_blocking

        path = self._admin_socket()
        try:
            with _told_of_waiting(waiting):
                return call_blocking(path, request, answer, ANSWER_TIMEOUT_S)
        except NotRunningError:
            if _denied(path):
                raise RefusedError(f"{path} is root's alone: run this command with sudo") from None
            raise

    def _admin_socket(self) -> str:
        """Where the daemon listens. It runs on with the configuration it was started with, and access must be taken
        away also when that has been spoilt since: then it is looked for at its usual place.
        """
        try:
            return self.config.admin_socket
        except ConfigError as exc:
            usual = Config().admin_socket
            if self.config_path is not None or not os.path.exists(usual):
                raise
            output.Terminal(stderr=True).sentence(
                f"the configuration is wrong, the daemon is asked all the same: {exc}", "yellow"
            )
            return usual

    def emit(self, answer: object, human: Callable[[output.Terminal], None]) -> None:
        """Print `answer` as JSON, or have `human` print it."""
        if self.json:
            output.document(answer)
        else:
            human(self.out)


@contextlib.contextmanager
def _told_of_waiting(waiting: Callable[[], str | None]) -> Iterator[None]:
    """Say after SILENT_S what `waiting` gives, unless what is done within has ended by then."""
    over = threading.Event()

    def tell() -> None:
        if over.wait(SILENT_S):
            return
        known = None
        with contextlib.suppress(HatchwayError):
            known = waiting()
        if not over.is_set():
            output.Terminal(stderr=True).sentence(known or "no answer yet, waiting for it", "yellow")

    thread = threading.Thread(target=tell, daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()


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
