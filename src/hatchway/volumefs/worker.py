"""A volume worker: the process that serves one volume of one login, and what it gives up before it does.

It is forked by the zygote with three descriptors: the volume's detached mount, the FUSE connection that hostd has
already mounted, and its control socket. Before the first request it has: mount, network, IPC and UTS namespaces of
its own, an empty read-only root, a uid no other worker shares, four capabilities, no_new_privs, no core dumps, and a
system call filter. docs/security.md shows what that looks like in /proc.

Concurrency: one thread, one trio loop. It must not start threads: capabilities belong to a thread.
"""

from __future__ import annotations

import array
import gc
import os
import resource
import signal
import socket
import traceback

import structlog
import trio

from hatchway import log
from hatchway.kernel import mounts, privileges, seccomp
from hatchway.volumefs.adapter import ListingFailedError, serve
from hatchway.volumefs.ownership import Owner, RealView, SquashView, View
from hatchway.volumefs.tree import VolumeTree
from hatchway.wire.frames import decode
from hatchway.wire.worker import MAX_PACKET, Lend, Ping, Restrict, Spawn, WorkerFailed, WorkerState, pack

MAX_OPEN_FILES = 4096
"""Descriptors of a worker: open handles of all sessions of one login on one volume, and directories in use."""

MAX_MEMORY = 2 * 1024**3
"""Bytes of address space. One tenant's listing must not use up the host's memory."""


def run(spec: Spawn, volume_fd: int, fuse_fd: int, control_fd: int) -> None:
    """Confine this freshly forked process and serve until the file system is unmounted. Never returns.

    Exit status 0 after an unmount, 1 after a failure, which is reported on the control socket first.
    """
    status = 1
    control = socket.socket(fileno=control_fd)
    try:
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        structlog.contextvars.bind_contextvars(process="worker", login=spec.login, path=spec.path)
        proc_fd = _confine(spec, {volume_fd, fuse_fd, control_fd})
        tree = VolumeTree(
            root_fd=volume_fd,
            proc_fd_dir=proc_fd,
            view=_view(spec),
            keep_sgid=lambda: privileges.effective(privileges.Cap.FSETID),
            read_only=spec.read_only,
            places=map(os.fsencode, spec.places),
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


def _confine(spec: Spawn, keep: set[int]) -> int:
    """Give up everything but the descriptors in `keep`. Returns the directory of our own descriptors."""
    os.setsid()
    _close_all_but(keep | {2})
    null = os.open("/dev/null", os.O_RDWR | os.O_CLOEXEC)
    os.dup2(null, 0)
    os.dup2(null, 1)
    os.close(null)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_NOFILE, (MAX_OPEN_FILES, MAX_OPEN_FILES))
    resource.setrlimit(resource.RLIMIT_AS, (MAX_MEMORY, MAX_MEMORY))

    flags = mounts.CLONE_NEWNS | mounts.CLONE_NEWNET | mounts.CLONE_NEWIPC | mounts.CLONE_NEWUTS
    mounts.unshare(flags)
    mounts.make_private("/", recursive=True)
    # Re-opens our O_PATH descriptors by magic link, which NOSYMFOLLOW on the volume does not forbid. A mount of its
    # own: through a plain descriptor of /proc/self/fd, "../.." would reach all of /proc.
    here = os.open("/proc/self/fd", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    proc_fd = mounts.clone_tree(here)
    os.close(here)
    mounts.set_attributes(
        proc_fd,
        add=mounts.ATTR_NOSUID | mounts.ATTR_NODEV | mounts.ATTR_NOEXEC,
        propagation=mounts.MS_PRIVATE,
    )
    mounts.enter_empty_root(spec.scratch)

    os.umask(0)  # the kernel has applied the session's umask; what arrives is the mode that is wanted
    privileges.become(
        spec.worker_uid,
        spec.worker_uid,
        permitted=privileges.WORKER_CAPS,
        effective=privileges.WORKER_EFFECTIVE,
    )
    seccomp.confine()
    return proc_fd


def _close_all_but(keep: set[int]) -> None:
    for name in os.listdir("/proc/self/fd"):
        fd = int(name)
        if fd > 2 and fd not in keep:
            try:
                os.close(fd)
            except OSError:
                pass  # the descriptor listdir itself used


async def _main(tree: VolumeTree, volume_fd: int, fuse_fd: int, control: socket.socket) -> None:
    openers: dict[int, int] = {}
    async with trio.open_nursery() as nursery:
        sock = trio.socket.from_stdlib_socket(control)
        nursery.start_soon(_control, tree, openers, sock, (volume_fd, fuse_fd))
        await serve(tree, fuse_fd, openers)
        nursery.cancel_scope.cancel()


async def _control(
    tree: VolumeTree, openers: dict[int, int], sock: trio.socket.SocketType, lent: tuple[int, int]
) -> None:
    logger = log.get()
    await sock.send(pack(_state(tree, openers, 0)))
    while True:
        data = await sock.recv(MAX_PACKET)
        if not data:
            # hostd is gone, and nobody keeps our socket for its successor, which will therefore end us.
            logger.warning("hostd is gone")
            return
        try:
            message = decode(data, Ping | Restrict | Lend)
        except Exception as exc:
            logger.error("bad control message", error=str(exc))
            continue
        if isinstance(message, Restrict):
            # There is no way back from a refusal: what was taken away is given again by another mount.
            tree.restrict(refuse=tree.refused or message.refuse, read_only=message.read_only)
            logger.info("restricted", refuse=message.refuse, read_only=message.read_only)
        answer = pack(_state(tree, openers, message.serial))
        if isinstance(message, Lend):
            await sock.sendmsg([answer], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", lent))])
        else:
            await sock.send(answer)


def _state(tree: VolumeTree, openers: dict[int, int], serial: int) -> WorkerState:
    return WorkerState(
        serial=serial,
        handles=tree.open_handles,
        refused=tree.refused,
        read_only=tree.read_only,
        nodes=tree.live_nodes,
        listing=tuple(sorted(set(openers.values()))),
    )
