"""Instances as their operator sees them: what is granted, who is in, what waits, and how large the volumes are."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from types import MappingProxyType

from msgspec import structs

from hatchway import log
from hatchway.access.decision import has_passed
from hatchway.admin import personal, shares
from hatchway.admin.conditions import ConditionRequests
from hatchway.admin.core import Core
from hatchway.admin.key_places import Place
from hatchway.admin.reconcile import Reconciler
from hatchway.errors import HatchwayError
from hatchway.model import Directory, InstanceInfo
from hatchway.registry.records import InstanceRecord, PersonRecord
from hatchway.wire.admin import InstanceStatus, PersonStatus
from hatchway.wire.host import Folder, FolderState, VolumeSize


class Statuses:
    """Of the instances of one Core."""

    def __init__(self, core: Core, reconciler: Reconciler, conditions: ConditionRequests) -> None:
        self._core = core
        self._reconciler = reconciler
        self._conditions = conditions

    def of(
        self,
        record: InstanceRecord | None,
        info: InstanceInfo | None,
        sessions: Mapping[str, int],
        sizes: Mapping[Directory, VolumeSize] = shares.UNKNOWN,
    ) -> InstanceStatus:
        """The instance, of which at least one of `record` and `info` is given. `sessions` are counts by login."""
        count = 0 if record is None else sessions.get(record.login, 0)
        key = record.key if record is not None else info.key if info is not None else None
        held_back = {} if key is None else self._reconciler.held_back(key)
        limits = self._core.limits or shares.NOTHING
        status = shares.status(
            record, info, self._core.inventory, count, held_back, limits, sizes, self._core.people_of
        )
        if record is None:
            return status
        conditions = self._conditions.status(record)
        expired = has_passed(conditions.expires_at, self._core.now())
        return structs.replace(status, locked=conditions.locked_at is not None, expired=expired)

    def of_person(
        self,
        record: PersonRecord,
        sessions: Mapping[str, int],
        sizes: Mapping[Directory, VolumeSize] = shares.UNKNOWN,
        folders: Mapping[Place, FolderState] = MappingProxyType({}),
    ) -> PersonStatus:
        """The person. `sessions` are counts by login, `folders` as `folders` gives them."""
        conditions, inventory = self._conditions.status(record), self._core.inventory
        limits = self._core.limits or shares.NOTHING
        return PersonStatus(
            login=record.login,
            full_name=record.full_name,
            created_at=record.created_at,
            volumes=personal.statuses(record, inventory, self._core.key_places, limits, sizes, folders),
            sessions=sessions.get(record.login, 0),
            locked=conditions.locked_at is not None,
            expired=has_passed(conditions.expires_at, self._core.now()),
        )

    async def folders(self, people: Iterable[PersonRecord]) -> dict[Place, FolderState]:
        """What is where the folders should be that are shared with these people; none when hostd does not say."""
        asked = personal.folder_places(people, self._core.inventory)
        if not asked or self._core.host.problem is not None:
            return {}
        request = tuple(Folder(one.directory.source, one.directory.birth, one.within) for one in asked)
        try:
            return dict(zip(asked, await self._core.host.folders(request), strict=True))
        except HatchwayError as exc:
            log.get().warning("hostd does not say which folders are there", error=str(exc))
            return {}

    async def sessions(self) -> dict[str, int]:
        """How many sessions each login has; none are known while hostd is away, which is a finding of its own."""
        counts: dict[str, int] = {}
        try:
            for login in (await self._core.host.status()).sessions.values():
                counts[login] = counts.get(login, 0) + 1
        except HatchwayError:
            pass
        return counts
