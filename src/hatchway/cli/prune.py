"""`hatchway prune`: forget the instances that have been gone for long."""

from __future__ import annotations

import click
from rich.text import Text

from hatchway.cli.app import App, json_option
from hatchway.cli.output import Terminal, columns
from hatchway.cli.text import ago, count, safe
from hatchway.wire.admin import Prune, Pruned

DAY_S = 86400.0


@click.command()
@click.option(
    "--days",
    type=click.FloatRange(min=0, max=36500),
    default=30,
    metavar="DAYS",
    help="How long an instance must have been gone.  [default: 30]",
)
@click.option("--dry-run", is_flag=True, help="Only say which they are.")
@json_option
@click.pass_obj
def prune(app: App, days: float, dry_run: bool) -> None:
    """Forget every instance that has been gone for DAYS days, as 'hatchway forget' does.

    An instance of a source that cannot be read now is not gone.
    """
    answer = app.ask(Prune(gone_s=days * DAY_S, dry_run=dry_run), Pruned)
    app.emit(answer, lambda out: _print(out, answer, days))


def _print(out: Terminal, answer: Pruned, days: float) -> None:
    if not answer.instances:
        out.out(Text(f"No instance has been gone for {days:g} days."))
        return
    would = "would be forgotten" if answer.dry_run else "forgotten"
    out.out(Text(f"{count(len(answer.instances), 'instance')} {would}:"))
    rows = [[safe(str(one.key)), safe(one.login), Text(f"last there {ago(one.gone_s)}")] for one in answer.instances]
    for line in columns(rows):
        out.out(Text.assemble("  ", line))
