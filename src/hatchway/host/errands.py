"""Errands: processes that do one thing in one volume and end. The counters of `sizes` and the tasks of `tasks`.

The zygote forks them and they confine themselves like workers, each with a uid of its own. What cannot be ended, since
its file system does not answer, keeps its uid, and its volume gets no other process until it has ended.
"""

from __future__ import annotations

import functools
import signal
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Final

import trio

from hatchway.config import Config
from hatchway.errors import HostError
from hatchway.host import sources
from hatchway.host.patience import Patience
from hatchway.host.processes import Process
from hatchway.host.workers import WorkerUids, Zygote, take_descriptors
from hatchway.wire.task import Perform
from hatchway.wire.worker import Count, close_elsewhere

END_S: Final = 2.0
"""How long a process that was sent SIGKILL is waited for, in seconds."""


class Errands:
    """All of them."""

    def __init__(self, config: Config, zygote: Zygote, uids: WorkerUids, patience: Patience) -> None:
        self._config = config
        self._zygote = zygote
        self._uids = uids
        self._patience = patience
        # What could not be ended, with its volume and its uid.
        self._stuck: list[tuple[str, Process, int]] = []

    def check(self, source: str) -> None:
        """Raise HostError while there is a process of that volume that cannot be ended."""
        self._forget_ended()
        if any(stuck == source for stuck, _, _ in self._stuck):
            raise HostError(f"{source} does not answer")

    @asynccontextmanager
    async def volume(self, source: str, birth: str, *, read_only: bool) -> AsyncIterator[int]:
        """A descriptor of the volume's root, within the block. Raises HostError, RefusedError."""
        self.check(source)
        opening = functools.partial(sources.open_volume, self._config, source, read_only=read_only, expected=birth)
        volume = await self._patience.descriptor(source, opening)
        try:
            yield volume
        finally:
            # Closing a mount takes as long as somebody else likes.
            close_elsewhere([volume])

    @asynccontextmanager
    async def process(
        self, source: str, spec: Callable[[int], Count | Perform], fds: tuple[int, ...]
    ) -> AsyncIterator[trio.socket.SocketType]:
        """Our end of the control socket of a new process, which ends with the block.

        `spec` takes its uid. It is given copies of `fds`, then its end of the socket.
        Raises HostError.
        """
        uid = self._uids.take()
        process: Process | None = None
        ends: list[socket.socket] = []
        try:
            ends += socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            ours, theirs = ends
            take_descriptors(ours, False)
            process = await self._zygote.spawn(spec(uid), (*fds, theirs.fileno()))
            theirs.close()
            with trio.socket.from_stdlib_socket(ours.dup()) as control:
                yield control
        finally:
            # So does closing what it may have sent.
            close_elsewhere([end.detach() for end in ends if end.fileno() >= 0])
            with trio.CancelScope(shield=True):
                await self._end(source, process, uid)

    async def _end(self, source: str, process: Process | None, uid: int) -> None:
        if process is None:
            self._uids.give_back(uid)
            return
        process.signal(signal.SIGKILL)
        with trio.move_on_after(END_S):
            await process.wait()
        self._stuck.append((source, process, uid))
        self._forget_ended()

    def _forget_ended(self) -> None:
        for source, process, uid in list(self._stuck):
            if not process.alive():
                process.close()
                self._uids.give_back(uid)
                self._stuck.remove((source, process, uid))
