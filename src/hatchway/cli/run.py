"""`hatchway run`: all processes in the foreground."""

from __future__ import annotations

import click

from hatchway.cli.app import App, json_option
from hatchway.cli.output import document


@click.command()
@json_option
@click.pass_obj
def run(app: App) -> None:
    """Run everything in the foreground.

    That is the daemons, the workers and sshd. Needs root. Logs to standard error; ends with Ctrl-C or SIGTERM.
    """
    # Only now: it brings all daemons with it, which no other command needs.
    from hatchway import supervisor

    # The processes have / for their directory.
    supervisor.run(app.config, None if app.config_path is None else app.config_path.absolute())
    if app.json:
        document({"stopped": True})
