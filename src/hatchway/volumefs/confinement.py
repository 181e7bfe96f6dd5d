"""What a process that touches a volume gives up before it does: docs/security.md shows what is left in /proc.

Mount, network, IPC and UTS name spaces of its own, an empty read-only root, a uid nobody else has, few capabilities,
no_new_privs, no core dumps, limits, and a system call filter.
"""

from __future__ import annotations

import os
import resource
from collections.abc import Collection

from hatchway.kernel import mounts, privileges, seccomp

MAX_OPEN_FILES = 4096
"""Descriptors: of a worker open handles of all sessions of one login on one volume, and directories in use."""

SCRATCH = "/empty"
"""A directory to mount an empty root on, in the root of whoever forks us (`host.zygote`)."""

MAX_MEMORY = 2 * 1024**3
"""Bytes of address space. One tenant's listing must not use up the host's memory."""


def confine(
    keep: Collection[int],
    *,
    uid: int,
    scratch: str = SCRATCH,
    permitted: Collection[privileges.Cap],
    effective: Collection[privileges.Cap],
) -> int:
    """Give up everything but the descriptors in `keep` and standard error. For a freshly forked process, as root.

    It becomes `uid`:`uid`; `scratch` is a directory to mount an empty root on. Returns the directory of our own
    descriptors. Raises OSError, HostError.
    """
    os.setsid()
    _close_all_but({*keep, 2})
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
    mounts.enter_empty_root(scratch)

    os.umask(0)  # the kernel has applied the session's umask; what arrives is the mode that is wanted
    privileges.become(uid, uid, permitted=permitted, effective=effective)
    seccomp.confine()
    return proc_fd


def _close_all_but(keep: Collection[int]) -> None:
    for name in os.listdir("/proc/self/fd"):
        fd = int(name)
        if fd > 2 and fd not in keep:
            try:
                os.close(fd)
            except OSError:
                pass  # the descriptor listdir itself used
