"""Lists of addresses as options give them: several options, or one with commas."""

from __future__ import annotations

from collections.abc import Iterable

from hatchway.errors import UsageError


def listed(option: str, values: Iterable[str], instead: str) -> tuple[str, ...]:
    """What each of `values` of `option` lists, together. Raises UsageError for an empty one, which says `instead`.

    That may be a variable of a script that is not set, and must not come to mean "from anywhere".
    """
    found = tuple(part.strip() for value in values for part in value.split(","))
    if not all(found):
        raise UsageError(f"{option}: an address is missing; {instead}")
    return found
