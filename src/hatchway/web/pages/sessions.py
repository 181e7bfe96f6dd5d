"""Who is in: all open sessions, and those of a login; ending them."""

from __future__ import annotations

from starlette.responses import Response
from starlette.routing import BaseRoute

from hatchway.errors import UsageError
from hatchway.web.visit import Doors, Visit, to_page
from hatchway.web.whose import ALL
from hatchway.wire.entry import Kick, Kicked, ListSessions, Sessions

ID_MAX = 200


def routes(doors: Doors) -> list[BaseRoute]:
    """Its page and forms."""
    return [
        doors.get("/sessions", _all),
        doors.post("/sessions/end", _end, lambda _visit: "/sessions"),
        *(doors.post(f"{here}/sessions/end", _end_of_login, to_page, kind=kind) for here, kind in ALL),
    ]


async def _all(visit: Visit) -> Response:
    found = await visit.ask(ListSessions(), Sessions)
    return visit.page("sessions.html", sessions=found.sessions)


async def _end(visit: Visit) -> Response:
    await _kick(visit, None)
    return visit.go("/sessions")


async def _end_of_login(visit: Visit) -> Response:
    await _kick(visit, visit.whose.asked)
    return visit.go(to_page(visit))


async def _kick(visit: Visit, asked: str | None) -> None:
    """End one session, or all of the login that requests call so. Raises UsageError when it is not said which."""
    session = visit.field("session", ID_MAX)
    if not session and (asked is None or visit.field("all") != "yes"):
        raise UsageError("choose a session")
    kicked = await visit.ask(Kick(instance=asked, sessions=(session,) if session else ()), Kicked)
    count = len(kicked.sessions)
    ended = (
        "No session was open"
        if count == 0
        else "The session has ended"
        if count == 1
        else f"{count} sessions have ended"
    )
    visit.say(f"{ended}. Whoever was in may come in again, unless the login is locked.")
