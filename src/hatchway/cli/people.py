"""How people are shown: who they are, and what is shared with them."""

from __future__ import annotations

from rich.text import Text

from hatchway.cli.listing import ACCESS_STYLE, ownership_text
from hatchway.cli.output import Terminal, columns
from hatchway.cli.sizes import size_remarks
from hatchway.cli.text import count, safe
from hatchway.wire.admin import Access, PersonStatus, PersonVolume


def person_line(person: PersonStatus) -> Text:
    """Login, full name, whether nobody is let in by it, number of sessions."""
    parts = [safe(person.login, "bold")]
    if person.full_name:
        parts.append(safe(person.full_name))
    if person.locked:
        parts.append(Text("locked", "yellow"))
    if person.expired:
        parts.append(Text("expired", "yellow"))
    if person.sessions:
        parts.append(Text(count(person.sessions, "session")))
    return Text("  ").join(parts)


def print_person_volumes(out: Terminal, person: PersonStatus) -> None:
    """What is shared with a person, a line each, and below it what there is to know."""
    cells = [_cells(volume) for volume in person.volumes]
    for volume, line in zip(person.volumes, columns(cells), strict=True):
        out.out(Text.assemble("  ", line))
        for remark in _remarks(volume):
            out.out(Text.assemble("      ", remark))
    if not person.volumes:
        out.out(Text("  nothing is shared", style="yellow"))


def _cells(volume: PersonVolume) -> list[Text]:
    folder = f"/{volume.folder}" if volume.folder else ""
    return [
        Text(volume.access.value, style=ACCESS_STYLE[volume.access]),
        safe(str(volume.key)),
        safe(f"{volume.path}{folder}"),
        safe(volume.name, "dim"),
    ]


def _remarks(volume: PersonVolume) -> list[Text]:
    found: list[Text] = []
    if volume.session_path is not None:
        found.append(Text.assemble(("in a session at ", "dim"), safe(volume.session_path)))
    if volume.folder:
        found.append(Text.assemble(("only its folder ", "dim"), safe(volume.folder)))
    found += size_remarks(volume)
    if (owned := ownership_text(volume.ownership)) is not None:
        found.append(Text(owned, style="dim"))
    if volume.access is Access.SUSPENDED:
        found.append(Text.assemble(("suspended: ", "yellow"), safe(volume.problem, "yellow")))
    if volume.refused:
        found.append(Text.assemble(safe(volume.refused, "yellow"), (": they are refused until that changes", "yellow")))
    if volume.key_source:
        found.append(Text("read-only, since keys may lie there that let somebody in", style="yellow"))
    return found
