"""What hostd says to a volume task, and what it hears: one request, one answer, then the process ends.

The request comes to the task itself when it has given up everything, not by way of the zygote: a private key in it is
in no other process. Packets of a SOCK_SEQPACKET socket (unix(7)); an answer has as many as it takes.
"""

from __future__ import annotations

import array
import enum
import socket
from typing import Any

import msgspec
import trio

from hatchway.errors import ProtocolError
from hatchway.model import IdPair
from hatchway.wire.frames import decode
from hatchway.wire.host import PrivateBytes
from hatchway.wire.worker import FDS_MAX, close_elsewhere, descriptors, pack

ANSWER_MAX = 512 * 1024
"""Bytes of an answer: the largest is 256 KiB of public keys with their files' names."""

_PACKET = 32768


class TaskKind(enum.StrEnum):
    """What a task is for. It has the rights for that and for nothing else, see volumefs.task."""

    READ_KEYS = "read-keys"
    DELIVER = "deliver"
    WITHDRAW = "withdraw"


class Perform(msgspec.Struct, frozen=True, kw_only=True, tag="perform"):
    """Fork a task. Sent with its descriptors: a mount of the volume, the control end and, unless it only reads, the
    volume's ledger.

    Fields as in worker.Count.
    """

    kind: TaskKind
    source: str
    worker_uid: int


class ReadKeyFiles(msgspec.Struct, frozen=True, tag="read-key-files"):
    """Answer: host.KeyFiles. `token` as in host.ReadKeys."""

    token: bytes


class Put(msgspec.Struct, frozen=True, tag="put"):
    """Answer: host.Delivered. `directory` are the names that lead to it from the root, the rest as in host.Deliver."""

    directory: tuple[bytes, ...]
    owner: IdPair | None
    key: PrivateBytes
    replaces: tuple[bytes, ...]


class Take(msgspec.Struct, frozen=True, tag="take"):
    """Answer: host.Withdrawn. `directory` as in Put, `hashes` as in host.Withdraw."""

    directory: tuple[bytes, ...]
    hashes: tuple[bytes, ...]


class Problem(enum.StrEnum):
    """Why something cannot be done.

    `FOREIGN`: a file of that name is there that is not ours. `IN_THE_WAY`: so is what we need to put another in its
    place. `MOVED`: something that is not ours was put in its place at the very moment, and now has a name of ours.
    `BUSY`: it changes all the time, or somebody holds it. `NO_ROOM`: on the file system; `LIMIT`: of the volume.
    `FAILED`: anything else.
    """

    FOREIGN = "foreign"
    IN_THE_WAY = "in-the-way"
    MOVED = "moved"
    BUSY = "busy"
    READ_ONLY = "read-only"
    NO_DIRECTORY = "no-directory"
    NO_ROOM = "no-room"
    LIMIT = "limit"
    FAILED = "failed"


class TaskFailed(msgspec.Struct, frozen=True, tag="task-failed"):
    """It is not done, and nothing is half done. `errno` is what the kernel said, 0 for nothing."""

    problem: Problem
    errno: int = 0


def send_answer(control: socket.socket, answer: object) -> None:
    """Send all of it. Raises OSError."""
    data = pack(answer)
    for at in range(0, len(data), _PACKET):
        control.send(data[at : at + _PACKET])


async def receive_answer(control: trio.socket.SocketType, kind: Any) -> Any:
    """What a task has said when it hangs up, a message of `kind`. Raises ProtocolError, OSError.

    It is not trusted: neither to send no more than it should, nor no descriptors.
    """
    data = bytearray()
    room = socket.CMSG_SPACE(FDS_MAX * array.array("i").itemsize)
    while True:
        packet, ancillary, _flags, _address = await control.recvmsg(_PACKET, room, socket.MSG_CMSG_CLOEXEC)
        close_elsewhere(descriptors(ancillary))
        if not packet:
            break
        data += packet
        if len(data) > ANSWER_MAX:
            raise ProtocolError("its answer is too long")
    if not data:
        raise ProtocolError("it ended without an answer")
    return decode(bytes(data), kind)
