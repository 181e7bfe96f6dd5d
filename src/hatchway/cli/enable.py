"""`hatchway enable`, `disable` and `confirm`: access to volumes, on and off."""

from __future__ import annotations

import click
from rich.text import Text

from hatchway.cli import complete
from hatchway.cli.app import App, json_option
from hatchway.cli.hindrances import print_hindrances
from hatchway.cli.limits import parse_limits
from hatchway.cli.listing import print_instance, remarks, volume_cells
from hatchway.cli.output import Terminal, columns
from hatchway.cli.text import safe
from hatchway.connect import openssh
from hatchway.errors import HatchwayError, UsageError
from hatchway.model import Origin, Ownership, parse_owner, parse_umask
from hatchway.wire.admin import (
    Access,
    Changed,
    Confirm,
    ConnectionInfo,
    Disable,
    Enable,
    InstanceStatus,
    Listing,
    ListInstances,
    Show,
)


@click.command()
@click.argument("instance", shell_complete=complete.instances)
@click.argument("volumes", nargs=-1, metavar="[VOLUME]...", shell_complete=complete.volumes)
@click.option("--all", "every", is_flag=True, help="Every volume of the instance that can be shared.")
@click.option("--read-only", is_flag=True, help="Nothing can be changed over SFTP.")
@click.option(
    "--follow", is_flag=True, help="Stay on when the container is made again and gets a new anonymous volume there."
)
@click.option(
    "--owner",
    metavar="OWNER",
    help="Whom new files belong to: 'inherit' (whom their directory belongs to, the default), 'container' (its "
    "configured user), UID:GID (the container's ids), or 'real' (whoever makes them; all owners and modes count as on "
    "disk).",
)
@click.option(
    "--umask", metavar="MASK", help="Permissions that new files do not get, such as 002; default: host.umask."
)
@click.option(
    "--size",
    metavar="SIZE",
    help="How large SFTP may make the volume, its index included, such as 20GB (powers of 1000) or 1.5G (of 1024), or "
    "'none'; default: as it was. With a limit, what else is not said stays as it was too.",
)
@click.option("--files", metavar="N", help="How many files SFTP may make there be, or 'none'; default: as it was.")
@json_option
@click.pass_obj
def enable(
    app: App,
    instance: str,
    volumes: tuple[str, ...],
    every: bool,
    read_only: bool,
    follow: bool,
    owner: str | None,
    umask: str | None,
    size: str | None,
    files: str | None,
) -> None:
    """Give SFTP access to volumes of an instance.

    The first time, INSTANCE gets its login, key and password. Without VOLUME and --all it lists the volumes there
    are and changes nothing.
    """
    _require_choice(app, "enable", instance, volumes, every)
    ownership = Ownership(None if owner is None else parse_owner(owner), None if umask is None else parse_umask(umask))
    request = Enable(
        instance=instance,
        volumes=volumes,
        every=every,
        read_only=read_only,
        follow=follow,
        ownership=ownership,
        limits=parse_limits(size, files),
    )
    changed = app.ask(request, Changed)
    info, problem = _connection(app, instance)
    answer = {"changed": changed, "connection": info, "problem": problem}
    app.emit(answer, lambda out: _print_enabled(out, changed, info, problem, read_only=read_only))


@click.command()
@click.argument("instance", shell_complete=complete.instances)
@click.argument("volumes", nargs=-1, metavar="[VOLUME]...", shell_complete=complete.volumes)
@click.option("--all", "every", is_flag=True, help="Every volume that 'hatchway enable' gave access to.")
@json_option
@click.pass_obj
def disable(app: App, instance: str, volumes: tuple[str, ...], every: bool) -> None:
    """Take away what 'hatchway enable' gave.

    It ends at once, with open sessions. INSTANCE keeps its login, key and password. Without VOLUME and --all it lists
    the volumes there are and changes nothing.
    """
    _require_choice(app, "disable", instance, volumes, every)
    changed = app.ask(Disable(instance=instance, volumes=volumes, every=every), Changed)
    app.emit({"changed": changed}, lambda out: _print_disabled(out, changed))


@click.command()
@click.argument("instance", shell_complete=complete.instances)
@click.argument("volumes", nargs=-1, metavar="[VOLUME]...", shell_complete=complete.volumes)
@json_option
@click.pass_obj
def confirm(app: App, instance: str, volumes: tuple[str, ...]) -> None:
    """Let suspended access be to the volumes that stand there now.

    Access to a volume is suspended when another one turns up at its path. Look first whose that is. Each grant stays as
    it was: read-only or not, by command, file or label. Without VOLUME all that is suspended is confirmed.
    """
    changed = app.ask(Confirm(instance=instance, volumes=volumes), Changed)
    app.emit({"changed": changed}, lambda out: _print_volumes(out, changed, "Access confirmed."))


def _require_choice(app: App, command: str, instance: str, volumes: tuple[str, ...], every: bool) -> None:
    """Raise UsageError unless there are either volumes or --all; without both, show the volumes there are first."""
    if volumes and every:
        raise UsageError("either name volumes or say --all, not both")
    if volumes or every:
        return
    found = _find(app.ask(ListInstances(), Listing), instance)
    if found is None:
        # The daemon knows more names; what it cannot find either, it says.
        app.ask(Show(instance=instance), ConnectionInfo)
    elif not app.json:
        print_instance(app.out, found)
    paths = [volume.path for volume in found.volumes] if found is not None else []
    known = f" (it has: {', '.join(repr(path) for path in paths)})" if app.json and paths else ""
    raise UsageError(
        f"which volumes? Name them by path or name, 'hatchway {command} {instance} VOLUME...', or say --all{known}"
    )


def _find(listing: Listing, name: str) -> InstanceStatus | None:
    """The one instance called `name`, for showing it; which one is meant is decided by the daemon alone."""
    found = [one for one in listing.instances if name in (str(one.key), one.login, one.runtime_name, one.key.container)]
    return found[0] if len(found) == 1 else None


def _connection(app: App, instance: str) -> tuple[ConnectionInfo | None, str | None]:
    """How to connect, and what prevents saying so: the access is on by now, whatever happens here."""
    try:
        return app.ask(Show(instance=instance), ConnectionInfo), None
    except HatchwayError as exc:
        return None, str(exc)


def _print_volumes(out: Terminal, changed: Changed, text: str) -> None:
    if not changed.changed:
        text = "Nothing to change."
    out.out(Text.assemble(safe(str(changed.instance.key), "bold"), "  ", text))
    shown = [volume for volume in changed.instance.volumes if volume.path in changed.changed]
    for volume, line in zip(shown, columns([volume_cells(volume) for volume in shown]), strict=True):
        out.out(Text.assemble("  ", line))
        for remark in remarks(volume):
            out.out(Text.assemble("      ", remark))
    present = {volume.path for volume in shown}
    for path in changed.changed:
        if path not in present:
            out.out(Text.assemble("  off  ", safe(path)))


def _print_disabled(out: Terminal, changed: Changed) -> None:
    shared = [one for one in changed.instance.volumes if one.path in changed.changed and one.access is not Access.OFF]
    text = "Access by command taken away; what gives it besides goes on." if shared else "Access taken away."
    _print_volumes(out, changed, text)
    people = dict.fromkeys(
        one for volume in changed.instance.volumes if volume.path in changed.changed for one in volume.people
    )
    if people:
        text = f"It is still shared with {', '.join(people)}; 'hatchway person revoke' takes that away"
        out.sentence(text, "yellow", label="  ")
    for volume in changed.instance.volumes:
        elsewhere = dict.fromkeys(one.granted_by for one in volume.grants if one.origin is not Origin.COMMAND)
        if volume.path not in changed.changed and elsewhere:
            by = ", ".join(elsewhere)
            out.sentence(f"{volume.path} is still shared, by {by}", "yellow", label="  ")


def _print_enabled(
    out: Terminal, changed: Changed, info: ConnectionInfo | None, problem: str | None, *, read_only: bool
) -> None:
    _print_volumes(out, changed, "SFTP access is on.")
    if changed.other_hands:
        out.sentence(
            "This login was made for other volumes. Whoever has its key and password now has these: if that is "
            "somebody else, say 'hatchway forget', which ends the login, and enable again",
            "yellow",
            label="  ",
        )
    for volume in changed.instance.volumes:
        if read_only and volume.path in changed.changed and volume.access is Access.READ_WRITE:
            out.sentence(
                f"{volume.path} can still be written: something else gives access to it too", "yellow", label="  "
            )
    print_hindrances(out, () if info is None else info.problems)
    login = changed.instance.login or str(changed.instance.key)
    if changed.password is not None:
        out.heading("Password, shown this once")
        out.out(Text.assemble("  ", safe(changed.password)))
    out.heading("Connect")
    if info is None:
        out.sentence(f"How to connect cannot be said now: {problem}", "yellow", label="  ")
        return
    with_key, with_password = openssh.sftp_with_key(info), openssh.sftp_with_password(info)
    if with_key is not None:
        out.out(Text.assemble("  ", safe(f"hatchway key export {login}")))
        out.out(Text.assemble("  ", safe(with_key)))
    elif with_password is not None:
        out.out(Text.assemble("  ", safe(with_password)))
    out.out()
    out.out(Text.assemble("'", safe(f"hatchway show {login}"), "' has everything a client needs."))
