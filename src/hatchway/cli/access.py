"""`hatchway access`: from where, until when and how often at once a login may be used."""

from __future__ import annotations

import re
import time

import click
from msgspec import UNSET, UnsetType

from hatchway.cli import complete, moments
from hatchway.cli.app import App, json_option
from hatchway.cli.conditions import login_line, print_conditions
from hatchway.cli.output import Terminal
from hatchway.cli.patterns import listed
from hatchway.errors import UsageError
from hatchway.model import SESSIONS_MAX
from hatchway.wire.entry import ConditionsStatus, SetConditions, ShowConditions

DEFAULT = "default"


@click.group()
def access() -> None:
    """The conditions under which a login may be used."""


@access.command("show")
@click.argument("instance", shell_complete=complete.instances)
@json_option
@click.pass_obj
def show_access(app: App, instance: str) -> None:
    """Show from where, until when and how often at once INSTANCE's login may be used."""
    found = app.ask(ShowConditions(instance=instance), ConditionsStatus)
    app.emit(found, lambda out: _print(out, found))


@access.command("set")
@click.argument("instance", shell_complete=complete.instances)
@click.option(
    "--from",
    "networks",
    metavar="CIDR",
    multiple=True,
    help="Only from there, whatever was allowed before: a network or an address; may be given more than once.",
)
@click.option("--from-anywhere", is_flag=True, help="From any address.")
@click.option(
    "--expires",
    metavar="WHEN",
    help="Until then: a date, at the end of which it is, '2026-01-31 14:05', 12h or 7d from now, or 'never'.",
)
@click.option("--sessions", metavar="N", help="How many sessions at once, or 'default': as is configured.")
@json_option
@click.pass_obj
def set_access(
    app: App, instance: str, networks: tuple[str, ...], from_anywhere: bool, expires: str | None, sessions: str | None
) -> None:
    """Change from where, until when and how often at once INSTANCE's login may be used.

    What no option says stays as it is. Sessions that may not be there any more end at once.
    """
    if networks and from_anywhere:
        raise UsageError("either --from or --from-anywhere, not both")
    if not (networks or from_anywhere or expires is not None or sessions is not None):
        raise UsageError(
            "nothing to change: say --from, --from-anywhere, --expires or --sessions; "
            "'hatchway access show' shows what is"
        )
    allowed: tuple[str, ...] | UnsetType = UNSET
    if networks or from_anywhere:
        allowed = listed("--from", networks, "--from-anywhere is what lets in from everywhere")
    request = SetConditions(
        instance=instance, allowed_from=allowed, expires_at=_expires_at(expires), sessions_max=_sessions_max(sessions)
    )
    found = app.ask(request, ConditionsStatus)
    app.emit(found, lambda out: _print(out, found, "Conditions from now on:"))


def _expires_at(text: str | None) -> float | UnsetType | None:
    return UNSET if text is None else moments.expiry(text, time.time())


def _sessions_max(text: str | None) -> int | UnsetType | None:
    if text is None:
        return UNSET
    if text == DEFAULT:
        return None
    if re.fullmatch(r"[0-9]{1,9}", text) is None or not 1 <= int(text) <= SESSIONS_MAX:
        raise UsageError(f"--sessions {text!r}: expected a number from 1 to {SESSIONS_MAX}, or 'default'")
    return int(text)


def _print(out: Terminal, found: ConditionsStatus, done: str = "") -> None:
    out.out(login_line(found, done))
    print_conditions(out, found)
