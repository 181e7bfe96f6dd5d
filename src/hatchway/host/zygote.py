"""The zygote: a small process with everything a worker needs already imported, which forks workers on request.

A fresh Python with trio and pyfuse3 costs some 170 ms and 23 MB; a fork shares its memory and takes a few.
It is started by hostd with no descriptors but its request socket (standard input) and standard error, holds no
copy of any FUSE connection (a copy would make clients hang for ever after a worker's death), and has no state. What
is the same for every worker (the log, the system call filter) is prepared here: each page a worker writes is its own.
Concurrency: one thread, one request at a time.
"""

from __future__ import annotations

import array
import gc
import os
import signal
import socket
import sys

import trio  # noqa: F401 - imported for the workers

from hatchway import log
from hatchway.kernel import privileges, seccomp
from hatchway.kernel.libc import MACHINE
from hatchway.volumefs import counter, task, worker
from hatchway.wire.task import Perform, TaskKind
from hatchway.wire.worker import Count, Spawn, Spawned, SpawnFailed, pack, receive_with_fds


def main() -> None:
    """Serve spawn requests from standard input until it is closed. The one argument is the log's level."""
    requests = socket.socket(fileno=os.dup(0))
    requests.set_inheritable(False)
    null = os.open("/dev/null", os.O_RDWR)
    os.dup2(null, 0)
    os.dup2(null, 1)
    os.close(null)
    log.configure("zygote", sys.argv[1])
    logger = log.get()
    privileges.bound(privileges.ZYGOTE_CAPS)
    privileges.no_new_privileges()
    privileges.not_dumpable()
    seccomp.program(MACHINE)
    # Workers outlive us and are watched by pidfd; nobody waits for them.
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    # Ctrl-C in the terminal of `hatchway run` is for the supervisor, which ends us in the right order.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # What is allocated now stays shared: a collection in a worker would touch, and so copy, every page of it.
    gc.collect()
    gc.freeze()
    gc.disable()
    while True:
        try:
            spec, fds = receive_with_fds(requests, Spawn | Count | Perform, 4)
        except Exception as exc:
            logger.error("bad spawn request", error=str(exc))
            continue
        if spec is None:
            return
        _spawn(requests, spec, fds)


def _expected(spec: Spawn | Count | Perform) -> int:
    """How many descriptors come with `spec`."""
    match spec:
        case Spawn():
            return 4
        case Count():
            return 3
        case Perform():
            return 2 if spec.kind is TaskKind.READ_KEYS else 3


def _spawn(requests: socket.socket, spec: Spawn | Count | Perform, fds: list[int]) -> None:
    try:
        expected = _expected(spec)
        if len(fds) != expected:
            requests.send(pack(SpawnFailed(f"expected {expected} descriptors, got {len(fds)}")))
            return
        pid = os.fork()
        if pid == 0:
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
