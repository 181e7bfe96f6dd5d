"""`hatchway forget`: an instance that is not to come back."""

from __future__ import annotations

import click
from rich.text import Text

from hatchway.cli import complete
from hatchway.cli.app import App, json_option
from hatchway.cli.output import Terminal
from hatchway.cli.text import safe
from hatchway.wire.admin import Forget, Forgotten


@click.command()
@click.argument("instance", shell_complete=complete.instances)
@json_option
@click.pass_obj
def forget(app: App, instance: str) -> None:
    """Remove access, key and password for good.

    Sessions end at once. Files stay. If access is enabled again, the instance gets another login with a new key and
    password.
    """
    answer = app.ask(Forget(instance=instance), Forgotten)
    app.emit(answer, lambda out: _print(out, answer))


def _print(out: Terminal, answer: Forgotten) -> None:
    out.out(Text.assemble(safe(str(answer.key), "bold"), "  Forgotten: login ", safe(answer.login), ", key, password."))
    for path in answer.paths:
        out.out(Text.assemble("  ", safe(path), "  is no longer shared by this login"))
    if answer.again:
        out.sentence("A rule or label gives access again, by another login: see 'hatchway ls'", "yellow", label="  ")
