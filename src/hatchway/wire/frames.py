"""Frames on a stream socket: a 4-byte big-endian length, then that many bytes of MessagePack.

What a frame may hold is a closed set of tagged msgspec structs, given by whoever reads. A frame that is too long, cut
short or does not decode raises ProtocolError: the connection is then of no more use.
"""

from __future__ import annotations

import socket
import struct
from typing import TYPE_CHECKING, Any, TypeVar

import msgspec

from hatchway.errors import BY_CODE, HatchwayError, NotRunningError, ProtocolError

if TYPE_CHECKING:
    # Elsewhere only where it is used: a third of the time that a command takes would go into loading it.
    import trio

T = TypeVar("T")

MAX_FRAME = 32 * 1024 * 1024
"""Bytes. A snapshot of 2,000 containers with ten volumes each is about 6 MB."""

_LENGTH = struct.Struct(">I")


class Failure(msgspec.Struct, frozen=True, tag="failure"):
    """The answer to a request that failed: a `HatchwayError.code` and its text."""

    code: str
    text: str

    @classmethod
    def of(cls, error: HatchwayError) -> Failure:
        """The failure that says `error` to a peer."""
        return cls(error.code, str(error))

    def error(self) -> HatchwayError:
        """The error this failure stands for."""
        return BY_CODE.get(self.code, HatchwayError)(self.text)


def encode(message: object) -> bytes:
    """One frame holding `message`. Raises ProtocolError when it is larger than MAX_FRAME."""
    body = msgspec.msgpack.encode(message)
    if len(body) > MAX_FRAME:
        raise ProtocolError(f"a message of {len(body)} bytes is larger than a frame may be ({MAX_FRAME})")
    return _LENGTH.pack(len(body)) + body


def decode(body: bytes, kind: Any) -> Any:
    """The message in `body`, one of the struct types of `kind` (a type or a union). Raises ProtocolError."""
    try:
        return msgspec.msgpack.decode(body, type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as exc:
        raise ProtocolError(f"not a known message: {exc}") from exc


def _length(header: bytes, most: int = MAX_FRAME) -> int:
    (length,) = _LENGTH.unpack(header)
    if length > most:
        raise ProtocolError(f"a frame of {length} bytes is larger than allowed ({most})")
    return int(length)


class Channel:
    """Frames over a trio stream. One task may send and one receive at a time. None longer than `most` is received."""

    def __init__(self, stream: trio.SocketStream, most: int = MAX_FRAME) -> None:
        self.stream = stream
        self._most = most
        self._buffer = bytearray()

    async def send(self, message: object) -> None:
        """Send one message. Raises trio.BrokenResourceError when the peer is gone."""
        await self.stream.send_all(encode(message))

    async def receive(self, kind: Any) -> Any:
        """The next message, None at the end of the stream. Raises ProtocolError on anything else."""
        header = await self._exactly(_LENGTH.size)
        if header is None:
            return None
        body = await self._exactly(_length(header, self._most))
        if body is None:
            raise ProtocolError("the stream ended within a frame")
        return decode(body, kind)

    async def _exactly(self, count: int) -> bytes | None:
        import trio

        while len(self._buffer) < count:
            try:
                chunk = await self.stream.receive_some(65536)
            except trio.BrokenResourceError:
                chunk = b""
            if not chunk:
                if self._buffer:
                    raise ProtocolError("the stream ended within a frame")
                return None
            self._buffer += chunk
        data = bytes(self._buffer[:count])
        del self._buffer[:count]
        return data

    async def aclose(self) -> None:
        """Close the stream."""
        await self.stream.aclose()


async def connect(path: str) -> Channel:
    """Connect to the unix socket at `path`. Raises NotRunningError when nobody listens."""
    import trio

    try:
        return Channel(await trio.open_unix_socket(path))
    except OSError as exc:
        raise NotRunningError(f"nothing answers at {path}: {exc.strerror or exc}") from exc


async def call(path: str, request: object, answer: type[T], timeout_s: float = 60.0) -> T:
    """Send one request on a connection of its own and return the answer.

    Raises the HatchwayError the peer answered with, NotRunningError when it cannot be reached, hangs up or does not
    answer within `timeout_s` seconds.
    """
    import trio

    channel = await connect(path)
    async with channel.stream:
        try:
            with trio.fail_after(timeout_s):
                await channel.send(request)
                reply = await channel.receive(answer | Failure)
        except trio.TooSlowError:
            raise NotRunningError(f"{path} did not answer in {timeout_s:g} s") from None
        except (ProtocolError, trio.BrokenResourceError) as exc:
            raise NotRunningError(f"{path} hung up: {exc}") from exc
    if reply is None:
        raise NotRunningError(f"{path} hung up without an answer")
    if isinstance(reply, Failure):
        raise reply.error()
    assert isinstance(reply, answer)
    return reply


def call_blocking(path: str, request: object, answer: type[T], timeout_s: float = 60.0) -> T:
    """As `call`, for programs without an event loop. `timeout_s` bounds each wait, in seconds."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
        sock.settimeout(timeout_s)
        try:
            sock.connect(path)
        except OSError as exc:
            raise NotRunningError(f"nothing answers at {path}: {exc.strerror or exc}; does Hatchway run?") from exc
        try:
            sock.sendall(encode(request))
            with sock.makefile("rb") as file:
                header = file.read(_LENGTH.size)
                body = file.read(_length(header)) if len(header) == _LENGTH.size else b""
        except OSError as exc:
            raise NotRunningError(f"{path} gave no answer: {exc}") from exc
    if not body:
        raise NotRunningError(f"{path} hung up without an answer")
    reply = decode(body, answer | Failure)
    if isinstance(reply, Failure):
        raise reply.error()
    assert isinstance(reply, answer)
    return reply


def receive_blocking(sock: socket.socket, kind: Any, most: int) -> Any:
    """The next message on a socket in blocking mode, of at most `most` bytes, one of the types of `kind`.

    Raises ProtocolError for anything else, also for a stream that has ended.
    """
    with sock.makefile("rb") as file:
        header = file.read(_LENGTH.size)
        if len(header) < _LENGTH.size:
            raise ProtocolError("the stream ended without a message")
        length = _length(header, most)
        body = file.read(length)
    if len(body) < length:
        raise ProtocolError("the stream ended within a frame")
    return decode(body, kind)
