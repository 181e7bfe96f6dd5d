"""Whose login a page is about: an instance's, a person's, or what is the viewer's own. Pure.

What is done with a login is the same for all of them; only where it is done, and by whom, is not.
"""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from hatchway.errors import NotFoundError
from hatchway.model import PERSON, InstanceKey, parse_instance_key, valid_login
from hatchway.web import paths
from hatchway.wire.web import Viewer, ViewerKind

OF_INSTANCE = "/instances/{environment}/{container}/{number}"
OF_PERSON = "/people/{login}"
OWN = "/me"
SHARED = "/shared"

OPERATED = ((OF_INSTANCE, ViewerKind.OPERATOR), (OF_PERSON, ViewerKind.OPERATOR))
"""Where operators see to a login, as routes, and who gets there."""

ALL = (*OPERATED, (OWN, ViewerKind.PERSON))
"""The same, and where people see to their own."""

SHOWN = (*ALL, (SHARED, ViewerKind.LINK))
"""The same, and where whoever opened a share link is shown how to connect."""


class Whose(msgspec.Struct, frozen=True, kw_only=True):
    """`asked` is what requests call it, `page` where its page is, `log` its whole log, `title` what it is called there;
    `crumbs` are the pages above it, each a text and where it leads. `key` is an instance's, `login` a person's; `own`:
    it is the viewer's."""

    asked: str
    page: str
    log: str
    title: str
    crumbs: tuple[tuple[str, str], ...] = ()
    key: InstanceKey | None = None
    login: str = ""
    own: bool = False


def whose(named: Mapping[str, str], viewer: Viewer) -> Whose:
    """Of the page whose path has these parts. Raises NotFoundError."""
    if "login" in named:
        if not valid_login(named["login"]):
            raise NotFoundError("there is no such page; check the address, or start from the list of people")
        return of_person(named["login"])
    if "environment" in named:
        return of_instance(paths.instance_key(named["environment"], named["container"], named["number"]))
    if viewer.kind is ViewerKind.LINK:
        # They see its connection only.
        key = parse_instance_key(viewer.name)
        return Whose(asked=viewer.name, page=SHARED, log="", title="Shared with you", key=key, own=True)
    return Whose(
        asked=f"{PERSON}{viewer.name}",
        page=OWN,
        log=f"{OWN}/log",
        title="Shared with you",
        login=viewer.name,
        own=True,
    )


def of_instance(key: InstanceKey) -> Whose:
    """An instance's."""
    environment = paths.coded(key.environment)
    return Whose(
        asked=str(key),
        page=paths.instance(key),
        log=paths.query("/log", of=paths.coded(str(key))),
        title=f"{key.container} / {key.number}",
        crumbs=(("Instances", "/"), (key.environment, paths.query("/", environment=environment))),
        key=key,
    )


def of_person(login: str) -> Whose:
    """A person's, as operators see it."""
    return Whose(
        asked=f"{PERSON}{login}",
        page=paths.person(login),
        log=paths.query("/log", instance=f"{PERSON}{login}"),
        title=login,
        crumbs=(("People", "/people"),),
        login=login,
    )
