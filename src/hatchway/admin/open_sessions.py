"""The sessions that are open: who is in, what they do, and ending them. The admin socket's requests about them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from hatchway import log
from hatchway.admin.callers import Caller, Requests
from hatchway.admin.core import Core
from hatchway.admin.finding import Finding
from hatchway.credentials import keys
from hatchway.errors import HatchwayError, NotFoundError, UsageError
from hatchway.model import InstanceKey, Login
from hatchway.registry.records import SessionRecord
from hatchway.registry.store import Registry
from hatchway.wire.entry import Kick, Kicked, ListSessions, OpenPath, Sessions, SessionStatus
from hatchway.wire.host import SessionActivity
from hatchway.wire.service import Request

ROOT = (0,)


class SessionRequests:
    """The requests, on one Core."""

    def __init__(self, core: Core, finding: Finding) -> None:
        self._core = core
        self._finding = finding
        self._logger = log.get()

    def table(self) -> Requests:
        """Their part of the admin socket's request table."""
        return {
            ListSessions: Request(ROOT, self._list),
            Kick: Request(ROOT, self._kick),
        }

    async def _list(self, request: ListSessions, _caller: Caller) -> Sessions:
        login = None if request.instance is None else (await self._finding.holder(request.instance)).login
        activity: dict[str, SessionActivity] = {}
        try:
            activity = {one.session: one for one in await self._core.host.activity(login)}
        except HatchwayError as exc:
            # Who is in is known without hostd, what they do is not.
            self._logger.warning("what sessions do is not known", error=str(exc))
        return Sessions(sessions=await self._statuses(await self._open(login), activity))

    async def _kick(self, request: Kick, caller: Caller) -> Kicked:
        if request.instance is None and not request.sessions:
            raise UsageError("which sessions? Name an instance, or ids as 'hatchway sessions' shows them")
        login = None if request.instance is None else (await self._finding.holder(request.instance)).login
        found = await self._open(login)
        if request.sessions:
            found = [_called(found, text) for text in dict.fromkeys(request.sessions)]
        if not found:
            raise NotFoundError(f"nobody is in {request.instance}")
        statuses = await self._statuses(found, {})
        for name in sorted({session.login for session in found}):
            ids = tuple(session.id for session in found if session.login == name)
            # A session that is just opening is not known to hostd yet.
            async with self._core.turn(name):
                with self._core.ending(dict.fromkeys(ids, f"kicked by {caller.name}")):
                    await self._core.host.end_sessions(name, ids)
            self._logger.info("sessions ended", login=name, sessions=len(ids), by=caller.name)
        return Kicked(sessions=statuses)

    async def _open(self, login: Login | None) -> list[SessionRecord]:
        return list(self._core.still_open(await self._core.db(lambda registry: registry.open_sessions(login))))

    async def _statuses(
        self, found: Sequence[SessionRecord], activity: Mapping[str, SessionActivity]
    ) -> tuple[SessionStatus, ...]:
        instances = {record.login: record.key for record in await self._core.db(Registry.instances)}
        comments = {login: await self._comments(login) for login in {session.login for session in found}}
        return tuple(
            _status(
                session,
                instances.get(session.login),
                activity.get(session.id),
                comments[session.login].get(session.credential or "", ""),
            )
            for session in found
        )

    async def _comments(self, login: Login) -> dict[str, str]:
        """The comments of a login's keys, by fingerprint."""
        known = await self._core.db(lambda registry: registry.credentials(login))
        return {one.fingerprint: keys.parse_public(one.public).comment for one in known if one.fingerprint is not None}


def _called(found: Sequence[SessionRecord], text: str) -> SessionRecord:
    """The session whose id is, or begins with, `text`. Raises NotFoundError, UsageError."""
    matching = [session for session in found if text and session.id.startswith(text)]
    if not matching:
        raise NotFoundError(f"there is no session {text!r}; 'hatchway sessions' lists them")
    if len(matching) > 1:
        raise UsageError(f"{len(matching)} sessions begin with {text!r}: say more of it")
    return matching[0]


def _status(
    session: SessionRecord, key: InstanceKey | None, activity: SessionActivity | None, comment: str
) -> SessionStatus:
    return SessionStatus(
        id=session.id,
        key=key,
        login=session.login,
        address=session.address,
        method=session.method,
        opened_at=session.opened_at,
        credential=session.credential or "",
        comment=comment,
        read=None if activity is None else activity.read,
        written=None if activity is None else activity.written,
        idle_s=None if activity is None else activity.idle_s,
        files=() if activity is None else tuple(OpenPath(file.path, file.writing) for file in activity.files),
        partial=activity is not None and activity.partial,
    )
