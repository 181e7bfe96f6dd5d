"""Volume tasks as hostd sees them: what the core asks to be done in a volume, once, is done by a process of its own.

Each has a deadline, few run at once, and one volume has one at a time.
"""

from __future__ import annotations

import errno
import functools
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final, TypeVar

import trio

from hatchway.config import Config
from hatchway.errors import ConflictError, HatchwayError, HostError, NotFoundError, ProtocolError, RefusedError
from hatchway.host import policy
from hatchway.host.errands import Errands
from hatchway.host.sizes import Accounts
from hatchway.volumefs import delivery
from hatchway.volumefs.keyfiles import FILE_MAX, PUB_MAX, SKIPPED_MAX, TOTAL_MAX
from hatchway.wire.host import Deliver, Delivered, KeyFiles, ReadKeys, SharedVolume, Withdraw, Withdrawn
from hatchway.wire.service import Peer
from hatchway.wire.task import Perform, Problem, Put, ReadKeyFiles, Take, TaskFailed, TaskKind, receive_answer
from hatchway.wire.worker import pack

T = TypeVar("T", KeyFiles, Delivered, Withdrawn)

TASKS_MAX: Final = 4
"""Tasks at the same time, in all volumes together."""

TASK_S: Final = 10.0
"""Longest that a task may take."""

TURN_S: Final = 10.0
"""Longest that one waits for its turn, and then for one of the places. The core waits a minute for all of it."""

TOKEN_MAX: Final = 32


class _Turn:
    """One volume's: who has it, and how many want it."""

    def __init__(self) -> None:
        self.lock = trio.Lock()
        self.wanted = 0


class Tasks:
    """All of them."""

    def __init__(self, config: Config, errands: Errands, accounts: Accounts) -> None:
        self._config = config
        self._errands = errands
        self._accounts = accounts
        self._places = trio.Semaphore(TASKS_MAX)
        self._turns: dict[str, _Turn] = {}

    async def read_keys(self, request: ReadKeys, _peer: Peer) -> KeyFiles:
        """Public keys in a volume. Raises HatchwayError."""
        policy.check_source(self._config, request.source)
        policy.check_birth(request.birth)
        if len(request.token) > TOKEN_MAX:
            raise RefusedError("that is no token of ours")
        message = ReadKeyFiles(request.token)
        found = await self._perform(TaskKind.READ_KEYS, request.source, request.birth, message, KeyFiles)
        sizes = [len(file.data) for file in found.files]
        named = len(found.token) <= TOKEN_MAX and len(found.skipped) <= SKIPPED_MAX
        if not named or len(sizes) > PUB_MAX + 1 or max(sizes, default=0) > FILE_MAX or sum(sizes) > TOTAL_MAX:
            raise HostError(f"the task for {request.source} says what cannot be")
        return found

    async def deliver(self, request: Deliver, _peer: Peer) -> Delivered:
        """Put a private key into a volume. Raises HatchwayError."""
        names = policy.check_within(request.directory)
        policy.check_owner(request.owner)
        policy.check_private(request.key.value)
        policy.check_hashes(request.replaces)
        message = Put(names, request.owner, request.key, request.replaces)
        return await self._change(TaskKind.DELIVER, request.volume, request.directory, message, Delivered)

    async def withdraw(self, request: Withdraw, _peer: Peer) -> Withdrawn:
        """Take it out again. Raises HatchwayError."""
        names = policy.check_within(request.directory)
        policy.check_hashes(request.hashes)
        message = Take(names, request.hashes)
        return await self._change(TaskKind.WITHDRAW, request.volume, request.directory, message, Withdrawn)

    async def _change(
        self, kind: TaskKind, volume: SharedVolume, directory: str, message: Put | Take, answer: type[T]
    ) -> T:
        """Have a task do what adds to the volume's account, or takes from it."""
        policy.check_birth(volume.birth)
        account = self._accounts.account_of(volume)
        # It is kept, and counted again afterwards, as when a session has been there.
        self._accounts.use(account)
        try:
            return await self._perform(
                kind, volume.source, volume.birth, message, answer, directory=directory, ledger=account.ledger.fileno()
            )
        finally:
            self._accounts.leave(account)

    async def _perform(
        self,
        kind: TaskKind,
        source: str,
        birth: str,
        message: ReadKeyFiles | Put | Take,
        answer: type[T],
        *,
        directory: str = "",
        ledger: int | None = None,
    ) -> T:
        async with self._turn(source):
            said = await self._run(kind, source, birth, message, answer, ledger)
        if isinstance(said, TaskFailed):
            raise _error(said, source, directory)
        return said

    @asynccontextmanager
    async def _turn(self, source: str) -> AsyncIterator[None]:
        """The volume's turn and one of the places. Raises HostError."""
        turn = self._turns.setdefault(source, _Turn())
        turn.wanted += 1
        try:
            async with _within(TURN_S, turn.lock, source):
                self._errands.check(source)
                async with _within(TURN_S, self._places, source):
                    yield
        finally:
            turn.wanted -= 1
            if not turn.wanted:
                del self._turns[source]

    async def _run(
        self,
        kind: TaskKind,
        source: str,
        birth: str,
        message: ReadKeyFiles | Put | Take,
        answer: type[T],
        ledger: int | None,
    ) -> T | TaskFailed:
        """What a task says to `message`. Raises HatchwayError."""
        spec = functools.partial(_task, kind, source)
        try:
            async with self._errands.volume(source, birth, read_only=ledger is None) as volume:
                fds = (volume,) if ledger is None else (volume, ledger)
                async with self._errands.process(source, spec, fds) as control:
                    with trio.fail_after(TASK_S):
                        return await _ask(control, message, answer)
        except trio.TooSlowError:
            raise HostError(f"{source} does not answer in {TASK_S:g} s") from None
        except (OSError, ProtocolError) as exc:
            raise HostError(f"the task for {source} failed: {exc}") from exc


def _task(kind: TaskKind, source: str, uid: int) -> Perform:
    return Perform(kind=kind, source=source, worker_uid=uid)


async def _ask(control: trio.socket.SocketType, message: ReadKeyFiles | Put | Take, answer: type[T]) -> T | TaskFailed:
    await control.send(pack(message))
    said: T | TaskFailed = await receive_answer(control, answer | TaskFailed)
    return said


@asynccontextmanager
async def _within(timeout_s: float, what: trio.Lock | trio.Semaphore, source: str) -> AsyncIterator[None]:
    """Have `what` within the block. Raises HostError when it cannot be had in time."""
    with trio.move_on_after(timeout_s) as waiting:
        await what.acquire()
    if waiting.cancelled_caught:
        raise HostError(f"{source} was not looked at: too much else does not answer")
    try:
        yield
    finally:
        what.release()


def _error(failed: TaskFailed, source: str, directory: str) -> HatchwayError:
    name = delivery.NAME.decode()
    place = f"{source}/{directory}" if directory else source
    match failed.problem:
        case Problem.FOREIGN:
            return ConflictError(f"{place}/{name} is there and is not a key of this instance: it stays as it is")
        case Problem.IN_THE_WAY:
            names = f"{delivery.NEW.decode()} or {delivery.OLD.decode()}"
            return ConflictError(f"something called {names} is in the way in {place}")
        case Problem.MOVED:
            names = f"{delivery.NEW.decode()} or {delivery.OLD.decode()}"
            return ConflictError(f"{place}/{name} was changed meanwhile; what was put there is now called {names}")
        case Problem.BUSY:
            return HostError(f"{place}/{name} is in use, or changes all the time; try again")
        case Problem.READ_ONLY:
            return RefusedError(f"{source} is read-only")
        case Problem.NO_DIRECTORY:
            return NotFoundError(f"there is no directory {place}; symlinks are not followed")
        case Problem.NO_ROOM:
            return HostError(f"there is no room on the file system of {source}")
        case Problem.LIMIT:
            return HostError(f"the limit of {source} leaves no room, or what is in it has not been counted yet")
        case Problem.FAILED:
            return HostError(
                f"{place}: {os.strerror(failed.errno) if failed.errno in errno.errorcode else 'the task failed'}"
            )
