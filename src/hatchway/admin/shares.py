"""What of an instance is shared now: grants held against what the catalog sees. Pure.

A grant binds to a volume, not to a path: when another volume turns up at the path the grant is suspended, since a
re-used name must not hand one customer's login another customer's data.
"""

from __future__ import annotations

from hatchway.admin.inventory import Inventory
from hatchway.model import InstanceInfo, InstanceState, Mode, VolumeInfo, below, session_paths
from hatchway.registry.records import GrantRecord, InstanceRecord
from hatchway.wire.admin import Access, InstanceStatus, VolumeStatus
from hatchway.wire.host import View


def live_grants(record: InstanceRecord, inventory: Inventory) -> dict[str, str]:
    """The grants in force: path in the container to directory on the host.

    When the catalog has not (yet) told anything of the source, the directory known at the last enable stands in: an
    engine that is down must not lock users out of their files. Once the source is known, only what it shows counts.
    """
    info = inventory.get(record.key)
    volumes = {} if info is None else {volume.path: volume for volume in info.volumes}
    result = {}
    for grant in record.grants:
        volume = volumes.get(grant.path)
        if volume is not None:
            if _same(grant, volume) and volume.refusal is None and volume.source is not None:
                result[grant.path] = volume.source
        elif not inventory.knows(grant.kind) and grant.source is not None:
            result[grant.path] = grant.source
    return result


def host_views(record: InstanceRecord, inventory: Inventory) -> tuple[View, ...]:
    """What a session of this instance's login shows, in the order of the paths."""
    live = live_grants(record, inventory)
    places = session_paths({grant.path: grant.name for grant in record.grants})
    modes = {grant.path: grant.mode for grant in record.grants}
    births = {grant.path: grant.created for grant in record.grants}
    info = inventory.get(record.key)
    fixed = set() if info is None else {volume.path for volume in info.volumes if volume.read_only}
    return tuple(
        View(places[path], live[path], modes[path] is Mode.READ_ONLY or path in fixed, births[path])
        for path in sorted(live, key=places.__getitem__)
    )


def granted_places(record: InstanceRecord) -> dict[str, Mode]:
    """Where each grant stands in a session's root, in force or not, and its mode."""
    places = session_paths({grant.path: grant.name for grant in record.grants})
    return {places[grant.path]: grant.mode for grant in record.grants}


def start_directory(views: tuple[View, ...]) -> str:
    """Where a session starts: the only volume, or the one all others stand in, or `/`."""
    return views[0].path if views and all(below(view.path, views[0].path) for view in views) else "/"


def status(
    record: InstanceRecord | None, info: InstanceInfo | None, inventory: Inventory, sessions: int = 0
) -> InstanceStatus:
    """An instance as its operator sees it; at least one of `record` and `info` is given."""
    key = record.key if record is not None else info.key if info is not None else None
    assert key is not None
    grants = {} if record is None else {grant.path: grant for grant in record.grants}
    live = {} if record is None else live_grants(record, inventory)
    places = session_paths({grant.path: grant.name for grant in grants.values()})
    volumes = [] if info is None else [_volume(v, grants.get(v.path), v.path in live, places) for v in info.volumes]
    seen = set() if info is None else {volume.path for volume in info.volumes}
    for path, grant in grants.items():
        if path not in seen:
            volumes.append(
                VolumeStatus(
                    path=path,
                    name=grant.name,
                    kind=grant.kind,
                    driver=grant.driver,
                    read_only=False,
                    access=_access(grant, path in live, False),
                    session_path=places[path] if path in live else None,
                    present=False,
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


def _volume(volume: VolumeInfo, grant: GrantRecord | None, live: bool, places: dict[str, str]) -> VolumeStatus:
    return VolumeStatus(
        path=volume.path,
        name=volume.name,
        kind=volume.kind,
        driver=volume.driver,
        read_only=volume.read_only,
        access=Access.OFF if grant is None else _access(grant, live, volume.read_only),
        session_path=places[volume.path] if grant is not None and live else None,
        refusal=volume.refusal,
    )


def _access(grant: GrantRecord, live: bool, fixed: bool) -> Access:
    if not live:
        return Access.SUSPENDED
    return Access.READ_ONLY if grant.mode is Mode.READ_ONLY or fixed else Access.READ_WRITE


def _same(grant: GrantRecord, volume: VolumeInfo) -> bool:
    return grant.identity == volume.identity
