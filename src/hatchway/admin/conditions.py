"""Under which conditions a login may be used: the admin socket's requests about them, and about open sessions."""

from __future__ import annotations

from dataclasses import replace

from msgspec import UNSET

from hatchway import addresses, log
from hatchway.access.decision import has_passed
from hatchway.admin.admission import Admission
from hatchway.admin.callers import Caller, Requests
from hatchway.admin.core import Core
from hatchway.admin.finding import Finding
from hatchway.errors import ConflictError, HostError, UsageError
from hatchway.model import SESSIONS_MAX, Login
from hatchway.registry.records import Conditions, LoginRecord
from hatchway.wire.entry import WHY_MAX, ConditionsStatus, Hindrance, Lock, SetConditions, ShowConditions, Unlock
from hatchway.wire.service import Request

ROOT = (0,)

LATEST = 253402300800.0
"""The end of the year 9999, Unix seconds: what has no such time has no date."""


def check_moment(at: float | None) -> None:
    """Check a time from outside, Unix seconds, None for never. Raises UsageError."""
    if at is not None and not 0 < at < LATEST:
        raise UsageError("no time that can be: from 1970 to 9999")


class ConditionRequests:
    """The requests, on one Core."""

    def __init__(self, core: Core, finding: Finding, admission: Admission) -> None:
        self._core = core
        self._finding = finding
        self._admission = admission
        self._logger = log.get()

    def table(self) -> Requests:
        """Their part of the admin socket's request table."""
        return {
            ShowConditions: Request(ROOT, self._show),
            SetConditions: Request(ROOT, self._set),
            Lock: Request(ROOT, self._lock),
            Unlock: Request(ROOT, self._unlock),
        }

    async def _show(self, request: ShowConditions, _caller: Caller) -> ConditionsStatus:
        return self.status(await self._finding.holder(request.instance))

    async def _set(self, request: SetConditions, caller: Caller) -> ConditionsStatus:
        record = await self._finding.holder(request.instance)
        networks = request.allowed_from
        if networks is not UNSET:
            networks = tuple(str(network) for network in addresses.networks(networks))
        most = request.sessions_max
        if most is not UNSET and most is not None and not 1 <= most <= SESSIONS_MAX:
            raise UsageError(f"{most} sessions at once: from 1 to {SESSIONS_MAX} can be allowed")
        if request.expires_at is not UNSET:
            check_moment(request.expires_at)

        def changed(before: Conditions) -> Conditions:
            return replace(
                before,
                allowed_from=before.allowed_from if networks is UNSET else networks,
                expires_at=before.expires_at if request.expires_at is UNSET else request.expires_at,
                sessions_max=before.sessions_max if most is UNSET else most,
            )

        await self._core.db(lambda registry: registry.change_conditions(record.login, changed))
        self._logger.info("conditions changed", login=record.login, by=caller.name)
        await self._admission.look_again(record.login, "the conditions are changed")
        return self.status(await self._finding.again(record))

    async def _lock(self, request: Lock, caller: Caller) -> ConditionsStatus:
        record = await self._finding.holder(request.instance)
        why = request.why.strip() or f"by {caller.name}"
        if len(why) > WHY_MAX:
            raise UsageError(f"a reason of {len(why)} characters: at most {WHY_MAX} are kept")
        if not await self._admission.lock(record.login, why):
            locked_why = self._admission.conditions(record).locked_why
            raise ConflictError(f"{record.login} is locked already: {locked_why}")
        self._logger.info("login locked", login=record.login, reason=why, by=caller.name)
        await self._admission.look_again(record.login, f"{record.login} is locked")
        if not self._admission.is_stored(record.login):
            raise HostError(
                f"{record.login} is locked and its sessions are ended, but that is not stored, since the registry's "
                "disk is full: a core that is started again knows nothing of it. It is tried until it is stored"
            )
        return self.status(await self._finding.again(record))

    async def _unlock(self, request: Unlock, caller: Caller) -> ConditionsStatus:
        record = await self._finding.holder(request.instance)
        if self._admission.conditions(record).locked_at is None:
            raise ConflictError(f"{record.login} is not locked")
        login = record.login
        await self._admission.unlock(login)
        self._logger.info("login unlocked", login=login, by=caller.name)
        return self.status(await self._finding.again(record))

    def status(self, record: LoginRecord) -> ConditionsStatus:
        """The conditions of `record`, to be shown."""
        conditions = self._admission.conditions(record)
        return ConditionsStatus(
            login=record.login,
            allowed_from=conditions.allowed_from,
            expires_at=conditions.expires_at,
            sessions_max=conditions.sessions_max,
            sessions_default=self._core.config.login.sessions_max,
            locked_at=conditions.locked_at,
            locked_why=conditions.locked_why,
            hindrances=_hindrances(record.login, conditions, self._core.now()),
        )


def _hindrances(login: Login, conditions: Conditions, now: float) -> tuple[Hindrance, ...]:
    """What keeps everybody out of `login` at `now`, Unix seconds."""
    found = []
    if conditions.locked_at is not None:
        found.append(
            Hindrance(f"nobody can enter: {login} is locked ({conditions.locked_why})", f"hatchway unlock {login}")
        )
    if has_passed(conditions.expires_at, now):
        found.append(Hindrance(f"nobody can enter: {login} has expired", f"hatchway access set {login} --expires WHEN"))
    return tuple(found)
