"""Aborting FUSE connections through a fusectl of our own.

Whatever waits for a connection's server then fails and can be killed. Sources: fsopen(2), fsconfig(2), fsmount(2),
Documentation/filesystems/fuse.rst ("Aborting a filesystem connection"), fs/fuse/control.c.
The host need not have fusectl mounted at /sys/fs/fuse/connections (outside systemd nobody does): there is one instance
of it, and a detached mount of that needs no directory and is seen by nobody else.
"""

from __future__ import annotations

import os
from collections.abc import Iterable

from hatchway.kernel.libc import syscall
from hatchway.kernel.mounts import ATTR_NODEV, ATTR_NOEXEC, ATTR_NOSUID

_FSOPEN = 430
_FSCONFIG = 431
_FSMOUNT = 432
_CLOEXEC = 1
"""FSOPEN_CLOEXEC and FSMOUNT_CLOEXEC."""
_CMD_CREATE = 6


def abort(minors: Iterable[int]) -> dict[int, str]:
    """Abort the FUSE connections with these numbers (`MountEntry.minor`); one that is gone has ended by itself.

    Returns those that could not be aborted, and why: the kernel may have no fusectl, for example.
    Needs CAP_SYS_ADMIN.
    """
    wanted = list(minors)
    if not wanted:
        return {}
    try:
        control = _mount()
    except OSError as exc:
        return dict.fromkeys(wanted, exc.strerror or str(exc))
    problems = {}
    try:
        for minor in wanted:
            try:
                _abort(control, minor)
            except FileNotFoundError:
                pass
            except OSError as exc:
                problems[minor] = exc.strerror or str(exc)
    finally:
        os.close(control)
    return problems


def _abort(control: int, minor: int) -> None:
    file = os.open(f"{minor}/abort", os.O_WRONLY | os.O_CLOEXEC, dir_fd=control)
    try:
        os.write(file, b"1")
    finally:
        os.close(file)


def _mount() -> int:
    context = syscall(_FSOPEN, "fsopen fusectl", b"fusectl", _CLOEXEC)
    try:
        syscall(_FSCONFIG, "fsconfig fusectl", context, _CMD_CREATE, None, None, 0)
        return syscall(_FSMOUNT, "fsmount fusectl", context, _CLOEXEC, ATTR_NOSUID | ATTR_NODEV | ATTR_NOEXEC)
    finally:
        os.close(context)
