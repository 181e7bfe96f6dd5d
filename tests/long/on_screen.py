"""What programs show on the desktop, by their accessibility interface: run by Debian's Python, which has it.

    on_screen.py show            one JSON document, a list of [window, role, name, text, x, y, width, height]
    on_screen.py press WINDOW NAME    press the button, tick the box or choose the option that is called so

Exit status 1 when there is nothing of that name.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from typing import Any

import gi

gi.require_version("Atspi", "2.0")
from gi.repository import Atspi, GLib  # noqa: E402 - only now is it known which version


def children(thing: Any) -> Iterator[Any]:
    for number in range(thing.get_child_count()):
        child = thing.get_child_at_index(number)
        if child is not None:
            yield child


def below(thing: Any) -> Iterator[Any]:
    """It, and all that is in it."""
    yield thing
    for child in children(thing):
        yield from below(child)


def things() -> Iterator[tuple[str, Any]]:
    """All that is there, each with the title of its window."""
    for program in children(Atspi.get_desktop(0)):
        for window in children(program):
            title = window.get_name()
            for thing in below(window):
                yield title, thing


def described(window: str, thing: Any) -> list[object]:
    text = thing.get_text_iface()
    content = "" if text is None else Atspi.Text.get_text(text, 0, Atspi.Text.get_character_count(text))
    component = thing.get_component_iface()
    place = [0, 0, 0, 0]
    if component is not None:
        found = Atspi.Component.get_extents(component, Atspi.CoordType.SCREEN)
        place = [found.x, found.y, found.width, found.height]
    return [window, thing.get_role_name(), thing.get_name() or "", content, *place]


def main() -> int:
    what, *rest = sys.argv[1:]
    if what == "show":
        shown = []
        for window, thing in things():
            try:
                shown.append(described(window, thing))
            except GLib.Error:  # it has gone meanwhile
                continue
        sys.stdout.write(json.dumps(shown))
        return 0
    window, name = rest
    for title, thing in things():
        action = thing.get_action_iface()
        if title == window and thing.get_name() == name and action is not None:
            Atspi.Action.do_action(action, 0)
            return 0
    return 1


if __name__ == "__main__":
    try:
        sys.exit(main())
    except GLib.Error:
        sys.exit(1)
