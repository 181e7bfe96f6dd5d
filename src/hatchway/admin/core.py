"""What the core does with what it knows: registry, inventory and hostd kept in step.

Concurrency: the registry is used from one worker thread at a time. Changes of what is shared happen under one lock,
so that hostd always hears the latest state last.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

import trio
from msgspec import structs

from hatchway import log
from hatchway.admin import shares
from hatchway.admin.hostlink import HostLink
from hatchway.admin.inventory import Inventory
from hatchway.config import Config
from hatchway.credentials.sealing import SealingKey
from hatchway.errors import HatchwayError
from hatchway.model import Mode, Snapshot, VolumeInfo, VolumeKind
from hatchway.registry.records import InstanceRecord
from hatchway.registry.store import Registry
from hatchway.wire.host import HostStatus, UserRecord, View

T = TypeVar("T")

SESSIONS_KEPT_S = 90 * 86400.0
"""How long ended sessions are remembered."""


class Core:
    """Everything the core holds. `now` gives Unix time in seconds."""

    def __init__(
        self,
        config: Config,
        registry: Registry,
        sealing: SealingKey,
        inventory: Inventory,
        host: HostLink,
        now: Callable[[], float] = time.time,
    ) -> None:
        self.config = config
        self.registry = registry
        self.sealing = sealing
        self.inventory = inventory
        self.host = host
        self.now = now
        self._registry_turn = trio.CapacityLimiter(1)
        self._sync_lock = trio.Lock()
        self._latest: dict[str, Snapshot] = {}
        self._applied: dict[str, tuple[View, ...]] = {}
        self._logger = log.get()

    async def db(self, call: Callable[[Registry], T]) -> T:
        """Run `call` with the registry in its thread."""
        return await trio.to_thread.run_sync(call, self.registry, limiter=self._registry_turn)

    def user_record(self, record: InstanceRecord) -> UserRecord:
        """What NSS says of an instance's login."""
        views = shares.host_views(record, self.inventory)
        return UserRecord(record.login, record.uid, shares.start_directory(views))

    async def feed(self, snapshot: Snapshot) -> None:
        """Take the catalog's news, and take away at once what it shows to be another's."""
        self._latest[snapshot.source] = snapshot
        try:
            self.inventory.feed(await self._identified(snapshot))
            await self.sync()
        except HatchwayError as exc:
            # Not the catalog's fault; the link to hostd reports it, and repeats this when hostd is back. Until then
            # what is known stays: nobody new can enter without hostd, and open sessions need not end.
            self._logger.warning("hostd not told of the catalog's news", error=str(exc))
            if not self.inventory.fed(snapshot.source):
                self.inventory.feed(snapshot)

    async def _identified(self, snapshot: Snapshot) -> Snapshot:
        """`snapshot` with each volume's `created` from the host: which directory it is, not what the engine says.

        An engine's creation time is not enough: before Docker 23.0 it was the time of the directory's last change,
        and it has a resolution of a second. Raises HatchwayError when hostd does not answer.
        """
        paths = {
            volume.source
            for info in snapshot.instances
            for volume in info.volumes
            if volume.kind is VolumeKind.VOLUME and volume.refusal is None and volume.source is not None
        }
        if not paths:
            return snapshot
        births = await self.host.births(tuple(sorted(paths)))

        def identified(volume: VolumeInfo) -> VolumeInfo:
            if volume.kind is not VolumeKind.VOLUME or volume.refusal is not None:
                return volume
            birth = births.get(volume.source or "")
            if birth is None:
                refusal = f"its directory {volume.source} cannot be opened below host.volume_roots"
                return structs.replace(volume, created="", refusal=refusal)
            return structs.replace(volume, created=birth)

        instances = tuple(
            structs.replace(info, volumes=tuple(identified(volume) for volume in info.volumes))
            for info in snapshot.instances
        )
        return structs.replace(snapshot, instances=instances)

    async def sync(self, *, everything: bool = False) -> None:
        """Make hostd publish and show what the registry and the inventory say now.

        `everything` tells hostd also what it should know already. Raises HatchwayError when hostd did not take it.
        """
        async with self._sync_lock:
            records = await self.db(Registry.instances)
            shared = [record for record in records if record.grants]
            wanted: dict[str, tuple[View, ...]] = {record.login: self._views_for_open(record) for record in shared}
            changed = {
                login: views for login, views in wanted.items() if everything or self._applied.get(login) != views
            }
            withdrawn = [login for login in self._applied if login not in wanted]
            if not (everything or changed or withdrawn):
                return
            try:
                for login in withdrawn:
                    await self.host.apply(login, ())
                for login, views in changed.items():
                    await self.host.apply(login, views)
                await self.host.publish(tuple(self.user_record(record) for record in shared))
            except HatchwayError:
                self._applied.clear()
                raise
            self._applied = wanted

    def _views_for_open(self, record: InstanceRecord) -> tuple[View, ...]:
        """What sessions that are open now may go on to see.

        An instance that is not there at all may be between removal and recreation: nobody new enters, but a transfer
        goes on as long as its volume is granted. What it has mounted stays the volume it was.
        """
        if self.inventory.get(record.key) is not None:
            return shares.host_views(record, self.inventory)
        granted = shares.granted_places(record)
        kept = tuple(
            view
            for view in self._applied.get(record.login, ())
            if granted.get(view.path) is not None and (granted[view.path] is Mode.READ_ONLY) == view.read_only
        )
        return kept or shares.host_views(record, self.inventory)

    async def hostd_connected(self, status: HostStatus) -> None:
        """hostd is (again) there: tell it everything, and close the books on sessions it does not have."""
        for snapshot in list(self._latest.values()):
            self.inventory.feed(await self._identified(snapshot))
        await self.sync(everything=True)
        for session in await self.db(lambda registry: registry.open_sessions()):
            if session.id not in status.sessions:
                await self.session_ended(session.id)

    async def session_ended(self, session: str) -> None:
        """Write down that a session is over."""
        now = self.now()
        await self.db(lambda registry: registry.close_session(session, now))
        self._logger.info("session ended", session=session)
