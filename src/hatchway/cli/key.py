"""`hatchway key export`: the instance's private key, as a file its user can use."""

from __future__ import annotations

import contextlib
import os
import stat
import sys

import click
from rich.text import Text

from hatchway.cli.app import App, json_option
from hatchway.cli.output import document
from hatchway.cli.text import safe
from hatchway.connect.info import key_file_name
from hatchway.errors import ConflictError, HostError, UsageError
from hatchway.wire.entry import (
    ExportKey,
    KeyExport,
)


@click.group()
def key() -> None:
    """The generated key of an instance."""


@key.command()
@click.argument("instance")
@click.option("-o", "--output", metavar="FILE", help="Where to write it; '-' is standard output.")
@click.option("--force", is_flag=True, help="Replace a file that is there.")
@json_option
@click.pass_obj
def export(app: App, instance: str, output: str | None, force: bool) -> None:
    """Write the private key to a file.

    The file is called id_container-LOGIN, stands in the current directory, and is readable by its owner only: under
    sudo, by the user who called sudo.
    """
    if output is not None and output != "-":
        _require_free(output, force)
    found = app.ask(ExportKey(instance=instance), KeyExport)
    if output == "-":
        if app.json:
            document(found)
        else:
            sys.stdout.write(found.private)
        return
    path = output if output is not None else key_file_name(found.login)
    _require_free(path, force)
    _write(path, found.private, force)
    answer = {"login": found.login, "file": path, "fingerprint": found.fingerprint, "public": found.public}
    app.emit(answer, lambda out: out.out(Text.assemble(safe(path), "  ", safe(found.fingerprint, "dim"))))


def _require_free(path: str, force: bool) -> None:
    """Say what prevents writing before anything is asked; `_write` is what makes sure."""
    try:
        mode = os.lstat(path).st_mode
    except FileNotFoundError:
        return
    except OSError as exc:
        raise HostError(f"{path}: {exc.strerror or exc}") from exc
    if stat.S_ISDIR(mode):
        raise UsageError(f"{path} is a directory: name a file")
    if not force:
        raise ConflictError(f"{path} is there already: say --force to replace it, or name another file with -o")


def _write(path: str, text: str, force: bool) -> None:
    """Make a file of mode 0600 at `path`; with `force` it replaces one that is there in one step."""
    directory, name = os.path.split(path)
    new = os.path.join(directory, f".{name}.{os.getpid()}.new") if force else path
    try:
        # O_EXCL: no link is followed and nothing of anybody's is written to, whoever owns this directory.
        descriptor = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            with open(descriptor, "w", encoding="ascii") as file:
                _give_to_caller(file.fileno())
                file.write(text)
            if force:
                os.rename(new, path)
        except BaseException:
            with contextlib.suppress(OSError):
                os.unlink(new)
            raise
    except FileExistsError:
        raise ConflictError(f"{new} is there already") from None
    except OSError as exc:
        raise HostError(f"{path}: {exc.strerror or exc}") from exc


def _give_to_caller(descriptor: int) -> None:
    """Under sudo(8), make the file the caller's: one that only root can read is of no use to their client."""
    uid, gid = os.environ.get("SUDO_UID", ""), os.environ.get("SUDO_GID", "")
    if os.geteuid() == 0 and uid.isascii() and uid.isdigit() and gid.isascii() and gid.isdigit():
        os.fchown(descriptor, int(uid), int(gid))
