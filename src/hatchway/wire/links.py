"""Requests of the admin socket for share links: who opens one sees how to connect to an instance, by no account."""

from __future__ import annotations

import msgspec

from hatchway.model import InstanceKey
from hatchway.wire.entry import Confidential

LIFE_MAX_S = 90 * 86400.0
"""For how long a link may be valid at most, in seconds."""

USES_MAX = 1000
NOTE_MAX = 200


class ShareLink(msgspec.Struct, frozen=True, kw_only=True):
    """A link, called `name`, to the instance `key`.

    Times are Unix seconds. It may be opened `uses_max` times and was `uses` times; `over` says why it opens nothing any
    more, "" while it does. `note`, `made_by` are for people. `passphrase`: one is asked for.
    """

    name: str
    key: InstanceKey
    login: str
    note: str
    made_at: float
    made_by: str
    expires_at: float
    uses_max: int
    uses: int
    passphrase: bool
    over: str = ""


class MakeLink(Confidential, frozen=True, kw_only=True, tag="make-link"):
    """Make a link to an instance, called as in Enable. `expires_at` is Unix seconds, at most LIFE_MAX_S from now.
    Answer: LinkMade."""

    instance: str
    expires_at: float
    uses: int = 1
    passphrase: str | None = None
    note: str = ""


class LinkMade(Confidential, frozen=True, kw_only=True, tag="link-made"):
    """`token` opens it, and is nowhere else. It belongs behind the # of an address of the web pages, where no server
    and no log sees it: `url`, or "" when it is not known how the pages are called from outside."""

    link: ShareLink
    token: str
    url: str


class ListLinks(msgspec.Struct, frozen=True, kw_only=True, tag="list-links"):
    """All links, or those to one instance. Answer: ShareLinks."""

    instance: str | None = None


class ShareLinks(msgspec.Struct, frozen=True, tag="share-links"):
    """The latest first."""

    links: tuple[ShareLink, ...]


class RevokeLink(msgspec.Struct, frozen=True, tag="revoke-link"):
    """Take a link back. Whoever is in by it is signed out. Answer: LinkRevoked."""

    link: str


class LinkRevoked(msgspec.Struct, frozen=True, tag="link-revoked"):
    """What it was."""

    link: ShareLink
