"""Access to volumes: given, changed, confirmed and taken away."""

from __future__ import annotations

from starlette.responses import Response
from starlette.routing import BaseRoute

from hatchway.errors import NotFoundError, UsageError
from hatchway.model import Mode, Origin
from hatchway.printable import escaped
from hatchway.web import paths
from hatchway.web.pages.instance import find
from hatchway.web.visit import Doors, Visit, to_page
from hatchway.web.whose import OF_INSTANCE
from hatchway.wire.admin import Changed, Confirm, Disable, Enable, VolumeStatus

_HERE = f"{OF_INSTANCE}/volumes"


def routes(doors: Doors) -> list[BaseRoute]:
    """Its forms."""
    return [
        doors.post(f"{_HERE}/enable", _enable, to_page),
        doors.post(f"{_HERE}/disable", _disable, to_page),
        doors.post(f"{_HERE}/confirm", _confirm, to_page),
    ]


async def _volume(visit: Visit) -> VolumeStatus:
    """The volume the form is about. Raises NotFoundError."""
    path = paths.decoded(visit.field("volume", paths.CODED_MAX))
    found = next((one for one in (await find(visit)).volumes if one.path == path), None)
    if found is None:
        raise NotFoundError(f"the instance has no volume at {escaped(path)} any more")
    return found


async def _enable(visit: Visit) -> Response:
    volume = await _volume(visit)
    try:
        mode = Mode(visit.field("mode"))
    except ValueError:
        raise UsageError("choose read-only, or read and write") from None
    # What an operator said of it on the command line stays as it is.
    given = next((grant for grant in volume.grants if grant.origin is Origin.COMMAND and grant.in_force), None)
    more = {} if given is None else {"follow": given.follows, "ownership": given.ownership}
    request = Enable(
        instance=str(visit.instance),
        volumes=(volume.path,),
        read_only=mode is Mode.READ_ONLY,
        **more,  # type: ignore[arg-type]
    )
    changed = await visit.ask(request, Changed)
    how = "read-only" if mode is Mode.READ_ONLY else "to read and write"
    visit.say(f"Remote access to {volume.path} is on, {how}.")
    if changed.other_hands:
        visit.say(
            "This instance's login was made for other volumes, and somebody may still have its key and password. Renew "
            "the key and reset the password if they should not see this volume.",
            good=False,
        )
    if changed.password is not None:
        return visit.page("new-password.html", whose=visit.whose, password=changed.password, remark="")
    return visit.go(to_page(visit))


async def _disable(visit: Visit) -> Response:
    volume = await _volume(visit)
    changed = await visit.ask(Disable(instance=str(visit.instance), volumes=(volume.path,)), Changed)
    after = next((one for one in changed.instance.volumes if one.path == volume.path), None)
    if after is not None and after.access.is_on:
        visit.say(
            f"What was given by command is taken away, but a rule or label still gives access to {volume.path}: remove "
            "it there.",
            good=False,
        )
    else:
        visit.say(f"Remote access to {volume.path} is off. Its sessions have ended.")
    return visit.go(to_page(visit))


async def _confirm(visit: Visit) -> Response:
    volume = await _volume(visit)
    await visit.ask(Confirm(instance=str(visit.instance), volumes=(volume.path,)), Changed)
    visit.say(f"Access to {volume.path} is confirmed for the volume that is there now.")
    return visit.go(to_page(visit))
