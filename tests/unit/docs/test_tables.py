"""Tables that list what there is: modules, units, sockets, tiers of tests. What is added must be said there, too."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from tests import conftest

ROOT = Path(__file__).parents[3]
DOCS = ROOT / "docs"
PACKAGE = ROOT / "src" / "hatchway"
UNITS = ROOT / "systemd"


def rows(page: str, heading: str) -> list[list[str]]:
    """The cells of the first table under a heading of a page in docs/, that heading's row left out."""
    text = (DOCS / page).read_text(encoding="utf-8")
    _, found, rest = text.partition(f"\n{heading}\n")
    assert found, f"{page} has no heading {heading!r}"
    table = re.search(r"(?:^\|.*\n)+", rest, re.MULTILINE)
    assert table, f"{page} has no table under {heading!r}"
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in table[0].splitlines()]
    assert set("".join(cells[1])) <= {"-"}
    return cells[2:]


def names(cell: str) -> list[str]:
    """What stands in backquotes."""
    return re.findall(r"`([^`]+)`", cell)


def test_packages() -> None:
    """Every module of src/hatchway, and every package with its slash, is in one row."""
    told = [name.removesuffix(".py") for row in rows("architecture.md", "## Packages") for name in names(row[0])]
    modules = [path.stem for path in PACKAGE.glob("*.py") if path.stem != "__init__"]
    packages = [f"{path.parent.name}/" for path in PACKAGE.glob("*/__init__.py")]
    assert sorted(told) == sorted(modules + packages)


def services() -> set[str]:
    """The services, without their suffix."""
    return {path.stem for path in UNITS.glob("*.service")}


def test_what_the_package_starts() -> None:
    told = [name for row in rows("install.md", "## What it starts") for name in names(row[0])]
    assert sorted(told) == sorted([*(f"{name}.service" for name in services()), "hatchway-*.socket"])


def test_exposure_of_units() -> None:
    """Every unit that runs something of ours has its score."""
    assert {name for row in rows("security.md", "### The units") for name in names(row[0])} == services() - {"hatchway"}


def test_sockets() -> None:
    """Path, owner and mode of each are the unit's."""
    told = {names(row[0])[0]: row[1] for row in rows("security.md", "## Sockets and files") if ".sock`" in row[0]}
    made = {}
    for path in UNITS.glob("*.socket"):
        said = dict(
            line.split("=", 1) for line in path.read_text().splitlines() if re.match(r"(Listen|Socket)\w+=", line)
        )
        (listens,) = (value for key, value in said.items() if key.startswith("Listen"))
        made[listens] = f"{said['SocketUser']}:{said.get('SocketGroup', 'root')} {said['SocketMode']}"
    assert told == made


def test_tiers_of_tests() -> None:
    assert {name for row in rows("architecture.md", "## Tests") for name in names(row[0])} == {
        f"tests/{tier}" for tier in conftest.TIERS
    }


@pytest.mark.parametrize("page", ["architecture.md", "security.md", "failures.md", "posix.md"])
def test_modules_that_are_named_are_there(page: str) -> None:
    """`host/sizes.py` is src/hatchway/host/sizes.py, or stands at the top of the source."""
    told = set(re.findall(r"`([\w/]+\.py)`", (DOCS / page).read_text(encoding="utf-8")))
    assert [path for path in sorted(told) if not (PACKAGE / path).is_file() and not (ROOT / path).is_file()] == []
