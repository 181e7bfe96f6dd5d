"""The options by which a command that gives access limits it: --size and --files."""

from __future__ import annotations

import re

from msgspec import structs

from hatchway.errors import UsageError
from hatchway.model import NO_LIMITS, NewLimits, check_limits, parse_size

NONE = "none"
"""What takes a limit away."""


def parse_limits(size: str | None, files: str | None) -> NewLimits:
    """What the options say, each None when it was not given. Raises UsageError."""
    limits = NewLimits()
    if size is not None:
        limits = structs.replace(limits, size=None if size == NONE else parse_size(size))
    if files is not None:
        if files != NONE and re.fullmatch(r"[0-9]{1,15}", files, re.ASCII) is None:
            raise UsageError(f"files {files!r} is not allowed: expected a number, such as 100000, or none")
        limits = structs.replace(limits, files=None if files == NONE else int(files))
    check_limits(limits.after(NO_LIMITS))
    return limits
