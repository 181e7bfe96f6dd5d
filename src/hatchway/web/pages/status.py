"""How Hatchway is."""

from __future__ import annotations

from starlette.responses import Response
from starlette.routing import BaseRoute

from hatchway.web.visit import Doors, Visit
from hatchway.wire.admin import DaemonStatus, Status
from hatchway.wire.people import ListPeople, People


def routes(doors: Doors) -> list[BaseRoute]:
    """Its page."""
    return [doors.get("/status", _status)]


async def _status(visit: Visit) -> Response:
    state = await visit.ask(DaemonStatus(), Status)
    people = (await visit.ask(ListPeople(), People)).people if state.locked or state.expired else ()
    return visit.page("status.html", state=state, people=frozenset(one.login for one in people))
