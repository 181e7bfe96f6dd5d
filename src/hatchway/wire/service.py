"""Serving a request table: request type -> who may call -> handler.

The table is the socket's whole surface: a peer whose uid may not make a request, or bytes that are no request of the
table, are logged and the connection closed. A handler's HatchwayError is sent as a Failure; any other exception is
logged here with its traceback and reaches the peer only as "internal error".
Concurrency: each connection is a task; requests of one connection are handled one after the other.
"""

from __future__ import annotations

import os
import socket
import struct
from collections.abc import Awaitable, Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import trio

from hatchway import log
from hatchway.errors import HatchwayError, InternalError, ProtocolError
from hatchway.wire import notify
from hatchway.wire.frames import MAX_FRAME, Channel, Failure
from hatchway.wire.sparing import Sparing

_UCRED = struct.Struct("3i")

Who = TypeVar("Who")
"""What the handlers of a table are told of who asks."""


@dataclass(frozen=True, slots=True)
class Peer:
    """The process at the other end when it connected (SO_PEERCRED, unix(7))."""

    pid: int
    uid: int
    gid: int


def peer_of(sock: trio.socket.SocketType | socket.socket) -> Peer:
    """Who connected to, or listens on, the other end of `sock`."""
    raw = sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size)
    pid, uid, gid = _UCRED.unpack(raw)
    return Peer(pid, uid & 0xFFFFFFFF, gid & 0xFFFFFFFF)


@dataclass(frozen=True, slots=True)
class Request(Generic[Who]):
    """One row of a table: the uids that may make the request, and what answers it (None: nothing is sent back).

    With `stream` the connection belongs to it after the answer, until it returns.
    """

    uids: Collection[int]
    handler: Callable[[Any, Who], Awaitable[object]]
    stream: Callable[[Channel], Awaitable[None]] | None = None


Table = Mapping[type, Request[Peer]]


class Work:
    """The requests that are being answered, so that a process that is to end can finish them first.

    Whoever comes later waits in the listening socket's queue, which outlives the process.
    """

    def __init__(self) -> None:
        self.ending = False
        self._requests = 0
        self._accepting: list[trio.CancelScope] = []
        self._changed = trio.Event()

    def __enter__(self) -> None:
        self._requests += 1

    def __exit__(self, *_exc: object) -> None:
        self._requests -= 1
        self._changed.set()

    def accepting(self) -> trio.CancelScope:
        """The scope in which to accept connections; it ends when the process is to end."""
        scope = trio.CancelScope()
        self._accepting.append(scope)
        return scope

    async def finish(self, timeout_s: float) -> None:
        """Accept nothing more, and wait until all requests are answered, or for `timeout_s`."""
        self.ending = True
        for scope in self._accepting:
            scope.cancel()
        with trio.move_on_after(timeout_s):
            while self._requests:
                self._changed = trio.Event()
                await self._changed.wait()


FINISH_S = 5.0
"""Longest wait for requests that are being answered when a process is to end."""


async def serve(
    name: str,
    listener: trio.SocketListener,
    table: Table,
    work: Work | None = None,
    *,
    request_max: int = MAX_FRAME,
    connections_max: int | None = None,
    sparing: bool = False,
) -> None:
    """Serve `table` on `listener` until cancelled. `name` is the socket's name in the log.

    A request has at most `request_max` bytes. With `connections_max` no more are open at once: what comes beyond is
    closed at once. `sparing`: peers may be broken into, and must not be able to fill the log.
    """
    connections = 0
    work = Work() if work is None else work
    logger = Sparing(log.get(socket=name)) if sparing else log.get(socket=name)
    kinds = _union(table)

    async def bounded(stream: trio.SocketStream) -> None:
        nonlocal connections
        if connections_max is not None and connections >= connections_max:
            logger.warning("connection refused, there are too many", open=connections)
            await stream.aclose()
            return
        connections += 1
        try:
            await connection(stream)
        finally:
            connections -= 1

    async def connection(stream: trio.SocketStream) -> None:
        peer = peer_of(stream.socket)
        channel = Channel(stream, request_max)
        async with stream:
            try:
                while not work.ending and (request := await channel.receive(kinds)) is not None:
                    row = table[type(request)]
                    if peer.uid not in row.uids:
                        logger.warning("request refused", request=type(request).__name__, uid=peer.uid, pid=peer.pid)
                        return
                    with work:
                        answer = await _answer(logger, row, request, peer)
                        if answer is not None:
                            await channel.send(answer)
                    if row.stream is not None:
                        await row.stream(channel)
                        return
            except ProtocolError as exc:
                logger.warning("bad frame", error=str(exc), uid=peer.uid, pid=peer.pid)
            except trio.BrokenResourceError:
                logger.debug("peer left", uid=peer.uid, pid=peer.pid)

    await serve_connections(logger, listener, bounded, work)


async def serve_connections(
    logger: Any, listener: trio.SocketListener, handler: Callable[[trio.SocketStream], Awaitable[None]], work: Work
) -> None:
    """Run `handler` for each connection in a task of its own; an exception ends that connection only.

    When `work` is to be finished none is accepted any more; those that are open go on until this is cancelled.
    """

    async def guarded(stream: trio.SocketStream) -> None:
        try:
            await handler(stream)
        except Exception:
            logger.exception("connection failed")
            await trio.aclose_forcefully(stream)

    async with trio.open_nursery() as nursery:
        with work.accepting():
            await trio.serve_listeners(guarded, [listener], handler_nursery=nursery)


async def _answer(logger: Any, row: Request[Peer], request: object, peer: Peer) -> object:
    try:
        return await row.handler(request, peer)
    except HatchwayError as exc:
        logger.info("request failed", request=type(request).__name__, code=exc.code, error=str(exc), uid=peer.uid)
        return Failure.of(exc)
    except Exception:
        logger.exception("request failed", request=type(request).__name__, uid=peer.uid)
        return Failure.of(InternalError("internal error; the log has the details"))


def _union(table: Table) -> Any:
    kinds: Any = None
    for kind in table:
        kinds = kind if kinds is None else kinds | kind
    return kinds


def inherited_listener(name: str) -> trio.SocketListener:
    """The listening socket called `name` that the supervisor or systemd passed (sd_listen_fds(3)).

    Sockets are made by whoever starts us, so that their owner and mode are right before anybody can connect, and so
    that connections queue instead of failing while a process restarts. Raises ProtocolError when there is none.
    """
    return trio.SocketListener(trio.socket.from_stdlib_socket(inherited_socket(name)))


def inherited_socket(name: str) -> socket.socket:
    """As `inherited_listener`, without trio, in blocking mode."""
    descriptor = dict(reversed(notify.passed())).get(name)
    if descriptor is None:
        raise ProtocolError(
            f"no listening socket {name!r} was passed to this process; start it by its unit, or with 'hatchway run'"
        )
    os.set_inheritable(descriptor, False)
    listener = socket.socket(fileno=descriptor)
    listener.setblocking(True)
    return listener
