"""`hatchway drop-in`: have the host's own sshd serve Hatchway's port, in place of one beside it."""

from __future__ import annotations

import difflib
import os
import shlex
import signal
from typing import TYPE_CHECKING

import click
import msgspec
from rich.text import Text

from hatchway.cli.app import App, json_option
from hatchway.cli.doctor.advice import HERE
from hatchway.cli.output import Terminal
from hatchway.cli.text import safe
from hatchway.config import Config
from hatchway.errors import ConflictError, RefusedError, UsageError

if TYPE_CHECKING:
    from hatchway.sshd.changeover import Change, Plan


class Told(msgspec.Struct, frozen=True):
    """What `--json` prints of a change. `changes` are unified diffs by file."""

    changes: dict[str, str]
    commands: tuple[str, ...]
    done: bool


class State(msgspec.Struct, frozen=True):
    """What `status` prints. `in_place`: the host's sshd is to serve the port; `problems` are why it may not do so as it
    should."""

    in_place: bool
    port: int
    problems: tuple[str, ...]


@click.group("drop-in")
def drop_in() -> None:
    """Have the host's own sshd serve Hatchway's port.

    Usually an sshd of Hatchway's own does, beside the host's, which is left alone. With the drop-in there is one sshd
    for all: less to run, but some settings, and the host keys, are the host's. 'docs/drop-in.md' has what that costs.
    """


_dry_run = click.option("--dry-run", is_flag=True, help="Only say what would be changed, line by line.")


@drop_in.command()
@_dry_run
@json_option
@click.pass_obj
def enable(app: App, dry_run: bool) -> None:
    """Have the host's own sshd serve Hatchway's port.

    Writes /etc/ssh/sshd_config.d/00-hatchway.conf and lines for Hatchway's logins into /etc/pam.d/sshd, and has sshd
    read them. Before that sshd must accept all of it, with nothing changed for its other ports; if these do not answer
    afterwards, all is put back. No session ends. Once more after a change in hatchway.toml or of the host's sshd.
    """
    # Here, not above: no other command has to load it.
    from hatchway.sshd import changeover

    _suitable()
    plan = changeover.to_enable(app.config)
    _carry_out(app, plan, dry_run)


@drop_in.command()
@_dry_run
@json_option
@click.pass_obj
def disable(app: App, dry_run: bool) -> None:
    """Take the drop-in away: Hatchway's own sshd serves its port again.

    The host's sshd is as it would be without Hatchway. No session ends.
    """
    from hatchway.sshd import changeover

    _suitable()
    plan = changeover.to_disable(app.config)
    _carry_out(app, plan, dry_run)


@drop_in.command()
@json_option
@click.pass_obj
def status(app: App) -> int:
    """Say which sshd serves Hatchway's port, and whether it is as it should be.

    Exit status 6 when it is not.
    """
    from hatchway.sshd import changeover, dropin

    _suitable()
    found = State(dropin.in_place(app.config), app.config.sshd.port, changeover.problems(app.config))
    app.emit(found, lambda out: _print_state(out, found))
    return ConflictError.exit_code if found.problems else 0


def _suitable() -> None:
    if not HERE.packaged:
        raise UsageError("the drop-in is for Hatchway installed as a package: 'hatchway run' has an sshd of its own")
    if os.geteuid() != 0:
        raise RefusedError("this reads and changes files of root's: run this command with sudo")


def _carry_out(app: App, plan: Plan, dry_run: bool) -> None:
    from hatchway.sshd import changeover

    told = Told(
        changes={change.path: _difference(change) for change in plan.changes},
        commands=tuple(shlex.join(command) for command in plan.commands),
        done=not dry_run and plan.needed,
    )
    if dry_run or not plan.needed:
        app.emit(told, lambda out: _print_plan(out, plan, told))
        return
    # The connection through which this was typed may be one of the host's sshd.
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    progress = Terminal(stderr=True)
    changeover.carry_out(plan, lambda line: progress.out(safe(f"  {line}", "dim")))
    app.emit(told, lambda out: _print_done(out, plan, app.config))


def _difference(change: Change) -> str:
    lines = difflib.unified_diff(
        (change.before or "").splitlines(keepends=True),
        (change.after or "").splitlines(keepends=True),
        "/dev/null" if change.before is None else change.path,
        "/dev/null" if change.after is None else change.path,
    )
    return "".join(lines)


def _print_plan(out: Terminal, plan: Plan, told: Told) -> None:
    from hatchway.sshd import dropin

    if not plan.needed:
        out.out(Text(_nothing(plan)))
        return
    out.out(Text("These files would be changed:"))
    for path, difference in told.changes.items():
        out.out()
        out.out(safe(path, "bold"))
        for line in difference.splitlines()[2:]:
            style = {"+": "green", "-": "red"}.get(line[:1], "dim")
            out.out(safe(line, style))
    out.out(Text("\nThen this would be run:"))
    for command in told.commands:
        out.out(Text(f"  {command}"))
    answering = ", ".join(dropin.address(*each) for each in (*plan.ours, *plan.theirs))
    if answering:
        out.sentence(f"All is put back unless sshd answers afterwards at {answering}.")


def _nothing(plan: Plan) -> str:
    if plan.enable:
        return "Nothing is to be done: the host's sshd serves Hatchway's port."
    return "Nothing is to be done: there is no drop-in."


def _print_done(out: Terminal, plan: Plan, config: Config) -> None:
    if plan.enable:
        out.out(
            Text(f"The host's own sshd serves port {config.sshd.port}. Its host keys are what clients see there now.")
        )
        out.sentence("Tell people who have connected before; 'hatchway show' has the fingerprints.", label="  ")
    else:
        out.out(Text(f"Hatchway's own sshd serves port {config.sshd.port}, with its own host keys."))


def _print_state(out: Terminal, found: State) -> None:
    whose = "The host's own sshd" if found.in_place else "Hatchway's own sshd, beside the host's,"
    out.out(Text(f"{whose} {'is to serve' if found.problems else 'serves'} port {found.port}."))
    for problem in found.problems:
        out.sentence(problem, "red", label="  ")
    if found.problems:
        out.out(Text(f"  mend it: hatchway drop-in {'enable' if found.in_place else 'disable'}"))
