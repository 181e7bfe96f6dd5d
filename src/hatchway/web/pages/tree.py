"""Environments, their containers, and their instances: search, filters and pages of a hundred."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterable

import msgspec
from starlette.responses import Response
from starlette.routing import BaseRoute

from hatchway.errors import NotFoundError
from hatchway.fullness import fullness
from hatchway.model import InstanceState
from hatchway.web import paths
from hatchway.web.visit import Doors, Visit
from hatchway.wire.admin import Access, InstanceStatus, Listing, ListInstances

PAGE = 100
"""Instances on one page."""

SEARCH_MAX = 200

SHARING = {"on": "Shared", "off": "Not shared", "care": "Needs attention", "sessions": "In use"}
STATES = {"running": "Running", "stopped": "Not running", "gone": "Gone"}


class Container(msgspec.Struct, frozen=True):
    """A container and those of its instances that are on the page."""

    name: str
    instances: tuple[InstanceStatus, ...]


class Environment(msgspec.Struct, frozen=True):
    """An environment and those of its containers that are on the page; `total` instances of it were found."""

    name: str
    total: int
    containers: tuple[Container, ...]


def routes(doors: Doors) -> list[BaseRoute]:
    """Its pages."""
    return [doors.get("/", _tree)]


async def _tree(visit: Visit) -> Response:
    listing = await visit.ask(ListInstances(), Listing)
    words = visit.asked("q")[:SEARCH_MAX].casefold().split()
    sharing, state = visit.asked("sharing"), visit.asked("state")
    environment = _environment(visit.asked("environment"))
    found = [
        one for one in listing.instances if has(one, words) and _is_shared(one, sharing) and _is_in_state(one, state)
    ]
    counts = Counter(one.key.environment for one in found)
    if environment is not None:
        found = [one for one in found if one.key.environment == environment]
    last = max(1, -(-len(found) // PAGE))
    number = min(max(1, number_of(visit.asked("page"))), last)
    return visit.page(
        "tree.html",
        environments=_grouped(found[(number - 1) * PAGE : number * PAGE], counts),
        counts=sorted(counts.items()),
        chosen=environment,
        total=len(listing.instances),
        found=len(found),
        first=(number - 1) * PAGE + 1,
        words=visit.asked("q")[:SEARCH_MAX],
        sharing=sharing if sharing in SHARING else "",
        state=state if state in STATES else "",
        sharings=SHARING,
        states=STATES,
        number=number,
        last=last,
        size=PAGE,
        sources=listing.sources,
        needs_care=needs_care,
    )


def _environment(part: str) -> str | None:
    if not part:
        return None
    try:
        return paths.decoded(part)
    except NotFoundError:
        return None


def number_of(text: str) -> int:
    """The number of a page, as a URL says it."""
    return int(text) if text.isascii() and text.isdigit() and len(text) < 7 else 1


def _grouped(instances: Iterable[InstanceStatus], counts: Counter[str]) -> list[Environment]:
    return [
        Environment(
            name,
            counts[name],
            tuple(
                Container(container, tuple(group))
                for container, group in itertools.groupby(of_environment, key=lambda one: one.key.container)
            ),
        )
        for name, of_environment in itertools.groupby(instances, key=lambda one: one.key.environment)
    ]


def has(one: InstanceStatus, words: list[str]) -> bool:
    """Whether every word is in something that names the instance or its volumes."""
    if not words:
        return True
    texts = [str(one.key), one.login or "", one.runtime_name, one.image]
    texts += [text for volume in one.volumes for text in (volume.path, volume.name)]
    whole = "\n".join(texts).casefold()
    return all(word in whole for word in words)


def _is_shared(one: InstanceStatus, sharing: str) -> bool:
    match sharing:
        case "on":
            return any(volume.access.is_on for volume in one.volumes)
        case "off":
            return not any(volume.access.is_on for volume in one.volumes)
        case "care":
            return bool(needs_care(one))
        case "sessions":
            return one.sessions > 0
        case _:
            return True


def _is_in_state(one: InstanceStatus, state: str) -> bool:
    match state:
        case "running":
            return one.present and one.state in (InstanceState.RUNNING, InstanceState.STATIC)
        case "stopped":
            return one.present and one.state not in (InstanceState.RUNNING, InstanceState.STATIC)
        case "gone":
            return not one.present
        case _:
            return True


def needs_care(one: InstanceStatus) -> list[str]:
    """What an operator may want to do something about, in a word each."""
    found = []
    if one.locked:
        found.append("locked")
    if one.expired:
        found.append("expired")
    if any(volume.access is Access.SUSPENDED for volume in one.volumes):
        found.append("suspended")
    if any(volume.held_back for volume in one.volumes):
        found.append("held back")
    if any(volume.access is Access.READ_WRITE and volume.size and fullness(volume.size) for volume in one.volumes):
        found.append("full")
    return found
