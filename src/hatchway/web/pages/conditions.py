"""Under which conditions a login may be used: from where, until when, how often, and whether at all."""

from __future__ import annotations

from starlette.responses import Response
from starlette.routing import BaseRoute

from hatchway.errors import UsageError
from hatchway.model import SESSIONS_MAX
from hatchway.web.moments import from_form, to_form
from hatchway.web.visit import Doors, Visit, to_page
from hatchway.web.whose import OPERATED
from hatchway.wire.entry import WHY_MAX, ConditionsStatus, Lock, SetConditions, ShowConditions, Unlock


def routes(doors: Doors) -> list[BaseRoute]:
    """Its forms."""
    forms = (("conditions", _set), ("lock", _lock), ("unlock", _unlock))
    return [doors.post(f"{here}/{name}", form, to_page, kind=kind) for here, kind in OPERATED for name, form in forms]


async def _set(visit: Visit) -> Response:
    networks = tuple(visit.field("allowed_from", 10_000).replace(",", " ").split())
    before = await visit.ask(ShowConditions(visit.whose.asked), ConditionsStatus)
    text = visit.field("expires")
    # A field holds minutes; what was not changed keeps its seconds, and may be past.
    expires_at = before.expires_at if text == to_form(before.expires_at) else from_form(text, visit.now)
    request = SetConditions(
        instance=visit.whose.asked,
        allowed_from=networks,
        expires_at=expires_at,
        sessions_max=_sessions(visit.field("sessions_max").strip()),
    )
    await visit.ask(request, ConditionsStatus)
    visit.say("The conditions are set. Sessions that do not meet them have ended.")
    return visit.go(to_page(visit))


def _sessions(text: str) -> int | None:
    if not text:
        return None
    if not (text.isascii() and text.isdigit() and len(text) <= 4):
        raise UsageError(f"the number of sessions was not understood: expected 1 to {SESSIONS_MAX}, or nothing")
    return int(text)


async def _lock(visit: Visit) -> Response:
    await visit.ask(Lock(instance=visit.whose.asked, why=visit.field("why", WHY_MAX).strip()), ConditionsStatus)
    visit.say("The login is locked: nobody gets in, and its sessions have ended.")
    return visit.go(to_page(visit))


async def _unlock(visit: Visit) -> Response:
    await visit.ask(Unlock(visit.whose.asked), ConditionsStatus)
    visit.say("The login is unlocked.")
    return visit.go(to_page(visit))
