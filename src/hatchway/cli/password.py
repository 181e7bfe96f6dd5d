"""`hatchway password`: see or renew the generated password of an instance."""

from __future__ import annotations

import click
from rich.text import Text

from hatchway.cli.app import App, json_option
from hatchway.cli.output import Terminal
from hatchway.cli.text import safe
from hatchway.wire.entry import (
    Password,
    PasswordKind,
    ResetPassword,
    ShowPassword,
)


@click.group()
def password() -> None:
    """The generated password of an instance."""


@password.command("show")
@click.argument("instance")
@json_option
@click.pass_obj
def show_password(app: App, instance: str) -> None:
    """Print the password of INSTANCE, if it is kept in a form that can be shown."""
    found = app.ask(ShowPassword(instance=instance), Password)
    app.emit(found, lambda out: out.out(safe(found.password)))


@password.command()
@click.argument("instance")
@json_option
@click.pass_obj
def reset(app: App, instance: str) -> None:
    """Make a new password for INSTANCE and print it; the old one is refused from now on."""
    found = app.ask(ResetPassword(instance=instance), Password)
    app.emit(found, lambda out: _print_new(out, found))


def _print_new(out: Terminal, found: Password) -> None:
    out.out(safe(found.password))
    if found.kind is PasswordKind.HASHED:
        Terminal(stderr=True).out(Text("It is kept as a hash and cannot be shown again.", style="dim"))
