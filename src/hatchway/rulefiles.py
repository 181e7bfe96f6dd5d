"""Access files: rules in TOML that give access to volumes, read whole and checked before any of them counts.

Knows nothing of what there is to share: see `admin.rules`.
"""

from __future__ import annotations

import os
import tomllib

import msgspec

from hatchway.config import decode
from hatchway.errors import ConfigError, UsageError
from hatchway.model import AccessRule, Limits, Ownership, check_limits, parse_owner, parse_size, parse_umask


class _Entry(msgspec.Struct, frozen=True, kw_only=True):
    project: str
    service: str
    volumes: tuple[str, ...]
    replica: int | None = None
    read_only: bool = False
    follow: bool = False
    owner: str | None = None
    umask: str | None = None
    size: str | None = None
    files: int | None = None


def names(directory: str) -> list[str]:
    """The paths of the access files in `directory`, `*.toml`, in the order of their names; hidden ones are none.

    Raises ConfigError when there is no such directory: that is a mistake, and not the wish to take all access away.
    """
    try:
        found = os.listdir(directory)
    except FileNotFoundError:
        raise ConfigError(f"{directory}: there is none; make it, empty if no file is to give access") from None
    except OSError as exc:
        raise ConfigError(f"{directory}: {exc.strerror}") from exc
    for name in found:
        if not name.isprintable():
            raise ConfigError(f"{directory} has a file {name!r}: give it a name of printable characters")
    return [f"{directory}/{name}" for name in sorted(found) if name.endswith(".toml") and not name.startswith(".")]


def read(directory: str) -> tuple[AccessRule, ...]:
    """The rules of all access files in `directory`, in the order of `names`.

    Raises ConfigError that names file, rule, key and what is allowed.
    """
    return tuple(rule for path in names(directory) for rule in _read(path))


def parse(text: str, origin: str) -> tuple[AccessRule, ...]:
    """The rules in the TOML `text`, which comes from the file `origin`. Raises ConfigError."""
    try:
        data = tomllib.loads(text)
    except tomllib.TOMLDecodeError as exc:
        raise ConfigError(f"{origin}: {exc}") from exc
    if unknown := sorted(data.keys() - {"access"}):
        raise ConfigError(f"{origin}: unknown key {unknown[0]!r}. A file holds rules, each beginning with [[access]]")
    entries = data.get("access", [])
    if not isinstance(entries, list):
        raise ConfigError(f"{origin}: each rule begins with [[access]], in two brackets")
    rules = []
    for number, raw in enumerate(entries, 1):
        where = f"{origin}, rule {number}"
        entry = decode(raw, _Entry, where)
        _check(entry, where)
        rules.append(
            AccessRule(
                where=where,
                project=entry.project,
                service=entry.service,
                volumes=entry.volumes,
                replica=entry.replica,
                read_only=entry.read_only,
                follow=entry.follow,
                ownership=_ownership(entry, where),
                limits=_limits(entry, where),
            )
        )
    return tuple(rules)


def _read(path: str) -> tuple[AccessRule, ...]:
    try:
        with open(path, encoding="utf-8") as file:
            text = file.read()
    except (OSError, UnicodeDecodeError) as exc:
        raise ConfigError(f"{path}: {exc}") from exc
    return parse(text, path)


def _ownership(entry: _Entry, where: str) -> Ownership:
    try:
        return Ownership(
            None if entry.owner is None else parse_owner(entry.owner),
            None if entry.umask is None else parse_umask(entry.umask),
        )
    except UsageError as exc:
        raise ConfigError(f"{where}: {exc}") from exc


def _limits(entry: _Entry, where: str) -> Limits:
    try:
        return check_limits(Limits(None if entry.size is None else parse_size(entry.size), entry.files))
    except UsageError as exc:
        raise ConfigError(f"{where}: {exc}") from exc


def _check(entry: _Entry, where: str) -> None:
    for key in ("project", "service"):
        if not getattr(entry, key):
            raise ConfigError(f"{where}: {key} = '' is not allowed: expected a name or a pattern, '*' for any")
    if not entry.volumes or "" in entry.volumes:
        raise ConfigError(
            f"{where}: volumes = {list(entry.volumes)!r} is not allowed: expected paths, names or patterns, '*' for any"
        )
    if entry.replica is not None and entry.replica < 1:
        raise ConfigError(f"{where}: replica = {entry.replica} is not allowed: expected a number from 1 on")
