"""Share links: who opens one sees how to connect to an instance, by its own login, without an account.

The token is made here and given once; kept is its hash. It stands behind the # of an address, which browsers send to
nobody: what looks at links in mails, and what logs them, learns nothing, and using one up takes a click.
"""

from __future__ import annotations

import hashlib
import ipaddress
import secrets

from hatchway import log
from hatchway.admin.callers import Caller, Requests
from hatchway.admin.core import Core
from hatchway.admin.finding import Finding
from hatchway.config import Config, web_address
from hatchway.credentials import passwords
from hatchway.credentials.secret import Secret
from hatchway.errors import ConflictError, UsageError
from hatchway.printable import plain
from hatchway.registry.records import NewShareLink, ShareLinkRecord
from hatchway.wire.links import (
    LIFE_MAX_S,
    NOTE_MAX,
    USES_MAX,
    LinkMade,
    LinkRevoked,
    ListLinks,
    MakeLink,
    RevokeLink,
    ShareLink,
    ShareLinks,
)
from hatchway.wire.service import Request

ROOT = (0,)

TOKEN_BYTES = 32

WRONG_MAX = 20
"""Wrong passphrases after which a link opens nothing any more: whoever tries has its token."""


def digest(token: str) -> str:
    """By which a link is found."""
    return hashlib.sha256(token.encode("utf-8", "surrogatepass")).hexdigest()


def over(record: ShareLinkRecord, now: float) -> str:
    """Why a link opens nothing any more at `now`, Unix seconds; "" while it does."""
    if record.expires_at <= now:
        return "expired"
    if record.uses >= record.uses_max:
        return "used up"
    return "too many wrong passphrases" if record.wrong >= WRONG_MAX else ""


def pages_url(config: Config) -> str:
    """How the web pages are called from outside, without a slash at its end; "" when that is not known."""
    base = config.web.url
    if not base and config.connect.host:
        # What people are told for SFTP is a name for this host.
        host = f"[{config.connect.host}]" if ":" in config.connect.host else config.connect.host
        found = [address for text in config.web.listen if (address := web_address(text)) is not None]
        ports = [port for address, port in found if not ipaddress.ip_address(address).is_loopback]
        # In front of a proxy it is called as that says.
        if ports and config.web.tls in ("own", "files"):
            base = f"https://{host}" + (f":{ports[0]}" if ports[0] != 443 else "")
    return base.rstrip("/")


def url(config: Config, token: str) -> str:
    """The address that opens a link; "" when it is not known how the web pages are called from outside."""
    base = pages_url(config)
    return f"{base}/link#{token}" if base else ""


class LinkRequests:
    """The requests, on one Core."""

    def __init__(self, core: Core, finding: Finding) -> None:
        self._core = core
        self._finding = finding
        self._logger = log.get()

    def table(self) -> Requests:
        """Their part of the admin socket's request table."""
        return {
            MakeLink: Request(ROOT, self._make),
            ListLinks: Request(ROOT, self._list),
            RevokeLink: Request(ROOT, self._revoke),
        }

    async def _make(self, request: MakeLink, caller: Caller) -> LinkMade:
        if not self._core.config.web.enabled:
            raise ConflictError("the web pages are off: set enabled = true below [web], then reload")
        now = self._core.now()
        if not now < request.expires_at <= now + LIFE_MAX_S + 60:
            raise UsageError(f"a link must expire, in {LIFE_MAX_S / 86400:.0f} days at most")
        if not 1 <= request.uses <= USES_MAX:
            raise UsageError(f"a link can be opened from once to {USES_MAX:,} times")
        if len(request.note) > NOTE_MAX or plain(request.note, NOTE_MAX) != request.note:
            raise UsageError(f"a note has at most {NOTE_MAX} characters, all of them printable")
        hashed = None
        if request.passphrase is not None:
            passphrase = Secret(request.passphrase)
            try:
                passwords.check_given(passphrase)
            except UsageError as exc:
                raise UsageError(str(exc).replace("password", "passphrase")) from None
            hashed = await self._core.hashed(lambda: passwords.hash_password(passphrase))
        record = await self._finding.granted(request.instance)
        token = secrets.token_urlsafe(TOKEN_BYTES)
        new = NewShareLink(
            name=secrets.token_hex(4),
            digest=digest(token),
            passphrase=hashed,
            note=request.note,
            made_at=now,
            made_by=caller.name,
            expires_at=request.expires_at,
            uses_max=request.uses,
        )
        made = await self._core.db(lambda registry: registry.make_share_link(record.key, new))
        self._logger.info("link made", link=made.name, instance=str(made.key), by=caller.name)
        return LinkMade(link=_status(made, now), token=token, url=url(self._core.config, token))

    async def _list(self, request: ListLinks, _caller: Caller) -> ShareLinks:
        key = None if request.instance is None else await self._finding.key(request.instance)
        found = await self._core.db(lambda registry: registry.share_links(key))
        now = self._core.now()
        return ShareLinks(tuple(_status(one, now) for one in found))

    async def _revoke(self, request: RevokeLink, caller: Caller) -> LinkRevoked:
        gone = await self._core.db(lambda registry: registry.drop_share_link(request.link))
        self._logger.info("link taken back", link=gone.name, instance=str(gone.key), by=caller.name)
        return LinkRevoked(_status(gone, self._core.now()))


class LinkDoor:
    """Links at the door of the web pages: what one opens, and whether who came in by it may stay. For one Core."""

    def __init__(self, core: Core) -> None:
        self._core = core

    async def known(self, token: str) -> ShareLinkRecord | None:
        """The link of that token, any text, if it opens something now."""
        found = await self._core.db(lambda registry: registry.share_link(digest=digest(token)))
        return None if found is None or over(found, self._core.now()) or await self._is_locked(found) else found

    async def _is_locked(self, record: ShareLinkRecord) -> bool:
        """Whether nobody is to enter by its login: then nobody is told how either."""
        login = await self._core.db(lambda registry: registry.by_login(record.login))
        return login is None or login.conditions.locked_at is not None

    def passes(self, record: ShareLinkRecord, passphrase: str) -> bool:
        """Whether that is its passphrase, if it has one. Blocks, as long as a hash takes."""
        return record.passphrase is None or passwords.verify(record.passphrase, passphrase.encode("utf-8", "replace"))

    async def miss(self, record: ShareLinkRecord) -> None:
        """Count that a passphrase was wrong."""
        await self._core.db(lambda registry: registry.miss_share_link(record.id))

    async def use(self, record: ShareLinkRecord) -> bool:
        """Count that it is opened. False when somebody was quicker, and it is used up."""
        now = self._core.now()
        return await self._core.db(lambda registry: registry.use_share_link(record.id, now, WRONG_MAX))

    async def uses_left(self, row: int | None) -> int:
        """How often the link in that row can still be opened."""
        found = None if row is None else await self._core.db(lambda registry: registry.share_link(row=row))
        return 0 if found is None or over(found, self._core.now()) else found.uses_max - found.uses

    async def standing(self, row: int | None) -> str:
        """Why whoever came in by the link in that row may not stay; "" when they may. That it is used up is no reason:
        they have used it."""
        found = None if row is None else await self._core.db(lambda registry: registry.share_link(row=row))
        if found is None:
            return "the link was taken back"
        if await self._is_locked(found):
            return "the login is locked"
        return "the link has expired" if found.expires_at <= self._core.now() else ""


def _status(record: ShareLinkRecord, now: float) -> ShareLink:
    return ShareLink(
        name=record.name,
        key=record.key,
        login=record.login,
        note=record.note,
        made_at=record.made_at,
        made_by=record.made_by,
        expires_at=record.expires_at,
        uses_max=record.uses_max,
        uses=record.uses,
        passphrase=record.passphrase is not None,
        over=over(record, now),
    )
