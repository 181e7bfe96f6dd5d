"""The table of the socket "web": signing in and out, and requests of the admin table for whoever is signed in.

The web process has no rights. A request it relays is done by the same handler as one from the admin socket, so it is
recorded as those are, once the token's viewer is known and may make it.
"""

from __future__ import annotations

import functools
import operator
from collections.abc import AsyncIterator, Hashable
from contextlib import asynccontextmanager
from typing import Any

import trio

from hatchway import addresses, log
from hatchway.admin import telling
from hatchway.admin.callers import Caller, Requests
from hatchway.admin.rights import may
from hatchway.admin.signing import Signing, caller_of
from hatchway.admin.visits import Visit
from hatchway.errors import HatchwayError, RefusedError, SignInWaitError
from hatchway.wire import frames
from hatchway.wire.entry import ExportKey, ImportPassword, KeyForm, Password, RenewKey, ResetPassword, SetPassword
from hatchway.wire.links import MakeLink
from hatchway.wire.service import Peer, Request, Table
from hatchway.wire.sparing import Sparing
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


COSTLY_MAX = 4
"""Requests of one viewer that take a processor and memory for a while: one is done, the others wait for it."""


def is_costly(request: object) -> bool:
    """Whether `request` is one of which there are COSTLY_MAX at once: it makes a hash, a key, or a file of one."""
    if isinstance(request, ExportKey):
        return request.form is KeyForm.PPK
    if isinstance(request, MakeLink):
        return request.passphrase is not None
    return isinstance(request, ImportPassword | RenewKey | ResetPassword | SetPassword)


class Relaying:
    """The requests, of which those of `requests` are relayed."""

    def __init__(self, requests: Requests, signing: Signing) -> None:
        self._requests = requests
        self._signing = signing
        self._kinds: Any = functools.reduce(operator.or_, requests)
        self._costly: dict[Hashable, tuple[trio.Lock, int]] = {}
        self._logger = Sparing(log.get(socket="web"))

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
        if not is_costly(request):
            return await self._relay(request, visit, caller)
        async with self._costly_turn(visit):
            # They may have been signed out while they waited.
            visit = await self._signing.visit(call.token, call.address)
            return await self._relay(request, visit, caller)

    @asynccontextmanager
    async def _costly_turn(self, visit: Visit) -> AsyncIterator[None]:
        viewer = visit.kind, visit.name, visit.link
        lock, users = self._costly.get(viewer, (trio.Lock(), 0))
        if users >= COSTLY_MAX:
            raise SignInWaitError("that is too much at once: wait until what you asked for before is done")
        self._costly[viewer] = lock, users + 1
        try:
            async with lock:
                yield
        finally:
            lock, users = self._costly.pop(viewer)
            if users > 1:
                self._costly[viewer] = lock, users - 1

    async def _relay(self, request: object, visit: Visit, caller: Caller) -> object:
        handler = self._requests[type(request)].handler
        if visit.kind is ViewerKind.OPERATOR:
            return await handler(request, caller)
        try:
            answer = await handler(request, caller)
        except HatchwayError as exc:
            self._logger.warning("request failed", request=type(request).__name__, by=caller.name, error=str(exc))
            raise telling.failure(exc) from None
        return telling.to_person(answer, visit.name) if visit.kind is ViewerKind.PERSON else telling.to_link(answer)
