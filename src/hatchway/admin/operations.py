"""What is shared, and how things are: the admin socket's requests about instances and their volumes."""

from __future__ import annotations

from collections.abc import Sequence

from hatchway import __version__, log
from hatchway.admin import hindering, shares
from hatchway.admin.callers import Caller, Requests
from hatchway.admin.choosing import choose, wanted
from hatchway.admin.core import Core
from hatchway.admin.deliveries import Deliveries
from hatchway.admin.finding import Finding
from hatchway.admin.granting import Granting, check_new_limits, check_ownership
from hatchway.admin.measuring import Measuring
from hatchway.admin.reconcile import Reconciler
from hatchway.admin.rules import Change, same_hands
from hatchway.admin.secrets import unopened
from hatchway.admin.statuses import Statuses
from hatchway.errors import ConflictError, HatchwayError, HostError, UsageError
from hatchway.model import (
    KEEP_LIMITS,
    UNSAID,
    VOLUMES_MAX,
    InstanceKey,
    Mode,
    NewLimits,
    Origin,
    VolumeInfo,
)
from hatchway.registry.records import GrantRecord, InstanceRecord
from hatchway.registry.store import Registry
from hatchway.wire.admin import (
    LOG_MAX,
    Access,
    AccessChange,
    Applied,
    Apply,
    Changed,
    ChangeKind,
    Confirm,
    DaemonStatus,
    Disable,
    Enable,
    Forget,
    Forgotten,
    GoneInstance,
    InstanceStatus,
    Listing,
    ListInstances,
    Log,
    LogEntry,
    PersonStatus,
    Prune,
    Pruned,
    ReadLog,
    Status,
)
from hatchway.wire.service import Request

ROOT = (0,)

NUMBER_MAX = 2**63 - 1
"""The largest number that an event can have: SQLite knows none beyond."""


class Operations:
    """The requests, on one Core."""

    def __init__(
        self,
        core: Core,
        finding: Finding,
        granting: Granting,
        reconciler: Reconciler,
        measuring: Measuring,
        statuses: Statuses,
        deliveries: Deliveries,
    ) -> None:
        self._core = core
        self._finding = finding
        self._statuses = statuses
        self._deliveries = deliveries
        self._measuring = measuring
        self._granting = granting
        self._reconciler = reconciler
        self._logger = log.get()

    def table(self) -> Requests:
        """Their part of the admin socket's request table."""
        return {
            ListInstances: Request(ROOT, self._list),
            Enable: Request(ROOT, self._enable),
            Apply: Request(ROOT, self._apply),
            Confirm: Request(ROOT, self._confirm),
            Disable: Request(ROOT, self._disable),
            Forget: Request(ROOT, self._forget),
            Prune: Request(ROOT, self._prune),
            DaemonStatus: Request(ROOT, self._status),
            ReadLog: Request(ROOT, self._log),
        }

    # Looking

    async def _list(self, _request: ListInstances, _caller: Caller) -> Listing:
        return Listing(instances=await self._instances(), sources=self._core.inventory.sources())

    async def _instances(self) -> tuple[InstanceStatus, ...]:
        records = {record.key: record for record in await self._core.db(Registry.instances)}
        infos = {info.key: info for info in self._core.inventory.instances()}
        sessions, sizes = await self._statuses.sessions(), await self._measuring.sizes()
        # An instance that is gone is of interest only while something of it is shared.
        shared = {key for key, record in records.items() if record.grants} | {key for key, _ in self._core.people_of}
        keys_ = sorted(infos.keys() | shared)
        return tuple(self._statuses.of(records.get(key), infos.get(key), sessions, sizes) for key in keys_)

    async def _status(self, request: DaemonStatus, _caller: Caller) -> Status:
        problem = self._core.host.problem
        mounts = sessions = 0
        leftovers = None
        try:
            state = await self._core.host.status()
            mounts, sessions = len(state.mounts), len(state.sessions)
            if request.leftovers:
                leftovers = await self._core.host.leftovers()
        except HatchwayError as exc:
            problem = str(exc)
        records, people = await self._core.db(Registry.instances), await self._core.db(Registry.people)
        instances = await self._instances()
        logins: list[tuple[str, InstanceStatus | PersonStatus]] = [
            *((one.login, one) for one in instances if one.login is not None),
            *((one.login, self._statuses.of_person(one, {})) for one in people),
        ]
        volumes = [(instance.key, volume) for instance in instances for volume in instance.volumes]
        return Status(
            version=__version__,
            sources=self._core.inventory.sources(),
            logins=sum(bool(one.grants) for one in records) + sum(bool(one.grants) for one in people),
            sessions=sessions,
            mounts=mounts,
            host_problem=problem,
            leftovers=leftovers,
            rules=await self._core.db(Registry.rules),
            waiting=tuple(
                f"{key} {volume.path}"
                for key, volume in volumes
                if volume.refusal is None
                and (volume.held_back is not None or (volume.access is Access.SUSPENDED and volume.present))
            ),
            unshareable=tuple(
                f"{key} {volume.path}"
                for key, volume in volumes
                if volume.refusal is not None and (volume.held_back is not None or volume.access is Access.SUSPENDED)
            ),
            full=tuple(
                f"{instance.key} {volume.path}"
                for instance in instances
                for volume in instance.volumes
                if hindering.of_fullness(instance, volume)
            ),
            locked=tuple(login for login, status in logins if status.locked),
            expired=tuple(login for login, status in logins if status.expired),
            unopened=await self._core.db(lambda registry: unopened(registry, self._core.sealing)),
            sealing_lost=self._core.sealing.lost,
        )

    async def _log(self, request: ReadLog, _caller: Caller) -> Log:
        if not 1 <= request.limit <= LOG_MAX:
            raise UsageError(f"{request.limit} events of the record: ask for 1 to {LOG_MAX:,}")
        if request.after is not None and not 0 <= request.after <= NUMBER_MAX:
            raise UsageError(f"{request.after} is the number of no event: they are 0 to {NUMBER_MAX}")
        page = await self._core.journal.read(
            limit=request.limit,
            instance=await self._finding.recorded(request.instance) if request.instance else None,
            kinds=request.kinds,
            since=request.since,
            after=request.after,
        )
        entries = tuple(
            LogEntry(
                id=number,
                at=event.at,
                kind=event.kind,
                instance=event.instance,
                login=event.login,
                address=event.address,
                who=event.who,
                what=event.what,
                done=event.done,
                times=event.times,
                read=event.read,
                written=event.written,
            )
            for number, event in page.events
        )
        return Log(entries=entries, last=page.last)

    # Granting

    async def _enable(self, request: Enable, caller: Caller) -> Changed:
        info = await self._finding.present(request.instance)
        await self._core.host.reached()
        if self._core.host.problem is not None:
            raise HostError(f"nothing can be enabled now: {self._core.host.problem}")
        chosen = choose(info, request.volumes, every=request.every)
        known = await self._core.db(lambda registry: registry.instance(info.key))
        paths_after = {grant.path for grant in known.grants} if known is not None else set()
        if len(paths_after | {volume.path for volume in chosen}) > VOLUMES_MAX:
            raise ConflictError(f"at most {VOLUMES_MAX} volumes of one instance can be shared at once: name some")
        follow = self._following(chosen, request) if request.follow else ()
        kept = _kept(known, chosen) if request.limits != KEEP_LIMITS else {}
        # What the container itself may not change, or the static file says is read-only, stays so over SFTP.
        fixed = {grant.path for grant in kept.values() if grant.mode is Mode.READ_ONLY}
        fixed |= {volume.path for volume in chosen if request.read_only or volume.read_only}
        grants = [(v, Mode.READ_ONLY if v.path in fixed else Mode.READ_WRITE) for v in chosen]
        ownership = request.ownership
        owned = {grant.ownership for grant in kept.values()}
        if ownership == UNSAID and len(owned) == 1 and len(kept) == len(chosen):
            ownership = owned.pop()
        record, shown = await self._granting.grant(
            info.key,
            grants,
            origin=Origin.COMMAND,
            by=caller.name,
            follow=follow,
            ownership=check_ownership(ownership),
            limits=check_new_limits(request.limits),
        )
        paths = tuple(volume.path for volume in chosen)
        await self._core.hand_over("access is granted", record.login)
        status = self._statuses.of(record, info, await self._statuses.sessions())
        return Changed(
            instance=status,
            changed=paths,
            password=None if shown is None else shown.reveal(),
            other_hands=not same_hands(known, info),
        )

    def _following(self, chosen: Sequence[VolumeInfo], request: Enable) -> list[str]:
        """The paths whose grants are to follow. Raises ConflictError for a volume named that has a name."""
        anonymous = [volume.path for volume in chosen if volume.anonymous]
        named = [volume.path for volume in chosen if not volume.anonymous]
        if named and not request.every:
            raise ConflictError(
                f"{named[0]} is no anonymous volume: access to it stays on by itself when the container is made again "
                "with the same volume"
            )
        if not anonymous:
            raise ConflictError("none of these volumes is anonymous: there is nothing to follow")
        return anonymous

    async def _apply(self, request: Apply, caller: Caller) -> Applied:
        self._logger.info("apply", rules=len(request.rules), dry_run=request.dry_run, by=caller.name)
        outcome = await self._reconciler.apply(request.rules, dry_run=request.dry_run)
        waiting = (ChangeKind.CONFIRM, ChangeKind.REFUSED)
        # A rule that only stands elsewhere in its file now changes nothing for anybody.
        changes = [
            one
            for one in outcome.changes
            if one.kind is not ChangeKind.ALTER
            or (one.mode, one.ownership, one.limits) != (one.before, one.owned_before, one.limits_before)
        ]
        return Applied(
            changes=tuple(_told(one) for one in changes if one.kind not in waiting),
            waiting=tuple(_told(one) for one in changes if one.kind in waiting),
            pending=outcome.pending,
            problems=tuple(outcome.problems),
            idle=outcome.idle,
            sources=self._core.inventory.sources(),
            dry_run=request.dry_run,
        )

    async def _confirm(self, request: Confirm, caller: Caller) -> Changed:
        info = await self._finding.present(request.instance)
        await self._core.host.reached()
        if self._core.host.problem is not None:
            raise HostError(f"nothing can be confirmed now: {self._core.host.problem}")
        record = await self._core.db(lambda registry: registry.instance(info.key))
        volumes = {volume.path: volume for volume in info.volumes}
        paths = [volume.path for volume in wanted(info, request.volumes)] if request.volumes else list(volumes)
        suspended = [
            (volumes[grant.path], grant)
            for grant in (() if record is None else record.grants)
            if grant.origin is Origin.COMMAND and grant.path in paths and grant.identity != volumes[grant.path].identity
        ]
        for volume, grant in suspended:
            if volume.refusal is not None:
                raise ConflictError(f"{volume.path} cannot be shared: {volume.refusal}")
            mode = Mode.READ_ONLY if volume.read_only else grant.mode
            follow = (volume.path,) if grant.follows and volume.anonymous else ()
            await self._granting.grant(
                info.key,
                [(volume, mode)],
                origin=Origin.COMMAND,
                by=caller.name,
                follow=follow,
                ownership=grant.ownership,
                limits=NewLimits.exactly(grant.limits),
            )
        others = await self._reconciler.confirm(info.key, paths)
        confirmed = sorted({volume.path for volume, _ in suspended} | {change.path for change in others})
        if not confirmed:
            raise ConflictError(f"{info.key} has nothing there that waits to be confirmed")
        record = await self._core.db(lambda registry: registry.instance(info.key))
        assert record is not None
        self._logger.info("confirmed", instance=str(info.key), paths=confirmed, by=caller.name)
        await self._core.hand_over("access is confirmed", record.login)
        return Changed(
            instance=self._statuses.of(record, info, await self._statuses.sessions()), changed=tuple(confirmed)
        )

    async def _disable(self, request: Disable, caller: Caller) -> Changed:
        record = await self._finding.granted(request.instance)
        info = self._core.inventory.get(record.key)
        on = shares.by_path(record)
        listed = ", ".join(on) or "nothing"
        if not request.volumes and not request.every:
            raise UsageError(f"which volume of {record.key}? Access is on for: {listed}. Name some, or say --all")
        # A container that is gone has no label that could be changed.
        ours = (Origin.COMMAND,) if info is not None else (Origin.COMMAND, Origin.LABEL)
        here = [path for path, grants in on.items() if any(one.origin in ours for one in grants)]
        paths = here if request.every else shares.named(record.key, on, request.volumes)
        elsewhere = [one for path in (on if request.every else paths) if path not in here for one in on[path]]
        if elsewhere and not (request.every and here):
            raise ConflictError(f"{_from_elsewhere(elsewhere)}: nothing was changed")
        now, key = self._core.now(), record.key
        removed = await self._core.db(lambda registry: registry.disable(key, paths, now, ours))
        self._core.must_hear(record.login)
        self._logger.info("disabled", instance=str(key), login=record.login, paths=removed, by=caller.name)
        await self._core.hand_over("access is taken away in the registry", record.login)
        await self._deliveries.settle(record.login)
        after = await self._core.db(lambda registry: registry.instance(key))
        return Changed(instance=self._statuses.of(after, info, await self._statuses.sessions()), changed=removed)

    async def _forget(self, request: Forget, caller: Caller) -> Forgotten:
        key = await self._finding.key(request.instance)
        forgotten = await self._forget_key(key, caller)
        # A rule or label may want it shared again, under another login.
        self._core.tell_news()
        return forgotten

    async def _forget_key(self, key: InstanceKey, caller: Caller) -> Forgotten:
        people = [one for one in await self._core.db(Registry.people) if any(grant.key == key for grant in one.grants)]
        record = await self._core.db(lambda registry: registry.forget(key))
        self._core.forget_keys(key)
        paths = tuple(shares.by_path(record))
        logins = (record.login, *(person.login for person in people))
        for login in logins:
            self._core.must_hear(login)
        self._logger.info("forgotten", instance=str(key), login=record.login, paths=paths, by=caller.name)
        await self._core.hand_over(f"{key} is removed from the registry", *logins)
        await self._deliveries.settle(record.login)
        again = self._core.inventory.get(key) is not None and any(
            grant.origin is not Origin.COMMAND for grant in record.grants
        )
        return Forgotten(key=key, login=record.login, paths=paths, again=again)

    async def _prune(self, request: Prune, caller: Caller) -> Pruned:
        gone = await self._core.gone(request.gone_s)
        if not request.dry_run:
            for record in gone:
                await self._forget_key(record.key, caller)
        now = self._core.now()
        return Pruned(
            instances=tuple(GoneInstance(key=one.key, login=one.login, gone_s=now - one.seen_at) for one in gone),
            dry_run=request.dry_run,
        )

    # Telling


def _told(change: Change) -> AccessChange:
    return AccessChange(
        kind=change.kind,
        key=change.key,
        path=change.path,
        origin=change.origin,
        mode=change.mode,
        by=change.by,
        before=change.before,
        ownership=change.ownership,
        owned_before=change.owned_before,
        limits=change.limits,
        limits_before=change.limits_before,
        reason=change.reason,
    )


def _kept(known: InstanceRecord | None, chosen: Sequence[VolumeInfo]) -> dict[str, GrantRecord]:
    """The grants by command of the chosen volumes, by path: who gives a limit means no more than that."""
    identities = {volume.path: volume.identity for volume in chosen}
    return {
        grant.path: grant
        for grant in (() if known is None else known.grants)
        if grant.origin is Origin.COMMAND and identities.get(grant.path) == grant.identity
    }


def _from_elsewhere(grants: Sequence[GrantRecord]) -> str:
    """Where to take away what `disable` cannot, in a sentence without its full stop."""
    grant = grants[0]
    if grant.origin is Origin.FILE:
        return f"access to {grant.path} comes from {grant.granted_by}; take it out there, then 'hatchway apply'"
    return (
        f"access to {grant.path} comes from the container's label; make the container anew without it, or set "
        "access.labels = false"
    )
