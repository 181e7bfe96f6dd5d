"""What a shell offers to complete: instances and volumes, as the running daemon knows them.

Says nothing at all where it cannot: who may not ask the daemon (all but root), or gets no answer soon, completes
commands and options only.

What is offered ends up in root's command line, and what containers and volumes are called is whatever somebody's
compose file says. Shells take it as it is: so only names are offered that mean nothing to a shell.
"""

from __future__ import annotations

import os
import re
import threading
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

import click
from click.shell_completion import CompletionItem, shell_complete

from hatchway.cli.app import App
from hatchway.errors import HatchwayError

if TYPE_CHECKING:
    from hatchway.wire.admin import InstanceStatus, Listing, VolumeStatus

VARIABLE = "_HATCHWAY_COMPLETE"
"""The environment variable by which a shell asks, as click's scripts for shells have it."""

TIMEOUT_S = 1.0
"""How long the daemon is waited for. Somebody has pressed a key."""

# Neither what a shell expands or ends a word at (bash's COMP_WORDBREAKS), nor what begins an option, nor the comma that
# click's scripts take apart what they are told at.
_HARMLESS = re.compile(r"[A-Za-z0-9_./][A-Za-z0-9_./+%-]*", re.ASCII)


def answer(command: click.Command, app: App) -> int | None:
    """Answer a shell that asks what could be completed; None when none does. The result is an exit status."""
    asked = os.environ.get(VARIABLE)
    if asked is None:
        return None
    try:
        return shell_complete(command, {"obj": app}, "hatchway", VARIABLE, asked)
    except Exception:  # whatever it is, it would stand in the middle of somebody's command line
        return 1


def instances(context: click.Context, _parameter: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """The instances: their keys or, where none begins as `incomplete` does, their logins and names."""
    found = [one for one in _instances(context) if context.info_name == "enable" or one.login is not None]
    keys = _offered((str(one.key) for one in found), incomplete)
    return keys or _offered((name for one in found for name in (one.login, one.runtime_name) if name), incomplete)


def volumes(context: click.Context, _parameter: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """The volumes of the instance that is named already, but for those that are."""
    name, given = context.params.get("instance"), context.params.get("volumes") or ()
    called = [one for one in _instances(context) if name in (str(one.key), one.login, one.runtime_name)]
    if name is None or len(called) != 1:
        return []
    named = [one for one in called[0].volumes if one.path not in given and one.name not in given]
    paths = _offered((one.path for one in named if _wanted(context.info_name, one)), incomplete)
    return paths or _offered((one.name for one in named if _wanted(context.info_name, one)), incomplete)


def _wanted(command: str | None, volume: VolumeStatus) -> bool:
    if command == "enable":
        return volume.refusal is None
    return bool(volume.grants or volume.held_back or volume.access != "off")


def _offered(names: Iterable[str], incomplete: str) -> list[CompletionItem]:
    fitting = (name for name in names if name.startswith(incomplete) and _HARMLESS.fullmatch(name))
    return [CompletionItem(name) for name in sorted(set(fitting))]


def _instances(context: click.Context) -> Iterator[InstanceStatus]:
    app = context.find_object(App)
    listing = None if app is None else _ask(app, context.find_root())
    yield from () if listing is None else listing.instances


def _ask(app: App, root: click.Context) -> Listing | None:
    """What the daemon lists, None when that cannot be had in TIMEOUT_S."""
    from hatchway.wire.admin import Listing, ListInstances
    from hatchway.wire.frames import call_blocking

    # The group's function, which does this, is not called when something is completed.
    app.config_path = root.params.get("config_path")
    told: list[Listing] = []

    def ask() -> None:
        try:
            told.append(call_blocking(app.config.admin_socket, ListInstances(), Listing, TIMEOUT_S))
        except (HatchwayError, OSError):
            pass

    # In a thread: a daemon that answers bit by bit is waited for each bit, and the process must not be.
    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(TIMEOUT_S)
    return told[0] if told else None
