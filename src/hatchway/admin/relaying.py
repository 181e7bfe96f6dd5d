"""The table of the socket "web": signing in and out, and requests of the admin table for whoever is signed in.

The web process has no rights. A request it relays is done by the same handler as one from the admin socket, so it is
recorded as those are, once the token's viewer is known and may make it.
"""

from __future__ import annotations

import functools
import operator
from typing import Any

from hatchway import addresses, log
from hatchway.admin import telling
from hatchway.admin.callers import Requests
from hatchway.admin.rights import may
from hatchway.admin.signing import Signing, caller_of
from hatchway.errors import HatchwayError, RefusedError
from hatchway.wire import frames
from hatchway.wire.entry import Password
from hatchway.wire.service import Peer, Request, Table
from hatchway.wire.web import (
    Call,
    ChangePassword,
    OpenLink,
    SignedIn,
    SignedOut,
    SignIn,
    SignOut,
    Viewer,
    ViewerKind,
    WhoIs,
)

REQUEST_MAX = 256 * 1024
"""Bytes of one request of the web process."""

CONNECTIONS_MAX = 256
"""Connections of the web process at once; it opens one for each request. Whoever breaks into it must not be able to use
up what SFTP needs of the core."""


class Relaying:
    """The requests, of which those of `requests` are relayed."""

    def __init__(self, requests: Requests, signing: Signing) -> None:
        self._requests = requests
        self._signing = signing
        self._kinds: Any = functools.reduce(operator.or_, requests)
        self._logger = log.get(socket="web")

    def table(self, web_uid: int) -> Table:
        """For the process that runs as `web_uid`, and nobody else."""
        uids = (web_uid,)
        return {
            SignIn: Request(uids, self._sign_in),
            OpenLink: Request(uids, self._open_link),
            WhoIs: Request(uids, self._who_is),
            SignOut: Request(uids, self._sign_out),
            ChangePassword: Request(uids, self._change_password),
            Call: Request(uids, self._call),
        }

    async def _sign_in(self, request: SignIn, _peer: Peer) -> SignedIn:
        return await self._signing.sign_in(request)

    async def _open_link(self, request: OpenLink, _peer: Peer) -> SignedIn:
        return await self._signing.open_link(request)

    async def _who_is(self, request: WhoIs, _peer: Peer) -> Viewer:
        return await self._signing.who_is(request)

    async def _sign_out(self, request: SignOut, _peer: Peer) -> SignedOut:
        return await self._signing.sign_out(request)

    async def _change_password(self, request: ChangePassword, _peer: Peer) -> Password:
        try:
            return telling.to_person(await self._signing.change_password(request), "")
        except HatchwayError as exc:
            raise telling.failure(exc) from None

    async def _call(self, call: Call, _peer: Peer) -> object:
        visit = await self._signing.visit(call.token, call.address)
        request = frames.decode(bytes(call.request), self._kinds)
        address = addresses.address(call.address)
        caller = caller_of(visit, "" if address is None else str(address))
        if not may(visit.kind, visit.name, request):
            self._logger.warning("request refused", request=type(request).__name__, by=caller.name)
            raise RefusedError("this cannot be done from the web pages with your rights")
        handler = self._requests[type(request)].handler
        if visit.kind is ViewerKind.OPERATOR:
            return await handler(request, caller)
        try:
            answer = await handler(request, caller)
        except HatchwayError as exc:
            self._logger.warning("request failed", request=type(request).__name__, by=caller.name, error=str(exc))
            raise telling.failure(exc) from None
        return telling.to_person(answer, visit.name) if visit.kind is ViewerKind.PERSON else telling.to_link(answer)
