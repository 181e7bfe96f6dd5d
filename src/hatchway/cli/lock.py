"""`hatchway lock` and `hatchway unlock`: nobody gets in, whatever they have."""

from __future__ import annotations

import click
from rich.text import Text

from hatchway.cli import complete
from hatchway.cli.app import App, json_option
from hatchway.cli.conditions import login_line
from hatchway.cli.hindrances import print_hindrances
from hatchway.cli.output import Terminal
from hatchway.cli.text import safe
from hatchway.errors import UsageError
from hatchway.wire.entry import WHY_MAX, ConditionsStatus, Lock, ShowConditions, Unlock


@click.command()
@click.argument("instance", shell_complete=complete.instances)
@click.option("--reason", metavar="TEXT", default="", help="Why, for whoever looks.")
@json_option
@click.pass_obj
def lock(app: App, instance: str, reason: str) -> None:
    """Let nobody into INSTANCE, whatever they have.

    Its sessions end at once. Keys, password and conditions stay as they are, for when it is unlocked.
    """
    if (length := len(reason.strip())) > WHY_MAX:
        raise UsageError(f"--reason has {length} characters: at most {WHY_MAX} are kept")

    def waiting() -> str | None:
        status = app.ask(ShowConditions(instance=instance), ConditionsStatus)
        if status.locked_at is None:
            return None
        return f"{status.login} is locked: nobody is let in any more. Waiting for its sessions to end"

    found = app.ask(Lock(instance=instance, why=reason), ConditionsStatus, waiting)
    app.emit(found, lambda out: _print_locked(out, found, reason))


@click.command()
@click.argument("instance", shell_complete=complete.instances)
@json_option
@click.pass_obj
def unlock(app: App, instance: str) -> None:
    """Let into INSTANCE again who may."""
    found = app.ask(Unlock(instance=instance), ConditionsStatus)
    app.emit(found, lambda out: _print_unlocked(out, found))


def _print_locked(out: Terminal, found: ConditionsStatus, reason: str) -> None:
    out.out(login_line(found, "Locked, and its sessions are ended."))
    if reason.strip():
        out.sentence(found.locked_why, label=Text("  Reason: "))
    out.out(Text.assemble("  ", safe(f"hatchway unlock {found.login}"), " lets in again who may."))


def _print_unlocked(out: Terminal, found: ConditionsStatus) -> None:
    out.out(login_line(found, "Unlocked."))
    print_hindrances(out, found.hindrances)
