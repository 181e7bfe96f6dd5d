"""Access that ends, or comes back, because the catalog shows another volume than it was given to: for the record."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from hatchway.admin import shares
from hatchway.admin.inventory import Inventory
from hatchway.admin.journal import Journal
from hatchway.model import EventKind, InstanceKey, VolumeInfo
from hatchway.registry.records import InstanceRecord, NewEvent

BY = "catalog"


class Suspensions:
    """Remembers what was suspended when it last looked. What is so at the first look after a start is told again."""

    def __init__(self, journal: Journal, now: Callable[[], float]) -> None:
        self._journal = journal
        self._now = now
        self._suspended: dict[tuple[InstanceKey, str], str] = {}

    def look(self, records: Iterable[InstanceRecord], inventory: Inventory) -> None:
        """Record what has changed. `records` are those with grants.

        An instance that is not there, or is just being replaced, says nothing of its volumes.
        """
        before, self._suspended = self._suspended, {}
        for record in records:
            info = inventory.get(record.key)
            absent = info is None or info.provisional
            live = {} if absent else shares.live_grants(record, inventory)
            volumes = {} if info is None else {volume.path: volume for volume in info.volumes}
            for path in shares.by_path(record):
                at = (record.key, path)
                was = before.get(at, "")
                gone = was if absent else _why(volumes.get(path))
                why = "" if path in live else gone
                if why:
                    self._suspended[at] = why
                if why != was:
                    what = f"access to {path} suspended: {why}" if why else f"access to {path} is in force again"
                    self._tell(record, what)

    def _tell(self, record: InstanceRecord, what: str) -> None:
        self._journal.record(NewEvent(self._now(), EventKind.AUTO, what, str(record.key), record.login, who=BY))


def _why(volume: VolumeInfo | None) -> str:
    if volume is None:
        return "the instance has no volume there now"
    return "another volume stands there now" if volume.refusal is None else "what is there now cannot be shared"
