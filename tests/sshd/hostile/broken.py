"""Breaks the workers of one Hatchway: imported by each of its Python processes at start, acts in its zygote only.

A worker of a login that has "broken" in its name tries `attacks` when it has been confined, before it serves. One with
"bare" does so as well, and without the system call filter, so that one sees what the rest would hold by itself.
Everything else of them is what production runs.
"""

from __future__ import annotations

import socket
import sys

import structlog


def _login() -> str:
    return str(structlog.contextvars.get_contextvars().get("login", ""))


def install() -> None:
    """Put ourselves between a worker's confinement and its work."""
    from tests.sshd.hostile import attacks

    from hatchway.kernel import seccomp
    from hatchway.volumefs import worker
    from hatchway.volumefs.tree import VolumeTree

    serve, confine = worker._main, seccomp.confine

    def maybe_confine() -> None:
        if "bare" not in _login():
            confine()

    async def attack_and_serve(tree: VolumeTree, volume_fd: int, fuse_fd: int, control: socket.socket) -> None:
        if "broken" in _login() or "bare" in _login():
            ledger = tree._quota._ledger
            assert ledger is not None
            target = attacks.Target(
                tree._root_fd,
                tree._proc_fd_dir,
                fuse_fd,
                control.fileno(),
                ledger.fileno(),
                attacks.told(tree._root_fd),
            )
            attacks.tell(tree._root_fd, attacks.attempt_all(target, filtered="broken" in _login()))
        await serve(tree, volume_fd, fuse_fd, control)

    seccomp.confine = maybe_confine
    worker._main = attack_and_serve


if "hatchway.host.zygote" in sys.orig_argv:
    install()
