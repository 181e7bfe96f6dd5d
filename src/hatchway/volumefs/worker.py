"""A volume worker: the process that serves one volume of one login, and what it gives up before it does.

It is forked by the zygote with four descriptors: the volume's detached mount, the FUSE connection that hostd has
already mounted, its control socket, and the volume's ledger. Before the first request it is confined, see
`confinement`, with four capabilities and a uid no other worker shares.

Concurrency: one thread, one trio loop. It must not start threads: capabilities belong to a thread.
"""

from __future__ import annotations

import array
import gc
import itertools
import os
import signal
import socket
import time
import traceback

import structlog
import trio

from hatchway import log
from hatchway.kernel import privileges
from hatchway.volumefs.adapter import ListingFailedError, serve
from hatchway.volumefs.callers import Callers
from hatchway.volumefs.confinement import confine
from hatchway.volumefs.ledger import Ledger
from hatchway.volumefs.ownership import Owner, RealView, SquashView, View
from hatchway.volumefs.tree import VolumeTree
from hatchway.wire.frames import decode
from hatchway.wire.host import FILES_MAX
from hatchway.wire.worker import (
    CALLERS_MAX,
    MAX_PACKET,
    PATH_MAX,
    AskCallers,
    CallersState,
    CallerState,
    Expel,
    Lend,
    OpenFile,
    Ping,
    Restrict,
    Spawn,
    WorkerFailed,
    WorkerState,
    pack,
)

# Bytes that a packet needs besides its paths, at most (MessagePack: numbers have 9, names of fields up to 8 each).
_HEAD_ROOM = 256
_CALLER_ROOM = 96
_FILE_ROOM = 32


def run(spec: Spawn, volume_fd: int, fuse_fd: int, control_fd: int, ledger_fd: int) -> None:
    """Confine this freshly forked process and serve until the file system is unmounted. Never returns.

    Exit status 0 after an unmount, 1 after a failure, which is reported on the control socket first.
    """
    status = 1
    control = socket.socket(fileno=control_fd)
    try:
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        structlog.contextvars.bind_contextvars(process="worker", login=spec.login, path=spec.path)
        proc_fd = confine(
            {volume_fd, fuse_fd, control_fd, ledger_fd},
            uid=spec.worker_uid,
            permitted=privileges.WORKER_CAPS,
            effective=privileges.WORKER_EFFECTIVE,
        )
        tree = VolumeTree(
            root_fd=volume_fd,
            proc_fd_dir=proc_fd,
            view=_view(spec),
            keep_sgid=lambda: privileges.effective(privileges.Cap.FSETID),
            read_only=spec.read_only,
            places=map(os.fsencode, spec.places),
            ledger=Ledger(ledger_fd),
        )
        gc.enable()
        trio.run(_main, tree, volume_fd, fuse_fd, control)
        status = 0
    except BaseException as exc:
        if not isinstance(exc, BaseExceptionGroup) or exc.split(ListingFailedError)[1] is not None:
            traceback.print_exc()
        try:
            control.send(pack(WorkerFailed(f"{type(exc).__name__}: {exc}")))
        except OSError:
            pass  # hostd is gone too; the traceback is in the log
    finally:
        os._exit(status)


def _view(spec: Spawn) -> View:
    if spec.real:
        return RealView(spec.umask)
    new = None if spec.owner is None else Owner(spec.owner.uid, spec.owner.gid)
    return SquashView(spec.uid, spec.gid, new=new, umask=spec.umask)


async def _main(tree: VolumeTree, volume_fd: int, fuse_fd: int, control: socket.socket) -> None:
    callers = Callers()
    async with trio.open_nursery() as nursery:
        sock = trio.socket.from_stdlib_socket(control)
        nursery.start_soon(_control, tree, callers, sock, (volume_fd, fuse_fd))
        await serve(tree, fuse_fd, callers)
        nursery.cancel_scope.cancel()


async def _control(tree: VolumeTree, callers: Callers, sock: trio.socket.SocketType, lent: tuple[int, int]) -> None:
    logger = log.get()
    await sock.send(pack(_state(tree, callers, 0)))
    while True:
        data = await sock.recv(MAX_PACKET)
        if not data:
            # hostd is gone, and nobody keeps our socket for its successor, which will therefore end us.
            logger.warning("hostd is gone")
            return
        try:
            message = decode(data, Ping | Restrict | Expel | AskCallers | Lend)
        except Exception as exc:
            logger.error("bad control message", error=str(exc))
            continue
        if isinstance(message, Restrict):
            # There is no way back from a refusal: what was taken away is given again by another mount.
            tree.restrict(refuse=tree.refused or message.refuse, read_only=message.read_only)
            logger.info("restricted", refuse=message.refuse, read_only=message.read_only)
        if isinstance(message, Expel):
            callers.expel(message.pids)
            if message.pids:
                logger.info("expelled", pids=message.pids)
        if isinstance(message, AskCallers):
            answer = pack(callers_state(tree, callers, message))
        else:
            answer = pack(_state(tree, callers, message.serial))
        if isinstance(message, Lend):
            await sock.sendmsg([answer], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", lent))])
        else:
            await sock.send(answer)


def _state(tree: VolumeTree, callers: Callers, serial: int) -> WorkerState:
    return WorkerState(
        serial=serial,
        handles=tree.open_handles,
        refused=tree.refused,
        read_only=tree.read_only,
        nodes=tree.live_nodes,
        listing=callers.listing,
        expelled=callers.expelled,
    )


def callers_state(tree: VolumeTree, callers: Callers, asked: AskCallers) -> CallersState:
    """The answer to `asked`, which has room in a packet."""
    now = time.monotonic()
    accounts = callers.of(asked.pids[:CALLERS_MAX])
    room = MAX_PACKET - _HEAD_ROOM - len(accounts) * _CALLER_ROOM
    states = []
    for account in accounts:
        files = []
        for handle, directory in itertools.islice(account.handles.items(), FILES_MAX):
            if directory:
                continue
            path, writing = tree.opened(handle, PATH_MAX)
            room -= len(path) + _FILE_ROOM
            if room < 0:
                break
            files.append(OpenFile(path, writing))
        idle_ms = int((now - account.active) * 1000)
        states.append(CallerState(account.pid, account.read, account.written, idle_ms, tuple(files)))
    if asked.ended:
        callers.forget(asked.pids)
    return CallersState(asked.serial, tuple(states))
