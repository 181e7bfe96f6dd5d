"""Workers as hostd sees them: asking the zygote for one, mounting its file system, talking to it."""

from __future__ import annotations

import array
import errno
import functools
import os
import random
import signal
import socket
import time
from collections.abc import Collection
from typing import TypeVar

import trio

from hatchway import log
from hatchway.config import Config
from hatchway.errors import HostError, ProtocolError
from hatchway.host.account import Account
from hatchway.host.patience import Patience
from hatchway.host.placement import Placement
from hatchway.host.processes import Process
from hatchway.host.sources import open_volume
from hatchway.kernel import mounts
from hatchway.wire.host import View
from hatchway.wire.task import Perform
from hatchway.wire.worker import (
    CALLERS_MAX,
    MAX_PACKET,
    AskCallers,
    CallersState,
    CallerState,
    Count,
    Expel,
    Lend,
    Ping,
    Restrict,
    Spawn,
    Spawned,
    SpawnFailed,
    WorkerFailed,
    WorkerState,
    close_elsewhere,
    pack,
    receive_with_fds_async,
)

START_TIMEOUT_S = 10.0
"""Longest a worker may take from fork to its first word."""

_SO_PASSRIGHTS = 83
"""include/uapi/asm-generic/socket.h, since Linux 6.16."""

RESTRICT_TIMEOUT_S = 2.0
"""Longest a revocation waits for a worker; then the worker is killed."""

EXPEL_TIMEOUT_S = 0.3
"""Longest the end of some sessions waits until a worker refuses them everything; then they are killed all the same."""

CALLERS_TIMEOUT_S = 0.5
"""Longest a worker may take to say what some processes have done."""

Answer = TypeVar("Answer", WorkerState, CallersState)


class Zygote:
    """The process that forks workers, at the socket `address`. One request at a time.

    Whoever has started it starts it again when it dies or hangs.
    """

    def __init__(self, address: str) -> None:
        self._address = address
        self._lock = trio.Lock()
        self._socket: trio.socket.SocketType | None = None

    async def start(self) -> None:
        """Connect. Raises HostError when nobody listens there."""
        try:
            await self._connect()
        except OSError as exc:
            raise HostError(f"no workers can be started: {self._address}: {exc.strerror or exc}") from exc

    async def _connect(self) -> None:
        self.close()
        sock = trio.socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        try:
            with trio.fail_after(START_TIMEOUT_S):
                await sock.connect(self._address)
        except trio.TooSlowError:
            sock.close()
            raise OSError(errno.ETIMEDOUT, "it does not answer") from None
        except BaseException:
            sock.close()
            raise
        self._socket = sock

    def close(self) -> None:
        """Let go of it. Workers are not its business any more."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    async def spawn(self, spec: Spawn | Count | Perform, fds: tuple[int, ...]) -> Process:
        """Fork a worker, a counter or a task with copies of the descriptors it is to have. Raises HostError."""
        packet = pack(spec)
        if len(packet) > MAX_PACKET:
            raise HostError("no worker could be started: too many volumes stand in one")
        async with self._lock:
            try:
                await self._send(packet, fds)
                reply, received = await self._answer()
            except BaseException as exc:
                # Once it was sent it is never sent again: two workers would have the same volume, and we know one of
                # them. With the connection goes the request, if it waits there (see zygote.py).
                self.close()
                if not isinstance(exc, OSError | ProtocolError | trio.BrokenResourceError):
                    raise
                log.get().error("the parent of the workers failed", error=str(exc))
                raise HostError(f"no worker could be started: {exc}") from exc
        if isinstance(reply, Spawned):
            return Process.adopt(reply.pid, received[0])
        raise HostError(f"no worker could be started: {reply.text}")

    async def _send(self, packet: bytes, fds: tuple[int, ...]) -> None:
        rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))]
        with trio.move_on_after(START_TIMEOUT_S):
            for known in (self._socket is not None, False):
                if self._socket is None:
                    await self._connect()
                assert self._socket is not None
                try:
                    await self._socket.sendmsg([packet], rights)  # whole or not at all (unix(7), SOCK_SEQPACKET)
                    return
                except OSError:
                    # Another one has taken its place since.
                    self.close()
                    if not known:
                        raise
        raise OSError(errno.ETIMEDOUT, "it does not answer")

    async def _answer(self) -> tuple[Spawned | SpawnFailed, list[int]]:
        assert self._socket is not None
        with trio.move_on_after(START_TIMEOUT_S):
            reply, received = await receive_with_fds_async(self._socket, Spawned | SpawnFailed)
            if reply is not None and len(received) == isinstance(reply, Spawned):
                return reply, received
            close_elsewhere(received)
            raise ProtocolError("it hung up" if reply is None else "it sent no descriptor, or too many")
        raise OSError(errno.ETIMEDOUT, "it does not answer")


class Worker:
    """One running worker and its mounted file system.

    `fuse` is a copy of its FUSE connection, which becomes ours. As long as we have it, requests are not failed by the
    worker's death but wait until we abort the connection: by then its sessions are being killed, and none tells its
    client that a listing has ended which in truth was cut off.
    """

    def __init__(
        self,
        process: Process,
        control: trio.socket.SocketType,
        view: View,
        target: str,
        uid: int,
        account: Account,
        *,
        mount_id: int = 0,
        fuse: int = -1,
    ) -> None:
        self.process = process
        self.account = account
        self.view = view
        self.target = target
        self.uid = uid
        self.mount_id = mount_id
        """Of the volume's own mount, which the worker has and nobody else; 0 when it is not known."""
        self._fuse = fuse
        self._control = control
        self._lock = trio.Lock()
        # Larger than any that an earlier hostd used, whose questions may still be in the socket.
        self._serial = time.monotonic_ns()

    @classmethod
    def adopt(
        cls,
        pid: int,
        pidfd: int,
        control_fd: int,
        view: View,
        target: str,
        uid: int,
        account: Account,
        mount_id: int = 0,
    ) -> Worker:
        """A worker an earlier hostd started, by its descriptors, which become ours."""
        control = trio.socket.from_stdlib_socket(socket.socket(fileno=control_fd))
        return cls(Process.adopt(pid, pidfd), control, view, target, uid, account, mount_id=mount_id)

    async def hold(self) -> None:
        """Get a copy of the FUSE connection of a worker that was taken over. Raises HostError."""
        volume, fuse = await self._borrow(RESTRICT_TIMEOUT_S)
        close_elsewhere([volume])
        if self._fuse >= 0:
            os.close(self._fuse)
        self._fuse = fuse

    async def set_read_only(self, view: View, *, mount: bool = True) -> None:
        """Serve `view`, which is what it serves but for `read_only`, from now on. Raises HostError when it cannot.

        The worker refuses first, open files included; then the kernel does, whatever the worker says. With `mount`
        False the kernel goes on to refuse.
        """
        if not view.read_only and mount:
            await self._set_mount(read_only=False)
        restrict = Restrict(self._next(), refuse=False, read_only=view.read_only)
        state = await self._ask(restrict, RESTRICT_TIMEOUT_S, WorkerState)
        if state.refused or state.read_only != view.read_only:
            raise HostError(f"the worker of {self.target} does not obey")
        if view.read_only:
            await self._set_mount(read_only=True)
        self.view = view

    async def _set_mount(self, *, read_only: bool) -> None:
        if not self.mount_id:
            raise HostError(f"it is not known which mount the worker of {self.target} has")
        volume, fuse = await self._borrow(RESTRICT_TIMEOUT_S)
        try:
            flag = mounts.ATTR_RDONLY
            mounts.set_attributes(volume, add=flag if read_only else 0, remove=0 if read_only else flag)
        except OSError as exc:
            # EBUSY: it has something open for writing although it says it has not.
            raise HostError(f"the mount of {self.target} cannot be changed: {exc.strerror}") from exc
        finally:
            close_elsewhere((volume, fuse))

    async def _borrow(self, timeout_s: float) -> tuple[int, int]:
        """Copies of the worker's volume and FUSE connection, the caller's to close. Raises HostError."""
        lent: list[int] = []
        good = False
        try:
            await self._ask(Lend(self._next()), timeout_s, WorkerState, lent)
            with trio.move_on_after(timeout_s):
                # In a thread: what it sent may be a file of a server that does not answer.
                look = functools.partial(_are_volume_and_fuse, lent, self.mount_id)
                good = await trio.to_thread.run_sync(look, abandon_on_cancel=True)
        finally:
            if not good:
                close_elsewhere(lent)
        if not good:
            raise HostError(f"the worker of {self.target} does not lend what it has")
        return lent[0], lent[1]

    @property
    def descriptors(self) -> tuple[int, int, int]:
        """The control socket, the pidfd of the worker's process, and the volume's ledger."""
        return self._control.fileno(), self.process.fileno(), self.account.ledger.fileno()

    async def ping(self, timeout_s: float) -> WorkerState:
        """How it is. Raises HostError when it does not answer in `timeout_s` seconds."""
        return await self._ask(Ping(self._next()), timeout_s, WorkerState)

    async def expel(self, pids: Collection[int], timeout_s: float = EXPEL_TIMEOUT_S) -> bool:
        """From now on it refuses everything to these processes, and to no others. False when it does not say so.

        What they have open is dead for good. They must have been stopped: see wire.worker.Expel.
        """
        try:
            state = await self._ask(Expel(self._next(), tuple(pids)), timeout_s, WorkerState)
        except HostError as exc:
            log.get().warning("worker does not expel", target=self.target, error=str(exc))
            return False
        return set(state.expelled) == set(pids)

    async def callers(self, pids: Collection[int], *, ended: bool = False) -> list[CallerState]:
        """What these processes have done, as the worker says. With `ended` they have ended. Raises HostError."""
        found: list[CallerState] = []
        listed = list(pids)
        for start in range(0, len(listed), CALLERS_MAX):
            asked = AskCallers(self._next(), tuple(listed[start : start + CALLERS_MAX]), ended)
            found += (await self._ask(asked, CALLERS_TIMEOUT_S, CallersState)).callers
        return found

    def _next(self) -> int:
        self._serial += 1
        return self._serial

    async def _ask(
        self,
        message: Ping | Restrict | Expel | AskCallers | Lend,
        timeout_s: float,
        kind: type[Answer],
        lent: list[int] | None = None,
    ) -> Answer:
        """What it answers to `message`; descriptors that come with it are added to `lent`. Raises HostError."""
        # The time counts from here: another question that is not answered must not delay a revocation.
        with trio.move_on_after(timeout_s):
            async with self._lock:
                try:
                    if lent is not None:
                        take_descriptors(self._control, True)
                    await self._control.send(pack(message))
                    return await self._answer(message.serial, kind, lent)
                except (OSError, ProtocolError, trio.ClosedResourceError) as exc:
                    raise HostError(f"the worker of {self.target} gave no answer: {exc}") from exc
                finally:
                    if lent is not None:
                        take_descriptors(self._control, False)
        raise HostError(f"the worker of {self.target} did not answer in {timeout_s:g} s")

    async def ready(self) -> None:
        """Wait for the worker's first word. Raises HostError with its reason when it failed."""
        with trio.move_on_after(START_TIMEOUT_S):
            try:
                await self._answer(0, WorkerState)
                return
            except (OSError, ProtocolError) as exc:
                raise HostError(f"the worker of {self.target} did not start: {exc}") from exc
        raise HostError(f"the worker of {self.target} did not start in {START_TIMEOUT_S:g} s")

    async def _answer(self, serial: int, kind: type[Answer], lent: list[int] | None = None) -> Answer:
        while True:
            message, fds = await receive_with_fds_async(self._control, WorkerState | CallersState | WorkerFailed)
            wanted = isinstance(message, kind) and message.serial == serial
            if wanted and lent is not None:
                lent += fds
            elif fds:
                close_elsewhere(fds)
                raise ProtocolError("it sends descriptors nobody asked for")
            if message is None:
                raise ProtocolError("it hung up")
            if isinstance(message, WorkerFailed):
                raise ProtocolError(message.text)
            if wanted:
                assert isinstance(message, kind)
                return message

    async def refuse(self) -> WorkerState | None:
        """From now on the worker refuses everything, open handles included. None when it does not obey."""
        try:
            refuse = Restrict(self._next(), refuse=True, read_only=True)
            state = await self._ask(refuse, RESTRICT_TIMEOUT_S, WorkerState)
            if state.refused:
                return state
            problem = "it goes on"
        except HostError as exc:
            problem = str(exc)
        log.get().error("worker does not obey", target=self.target, error=problem)
        return None

    def close(self) -> None:
        """Let go of the control socket, the pidfd and the FUSE connection, which ends if the worker has ended."""
        # Messages that were not read may hold descriptors.
        if self._control.fileno() >= 0:
            last = os.dup(self._control.fileno())
            self._control.close()
            close_elsewhere([last])
        self.process.close()
        if self._fuse >= 0:
            os.close(self._fuse)
            self._fuse = -1


class WorkerUids:
    """Uids for workers: no two live workers share one, and a uid rests as long as the range allows."""

    def __init__(self, first: int, last: int) -> None:
        self._first, self._last = first, last
        # Not always from the start of the range: a worker that outlived an earlier hostd may have that one.
        self._next = random.SystemRandom().randint(first, last)
        self._used: set[int] = set()

    @property
    def used(self) -> frozenset[int]:
        """Uids of workers that are starting, serving or ending."""
        return frozenset(self._used)

    def take(self) -> int:
        """A uid no other worker has. Raises HostError when the range is used up."""
        for _ in range(self._last - self._first + 1):
            uid = self._next
            self._next = self._first if uid == self._last else uid + 1
            if uid not in self._used:
                self._used.add(uid)
                return uid
        raise HostError("ids.worker_uids is used up: too many volumes are mounted at once")

    def reserve(self, uid: int) -> None:
        """A worker has `uid` already, which an earlier hostd gave it."""
        self._used.add(uid)

    def give_back(self, uid: int) -> None:
        """The worker that had `uid` is gone."""
        self._used.discard(uid)


def _are_volume_and_fuse(lent: list[int], mount_id: int) -> bool:
    if len(lent) != 2 or os.fstat(lent[1]).st_rdev != mounts.FUSE_DEVICE:
        return False
    # It could send us another mount than the volume's, and go on writing to that.
    return not mount_id or mounts.mount_id(lent[0]) == mount_id


def take_descriptors(control: socket.socket | trio.socket.SocketType, wanted: bool) -> None:
    """Whether the kernel lets a worker send us descriptors: only while it was asked for some.

    Until a message is read, which drops them, they would keep a dead worker's FUSE connection alive, and its clients
    waiting. Before Linux 6.16 it always does.
    """
    try:
        control.setsockopt(socket.SOL_SOCKET, _SO_PASSRIGHTS, int(wanted))
    except OSError as exc:
        if exc.errno != errno.ENOPROTOOPT:
            raise


def spawn_of(config: Config, placement: Placement, *, login: str, uid: int, gid: int, worker_uid: int) -> Spawn:
    """What a worker is told that is to serve `placement` for `login`, whose `uid`:`gid` the session sees as owner."""
    view = placement.view
    return Spawn(
        login=login,
        path=view.path,
        worker_uid=worker_uid,
        uid=uid,
        gid=gid,
        read_only=view.read_only,
        places=placement.places,
        owner=view.owner,
        real=view.real,
        umask=int(config.host.umask, 8) if view.umask is None else view.umask,
    )


async def start(
    config: Config,
    zygote: Zygote,
    uids: WorkerUids,
    patience: Patience,
    *,
    login: str,
    uid: int,
    gid: int,
    placement: Placement,
    account: Account,
    target: str,
    at: str,
) -> Worker:
    """Mount a volume at `target` and start the worker that serves it; `uid`:`gid` is the owner the session sees.

    `at` is another way to the same directory, by which it is mounted. Raises HostError or RefusedError; no process is
    left running then, but the caller must unmount `target` if it is mounted.
    """
    view = placement.view
    opening = functools.partial(
        open_volume, config, view.source, read_only=view.read_only, expected=view.birth, folder=view.folder
    )
    volume = await patience.descriptor(view.source, opening)
    try:
        worker_uid = uids.take()
    except BaseException:
        close_elsewhere([volume])
        raise
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    take_descriptors(ours, False)
    control = trio.socket.from_stdlib_socket(ours)
    process: Process | None = None
    fuse = -1
    try:
        spec = spawn_of(config, placement, login=login, uid=uid, gid=gid, worker_uid=worker_uid)
        try:
            fuse = os.open("/dev/fuse", os.O_RDWR | os.O_CLOEXEC)
            mounts.mount_fuse(fuse, at, name=f"hatchway:{login}")
            process = await zygote.spawn(spec, (volume, fuse, theirs.fileno(), account.ledger.fileno()))
        finally:
            theirs.close()
        mount_id = mounts.mount_id(volume)
        worker = Worker(process, control, view, target, worker_uid, account, mount_id=mount_id, fuse=fuse)
        await worker.ready()
        return worker
    except BaseException as exc:
        if fuse >= 0:
            # Left open, it would make every client hang for ever.
            os.close(fuse)
        if process is not None:
            process.signal(signal.SIGKILL)
            process.close()
        control.close()
        uids.give_back(worker_uid)
        if isinstance(exc, OSError):
            raise HostError(f"{view.path} of {login} cannot be mounted: {exc}") from exc
        raise
    finally:
        # The last close of a device's mount unmounts it, which takes as long as its disk does.
        with trio.CancelScope(shield=True):
            await trio.to_thread.run_sync(os.close, volume)
