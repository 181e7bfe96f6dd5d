"""Rows of links: see `tables.share_links`."""

from __future__ import annotations

import dataclasses
from typing import Any

from sqlalchemy import ColumnElement, Connection, delete, func, insert, select

from hatchway.errors import ConflictError
from hatchway.model import InstanceKey, Login
from hatchway.registry import tables as t
from hatchway.registry.records import NewShareLink, ShareLinkRecord

LINKS_MAX = 100
"""Links of one instance."""

KEPT_S = 7 * 86400.0
"""For how long, in seconds, a link that has expired is still shown."""


def found(connection: Connection, *where: ColumnElement[bool]) -> tuple[ShareLinkRecord, ...]:
    """Those of which all of `where` is so, the latest first."""
    links = t.share_links.c
    columns: list[ColumnElement[Any]] = [
        links[one] for one in ("id", "name", "passphrase", "note", "made_at", "made_by", "expires_at")
    ]
    columns += [links.uses_max, links.uses, links.wrong, t.logins.c.name.label("login")]
    columns += [t.instances.c[one] for one in ("environment", "container", "number")]
    joined = t.share_links.join(t.instances).join(t.logins, t.logins.c.instance_id == t.instances.c.id)
    query = select(*columns).select_from(joined).where(*where).order_by(links.id.desc())
    return tuple(_record(row._mapping) for row in connection.execute(query))


def _record(row: Any) -> ShareLinkRecord:
    values = dict(row)
    key = InstanceKey(values.pop("environment"), values.pop("container"), values.pop("number"))
    return ShareLinkRecord(**{**values, "login": Login(values["login"]), "key": key})


def make(connection: Connection, instance: int, new: NewShareLink) -> int:
    """Make one to the instance in row `instance`. Gives its row. Raises ConflictError when there are LINKS_MAX."""
    links = t.share_links
    connection.execute(delete(links).where(links.c.expires_at < new.made_at - KEPT_S))
    count = select(func.count()).where(links.c.instance_id == instance)
    if connection.execute(count).scalar_one() >= LINKS_MAX:
        raise ConflictError(f"there are {LINKS_MAX} links to this instance already: take some back")
    values = {"instance_id": instance, "uses": 0, "wrong": 0, **dataclasses.asdict(new)}
    made = connection.execute(insert(links).values(values)).inserted_primary_key
    assert made is not None
    return int(made[0])
