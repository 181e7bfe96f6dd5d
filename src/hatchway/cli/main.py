"""`hatchway`: the group of all commands, its options, and the entry point."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

import click

from hatchway.cli import complete
from hatchway.cli.access import access
from hatchway.cli.app import App, json_option
from hatchway.cli.apply import apply
from hatchway.cli.config import config
from hatchway.cli.doctor.command import doctor
from hatchway.cli.drop_in import drop_in
from hatchway.cli.enable import confirm, disable, enable
from hatchway.cli.export import export
from hatchway.cli.forget import forget
from hatchway.cli.guard import guard
from hatchway.cli.key import key
from hatchway.cli.link import link
from hatchway.cli.listing import ls
from hatchway.cli.lock import lock, unlock
from hatchway.cli.log import log
from hatchway.cli.password import password
from hatchway.cli.person import person
from hatchway.cli.prune import prune
from hatchway.cli.rotate import rotate_key
from hatchway.cli.run import run
from hatchway.cli.sessions import kick, sessions
from hatchway.cli.show import show
from hatchway.cli.status import status
from hatchway.kernel import privileges


class Commands(click.Group):
    """A group whose `main` ends through `guard`, in tests as well."""

    def main(self, args: Sequence[str] | None = None, *_unused: Any, **_options: Any) -> NoReturn:
        """Run the command line and exit. `args` None means this process's; click's other arguments are of no use."""
        arguments = list(sys.argv[1:] if args is None else args)
        app = App()
        if args is None and (status := complete.answer(self, app)) is not None:
            sys.exit(status)

        def command() -> object:
            with self.make_context("hatchway", list(arguments), obj=app) as context:
                return self.invoke(context)

        sys.exit(guard(app, arguments, command))


def _version() -> str:
    from importlib import metadata

    try:
        return metadata.version("hatchway")
    except metadata.PackageNotFoundError:
        return "unknown (not installed)"


def _print_version(context: click.Context, _parameter: click.Parameter, value: bool) -> None:
    if value and not context.resilient_parsing:
        click.echo(f"hatchway {_version()}")
        context.exit()


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.option(
    "--config",
    "config_path",
    type=click.Path(path_type=Path),
    metavar="PATH",
    help="The configuration file.  [default: /etc/hatchway/hatchway.toml]",
)
@click.option(
    "--version", is_flag=True, expose_value=False, is_eager=True, callback=_print_version, help="Print the version."
)
@json_option
@click.pass_obj
def cli(app: App, config_path: Path | None) -> None:
    """SFTP access to the volumes of containers.

    \b
    INSTANCE is a container: its key as 'hatchway ls' shows it
    (shop/web/1), its login, or its name. Where keys, passwords,
    conditions and sessions are concerned, a person's login will do.
    VOLUME is a path inside the container, or a volume's name.
    """
    app.config_path = config_path


for _command in (
    run,
    ls,
    enable,
    disable,
    confirm,
    apply,
    forget,
    prune,
    link,
    person,
    show,
    export,
    key,
    password,
    access,
    lock,
    unlock,
    sessions,
    kick,
    log,
    status,
    rotate_key,
    config,
    drop_in,
    doctor,
):
    cli.add_command(_command)


def main() -> NoReturn:
    """The entry point."""
    # Text that the terminal's encoding lacks must not end a command halfway.
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
    if os.geteuid() == 0:
        # Passwords and private keys pass through here, and a core dump would keep them.
        privileges.not_dumpable()
    cli.main()


if __name__ == "__main__":
    main()
