"""`hatchway status`: how the daemon is."""

from __future__ import annotations

import click
from rich.text import Text

from hatchway.cli.app import App, json_option
from hatchway.cli.output import Terminal, columns
from hatchway.cli.text import ago, count, safe
from hatchway.wire.admin import DaemonStatus, SourceStatus, Status


@click.command()
@json_option
@click.pass_obj
def status(app: App) -> None:
    """Say how the daemon is."""
    answer = app.ask(DaemonStatus(), Status)
    app.emit(answer, lambda out: _print(out, answer))


def _print(out: Terminal, answer: Status) -> None:
    out.field("Version", safe(answer.version))
    out.field("Logins", str(answer.logins))
    out.field("Sessions", str(answer.sessions))
    out.field("Mounts", str(answer.mounts))
    out.field("Access rules", str(len(answer.rules)))
    if suspended := len(answer.waiting) + len(answer.unshareable):
        out.field("Suspended", Text(f"{count(suspended, 'volume')}: see 'hatchway ls'", "yellow"))
    if answer.full:
        out.field("Full", Text(f"{count(len(answer.full), 'volume')}: see 'hatchway ls'", "yellow"))
    if answer.locked:
        out.field("Locked", Text(f"{count(len(answer.locked), 'login')}: see 'hatchway ls'", "yellow"))
    if answer.expired:
        out.field("Expired", Text(f"{count(len(answer.expired), 'login')}: see 'hatchway ls'", "yellow"))
    if answer.host_problem is None:
        out.field("Host half", "answers")
    else:
        out.field("Host half", safe(answer.host_problem, "yellow"))
    out.heading("Sources")
    for line in source_lines(answer.sources):
        out.out(Text.assemble("  ", line))


def source_lines(sources: tuple[SourceStatus, ...]) -> list[Text]:
    """One line for each source of the catalog: how many instances, how fresh, and its problem."""
    if not sources:
        return [Text("none has reported yet", style="yellow")]
    return columns([_source(source) for source in sources])


def _source(source: SourceStatus) -> list[Text]:
    seen = "never seen" if source.age_s is None else f"seen {ago(source.age_s)}"
    problem = safe(source.problem, "yellow") if source.problem is not None else Text()
    return [safe(source.source), Text(count(source.instances, "instance")), Text(seen, style="dim"), problem]
