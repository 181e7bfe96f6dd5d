"""Which volumes of an instance somebody means. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from hatchway.errors import ConflictError, NotFoundError, UsageError
from hatchway.model import InstanceInfo, VolumeInfo


def choose(info: InstanceInfo, names: Sequence[str], *, every: bool) -> list[VolumeInfo]:
    """The volumes of `info` that are to be shared: those with these paths or names, or `every` one that can be.

    Raises UsageError, which lists them, when none is named; NotFoundError; ConflictError for one that cannot be shared.
    """
    if every:
        chosen = [volume for volume in info.volumes if volume.refusal is None]
        if not chosen:
            reasons = "; ".join(f"{volume.path}: {volume.refusal}" for volume in info.volumes)
            raise ConflictError(f"{info.key} has no volume that can be shared ({reasons or 'it has none'})")
        return chosen
    if not names:
        raise UsageError(f"which volume of {info.key}? It has: {_listed(info)}. Name some, or say --all")
    chosen = wanted(info, names)
    for volume in chosen:
        if volume.refusal is not None:
            raise ConflictError(f"{volume.path} cannot be shared: {volume.refusal}")
    return chosen


def wanted(info: InstanceInfo, names: Sequence[str]) -> list[VolumeInfo]:
    """The volumes of `info` called so by path or name. Raises NotFoundError, UsageError."""
    chosen: list[VolumeInfo] = []
    for one in names:
        path = one.rstrip("/") or "/"
        found = [volume for volume in info.volumes if volume.path == path or volume.name == one]
        if not found:
            raise NotFoundError(f"{info.key} has no volume {one!r}; it has: {_listed(info)}")
        if len(found) > 1:
            places = ", ".join(volume.path for volume in found)
            raise UsageError(f"{one!r} is mounted more than once in {info.key}: name a path of {places}")
        if found[0] not in chosen:
            chosen.append(found[0])
    return chosen


def _listed(info: InstanceInfo) -> str:
    return ", ".join(volume.path for volume in info.volumes) or "none"
