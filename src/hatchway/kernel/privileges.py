"""Giving up privileges for good, and proving it.

Sources: capabilities(7), prctl(2), credentials(7). Each function that drops tries to get back what it dropped and
raises PrivilegeError when that works, as OpenSSH's permanently_set_uid does.
Not for threaded processes: capabilities and no_new_privs belong to a thread, so call these before any is started.
"""

from __future__ import annotations

import ctypes
import enum
import os
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager

from hatchway.errors import HostError
from hatchway.kernel.libc import LIBC, checked

_PR_SET_DUMPABLE = 4
_PR_SET_KEEPCAPS = 8
_PR_CAPBSET_READ = 23
_PR_CAPBSET_DROP = 24
_PR_SET_NO_NEW_PRIVS = 38
_PR_CAP_AMBIENT = 47
_PR_CAP_AMBIENT_CLEAR_ALL = 4
_CAP_VERSION_3 = 0x20080522


class PrivilegeError(HostError):
    """A privilege that should be gone is still there."""


class Cap(enum.IntEnum):
    """Capabilities Hatchway keeps somewhere (include/uapi/linux/capability.h)."""

    CHOWN = 0
    DAC_OVERRIDE = 1
    DAC_READ_SEARCH = 2
    FOWNER = 3
    FSETID = 4
    KILL = 5
    SETGID = 6
    SETUID = 7
    SETPCAP = 8
    SYS_ADMIN = 21
    AUDIT_WRITE = 29


WORKER_CAPS = frozenset({Cap.CHOWN, Cap.DAC_OVERRIDE, Cap.FOWNER, Cap.FSETID})
"""What a worker keeps. Never CAP_DAC_READ_SEARCH: with it open_by_handle_at(2) on the volume opens the host's root.
CAP_FSETID is kept permitted but not effective: so the kernel itself clears suid and sgid when a file is written."""

WORKER_EFFECTIVE = WORKER_CAPS - {Cap.FSETID}

ZYGOTE_CAPS = WORKER_CAPS | {Cap.SYS_ADMIN, Cap.SETUID, Cap.SETGID, Cap.SETPCAP}
"""What the zygote keeps: SYS_ADMIN for namespaces and pivot_root, the SET* to become a worker."""

HOSTD_CAPS = frozenset({Cap.SYS_ADMIN, Cap.DAC_OVERRIDE, Cap.KILL})
"""What hostd keeps: SYS_ADMIN to mount, DAC_OVERRIDE to find a volume beneath directories that are not root's, KILL to
end processes of sessions and workers."""

SIGNIN_CAPS = frozenset(
    {Cap.CHOWN, Cap.DAC_OVERRIDE, Cap.DAC_READ_SEARCH, Cap.FOWNER, Cap.SETGID, Cap.SETUID, Cap.AUDIT_WRITE}
)
"""What the sign-in helper keeps, for the host's PAM modules: those about files for what they keep of an account that is
not root's (pam_faillock), SET* for those that look as the user, AUDIT_WRITE since PAM refuses everybody when it is root
and cannot write to the kernel's audit (pam_audit.c)."""


class _Header(ctypes.Structure):
    _fields_ = (("version", ctypes.c_uint32), ("pid", ctypes.c_int))


class _Data(ctypes.Structure):
    _fields_ = (("effective", ctypes.c_uint32), ("permitted", ctypes.c_uint32), ("inheritable", ctypes.c_uint32))


def _mask(caps: Collection[Cap]) -> int:
    return sum(1 << cap for cap in caps)


def _capset(effective: int, permitted: int) -> None:
    header = _Header(_CAP_VERSION_3, 0)
    data = (_Data * 2)()
    data[0].effective, data[0].permitted = effective & 0xFFFFFFFF, permitted & 0xFFFFFFFF
    data[1].effective, data[1].permitted = effective >> 32, permitted >> 32
    checked(LIBC.capset(ctypes.byref(header), data), "capset")


def _prctl(option: int, *args: int) -> int:
    padded = [ctypes.c_ulong(arg) for arg in (*args, 0, 0, 0, 0)[:4]]
    return checked(LIBC.prctl(option, *padded), f"prctl({option})")


def held() -> tuple[int, int]:
    """Effective and permitted capabilities of this thread, as bit masks."""
    header = _Header(_CAP_VERSION_3, 0)
    data = (_Data * 2)()
    checked(LIBC.capget(ctypes.byref(header), data), "capget")
    return data[0].effective | data[1].effective << 32, data[0].permitted | data[1].permitted << 32


def no_new_privileges() -> None:
    """execve(2) never again adds privileges, for this process and its children (PR_SET_NO_NEW_PRIVS)."""
    _prctl(_PR_SET_NO_NEW_PRIVS, 1)


def not_dumpable() -> None:
    """No core dumps, no ptrace(2) by the same uid, and /proc/<pid> belongs to root (PR_SET_DUMPABLE)."""
    _prctl(_PR_SET_DUMPABLE, 0)


def bound(keep: Collection[Cap]) -> None:
    """Keep only `keep`, as root: bounding, permitted and effective sets. Needs CAP_SETPCAP until it returns."""
    last = _last_cap()
    for number in range(last + 1):
        if number not in keep and LIBC.prctl(_PR_CAPBSET_READ, ctypes.c_ulong(number), 0, 0, 0) == 1:
            _prctl(_PR_CAPBSET_DROP, number)
    _prctl(_PR_CAP_AMBIENT, _PR_CAP_AMBIENT_CLEAR_ALL)
    # Not more than we have: in a container even root may lack some.
    wanted = _mask(keep) & held()[1]
    _capset(wanted, wanted)
    if held() != (wanted, wanted):
        raise PrivilegeError("capabilities are still held after dropping them")


def become(uid: int, gid: int, *, permitted: Collection[Cap], effective: Collection[Cap]) -> None:
    """Turn this root process into `uid`:`gid` without groups, keeping only the capabilities given.

    The bounding set becomes empty. Raises PrivilegeError when root or another capability can be had again.
    """
    for number in range(_last_cap() + 1):
        if LIBC.prctl(_PR_CAPBSET_READ, ctypes.c_ulong(number), 0, 0, 0) == 1:
            _prctl(_PR_CAPBSET_DROP, number)
    _prctl(_PR_SET_KEEPCAPS, 1)
    os.setgroups([])
    os.setresgid(gid, gid, gid)
    os.setresuid(uid, uid, uid)
    _capset(_mask(effective), _mask(permitted))
    _prctl(_PR_SET_KEEPCAPS, 0)
    no_new_privileges()
    not_dumpable()
    prove_unprivileged(uid, gid, permitted=permitted, effective=effective)


def prove_unprivileged(uid: int, gid: int, *, permitted: Collection[Cap], effective: Collection[Cap]) -> None:
    """Try to get back what was dropped. Raises PrivilegeError when anything of it works."""
    # Its own group may be among the others as well: initgroups(3), which systemd calls, puts it there.
    others = set(os.getgroups()) - {gid}
    if others:
        raise PrivilegeError(f"the account {uid} is in groups of others, {sorted(others)}: take it out of them")
    if os.getresuid() != (uid, uid, uid) or os.getresgid() != (gid, gid, gid):
        raise PrivilegeError("user or group ids are not what they should be")
    if held() != (_mask(effective), _mask(permitted)):
        raise PrivilegeError("capabilities are not what they should be")
    everything = (1 << (_last_cap() + 1)) - 1
    attempts: tuple[tuple[str, Callable[[], None]], ...] = (
        ("setuid(0)", lambda: os.setuid(0)),
        ("setgid(0)", lambda: os.setgid(0)),
        ("setgroups", lambda: os.setgroups([0])),
        ("capset", lambda: _capset(everything, everything)),
    )
    for name, attempt in attempts:
        try:
            attempt()
        except OSError:
            continue
        raise PrivilegeError(f"{name} works although privileges were dropped")


_last_cap_number: int | None = None


def _last_cap() -> int:
    global _last_cap_number
    if _last_cap_number is None:
        # Not /proc/sys/kernel/cap_last_cap: a unit may have no /proc/sys. The kernel says EINVAL beyond its last one.
        number = 0
        while LIBC.prctl(_PR_CAPBSET_READ, ctypes.c_ulong(number + 1), 0, 0, 0) >= 0:
            number += 1
        _last_cap_number = number
    return _last_cap_number


@contextmanager
def effective(cap: Cap) -> Iterator[None]:
    """Have a permitted capability in effect within the block, for this thread."""
    before, permitted_mask = held()
    _capset(before | 1 << cap, permitted_mask)
    try:
        yield
    finally:
        _capset(before, permitted_mask)
