"""What the web process asks the core. It knows no other way to anything."""

from __future__ import annotations

from typing import TypeVar

import msgspec
import trio

from hatchway.wire import frames
from hatchway.wire.entry import Password, PasswordKind
from hatchway.wire.web import (
    Call,
    ChangePassword,
    OpenLink,
    SignedIn,
    SignedOut,
    SignIn,
    SignOut,
    Viewer,
    WhoIs,
)

T = TypeVar("T")

TIMEOUT_S = 30.0
"""Longest wait for an answer: whoever looks at a page has long reloaded it then."""


AT_ONCE = 100
"""Requests at once, each of which is a connection; more wait. The core takes 256."""


class Backend:
    """The core, through its unix socket at `path`. Every method raises NotRunningError when it does not answer, and
    the HatchwayError it answers with."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._room = trio.Semaphore(AT_ONCE)

    async def sign_in(self, name: str, password: str, address: str) -> SignedIn:
        """Raises SignInError, SignInWaitError."""
        return await self._send(SignIn(name=name, password=password, address=address), SignedIn)

    async def open_link(self, token: str, passphrase: str, address: str) -> SignedIn:
        """Raises SignInError, PassphraseError, SignInWaitError."""
        return await self._send(OpenLink(token=token, passphrase=passphrase, address=address), SignedIn)

    async def who_is(self, token: str) -> Viewer:
        """Raises SignedOutError."""
        return await self._send(WhoIs(token), Viewer)

    async def sign_out(self, token: str) -> None:
        """Whether or not there is such a token."""
        await self._send(SignOut(token), SignedOut)

    async def change_password(
        self, token: str, address: str, current: str, password: str, kind: PasswordKind
    ) -> Password:
        """Have the password of the person of `token` be another. Raises SignInError when `current` is wrong,
        SignInWaitError, UsageError."""
        request = ChangePassword(token=token, address=address, current=current, password=password, kind=kind)
        return await self._send(request, Password)

    async def call(self, token: str, address: str, request: msgspec.Struct, answer: type[T]) -> T:
        """What the core answers `request` with, for the viewer of `token`. Raises SignedOutError, RefusedError."""
        raw = msgspec.Raw(msgspec.msgpack.encode(request))
        return await self._send(Call(token=token, address=address, request=raw), answer)

    async def _send(self, request: object, answer: type[T]) -> T:
        async with self._room:
            return await frames.call(self._path, request, answer, TIMEOUT_S)
