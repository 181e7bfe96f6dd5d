"""Every request of the admin socket that changes something or reveals a secret is told to the record: here, once.

A handler knows nothing of it, so that none can forget it.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection
from dataclasses import replace
from typing import Any

from hatchway.admin import sentences
from hatchway.admin.callers import Caller, Requests
from hatchway.admin.journal import Journal
from hatchway.errors import HatchwayError, UnfinishedError
from hatchway.model import EventKind, InstanceKey
from hatchway.registry.records import NewEvent
from hatchway.wire.admin import Changed, InstanceStatus, Prune, Pruned
from hatchway.wire.entry import Keys, Kick, Kicked, Password, SessionStatus, TakeKeyBack
from hatchway.wire.links import LinkMade, LinkRevoked
from hatchway.wire.people import PersonChanged, PersonRemoved

Handler = Callable[[Any, Caller], Awaitable[object]]


Subject = Callable[[str], Awaitable[tuple[str, str]]]
"""Which instance and login, "" for none, somebody means by a text: see Finding.subject."""


def audited(table: Requests, journal: Journal, subject: Subject, now: Callable[[], float]) -> Requests:
    """`table` with handlers that record what they did, or that it failed. `now` gives Unix time in seconds."""
    return {
        kind: row if kind in sentences.READING else replace(row, handler=_audited(row.handler, journal, subject, now))
        for kind, row in table.items()
    }


def _audited(handler: Handler, journal: Journal, subject: Subject, now: Callable[[], float]) -> Handler:
    async def audited(request: Any, caller: Caller) -> object:
        what = sentences.requested(request)
        if what is None:
            return await handler(request, caller)
        who, kind, asked = caller.origin, caller.kind, getattr(request, "instance", None) or ""
        try:
            # Now: when the answer is there, the instance may be forgotten.
            instance, login = await _about(request, subject)
        except Exception:
            # The handler meets it as well, and says so.
            instance, login = "", asked

        def record(outcome: str, *, done: bool = False) -> None:
            told = f"{what}{outcome}"
            journal.record(NewEvent(now(), kind, told, instance, login, who=who, done=done))

        try:
            answer = await handler(request, caller)
        except HatchwayError as exc:
            # Of several instances, as Prune has them, the others are as they were.
            record(f": {exc}", done=isinstance(exc, UnfinishedError) and not isinstance(request, Prune))
            raise
        except BaseException as exc:
            # Stopping may come between the change and the end of its handler.
            record(": internal error" if isinstance(exc, Exception) else ": stopped meanwhile")
            raise
        if isinstance(answer, Kicked):
            # Of whom they were, whatever was typed to name them.
            for session in answer.sessions:
                journal.record(_kicked(session, now(), kind, who))
            return answer
        instance, login = _subject(answer, instance, login)
        unfinished = isinstance(request, TakeKeyBack) and isinstance(answer, Keys) and answer.undelivered
        record(_result(answer, getattr(request, "volumes", ())), done=not unfinished)
        if isinstance(answer, Pruned):
            for one in answer.instances:
                journal.record(NewEvent(now(), kind, "forgotten", str(one.key), one.login, who=who))
        if isinstance(answer, PersonRemoved):
            # That it was shared with them stands there as well.
            for key in dict.fromkeys(key for key, _ in answer.grants):
                paths = ", ".join(path for one, path in answer.grants if one == key)
                told = f"{paths} no longer shared with {answer.login}, who was removed"
                journal.record(NewEvent(now(), kind, told, str(key), answer.login, who=who))
        return answer

    return audited


async def _about(request: object, subject: Subject) -> tuple[str, str]:
    """Which instance, or person, and login a request is about."""
    asked, login = getattr(request, "instance", None) or "", getattr(request, "login", None) or ""
    if not login:
        return await subject(asked) if asked else ("", "")
    # What is shared with a person concerns the instance, and is the person's.
    return (await subject(asked))[0] if asked else login, login


def _subject(answer: object, instance: str, login: str) -> tuple[str, str]:
    """Which instance and login an answer is of, as far as it says it."""
    if isinstance(answer, PersonChanged):
        return str(answer.key or answer.person.login), answer.person.login
    if isinstance(answer, PersonRemoved):
        return answer.login, answer.login
    if isinstance(answer, LinkMade | LinkRevoked):
        return str(answer.link.key), answer.link.login
    found = getattr(answer, "instance", None)
    if isinstance(found, InstanceStatus):
        return str(found.key), found.login or login
    key, named = getattr(answer, "key", None), getattr(answer, "login", None)
    return str(key) if isinstance(key, InstanceKey) else instance, named if isinstance(named, str) else login


def _result(answer: object, named: Collection[str]) -> str:
    """What an answer tells that its request, which `named` these volumes, did not."""
    if isinstance(answer, Changed | PersonChanged):
        more = [path for path in answer.changed if path not in named]
        return f": {', '.join(more)}" if more else ""
    if isinstance(answer, LinkMade):
        return f": it is called {answer.link.name}"
    if isinstance(answer, Keys | Password):
        changed = (*answer.changed, *answer.taken_back) if isinstance(answer, Keys) else ()
        not_ended = f"; sessions by the one before are not ended yet: {answer.not_ended}" if answer.not_ended else ""
        return (f": {', '.join(changed)}" if changed else "") + not_ended
    return ""


def _kicked(session: SessionStatus, at: float, kind: EventKind, who: str) -> NewEvent:
    what = sentences.requested(Kick(sessions=(session.id,))) or ""
    # Else it is a person's, whose sessions the journal knows by their login.
    instance = "" if session.key is None else str(session.key)
    return NewEvent(at, kind, what, instance, session.login, address=session.address, who=who)
