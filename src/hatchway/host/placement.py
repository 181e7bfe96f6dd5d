"""Which volume of a login stands in which: a container may have a volume mounted inside another. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from hatchway.model import below
from hatchway.wire.host import View


@dataclass(frozen=True, slots=True)
class Placement:
    """A volume and where it stands.

    `inside` is the path of the volume it stands in, None when it stands in the root's own directories; `places` are
    the paths, relative to its own, of the volumes that stand in it.
    """

    view: View
    inside: str | None = None
    places: tuple[str, ...] = ()


def placements(views: Iterable[View]) -> dict[str, Placement]:
    """The placement of each of `views` by path, each volume before those that stand in it."""
    ordered = sorted(views, key=lambda view: view.path)
    inside: dict[str, str | None] = {}
    for view in ordered:
        outer = [other.path for other in ordered if other.path != view.path and below(view.path, other.path)]
        inside[view.path] = max(outer, key=len, default=None)
    return {
        view.path: Placement(
            view,
            inside[view.path],
            tuple(path[len(view.path) + 1 :] for path, outer in inside.items() if outer == view.path),
        )
        for view in ordered
    }


def with_nested(paths: Iterable[str], mounted: Iterable[str]) -> list[str]:
    """Those of `mounted` that are, or stand in, one of `paths`; what stands in another before that."""
    chosen = list(paths)
    found = {path for path in mounted if any(below(path, outer) for outer in chosen)}
    return sorted(found, key=lambda path: (-path.count("/"), path))
