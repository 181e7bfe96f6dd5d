"""`hatchway show`: everything a client needs to connect to an instance."""

from __future__ import annotations

import click
import msgspec
from rich.text import Text

from hatchway.cli import complete
from hatchway.cli.app import App, json_option
from hatchway.cli.conditions import print_conditions
from hatchway.cli.hindrances import print_hindrances
from hatchway.cli.listing import instance_line, remarks, volume_cells
from hatchway.cli.output import Terminal, columns
from hatchway.cli.people import person_line, print_person_volumes
from hatchway.cli.text import command, safe
from hatchway.connect.directions import Directions, directions
from hatchway.printable import shell_command
from hatchway.wire.admin import Access, ConnectionInfo, InstanceStatus, Show, VolumeStatus
from hatchway.wire.entry import PasswordKind


@click.command()
@click.argument("instance", shell_complete=complete.instances)
@click.option("--secrets", is_flag=True, help="Show the password too, where it is kept in a form that can be shown.")
@json_option
@click.pass_obj
def show(app: App, instance: str, secrets: bool) -> None:
    """Show what a client needs to connect, and what stands in its way."""
    info = app.ask(Show(instance=instance, secrets=secrets), ConnectionInfo)
    ways = directions(info)
    answer = {**msgspec.to_builtins(info), "directions": ways}
    app.emit(answer, lambda out: _print(out, info, ways))


def _print(out: Terminal, info: ConnectionInfo, ways: Directions) -> None:
    """In the order of a program's fields, then what it asks, then what there is to see, then how to go about it."""
    if info.instance is not None:
        out.out(instance_line(info.instance))
    elif info.person is not None:
        out.out(person_line(info.person))
    print_hindrances(out, info.problems)
    out.heading("Connection")
    out.field("Protocol", "SFTP (SSH File Transfer Protocol)")
    out.field("Host", safe(info.host))
    out.field("Port", str(info.port))
    out.field("User name", safe(info.login))
    _print_password(out, info)
    _print_keys(out, info, ways)
    print_conditions(out, info.conditions, only_said=True)
    out.heading("Host key, to compare with what the program shows at the first connection")
    for line in columns([[safe(host.algorithm), safe(host.fingerprint)] for host in info.host_keys]):
        out.out(Text.assemble("  ", line))
    _print_volumes(out, info)
    out.heading("Programs")
    commands = (ways.sftp_with_key, ways.sftp_with_password, ways.sftp_with_own_key)
    for number, one in enumerate(one for one in commands if one is not None):
        out.field("" if number else "OpenSSH", safe(one))
    needs_key = info.password_kind is PasswordKind.NONE
    out.field("Link", Text.assemble(safe(ways.url), ("   for programs that have the key" * needs_key, "dim")))
    out.field("FileZilla", safe(f"hatchway export filezilla {info.login} -o {info.login}.xml"))
    out.field("Others", Text("hatchway export --help"))


def _print_password(out: Terminal, info: ConnectionInfo) -> None:
    label = "Password"
    match info.password_kind:
        case PasswordKind.NONE:
            out.field(label, Text("none: this login takes keys only", style="dim"))
            out.field("", _way(f"hatchway password reset {info.login}", "makes one"))
        case PasswordKind.HASHED:
            out.field(label, Text(f"{_kept(info)}; type the password itself, not the hash", style="dim"))
            out.field("", _way(f"hatchway password reset {info.login}", "makes a new one and shows it"))
        case _ if info.password is not None:
            out.field(label, safe(info.password))
        case _:
            out.field(label, _way(f"hatchway password show {info.login}", "shows it"))


def _print_keys(out: Terminal, info: ConnectionInfo, ways: Directions) -> None:
    if info.key_fingerprint is None or ways.key_file is None or ways.ppk_file is None:
        out.field("Key file", Text("none", style="dim"))
        out.field("", _way(f"hatchway key renew {info.login}", "makes one"))
    else:
        out.field("Key file", Text.assemble(safe(ways.key_file), "  ", safe(info.key_fingerprint, "dim")))
        out.field("", _way(f"hatchway key export {info.login}", "writes it"))
        out.field("", _way(f"chmod 600 {ways.key_file}", "where it is copied to, for OpenSSH"))
        out.field("", _way(f"hatchway key export {info.login} --ppk", "for WinSCP and PuTTY's tools"))
    if info.keys:
        out.field("Added keys", Text.assemble(f"{info.keys}; see ", safe(f"hatchway key list {info.login}")))
    if info.volume_keys is not None:
        out.field(
            "Own keys",
            Text.assemble(f"{info.volume_keys} in its volumes; see ", safe(f"hatchway key list {info.login}")),
        )


def _print_volumes(out: Terminal, info: ConnectionInfo) -> None:
    out.heading("Volumes")
    if info.person is not None:
        print_person_volumes(out, info.person)
    elif info.instance is not None:
        _print_instance_volumes(out, info.instance)
    if info.places:
        out.field("Starts in", safe(info.start_directory))


def _print_instance_volumes(out: Terminal, instance: InstanceStatus) -> None:
    volumes = instance.volumes
    for volume, line in zip(volumes, columns([volume_cells(volume) for volume in volumes]), strict=True):
        out.out(Text.assemble("  ", line))
        found = remarks(volume, origins=True)
        if volume.access is Access.OFF and volume.refusal is None and volume.held_back is None:
            found.append(_way(_enabling(instance, volume), "shares it"))
        for remark in found:
            out.out(Text.assemble("      ", remark))
    if not volumes:
        out.out(Text("  none", style="yellow"))
    elif all(volume.access is Access.OFF for volume in volumes):
        out.out(Text("  none is shared", style="yellow"))


def _enabling(instance: InstanceStatus, volume: VolumeStatus) -> str:
    key = str(instance.key)
    return shell_command(["hatchway", "enable", *(["--"] if key.startswith("-") else []), key, volume.path])


def _way(how: str, what: str) -> Text:
    """A command, and what it does, as a comment of the shell: the whole line can be copied."""
    return Text.assemble(command(how), (f"  # {what}", "dim"))


def _kept(info: ConnectionInfo) -> str:
    """How a password is kept that cannot be shown."""
    kept = f"kept as {info.password_hash or 'a hash'}"
    if not info.password_rehash:
        return kept
    other = " of other parameters" if info.password_hash == "argon2id" else ""
    return f"{kept}{other}, from the next login by it on as argon2id"
