"""The README's commands are the ones that CI and the scripts run, and do what it says of them."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
README = (ROOT / "README.md").read_text()


def two_commands() -> dict[str, list[str]]:
    """The commands under "Two commands", and the options each has there."""
    found = re.search(r"^## Two commands\n+```console\n(.*?)^```", README, re.MULTILINE | re.DOTALL)
    assert found is not None
    lines = re.findall(r"^\$ sudo (\S+)(.*?)(?:\s+#.*)?$", found[1], re.MULTILINE)
    assert len(lines) == len(found[1].splitlines())
    return {command: re.findall(r"\[(--[a-z]+)\]", options) for command, options in lines}


def statements(script: Path) -> list[str]:
    """The lines of a script that are no comments."""
    return [line for line in script.read_text().splitlines() if line.strip() and not line.lstrip().startswith("#")]


def test_which_they_are() -> None:
    assert two_commands() == {"scripts/demo": ["--check"], "scripts/test": ["--long"]}


@pytest.mark.parametrize("command", two_commands())
def test_they_can_be_run_and_take_these_options(command: str) -> None:
    script = ROOT / command
    assert os.access(script, os.X_OK)
    assert script.read_text().startswith("#!/usr/bin/env bash\n")
    head = re.match(r"(?:#.*\n)+", script.read_text())
    assert head is not None
    for option in two_commands()[command]:
        # In what it says of itself, and where it looks at its arguments.
        assert re.search(rf"^#   sudo {command}.*{option}\b", head[0], re.MULTILINE)
        assert any(re.search(rf"{option}\b", line) for line in statements(script))


def test_ci_runs_the_test_command_and_nothing_else() -> None:
    run = ROOT / ".ci" / "run"
    assert os.access(run, os.X_OK)
    assert statements(run) == ["set -eu", 'cd "$(dirname "$0")/.."', "exec scripts/test"]
    assert "scripts/test" in two_commands()


def test_the_long_tests_run_both_commands_on_both_releases() -> None:
    text = (ROOT / "scripts" / "test").read_text()
    # What --long does last; the package on booted hosts has a loop of its own, over the same two.
    (_, last) = text.split("\nif $long && [[ $# -eq 0 ]]; then\n")
    (releases,) = re.findall(r"^    for release in (.*); do$", last, re.MULTILINE)
    assert releases.split() == ["bookworm", "trixie"]
    assert f"releases=({releases})" in text
    bare = re.findall(r'^ +"\$CHECKOUT/scripts/bare-root" "\$release" -- (.*)$', text, re.MULTILINE)
    assert bare == ["scripts/demo --check", "scripts/test"]
    assert {command.split()[0] for command in bare} == set(two_commands())


def test_demo_says_how_it_is_used() -> None:
    done = subprocess.run(
        [ROOT / "scripts" / "demo", "--help"], capture_output=True, text=True, check=False, timeout=30
    )
    assert (done.returncode, done.stderr) == (0, "")
    named = set(re.findall(r"(?<![\w-])--[a-z]+", done.stdout))
    # Everything the README says it takes, there and elsewhere.
    said = set(re.findall(r"scripts/demo(?: \[?(--[a-z]+))", README)) | set(two_commands()["scripts/demo"])
    assert said == named
    wrong = subprocess.run(
        [ROOT / "scripts" / "demo", "--nothing"], capture_output=True, text=True, check=False, timeout=30
    )
    assert (wrong.returncode, wrong.stdout) == (2, "")
    assert wrong.stderr == done.stdout


@pytest.mark.parametrize("text", [ROOT / "README.md", *(ROOT / "docs").glob("*.md")], ids=lambda path: str(path.name))
def test_what_is_named_is_there(text: Path) -> None:
    for path in re.findall(r"(?<![\w/.])((?:scripts|bench|packaging|docs|tests|\.ci)/[\w./-]*\w)", text.read_text()):
        assert (ROOT / path).exists(), path
    for link in re.findall(r"\]\((?!https?:)([^)#]+)", text.read_text()):
        assert (text.parent / link).exists(), link


@pytest.mark.parametrize("text", [ROOT / "README.md", *(ROOT / "docs").glob("*.md")], ids=lambda path: str(path.name))
def test_headings_that_are_linked_are_there(text: Path) -> None:
    for link, heading in re.findall(r"\]\((?!https?:)([^)#]*)#([^)]+)\)", text.read_text()):
        target = text.parent / link if link else text
        headings = re.findall(r"^#+ (.+)$", target.read_text(), re.MULTILINE)
        names = {re.sub(r"[^\w -]", "", one.lower()).replace(" ", "-") for one in headings}
        assert heading in names, f"{link}#{heading}"
