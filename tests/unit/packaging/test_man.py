"""The manual pages say all that docs/cli.md and the example configuration do, and man finds no fault in them."""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from importlib.machinery import SourceFileLoader
from pathlib import Path
from typing import Any

import click
import msgspec
import pytest

from hatchway.cli.main import cli
from hatchway.config import Config
from hatchway.errors import BY_CODE

ROOT = Path(__file__).parents[3]
PROGRAM = ROOT / "packaging" / "man"
PAGES = ("hatchway.8", "hatchway.toml.5")


def installed(name: str) -> str:
    """The path of a program; the test is skipped when it is not there, or fails when none may be."""
    found = shutil.which(name, path="/usr/bin:/usr/local/bin")
    if found is None:
        (pytest.fail if os.environ.get("HATCHWAY_REQUIRE_ALL") == "1" else pytest.skip)(f"{name} is not installed")
    return found


def make(directory: Path, **environment: str) -> dict[str, str]:
    """The pages' source, by name."""
    command = [sys.executable, "-I", str(PROGRAM), str(directory)]
    subprocess.run(command, check=True, timeout=60, env={**environment, "PATH": os.environ["PATH"]})
    return {path.name: path.read_text(encoding="ascii") for path in directory.iterdir()}


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    found: Path = tmp_path_factory.mktemp("man")
    make(found)
    return found


@pytest.fixture(scope="module")
def shown(directory: Path) -> dict[str, str]:
    """What man shows, by name: wide, so that nothing is broken into lines."""
    program = installed("man")
    texts = {}
    for name in PAGES:
        done = subprocess.run(
            [program, "--warnings", "-E", "UTF-8", "-l", str(directory / name)],
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
            env={"PATH": os.environ["PATH"], "LC_ALL": "C.UTF-8", "MANWIDTH": "1000"},
        )
        assert (done.returncode, done.stderr) == (0, ""), name
        texts[name] = done.stdout
    return texts


@pytest.fixture(scope="module")
def module() -> Any:
    loader = SourceFileLoader("packaging_man", str(PROGRAM))
    spec = importlib.util.spec_from_loader("packaging_man", loader)
    assert spec is not None
    found = importlib.util.module_from_spec(spec)
    before, sys.dont_write_bytecode = sys.dont_write_bytecode, True
    try:
        loader.exec_module(found)
    finally:
        sys.dont_write_bytecode = before
    return found


def commands(group: click.Group, path: str = "hatchway") -> Iterator[tuple[str, click.Command]]:
    for name, command in group.commands.items():
        if isinstance(command, click.Group):
            yield from commands(command, f"{path} {name}")
        else:
            yield f"{path} {name}", command


def test_these_pages_are_made(directory: Path) -> None:
    assert sorted(path.name for path in directory.iterdir()) == sorted(PAGES)
    for name in PAGES:
        assert (directory / name).read_text().startswith(f'.TH "{name.rpartition(".")[0].upper()}" "{name[-1]}" ""')


def test_nothing_but_a_directory_is_taken(tmp_path: Path) -> None:
    for arguments in ([], ["--help"], [str(tmp_path), "more"]):
        done = subprocess.run(
            [sys.executable, "-I", str(PROGRAM), *arguments], capture_output=True, text=True, check=False, cwd=tmp_path
        )
        assert (done.returncode, done.stderr) == (1, "usage: packaging/man OUTDIR\n")
    assert not list(tmp_path.iterdir())


def test_the_date_is_what_the_build_says(tmp_path: Path) -> None:
    for text in make(tmp_path, SOURCE_DATE_EPOCH="86400").values():
        assert '"1970-01-02"' in text.splitlines()[0]


def test_lexgrog_can_index_them(directory: Path) -> None:
    program = installed("lexgrog")
    for name, page in zip(PAGES, ("hatchway", "hatchway.toml"), strict=True):
        done = subprocess.run([program, str(directory / name)], capture_output=True, text=True, check=False, timeout=60)
        assert done.returncode == 0, done.stdout
        assert f': "{page} - ' in done.stdout


def test_every_command_and_option_is_there(shown: dict[str, str]) -> None:
    text = shown["hatchway.8"]
    for path, command in commands(cli):
        heading = re.search(rf"^   {path}\b.*$", text, re.MULTILINE)
        assert heading is not None, path
        section = re.split(r"^ {0,3}\S", text[heading.end() :], maxsplit=1, flags=re.MULTILINE)[0]
        for parameter in command.params:
            if isinstance(parameter, click.Argument):
                assert parameter.make_metavar(click.Context(command)) in heading[0]
            elif "--json" not in parameter.opts:
                for option in parameter.opts:
                    assert re.search(rf"^       .*(?<![\w-]){option}(?![\w-])", section, re.MULTILINE), (
                        f"{path} {option}"
                    )


def test_every_exit_status_is_there(shown: dict[str, str]) -> None:
    text = shown["hatchway.8"].partition("\nEXIT STATUS\n")[2]
    for code, error in BY_CODE.items():
        assert re.search(rf"^       {error.exit_code} {code}\s", text, re.MULTILINE), code


def test_every_setting_is_there(shown: dict[str, str]) -> None:
    text = shown["hatchway.toml.5"]
    for section in msgspec.structs.fields(Config):
        part = re.search(rf"^\[{section.name}\]\n(.*?)(?=^\S)", text, re.MULTILINE | re.DOTALL)
        assert part is not None, section.name
        assert "Takes effect: " in part[1]
        for field in msgspec.structs.fields(section.type):
            assert re.search(rf"^       {field.name} = \S.*\n +\S", part[1], re.MULTILINE), (
                f"{section.name}.{field.name}"
            )


def test_everything_said_is_there(shown: dict[str, str]) -> None:
    # Word for word, whatever stands between the words.
    def words(text: str) -> str:
        return re.sub(r"[^A-Za-z0-9]+", " ", text)

    docs = (ROOT / "docs" / "cli.md").read_text()
    docs = re.sub(r"\]\(([^)#]*)[^)]*\)", "]", docs)
    man = words(shown["hatchway.8"])
    for block in re.split(r"\n\n+", docs):
        if not block.startswith(("#", "|", "```")):
            assert words(block).strip() in man
    for row in re.findall(r"^\| (?!---)(.*) \|$", docs, re.MULTILINE):
        last = re.split(r"(?<!\\)\|", row)[-1]
        if last.strip() not in ("meaning", "what", "the key", "the volume"):
            assert words(last).strip() in man
    example, toml = (ROOT / "hatchway.toml.example").read_text(), words(shown["hatchway.toml.5"])
    for comment in re.findall(r"(?:^# .*\n)+", example, re.MULTILINE):
        for paragraph in re.split(r"\n(?=# Takes effect)", comment):
            assert words(paragraph).strip() in toml


def test_what_can_be_copied_stays_what_it_is(module: Any) -> None:
    assert module.plain("-o 'a' `b` \\x1b ~^ …") == r"\-o \(aqa\(aq \(gab\(ga \ex1b \(ti\(ha \[u2026]"
    assert module.usage("hatchway key add INSTANCE [FILE]") == (
        r"\fBhatchway key add \fP\fIINSTANCE\fP\fB [\fP\fIFILE\fP\fB]\fP"
    )
    assert module.inline("see [it](access.md#how) or [below](#when)") == "see it (access.md) or below"


@pytest.mark.parametrize("text", [".SH forged", "' forged"])
def test_no_text_is_a_request(module: Any, text: str) -> None:
    for line in (*module.markdown(text), *module.markdown(f"```\n{text}\n```")):
        assert line.startswith((".PP", ".RS", ".RE", ".EX", ".EE", r"\&", r"\(aq")), line


@pytest.mark.parametrize(
    "text",
    [
        "> quoted",
        "#### deep",
        "| a | b | c | d |\n| --- | --- | --- | --- |\n| 1 | 2 | 3 | 4 |",
        "![picture](x.png)",
        "- a\n  - b",
        "<b>bold</b>",
    ],
)
def test_what_it_has_no_form_for_is_an_error(module: Any, text: str) -> None:
    with pytest.raises(module.UnknownFormError):
        list(module.markdown(text))


def test_lists(module: Any) -> None:
    assert list(module.markdown("- one\n  more\n- two")) == [r".IP \(bu 3", "one more", r".IP \(bu 3", "two"]
    assert list(module.markdown("1. one\n2. two")) == [".IP 1. 4", "one", ".IP 2. 4", "two"]
