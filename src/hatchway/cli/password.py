"""`hatchway password`: the password of an instance or a person. It is never an argument: see `given`."""

from __future__ import annotations

import click
from rich.text import Text

from hatchway.cli import complete, given
from hatchway.cli.app import App, json_option
from hatchway.cli.output import Terminal
from hatchway.cli.text import safe
from hatchway.errors import ProtocolError, UsageError
from hatchway.wire.entry import (
    ConditionsStatus,
    ImportPassword,
    Password,
    PasswordKind,
    RemovePassword,
    ResetPassword,
    SetPassword,
    ShowConditions,
    ShowPassword,
)


class _Command(click.Command):
    """One that answers an argument too many without repeating it: it may well be a password."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        ctx.allow_extra_args = True
        rest = super().parse_args(ctx, args)
        if ctx.args:
            what, asks = ("hash", "import") if self.name == "import" else ("password", "set")
            raise UsageError(
                f"a {what} is no argument, since everybody on this host can see those and shells keep them: "
                f"'hatchway password {asks} INSTANCE' asks for it, and with --stdin reads it from standard input. "
                "If that was one, choose another password"
            )
        return rest


class _Group(click.Group):
    command_class = _Command


@click.group(cls=_Group)
def password() -> None:
    """The password of an instance or a person. INSTANCE may be the login of a person."""


_raw = click.option(
    "--raw", is_flag=True, help="Keep it sealed, so that it can be shown again; default: as configured."
)
_hashed = click.option("--hashed", is_flag=True, help="Keep a hash only, so that it cannot; default: as configured.")
_stdin = click.option("--stdin", "from_stdin", is_flag=True, help="Read it from standard input, one line.")


@password.command("show")
@click.argument("instance", shell_complete=complete.instances)
@json_option
@click.pass_obj
def show_password(app: App, instance: str) -> None:
    """Print the password of INSTANCE, if it can be shown."""
    found = app.ask(ShowPassword(instance=instance), Password)
    app.emit(found, lambda out: out.out(safe(_shown(found))))


@password.command()
@click.argument("instance", shell_complete=complete.instances)
@_raw
@_hashed
@json_option
@click.pass_obj
def reset(app: App, instance: str, raw: bool, hashed: bool) -> None:
    """Make a new password for INSTANCE and print it.

    The old one is refused from now on, and sessions that came in by it end.
    """
    found = app.ask(ResetPassword(instance=instance, kind=_kind(raw, hashed)), Password)
    app.emit(found, lambda out: _print_new(out, found))


@password.command("set")
@click.argument("instance", shell_complete=complete.instances)
@_raw
@_hashed
@_stdin
@json_option
@click.pass_obj
def set_password(app: App, instance: str, raw: bool, hashed: bool, from_stdin: bool) -> None:
    """Give INSTANCE a password of your choice.

    It is asked for twice, without echo; where there is no terminal it is read from standard input. The old one is
    refused from now on, and sessions that came in by it end.
    """
    kind = _kind(raw, hashed)
    chosen = given.secret("password", _login(app, instance, from_stdin), from_stdin=from_stdin, twice=True)
    found = app.ask(SetPassword(instance=instance, password=chosen, kind=kind), Password)
    app.emit(found, lambda out: _print_kept(out, found, "Password set"))


@password.command("import")
@click.argument("instance", shell_complete=complete.instances)
@_stdin
@json_option
@click.pass_obj
def import_password(app: App, instance: str, from_stdin: bool) -> None:
    """Give INSTANCE the password that a hash from elsewhere is of.

    Taken are argon2id, crypt(3) hashes ($6$, $5$, $y$, $2b$) and SHA-512 as 128 hex digits. The hash is asked for
    without echo; where there is no terminal it is read from standard input.
    """
    encoded = given.secret("password hash", _login(app, instance, from_stdin), from_stdin=from_stdin, twice=False)
    found = app.ask(ImportPassword(instance=instance, encoded=encoded), Password)
    app.emit(found, lambda out: _print_kept(out, found, "Password imported"))


@password.command()
@click.argument("instance", shell_complete=complete.instances)
@json_option
@click.pass_obj
def remove(app: App, instance: str) -> None:
    """Let keys only into INSTANCE.

    Its password is of no use from now on, and sessions that came in by it end.
    """
    found = app.ask(RemovePassword(instance=instance), Password)
    app.emit(
        found,
        lambda out: out.out(
            Text.assemble(safe(found.login, "bold"), "  Password removed: this login takes keys only.")
        ),
    )


def _kind(raw: bool, hashed: bool) -> PasswordKind | None:
    """What the options say, None when nothing. Raises UsageError."""
    if raw and hashed:
        raise UsageError("either --raw or --hashed, not both")
    return PasswordKind.RAW if raw else PasswordKind.HASHED if hashed else None


def _login(app: App, instance: str, from_stdin: bool) -> str:
    """Whose password is to be typed: who types it learns before that the daemon can be asked, and which login it is."""
    if from_stdin or not given.is_terminal():
        return instance
    return app.ask(ShowConditions(instance=instance), ConditionsStatus).login


def _shown(found: Password) -> str:
    if found.password is None:
        raise ProtocolError("the daemon answered without the password")
    return found.password


def _print_new(out: Terminal, found: Password) -> None:
    out.out(safe(_shown(found)))
    if found.kind is PasswordKind.HASHED:
        Terminal(stderr=True).out(Text("It is kept as a hash and cannot be shown again.", style="dim"))
    print_not_ended(found.not_ended)


def _print_kept(out: Terminal, found: Password, done: str) -> None:
    out.out(Text.assemble(safe(found.login, "bold"), f"  {done}; the old one is refused from now on."))
    if found.kind is PasswordKind.RAW:
        out.out(Text.assemble("  Kept sealed: ", safe(f"hatchway password show {found.login}"), " shows it."))
    elif found.hash in ("argon2id", ""):
        out.out(Text("  Kept as an argon2id hash: it cannot be shown."))
    else:
        kept = safe(found.hash)
        out.out(Text.assemble("  Kept as ", kept, ", from its first login on as argon2id: it cannot be shown."))
    print_not_ended(found.not_ended)


def print_not_ended(why: str) -> None:
    """Say on standard error that sessions go on, and `why`; nothing when that is ""."""
    if why:
        text = f"sessions that came in by the one before go on until this is mended: {why}"
        Terminal(stderr=True).sentence(text, "yellow")
