"""The worker's system call filter: a list of what it may call; everything else is EPERM.

What matters most is absent: open_by_handle_at and name_to_handle_at, mount and namespace calls, ptrace, execve, new
processes, sockets, bpf, io_uring, keyctl, userfaultfd, setns. Of calls that do many things (fcntl, ioctl, clone), or
do them to other processes as well, only what is needed is allowed. Nothing can make a file suid: CAP_CHOWN and
CAP_FOWNER together would else make a program of root's. EPERM instead of a kill: an overlooked harmless call then is
an error in one operation, not the end of a customer's transfer.

Sources: seccomp(2), Documentation/userspace-api/seccomp_filter.rst, arch/x86/entry/syscalls/syscall_64.tbl,
include/uapi/asm-generic/unistd.h (aarch64), fcntl.h, ioctls.h, include/uapi/linux/sched.h.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import functools
import socket
import stat
import struct
from typing import NamedTuple

from hatchway.errors import HostError
from hatchway.kernel.libc import LIBC, MACHINE, checked

_PR_SET_SECCOMP = 22
_MODE_FILTER = 2

_RET_KILL_PROCESS = 0x80000000
_RET_ERRNO = 0x00050000
_RET_ALLOW = 0x7FFF0000

_LD_W_ABS = 0x20
_JEQ = 0x15
_JGE = 0x35
_JSET = 0x45
_RET = 0x06

_OFFSET_NR = 0
_OFFSET_ARCH = 4
_OFFSET_ARGS = 16  # both architectures are little-endian: the low half of an argument comes first

_CLONE_THREAD = 0x00010000
_CLONE_NEW = 0x7E020080
"""CLONE_NEWTIME, -NS, -CGROUP, -UTS, -IPC, -USER, -PID, -NET: name spaces."""

_ARCH = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}

# name -> (x86_64, aarch64); None: that architecture has no such call.
_ALLOWED: dict[str, tuple[int | None, int | None]] = {
    # files, by descriptor and one name
    "read": (0, 63), "write": (1, 64), "close": (3, 57), "fstat": (5, 80), "lseek": (8, 62),
    "pread64": (17, 67), "pwrite64": (18, 68), "readv": (19, 65), "writev": (20, 66),
    "preadv": (295, 69), "pwritev": (296, 70), "preadv2": (327, 286), "pwritev2": (328, 287),
    "fsync": (74, 82), "fdatasync": (75, 83), "ftruncate": (77, 46), "fallocate": (285, 47),
    "fchown": (93, 55), "fstatfs": (138, 44), "getdents64": (217, 61), "fchownat": (260, 54),
    "newfstatat": (262, 79), "unlinkat": (263, 35), "renameat": (264, 38), "linkat": (265, 37),
    "symlinkat": (266, 36), "readlinkat": (267, 78), "faccessat": (269, 48), "faccessat2": (439, 439),
    "utimensat": (280, 88), "renameat2": (316, 276), "copy_file_range": (326, 285), "statx": (332, 291),
    "umask": (95, 166), "dup": (32, 23), "dup3": (292, 24), "close_range": (436, 436),
    # the FUSE connection and the control socket
    "splice": (275, 76), "vmsplice": (278, 75), "pipe2": (293, 59), "sendmsg": (46, 211), "recvmsg": (47, 212),
    "sendto": (44, 206), "recvfrom": (45, 207), "shutdown": (48, 210), "getsockopt": (55, 209),
    "setsockopt": (54, 208), "getsockname": (51, 204), "getpeername": (52, 205),
    # the event loop
    "epoll_create1": (291, 20), "epoll_ctl": (233, 21), "epoll_wait": (232, None), "epoll_pwait": (281, 22),
    "epoll_pwait2": (441, 441), "poll": (7, None), "ppoll": (271, 73), "eventfd2": (290, 19), "select": (23, None),
    "pselect6": (270, 72), "clock_gettime": (228, 113), "clock_getres": (229, 114), "gettimeofday": (96, 169),
    "clock_nanosleep": (230, 115), "nanosleep": (35, 101), "time": (201, None),
    # memory, threads, signals and the end
    "mmap": (9, 222), "mprotect": (10, 226), "munmap": (11, 215), "brk": (12, 214), "mremap": (25, 216),
    "madvise": (28, 233), "futex": (202, 98), "sched_yield": (24, 124),
    "set_robust_list": (273, 99), "rseq": (334, 293), "membarrier": (324, 283), "rt_sigaction": (13, 134),
    "rt_sigprocmask": (14, 135), "rt_sigreturn": (15, 139), "rt_sigtimedwait": (128, 137), "sigaltstack": (131, 132),
    "tgkill": (234, 131), "restart_syscall": (219, 128), "getrandom": (318, 278), "getpid": (39, 172),
    "getppid": (110, 173), "gettid": (186, 178), "getuid": (102, 174), "geteuid": (107, 175), "getgid": (104, 176),
    "getegid": (108, 177), "getresuid": (118, 148), "getresgid": (120, 150), "getgroups": (115, 158),
    "capget": (125, 90), "capset": (126, 91), "getrusage": (98, 165), "uname": (63, 160),
    "sysinfo": (99, 179), "exit": (60, 93), "exit_group": (231, 94),
}  # fmt: skip

_CLONE = (56, 220)
_CLONE3 = 435


class _If(NamedTuple):
    """A call that is allowed if argument `which`, from 0, is one of `values`, or has none of the bits `without`.

    Only the low 32 bits are looked at: the kernel takes these arguments as int, unsigned int or umode_t.
    """

    numbers: tuple[int, int]
    which: int
    values: tuple[int, ...] = ()
    without: int = 0


_F_DUPFD_CLOEXEC, _F_SETPIPE_SZ, _F_GETPIPE_SZ = 1030, 1031, 1032
_TCGETS, _FIONBIO, _FIONCLEX, _FIOCLEX = 0x5401, 0x5421, 0x5450, 0x5451

_ALLOWED_IF: dict[str, _If] = {
    "openat": _If((257, 56), 3, without=stat.S_ISUID),
    # F_SETLEASE, F_NOTIFY, F_SETOWN and F_SETSIG are for signals, and leases hold up whoever opens the file. F_SETLK is
    # for the ledger: a filter cannot see which file it is for. F_SETLKW would wait.
    "fcntl": _If((72, 25), 1, (fcntl.F_DUPFD, fcntl.F_GETFD, fcntl.F_SETFD, fcntl.F_GETFL, fcntl.F_SETFL,
                               _F_DUPFD_CLOEXEC, _F_SETPIPE_SZ, _F_GETPIPE_SZ, fcntl.F_GETLK, fcntl.F_SETLK)),
    # What CPython does to descriptors. File systems have many more: flags, project ids, extents, snapshots.
    "ioctl": _If((16, 29), 1, (_TCGETS, _FIONBIO, _FIONCLEX, _FIOCLEX)),
    "mkdirat": _If((258, 34), 2, without=stat.S_ISUID),
    "mknodat": _If((259, 33), 2, without=stat.S_ISUID),
    "fchmod": _If((91, 52), 1, without=stat.S_ISUID),
    "fchmodat": _If((268, 53), 2, without=stat.S_ISUID),
    "fchmodat2": _If((452, 452), 2, without=stat.S_ISUID),
    "socketpair": _If((53, 199), 0, (socket.AF_UNIX,)),
    # Of this process only: 0.
    "prlimit64": _If((302, 261), 0, (0,)),
    "sched_getaffinity": _If((204, 123), 0, (0,)),
}  # fmt: skip


def _instruction(code: int, k: int, jump_true: int = 0, jump_false: int = 0) -> bytes:
    return struct.pack("<HBBI", code, jump_true, jump_false, k)


def _conditional(call: _If, number: int) -> list[bytes]:
    """Instructions that decide about system call `number` and leave every other one to what follows."""
    if call.without:
        tests = [_instruction(_JSET, call.without, 1, 0), _instruction(_RET, _RET_ALLOW)]
    else:
        # Each value but the last jumps over the rest of them.
        count = len(call.values)
        tests = [
            _instruction(_JEQ, value, count - at - 1, int(at == count - 1)) for at, value in enumerate(call.values)
        ]
        tests += [_instruction(_RET, _RET_ALLOW)]
    block = [_instruction(_LD_W_ABS, _OFFSET_ARGS + 8 * call.which), *tests]
    block += [_instruction(_RET, _RET_ERRNO | errno.EPERM)]
    return [_instruction(_JEQ, number, 0, len(block)), *block]


@functools.cache
def program(machine: str) -> bytes:
    """The filter for `machine` ("x86_64" or "aarch64") as classic BPF. Raises HostError for any other."""
    if machine not in _ARCH:
        raise HostError(f"no system call filter for {machine}: Hatchway runs on x86_64 and aarch64")
    column = 0 if machine == "x86_64" else 1
    parts = [
        _instruction(_LD_W_ABS, _OFFSET_ARCH),
        _instruction(_JEQ, _ARCH[machine], 1, 0),
        _instruction(_RET, _RET_KILL_PROCESS),
        _instruction(_LD_W_ABS, _OFFSET_NR),
    ]
    if machine == "x86_64":
        # The x32 table has the same architecture number and other call numbers.
        parts += [_instruction(_JGE, 0x40000000, 0, 1), _instruction(_RET, _RET_KILL_PROCESS)]
    # First, for the kernel remembers of the others that they are allowed whatever their arguments are.
    parts += [part for call in _ALLOWED_IF.values() for part in _conditional(call, call.numbers[column])]
    for numbers in _ALLOWED.values():
        if (number := numbers[column]) is not None:
            parts += [_instruction(_JEQ, number, 0, 1), _instruction(_RET, _RET_ALLOW)]
    # clone3 passes its flags in memory, where a filter cannot look: ENOSYS makes glibc use clone instead.
    parts += [_instruction(_JEQ, _CLONE3, 0, 1), _instruction(_RET, _RET_ERRNO | errno.ENOSYS)]
    parts += [
        _instruction(_JEQ, _CLONE[column], 0, 4),
        _instruction(_LD_W_ABS, _OFFSET_ARGS),
        _instruction(_JSET, _CLONE_NEW, 2, 0),
        _instruction(_JSET, _CLONE_THREAD, 0, 1),
        _instruction(_RET, _RET_ALLOW),
        _instruction(_RET, _RET_ERRNO | errno.EPERM),
    ]
    return b"".join(parts)


class _Program(ctypes.Structure):
    _fields_ = (("length", ctypes.c_ushort), ("filter", ctypes.c_void_p))


def confine() -> None:
    """Put the filter on this process for good. Needs no_new_privs; call it before any thread is started."""
    code = program(MACHINE)
    buffer = ctypes.create_string_buffer(code, len(code))
    prog = _Program(len(code) // 8, ctypes.cast(buffer, ctypes.c_void_p))
    checked(
        LIBC.prctl(
            _PR_SET_SECCOMP, ctypes.c_ulong(_MODE_FILTER), ctypes.byref(prog), ctypes.c_ulong(0), ctypes.c_ulong(0)
        ),
        "seccomp",
    )
