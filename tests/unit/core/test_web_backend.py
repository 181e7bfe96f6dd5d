"""How much the web process asks of the core at once: guesses keep nobody waiting who is signed in."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio
import trio.testing
from tests.unit.core.test_web_socket import listening

from hatchway.errors import SignInWaitError
from hatchway.web.backend import AT_ONCE, GUESSES_AT_ONCE, GUESSES_OF_SITE, GUESSES_OF_SOURCE, Backend
from hatchway.wire.entry import Password, PasswordKind
from hatchway.wire.service import Peer, Request, Table, serve
from hatchway.wire.web import ChangePassword, OpenLink, SignedIn, SignIn, Viewer, ViewerKind, WhoIs

ANNA = Viewer(kind=ViewerKind.OPERATOR, name="anna", expires_at=1.0)


class Core:
    """A core that says who is signed in at once, and looks at guesses for as long as it is held."""

    def __init__(self) -> None:
        self.go_on = trio.Event()
        self.guesses = 0

    async def guess(self, request: SignIn | OpenLink | ChangePassword, _peer: Peer) -> SignedIn | Password:
        self.guesses += 1
        await self.go_on.wait()
        if isinstance(request, ChangePassword):
            return Password(login="berta", kind=PasswordKind.HASHED)
        return SignedIn(token="token", viewer=ANNA)

    async def who(self, _request: WhoIs, _peer: Peer) -> Viewer:
        return ANNA


@asynccontextmanager
async def asked(directory: Path) -> AsyncIterator[tuple[Backend, Core, trio.Nursery]]:
    core, path, uids = Core(), str(directory / "web.sock"), (0,)
    guess = Request(uids, core.guess)
    table: Table = {SignIn: guess, OpenLink: guess, ChangePassword: guess, WhoIs: Request(uids, core.who)}
    async with trio.open_nursery() as nursery:
        nursery.start_soon(serve, "web", await listening(path), table)
        yield Backend(path), core, nursery
        nursery.cancel_scope.cancel()


async def begin(nursery: trio.Nursery, backend: Backend, addresses: list[str]) -> None:
    for address in addresses:
        nursery.start_soon(backend.sign_in, "anna", "wrong", address)
    await trio.testing.wait_all_tasks_blocked(0.05)


async def guess(backend: Backend, address: str) -> None:
    with trio.fail_after(5):
        await backend.sign_in("anna", "wrong", address)


async def test_whoever_is_signed_in_does_not_wait_for_guesses(tmp_path: Path) -> None:
    async with asked(tmp_path) as (backend, core, nursery):
        everywhere = [f"198.{number // 250}.{number % 250}.1" for number in range(GUESSES_AT_ONCE)]
        await begin(nursery, backend, everywhere)
        assert core.guesses == GUESSES_AT_ONCE
        with pytest.raises(SignInWaitError, match=r"try again in \d s"):
            await guess(backend, "203.0.113.1")
        with trio.fail_after(5):
            assert await backend.who_is("token") == ANNA
        assert core.guesses == GUESSES_AT_ONCE
        assert GUESSES_AT_ONCE + AT_ONCE < 256
        core.go_on.set()
        await trio.testing.wait_all_tasks_blocked(0.05)
        await guess(backend, "203.0.113.1")


@pytest.mark.parametrize(
    ("same", "beside"),
    [("203.0.113.66", "203.0.113.67"), ("2001:db8::1", "2001:db8:0:1::1"), ("unknown", "203.0.113.1")],
)
async def test_an_address_guesses_a_few_times_at_once(tmp_path: Path, same: str, beside: str) -> None:
    async with asked(tmp_path) as (backend, core, nursery):
        await begin(nursery, backend, [same] * GUESSES_OF_SOURCE)
        for _ in range(3):
            with pytest.raises(SignInWaitError):
                await guess(backend, same)
        with pytest.raises(SignInWaitError):
            await backend.open_link("token", "passphrase", same)
        with pytest.raises(SignInWaitError):
            await backend.change_password("token", same, "current", "another", PasswordKind.HASHED)
        await begin(nursery, backend, [beside])
        assert core.guesses == GUESSES_OF_SOURCE + 1
        core.go_on.set()
        await trio.testing.wait_all_tasks_blocked(0.05)
        await guess(backend, same)


async def test_a_network_with_many_addresses_does_not_take_all(tmp_path: Path) -> None:
    async with asked(tmp_path) as (backend, core, nursery):
        await begin(nursery, backend, [f"2001:db8:0:{number:x}::1" for number in range(GUESSES_OF_SITE)])
        await begin(nursery, backend, [f"192.0.2.{number}" for number in range(GUESSES_OF_SITE)])
        for address in ("2001:db8:0:ffff::1", "192.0.2.200"):
            with pytest.raises(SignInWaitError):
                await guess(backend, address)
        await begin(nursery, backend, ["2001:db8:1::1", "192.0.3.1"])
        assert core.guesses == 2 * GUESSES_OF_SITE + 2
        core.go_on.set()


async def test_who_is_refused_again_and_again_lets_others_go_on(tmp_path: Path) -> None:
    async with asked(tmp_path) as (backend, core, nursery):
        await begin(nursery, backend, ["203.0.113.66"] * GUESSES_OF_SOURCE)

        async def insist() -> None:
            for _ in range(100_000):
                with contextlib.suppress(SignInWaitError):
                    await backend.sign_in("anna", "wrong", "203.0.113.66")

        async with trio.open_nursery() as insisting:
            insisting.start_soon(insist)
            assert await backend.who_is("token") == ANNA
            assert insisting.child_tasks, "who is answered before"
            insisting.cancel_scope.cancel()
        core.go_on.set()


async def test_who_leaves_does_not_count_any_more(tmp_path: Path) -> None:
    async with asked(tmp_path) as (backend, core, _):
        async with trio.open_nursery() as leaving:
            await begin(leaving, backend, ["203.0.113.66"] * GUESSES_OF_SOURCE)
            leaving.cancel_scope.cancel()
        core.go_on.set()
        await guess(backend, "203.0.113.66")
