"""Where keys lie: what people must not write, since it may let somebody in, and what they must not read, since it is
private. Pure.

A directory is known by several names: its path on the host, where it is on its file system (which is the same for a
directory that is mounted in two places, and for one within another), and which one it is. Under whichever of them two
places meet, they are the same. What is asked is a few look-ups, however many places there are: it is asked for each
grant of each person, each time something changes.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType

from hatchway.model import Directory
from hatchway.registry.records import Delivery


@dataclass(frozen=True, slots=True)
class Place:
    """A directory of the host and a directory `within` it, relative to it; "" is itself."""

    directory: Directory
    within: str = ""


class KeyPlaces:
    """Those of a moment: the directories `sources`, in which keys may lie that let somebody in, and what was delivered.

    `whereabouts` are where directories are on their file systems, by path: see wire.host.Births.
    """

    def __init__(
        self,
        sources: Iterable[Directory] = (),
        deliveries: Iterable[Delivery] = (),
        whereabouts: Mapping[str, str] = MappingProxyType({}),
    ) -> None:
        self._whereabouts = whereabouts
        self._sources: set[str] = set()
        # The places themselves, and all that hold them.
        self._holding: set[str] = set()
        self._delivered: dict[str, Delivery] = {}
        for source in sources:
            for name in self._names(Place(source)):
                self._sources.add(name)
                self._holding.update(_with_outer(name))
        for delivery in deliveries:
            for name in self._names(Place(delivery.volume, delivery.directory)):
                self._delivered |= dict.fromkeys(_with_outer(name), delivery)

    def lets_in(self, place: Place) -> bool:
        """Whether whoever writes at `place` may write what lets somebody in."""
        names = self._names(place)
        return any(name in self._holding or not self._sources.isdisjoint(_with_outer(name)) for name in names)

    def shown(self, place: Place) -> Delivery | None:
        """The delivery whose private key whoever reads at `place` can read; None when there is none."""
        return next((self._delivered[name] for name in self._names(place) if name in self._delivered), None)

    def _names(self, place: Place) -> list[str]:
        directory, tail = place.directory, f"/{place.within}" if place.within else ""
        names = [f"path:{directory.source.rstrip('/')}{tail}"]
        if where := self._whereabouts.get(directory.source):
            names.append(f"at:{where.rstrip('/')}{tail}")
        if directory.birth:
            # Before the plus is by which volume one comes there: see host.sources.
            names.append(f"is:{directory.birth.partition('+')[2] or directory.birth}{tail}")
        return names


def _with_outer(name: str) -> Iterator[str]:
    """`name`, and those of the directories that hold it."""
    yield name
    while "/" in name:
        name = name.rpartition("/")[0]
        yield name
