"""How Hatchway is."""

from __future__ import annotations

from starlette.responses import Response
from starlette.routing import BaseRoute

from hatchway.web.visit import Doors, Visit
from hatchway.wire.admin import DaemonStatus, Status


def routes(doors: Doors) -> list[BaseRoute]:
    """Its page."""
    return [doors.get("/status", _status)]


async def _status(visit: Visit) -> Response:
    return visit.page("status.html", state=await visit.ask(DaemonStatus(), Status))
