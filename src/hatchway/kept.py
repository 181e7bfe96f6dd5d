"""What a process left with `hatchway run` for its successor: the receiving end of `wire.notify`.

A process that is killed takes its descriptors along; those it has left here are passed to the next one. That is
systemd's file descriptor store (sd_pid_notify_with_fds(3)), as far as Hatchway uses it.
"""

from __future__ import annotations

import array
import os
import resource
import socket
from collections.abc import Callable

import trio

from hatchway import log
from hatchway.wire import notify
from hatchway.wire.worker import descriptors

DESCRIPTORS_MAX = 16384
"""How many one process may leave."""

NAMES_MAX = 100_000
"""Bytes of all names: they are one variable of the next process's environment, which holds 131,072 (execve(2))."""

_MESSAGE_MAX = 4096
_PER_MESSAGE = 8


class Kept:
    """Descriptors by name, ours until they are closed. `limit`: how many at once."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._held: dict[str, list[int]] = {}

    def all(self) -> list[tuple[str, int]]:
        """(name, descriptor) of each."""
        return [(name, fd) for name, fds in self._held.items() for fd in fds]

    def take(self, name: str, descriptors: list[int]) -> None:
        """Hold `descriptors` under `name`, beside what is there; those over the limit are closed."""
        held = self.all()
        room = max(0, self._limit - len(held))
        if sum(len(each) + 1 for each, _ in held) + len(descriptors) * (len(name) + 1) > NAMES_MAX:
            room = 0
        if descriptors[room:]:
            log.get().error("too many descriptors are left for a successor", limit=self._limit)
        for fd in descriptors[room:]:
            os.close(fd)
        if descriptors[:room]:
            self._held.setdefault(name, []).extend(descriptors[:room])

    def drop(self, name: str) -> None:
        """Close what is held under `name`."""
        for fd in self._held.pop(name, ()):
            os.close(fd)

    def close(self) -> None:
        """Close all."""
        for name in list(self._held):
            self.drop(name)


def room() -> int:
    """How many descriptors there is room for: to start a process with them takes twice as many for a moment."""
    soft, _hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    return max(0, min(DESCRIPTORS_MAX, (soft - 512) // 3))


class Messages:
    """The messages of one process on the datagram socket `incoming`.

    Calls `ready` when it says that it is, `well` whenever it says that it is well.
    """

    def __init__(
        self, incoming: socket.socket, kept: Kept, ready: Callable[[], None], well: Callable[[], None] = lambda: None
    ) -> None:
        self._incoming = incoming
        self._kept = kept
        self._ready = ready
        self._well = well

    async def follow(self) -> None:
        """Act on messages until cancelled."""
        while True:
            await trio.lowlevel.wait_readable(self._incoming)
            self.drain()

    def drain(self) -> None:
        """Act on the messages that are there: the process may have ended since it sent them."""
        while True:
            try:
                # Not socket.recv_fds, which ignores its flags (CPython's Lib/socket.py).
                data, ancillary, _flags, _address = self._incoming.recvmsg(
                    _MESSAGE_MAX,
                    socket.CMSG_SPACE(_PER_MESSAGE * array.array("i").itemsize),
                    socket.MSG_DONTWAIT | socket.MSG_CMSG_CLOEXEC,
                )
            except BlockingIOError:
                return
            self._act(data, descriptors(ancillary))

    def _act(self, data: bytes, fds: list[int]) -> None:
        fields = dict(line.partition(b"=")[::2] for line in data.split(b"\n"))
        name = fields.get(b"FDNAME", b"").decode("ascii", "replace")
        named = notify.valid_name(name)
        if fields.get(b"FDSTORE") == b"1" and named:
            self._kept.take(name, fds)
        else:
            for fd in fds:
                os.close(fd)
        if fields.get(b"FDSTOREREMOVE") == b"1" and named:
            self._kept.drop(name)
        if fields.get(b"READY") == b"1":
            self._ready()
        if fields.get(b"WATCHDOG") == b"1":
            self._well()
