"""One finding: a thing that was looked at, how it is, and what to do about it. Pure."""

from __future__ import annotations

import enum

import msgspec


class Level(enum.StrEnum):
    """`WARNING`: works, but not all of it, or not for long. `FAILED`: people cannot log in, or must not."""

    OK = "ok"
    WARNING = "warning"
    FAILED = "failed"


class Finding(msgspec.Struct, frozen=True):
    """`name` says what was looked at, `text` how it is, `fix` what to do (None when nothing is to be done)."""

    name: str
    level: Level
    text: str
    fix: str | None = None


def ok(name: str, text: str) -> Finding:
    """All is well."""
    return Finding(name, Level.OK, text)


def warning(name: str, text: str, fix: str) -> Finding:
    """Something will be missing."""
    return Finding(name, Level.WARNING, text, fix)


def failed(name: str, text: str, fix: str) -> Finding:
    """Something is broken or unsafe."""
    return Finding(name, Level.FAILED, text, fix)
