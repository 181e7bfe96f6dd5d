"""What a person may use now: their grants, held against what the catalog sees. Pure.

A person's root has a directory for each instance, called by its login, and in it the volumes at the paths they have in
the container. So what is shared with a person later never changes where the rest stands.

What a person can write must let nobody in. Keys that lie in a volume whose root is somebody's .ssh may be valid for an
instance, so for people such volumes are read-only, and whatever holds or lies in them.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

from hatchway.admin import owners, shares
from hatchway.admin.inventory import Inventory
from hatchway.errors import ConflictError
from hatchway.model import (
    NO_LIMITS,
    Directory,
    InstanceKey,
    InstanceState,
    Limits,
    Mode,
    Owning,
    VolumeInfo,
    below,
)
from hatchway.registry.records import Delivery, PersonGrant, PersonRecord
from hatchway.wire.admin import Access, PersonVolume
from hatchway.wire.host import View, VolumeSize

ANOTHER = "another volume stands there than the one access was given to"


@dataclass(frozen=True, slots=True)
class Place:
    """A directory of the host and a directory `within` it, relative to it; "" is itself."""

    directory: Directory
    within: str = ""

    @property
    def path(self) -> str:
        """Where it is on the host."""
        return f"{self.directory.source}/{self.within}".rstrip("/")


def lies_in(inner: Place, outer: Place) -> bool:
    """Whether `inner` is `outer` or lies in it, by their paths or since one directory has two."""
    if below(inner.path, outer.path):
        return True
    same = inner.directory.birth != "" and inner.directory.birth == outer.directory.birth
    return same and below(f"/{inner.within}", f"/{outer.within}" if outer.within else "/")


def place_of(grant: PersonGrant) -> str:
    """Where a grant stands in its person's root."""
    return f"/{grant.instance_login}{grant.grant.path}" + (f"/{grant.folder}" if grant.folder else "")


def holds_keys(place: Place, sources: Iterable[Directory]) -> bool:
    """Whether whoever writes at `place` could write what one of `sources` is."""
    return any(lies_in(Place(one), place) or lies_in(place, Place(one)) for one in sources)


def shows_key(place: Place, deliveries: Iterable[Delivery]) -> Delivery | None:
    """The delivery whose private key whoever reads at `place` could read; None when there is none."""
    return next((one for one in deliveries if lies_in(Place(one.volume, one.directory), place)), None)


def seen(grant: PersonGrant, share: shares.Share) -> Place:
    """What a person sees by a grant that is in force."""
    return Place(Directory(share.source, share.created), grant.folder)


def by_volume(people: Iterable[PersonRecord]) -> dict[tuple[InstanceKey, str], tuple[str, ...]]:
    """With whom each volume is shared, in force or not: logins, by instance and path."""
    found: dict[tuple[InstanceKey, str], list[str]] = {}
    for person in people:
        for one in person.grants:
            found.setdefault((one.key, one.grant.path), []).append(person.login)
    return {at: tuple(logins) for at, logins in found.items()}


def live(record: PersonRecord, inventory: Inventory) -> dict[PersonGrant, shares.Share]:
    """Those of a person's grants that are in force, with what they give."""
    result = {}
    for grant in record.grants:
        info = inventory.get(grant.key)
        volume = _volume(grant, inventory)
        described = volume or grant.grant
        if not shares.in_force([grant.grant], volume, inventory) or described.source is None:
            continue
        try:
            ids = owners.now([grant.grant], info)
        except ConflictError:
            continue
        ownership = grant.grant.ownership
        result[grant] = shares.Share(described.source, described.created, grant.grant.mode, ownership, ids)
    # In the container a volume covers a directory of the same path in another one.
    whole = {place_of(grant) for grant in result if not grant.folder}
    return {grant: share for grant, share in result.items() if not grant.folder or place_of(grant) not in whole}


def host_views(record: PersonRecord, inventory: Inventory, sources: Collection[Directory]) -> tuple[View, ...]:
    """What a session of this person's shows, in the order of the paths; its limits are to be added. `sources` are
    Inventory.key_sources."""
    views = [_view(grant, share, inventory, sources) for grant, share in live(record, inventory).items()]
    return tuple(sorted(views, key=lambda view: view.path))


def _view(grant: PersonGrant, share: shares.Share, inventory: Inventory, sources: Collection[Directory]) -> View:
    return View(
        place_of(grant),
        share.source,
        _is_read_only(grant, share, inventory, sources),
        share.created,
        share.owner_ids,
        share.ownership.owner == Owning.REAL,
        share.ownership.umask,
        folder=grant.folder,
        optional=True,
    )


def _is_read_only(
    grant: PersonGrant, share: shares.Share, inventory: Inventory, sources: Collection[Directory]
) -> bool:
    volume = _volume(grant, inventory)
    fixed = volume is not None and volume.read_only
    place = Place(Directory(share.source, share.created), grant.folder)
    return share.mode is Mode.READ_ONLY or fixed or holds_keys(place, sources)


def kept_views(record: PersonRecord, views: Iterable[View], inventory: Inventory) -> tuple[View, ...]:
    """Those of `views`, which are open, of instances that are not there now: between removal and recreation, say. Some
    grant must still be for that very volume, and in that mode."""
    granted = {place_of(one): one for one in record.grants if inventory.get(one.key) is None}
    kept = []
    for view in views:
        found = granted.get(view.path)
        if found is None or (view.source, view.birth) != (found.grant.source, found.grant.created):
            continue
        if view.folder == found.folder and (view.read_only or found.grant.mode is Mode.READ_WRITE):
            kept.append(view)
    return tuple(kept)


def statuses(
    record: PersonRecord,
    inventory: Inventory,
    by_volume: Mapping[Directory, Limits] = shares.NOTHING,
    sizes: Mapping[Directory, VolumeSize] = MappingProxyType({}),
) -> tuple[PersonVolume, ...]:
    """What is shared with a person, as they and operators see it. Arguments as in `shares.status`."""
    found, sources = live(record, inventory), inventory.key_sources
    result = []
    for grant in record.grants:
        share, info, volume = found.get(grant), inventory.get(grant.key), _volume(grant, inventory)
        described = volume or grant.grant
        directory = (
            Directory(described.source or "", described.created)
            if share is None
            else Directory(share.source, share.created)
        )
        access, problem = Access.SUSPENDED, _problem(volume)
        if share is not None:
            fixed = _is_read_only(grant, share, inventory, sources)
            access, problem = (Access.READ_ONLY if fixed else Access.READ_WRITE), ""
        result.append(
            PersonVolume(
                key=grant.key,
                state=InstanceState.UNKNOWN if info is None else info.state,
                present=info is not None,
                path=grant.grant.path,
                folder=grant.folder,
                name=described.name,
                driver=described.driver,
                kind=described.kind,
                mode=grant.grant.mode,
                access=access,
                session_path=None if share is None else place_of(grant),
                problem=problem,
                key_source=share is not None
                and grant.grant.mode is Mode.READ_WRITE
                and holds_keys(Place(directory, grant.folder), sources),
                ownership=grant.grant.ownership,
                limits=by_volume.get(directory, NO_LIMITS),
                size=None if share is None else sizes.get(directory),
                granted_at=grant.grant.granted_at,
                granted_by=grant.grant.granted_by,
            )
        )
    return tuple(result)


def _volume(grant: PersonGrant, inventory: Inventory) -> VolumeInfo | None:
    info = inventory.get(grant.key)
    volumes = () if info is None else info.volumes
    return next((volume for volume in volumes if volume.path == grant.grant.path), None)


def _problem(volume: VolumeInfo | None) -> str:
    if volume is None:
        return "the instance has no volume there now"
    # Why not is the host's affair, with paths of the host in it, and this is told to the person.
    return ANOTHER if volume.refusal is None else "what is there now cannot be shared"
