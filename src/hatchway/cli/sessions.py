"""`hatchway sessions` and `hatchway kick`: who is in, and out."""

from __future__ import annotations

import time

import click
from rich.text import Text

from hatchway.cli import complete
from hatchway.cli.app import App, json_option
from hatchway.cli.output import Terminal, columns
from hatchway.cli.sizes import amount
from hatchway.cli.text import count, safe, span
from hatchway.errors import UsageError
from hatchway.localtime import local
from hatchway.wire.entry import Kick, Kicked, ListSessions, Sessions, SessionStatus

ID_CHARS_MIN = 8
"""Characters of an id that are shown, at least. Ids are random: that many are also unique among those not shown."""

FILES_SHOWN = 5

UNKNOWN = "?"

_HEADER = ("ID", "LOGIN", "ADDRESS", "SINCE", "IDLE", "DOWN", "UP")


@click.command()
@click.argument("instance", required=False, shell_complete=complete.instances)
@json_option
@click.pass_obj
def sessions(app: App, instance: str | None) -> None:
    """List the sessions that are open, and what they do.

    With INSTANCE only those of that one. DOWN and UP is what the client has got and sent; '+': more may have gone over.
    """
    found = app.ask(ListSessions(instance=instance), Sessions)
    app.emit(found, lambda out: _print(out, found, instance))


@click.command()
@click.argument("instance", required=False, shell_complete=complete.instances)
@click.option(
    "--session",
    "ids",
    metavar="ID",
    multiple=True,
    help="Only this one: its id as 'hatchway sessions' shows it; may be given more than once.",
)
@json_option
@click.pass_obj
def kick(app: App, instance: str | None, ids: tuple[str, ...]) -> None:
    """End sessions: all of INSTANCE, or those named.

    Who was in may come in again; 'hatchway lock' prevents that.
    """
    if instance is None and not ids:
        raise UsageError(
            "which sessions? Name an instance, or a session with --session; 'hatchway sessions' lists them"
        )
    found = app.ask(Kick(instance=instance, sessions=ids), Kicked)
    app.emit(found, lambda out: _print_kicked(out, found))


def _print(out: Terminal, found: Sessions, instance: str | None) -> None:
    if not found.sessions:
        out.out(Text("Nobody is in.") if instance is None else Text.assemble("Nobody is in ", safe(instance), "."))
        return
    shown = id_chars([one.id for one in found.sessions])
    header = [Text(title, "dim") for title in _HEADER]
    now = time.time()
    first, *lines = columns([header, *(_cells(one, shown, now) for one in found.sessions)])
    out.out(first)
    for one, line in zip(found.sessions, lines, strict=True):
        out.out(line)
        for remark in _remarks(one):
            out.out(Text.assemble("    ", remark))


def _print_kicked(out: Terminal, found: Kicked) -> None:
    out.out(Text(f"{count(len(found.sessions), 'session')} ended:"))
    shown = id_chars([one.id for one in found.sessions])
    rows = [[safe(one.id[:shown]), safe(one.login), safe(one.address), _credential(one)] for one in found.sessions]
    for line in columns(rows):
        out.out(Text.assemble("  ", line))


def id_chars(ids: list[str]) -> int:
    """How many characters of the beginning tell these ids apart: ID_CHARS_MIN or more."""
    shown = ID_CHARS_MIN
    while len({one[:shown] for one in ids}) < len(set(ids)):
        shown += 1
    return shown


def _cells(session: SessionStatus, shown: int, now: float) -> list[Text]:
    return [
        safe(session.id[:shown], "bold"),
        safe(session.login),
        safe(session.address),
        Text(f"{span(now - session.opened_at)}"),
        Text(UNKNOWN if session.idle_s is None else span(session.idle_s)),
        Text(_bytes(session.read, session.partial)),
        Text(_bytes(session.written, session.partial)),
    ]


def _bytes(number: int | None, partial: bool) -> str:
    return UNKNOWN if number is None else amount(number) + "+" * partial


def _remarks(session: SessionStatus) -> list[Text]:
    remarks = [Text.assemble((f"since {local(session.opened_at)} by ", "dim"), _credential(session))]
    for file in session.files[:FILES_SHOWN]:
        remarks.append(Text.assemble("writing " if file.writing else "reading ", safe(file.path)))
    if len(session.files) > FILES_SHOWN:
        remarks.append(Text(f"and {count(len(session.files) - FILES_SHOWN, 'more file')}"))
    if session.partial:
        remarks.append(Text("a volume does not answer: more may be open, and have gone over", "yellow"))
    return remarks


def _credential(session: SessionStatus) -> Text:
    """By what it came in: the key, with its comment, or sshd's word for another method."""
    if not session.credential:
        return safe(session.method)
    key = Text.assemble("key ", safe(session.credential))
    return Text.assemble(key, "  ", safe(session.comment)) if session.comment else key
