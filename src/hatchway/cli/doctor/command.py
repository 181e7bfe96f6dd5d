"""`hatchway doctor`: the command."""

from __future__ import annotations

import click
from rich.text import Text

from hatchway.cli.app import App, json_option
from hatchway.cli.doctor.finding import Finding, Level
from hatchway.cli.output import Terminal
from hatchway.cli.text import count

_STYLE = {Level.OK: "green", Level.WARNING: "yellow", Level.FAILED: "bold red"}
_INDENT = 9


@click.command()
@json_option
@click.pass_obj
def doctor(app: App) -> int:
    """Find out what is wrong, and how to mend it.

    Changes nothing. Exit status 1 when something failed.
    """
    # Here, not above: the checks load the kernel's and sshd's packages, which no other command needs.
    from hatchway.cli.doctor.examine import examine

    findings = []
    for finding in examine(app):
        findings.append(finding)
        if not app.json:
            _print(app.out, finding)
    bad = [finding for finding in findings if finding.level is Level.FAILED]
    warnings = [finding for finding in findings if finding.level is Level.WARNING]
    answer = {"findings": findings, "failed": len(bad), "warnings": len(warnings)}
    app.emit(answer, lambda out: _print_sum(out, len(bad), len(warnings)))
    return 1 if bad else 0


def _print(out: Terminal, finding: Finding) -> None:
    out.sentence(
        f"{finding.name}: {finding.text}", label=Text(finding.level.value.ljust(_INDENT), _STYLE[finding.level])
    )
    if finding.fix is not None:
        out.sentence(finding.fix, label=Text(" " * _INDENT + "-> "))


def _print_sum(out: Terminal, bad: int, warnings: int) -> None:
    out.out()
    out.out(Text(f"{bad} failed, {count(warnings, 'warning')}", style="bold"))
