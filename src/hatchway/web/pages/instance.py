"""The page of one instance, with everything an operator does about it."""

from __future__ import annotations

from typing import TypeVar

import msgspec
from starlette.responses import Response
from starlette.routing import BaseRoute

from hatchway.errors import HatchwayError, NotFoundError, NotRunningError, SignedOutError
from hatchway.model import InstanceKey
from hatchway.web.visit import Doors, Visit, sentence
from hatchway.web.whose import OF_INSTANCE
from hatchway.wire.admin import ConnectionInfo, InstanceStatus, Listing, ListInstances, Log, ReadLog, Show
from hatchway.wire.entry import Keys, ListKeys, ListSessions, Sessions

T = TypeVar("T")

LATEST = 8
"""Events of the log on an instance's page."""


def routes(doors: Doors) -> list[BaseRoute]:
    """Its page."""
    return [doors.get(OF_INSTANCE, _instance)]


async def find(visit: Visit) -> InstanceStatus:
    """The instance that the path names. Raises NotFoundError."""
    key = visit.instance
    listing = await visit.ask(ListInstances(), Listing)
    found = next((one for one in listing.instances if one.key == key), None)
    if found is None:
        raise NotFoundError(f"there is no instance {_short(key)}, or nothing of it is shared any more")
    return found


def _short(key: InstanceKey) -> str:
    text = str(key)
    return text if len(text) <= 200 else f"{text[:200]}…"


async def _instance(visit: Visit) -> Response:
    instance = await find(visit)
    key = str(instance.key)
    problems: list[str] = []
    info = keys = sessions = None
    if instance.login is not None:
        info = await attempt(visit, Show(instance=key), ConnectionInfo, problems)
        keys = await attempt(visit, ListKeys(key), Keys, problems)
        sessions = await attempt(visit, ListSessions(instance=key), Sessions, problems)
    record = await attempt(visit, ReadLog(limit=LATEST, instance=key), Log, problems)
    return visit.page(
        "instance.html",
        whose=visit.whose,
        instance=instance if info is None else info.instance,
        info=info,
        keys=keys,
        sessions=() if sessions is None else sessions.sessions,
        entries=() if record is None else tuple(reversed(record.entries)),
        problems=problems,
    )


async def attempt(visit: Visit, request: msgspec.Struct, answer: type[T], problems: list[str]) -> T | None:
    """A part of the page; the others are of use without it."""
    try:
        return await visit.ask(request, answer)
    except (SignedOutError, NotRunningError):
        raise
    except HatchwayError as exc:
        if not isinstance(exc, NotFoundError):
            problems.append(sentence(str(exc)))
        return None
