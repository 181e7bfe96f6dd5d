"""What the web process asks the core. It knows no other way to anything."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TypeVar

import msgspec
import trio

from hatchway import addresses
from hatchway.errors import SignInWaitError
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

GUESSES_AT_ONCE = 40
"""As AT_ONCE, of those that may be guesses, each of which takes seconds when it is wrong: two are looked at in a second
and a half, so that the last still has its answer within TIMEOUT_S. They do not count there, since nobody who is signed
in is to wait for them; more are refused."""

GUESSES_OF_SOURCE, GUESSES_OF_SITE = 5, 15
"""As GUESSES_AT_ONCE, of one address, and of one network around it: see addresses.source_of and site_of."""


class Backend:
    """The core, through its unix socket at `path`. Every method raises NotRunningError when it does not answer, and
    the HatchwayError it answers with."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._room = trio.Semaphore(AT_ONCE)
        self._guesses: Counter[str] = Counter()

    async def sign_in(self, name: str, password: str, address: str) -> SignedIn:
        """Raises SignInError, SignInWaitError."""
        return await self._guess(address, SignIn(name=name, password=password, address=address), SignedIn)

    async def open_link(self, token: str, passphrase: str, address: str) -> SignedIn:
        """Raises SignInError, PassphraseError, SignInWaitError."""
        return await self._guess(address, OpenLink(token=token, passphrase=passphrase, address=address), SignedIn)

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
        return await self._guess(address, request, Password)

    async def call(self, token: str, address: str, request: msgspec.Struct, answer: type[T]) -> T:
        """What the core answers `request` with, for the viewer of `token`. Raises SignedOutError, RefusedError."""
        raw = msgspec.Raw(msgspec.msgpack.encode(request))
        return await self._send(Call(token=token, address=address, request=raw), answer)

    async def _guess(self, address: str, request: object, answer: type[T]) -> T:
        # Others go on, also while somebody is refused again and again.
        await trio.lowlevel.checkpoint()
        with self._counted(address):
            return await frames.call(self._path, request, answer, TIMEOUT_S)

    @contextmanager
    def _counted(self, text: str) -> Iterator[None]:
        """Count one more guess from the address `text` for a while. Raises SignInWaitError where there are too many."""
        address = addresses.address(text)
        bounds = {
            "all": GUESSES_AT_ONCE,
            f"site {addresses.site_of(address)}": GUESSES_OF_SITE,
            f"source {addresses.source_of(address)}": GUESSES_OF_SOURCE,
        }
        if any(self._guesses[key] >= most for key, most in bounds.items()):
            raise SignInWaitError("too many sign in at once: try again in 3 s")
        self._guesses.update(bounds.keys())
        try:
            yield
        finally:
            self._guesses -= Counter(bounds.keys())

    async def _send(self, request: object, answer: type[T]) -> T:
        async with self._room:
            return await frames.call(self._path, request, answer, TIMEOUT_S)
