"""What the files of a systemd unit say: those of the package, and what an administrator has added to them."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

DIRECTORIES = tuple(f"{root}/systemd/system" for root in ("/etc", "/run", "/usr/local/lib", "/usr/lib", "/lib"))
"""Where systemd looks for units and what is added to them (systemd.unit(5)). What counts most comes first."""


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


def read(unit: str, directories: tuple[str, ...] = DIRECTORIES, section: str = "Service") -> dict[str, list[Value]]:
    """The settings in a section of a unit, each with all that was said since it was emptied: nothing, if it was last.

    Of most settings the last word counts; those that are lists (DeviceAllow=, ReadWritePaths=, …) are all of them.
    """
    found: dict[str, list[Value]] = {}
    for path in files(unit, directories):
        try:
            text = Path(path).read_text(encoding="utf-8", errors="replace")
        except OSError:
            continue
        for where, key, value in _assignments(text):
            if where != section:
                continue
            if value:
                found.setdefault(key, []).append(Value(value, path))
            else:
                found[key] = []
    return found


def said(unit: str, directories: tuple[str, ...] = DIRECTORIES) -> dict[str, Value]:
    """The settings in a unit's section [Service], each as it was said last. One that was emptied is left out."""
    return {key: values[-1] for key, values in read(unit, directories).items() if values}


def _assignments(text: str) -> Iterator[tuple[str, str, str]]:
    """Section, key and value of each line that is a setting (systemd.syntax(7))."""
    section = begun = ""
    for line in text.splitlines():
        # Comments stand between the lines of a setting as well, and go on for no second line.
        if line.lstrip().startswith(("#", ";")):
            continue
        if line.endswith("\\"):
            begun += f"{line[:-1]} "
            continue
        words, begun = f"{begun}{line}".strip(), ""
        if words.startswith("[") and words.endswith("]"):
            section = words[1:-1]
            continue
        key, equals, value = words.partition("=")
        if equals:
            yield section, key.strip(), value.strip()
