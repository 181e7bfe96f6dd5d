"""`hatchway person`: people with logins of their own, and what is shared with them."""

from __future__ import annotations

import click
from rich.text import Text

from hatchway.cli import complete
from hatchway.cli.app import App, json_option
from hatchway.cli.limits import parse_limits
from hatchway.cli.output import Terminal
from hatchway.cli.people import person_line, print_person_volumes
from hatchway.cli.text import count, safe
from hatchway.errors import UsageError
from hatchway.model import Ownership, parse_owner, parse_umask
from hatchway.wire.entry import PasswordKind
from hatchway.wire.people import (
    AddPerson,
    GrantPerson,
    ListPeople,
    People,
    PersonChanged,
    PersonRemoved,
    RemovePerson,
    RevokePerson,
)

_LABELS = 18
"""Columns of what stands in front of the commands."""


@click.group()
def person() -> None:
    """People: logins, keys and passwords of their own.

    A person sees what is shared with them, of any number of instances, each in a directory called by its login. Their
    keys, password and conditions are changed as an instance's: 'hatchway key add anna', 'hatchway lock anna'.
    """


@person.command()
@click.argument("login", metavar="LOGIN")
@click.option("--name", "full_name", metavar="NAME", default="", help="Who that is, for people to read.")
@json_option
@click.pass_obj
def add(app: App, login: str, full_name: str) -> None:
    """Make a person, with a key and a password.

    They can do nothing until something is shared with them. LOGIN is their user name, and nobody gets it again.
    """
    changed = app.ask(AddPerson(login=login, full_name=full_name), PersonChanged)
    app.emit({"changed": changed}, lambda out: _print_added(out, changed))


@person.command("ls")
@click.argument("instance", required=False, shell_complete=complete.instances)
@json_option
@click.pass_obj
def ls(app: App, instance: str | None) -> None:
    """List people and what is shared with them; with INSTANCE those with whom it shares something."""
    answer = app.ask(ListPeople(instance=instance), People)
    app.emit(answer, lambda out: _print_people(out, answer))


@person.command()
@click.argument("login", metavar="LOGIN")
@click.argument("instance", shell_complete=complete.instances)
@click.argument("volumes", nargs=-1, metavar="[VOLUME]...", shell_complete=complete.volumes)
@click.option("--all", "every", is_flag=True, help="Every volume of the instance that can be shared.")
@click.option("--read-only", is_flag=True, help="They can change nothing.")
@click.option("--folder", metavar="FOLDER", default="", help="Only this directory of the volume, such as photos/2026.")
@click.option("--owner", metavar="OWNER", help="Whom new files belong to, as of 'hatchway enable'; default: as there.")
@click.option("--umask", metavar="MASK", help="Permissions that new files do not get, as of 'hatchway enable'.")
@click.option("--size", metavar="SIZE", help="How large SFTP may make the volume, as of 'hatchway enable'.")
@click.option("--files", metavar="N", help="How many files SFTP may make there be, as of 'hatchway enable'.")
@json_option
@click.pass_obj
def grant(
    app: App,
    login: str,
    instance: str,
    volumes: tuple[str, ...],
    every: bool,
    read_only: bool,
    folder: str,
    owner: str | None,
    umask: str | None,
    size: str | None,
    files: str | None,
) -> None:
    """Share volumes of an instance with a person.

    What they had of such a volume before is replaced. The volume need not be shared with the instance's own login.
    """
    if volumes and every:
        raise UsageError("either name volumes or say --all, not both")
    ownership = Ownership(None if owner is None else parse_owner(owner), None if umask is None else parse_umask(umask))
    request = GrantPerson(
        login=login,
        instance=instance,
        volumes=volumes,
        every=every,
        read_only=read_only,
        folder=folder,
        ownership=ownership,
        limits=parse_limits(size, files),
    )
    changed = app.ask(request, PersonChanged)
    app.emit({"changed": changed}, lambda out: _print_granted(out, changed))


@person.command()
@click.argument("login", metavar="LOGIN")
@click.argument("instance", shell_complete=complete.instances)
@click.argument("volumes", nargs=-1, metavar="[VOLUME]...", shell_complete=complete.volumes)
@click.option("--all", "every", is_flag=True, help="All of the instance that is shared with them.")
@json_option
@click.pass_obj
def revoke(app: App, login: str, instance: str, volumes: tuple[str, ...], every: bool) -> None:
    """Take volumes of an instance away from a person. It ends at once, in open sessions too."""
    if volumes and every:
        raise UsageError("either name volumes or say --all, not both")
    request = RevokePerson(login=login, instance=instance, volumes=volumes, every=every)
    changed = app.ask(request, PersonChanged)
    app.emit({"changed": changed}, lambda out: _print_changed(out, changed, "no longer shared"))


@person.command()
@click.argument("login", metavar="LOGIN")
@json_option
@click.pass_obj
def remove(app: App, login: str) -> None:
    """Remove a person: all they have of any instance, their keys and password. Their sessions end.

    Nobody gets their login again, not even they.
    """
    removed = app.ask(RemovePerson(login), PersonRemoved)
    app.emit(removed, lambda out: _print_removed(out, removed))


def _print_added(out: Terminal, changed: PersonChanged) -> None:
    login = changed.person.login
    out.out(Text.assemble(person_line(changed.person), "  added"))
    if changed.password is not None:
        out.heading("Password, shown this once")
        out.out(Text.assemble("  ", safe(changed.password)))
    commands = {"Share with them": f"hatchway person grant {login} INSTANCE VOLUME"}
    if changed.password_kind is PasswordKind.RAW:
        commands["Their password"] = f"hatchway password show {login}"
    commands |= {"How to connect": f"hatchway show {login}", "A key they have": f"hatchway key add {login} FILE"}
    out.out()
    for label, command in commands.items():
        out.field(label, safe(command), width=_LABELS)
    if changed.web is not None:
        out.field("On the web pages", _signing_in(changed), width=_LABELS)


def _print_changed(out: Terminal, changed: PersonChanged, done: str) -> None:
    person, paths = changed.person, ", ".join(changed.changed) or "nothing"
    out.out(Text.assemble(safe(person.login, "bold"), "  ", safe(f"{paths} of {changed.key}"), f" is {done}."))
    print_person_volumes(out, person)
    if person.volumes:
        out.out()
        out.out(Text.assemble("'", safe(f"hatchway show {person.login}"), "' has everything a client needs."))


def _print_granted(out: Terminal, changed: PersonChanged) -> None:
    _print_changed(out, changed, "shared")
    if changed.web is not None:
        out.out(Text.assemble("They find it on the web pages, too: ", _signing_in(changed), "."))


def _signing_in(changed: PersonChanged) -> Text:
    """Where and how they sign in to the web pages, which are on."""
    how = "they sign in with login and password"
    if changed.password_kind is PasswordKind.NONE:
        how = "to sign in they need a password, which 'hatchway password reset' makes"
    return Text.assemble(safe(f"{changed.web}/"), "  ", how) if changed.web else Text(how)


def _print_people(out: Terminal, answer: People) -> None:
    for one in answer.people:
        out.out(person_line(one))
        print_person_volumes(out, one)
    if not answer.people:
        out.out(Text("Nobody. 'hatchway person add' makes a person.", style="dim"))


def _print_removed(out: Terminal, removed: PersonRemoved) -> None:
    shared = count(len(removed.grants), "volume")
    out.out(Text.assemble(safe(removed.login, "bold"), f"  removed, with all access: {shared}."))
