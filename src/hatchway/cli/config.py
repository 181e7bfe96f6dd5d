"""`hatchway config`: whether the configuration is right, and what it comes to. Works without a daemon."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import click
import msgspec
from rich.text import Text

from hatchway import config as configuration
from hatchway import trust
from hatchway.cli.app import App, json_option
from hatchway.cli.doctor.finding import Finding, Level
from hatchway.cli.output import Terminal
from hatchway.cli.text import count, safe
from hatchway.config import DEFAULT_PATH, Config, Problem
from hatchway.errors import ConfigError

_INDENT = 9


class Setting(msgspec.Struct, frozen=True):
    """One key. `given`: the file says it, if only what is the default anyway."""

    value: object
    default: object
    given: bool


@click.group()
def config() -> None:
    """Look at the configuration."""


@config.command()
@click.argument("file", required=False, type=click.Path(path_type=Path))
@json_option
@click.pass_obj
def check(app: App, file: Path | None) -> int:
    """Say whether the configuration is right, or all that is wrong with it.

    Looks at FILE; without it at that of --config, or the usual one. Who could have written it counts too, since it is
    not used if that is anybody but root. Warnings are of what is allowed but will not work as it is.

    Exit status 3 when something is wrong.
    """
    # The usual path may be named, and must exist then.
    path = file or app.config_path
    where = path or DEFAULT_PATH
    text = configuration.read(path, anybodys=True)
    problems: list[Problem] = []
    warnings: list[Finding] = []
    if text is not None and (found := configuration.untrusted(where)) is not None:
        problems.append(Problem(None, found))
    effective, wrong = configuration.examine(text or "")
    problems += wrong
    if not wrong:
        warnings = list(_warnings(effective, None if text is None else where))
    answer = {
        "file": None if text is None else str(where),
        "right": not problems,
        "problems": problems,
        "warnings": warnings,
    }
    app.emit(answer, lambda out: _print_checked(out, None if text is None else where, problems, warnings))
    return ConfigError.exit_code if problems else 0


def _warnings(effective: Config, file: Path | None) -> Iterator[Finding]:
    # Here, not above: they load the kernel's and sshd's packages.
    from hatchway.cli.doctor import engine, files, settings

    flaw = trust.flaw
    if file is not None:
        yield from settings.readable("configuration", str(file.absolute()))
    yield from settings.examine(effective, flaw=flaw)
    found = (engine.absent(effective), files.static(effective, flaw), files.access(effective, flaw=flaw))
    yield from (one for one in found if one is not None and one.level is not Level.OK)


def _print_checked(out: Terminal, file: Path | None, problems: list[Problem], warnings: list[Finding]) -> None:
    for problem in problems:
        out.sentence(problem.text, label=Text("wrong".ljust(_INDENT), "bold red"))
    for found in warnings:
        out.sentence(f"{found.name}: {found.text}", label=Text("warning".ljust(_INDENT), "yellow"))
        out.sentence(found.fix or "", label=Text(" " * _INDENT + "-> "))
    more = f"; {count(len(warnings), 'warning')}" if warnings else ""
    if problems:
        out.out(Text.assemble(safe(str(file)), f" is not right: {count(len(problems), 'problem')}{more}"))
    elif file is None:
        out.out(Text(f"There is no {DEFAULT_PATH}: built-in defaults are used{more}"))
    else:
        out.out(Text.assemble(safe(str(file)), f" is right{more}"))


@config.command()
@click.option("--changed", is_flag=True, help="Only what differs from the defaults.")
@json_option
@click.pass_obj
def show(app: App, changed: bool) -> None:
    """Show the configuration as it counts, defaults included.

    It is printed as a configuration file; behind each key stands whether it is set or as by default.
    """
    text = configuration.read(app.config_path)
    file = None if text is None else str(app.config_path or DEFAULT_PATH)
    effective = Config() if text is None else configuration.parse(text, str(file))
    settings = _settings(effective, configuration.given(text or ""))
    if changed:
        settings = {key: one for key, one in settings.items() if one.value != one.default}
    app.emit({"file": file, "settings": settings}, lambda out: _print_settings(out, file, settings))


def _settings(effective: Config, given: frozenset[str]) -> dict[str, Setting]:
    usual = Config()
    return {
        f"{section.name}.{field.name}": Setting(
            getattr(getattr(effective, section.name), field.name),
            getattr(getattr(usual, section.name), field.name),
            f"{section.name}.{field.name}" in given,
        )
        for section in msgspec.structs.fields(Config)
        for field in msgspec.structs.fields(section.type)
    }


def _print_settings(out: Terminal, file: str | None, settings: dict[str, Setting]) -> None:
    out.out(Text.assemble("# ", safe(file) if file else f"There is no {DEFAULT_PATH}: defaults"))
    before = ""
    for key, one in settings.items():
        section, _, name = key.partition(".")
        if section != before:
            out.out()
            out.out(Text(f"[{section}]", style="bold"))
            before = section
        note = "set" if one.given else "default"
        if one.value != one.default:
            note += f"; default {toml(one.default)}"
        out.out(Text.assemble(f"{name} = {toml(one.value)}", (f"  # {note}", "dim")))
    if not settings:
        out.out(Text("# Nothing differs from the defaults."))


def toml(value: object) -> str:
    """`value`, of a Config, as TOML has it. What is not printable is escaped."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, tuple):
        return f"[{', '.join(map(toml, value))}]"
    if isinstance(value, str):
        return f'"{"".join(map(_character, value))}"'
    return repr(value)


def _character(char: str) -> str:
    if char in '"\\':
        return f"\\{char}"
    if char.isprintable():
        return char
    return f"\\u{ord(char):04x}" if ord(char) < 1 << 16 else f"\\U{ord(char):08x}"
