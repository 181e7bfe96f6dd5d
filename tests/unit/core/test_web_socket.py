"""What the web process may ask the core: signing in and out, and what it relays for whoever is signed in.

The helper that asks PAM is made up here, and asked over its socket; it has tests of its own (tests/unit/signin).
"""

from __future__ import annotations

import functools
import os
import socket
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import msgspec
import pytest
import trio
import trio.testing
from structlog.testing import capture_logs
from tests.unit.core.stage import ROOT, Stage, staged

from hatchway import addresses
from hatchway.access.attempts import Attempts
from hatchway.access.throttle import FREE_AT_LOGIN, FREE_OF_ADDRESS, Throttle
from hatchway.admin import callers, sentences, signing
from hatchway.admin.person_door import PersonDoor
from hatchway.admin.relaying import REQUEST_MAX, Relaying
from hatchway.admin.rights import MAY, OF_ONE_INSTANCE, OF_ONE_LOGIN, OPERATORS, ROOT_ONLY
from hatchway.admin.share_links import LinkDoor
from hatchway.admin.signing import LOOK_EVERY_S, REFUSED, UNCHECKED, Signing, helper
from hatchway.config import Web
from hatchway.errors import (
    HatchwayError,
    NotFoundError,
    NotRunningError,
    ProtocolError,
    RefusedError,
    SignedOutError,
    SignInError,
    SignInWaitError,
)
from hatchway.model import EventKind
from hatchway.registry.records import NewEvent
from hatchway.signin import checking
from hatchway.wire import admin as admin_messages
from hatchway.wire import entry, frames, signin
from hatchway.wire.admin import Apply, Changed, Enable, Listing, ListInstances, Prune, Show, ShowServer
from hatchway.wire.entry import AddKey, ConditionsStatus, Lock, RotateKey, SetPassword
from hatchway.wire.service import Peer, Request, Table, serve
from hatchway.wire.signin import CheckPassword, CheckStanding, Operator, Verdict
from hatchway.wire.web import Call, SignedIn, SignedOut, SignIn, SignOut, Viewer, ViewerKind, WhoIs

T = TypeVar("T")

PASSWORD = "correct horse battery"
THERE = "192.0.2.7"
CONFIG = Web(enabled=True, session_idle_s=1000, session_s=5000)


@pytest.fixture(autouse=True)
def _no_host_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hatchway.sshd.hostkeys.read", lambda _: ())


class Helper:
    """A helper at whose host "anna" is an operator."""

    def __init__(self) -> None:
        self.operators = {"anna": 1000}
        self.asked: list[CheckPassword | CheckStanding] = []
        self.held: trio.Event | None = None

    async def password(self, question: CheckPassword, _peer: Peer) -> Verdict:
        self.asked.append(question)
        assert len(msgspec.msgpack.encode(question)) <= signin.REQUEST_MAX
        if self.held is not None:
            await self.held.wait()
        name = question.name.lower()
        if name in self.operators and question.password == PASSWORD:
            return Verdict(operator=Operator(name, self.operators[name]))
        return Verdict(operator=None, reason="PAM refuses the password: Authentication failure")

    async def standing(self, question: CheckStanding, _peer: Peer) -> Verdict:
        self.asked.append(question)
        if self.operators.get(question.name) == question.uid:
            return Verdict(operator=Operator(question.name, question.uid))
        return Verdict(operator=None, reason="the account is not in the group")


@dataclass
class Scene:
    """A core that serves a web process, which is this one."""

    stage: Stage
    helper: Helper
    path: str
    attempts: Attempts
    sftp: Throttle
    clock: list[float]
    token: str = field(default="", repr=False)

    async def ask(self, request: object, answer: type[T]) -> T:
        return await frames.call(self.path, request, answer)

    async def sign_in(self, name: str = "anna", password: str = PASSWORD, address: str = THERE) -> SignedIn:
        found = await self.ask(SignIn(name=name, password=password, address=address), SignedIn)
        self.token = found.token
        return found

    async def who(self) -> Viewer:
        return await self.ask(WhoIs(self.token), Viewer)

    async def call(self, request: object, answer: type[T], address: str = THERE) -> T:
        raw = msgspec.Raw(msgspec.msgpack.encode(request))
        return await self.ask(Call(token=self.token, address=address, request=raw), answer)

    async def told(self) -> list[NewEvent]:
        await self.stage.core.journal.finish()
        return [found.event for found in self.stage.core.registry.events(limit=1000)]


async def listening(path: str) -> trio.SocketListener:
    sock = trio.socket.socket(socket.AF_UNIX)
    await sock.bind(path)
    sock.listen()
    return trio.SocketListener(sock)


@asynccontextmanager
async def scene(
    directory: Path, *, uid: int | None = None, failure_s: float = 0.0, lock_after: int = 0
) -> AsyncIterator[Scene]:
    uid = os.getuid() if uid is None else uid
    async with staged(directory, web=CONFIG, lock_after=lock_after) as stage, trio.open_nursery() as nursery:
        asked, sftp, clock = Helper(), Throttle(), [0.0]
        mine = (os.getuid(),)
        rows: Table = {CheckPassword: Request(mine, asked.password), CheckStanding: Request(mine, asked.standing)}
        nursery.start_soon(serve, "signin", await listening(stage.core.config.signin_socket), rows)
        attempts = Attempts(failure_s=failure_s, beside=sftp)
        signed = Signing(
            CONFIG,
            stage.core.journal,
            attempts,
            helper(stage.core.config.signin_socket),
            PersonDoor(stage.core, stage.admission),
            LinkDoor(stage.core),
            stage.core.now,
            lambda: clock[0],
        )
        path = stage.core.config.web_socket
        bounded = functools.partial(serve, request_max=REQUEST_MAX, connections_max=20)
        nursery.start_soon(bounded, "web", await listening(path), Relaying(stage.requests, signed).table(uid))
        yield Scene(stage, asked, path, attempts, sftp, clock)
        nursery.cancel_scope.cancel()


def test_a_turn_is_held_longer_than_the_helper_takes_for_a_no() -> None:
    held = signing.guesses(Throttle())
    assert checking.REFUSED_S < held._hold_s <= signing.FAILURE_S == held._failure_s


# --- signing in and out --------------------------------------------------------------------------------------------


async def test_an_operator_signs_in_and_out(tmp_path: Path) -> None:
    async with scene(tmp_path) as web:
        with capture_logs() as logs:
            found = await web.sign_in()
            assert (found.viewer.kind, found.viewer.name) == (ViewerKind.OPERATOR, "anna")
            assert found.viewer.expires_at == pytest.approx(web.stage.core.now() + CONFIG.session_s, abs=5)
            again = await web.who()
            assert (again.kind, again.name) == (ViewerKind.OPERATOR, "anna")
            assert again.expires_at == pytest.approx(found.viewer.expires_at, abs=5)
            assert await web.ask(SignOut(web.token), SignedOut) == SignedOut()
            assert await web.ask(SignOut(web.token), SignedOut) == SignedOut()
            for request in (WhoIs(web.token), WhoIs(""), WhoIs("x" * 10_000)):
                with pytest.raises(SignedOutError):
                    await web.ask(request, Viewer)
            with pytest.raises(SignedOutError):
                await web.call(ListInstances(), Listing)
        assert web.helper.asked[0] == CheckPassword(name="anna", password=PASSWORD, address=THERE)
        assert [(event.what, event.who) for event in await web.told()] == [
            ("signed in", f"operator anna (web) from {THERE}"),
            ("signed out", "operator anna (web)"),
        ]
        assert [log["event"] for log in logs if log["event"].startswith("signed")] == ["signed in", "signed out"]
        for text in (repr(logs), repr(await web.told()), repr(found), repr(web)):
            assert PASSWORD not in text
            assert found.token not in text


async def test_who_may_not_is_told_the_same_whatever_the_reason(tmp_path: Path) -> None:
    async with scene(tmp_path, failure_s=0.3) as web:
        texts = set()
        with capture_logs() as logs:
            for name, password in (
                ("anna", "wrong"),
                ("nobody", PASSWORD),
                ("", ""),
                ("x" * 5000, "y" * 5000),
                ("\N{SNOWMAN}" * 256, ""),
            ):
                began = trio.current_time()
                with pytest.raises(SignInError) as caught:
                    await web.sign_in(name, password)
                assert 0.3 <= trio.current_time() - began < 1.5
                texts.add(str(caught.value))
        assert texts == {signing.WRONG}
        events = await web.told()
        assert {(event.kind, event.what, event.address) for event in events} == {(EventKind.REFUSED, REFUSED, THERE)}
        assert {event.login for event in events} >= {"anna", "nobody"}
        refusals = [log for log in logs if log["event"] == "sign-in refused"]
        assert {log["reason"] for log in refusals} == {"PAM refuses the password: Authentication failure"}
        assert max(len(log["name"]) for log in refusals) <= signing.LOGGED_MAX
        assert PASSWORD not in repr(logs) + repr(events)


async def test_without_the_helper_nobody_signs_in_and_nobody_is_told_why(tmp_path: Path) -> None:
    async with scene(tmp_path) as web:
        await web.sign_in()
        Path(web.stage.core.config.signin_socket).unlink()
        with capture_logs() as logs:
            with pytest.raises(NotRunningError, match="cannot be looked at now") as caught:
                await web.sign_in()
            assert str(tmp_path) not in str(caught.value)
            await web.who()
            # Who is signed in is not thrown out by that, and not let in without a look.
            web.clock[0] += LOOK_EVERY_S
            with pytest.raises(NotRunningError):
                await web.who()
        assert {log["event"] for log in logs if log["log_level"] == "error"} == {"operators cannot be looked at"}


async def test_guesses_wait_longer_and_longer(tmp_path: Path) -> None:
    async with scene(tmp_path) as web:
        for number in range(FREE_AT_LOGIN):
            with pytest.raises(SignInError):
                await web.sign_in(("anna", "Anna", "ANNA", "aNNa")[number % 4], "wrong")
        with pytest.raises(SignInError):
            await web.sign_in("anna", "wrong")
        # It waits a second, then two, then it is refused unchecked, the right password too.
        for _ in range(2):
            with pytest.raises(SignInError):
                await web.sign_in("anna", "wrong")
        looked_at = len(web.helper.asked)
        with pytest.raises(SignInWaitError, match=r"try again in [34] s$"):
            await web.sign_in()
        assert len(web.helper.asked) == looked_at
        # From elsewhere the same operator comes in, and from there another one.
        await web.sign_in(address="192.0.2.8")
        web.helper.operators["bert"] = 1001
        await web.sign_in("bert")
        assert any(f"; {UNCHECKED} (1)" in event.what for event in await web.told())


async def test_what_is_claimed_here_keeps_nobody_out_of_sftp(tmp_path: Path) -> None:
    """A web process of an attacker's says that guesses come from a victim's address, at its login."""
    async with scene(tmp_path) as web:
        victim = addresses.address(THERE)
        for number in range(FREE_OF_ADDRESS + 1):
            with pytest.raises(SignInError):
                await web.sign_in(f"shop-web-{number}", "wrong")
        now = trio.current_time()
        assert web.attempts.throttle.wait_s(victim, "sign-in x", now) > 0
        assert web.sftp.wait_s(victim, "shop-web-1", now) == 0
        # The other way round an address that guesses there waits here.
        guesser = addresses.address("192.0.2.66")
        for number in range(FREE_OF_ADDRESS + 5):
            web.sftp.failed(guesser, f"shop-web-{number}", trio.current_time())
        with pytest.raises(SignInWaitError):
            await web.sign_in(address="192.0.2.66")
        await web.sign_in(address="192.0.2.67")


async def test_many_at_once_are_looked_at_two_at_a_time(tmp_path: Path) -> None:
    async with scene(tmp_path) as web:
        web.helper.held = trio.Event()
        results: list[str] = []

        async def guess(number: int) -> None:
            try:
                await web.sign_in(f"operator{number}", "wrong", f"198.51.100.{number}")
            except HatchwayError as exc:
                results.append(exc.code)

        async with trio.open_nursery() as nursery:
            for number in range(10):
                nursery.start_soon(guess, number)
            await trio.sleep(0.3)
            assert len(web.helper.asked) == 2
            web.helper.held.set()
        assert results == ["sign-in"] * 10


async def test_an_address_that_is_none_is_not_recorded(tmp_path: Path) -> None:
    async with scene(tmp_path) as web:
        for address in ("", "localhost", "\x1b[2J", "1" * 1000, "192.0.2.7 (operator)"):
            await web.sign_in(address=address)
        await web.sign_in(address="::ffff:192.0.2.9")
        assert [event.who for event in await web.told()] == ["operator anna (web)"] * 5 + [
            "operator anna (web) from 192.0.2.9"
        ]


# --- how long it lasts ---------------------------------------------------------------------------------------------


async def test_it_ends_without_use_and_in_any_case(tmp_path: Path) -> None:
    async with scene(tmp_path) as web:
        await web.sign_in()
        web.clock[0] += CONFIG.session_idle_s
        with pytest.raises(SignedOutError):
            await web.who()
        await web.sign_in()
        expires = {round((await web.who()).expires_at)}
        for _ in range(5):
            web.clock[0] += CONFIG.session_idle_s - 1
            await web.who()
        web.clock[0] += 5
        with pytest.raises(SignedOutError):
            await web.who()
        assert len(expires) == 1


@pytest.mark.parametrize("gone", [{}, {"anna": 2000}], ids=["out of the group", "another account"])
async def test_who_is_no_operator_any_more_is_out_soon(tmp_path: Path, gone: dict[str, int]) -> None:
    async with scene(tmp_path) as web:
        first, second = await web.sign_in(), await web.sign_in()
        web.helper.operators = gone
        web.clock[0] += LOOK_EVERY_S - 1
        asked = len(web.helper.asked)
        await web.who()
        assert len(web.helper.asked) == asked, "what is known is fresh enough"
        web.clock[0] += 1
        with pytest.raises(SignedOutError):
            await web.call(ListInstances(), Listing)
        assert len(web.helper.asked) == asked + 1
        web.helper.operators = {"anna": 1000}
        for found in (first, second):
            with pytest.raises(SignedOutError):
                await web.ask(WhoIs(found.token), Viewer)
        assert len(web.helper.asked) == asked + 1, "both are out at once"
        *_, last = await web.told()
        assert (last.what, last.who) == ("signed out: the account is not in the group", "operator anna (web)")


async def test_one_look_is_enough_for_all_that_is_asked_at_once(tmp_path: Path) -> None:
    async with scene(tmp_path) as web:
        await web.sign_in()
        web.clock[0] += LOOK_EVERY_S
        async with trio.open_nursery() as nursery:
            for _ in range(10):
                nursery.start_soon(web.who)
        assert [type(one) for one in web.helper.asked] == [CheckPassword, CheckStanding]


# --- what is relayed -----------------------------------------------------------------------------------------------


async def test_an_operator_does_what_the_command_line_does_and_is_recorded(tmp_path: Path) -> None:
    async with scene(tmp_path) as web:
        await web.sign_in()
        listing = await web.call(ListInstances(), Listing)
        assert listing == await web.stage.do(ListInstances())
        with capture_logs() as logs:
            await web.call(Enable(instance="web", volumes=("/data",)), Changed, address="2001:db8::1")
            await web.call(SetPassword(instance="web", password="hunter2 hunter2"), entry.Password)
            await web.call(Lock(instance="web"), ConditionsStatus)
            with pytest.raises(NotFoundError, match="no instance 'elsewhere'"):
                await web.call(Lock(instance="elsewhere"), ConditionsStatus)
        events = [event for event in await web.told() if event.what != "signed in"]
        assert [(event.what, event.who, event.done) for event in events] == [
            ("enable /data", "operator anna (web) from 2001:db8::1", True),
            ("password set", f"operator anna (web) from {THERE}", True),
            ("locked", f"operator anna (web) from {THERE}", True),
            (
                "locked: there is no instance 'elsewhere'; 'hatchway ls' lists them",
                f"operator anna (web) from {THERE}",
                False,
            ),
        ]
        assert "hunter2" not in repr(logs) + repr(events)
        assert {log["by"] for log in logs if "by" in log} == {"operator anna (web)"}
        (volume,) = [v for v in (await web.call(ListInstances(), Listing)).instances[0].volumes if v.path == "/data"]
        assert [grant.granted_by for grant in volume.grants] == ["operator anna (web)"]


async def test_each_request_is_roots_alone_or_an_operators_too(tmp_path: Path) -> None:
    """A new one fails here until somebody has decided; until then it is refused."""
    async with staged(tmp_path) as stage:
        assert set(stage.requests) == OPERATORS | ROOT_ONLY
    assert not OPERATORS & ROOT_ONLY
    assert set(MAY) == set(ViewerKind)
    assert MAY[ViewerKind.OPERATOR] is OPERATORS
    assert set(sentences.CHANGING) | sentences.READING >= OPERATORS | ROOT_ONLY
    assert MAY[ViewerKind.PERSON] < OPERATORS
    assert MAY[ViewerKind.LINK] < OPERATORS
    for kind, own in ((ViewerKind.PERSON, OF_ONE_LOGIN), (ViewerKind.LINK, OF_ONE_INSTANCE)):
        assert MAY[kind] - own == {ShowServer}, "what names nobody is for everybody"


@pytest.mark.parametrize(
    "request_", [Apply(rules=()), Prune(gone_s=0.0), RotateKey()], ids=lambda one: type(one).__name__
)
async def test_what_is_roots_alone_is_refused(tmp_path: Path, request_: object) -> None:
    async with scene(tmp_path) as web:
        await web.sign_in()
        before = await web.told()
        with capture_logs() as logs, pytest.raises(RefusedError, match="cannot be done from the web pages"):
            await web.call(request_, Viewer)
        assert ("request refused", type(request_).__name__) in {(log["event"], log.get("request")) for log in logs}
        assert await web.told() == before


async def test_what_is_no_request_is_refused(tmp_path: Path) -> None:
    async with scene(tmp_path) as web:
        await web.sign_in()
        good = msgspec.msgpack.encode(ListInstances())
        nested = msgspec.msgpack.encode(Call(token=web.token, address=THERE, request=msgspec.Raw(good)))
        signed = msgspec.msgpack.encode(SignIn(name="anna", password=PASSWORD, address=THERE))
        answers = msgspec.msgpack.encode(SignedOut())
        deep = b"\x91" * 5000 + b"\xc0"
        for body in (b"\xc0", b"\x81\xa4type\xa4list" + good, nested, signed, answers, deep, b"\xa3abc", b"\x80"):
            with pytest.raises((ProtocolError, NotRunningError)):
                await web.ask(Call(token=web.token, address=THERE, request=msgspec.Raw(body)), Listing)
        assert (await web.call(ListInstances(), Listing)).instances


async def test_nobody_calls_without_a_token(tmp_path: Path) -> None:
    async with scene(tmp_path) as web:
        kinds = [*admin_messages.__dict__.values(), *entry.__dict__.values()]
        assert AddKey in kinds
        for token in ("", "a", "A" * 43, "operator anna", "\N{SNOWMAN}" * 1000):
            web.token = token
            for request in (ListInstances(), Show(instance="web", secrets=True), RotateKey()):
                with pytest.raises(SignedOutError):
                    await web.call(request, Viewer)
        assert await web.told() == []


async def test_the_socket_is_the_web_processs_alone(tmp_path: Path) -> None:
    async with scene(tmp_path, uid=os.getuid() + 1) as web:
        for request in (SignIn(name="anna", password=PASSWORD, address=THERE), WhoIs("x"), SignOut("x")):
            with capture_logs() as logs, pytest.raises(NotRunningError, match="hung up"):
                await web.ask(request, SignedIn)
            assert [log["event"] for log in logs] == ["request refused"]
        assert web.helper.asked == []


async def test_the_admin_table_itself_is_not_there(tmp_path: Path) -> None:
    async with scene(tmp_path) as web:
        await web.sign_in()
        for request in (ListInstances(), Enable(instance="web", every=True)):
            with pytest.raises(NotRunningError, match="hung up"):
                await web.ask(request, Listing)


async def test_what_is_too_large_or_too_many_is_cut(tmp_path: Path) -> None:
    async with scene(tmp_path) as web:
        await web.sign_in()
        with pytest.raises(NotRunningError):
            await web.sign_in(password="x" * REQUEST_MAX)
        with pytest.raises(NotRunningError):
            await web.call(SetPassword(instance="web", password="x" * REQUEST_MAX), entry.Password)
        streams = [await trio.open_unix_socket(web.path) for _ in range(20)]
        for stream in streams:
            await stream.send_all(struct.pack(">I", 100))
        await trio.testing.wait_all_tasks_blocked()
        with pytest.raises(NotRunningError):
            await web.who()
        await streams[0].aclose()
        await trio.testing.wait_all_tasks_blocked()
        assert (await web.who()).name == "anna"
        for stream in streams[1:]:
            await stream.aclose()


async def test_a_table_is_served_to_processes_by_who_they_are(tmp_path: Path) -> None:
    async with staged(tmp_path) as stage:
        table = callers.for_peers(stage.requests)
        assert set(table) == set(stage.requests)
        assert {tuple(row.uids) for row in table.values()} == {(0,)}
        handler: Any = table[Enable].handler
        await handler(Enable(instance="web", volumes=("/data",)), Peer(1, 0, 0))
        await stage.core.journal.finish()
        (found,) = stage.core.registry.events(limit=10)
        assert found.event.who == ROOT.origin
