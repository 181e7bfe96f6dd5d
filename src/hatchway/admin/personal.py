"""What a person may use now: their grants, held against what the catalog sees. Pure.

A person's root has a directory for each instance, called by its login, and in it the volumes at the paths they have in
the container. So what is shared with a person later never changes where the rest stands.

What a person can write must let nobody in, and no private key be what they read (`key_places`). Both are decided here,
each time anew, and not when something is granted: what stands where may change.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from types import MappingProxyType

from msgspec import structs

from hatchway.admin import owners, shares
from hatchway.admin.inventory import Inventory
from hatchway.admin.key_places import KeyPlaces, Place
from hatchway.admin.shares import Given
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
    is_ssh_directory,
)
from hatchway.registry.records import GrantRecord, PersonGrant, PersonRecord
from hatchway.wire.admin import Access, PersonVolume
from hatchway.wire.host import FolderState, View, VolumeSize

PRIVATE = "an instance's private key lies there"
ANOTHER = "another volume stands there than the one access was given to"
COVERED = "another volume of theirs stands there"
NOT_THERE = "the instance has no volume there now"


def place_of(grant: PersonGrant) -> str:
    """Where a grant stands in its person's root."""
    return f"/{grant.instance_login}{grant.grant.path}" + (f"/{grant.folder}" if grant.folder else "")


def seen(grant: PersonGrant, share: shares.Share) -> Place:
    """What a person sees by a grant that is in force."""
    return Place(Directory(share.source, share.created), grant.folder)


def may_see(grant: PersonGrant, inventory: Inventory) -> list[Place]:
    """What a person sees by a grant, or may see some day: what it was given for, and what stands there now."""
    described: list[GrantRecord | VolumeInfo | None] = [grant.grant, _volume(grant, inventory)]
    return [
        Place(Directory(one.source, one.created), grant.folder)
        for one in described
        if one is not None and one.source is not None
    ]


def by_volume(people: Iterable[PersonRecord]) -> dict[tuple[InstanceKey, str], tuple[str, ...]]:
    """With whom each volume is shared, in force or not: logins, by instance and path."""
    found: dict[tuple[InstanceKey, str], list[str]] = {}
    for person in people:
        for one in person.grants:
            found.setdefault((one.key, one.grant.path), []).append(person.login)
    return {at: tuple(logins) for at, logins in found.items()}


def as_given(people: Iterable[PersonRecord]) -> Iterator[Given]:
    """All grants of people, for `shares.limits`."""
    for person in people:
        for one in person.grants:
            yield Given(one.key, (one.grant,))


def folder_places(people: Iterable[PersonRecord], inventory: Inventory) -> tuple[Place, ...]:
    """The folders that are shared with these people, by grants that are in force: each once."""
    found = [
        seen(grant, share)
        for record in people
        if any(grant.folder for grant in record.grants)
        for grant, share in live(record, inventory).items()
        if grant.folder
    ]
    return tuple(dict.fromkeys(found))


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
    topmost = {place_of(grant): grant for grant in sorted(result, key=lambda one: len(one.grant.path))}
    return {grant: share for grant, share in result.items() if topmost[place_of(grant)] == grant}


def host_views(record: PersonRecord, inventory: Inventory, keys: KeyPlaces) -> tuple[View, ...]:
    """What a session of this person's shows, in the order of the paths; its limits are to be added.

    Whatever was granted: nothing shows a private key that was delivered, and nothing can be written that lets in.
    """
    views = [
        _view(grant, share, inventory, keys)
        for grant, share in live(record, inventory).items()
        if keys.shown(seen(grant, share)) is None
    ]
    return tuple(sorted(views, key=lambda view: view.path))


def _view(grant: PersonGrant, share: shares.Share, inventory: Inventory, keys: KeyPlaces) -> View:
    return View(
        place_of(grant),
        share.source,
        _is_given_read_only(grant, share, inventory) or _lets_in(grant, share, keys),
        share.created,
        share.owner_ids,
        share.ownership.owner == Owning.REAL,
        share.ownership.umask,
        folder=grant.folder,
        optional=True,
    )


def _is_given_read_only(grant: PersonGrant, share: shares.Share, inventory: Inventory) -> bool:
    volume = _volume(grant, inventory)
    return share.mode is Mode.READ_ONLY or (volume is not None and volume.read_only)


def _lets_in(grant: PersonGrant, share: shares.Share, keys: KeyPlaces) -> bool:
    # By its path also where nothing is known of the instance.
    return is_ssh_directory(grant.grant.path) or keys.lets_in(seen(grant, share))


def kept_views(record: PersonRecord, views: Iterable[View], inventory: Inventory, keys: KeyPlaces) -> tuple[View, ...]:
    """Those of `views`, which are open, of instances that are not there now: between removal and recreation, say. Some
    grant must still be for that very volume, and in that mode. Of keys the same holds as in `host_views`."""
    granted = {place_of(one): one for one in record.grants if inventory.get(one.key) is None}
    kept = []
    for view in views:
        found, place = granted.get(view.path), Place(Directory(view.source, view.birth), view.folder)
        if found is None or (view.source, view.birth) != (found.grant.source, found.grant.created):
            continue
        writes = found.grant.mode is Mode.READ_WRITE
        if view.folder == found.folder and (view.read_only or writes) and keys.shown(place) is None:
            kept.append(structs.replace(view, read_only=view.read_only or keys.lets_in(place)))
    return tuple(kept)


def statuses(
    record: PersonRecord,
    inventory: Inventory,
    keys: KeyPlaces,
    by_volume: Mapping[Directory, Limits] = shares.NOTHING,
    sizes: Mapping[Directory, VolumeSize] = MappingProxyType({}),
    folders: Mapping[Place, FolderState] = MappingProxyType({}),
) -> tuple[PersonVolume, ...]:
    """What is shared with a person, as they and operators see it. Arguments as in `host_views` and `shares.status`;
    `folders` say what is where those should be that are shared."""
    found = live(record, inventory)
    result = []
    for grant in record.grants:
        share, info, volume = found.get(grant), inventory.get(grant.key), _volume(grant, inventory)
        described = volume or grant.grant
        directory = (
            Directory(described.source or "", described.created)
            if share is None
            else Directory(share.source, share.created)
        )
        access, problem, lets_in, refused = Access.SUSPENDED, _problem(volume), False, ""
        if share is not None and keys.shown(seen(grant, share)) is not None:
            problem = PRIVATE
        elif share is not None:
            lets_in = _lets_in(grant, share, keys)
            read_only = lets_in or _is_given_read_only(grant, share, inventory)
            access, problem = (Access.READ_ONLY if read_only else Access.READ_WRITE), ""
            refused = _refused(grant.folder, folders.get(seen(grant, share), FolderState.UNKNOWN))
        elif grant_is_covered(grant, found):
            problem = COVERED
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
                session_path=place_of(grant) if access.is_on else None,
                problem=problem,
                refused=refused,
                key_source=lets_in and grant.grant.mode is Mode.READ_WRITE,
                ownership=grant.grant.ownership,
                limits=by_volume.get(directory, NO_LIMITS),
                size=None if share is None else sizes.get(directory),
                granted_at=grant.grant.granted_at,
                granted_by=grant.grant.granted_by,
            )
        )
    return tuple(result)


def grant_is_covered(grant: PersonGrant, found: Iterable[PersonGrant]) -> bool:
    """Whether one of `found`, those in force, stands where `grant` would."""
    return any(place_of(one) == place_of(grant) for one in found)


def _volume(grant: PersonGrant, inventory: Inventory) -> VolumeInfo | None:
    info = inventory.get(grant.key)
    volumes = () if info is None else info.volumes
    return next((volume for volume in volumes if volume.path == grant.grant.path), None)


def _refused(folder: str, state: FolderState) -> str:
    """Why nobody gets in where this folder should be. It is told to the person: nothing of the host is in it."""
    match state:
        case FolderState.NOTHING:
            return f"there is no folder {folder} in it now"
        case FolderState.FILE:
            return f"{folder} is no folder in it now"
        case FolderState.LINK:
            return f"a link stands in the way of the folder {folder} in it"
        case _:
            return ""


def _problem(volume: VolumeInfo | None) -> str:
    if volume is None:
        return NOT_THERE
    # Why not is the host's affair, with paths of the host in it, and this is told to the person.
    return ANOTHER if volume.refusal is None else "what is there now cannot be shared"
