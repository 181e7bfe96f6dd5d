"""What the catalog has told the core: the latest snapshot of each source, in memory only."""

from __future__ import annotations

import time
from collections.abc import Callable

from hatchway.model import InstanceInfo, InstanceKey, Snapshot, VolumeKind
from hatchway.wire.admin import SourceStatus


class Inventory:
    """The instances of all sources. `now` gives Unix time in seconds."""

    def __init__(self, now: Callable[[], float] = time.time) -> None:
        self._now = now
        self._snapshots: dict[str, Snapshot] = {}
        self._alive_at: dict[str, float] = {}
        self._instances: dict[InstanceKey, InstanceInfo] = {}
        self._clashes: dict[str, list[InstanceKey]] = {}
        self._fresh: frozenset[InstanceKey] = frozenset()

    def feed(self, snapshot: Snapshot) -> None:
        """Take the present state of one source."""
        self._snapshots[snapshot.source] = snapshot
        if snapshot.problem is None:
            self._alive_at[snapshot.source] = self._now()
        merged: dict[InstanceKey, InstanceInfo] = {}
        clashes: dict[str, list[InstanceKey]] = {}
        fresh: set[InstanceKey] = set()
        # Static first: what the operator wrote down keeps its key when a container claims the same.
        for source in sorted(self._snapshots, key=lambda name: (name != "static", name)):
            latest = self._snapshots[source]
            for info in latest.instances:
                if merged.setdefault(info.key, info) is not info:
                    clashes.setdefault(source, []).append(info.key)
                elif latest.problem is None or latest.partly:
                    fresh.add(info.key)
        self._fresh = frozenset(fresh)
        self._instances, self._clashes = merged, clashes

    def fed(self, source: str) -> bool:
        """Whether anything was ever heard of `source`."""
        return source in self._snapshots

    def alive(self, source: str) -> None:
        """The source is followed, and nothing has changed."""
        if source in self._snapshots:
            self._alive_at[source] = self._now()

    def instances(self) -> tuple[InstanceInfo, ...]:
        """All instances, in the order of their keys."""
        return tuple(self._instances[key] for key in sorted(self._instances))

    def get(self, key: InstanceKey) -> InstanceInfo | None:
        """One instance, None when no source has it."""
        return self._instances.get(key)

    def fresh(self) -> frozenset[InstanceKey]:
        """The instances of the sources that can be read now, be it with gaps."""
        return self._fresh

    def readable(self, kind: VolumeKind | None) -> bool:
        """Whether the source of volumes of this kind, or every source (None), can be read now, without a gap."""
        if kind is None:
            return bool(self._snapshots) and all(snapshot.problem is None for snapshot in self._snapshots.values())
        snapshot = self._snapshots.get(_source(kind))
        return snapshot is not None and snapshot.problem is None

    def knows(self, kind: VolumeKind) -> bool:
        """Whether the source of volumes of this kind has ever been read: only then does absence mean anything."""
        snapshot = self._snapshots.get(_source(kind))
        return snapshot is not None and (snapshot.problem is None or bool(snapshot.instances))

    def sources(self) -> tuple[SourceStatus, ...]:
        """How fresh each source is."""
        result = []
        for source, snapshot in sorted(self._snapshots.items()):
            alive_at = self._alive_at.get(source)
            problem = snapshot.problem
            if clashes := self._clashes.get(source):
                names = ", ".join(str(key) for key in clashes[:5])
                problem = f"{problem or ''} hidden, since another source has the same name: {names}".strip()
            result.append(
                SourceStatus(
                    source=source,
                    age_s=None if alive_at is None else max(0.0, self._now() - alive_at),
                    instances=len(snapshot.instances),
                    problem=problem,
                )
            )
        return tuple(result)


def _source(kind: VolumeKind) -> str:
    return "static" if kind is VolumeKind.DIRECTORY else "docker"
