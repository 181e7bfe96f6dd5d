"""The process `hatchway-workers`, the zygote: everything a worker needs is imported, and it forks workers on request.

A fresh Python with trio and pyfuse3 costs some 170 ms and 23 MB; a fork shares its memory and takes a few.
It serves hostd, one connection and one request at a time, on a socket that only root can reach, and outlives it: the
workers are its children and none of hostd's. It has no state, holds no copy of any FUSE connection (a copy would make
clients hang for ever after a worker's death), and lets go of all files of the host before it serves. What is the same
for every worker (the log, the system call filter) is prepared here: each page a worker writes is its own.
Concurrency: one thread.
"""

from __future__ import annotations

import argparse
import array
import gc
import os
import select
import signal
import socket
import sys
from pathlib import Path

import trio  # noqa: F401 - imported for the workers

from hatchway import config as configuration
from hatchway import log
from hatchway.errors import HatchwayError, HostError
from hatchway.kernel import mounts, privileges, seccomp
from hatchway.kernel.libc import MACHINE
from hatchway.volumefs import counter, task, worker
from hatchway.volumefs.confinement import SCRATCH
from hatchway.wire import notify
from hatchway.wire.service import inherited_socket, peer_of
from hatchway.wire.task import Perform, TaskKind
from hatchway.wire.worker import Count, Spawn, Spawned, SpawnFailed, pack, receive_with_fds


def main() -> None:
    """Entry point: `python -I -m hatchway.host.zygote --config FILE`. Serves until it is killed."""
    parser = argparse.ArgumentParser(prog="hatchway-workers")
    parser.add_argument("--config", type=Path)
    arguments = parser.parse_args()
    try:
        config = configuration.load(arguments.config)
        log.configure("workers", config.log.level)
        if os.geteuid() != 0:
            raise HostError("the parent of the workers must be started as root")
        _serve(config.paths.run_dir)
    except HatchwayError as exc:
        log.fatal("hatchway-workers", exc)
    except OSError as exc:
        log.fatal("hatchway-workers", HostError(str(exc)))


def _serve(scratch: str) -> None:
    listener = inherited_socket("workers")
    privileges.bound(privileges.ZYGOTE_CAPS)
    privileges.no_new_privileges()
    privileges.not_dumpable()
    seccomp.program(MACHINE)
    # Workers outlive us and are watched by pidfd; nobody waits for them.
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    # Ctrl-C in the terminal of `hatchway run` is for the supervisor, which ends us in the right order.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, _end)
    notify.hold()
    _let_go(scratch)
    said = WorkersLog()
    # What is allocated now stays shared: a collection in a worker would touch, and so copy, every page of it.
    gc.collect()
    gc.freeze()
    gc.disable()
    notify.ready()
    while True:
        _wait(listener, said)
        requests, _address = listener.accept()
        with requests:
            if (peer := peer_of(requests)).uid != 0:
                log.get().error("refused to serve somebody who is not root", uid=peer.uid, pid=peer.pid)
                continue
            _answer_all(requests, said)


class WorkersLog:
    """What workers log, passed on line by line.

    To the journal each of them would be a user of its own, with a file of its own; and one that was taken over must not
    be able to write to all terminals, as a line of the highest priorities does (journald.conf(5), ForwardToWall=).
    """

    def __init__(self) -> None:
        left = dict(notify.passed())
        if "reader" in left and "writer" in left:
            # Workers of the zygote before this one still write to it.
            self.reader, self.writer = left["reader"], left["writer"]
            for fd in (self.reader, self.writer):
                os.set_inheritable(fd, False)
        else:
            # Neither end waits: a worker must not hang because nobody reads its log.
            self.reader, self.writer = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
            notify.keep("reader", self.reader)
            notify.keep("writer", self.writer)
        self._rest = b""

    def copy(self) -> None:
        """Pass on what there is."""
        try:
            *lines, rest = (self._rest + os.read(self.reader, 65536)).split(b"\n")
        except BlockingIOError:
            return
        self._rest = rest[:LINE_MAX]
        said = b"".join(b"%b\n" % (b"<3>" + line[3:] if line[:3] in _GRAVE else line)[:LINE_MAX] for line in lines)
        try:
            while said:
                said = said[os.write(2, said) :]
        except OSError:
            pass  # nobody reads our log any more; volumes are to be served all the same


LINE_MAX = 16384
"""Bytes of a line; the rest of a longer one is lost. The journal would make two of one of 48 KiB (LineMax=)."""

_GRAVE = (b"<0>", b"<1>", b"<2>")


def _let_go(scratch: str) -> None:
    """Leave the host's mounts: copies of them, in a name space of our own, would keep alive what is unmounted there.

    `scratch` is any directory, to mount a root on that has what `confine` needs and no more.
    """
    null = os.open("/dev/null", os.O_RDWR | os.O_CLOEXEC)
    os.dup2(null, 0)
    os.dup2(null, 1)
    os.close(null)
    mounts.unshare(mounts.CLONE_NEWNS)
    mounts.make_private("/", recursive=True)
    mounts.enter_bare_root(scratch, SCRATCH)


def _wait(sock: socket.socket, said: WorkersLog) -> None:
    """Wait until there is something to read. Meanwhile pass on what workers say, and tell that we are well."""
    global _idle
    poll = select.poll()
    poll.register(sock, select.POLLIN)
    poll.register(said.reader, select.POLLIN)
    every = notify.watchdog_s()
    _idle = sock
    if _ending and not _is(sock, select.POLLIN):
        sys.exit(0)
    ready: set[int] = set()
    while sock.fileno() not in ready:
        ready = {fd for fd, _events in poll.poll(None if every is None else every * 1000)}
        if said.reader in ready:
            said.copy()
        notify.well()
    _idle = None


def _answer_all(requests: socket.socket, said: WorkersLog) -> None:
    """Serve hostd until it hangs up."""
    while True:
        _wait(requests, said)
        try:
            spec, fds = receive_with_fds(requests, Spawn | Count | Perform, 4)
        except ConnectionError:
            return
        except Exception as exc:
            log.get().error("bad spawn request", error=str(exc))
            continue
        if spec is None:
            return
        try:
            if _is(requests, select.POLLRDHUP):
                # It did not want to wait, and has perhaps asked again since: nobody would know this worker.
                for fd in fds:
                    os.close(fd)
                return
            _spawn(requests, spec, fds, said.writer)
        except ConnectionError:
            return  # it has gone meanwhile; whoever comes after it ends workers that it does not know
        if _ending:
            sys.exit(0)


_ending = False
_idle: socket.socket | None = None
"""What is being waited for."""


def _end(_signal: int, _frame: object) -> None:
    """SIGTERM: at once when there is nothing to do, else when what was asked is answered."""
    global _ending
    _ending = True
    if _idle is not None and not _is(_idle, select.POLLIN):
        sys.exit(0)


def _is(sock: socket.socket, event: int) -> bool:
    """Whether `event`, as in poll(2), is so now."""
    poll = select.poll()
    poll.register(sock, event)
    return bool(poll.poll(0))


def _expected(spec: Spawn | Count | Perform) -> int:
    """How many descriptors come with `spec`."""
    match spec:
        case Spawn():
            return 4
        case Count():
            return 3
        case Perform():
            return 2 if spec.kind is TaskKind.READ_KEYS else 3


def _spawn(requests: socket.socket, spec: Spawn | Count | Perform, fds: list[int], log_fd: int) -> None:
    try:
        expected = _expected(spec)
        if len(fds) != expected:
            requests.send(pack(SpawnFailed(f"expected {expected} descriptors, got {len(fds)}")))
            return
        pid = os.fork()
        if pid == 0:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
            os.dup2(log_fd, 2)
            requests.close()
            match spec:
                case Spawn():
                    worker.run(spec, *fds)
                case Count():
                    counter.run(spec, *fds)
                case Perform():
                    task.run(spec, *fds)
        try:
            pidfd = os.pidfd_open(pid)
        except OSError as exc:
            requests.send(pack(SpawnFailed(f"the worker ended at once: {exc}")))
            return
        try:
            rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [pidfd]))]
            requests.sendmsg([pack(Spawned(pid))], rights)
        finally:
            os.close(pidfd)
    finally:
        for fd in fds:
            os.close(fd)


if __name__ == "__main__":
    main()
