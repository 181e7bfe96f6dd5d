"""`hatchway export`: connection information in the forms that programs import."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import click
from rich.text import Text

from hatchway.cli import complete
from hatchway.cli.app import App, json_option
from hatchway.cli.hindrances import print_hindrances
from hatchway.cli.output import Terminal, document
from hatchway.cli.private_file import PUBLIC, SECRET, require_free, write
from hatchway.cli.text import safe
from hatchway.connect import filezilla as for_filezilla
from hatchway.connect import hosts, keyfiles, links, openssh
from hatchway.connect.keyfiles import key_file_name, ppk_file_name
from hatchway.connect.logon import Logon, logon
from hatchway.errors import ConflictError, NotFoundError, UsageError
from hatchway.wire.admin import ConnectionInfo, Listing, ListInstances, Server, Show, ShowServer
from hatchway.wire.entry import PasswordKind

F = TypeVar("F", bound=Callable[..., Any])

SSH_DIRECTORY = "~/.ssh"
"""Where OpenSSH's programs look, on the computer of whoever connects."""

STDOUT = "-"
"""What is named instead of a file."""

WAYS = {
    Logon.KEY: "by the generated key",
    Logon.PASSWORD: "by one that is in the file, with --secrets",
    Logon.ASK: "by one that the program asks for",
    Logon.OWN_KEY: "by a key that the user has, which was added",
}


@click.group()
def export() -> None:
    """Connection information as programs import it.

    It goes to standard output, or with -o to a file, which only its owner can read if it is of a login.
    """


@dataclass(frozen=True, slots=True)
class Chosen:
    """A login, and how it is to be used."""

    info: ConnectionInfo
    logon: Logon


def _of_instances(function: F) -> F:
    """Which logins."""
    function = click.option("--all", "every", is_flag=True, help="Of every instance of which something is shared.")(
        function
    )
    return click.argument("instances", nargs=-1, metavar="[INSTANCE]...", shell_complete=complete.instances)(function)


def _to_file(function: F) -> F:
    """Where to."""
    function = click.option("--force", is_flag=True, help="Replace a file that is there.")(function)
    return click.option(
        "-o", "--output", metavar="FILE", help="Where to write it; '-', and the default, is standard output."
    )(function)


def _ways(default: str, *without: Logon) -> Callable[[F], F]:
    ways = {way: what for way, what in WAYS.items() if way not in without}
    told = "; ".join(f"'{way}': {what}" for way, what in ways.items())
    kinds = [way.value for way in ways]
    return click.option("--logon", "wanted", type=click.Choice(kinds), help=f"{told}. Default: {default}.")


_secrets = click.option(
    "--secrets", is_flag=True, help="With the password, where it is kept in a form that can be shown."
)


def _key_dir(default: str | None, what: str = "the private key") -> Callable[[F], F]:
    shown = f"  [default: {default}]" if default is not None else ""
    return click.option(
        "--key-dir",
        metavar="DIR",
        default=default,
        help=f"The directory on the computer of whoever connects in which {what} will be.{shown}",
    )


@export.command()
@_of_instances
@_ways(
    "the password if it is shown, else the key if --key-dir says where it is, else what there is of ask, key, own-key"
)
@_key_dir(None)
@_secrets
@_to_file
@json_option
@click.pass_obj
def filezilla(
    app: App,
    instances: tuple[str, ...],
    every: bool,
    wanted: str | None,
    key_dir: str | None,
    secrets: bool,
    output: str | None,
    force: bool,
) -> None:
    """A file for FileZilla's site manager (File > Import).

    It has a folder for each environment, and a site for each login.
    """
    _check_output(output, force)
    _check_whole(key_dir, "FileZilla")
    if key_dir is not None and wanted not in (None, Logon.KEY):
        raise UsageError(f"--key-dir is where the generated key is, which --logon {wanted} does not use")
    chosen = _chosen(app, instances, every, wanted, secrets=secrets, key_known=key_dir is not None)
    sites = [for_filezilla.ChosenSite(info=one.info, logon=one.logon, key_dir=key_dir) for one in chosen]
    hints = ["In FileZilla: File > Import, choose the file; 'Site Manager entries' is ticked."]
    hints += _key_hints(chosen, key_dir)
    if any(one.logon is Logon.OWN_KEY or (one.logon is Logon.KEY and key_dir is None) for one in chosen):
        hints.append(
            "Where the key is, FileZilla does not know: File > Site Manager, choose the login, and behind 'Key file' "
            "Browse. Of a generated key --key-dir can say it here."
        )
    _give(app, "filezilla", chosen, for_filezilla.sitemanager(sites), output, force, hints)


@export.command("ssh-config")
@_of_instances
@_ways("the first that there is of key, ask, own-key", Logon.PASSWORD)
@_key_dir(SSH_DIRECTORY)
@_to_file
@json_option
@click.pass_obj
def ssh_config(
    app: App,
    instances: tuple[str, ...],
    every: bool,
    wanted: str | None,
    key_dir: str,
    output: str | None,
    force: bool,
) -> None:
    """Blocks for OpenSSH's configuration (~/.ssh/config).

    With them 'sftp LOGIN' connects. They trust the host keys in ~/.ssh/known_hosts only: see 'hatchway export
    known-hosts'.
    """
    _check_output(output, force)
    _check_anchored(key_dir)
    chosen = _chosen(app, instances, every, wanted, secrets=False, key_known=True)
    blocks = [openssh.config_block(one.info, one.logon, key_dir) for one in chosen]
    hints = [
        "Put it above all else in ~/.ssh/config, since ssh takes the first value that it finds.",
        "Append what 'hatchway export known-hosts' gives to ~/.ssh/known_hosts.",
        *_key_hints(chosen, key_dir),
    ]
    _give(app, "ssh-config", chosen, "\n".join(blocks), output, force, hints)


@export.command("known-hosts")
@_to_file
@json_option
@click.pass_obj
def known_hosts(app: App, output: str | None, force: bool) -> None:
    """The host keys, as lines for known_hosts.

    OpenSSH reads that file, and so do curl, lftp, rclone and libraries.
    """
    _check_output(output, force)
    server = app.ask(ShowServer(), Server)
    hints = ["Append it to ~/.ssh/known_hosts.", *_host_hints(server.host)]
    _give(app, "known-hosts", [], openssh.known_hosts(server), output, force, hints)


@export.command()
@_to_file
@json_option
@click.pass_obj
def sshfp(app: App, output: str | None, force: bool) -> None:
    """The host keys' fingerprints, for the DNS.

    As SSHFP records (RFC 4255). Clients that are told to look there (VerifyHostKeyDNS of ssh_config) believe them where
    the zone is signed. They know no port: if the host's own sshd is reached by the same name, its records must be
    there, too.
    """
    _check_output(output, force)
    server = app.ask(ShowServer(), Server)
    _give(app, "sshfp", [], openssh.sshfp(server), output, force, _host_hints(server.host))


@export.command()
@_of_instances
@_ways("the password if it is shown, else the first that there is of key, ask (each time), own-key (the agent's)")
@_key_dir(SSH_DIRECTORY, "the private key and known_hosts")
@_secrets
@_to_file
@json_option
@click.pass_obj
def rclone(
    app: App,
    instances: tuple[str, ...],
    every: bool,
    wanted: str | None,
    key_dir: str,
    secrets: bool,
    output: str | None,
    force: bool,
) -> None:
    """Sections for rclone's configuration, a remote for each login.

    They trust the host keys in the file known_hosts of --key-dir only: see 'hatchway export known-hosts'. A password is
    obscured as rclone does it, which hides it from a glance and from nobody else.
    """
    # The library that obscures is loaded for this alone.
    from hatchway.connect import rclone as for_rclone

    _check_output(output, force)
    _check_anchored(key_dir)
    chosen = _chosen(app, instances, every, wanted, secrets=secrets, key_known=True)
    sections = [for_rclone.section(one.info, one.logon, key_dir) for one in chosen]
    hints = [
        "Append it to rclone's configuration; 'rclone config file' says which file that is.",
        f"Append what 'hatchway export known-hosts' gives to {keyfiles.in_directory(key_dir, 'known_hosts')}.",
        *_key_hints(chosen, key_dir),
    ]
    _give(app, "rclone", chosen, "\n".join(sections), output, force, hints)


@export.command("winscp-url")
@_of_instances
@_key_dir(None, "the private key, as .ppk,")
@_secrets
@_to_file
@json_option
@click.pass_obj
def winscp_url(
    app: App,
    instances: tuple[str, ...],
    every: bool,
    key_dir: str | None,
    secrets: bool,
    output: str | None,
    force: bool,
) -> None:
    """Links for WinSCP, a line for each login.

    The host key's fingerprint is in them, so that WinSCP does not ask about a host that it has never seen.
    """
    _check_output(output, force)
    _check_whole(key_dir, "WinSCP")
    chosen = _chosen(app, instances, every, None, secrets=secrets, key_known=key_dir is not None)
    text = "".join(f"{links.winscp_url(one.info, key_dir)}\n" for one in chosen)
    hints = _key_hints(chosen, key_dir, ppk=True)
    if key_dir is None and any(one.logon is Logon.KEY for one in chosen):
        hints.append("Where there is no password, say --key-dir, or have the key chosen in WinSCP.")
    _give(app, "winscp-url", chosen, text, output, force, hints)


def _chosen(
    app: App, instances: Sequence[str], every: bool, wanted: str | None, *, secrets: bool, key_known: bool
) -> list[Chosen]:
    """Each login that is meant, once, and how it is to be used. Of all, those that cannot be used so are left out, and
    named."""
    if instances and every:
        raise UsageError("either name instances or say --all, not both")
    if secrets and wanted not in (None, Logon.PASSWORD):
        raise UsageError(f"--secrets is for a password in the file, of which --logon {wanted} has none")
    if not instances and not every:
        raise UsageError("which instance? Name some, as 'hatchway ls' shows them, or say --all")
    if every:
        listed = app.ask(ListInstances(), Listing).instances
        instances = [str(one.key) for one in listed if any(volume.access.is_on for volume in one.volumes)]
        if not instances:
            raise NotFoundError("nothing is shared; 'hatchway enable INSTANCE VOLUME' shares a volume")
    infos = [app.ask(Show(instance=instance, secrets=secrets), ConnectionInfo) for instance in instances]
    chosen: list[Chosen] = []
    left_out: ConflictError | None = None
    for info in {info.login: info for info in infos}.values():
        try:
            way = logon(info, None if wanted is None else Logon(wanted), key_known=key_known)
        except ConflictError as exc:
            if not every:
                raise
            left_out = exc
            _tell(f"Left out: {exc}", "yellow")
        else:
            chosen.append(Chosen(info, way))
    if not chosen and left_out is not None:
        raise left_out
    for one in chosen if secrets else ():
        if one.info.password_kind is PasswordKind.HASHED:
            asked = one.logon is Logon.ASK
            instead = "it is asked for. Type the password itself, not the hash" if asked else "the key is used"
            _tell(f"{one.info.login}: the password is kept as a hash, so it is in no file; {instead}.", "yellow")
    return chosen


def _key_hints(chosen: Sequence[Chosen], directory: str | None, *, ppk: bool = False) -> list[str]:
    """What to do with the generated keys that are used, which are expected in `directory`, if it is known."""
    logins = [one.info.login for one in chosen if one.logon is Logon.KEY]
    if not logins:
        return []
    command = f"hatchway key export {logins[0]}{' --ppk' if ppk else ''}"
    name = ppk_file_name(logins[0]) if ppk else key_file_name(logins[0])
    place = "" if directory is None else f" as {keyfiles.in_directory(directory, name)}"
    others = f" So do those of {', '.join(logins[1:])}." if len(logins) > 1 else ""
    return [
        f"On the user's computer belongs the file that '{command}' writes{place}, readable by its owner only.{others}"
    ]


def _host_hints(host: str) -> list[str]:
    """What to think of before others are told `host`."""
    if "." in host or hosts.is_address(host):
        return []
    return [f"'{host}' has no domain, so few can look it up: connect.host says what clients shall be told."]


def _check_whole(key_dir: str | None, program: str) -> None:
    if key_dir is None:
        return
    keyfiles.check_directory(key_dir)
    if not keyfiles.is_absolute(key_dir):
        raise UsageError(f"--key-dir '{key_dir}': {program} finds a key by its whole path only, from / or a drive on")


def _check_anchored(key_dir: str) -> None:
    keyfiles.check_directory(key_dir)
    if not keyfiles.is_anchored(key_dir):
        raise UsageError(f"--key-dir '{key_dir}' is another place in each directory: begin it with /, ~/ or a drive")


def _check_output(output: str | None, force: bool) -> None:
    if output not in (None, STDOUT):
        require_free(output or "", force)
    elif force:
        raise UsageError("--force is for the FILE of -o")


def _tell(text: str, style: str = "dim") -> None:
    """Say `text` on standard error as it is: in one line, since there may be a path in it that is copied."""
    Terminal(stderr=True).out(safe(text, style) if not text.isprintable() else Text(text, style))


def _give(
    app: App,
    form: str,
    chosen: Sequence[Chosen],
    text: str,
    output: str | None,
    force: bool,
    hints: Sequence[str],
) -> None:
    """Write `text` to the file `output`, or to standard output; `hints`, and what stands in a client's way, are for
    people, on standard error."""
    logins = [one.info.login for one in chosen]
    to_stdout = output is None or output == STDOUT
    if output is not None and not to_stdout:
        # Without logins there is nothing in it that is not everybody's.
        write(output, text, force, SECRET if chosen else PUBLIC)
    if app.json:
        where: dict[str, object] = {"text": text} if to_stdout else {"file": output}
        problems = {one.info.login: one.info.problems for one in chosen if one.info.problems}
        document({"form": form, "logins": logins, **where, "problems": problems})
        return
    if to_stdout:
        sys.stdout.flush()
        # As it is, whatever the terminal's encoding: a program reads it.
        sys.stdout.buffer.write(text.encode())
        sys.stdout.buffer.flush()
    else:
        app.out.out(Text.assemble(safe(output or ""), "  ", safe(", ".join(logins) or form, "dim")))
    for hint in (*hints, *(_host_hints(chosen[0].info.host) if chosen else ())):
        _tell(hint)
    for one in chosen:
        if one.info.problems:
            _tell(f"{one.info.login}:", "yellow")
            print_hindrances(Terminal(stderr=True), one.info.problems)
