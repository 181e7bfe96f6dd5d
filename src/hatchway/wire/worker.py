"""What hostd says to the zygote and to a worker: one message per packet of a SOCK_SEQPACKET socket (unix(7)).

The worker's end is the socket it was born with; nobody else can reach it.
"""

from __future__ import annotations

import array
import os
import socket
import threading
from collections.abc import Iterable
from typing import Any

import msgspec
import trio

from hatchway.model import IdPair
from hatchway.wire.frames import decode

MAX_PACKET = 65536

PATH_MAX = 512
"""Bytes of the path of a file that is open, as it is told."""

CALLERS_MAX = 512
"""Processes that can be asked for at once: of all their counters there is room in a packet."""

FDS_MAX = 253
"""Descriptors in one message (SCM_MAX_FD, unix(7))."""


class Spawn(msgspec.Struct, frozen=True, kw_only=True, tag="spawn"):
    """Fork a worker. Sent with four descriptors: the volume's mount, the FUSE connection, the worker's control end,
    the volume's ledger.

    `worker_uid` is what the worker runs as (uid and gid); `uid` and `gid` are what the session sees as owner of
    everything; `owner`, `real` and `umask` are as in wire.host.View. `places` are paths in the volume, relative to its
    root, at which other volumes stand.
    """

    login: str
    path: str
    worker_uid: int
    uid: int
    gid: int
    read_only: bool
    umask: int
    places: tuple[str, ...] = ()
    owner: IdPair | None = None
    real: bool = False


class Count(msgspec.Struct, frozen=True, kw_only=True, tag="count"):
    """Fork a counter. Sent with three descriptors: a read-only mount of the volume, its ledger, the control end.

    Fields as in Spawn; `source` is for the log.
    """

    source: str
    worker_uid: int


class Counting(msgspec.Struct, frozen=True, tag="counting"):
    """The counter goes on."""


class Counted(msgspec.Struct, frozen=True, tag="counted"):
    """What is in the volume, without what the ledger says has grown meanwhile. `least`: there is more.

    `blocks` and `files` as in volumefs.ledger.
    """

    blocks: int
    files: int
    least: bool


class CounterFailed(msgspec.Struct, frozen=True, tag="counter-failed"):
    """The volume cannot be counted."""

    text: str


class Spawned(msgspec.Struct, frozen=True, tag="spawned"):
    """The worker's pid; comes with a pidfd of it."""

    pid: int


class SpawnFailed(msgspec.Struct, frozen=True, tag="spawn-failed"):
    """Why there is no worker."""

    text: str


class Ping(msgspec.Struct, frozen=True, tag="ping"):
    """Say how you are. Answer: WorkerState with the same `serial`: an earlier question may still be unanswered."""

    serial: int


class Restrict(msgspec.Struct, frozen=True, tag="restrict"):
    """From now on answer every request (`refuse`), or every change (`read_only`), with EACCES. Answer: WorkerState.

    Open handles are included. There is no way back from `refuse`. When the answer says read-only and not
    refused, the worker has no file open for writing any more. `serial` as in Ping.
    """

    serial: int
    refuse: bool
    read_only: bool


class Lend(msgspec.Struct, frozen=True, tag="lend"):
    """Send copies of your descriptors. Answer: WorkerState, with the volume's mount and the FUSE connection.

    `serial` as in Ping.
    """

    serial: int


class Expel(msgspec.Struct, frozen=True, tag="expel"):
    """From now on answer every request of these processes, and of no others, with EACCES. Answer: WorkerState.

    What they have open is dead, for good: also when they are no longer named. A pid is to be named as long as its
    process lives and no longer, since another may get it then. They must have been stopped before: a listing that is
    refused looks to them as if it had ended. `serial` as in Ping.
    """

    serial: int
    pids: tuple[int, ...]


class AskCallers(msgspec.Struct, frozen=True, tag="ask-callers"):
    """What have these processes done? Answer: CallersState. With `ended` they have ended, and may be forgotten.

    `serial` as in Ping.
    """

    serial: int
    pids: tuple[int, ...]
    ended: bool = False


class OpenFile(msgspec.Struct, frozen=True):
    """A file that is open. `path` is below the volume, its last PATH_MAX bytes; empty when it has no name."""

    path: bytes
    writing: bool


class CallerState(msgspec.Struct, frozen=True):
    """What a process has `read` and `written`, in bytes, how long ago it asked for something last, what it has open,
    host.FILES_MAX at most."""

    pid: int
    read: int
    written: int
    idle_ms: int
    files: tuple[OpenFile, ...] = ()


class CallersState(msgspec.Struct, frozen=True, tag="callers-state"):
    """Those of the processes that were asked for that are known. Files that have no room in the packet are left out."""

    serial: int
    callers: tuple[CallerState, ...]


class WorkerState(msgspec.Struct, frozen=True, tag="worker-state"):
    """Sent once when the worker is ready to serve (`serial` 0), then as an answer to the question with that serial.

    `handles` are open files and directories, `nodes` the files the kernel knows.
    `listing` are the processes that have a directory open, `expelled` those that are refused everything: see Expel.
    """

    serial: int
    handles: int
    refused: bool
    read_only: bool
    nodes: int = 0
    listing: tuple[int, ...] = ()
    expelled: tuple[int, ...] = ()


class WorkerFailed(msgspec.Struct, frozen=True, tag="worker-failed"):
    """The worker could not start; it exits."""

    text: str


def pack(message: object) -> bytes:
    """One packet."""
    return msgspec.msgpack.encode(message)


def receive_with_fds(sock: socket.socket, kind: Any, count: int) -> tuple[Any, list[int]]:
    """One packet and up to `count` descriptors (close-on-exec) from a blocking socket; (None, []) at the end.

    Raises ProtocolError on a packet that is no message of `kind`; the descriptors are then closed.
    """
    data, ancillary, _flags, _address = sock.recvmsg(
        MAX_PACKET, socket.CMSG_SPACE(count * array.array("i").itemsize), socket.MSG_CMSG_CLOEXEC
    )
    fds = descriptors(ancillary)
    return _decoded(data, fds, kind)


async def receive_with_fds_async(sock: trio.socket.SocketType, kind: Any) -> tuple[Any, list[int]]:
    """As `receive_with_fds`, for trio, with as many descriptors as there may be: the kernel closes what has no room.

    Closing may take as long as whoever sent them likes (a file that is removed with its last descriptor, a server that
    does not answer): see `close_elsewhere`.
    """
    data, ancillary, _flags, _address = await sock.recvmsg(
        MAX_PACKET, socket.CMSG_SPACE(FDS_MAX * array.array("i").itemsize), socket.MSG_CMSG_CLOEXEC
    )
    fds = descriptors(ancillary)
    if not data:
        close_elsewhere(fds)
        return None, []
    try:
        return decode(data, kind), fds
    except BaseException:
        close_elsewhere(fds)
        raise


def close_elsewhere(fds: Iterable[int]) -> None:
    """Close descriptors in a thread that nobody waits for."""
    listed = list(fds)
    if listed:
        threading.Thread(target=_close_all, args=(listed,), daemon=True).start()


def _close_all(fds: list[int]) -> None:
    for fd in fds:
        os.close(fd)


def descriptors(ancillary: list[tuple[int, int, bytes]]) -> list[int]:
    """The descriptors that came with a message (SCM_RIGHTS, unix(7)), now the caller's to close."""
    fds = array.array("i")
    for level, kind, data in ancillary:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            fds.frombytes(data[: len(data) - len(data) % fds.itemsize])
    return list(fds)


def _decoded(data: bytes, fds: list[int], kind: Any) -> tuple[Any, list[int]]:
    if not data:
        for fd in fds:
            os.close(fd)
        return None, []
    try:
        return decode(data, kind), fds
    except BaseException:
        for fd in fds:
            os.close(fd)
        raise
