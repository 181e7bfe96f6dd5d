"""Whom new files are to belong to: what a grant says, held against what the catalog knows of the container. Pure."""

from __future__ import annotations

from collections.abc import Iterable

from hatchway.errors import ConflictError
from hatchway.model import IdPair, InstanceInfo, Origin, Ownership, Owning, outside, owner_ids
from hatchway.registry.records import GrantRecord

_ORDER = (Origin.COMMAND, Origin.FILE, Origin.LABEL)


def effective(grants: Iterable[GrantRecord]) -> Ownership:
    """What several grants of one volume say together: of each thing what the first says, commands before files."""
    ordered = sorted(grants, key=lambda grant: _ORDER.index(grant.origin))
    owner = next((one.ownership.owner for one in ordered if one.ownership.owner is not None), None)
    umask = next((one.ownership.umask for one in ordered if one.ownership.umask is not None), None)
    return Ownership(owner, umask)


def resolve(owner: str | None, info: InstanceInfo | None) -> IdPair | None:
    """Whom on the host `owner`, as in Ownership, means; None for nobody in particular.

    Raises ConflictError, with the reason, when that cannot be told.
    """
    if owner is None or owner in (Owning.INHERIT, Owning.REAL):
        return None
    if info is None:
        raise ConflictError(f"the instance is not there now, so it is not known who {owner} is")
    if info.ids_problem:
        raise ConflictError(f"which ids of the host those of {info.key} are cannot be told: {info.ids_problem}")
    ids = info.owner if owner == Owning.CONTAINER else owner_ids(owner)
    if ids is None:
        why = info.owner_problem or "it is not known who that is"
        raise ConflictError(f"new files of {info.key} cannot be its user's ({info.user or 'root'}): {why}")
    uid, gid = outside(ids.uid, info.uid_map), outside(ids.gid, info.gid_map)
    if uid is None or gid is None:
        raise ConflictError(f"new files of {info.key} cannot be {ids}'s: its containers have no such ids")
    return IdPair(uid, gid)


def now(grants: Iterable[GrantRecord], info: InstanceInfo | None) -> IdPair | None:
    """Whom new files of a volume belong to, by its `grants`: as the container is now, else as it was known last.

    Raises ConflictError when neither is known.
    """
    listed = list(grants)
    owner = effective(listed).owner
    try:
        return resolve(owner, info)
    except ConflictError:
        if info is not None and info.ids_problem:
            raise
        known = next((one.owner_ids for one in listed if one.ownership.owner == owner and one.owner_ids), None)
        if known is None:
            raise
        return known
