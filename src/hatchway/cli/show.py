"""`hatchway show`: everything a client needs to connect to an instance."""

from __future__ import annotations

import click
import msgspec
from rich.text import Text

from hatchway.cli import complete
from hatchway.cli.app import App, json_option
from hatchway.cli.conditions import print_conditions
from hatchway.cli.listing import instance_line, remarks, volume_cells
from hatchway.cli.output import Terminal, columns
from hatchway.cli.text import safe
from hatchway.connect.info import Directions, FileZillaSite, directions
from hatchway.wire.admin import (
    Access,
    ConnectionInfo,
    Show,
)
from hatchway.wire.entry import PasswordKind


@click.command()
@click.argument("instance", shell_complete=complete.instances)
@click.option("--secrets", is_flag=True, help="Show the password too, where it is kept in a form that can be shown.")
@json_option
@click.pass_obj
def show(app: App, instance: str, secrets: bool) -> None:
    """Show what a client needs to connect."""
    info = app.ask(Show(instance=instance, secrets=secrets), ConnectionInfo)
    ways = directions(info)
    answer = {**msgspec.to_builtins(info), "directions": ways}
    app.emit(answer, lambda out: _print(out, info, ways))


def _print(out: Terminal, info: ConnectionInfo, ways: Directions) -> None:
    out.out(instance_line(info.instance))
    for problem in info.problems:
        out.sentence(problem, "yellow", label="  ")
    out.heading("Connection")
    out.field("Host", safe(info.host))
    out.field("Port", str(info.port))
    out.field("User name", safe(info.login))
    out.field("Password", _password(info))
    if info.key_fingerprint is not None:
        out.field("Private key", safe(f"hatchway key export {info.login}"))
        out.field("", safe(info.key_fingerprint, "dim"))
    if info.keys:
        out.field("Added keys", Text.assemble(f"{info.keys}; see ", safe(f"hatchway key list {info.login}")))
    if info.volume_keys is not None:
        out.field(
            "Own keys",
            Text.assemble(f"{info.volume_keys} in its volumes; see ", safe(f"hatchway key list {info.login}")),
        )
    out.field("Starts in", safe(info.start_directory))
    print_conditions(out, info.conditions, only_said=True)
    _print_volumes(out, info)
    out.heading("Host keys, to compare at the first connection")
    for line in columns([[safe(host.algorithm), safe(host.fingerprint)] for host in info.host_keys]):
        out.out(Text.assemble("  ", line))
    if not info.host_keys:
        out.out(Text("  none", style="yellow"))
    out.heading("OpenSSH")
    for command in (ways.sftp_with_key, ways.sftp_with_password):
        if command is not None:
            out.out(Text.assemble("  ", safe(command)))
    out.heading("Link")
    out.out(Text.assemble("  ", safe(ways.url)))
    for site in ways.filezilla:
        _print_filezilla(out, site)


def _print_volumes(out: Terminal, info: ConnectionInfo) -> None:
    out.heading("Volumes")
    shown = [volume for volume in info.instance.volumes if volume.access is not Access.OFF]
    for volume, line in zip(shown, columns([volume_cells(volume) for volume in shown]), strict=True):
        out.out(Text.assemble("  ", line))
        for remark in remarks(volume, origins=True):
            out.out(Text.assemble("      ", remark))
    if not shown:
        out.out(Text("  none is enabled", style="yellow"))


def _password(info: ConnectionInfo) -> Text:
    if info.password_kind is PasswordKind.NONE:
        return Text("none: this login takes keys only", style="dim")
    if info.password is not None:
        return safe(info.password)
    if info.password_kind is PasswordKind.HASHED:
        new = safe(f"hatchway password reset {info.login}")
        return Text.assemble((f"{_kept(info)}; make a new one with ", "dim"), new)
    return Text.assemble(("hidden; see ", "dim"), safe(f"hatchway password show {info.login}"))


def _kept(info: ConnectionInfo) -> str:
    """How a password is kept that cannot be shown."""
    kept = f"kept as {info.password_hash or 'a hash'}"
    if not info.password_rehash:
        return kept
    other = " of other parameters" if info.password_hash == "argon2id" else ""
    return f"{kept}{other}, from the next login by it on as argon2id"


def _print_filezilla(out: Terminal, site: FileZillaSite) -> None:
    out.heading(f"FileZilla: File > Site Manager > New site ({site.logon_type.lower()})")
    out.field("Protocol", site.protocol)
    out.field("Host", safe(site.host))
    out.field("Port", str(site.port))
    out.field("Logon type", site.logon_type)
    out.field("User", safe(site.user))
    if site.password is not None:
        out.field("Password", safe(site.password))
    if site.key_file is not None:
        out.field("Key file", safe(site.key_file))
