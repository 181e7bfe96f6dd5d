"""`hatchway key`: the keys that let people in, and the private one that is generated."""

from __future__ import annotations

import sys
import time

import click
from rich.text import Text

from hatchway.cli import complete, given, moments
from hatchway.cli.app import App, json_option
from hatchway.cli.output import Terminal, columns, document
from hatchway.cli.password import print_not_ended
from hatchway.cli.patterns import listed
from hatchway.cli.private_file import require_free, write
from hatchway.cli.text import command, count, safe
from hatchway.connect.keyfiles import key_file_name, ppk_file_name
from hatchway.errors import UsageError
from hatchway.localtime import local
from hatchway.printable import shell_command
from hatchway.wire.entry import (
    AddKey,
    AllowVolumeKeys,
    ConditionsStatus,
    DeliverKey,
    ExportKey,
    KeyExport,
    KeyForm,
    KeyOrigin,
    Keys,
    KeyStatus,
    ListKeys,
    RemoveKey,
    RenewKey,
    ShowConditions,
    TakeKeyBack,
)

TYPES = ("ed25519", "rsa2048", "rsa3072", "rsa4096")
"""Kinds of key that are made, as in credentials.key of the configuration."""


@click.group()
def key() -> None:
    """The keys of an instance or a person.

    INSTANCE may be the login of a person, except for 'deliver', 'take-back' and 'volumes': people have no volumes of
    their own.
    """


@key.command("list")
@click.argument("instance", shell_complete=complete.instances)
@json_option
@click.pass_obj
def list_keys(app: App, instance: str) -> None:
    """List the keys that let somebody into INSTANCE.

    'generated' is the one that 'hatchway key export' writes, 'added' those that 'hatchway key add' added, 'volume'
    those that the instance has in a volume of its own.
    """
    found = app.ask(ListKeys(instance=instance), Keys)
    app.emit(found, lambda out: _print(out, found))


@key.command()
@click.argument("instance", shell_complete=complete.instances)
@click.option("-o", "--output", metavar="FILE", help="Where to write it; '-' is standard output.")
@click.option("--force", is_flag=True, help="Replace a file that is there.")
@click.option("--ppk", is_flag=True, help="In PuTTY's format, for PuTTY's tools and WinSCP.")
@click.option(
    "--passphrase",
    "encrypt",
    is_flag=True,
    help="Encrypt it with a passphrase, which is asked for twice, without echo; where there is no terminal it is a "
    "line of standard input. With --ppk only.",
)
@json_option
@click.pass_obj
def export(app: App, instance: str, output: str | None, force: bool, ppk: bool, encrypt: bool) -> None:
    """Write the generated private key to a file.

    The file is called id_container-LOGIN, with --ppk id_container-LOGIN.ppk, stands in the current directory, and is
    readable by its owner only: under sudo, by the user who called sudo.
    """
    if encrypt and not ppk:
        raise UsageError(
            "--passphrase is for --ppk: to a key in OpenSSH's format, once it is written, 'ssh-keygen -p -f FILE' "
            "gives one"
        )
    file_name = ppk_file_name if ppk else key_file_name
    if output is None:
        # What is refused after the key was handed out is in the record as handed out.
        require_free(file_name(app.ask(ShowConditions(instance=instance), ConditionsStatus).login), force)
    elif output != "-":
        require_free(output, force)
    passphrase = None
    if encrypt:
        passphrase = given.secret("passphrase", f"the key of {instance}", from_stdin=False, twice=True)
    form = KeyForm.PPK if ppk else KeyForm.OPENSSH
    found = app.ask(ExportKey(instance, form, passphrase), KeyExport)
    if output == "-":
        if app.json:
            document(found)
        else:
            sys.stdout.write(found.private)
        return
    path = output if output is not None else file_name(found.login)
    require_free(path, force)
    write(path, found.private, force)
    answer = {"login": found.login, "file": path, "fingerprint": found.fingerprint, "public": found.public}
    app.emit(answer, lambda out: _print_exported(out, found, path, ppk=ppk))


def _print_exported(out: Terminal, found: KeyExport, path: str, *, ppk: bool) -> None:
    out.out(Text.assemble(safe(path), "  ", safe(found.fingerprint, "dim")))
    if not ppk:
        out.out(Text("  Where it is copied to, ssh takes it only when nobody else can read it:", "dim"))
        out.out(Text.assemble("  ", command(shell_command(["chmod", "600", path]))))


@key.command()
@click.argument("instance", shell_complete=complete.instances)
@click.option("--type", "kind", type=click.Choice(TYPES), help="Of which type; default: as configured.")
@json_option
@click.pass_obj
def renew(app: App, instance: str, kind: str | None) -> None:
    """Make a new key in place of the generated one.

    The old one is refused from now on, and sessions that came in by it end.
    """
    found = app.ask(RenewKey(instance=instance, kind=kind), Keys)
    app.emit(found, lambda out: _print_renewed(out, found))


@key.command()
@click.argument("instance", shell_complete=complete.instances)
@click.argument("file", default=given.STDIN, metavar="[FILE]")
@click.option(
    "--from",
    "sources",
    metavar="PATTERN",
    multiple=True,
    help="Only from there: an address, a network, or '!' and one that is excepted; may be given more than once.",
)
@click.option(
    "--expires",
    metavar="WHEN",
    help="Until then: a date, at the end of which it is, '2026-01-31 14:05', or 12h or 7d from now.",
)
@click.option(
    "--verify-required", is_flag=True, help="For a key in hardware: it must have asked for a PIN or a fingerprint."
)
@json_option
@click.pass_obj
def add(
    app: App, instance: str, file: str, sources: tuple[str, ...], expires: str | None, verify_required: bool
) -> None:
    """Let whoever has the private key of the public one in FILE into INSTANCE.

    FILE is a .pub file of one line, 16 KiB at most; '-', or none, is standard input.
    """
    patterns = ",".join(listed("--from", sources, "leave the option out where there is no restriction"))
    expires_at = None if expires is None else moments.expiry(expires, time.time())
    request = AddKey(
        instance=instance,
        public=given.public_key(file),
        sources=patterns,
        expires_at=expires_at,
        verify_required=verify_required,
    )
    found = app.ask(request, Keys)
    app.emit(found, lambda out: _print_changed(out, found, "Key added.", KeyOrigin.ADDED))


@key.command()
@click.argument("instance", shell_complete=complete.instances)
@click.argument("which", metavar="KEY")
@json_option
@click.pass_obj
def remove(app: App, instance: str, which: str) -> None:
    """Take a key away from INSTANCE that was added.

    KEY is its fingerprint, the beginning of that, or its comment. Sessions that came in by it end.
    """
    found = app.ask(RemoveKey(instance=instance, key=which), Keys)
    app.emit(found, lambda out: _print_removed(out, found))


@key.command()
@click.argument("instance", shell_complete=complete.instances)
@click.option("--allow", is_flag=True, help="They count.")
@click.option("--deny", is_flag=True, help="They do not.")
@json_option
@click.pass_obj
def volumes(app: App, instance: str, allow: bool, deny: bool) -> None:
    """Say whether keys count that INSTANCE has in a volume of its own.

    That is a volume at a path that ends in /.ssh: its authorized_keys and *.pub files. Whoever can write there,
    programs in the container among them, then decides who gets in. With --deny sessions that came in by one end.
    """
    if allow == deny:
        raise UsageError("say either --allow or --deny; 'hatchway key list' shows whether they count now")
    found = app.ask(AllowVolumeKeys(instance=instance, allow=allow), Keys)
    app.emit(found, lambda out: _print_volumes(out, found))


@key.command()
@click.argument("instance", shell_complete=complete.instances)
@click.argument("volume", shell_complete=complete.volumes)
@click.option("--dir", "directory", default="", metavar="DIR", help="A directory in the volume that is there already.")
@json_option
@click.pass_obj
def deliver(app: App, instance: str, volume: str, directory: str) -> None:
    """Put the private key into a shared volume.

    The file is called id_container, has the mode 0600, and belongs to whom new files there belong. It is replaced when
    the key is renewed and removed when access to VOLUME is taken away. A file of that name that is there already is
    never touched.
    """
    found = app.ask(DeliverKey(instance=instance, volume=volume, directory=directory), Keys)
    app.emit(found, lambda out: _print_delivered(out, found))


@key.command("take-back")
@click.argument("instance", shell_complete=complete.instances)
@json_option
@click.pass_obj
def take_back(app: App, instance: str) -> None:
    """Take the private key out of the volume."""
    found = app.ask(TakeKeyBack(instance=instance), Keys)
    app.emit(found, lambda out: _print_taken_back(out, found))


def _print_delivered(out: Terminal, found: Keys) -> None:
    places = "lies in no volume" if not found.delivered else "lies in"
    out.out(Text.assemble(safe(found.login, "bold"), f"  The private key {places}"))
    for path in found.delivered:
        out.out(Text.assemble("  ", safe(path)))
    for problem in found.undelivered:
        out.sentence(problem, "yellow", label="  ")


def _print_taken_back(out: Terminal, found: Keys) -> None:
    _print_delivered(out, found)
    if not found.undelivered:
        for outcome in found.taken_back:
            out.out(Text.assemble("  ", safe(outcome)))


def _print(out: Terminal, found: Keys) -> None:
    out.out(Text.assemble(safe(found.login, "bold"), f"  {count(len(found.keys), 'key')}"))
    _print_keys(out, found.keys)
    if not found.volume_keys:
        change = f"hatchway key volumes {found.login} --allow"
        text = Text.assemble("  Keys in volumes of its own do not count; '", safe(change), "' changes that")
        text.stylize("dim")
        out.out(text)
    _print_problems(out, found)
    if found.delivered or found.undelivered:
        _print_delivered(out, found)


def _print_changed(out: Terminal, found: Keys, done: str, origin: KeyOrigin) -> None:
    out.out(Text.assemble(safe(found.login, "bold"), f"  {done}"))
    _print_keys(out, tuple(one for one in found.keys if one.fingerprint in found.changed and one.origin is origin))


def _print_renewed(out: Terminal, found: Keys) -> None:
    _print_changed(out, found, "New key made; the old one is refused from now on.", KeyOrigin.GENERATED)
    out.out(Text.assemble("  ", safe(f"hatchway key export {found.login}"), " writes it to a file."))
    if found.undelivered:
        _print_delivered(out, found)
    print_not_ended(found.not_ended)


def _print_removed(out: Terminal, found: Keys) -> None:
    out.out(Text.assemble(safe(found.login, "bold"), "  Key removed."))
    for fingerprint in found.changed:
        out.out(Text.assemble("  ", safe(fingerprint)))
    # The same key may be in a volume too, and then still lets its owner in.
    for one in found.keys:
        if one.fingerprint in found.changed:
            out.sentence(f"It still counts: it is in {one.place or one.origin.value}", "yellow", label="  ")


def _print_volumes(out: Terminal, found: Keys) -> None:
    count_now = "count from now on:" if found.volume_keys else "do not count from now on."
    out.out(Text.assemble(safe(found.login, "bold"), f"  Keys in volumes of its own {count_now}"))
    if found.volume_keys:
        kept = tuple(one for one in found.keys if one.origin is KeyOrigin.VOLUME)
        _print_keys(out, kept)
        if not kept:
            out.out(Text("  there are none now", "yellow"))
        _print_problems(out, found)


def _print_keys(out: Terminal, keys: tuple[KeyStatus, ...]) -> None:
    now = time.time()
    lines = columns([[Text(one.origin.value), safe(one.comment) or Text("no comment", "dim")] for one in keys])
    for one, line in zip(keys, lines, strict=True):
        out.out(Text.assemble("  ", line))
        for remark in _remarks(one, now):
            out.out(Text.assemble("      ", remark))


def _remarks(key: KeyStatus, now: float) -> list[Text]:
    bits = "" if key.bits is None else f" {key.bits}"
    remarks = [Text.assemble(safe(key.algorithm), bits, "  ", safe(key.fingerprint))]
    if key.place:
        remarks.append(Text.assemble(("in ", "dim"), safe(key.place, "dim")))
    if key.created_at is not None:
        done = "made" if key.origin is KeyOrigin.GENERATED else "added"
        remarks.append(Text(f"{done} {local(key.created_at)}", "dim"))
    if key.sources:
        remarks.append(Text.assemble("only from ", safe(key.sources)))
    if key.expires_at is not None and key.expires_at > now:
        remarks.append(Text(f"expires {moments.told(key.expires_at, now)}"))
    elif key.expires_at is not None:
        remarks.append(Text(f"expired {moments.told(key.expires_at, now)}", "yellow"))
    if key.verify_required:
        remarks.append(Text("only after a PIN or the like"))
    return remarks


def _print_problems(out: Terminal, found: Keys) -> None:
    if found.problems:
        out.heading("Does not count")
    for problem in found.problems:
        out.sentence(problem, "yellow", label="  ")
