"""`hatchway apply`: make the access files count."""

from __future__ import annotations

import itertools

import click
from rich.text import Text

from hatchway import rulefiles
from hatchway.cli.app import App, json_option
from hatchway.cli.output import Terminal, columns
from hatchway.cli.status import source_lines
from hatchway.cli.text import count, safe
from hatchway.model import AccessRule
from hatchway.wire.admin import AccessChange, Applied, Apply, ChangeKind

_WORDS = {
    ChangeKind.GRANT: ("give", "green"),
    ChangeKind.ALTER: ("change", "cyan"),
    ChangeKind.FOLLOW: ("follow", "cyan"),
    ChangeKind.CONFIRM: ("confirm", "yellow"),
    ChangeKind.WITHDRAW: ("take away", "red"),
    ChangeKind.REFUSED: ("cannot", "dim"),
}


@click.command()
@click.option("--dry-run", is_flag=True, help="Only show what would change.")
@click.option(
    "--confirm", is_flag=True, help="Give access also to volumes that stand where another one did when it was given."
)
@json_option
@click.pass_obj
def apply(app: App, dry_run: bool, confirm: bool) -> None:
    """Make the rules in the access files count, and none but these.

    From now on they give access to whatever comes to match them; what only earlier rules gave ends at once.
    """
    rules = read(app.config.access.dir)
    answer = app.ask(Apply(rules=rules, dry_run=dry_run, confirm=confirm), Applied)
    app.emit(answer, lambda out: _print(out, answer, len(rules), app.config.access.dir, confirm))


def read(directory: str) -> tuple[AccessRule, ...]:
    """The rules of the access files in `directory`. Raises HatchwayError, also when not only root can change them."""
    # Here, not above: only this command needs sshd's package.
    from hatchway.sshd import trust

    files = rulefiles.names(directory)
    for path in (directory, *files):
        trust.require(path)
    return rulefiles.read(directory)


def _print(out: Terminal, answer: Applied, rules: int, directory: str, confirm: bool) -> None:
    done = [one for one in answer.changes if one.kind is not ChangeKind.REFUSED and (confirm or not _waits(one))]
    waiting = [one for one in answer.changes if _waits(one) and not confirm]
    refused = [one for one in answer.changes if one.kind is ChangeKind.REFUSED]
    would = "would be made" if answer.dry_run else "made"
    out.out(Text.assemble(f"{count(rules, 'rule')} in ", safe(directory), f"; {count(len(done), 'change')} {would}"))
    _print_changes(out, done)
    if waiting:
        out.heading("Waiting for --confirm: another volume stands there than the one access was given to")
        _print_changes(out, waiting)
    if refused:
        out.heading("Cannot be shared")
        for one in refused:
            out.sentence(f"{one.key} {one.path}: {one.reason}", label="  ")
    unread = tuple(one for one in answer.sources if one.problem is not None)
    if unread or not answer.sources:
        out.heading("Nothing new is shared from what cannot be read now")
        for line in source_lines(unread) or [Text("there is no word of any instance yet")]:
            out.out(Text.assemble("  ", line))
    if answer.idle:
        out.heading("Match no volume now")
        for where in answer.idle:
            out.out(Text.assemble("  ", safe(where)))


def _waits(change: AccessChange) -> bool:
    return change.kind is ChangeKind.CONFIRM


def _print_changes(out: Terminal, changes: list[AccessChange]) -> None:
    lines = iter(columns([_cells(one) for one in changes]))
    for key, group in itertools.groupby(changes, lambda one: one.key):
        out.out(safe(str(key), "bold"))
        for _ in group:
            out.out(Text.assemble("  ", next(lines)))


def _cells(change: AccessChange) -> list[Text]:
    word, style = _WORDS[change.kind]
    return [Text(word, style), Text(change.mode.value), safe(change.path), safe(change.by, "dim")]
