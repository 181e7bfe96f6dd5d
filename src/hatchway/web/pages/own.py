"""What a person sees of their own: what is shared with them, and their password."""

from __future__ import annotations

from starlette.responses import Response
from starlette.routing import BaseRoute

from hatchway.errors import SignInError, SignInWaitError, UsageError
from hatchway.web import whose
from hatchway.web.pages.instance import LATEST, attempt
from hatchway.web.visit import Doors, Visit, sentence
from hatchway.wire.admin import ConnectionInfo, Log, ReadLog, Show
from hatchway.wire.entry import Keys, ListKeys, ListSessions, PasswordKind, Sessions
from hatchway.wire.web import ViewerKind

PASSWORD_MAX = 512


def routes(doors: Doors) -> list[BaseRoute]:
    """Its pages and forms."""
    return [
        doors.get(whose.OWN, _own, kind=ViewerKind.PERSON),
        doors.get(f"{whose.OWN}/password", _ask_password, kind=ViewerKind.PERSON),
        doors.post(f"{whose.OWN}/password", _password, _to_password, kind=ViewerKind.PERSON),
    ]


async def _own(visit: Visit) -> Response:
    asked, problems = visit.whose.asked, list[str]()
    info = await visit.ask(Show(instance=asked), ConnectionInfo)
    keys = await attempt(visit, ListKeys(asked), Keys, problems)
    sessions = await attempt(visit, ListSessions(instance=asked), Sessions, problems)
    record = await attempt(visit, ReadLog(limit=LATEST, instance=asked), Log, problems)
    return visit.page(
        "own.html",
        whose=visit.whose,
        info=info,
        person=info.person,
        keys=keys,
        sessions=() if sessions is None else sessions.sessions,
        entries=() if record is None else tuple(reversed(record.entries)),
        problems=problems,
    )


def _to_password(_visit: Visit) -> str:
    return f"{whose.OWN}/password"


async def _ask_password(visit: Visit) -> Response:
    return await _form(visit)


async def _form(visit: Visit, status: int = 200, problem: str = "") -> Response:
    info = await visit.ask(Show(instance=visit.whose.asked), ConnectionInfo)
    return visit.page("own-password.html", status, whose=visit.whose, info=info, problem=problem)


async def _password(visit: Visit) -> Response:
    current, text, again = (visit.field(name, PASSWORD_MAX) for name in ("current", "password", "again"))
    kind = visit.field("kind")
    if kind not in (PasswordKind.RAW, PasswordKind.HASHED):
        raise UsageError("choose whether the password can be shown again")
    if not current or not text:
        return await _form(visit, 400, "Enter your current password, and a new one.")
    if text != again:
        return await _form(visit, 400, "The two new passwords are not the same; nothing was changed.")
    try:
        password = await visit.change_password(current, text, PasswordKind(kind))
    except SignInError as exc:
        return await _form(visit, 403, sentence(str(exc)))
    except SignInWaitError as exc:
        return await _form(visit, 429, sentence(str(exc)))
    except UsageError as exc:
        return await _form(visit, 400, sentence(str(exc)))
    visit.say("Your password is changed. You stay signed in here; everywhere else you have to sign in again.")
    if password.not_ended:
        visit.say(f"Sessions by the one before go on for now: {password.not_ended}.", good=False)
    return visit.go(f"{whose.OWN}/connect")
