"""Whatever is sent to the auth, the admin and the web socket: an answer or a hang-up, no entry, no fault of ours.

The core is a real one, on a stage whose hostd does what it is told. Each test has one stage for all that it tries.
"""

from __future__ import annotations

import itertools
import os
import socket
import struct
import threading
from collections.abc import Callable, Iterator, MutableMapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any, TypeVar

import msgspec
import pytest
import structlog
import trio
from hypothesis import given
from hypothesis import strategies as st
from tests.unit.core.soup import ANYTHING, TEXTS, budget, entered, of_struct, spoiled
from tests.unit.core.stage import Stage, staged

from hatchway.access import attempts, service
from hatchway.access.attempts import Attempts
from hatchway.access.throttle import Throttle
from hatchway.admin.callers import for_peers
from hatchway.admin.person_door import PersonDoor
from hatchway.admin.relaying import Relaying
from hatchway.admin.share_links import LinkDoor
from hatchway.admin.signing import Signing, helper
from hatchway.admin.visits import Visits
from hatchway.config import Web
from hatchway.errors import BY_CODE, InternalError
from hatchway.wire.admin import Enable
from hatchway.wire.frames import MAX_FRAME
from hatchway.wire.links import MakeLink
from hatchway.wire.service import serve
from hatchway.wire.web import Call, OpenLink, SignIn, SignOut, ViewerKind, WhoIs

T = TypeVar("T")

INSTANCE, LOGIN = "shop/web/1", "shop-web-1"
ANSWER_S = 20.0
"""Longer than anything may take that is tried here."""


class Lasting:
    """A stage in a thread of its own, for tests that ask it from outside, one socket after the other."""

    def __init__(self, directory: Path, events: list[MutableMapping[str, Any]]) -> None:
        self.directory = directory
        self.events = events
        self.stage: Stage
        self.visits: Visits
        self._ready = threading.Event()
        self._token: trio.lowlevel.TrioToken
        self._end: trio.Event
        self._failure: BaseException | None = None
        self._thread = threading.Thread(target=self._main)

    @property
    def auth_path(self) -> str:
        return self.stage.gate_path

    @property
    def admin_path(self) -> str:
        return str(self.directory / "admin-under-test.sock")

    @property
    def web_path(self) -> str:
        return str(self.directory / "web-under-test.sock")

    def _main(self) -> None:
        try:
            trio.run(self._run)
        except BaseException as exc:
            self._failure = exc
        finally:
            self._ready.set()

    async def _run(self) -> None:
        self._token, self._end = trio.lowlevel.current_trio_token(), trio.Event()
        pages = Web(enabled=True)
        async with staged(self.directory, web=pages) as self.stage, trio.open_nursery() as nursery:
            sock = trio.socket.socket(socket.AF_UNIX)
            await sock.bind(self.admin_path)
            sock.listen()
            nursery.start_soon(serve, "admin", trio.SocketListener(sock), for_peers(self.stage.requests))
            core = self.stage.core
            asks = helper(core.config.signin_socket)
            people = PersonDoor(core, self.stage.admission)
            attempts, links = Attempts(failure_s=0.0), LinkDoor(core)
            signing = Signing(pages, core.journal, attempts, asks, people, links, core.now, lambda: 0.0)
            self.visits = signing._visits
            web = trio.socket.socket(socket.AF_UNIX)
            await web.bind(self.web_path)
            web.listen()
            relayed = Relaying(self.stage.requests, signing).table(os.getuid())
            nursery.start_soon(serve, "web", trio.SocketListener(web), relayed)
            self._ready.set()
            await self._end.wait()
            nursery.cancel_scope.cancel()

    def __enter__(self) -> Lasting:
        self._thread.start()
        self._ready.wait()
        if self._failure is not None:
            raise self._failure
        return self

    def __exit__(self, *_: object) -> None:
        self._token.run_sync_soon(self._end.set)
        self._thread.join()
        if self._failure is not None:
            raise self._failure

    def do(self, call: Callable[[], T]) -> T:
        """Run `call` in the stage's event loop."""
        return trio.from_thread.run_sync(call, trio_token=self._token)

    def change(self, request: object) -> Any:
        """Make a request as root does."""
        return trio.from_thread.run(self.stage.do, request, trio_token=self._token)

    def unharmed(self) -> None:
        """Nobody is in, and no exception of ours was logged."""
        assert not self.do(lambda: entered(self.stage))
        faults = [one["exception"] for one in self.events if "exception" in one]
        assert faults == []
        self.events.clear()


@pytest.fixture
def lasting(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Lasting]:
    monkeypatch.setattr("hatchway.sshd.hostkeys.read", lambda _: ())
    # A guess that is wrong waits this long, and who guesses on longer and longer; that has its own tests.
    monkeypatch.setattr(attempts, "FAILURE_S", 0.0)
    monkeypatch.setattr(Throttle, "wait_s", lambda *_: 0.0)
    capture = structlog.testing.LogCapture()
    structlog.configure(processors=[structlog.processors.format_exc_info, capture])
    with Lasting(tmp_path, capture.entries) as made:
        yield made


def shared(lasting: Lasting) -> None:
    """Have a login there is, with a password and a key."""
    if not lasting.do(lambda: lasting.stage.core.registry.instances()):
        lasting.change(Enable(instance=INSTANCE, volumes=("/data",)))


def said(path: str, *parts: bytes, half_close: bool = True) -> bytes:
    """All that is answered to `parts`, each in a packet of its own; what was closed with data unread is b""."""
    with socket.socket(socket.AF_UNIX) as sock:
        sock.connect(path)  # waits for room in the queue, which with a time-out it does not
        sock.settimeout(ANSWER_S)
        answer = b""
        try:
            for part in parts:
                sock.sendall(part)
            if half_close:
                sock.shutdown(socket.SHUT_WR)
            while chunk := sock.recv(65536):
                answer += chunk
        except (ConnectionResetError, BrokenPipeError):
            pass
        return answer


# --- the auth socket -----------------------------------------------------------------------------------------------

OPS = (b"keys", b"auth", b"account", b"open", b"close", b"", b"OPEN", b"open\n")
NAMES = (b"op", b"login", b"rhost", b"service", b"connection", b"authinfo", b"pid", b"password", b"", b"\xff", b"o p")
VALUES = (
    LOGIN.encode(),
    b"hatchway-sshd",
    b"127.0.0.1",
    b"::1",
    b"password\n",
    b"publickey ssh-ed25519 AAAA\n",
    b"publickey ssh-ed25519 " + b"A" * 68,
    b"\xff\xfe",
    b"=",
    b"a\nb",
    b"x" * 40_000,
)
RIGHT = (
    (b"login", LOGIN.encode()),
    (b"rhost", b"127.0.0.1"),
    (b"service", b"hatchway-sshd"),
    (b"connection", b"127.0.0.1 40000 127.0.0.1 2022"),
    (b"authinfo", b"password\n"),
    (b"password", b"a guess"),
)
FIELD = st.tuples(st.sampled_from(NAMES), st.sampled_from(VALUES) | st.binary(max_size=60))


@st.composite
def soups(draw: st.DrawFn) -> bytes:
    """A request of the helpers, more or less: right but for the credential, or with some of it left out or changed."""
    right = [(b"op", draw(st.sampled_from(OPS))), *RIGHT]
    if draw(st.booleans()):
        right = draw(st.lists(st.sampled_from(right), unique=True, max_size=len(right)))
    fields = [*right, *draw(st.lists(FIELD, max_size=4))]
    if draw(st.integers(0, 3)):
        fields = list({name: (name, value) for name, value in fields}.values())
    return b"\0".join(name + b"=" + value for name, value in fields)


@budget(400)
@given(request=soups() | st.binary(max_size=200), cuts=st.lists(st.integers(0, 400), max_size=3))
def test_no_question_opens_the_gate(lasting: Lasting, request: bytes, cuts: list[int]) -> None:
    """With a login there is, that has a password and a key, and every word of the protocol."""
    shared(lasting)
    places = [0, *sorted(min(cut, len(request)) for cut in cuts), len(request)]
    parts = [request[begin:end] for begin, end in itertools.pairwise(places)]
    answer = said(lasting.auth_path, *parts)
    # Keys are public, and whether a login may enter with a credential that is right says nothing of that.
    harmless = [field for field in request.split(b"\0") if field in (b"op=keys", b"op=account")]
    assert answer == b"no\n" or (harmless and answer.startswith(b"ok\n")) or (answer == b"" and len(request) > 32768)
    lasting.unharmed()


def test_who_is_slow_keeps_nobody_waiting(lasting: Lasting, monkeypatch: pytest.MonkeyPatch) -> None:
    """Helpers that send nothing, or no end: each is given up, and others are answered meanwhile."""
    monkeypatch.setattr(service, "REQUEST_TIMEOUT_S", 1.0)
    shared(lasting)
    with ExitStack() as stack:
        socks = [stack.enter_context(socket.socket(socket.AF_UNIX)) for _ in range(200)]
        for number, sock in enumerate(socks):
            sock.connect(lasting.auth_path)
            sock.settimeout(ANSWER_S)
            sock.sendall((b"", b"o", b"op=open\0login=shop-web-1", b"\0")[number % 4])
        assert said(lasting.auth_path, b"op=keys\0login=shop-web-1").startswith(b"ok\nrestrict ssh-ed25519 ")
        for sock in socks:
            assert sock.recv(10) == b"no\n"
    lasting.unharmed()


def test_who_does_not_read_or_leaves_harms_nobody(lasting: Lasting) -> None:
    shared(lasting)
    for number in range(100):
        with socket.socket(socket.AF_UNIX) as sock:
            sock.connect(lasting.auth_path)
            sock.sendall(b"op=keys\0login=shop-web-1"[: 5 * (number % 6)])
            if number % 2:
                sock.shutdown(socket.SHUT_WR)
            if number % 3 == 0:
                sock.shutdown(socket.SHUT_RD)
    assert said(lasting.auth_path, b"op=keys\0login=shop-web-1").startswith(b"ok\n")
    lasting.unharmed()


def test_a_question_without_end_is_cut(lasting: Lasting) -> None:
    with socket.socket(socket.AF_UNIX) as sock:
        sock.settimeout(ANSWER_S)
        sock.connect(lasting.auth_path)
        with pytest.raises((BrokenPipeError, ConnectionResetError)):
            for _ in range(10_000):
                sock.sendall(b"x" * 4096)
    assert said(lasting.auth_path, b"op=keys\0login=shop-web-1") == b"no\n"
    lasting.unharmed()


# --- the admin socket ----------------------------------------------------------------------------------------------


def framed(message: object) -> bytes:
    body = msgspec.msgpack.encode(message)
    return struct.pack(">I", len(body)) + body


def bodies(answer: bytes) -> list[dict[str, Any]]:
    """The messages of an answer; raises if it is cut short."""
    found = []
    while answer:
        (length,) = struct.unpack(">I", answer[:4])
        assert len(answer) >= 4 + length
        found.append(msgspec.msgpack.decode(answer[4 : 4 + length]))
        answer = answer[4 + length :]
    return found


@budget(300)
@given(
    data=st.binary(max_size=100)
    | ANYTHING.map(framed)
    | st.dictionaries(TEXTS, ANYTHING, max_size=4).map(framed)
    | st.tuples(st.sampled_from((0, 1, 3, MAX_FRAME, MAX_FRAME + 1, 2**32 - 1)), st.binary(max_size=50)).map(
        lambda pair: struct.pack(">I", pair[0]) + pair[1]
    )
)
def test_bytes_that_are_no_request_end_the_connection(lasting: Lasting, data: bytes) -> None:
    for body in bodies(said(lasting.admin_path, data)):
        assert body["type"] == "failure"
    lasting.unharmed()


def test_every_request_with_any_values_has_an_answer_that_is_ours(lasting: Lasting) -> None:
    """Each request of the table, in an order of chance: what it makes is what the next one finds."""
    kinds = sorted(lasting.stage.requests, key=lambda kind: kind.__name__)
    codes = {code for code in BY_CODE if code != InternalError.code}
    answered, failed = set(), set()

    @budget(1500)
    @given(data=st.data())
    def asked(data: st.DataObject) -> None:
        shared(lasting)
        kind = data.draw(st.sampled_from(kinds))
        message = data.draw(of_struct(kind) if data.draw(st.integers(0, 4)) else spoiled(kind))
        answer = bodies(said(lasting.admin_path, framed(message)))
        assert len(answer) <= 1
        for body in answer:
            if body["type"] != "failure":
                answered.add(kind)
            else:
                failed.add(kind)
                assert body["code"] in codes, (message, body)
                assert len(body["text"]) < 20_000
        lasting.unharmed()

    asked()
    # It was no use if nothing was understood.
    assert len(answered) > len(kinds) / 2
    assert len(failed) > len(kinds) / 3


# --- the web process's socket --------------------------------------------------------------------------------------


def test_a_web_process_that_is_broken_into_gains_nothing(lasting: Lasting) -> None:
    """Anything, as a request of its own and as one to be relayed, with no token, and with one of a viewer who may see
    nothing but an instance that is not there."""
    shared(lasting)
    expires_at = lasting.stage.core.now() + 3600
    made = lasting.change(MakeLink(instance=INSTANCE, expires_at=expires_at))
    row = lasting.do(lambda: lasting.stage.core.registry.share_links()[0].id)
    link, _ = lasting.do(lambda: lasting.visits.begin(ViewerKind.LINK, "no/such/1", 0, 0.0, row, link=made.link.name))
    kinds = sorted({*lasting.stage.requests, OpenLink, SignIn, WhoIs, SignOut}, key=lambda kind: kind.__name__)
    answered = set()

    @budget(600)
    @given(data=st.data())
    def asked(data: st.DataObject) -> None:
        shared(lasting)
        kind = data.draw(st.sampled_from(kinds))
        inner = msgspec.msgpack.encode(data.draw(of_struct(kind) if data.draw(st.booleans()) else spoiled(kind)))
        if data.draw(st.integers(0, 3)):
            token = data.draw(st.sampled_from((link, "", "A" * 43)) | TEXTS)
            address = data.draw(TEXTS)
            body = msgspec.msgpack.encode(Call(token=token, address=address, request=msgspec.Raw(inner)))
        else:
            body = inner
        for one in bodies(said(lasting.web_path, struct.pack(">I", len(body)) + body)):
            answered.add(one["type"] if one["type"] != "failure" else one["code"])
        lasting.unharmed()

    asked()
    # Nobody signs in: there is no helper. Where to connect is no secret, if there are host keys here.
    harmless = {
        "viewer",
        "signed-out",
        "refused",
        "protocol",
        "not-running",
        "sign-in",
        "sign-in-wait",
        "host",
        "server",
    }
    assert answered <= harmless
    assert {"signed-out", "refused", "protocol"} <= answered
