"""Aborting FUSE connections through a fusectl of our own.

Whatever waits for a connection's server then fails and can be killed. Sources: Documentation/filesystems/fuse.rst
("Aborting a filesystem connection"), fs/fuse/control.c.
The host need not have fusectl mounted at /sys/fs/fuse/connections (outside systemd nobody does): there is one instance
of it, and a detached mount of that needs no directory and is seen by nobody else.
"""

from __future__ import annotations

import os
from collections.abc import Iterable

from hatchway.kernel.mounts import ATTR_NODEV, ATTR_NOEXEC, ATTR_NOSUID, mount_detached


def abort(minors: Iterable[int]) -> dict[int, str]:
    """Abort the FUSE connections with these numbers (`MountEntry.minor`); one that is gone has ended by itself.

    Returns those that could not be aborted, and why: the kernel may have no fusectl, for example.
    Needs CAP_SYS_ADMIN.
    """
    wanted = list(minors)
    if not wanted:
        return {}
    try:
        control = mount_detached("fusectl", (), ATTR_NOSUID | ATTR_NODEV | ATTR_NOEXEC)
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
