"""What stands in a client's way, in words, and what mends it."""

from __future__ import annotations

from collections.abc import Iterable

from rich.text import Text

from hatchway.cli.output import Terminal
from hatchway.cli.text import command
from hatchway.wire.entry import Hindrance


def print_hindrances(out: Terminal, hindrances: Iterable[Hindrance]) -> None:
    """Each with the command that mends it on a line of its own, so that it can be copied."""
    for one in hindrances:
        out.sentence(one.text, "yellow", label="  ")
        if one.mend:
            out.out(Text.assemble("      ", command(one.mend)))
