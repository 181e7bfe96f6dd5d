"""Where output goes and in which form: text for people, or one JSON document.

Text is never cut or broken to fit a width, since what is shown is there to be copied: a terminal wraps long lines
itself. Colours only on a terminal (and never with NO_COLOR). JSON is ASCII: every other character is escaped.
"""

from __future__ import annotations

import json
import sys
import textwrap
from typing import Any, NoReturn

import msgspec
from rich.console import Console, RenderableType
from rich.text import Text

from hatchway.printable import escaped

_UNBROKEN = 1_000_000
"""Columns: wider than anything printed."""


class Terminal(Console):
    """A console that neither interprets what it prints nor ends the process when its reader is gone."""

    def __init__(self, *, stderr: bool = False) -> None:
        super().__init__(stderr=stderr, highlight=False, markup=False, emoji=False, soft_wrap=True)
        self.visible_width = self.width
        """Columns a person sees; rich itself must believe in more, since it crops trees at its width."""
        self.width = _UNBROKEN

    def on_broken_pipe(self) -> NoReturn:
        """Called within the handler of a BrokenPipeError: let it go on to `guard`."""
        raise BrokenPipeError

    def out(self, renderable: RenderableType = "") -> None:  # type: ignore[override]
        """Print one renderable and a newline, nothing of it cut or wrapped."""
        self.print(renderable)

    def heading(self, title: str) -> None:
        """A title with an empty line before it."""
        self.out()
        self.out(Text(title, style="bold"))

    def field(self, label: str, value: str | Text, *, width: int = 14) -> None:
        """An indented `label` and its `value`; `width` columns are the label's, two of them at least blank."""
        self.out(Text.assemble("  ", Text(f"{label}  ".ljust(width), style="dim"), value if value else "-"))

    def sentence(self, text: str, style: str = "", *, label: Text | str = "") -> None:
        """Print text behind `label` in lines of at most the visible width, the next ones indented like the first.

        Words, paths among them, are never broken.
        """
        first = Text.assemble(label)
        lines = textwrap.wrap(
            escaped(text),
            width=max(40, self.visible_width) - first.cell_len,
            break_long_words=False,
            break_on_hyphens=False,
        )
        for number, line in enumerate(lines):
            self.out(Text.assemble(first if number == 0 else " " * first.cell_len, (line, style)))


def document(value: object) -> None:
    """Print `value`, of msgspec structs, dicts and lists, as one JSON document on standard output."""
    plain: Any = msgspec.to_builtins(value, str_keys=True)
    sys.stdout.write(json.dumps(plain, indent=2, ensure_ascii=True) + "\n")


def columns(rows: list[list[Text]], gap: int = 2) -> list[Text]:
    """Rows as lines, all cells but the last of a row padded to their column's width (in terminal cells)."""
    widths: dict[int, int] = {}
    for row in rows:
        for place, cell in enumerate(row):
            widths[place] = max(widths.get(place, 0), cell.cell_len)
    lines = []
    for row in rows:
        cells = list(row)
        while cells and not cells[-1].plain:
            cells.pop()
        line = Text()
        for place, cell in enumerate(cells):
            line.append_text(cell)
            if place < len(cells) - 1:
                line.append(" " * (widths[place] - cell.cell_len + gap))
        lines.append(line)
    return lines
