"""`hatchway log`: the record of what happened."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterable

import click
import msgspec
from rich.text import Text

from hatchway.cli import complete, moments
from hatchway.cli.app import App, flush, json_option
from hatchway.cli.output import Terminal, columns
from hatchway.cli.sizes import amount
from hatchway.cli.text import safe
from hatchway.localtime import local
from hatchway.model import EventKind
from hatchway.wire.admin import LOG_MAX, Log, LogEntry, ReadLog

FOLLOW_EVERY_S = 1.0
"""How often it is asked what is new."""

ONE_BY_ONE = 10
"""Up to how many refusals, of one address at one login in a minute, are shown as they come."""

_STYLE = {EventKind.REFUSED: "yellow", EventKind.LOCKED: "yellow", EventKind.LOST: "red"}


@click.command()
@click.argument("instance", default="", shell_complete=complete.instances)
@click.option("--since", metavar="WHEN", help="Only what happened since then: 2h, 30min, 7d, or a local date and time.")
@click.option(
    "--kind",
    "kinds",
    metavar="KIND",
    type=click.Choice([kind.value for kind in EventKind]),
    multiple=True,
    help=f"Only events of this kind; may be given more than once: {', '.join(kind.value for kind in EventKind)}.",
)
@click.option(
    "-n", "--lines", metavar="N", type=click.IntRange(1, LOG_MAX), default=100, help="How many.  [default: 100]"
)
@click.option("-f", "--follow", is_flag=True, help="Go on with what happens from now on.")
@json_option
@click.pass_obj
def log(app: App, instance: str, since: str | None, kinds: tuple[str, ...], lines: int, follow: bool) -> None:
    """Print what happened: logins, failures, ends of sessions and every change; the newest last.

    With INSTANCE only what concerns that one.
    """
    request = ReadLog(
        limit=lines,
        instance=instance,
        kinds=tuple(EventKind(kind) for kind in kinds),
        since=None if since is None else moments.since(since, time.time()),
    )
    answer = app.ask(request, Log)
    if follow:
        _follow(app, request, answer)
    else:
        app.emit(answer, lambda out: _print(out, answer))


def _print(out: Terminal, answer: Log) -> None:
    if not answer.entries:
        out.out(Text("Nothing is recorded of that."))
    for line in _lines(answer.entries):
        out.out(line)


class Counting:
    """What has been shown of refusals that are still counted: each comes in every answer, until it is written."""

    def __init__(self) -> None:
        self._shown: dict[tuple[float, str, str], int] = {}

    def news(self, entries: Iterable[LogEntry]) -> list[LogEntry]:
        """Those of `entries` that are to be shown: written ones, unless the same was shown, and of others what is new
        or has been counted on: each time up to ONE_BY_ONE, then whenever there are twice as many."""
        found = []
        for entry in entries:
            if entry.kind is not EventKind.REFUSED:
                found += [entry] if entry.id is not None else []
                continue
            which = (entry.at, entry.login, entry.address)
            shown = self._shown.get(which, 0)
            if entry.id is not None:
                self._shown.pop(which, None)
                found += [entry] if entry.times != shown else []
            elif shown < entry.times <= ONE_BY_ONE or entry.times >= 2 * max(shown, 1):
                self._shown[which] = entry.times
                found.append(entry)
        return found


def _follow(app: App, request: ReadLog, answer: Log) -> None:
    counting = Counting()
    while True:
        entries = counting.news(answer.entries)
        written = sum(entry.id is not None for entry in answer.entries)
        if app.json:
            for entry in entries:
                sys.stdout.write(json.dumps(msgspec.to_builtins(entry), ensure_ascii=True) + "\n")
        else:
            for line in _lines(entries):
                app.out.out(line)
        flush()
        if written < request.limit:
            time.sleep(FOLLOW_EVERY_S)
        request = msgspec.structs.replace(request, after=answer.last, limit=LOG_MAX)
        answer = app.ask(request, Log)


def _lines(entries: list[LogEntry] | tuple[LogEntry, ...]) -> list[Text]:
    return columns([_cells(entry) for entry in entries])


def _cells(entry: LogEntry) -> list[Text]:
    text = safe(entry.what, "" if entry.done else _STYLE.get(entry.kind, "red"))
    if entry.kind in (EventKind.CHANGE, EventKind.GUEST, EventKind.AUTO) and not entry.done:
        text = Text.assemble(("not done: ", "red"), text)
    if entry.read is not None and entry.written is not None:
        text.append(f": {amount(entry.read)} down, {amount(entry.written)} up")
    if entry.who:
        text.append_text(Text.assemble(("  by ", "dim"), safe(entry.who, "dim")))
    if entry.times > 1:
        text.append(f"  x {entry.times:,}")
    return [
        Text(local(entry.at), style="dim"),
        Text(entry.kind.value, style=_STYLE.get(entry.kind, "")),
        safe(entry.instance or entry.login or "-"),
        safe(entry.address or "-"),
        text,
    ]
