"""The log: what happened, the latest first."""

from __future__ import annotations

from starlette.responses import Response
from starlette.routing import BaseRoute

from hatchway.errors import NotFoundError
from hatchway.model import EventKind
from hatchway.web import paths
from hatchway.web.visit import Doors, Visit, sentence
from hatchway.web.whose import OWN
from hatchway.wire.admin import LOG_MAX, Log, LogEntry, ReadLog
from hatchway.wire.web import ViewerKind

PAGE = 100

KINDS = {
    EventKind.LOGIN: "Logins",
    EventKind.REFUSED: "Refused",
    EventKind.END: "Ended sessions",
    EventKind.CHANGE: "Changes",
    EventKind.GUEST: "By people and links",
    EventKind.AUTO: "By rules and labels",
    EventKind.LOCKED: "Locked out",
    EventKind.LOST: "Lost events",
}


def routes(doors: Doors) -> list[BaseRoute]:
    """Its pages: everybody's, and a person's own."""
    return [doors.get("/log", _log), doors.get(f"{OWN}/log", _own, kind=ViewerKind.PERSON)]


async def _log(visit: Visit) -> Response:
    typed = visit.asked("instance")[:1000].strip()
    # Links name an instance in a form that any name gets through; what is typed goes before.
    instance = typed or (paths.decoded(visit.asked("of")) if visit.asked("of") else "")
    return await _page(visit, typed, instance, "/log")


async def _own(visit: Visit) -> Response:
    return await _page(visit, "", visit.whose.asked, f"{OWN}/log")


async def _page(visit: Visit, typed: str, instance: str, place: str) -> Response:
    kind = visit.asked("kind")
    kinds = (EventKind(kind),) if kind in list(EventKind) else ()
    asked = visit.asked("page")
    last = LOG_MAX // PAGE
    number = min(max(1, int(asked) if asked.isascii() and asked.isdigit() and len(asked) < 4 else 1), last)
    problem = ""
    entries: tuple[LogEntry, ...] = ()
    try:
        found = await visit.ask(ReadLog(limit=min(number * PAGE + 1, LOG_MAX), instance=instance, kinds=kinds), Log)
        entries = tuple(reversed(found.entries))
    except NotFoundError as exc:
        # Operators are here, not at a shell.
        problem = sentence(str(exc).replace("'hatchway ls' lists them", "“Instances” and “People” list what there is"))
    return visit.page(
        "log.html",
        entries=entries[(number - 1) * PAGE : number * PAGE],
        more=number < last and len(entries) > number * PAGE,
        at_end=number == last,
        number=number,
        place=place,
        own=place != "/log",
        instance=instance,
        typed=typed,
        kind=kinds[0] if kinds else "",
        kinds=KINDS,
        problem=problem,
        size=PAGE,
    )
