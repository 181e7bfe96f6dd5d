"""What the files of a systemd unit say: those of the package, and what an administrator has added to them."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from hatchway.cli.doctor import settings

DIRECTORIES = settings.UNIT_DIRECTORIES
"""What counts most comes first."""


@dataclass(frozen=True, slots=True)
class Value:
    """What a setting is, and the file that says it."""

    text: str
    file: str


def files(unit: str, directories: tuple[str, ...] = DIRECTORIES) -> list[str]:
    """The files of a service, in the order in which systemd reads them (systemd.unit(5))."""
    found = next((path for one in directories if os.path.lexists(path := f"{one}/{unit}")), None)
    # A file hides those of its name that count less: of all units, of all with this beginning, of this one.
    added: dict[str, str] = {}
    for owner in _owners(unit):
        for directory in reversed(directories):
            try:
                names = os.listdir(f"{directory}/{owner}.d")
            except OSError:
                continue
            added.update({name: f"{directory}/{owner}.d/{name}" for name in names if name.endswith(".conf")})
    return [*([found] if found else []), *(added[name] for name in sorted(added))]


def _owners(unit: str) -> Iterator[str]:
    """Whose drop-ins count for a unit: `service`, `a-.service`, `a-b-.service`, `a-b-c.service`."""
    name, _, kind = unit.rpartition(".")
    yield kind
    words = name.split("-")
    for number in range(1, len(words)):
        yield f"{'-'.join(words[:number])}-.{kind}"
    yield unit


def said(unit: str, directories: tuple[str, ...] = DIRECTORIES) -> dict[str, Value]:
    """The settings in a unit's section [Service], each as it was said last. One that was emptied is left out."""
    found: dict[str, Value] = {}
    for path in files(unit, directories):
        try:
            text = Path(path).read_text(encoding="utf-8", errors="replace")
        except OSError:
            continue
        section = ""
        for line in text.replace("\\\n", " ").splitlines():
            words = line.strip()
            if words.startswith("["):
                section = words
            elif section == "[Service]" and not words.startswith(("#", ";")):
                key, equals, value = words.partition("=")
                if not equals:
                    continue
                if value.strip():
                    found[key.strip()] = Value(value.strip(), path)
                else:
                    found.pop(key.strip(), None)
    return found
