"""`hatchway rotate-key`: another key for the secrets that are kept."""

from __future__ import annotations

import click
from rich.text import Text

from hatchway.cli.app import App, json_option
from hatchway.cli.output import Terminal
from hatchway.cli.text import count
from hatchway.wire.entry import Rotated, RotateKey


@click.command("rotate-key")
@json_option
@click.pass_obj
def rotate_key(app: App) -> None:
    """Seal all secrets that are kept with a new key.

    Passwords and private keys stay what they are, and nobody's session ends. What backups hold stays sealed with the
    key of their time.
    """
    answer = app.ask(RotateKey(), Rotated)
    app.emit(answer, lambda out: _print(out, answer))


def _print(out: Terminal, answer: Rotated) -> None:
    done = "is" if answer.secrets == 1 else "are"
    out.out(Text(f"{count(answer.secrets, 'secret')} {done} sealed with a new key; the old one is no longer kept."))
    out.sentence(
        "Secrets in a backup of the registry made before now can be read with the old key only, so keep your backup of "
        "that key as long as these, and make a new backup of registry and key.",
        "yellow",
        label="  ",
    )
