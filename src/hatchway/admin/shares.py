"""What of an instance is shared now: grants held against what the catalog sees. Pure.

A grant binds to a volume, not to a path: when another volume turns up at the path the grant is suspended, since a
re-used name must not hand one customer's login another customer's data.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

from msgspec import structs

from hatchway.admin import owners
from hatchway.admin.inventory import Inventory
from hatchway.errors import ConflictError, NotFoundError, UsageError
from hatchway.model import (
    NO_LIMITS,
    UNSAID,
    Directory,
    IdPair,
    InstanceInfo,
    InstanceKey,
    InstanceState,
    Limits,
    Mode,
    Ownership,
    Owning,
    VolumeInfo,
    anonymous,
    below,
    session_paths,
    strictest,
)
from hatchway.registry.records import GrantRecord, InstanceRecord
from hatchway.wire.admin import Access, GrantStatus, InstanceStatus, VolumeStatus
from hatchway.wire.host import View, VolumeSize

NOTHING: Mapping[Directory, Limits] = MappingProxyType({})
UNKNOWN: Mapping[Directory, VolumeSize] = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class Share:
    """What the grants of one path that are in force give: the directory `source` of the host, and which that is."""

    source: str
    created: str
    mode: Mode
    ownership: Ownership = UNSAID
    owner_ids: IdPair | None = None


def widest(grants: Iterable[GrantRecord]) -> Mode:
    """The mode several grants of one volume give together."""
    return Mode.READ_WRITE if any(grant.mode is Mode.READ_WRITE for grant in grants) else Mode.READ_ONLY


def by_path(record: InstanceRecord) -> dict[str, list[GrantRecord]]:
    """The grants of an instance, in force or not, by path in the container."""
    result: dict[str, list[GrantRecord]] = {}
    for grant in record.grants:
        result.setdefault(grant.path, []).append(grant)
    return result


def named(key: InstanceKey, on: Mapping[str, Sequence[GrantRecord]], wanted: Iterable[str]) -> list[str]:
    """Which of the paths in `on`, at which there are grants, are `wanted`: paths, or names of volumes.

    Raises NotFoundError, and UsageError for a name that is at several of them.
    """
    listed = ", ".join(on) or "nothing"
    paths = []
    for one in wanted:
        path = one.rstrip("/") or "/"
        found = [at for at, grants in on.items() if at == path or any(grant.name == one for grant in grants)]
        if len(found) > 1:
            raise UsageError(f"{one!r} is mounted more than once: name a path of {', '.join(found)}")
        if not found:
            raise NotFoundError(f"access of {key} to {one!r} is not on; it is on for: {listed}")
        paths.append(found[0])
    return paths


def live_grants(record: InstanceRecord, inventory: Inventory) -> dict[str, Share]:
    """What is shared now, by path in the container.

    When the catalog has not (yet) told anything of the source, the directory known at the last enable stands in: an
    engine that is down must not lock users out of their files. Once the source is known, only what it shows counts.
    """
    info = inventory.get(record.key)
    volumes = {} if info is None else {volume.path: volume for volume in info.volumes}
    result = {}
    for path, grants in by_path(record).items():
        volume = volumes.get(path)
        described = volume or max(grants, key=lambda grant: grant.granted_at)
        live = in_force(grants, volume, inventory)
        if not live or described.source is None:
            continue
        try:
            ids = owners.now(live, info)
        except ConflictError:
            continue
        result[path] = Share(described.source, described.created, widest(live), owners.effective(live), ids)
    return result


def in_force(grants: Sequence[GrantRecord], volume: VolumeInfo | None, inventory: Inventory) -> list[GrantRecord]:
    """Those of one path's grants that are for the `volume` that stands there.

    None: there is none; if that means nothing, those that are for what was granted last.
    """
    if volume is None:
        latest = max(grants, key=lambda grant: grant.granted_at, default=None)
        if latest is None or inventory.knows(latest.kind):
            return []
        return [grant for grant in grants if grant.identity == latest.identity]
    if volume.refusal is not None or volume.source is None:
        return []
    return [grant for grant in grants if grant.identity == volume.identity]


def host_views(record: InstanceRecord, inventory: Inventory) -> tuple[View, ...]:
    """What a session of this instance's login shows, in the order of the paths; its limits are to be added."""
    live = live_grants(record, inventory)
    places = _places(record)
    info = inventory.get(record.key)
    fixed = set() if info is None else {volume.path for volume in info.volumes if volume.read_only}
    return tuple(_view(places[path], live[path], path in fixed) for path in sorted(live, key=places.__getitem__))


def _view(place: str, share: Share, fixed: bool) -> View:
    return View(
        place,
        share.source,
        share.mode is Mode.READ_ONLY or fixed,
        share.created,
        share.owner_ids,
        share.ownership.owner == Owning.REAL,
        share.ownership.umask,
    )


@dataclass(frozen=True, slots=True)
class Given:
    """Grants of volumes of the instance `key`, to whomever."""

    key: InstanceKey
    grants: tuple[GrantRecord, ...]


def limits(records: Iterable[InstanceRecord | Given], inventory: Inventory) -> dict[Directory, Limits]:
    """What all grants there are, in force or not, say together of each volume: a limit is the volume's.

    Volumes without a limit are there too.
    """
    said: dict[Directory, set[Limits]] = {}
    for record in records:
        info = inventory.get(record.key)
        volumes = {} if info is None else {volume.path: volume for volume in info.volumes}
        for grant in record.grants:
            if grant.source is not None:
                said.setdefault(Directory(grant.source, grant.created), set()).add(grant.limits)
            # The engine may keep its volumes elsewhere by now.
            volume = volumes.get(grant.path)
            if volume is not None and volume.source is not None and volume.identity == grant.identity:
                said.setdefault(Directory(volume.source, volume.created), set()).add(grant.limits)
    return {directory: strictest(found) for directory, found in said.items()}


def limited(views: Iterable[View], by_volume: Mapping[Directory, Limits]) -> tuple[View, ...]:
    """`views`, each with the limits of its volume, see `limits`."""
    return tuple(
        structs.replace(view, limits=by_volume.get(Directory(view.source, view.birth), NO_LIMITS)) for view in views
    )


def kept_views(record: InstanceRecord, views: Iterable[View]) -> tuple[View, ...]:
    """Those of `views`, which are open, that some grant is still for: that very volume, and in that mode."""
    places = _places(record)
    kept = []
    for view in views:
        modes = {
            grant.mode
            for grant in record.grants
            if (places[grant.path], grant.source, grant.created) == (view.path, view.source, view.birth)
        }
        if modes and (view.read_only or Mode.READ_WRITE in modes):
            kept.append(view)
    return tuple(kept)


def _places(record: InstanceRecord) -> dict[str, str]:
    """Where each granted path stands in a session's root.

    The name of an anonymous volume is no place to come back to: the next one has another.
    """
    return session_paths({grant.path: "" if anonymous(grant.name) else grant.name for grant in record.grants})


def start_directory(views: tuple[View, ...]) -> str:
    """Where a session starts: the only volume, or the one all others stand in, or `/`.

    That is the home directory of its user record, in which systemd takes no colon and no control character: it leaves
    such a one out, and the session starts in `/` (systemd.io/USER_RECORD, "homeDirectory").
    """
    first = views[0].path if views else "/"
    if any(char == ":" or char < " " or char == "\x7f" for char in first):
        return "/"
    return first if all(below(view.path, first) for view in views) else "/"


def status(
    record: InstanceRecord | None,
    info: InstanceInfo | None,
    inventory: Inventory,
    sessions: int = 0,
    held_back: Mapping[str, str] = MappingProxyType({}),
    by_volume: Mapping[Directory, Limits] = NOTHING,
    sizes: Mapping[Directory, VolumeSize] = UNKNOWN,
    people: Mapping[tuple[InstanceKey, str], tuple[str, ...]] = MappingProxyType({}),
) -> InstanceStatus:
    """An instance as its operator sees it; at least one of `record` and `info` is given.

    `held_back` are paths at which a rule or label gives nothing by itself, with why. `by_volume` are all limits there
    are, see `limits`, `sizes` what is known of the sizes of volumes that are shared, `people` the logins of those with
    whom a volume is shared.
    """
    key = record.key if record is not None else info.key if info is not None else None
    assert key is not None
    grants = {} if record is None else by_path(record)
    live = {} if record is None else live_grants(record, inventory)
    places = {} if record is None else _places(record)
    present = {} if info is None else {volume.path: volume for volume in info.volumes}
    volumes = []
    for path in present.keys() | grants.keys():
        volume, given = present.get(path), grants.get(path, [])
        share = live.get(path)
        described = volume or given[0]
        fixed = volume is not None and volume.read_only
        ruling = in_force(given, volume, inventory)
        directory = _directory(share, described)
        volumes.append(
            VolumeStatus(
                path=path,
                name=described.name,
                kind=described.kind,
                driver=described.driver,
                read_only=fixed,
                access=_access(share, fixed) if given else Access.OFF,
                session_path=places[path] if share is not None else None,
                refusal=None if volume is None else volume.refusal,
                present=volume is not None,
                anonymous=volume is not None and volume.anonymous,
                held_back=held_back.get(path),
                ownership=UNSAID if share is None else share.ownership,
                owner_ids=None if share is None else share.owner_ids,
                grants=tuple(_grant(grant, grant in ruling) for grant in given),
                limits=by_volume.get(directory, NO_LIMITS),
                # What is shared with people only has a size too.
                size=sizes.get(directory),
                people=people.get((key, path), ()),
            )
        )
    return InstanceStatus(
        key=key,
        state=info.state if info is not None else InstanceState.UNKNOWN,
        runtime_name=info.runtime_name if info is not None else "",
        image=info.image if info is not None else "",
        user=info.user if info is not None else "",
        present=info is not None,
        login=None if record is None else record.login,
        volumes=tuple(sorted(volumes, key=lambda volume: volume.path)),
        sessions=sessions,
    )


def _directory(share: Share | None, described: VolumeInfo | GrantRecord) -> Directory:
    if share is not None:
        return Directory(share.source, share.created)
    return Directory(described.source or "", described.created)


def _access(share: Share | None, fixed: bool) -> Access:
    if share is None:
        return Access.SUSPENDED
    return Access.READ_ONLY if share.mode is Mode.READ_ONLY or fixed else Access.READ_WRITE


def _grant(grant: GrantRecord, is_in_force: bool) -> GrantStatus:
    return GrantStatus(
        origin=grant.origin,
        mode=grant.mode,
        in_force=is_in_force,
        follows=grant.follows,
        granted_by=grant.granted_by,
        granted_at=grant.granted_at,
        ownership=grant.ownership,
        limits=grant.limits,
    )
