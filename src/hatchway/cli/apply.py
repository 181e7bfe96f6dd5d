"""`hatchway apply`: make the access files count."""

from __future__ import annotations

import itertools

import click
from rich.text import Text

from hatchway import rulefiles
from hatchway.cli.app import App, json_option
from hatchway.cli.listing import ownership_text
from hatchway.cli.output import Terminal, columns
from hatchway.cli.sizes import limits_text
from hatchway.cli.status import source_lines
from hatchway.cli.text import count, safe
from hatchway.errors import ConfigError
from hatchway.model import AccessRule
from hatchway.wire.admin import AccessChange, Applied, Apply, ChangeKind

_WORDS = {
    ChangeKind.GRANT: ("give", "green"),
    ChangeKind.ALTER: ("change", "cyan"),
    ChangeKind.FOLLOW: ("follow", "cyan"),
    ChangeKind.WITHDRAW: ("take away", "red"),
}


@click.command()
@click.option("--dry-run", is_flag=True, help="Only show what would change.")
@json_option
@click.pass_obj
def apply(app: App, dry_run: bool) -> int:
    """Make the rules in the access files count, and none but these.

    From now on they give access to whatever comes to match them; what only earlier rules gave ends at once. Exit
    status 1 when something could not be done, and is tried again.
    """
    rules = read(app.config.access.dir)
    answer = app.ask(Apply(rules=rules, dry_run=dry_run), Applied)
    app.emit(answer, lambda out: _print(out, answer, len(rules), app.config.access.dir))
    return 1 if answer.problems else 0


def read(directory: str) -> tuple[AccessRule, ...]:
    """The rules of the access files in `directory`. Raises HatchwayError, also when not only root can change them."""
    # Here, not above: only this command needs sshd's package.
    from hatchway import trust

    files = rulefiles.names(directory)
    for path in (directory, *files):
        if (flaw := trust.flaw(path)) is not None:
            raise ConfigError(f"{flaw}: what gives access must be root's alone, with every directory above")
    return rulefiles.read(directory)


def _print(out: Terminal, answer: Applied, rules: int, directory: str) -> None:
    would = "would be made" if answer.dry_run else "made"
    out.out(
        Text.assemble(
            f"{count(rules, 'rule')} in ", safe(directory), f"; {count(len(answer.changes), 'change')} {would}"
        )
    )
    _print_changes(out, list(answer.changes))
    if answer.pending:
        out.out(Text(f"{answer.pending} of them are still being made: 'hatchway ls' shows how far that is", "yellow"))
    for problem in answer.problems:
        out.sentence(problem, "bold red")
    for kind, title in (
        (ChangeKind.CONFIRM, "Held back: look whose these are, then 'hatchway confirm INSTANCE'"),
        (ChangeKind.REFUSED, "Cannot be shared"),
    ):
        reasons = dict.fromkeys(f"{one.key} {one.path}: {one.reason}" for one in answer.waiting if one.kind is kind)
        if reasons:
            out.heading(title)
        for reason in reasons:
            out.sentence(reason, label="  ")
    unread = tuple(one for one in answer.sources if one.problem is not None)
    if unread or not answer.sources:
        out.heading("Nothing new is shared from what cannot be read now")
        for line in source_lines(unread) or [Text("there is no word of any instance yet")]:
            out.out(Text.assemble("  ", line))
    if answer.idle:
        out.heading("Match no volume now")
        for where in answer.idle:
            out.out(Text.assemble("  ", safe(where)))


def _print_changes(out: Terminal, changes: list[AccessChange]) -> None:
    lines = iter(columns([_cells(one) for one in changes]))
    for key, group in itertools.groupby(changes, lambda one: one.key):
        out.out(safe(str(key), "bold"))
        for _ in group:
            out.out(Text.assemble("  ", next(lines)))


def _cells(change: AccessChange) -> list[Text]:
    word, style = _WORDS[change.kind]
    mode = change.mode.value
    if change.kind is ChangeKind.ALTER and change.before is not None:
        mode = f"{change.before.value} -> {mode}" if change.before is not change.mode else mode
    owned = ownership_text(change.ownership) or ""
    if change.kind is ChangeKind.ALTER and change.ownership != change.owned_before:
        owned = owned or "owners and umask as usual"
    limited = limits_text(change.limits) or ""
    if change.kind is ChangeKind.ALTER and change.limits != change.limits_before:
        limited = f"{limits_text(change.limits_before) or 'no limit'} -> {limited or 'no limit'}"
    said = ", ".join(text for text in (owned, limited) if text)
    return [Text(word, style), Text(mode), safe(change.path), safe(change.by, "dim"), Text(said)]
