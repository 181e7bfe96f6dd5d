"""Frames and request tables over real sockets."""

from __future__ import annotations

import os
import socket
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import msgspec
import pytest
import trio

from hatchway.errors import BY_CODE, HatchwayError, InternalError, NotFoundError, NotRunningError, ProtocolError
from hatchway.wire import frames
from hatchway.wire.service import Peer, Request, Table, serve


class Ask(msgspec.Struct, frozen=True, tag="ask"):
    text: str


class Forbidden(msgspec.Struct, frozen=True, tag="forbidden"):
    pass


class Reply(msgspec.Struct, frozen=True, tag="reply"):
    text: str


async def answer(request: Ask, peer: Peer) -> Reply:
    if request.text == "missing":
        raise NotFoundError("there is no such thing")
    if request.text == "bug":
        raise ZeroDivisionError("secret detail")
    return Reply(f"{request.text} from {peer.uid}")


TABLE: Table = {Ask: Request((os.getuid(),), answer), Forbidden: Request((), answer)}


@asynccontextmanager
async def served(directory: Path) -> AsyncIterator[str]:
    path = str(directory / "sock")
    sock = trio.socket.socket(socket.AF_UNIX)
    await sock.bind(path)
    sock.listen()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(serve, "test", trio.SocketListener(sock), TABLE)
        yield path
        nursery.cancel_scope.cancel()


async def test_a_request_is_answered(tmp_path: Path) -> None:
    async with served(tmp_path) as path:
        assert await frames.call(path, Ask("hello"), Reply) == Reply(f"hello from {os.getuid()}")
        assert await trio.to_thread.run_sync(frames.call_blocking, path, Ask("x"), Reply) == Reply(
            f"x from {os.getuid()}"
        )


async def test_our_errors_cross_and_others_do_not(tmp_path: Path) -> None:
    async with served(tmp_path) as path:
        with pytest.raises(NotFoundError, match="no such thing"):
            await frames.call(path, Ask("missing"), Reply)
        with pytest.raises(InternalError) as caught:
            await frames.call(path, Ask("bug"), Reply)
        assert "secret" not in str(caught.value)
        assert (await frames.call(path, Ask("still there"), Reply)).text.startswith("still there")


async def test_a_request_of_the_wrong_uid_closes_the_connection(tmp_path: Path) -> None:
    async with served(tmp_path) as path:
        with pytest.raises(NotRunningError, match="hung up"):
            await frames.call(path, Forbidden(), Reply)


@pytest.mark.parametrize(
    "garbage",
    [
        b"GET / HTTP/1.1\r\n\r\n",
        struct.pack(">I", frames.MAX_FRAME + 1) + b"x",
        struct.pack(">I", 3) + b"\xc1\xc1\xc1",
        struct.pack(">I", 100) + b"short",
        struct.pack(">I", 0),
        frames.encode(Reply("not a request of this table")),
        frames.encode({"type": "ask", "text": 3}),
    ],
)
async def test_garbage_closes_the_connection_and_harms_nobody(tmp_path: Path, garbage: bytes) -> None:
    async with served(tmp_path) as path:
        stream = await trio.open_unix_socket(path)
        async with stream:
            await stream.send_all(garbage)
            await stream.send_eof()
            with trio.fail_after(5):
                try:
                    assert await stream.receive_some(100) == b""
                except trio.BrokenResourceError:
                    pass  # closed with data unread, which is a reset
        assert (await frames.call(path, Ask("still there"), Reply)).text.startswith("still there")


async def test_many_frames_in_one_packet(tmp_path: Path) -> None:
    async with served(tmp_path) as path:
        channel = await frames.connect(path)
        async with channel.stream:
            await channel.stream.send_all(b"".join(frames.encode(Ask(str(n))) for n in range(50)))
            for number in range(50):
                assert (await channel.receive(Reply)).text.startswith(f"{number} ")


async def test_nobody_listening_is_named(tmp_path: Path) -> None:
    with pytest.raises(NotRunningError, match="nobody-here"):
        await frames.call(str(tmp_path / "nobody-here"), Ask(""), Reply)


def test_too_large_a_message_is_refused_before_it_is_sent() -> None:
    with pytest.raises(ProtocolError, match="larger"):
        frames.encode(Ask("x" * (frames.MAX_FRAME + 1)))


def test_every_error_survives_the_wire() -> None:
    for code, kind in BY_CODE.items():
        error = frames.Failure.of(kind("words")).error()
        assert type(error) is kind
        assert (error.code, str(error)) == (code, "words")
    assert type(frames.Failure("of tomorrow", "words").error()) is HatchwayError
