"""What a broken worker could try: every way to the host that we can think of.

Runs inside a worker, after it has been confined and before it serves (`broken`), with what the worker has: its
descriptors, its rights, its control socket, and numbers somebody told it. An attack that raises OSError was denied
by the kernel; one that raises `HeldError` got an answer, but one that leads nowhere; one that returns has succeeded.
Everything here must be imported before the worker is forked: afterwards there is no file system to import from.
"""

from __future__ import annotations

import array
import ctypes
import errno
import fcntl
import json
import mmap
import os
import resource
import select
import signal
import socket
import struct
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pyfuse3  # noqa: F401 - a worker has it loaded

from hatchway.kernel import privileges
from hatchway.kernel.libc import LIBC, MACHINE, syscall
from hatchway.wire.worker import WorkerState, pack

_X86 = MACHINE == "x86_64"

# x86_64, aarch64: arch/x86/entry/syscalls/syscall_64.tbl, include/uapi/asm-generic/unistd.h.
_NUMBERS: dict[str, tuple[int, int]] = {
    "open_by_handle_at": (304, 265), "name_to_handle_at": (303, 264), "openat2": (437, 437),
    "ptrace": (101, 117), "process_vm_readv": (310, 270), "process_vm_writev": (311, 271), "kcmp": (312, 272),
    "process_madvise": (440, 440), "process_mrelease": (448, 448), "perf_event_open": (298, 241),
    "mount": (165, 40), "umount2": (166, 39), "pivot_root": (155, 41), "fsopen": (430, 430), "fspick": (433, 433),
    "open_tree": (428, 428), "move_mount": (429, 429), "mount_setattr": (442, 442), "fsmount": (432, 432),
    "statmount": (457, 457), "listmount": (458, 458), "chroot": (161, 51), "chdir": (80, 49), "fchdir": (81, 50),
    "unshare": (272, 97), "setns": (308, 268), "clone": (56, 220), "clone3": (435, 435),
    "socket": (41, 198), "connect": (42, 203), "bind": (49, 200), "listen": (50, 201), "socketpair": (53, 199),
    "kill": (62, 129), "tkill": (200, 130), "tgkill": (234, 131), "rt_sigqueueinfo": (129, 138),
    "rt_tgsigqueueinfo": (297, 240), "pidfd_open": (434, 434), "pidfd_send_signal": (424, 424),
    "pidfd_getfd": (438, 438), "prlimit64": (302, 261), "sched_getaffinity": (204, 123),
    "sched_setaffinity": (203, 122), "setpriority": (141, 140), "sched_setscheduler": (144, 119),
    "ioprio_set": (251, 30), "migrate_pages": (256, 238), "move_pages": (279, 239),
    "fanotify_init": (300, 262), "inotify_init1": (294, 26),
    "keyctl": (250, 219), "add_key": (248, 217), "request_key": (249, 218), "bpf": (321, 280),
    "io_uring_setup": (425, 425), "userfaultfd": (323, 282), "memfd_create": (319, 279), "memfd_secret": (447, 447),
    "execve": (59, 221), "execveat": (322, 281), "setuid": (105, 146), "setresuid": (117, 147), "setgid": (106, 144),
    "setgroups": (116, 159), "setfsuid": (122, 151), "capset": (126, 91), "prctl": (157, 167), "seccomp": (317, 277),
    "personality": (135, 92), "sethostname": (170, 161), "reboot": (169, 142), "init_module": (175, 105),
    "finit_module": (313, 273), "kexec_load": (246, 104), "swapon": (167, 224), "syslog": (103, 116),
    "acct": (163, 89), "quotactl": (179, 60), "quotactl_fd": (443, 443), "clock_settime": (227, 112),
    "adjtimex": (159, 171), "shmget": (29, 194), "msgget": (68, 186), "semget": (64, 190), "mq_open": (240, 180),
    "fsetxattr": (190, 7), "landlock_create_ruleset": (444, 444), "lookup_dcookie": (212, 18),
    "setrlimit": (160, 164), "vhangup": (153, 58), "timer_create": (222, 107), "mknodat": (259, 33),
    "fchmod": (91, 52), "fchmodat": (268, 53), "fchmodat2": (452, 452), "openat": (257, 56), "mkdirat": (258, 34),
    "sendmmsg": (307, 269), "pkey_alloc": (330, 289), "mlock": (149, 228), "file_getattr": (468, 468),
    "file_setattr": (469, 469),
}  # fmt: skip

AT_EMPTY_PATH = 0x1000
AT_FDCWD = -100
O_LIST = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
O_LOOK = os.O_PATH | os.O_CLOEXEC
SUID = 0o4755


class HeldError(Exception):
    """The call was answered, but led nowhere."""


@dataclass
class Target:
    """What an attack knows and has. `host` is what the test told: pids, paths, a file handle, ports, a secret."""

    volume: int
    proc: int
    fuse: int
    control: int
    ledger: int
    host: dict[str, Any]

    def pid(self, who: str) -> int:
        return int(self.host["pids"][who])

    def directory(self) -> int:
        """The volume's root, opened for reading."""
        return os.open(".", O_LIST, dir_fd=self.volume)

    def file(self, name: str, mode: int = 0o600) -> int:
        """A file of the volume, made if missing, opened for reading and writing."""
        return os.open(name, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, mode, dir_fd=self.volume)


Attack = Callable[[Target], "str | None"]
ATTACKS: list[tuple[str, str, Attack]] = []


def call(name: str, *args: Any) -> int:
    """System call `name`. Raises OSError."""
    return syscall(_NUMBERS[name][0 if _X86 else 1], name, *args)


def attack(group: str, name: str) -> Callable[[Attack], Attack]:
    """Put a function into the table."""

    def put(function: Attack) -> Attack:
        ATTACKS.append((group, name, function))
        return function

    return put


def simple(group: str, title: str, name: str, *args: Any) -> None:
    """An attack that is one system call; a callable argument is given the target."""

    def act(t: Target) -> str:
        return f"returned {call(name, *(arg(t) if callable(arg) else arg for arg in args))}"

    ATTACKS.append((group, title, act))


def descriptors() -> list[int]:
    """This process's open descriptors; it has no /proc."""
    found = []
    for fd in range(256):
        try:
            os.fstat(fd)
        except OSError:
            continue
        found.append(fd)
    return found


def _inode(fd: int) -> tuple[int, int]:
    st = os.fstat(fd)
    return st.st_dev, st.st_ino


# --- ways out by paths and descriptors ---


def _climb(t: Target, start: int, why: str) -> str | None:
    """From `start` up as far as it goes. Returns what is found above it, raises HeldError when that is itself."""
    allowed = {_inode(start), _inode(t.volume), _inode(t.proc)}
    for up in ("..", "../..", "../../../../../../../../.."):
        fd = os.open(up, O_LOOK, dir_fd=start)
        try:
            if _inode(fd) not in allowed:
                return f"{why}{up} is another directory"
        finally:
            os.close(fd)
    for path in (*t.host["paths"], "/etc/passwd", "/proc/1/root"):
        try:
            os.close(os.open("../" * 30 + path[1:], O_LOOK, dir_fd=start))
        except OSError:
            continue
        return f"{why}{path} was opened"
    raise HeldError("'..' is the directory itself")


@attack("paths", ".. from each descriptor")
def _(t: Target) -> str | None:
    tried, errors = 0, set()
    for fd in descriptors():
        try:
            if (found := _climb(t, fd, f"fd {fd}: ")) is not None:
                return found
        except HeldError:
            tried += 1
        except OSError as exc:
            errors.add(errno.errorcode[exc.errno or 0])
    raise HeldError(f"'..' of {tried} directories is themselves, else {', '.join(sorted(errors))}")


@attack("paths", ".. by the magic link of each descriptor")
def _(t: Target) -> str | None:
    errors = set()
    for fd in descriptors():
        for rest in ("/..", "/../..", "/../../../../etc"):
            try:
                found = os.open(f"{fd}{rest}", O_LOOK, dir_fd=t.proc)
            except OSError as exc:
                errors.add(errno.errorcode[exc.errno or 0])
                continue
            try:
                if _inode(found) not in {_inode(fd), _inode(t.volume), _inode(t.proc)}:
                    return f"{fd}{rest} is another directory"
            finally:
                os.close(found)
    raise HeldError(f"themselves, else {', '.join(sorted(errors))}")


@attack("paths", ".. of a directory moved out of the volume")
def _(t: Target) -> str | None:
    # The classic way out of a bind mount: hold a directory while somebody moves it out of what is mounted.
    try:
        os.mkdir("move-me", 0o777, dir_fd=t.volume)
        os.mkdir("move-me/deep", 0o777, dir_fd=t.volume)
    except FileExistsError:
        pass
    deep = os.open("move-me/deep", O_LOOK | os.O_DIRECTORY, dir_fd=t.volume)
    try:
        os.close(t.file("please-move"))
        end = time.monotonic() + 3
        while time.monotonic() < end:
            try:
                os.stat("moved", dir_fd=t.volume)
                break
            except FileNotFoundError:
                time.sleep(0.02)
        else:
            raise TimeoutError("nobody moved it")
        for up in ("../..", "../../..", f"../../{t.host['canary']}"):
            found = os.open(up, O_LOOK, dir_fd=deep)
            try:
                if _inode(found) != _inode(t.volume):
                    return f"{up} is another directory"
            finally:
                os.close(found)
        raise HeldError("'..' leads back")
    finally:
        os.close(deep)


@attack("paths", "the root directory and paths of the host")
def _(t: Target) -> str | None:
    if found := os.listdir("/"):
        return f"/ has {found}"
    errors = set()
    for path in (*t.host["paths"], *t.host["sockets"], "/etc/passwd", "/proc/self/root", "/dev/null", "/sys", "/run"):
        try:
            os.close(os.open(path, O_LOOK))
        except OSError as exc:
            errors.add(errno.errorcode[exc.errno or 0])
            continue
        return f"{path} was opened"
    raise HeldError(f"the root is empty: {', '.join(sorted(errors))}")


@attack("paths", "write in the root directory")
def _(t: Target) -> str:
    os.mkdir("/here", 0o777)
    return "made a directory"


@attack("paths", "symlinks planted by the container, O_NOFOLLOW left out")
def _(t: Target) -> str:
    for name in t.host["links"]:
        try:
            fd = os.open(name, os.O_RDONLY | os.O_NONBLOCK, dir_fd=t.volume)
        except OSError as exc:
            if exc.errno != errno.ELOOP:
                raise
            continue
        os.close(fd)
        return f"{name} was followed"
    raise OSError(errno.ELOOP, "all of them")


@attack("paths", "a device node planted by the container")
def _(t: Target) -> str:
    fd = os.open(t.host["device"], os.O_RDONLY | os.O_NONBLOCK, dir_fd=t.volume)
    return f"read {os.read(fd, 16)!r}"


@attack("paths", "the same, by its magic link")
def _(t: Target) -> str:
    path = os.open(t.host["device"], O_LOOK, dir_fd=t.volume)
    try:
        return f"read {os.read(os.open(str(path), os.O_RDONLY, dir_fd=t.proc), 16)!r}"
    finally:
        os.close(path)


simple("paths", "chroot to the volume", "chroot", b".")
simple("paths", "fchdir to the volume", "fchdir", lambda t: t.volume)


@attack("paths", "openat2 of '..' with RESOLVE_IN_ROOT")
def _(t: Target) -> str:
    how = ctypes.create_string_buffer(struct.pack("QQQ", O_LOOK, 0, 0x10), 24)
    fd = call("openat2", t.volume, b"../../etc", how, 24)
    os.close(fd)
    return "opened"


# --- file handles ---


def _handle(kind: int, data: bytes) -> ctypes.Array[ctypes.c_char]:
    return ctypes.create_string_buffer(struct.pack("Ii", len(data), kind) + data, 8 + 128)


@attack("handles", "open_by_handle_at of a file beside the volume")
def _(t: Target) -> str:
    directory = t.directory()
    try:
        kind, data = t.host["handle"]
        fd = call("open_by_handle_at", directory, _handle(kind, bytes.fromhex(data)), os.O_RDONLY)
        return f"read {os.read(fd, 64)!r}"
    finally:
        os.close(directory)


@attack("handles", "open_by_handle_at of the file system's root")
def _(t: Target) -> str:
    directory = t.directory()
    try:
        fd = call("open_by_handle_at", directory, _handle(1, struct.pack("II", 2, 0)), O_LIST)
        return f"lists {os.listdir(fd)[:5]}"
    finally:
        os.close(directory)


@attack("handles", "name_to_handle_at of the volume")
def _(t: Target) -> str:
    mount = ctypes.c_int()
    buffer = ctypes.create_string_buffer(struct.pack("Ii", 128, 0), 8 + 128)
    call("name_to_handle_at", t.volume, b"", buffer, ctypes.byref(mount), AT_EMPTY_PATH)
    return "a handle"


# --- other processes ---

PROCESSES = ("hostd", "zygote", "core", "neighbour", "session", "supervisor")
for _who in PROCESSES:
    simple("processes", f"ptrace attach to {_who}", "ptrace", 16, lambda t, who=_who: t.pid(who), 0, 0)
    simple("processes", f"pidfd_open of {_who}", "pidfd_open", lambda t, who=_who: t.pid(who), 0)
    simple("processes", f"kill {_who}", "kill", lambda t, who=_who: t.pid(who), 0)
    simple("processes", f"tgkill {_who}", "tgkill", lambda t, who=_who: t.pid(who), lambda t, who=_who: t.pid(who), 0)
    simple("processes", f"prlimit64 of {_who}", "prlimit64", lambda t, who=_who: t.pid(who), 7, 0,
           ctypes.create_string_buffer(16))  # fmt: skip


def _vector(size: int = 8) -> bytes:
    buffer = ctypes.create_string_buffer(size)
    _KEPT.append(buffer)
    return struct.pack("QQ", ctypes.addressof(buffer), size)


_KEPT: list[Any] = []


def _vm(name: str) -> Attack:
    def act(t: Target) -> str:
        local = ctypes.create_string_buffer(_vector())
        call(name, t.pid("neighbour"), local, 1, local, 1, 0)
        return "memory of another worker"

    return act


ATTACKS.append(("processes", "process_vm_readv of another worker", _vm("process_vm_readv")))
ATTACKS.append(("processes", "process_vm_writev of another worker", _vm("process_vm_writev")))
simple("processes", "kcmp", "kcmp", lambda _: os.getpid(), lambda t: t.pid("zygote"), 0, 0, 0)
simple("processes", "tkill", "tkill", lambda t: t.pid("hostd"), 0)
simple("processes", "kill everybody (-1)", "kill", -1, 0)
simple(
    "processes", "rt_sigqueueinfo", "rt_sigqueueinfo", lambda t: t.pid("hostd"), 10, ctypes.create_string_buffer(128)
)
simple("processes", "pidfd_send_signal", "pidfd_send_signal", 0, 0, 0, 0)
simple("processes", "pidfd_getfd", "pidfd_getfd", 0, 0, 0)
simple("processes", "process_madvise", "process_madvise", 0, 0, 0, 0, 0)
simple(
    "processes",
    "sched_getaffinity of hostd",
    "sched_getaffinity",
    lambda t: t.pid("hostd"),
    128,
    ctypes.create_string_buffer(128),
)
simple(
    "processes",
    "sched_setaffinity of hostd",
    "sched_setaffinity",
    lambda t: t.pid("hostd"),
    8,
    ctypes.create_string_buffer(b"\1", 8),
)
simple("processes", "setpriority of hostd", "setpriority", 0, lambda t: t.pid("hostd"), 5)
simple("processes", "ioprio_set of hostd", "ioprio_set", 1, lambda t: t.pid("hostd"), 0)
simple("processes", "migrate_pages of hostd", "migrate_pages", lambda t: t.pid("hostd"), 0, 0, 0)
simple("processes", "perf_event_open", "perf_event_open", ctypes.create_string_buffer(128), 0, -1, -1, 0)


@attack("processes", "the control socket's peer (SO_PEERPIDFD), then a signal")
def _(t: Target) -> str:
    peer = ctypes.c_int(-1)
    length = ctypes.c_uint32(4)
    if LIBC.getsockopt(t.control, socket.SOL_SOCKET, 77, ctypes.byref(peer), ctypes.byref(length)) != 0:
        raise OSError(ctypes.get_errno(), "SO_PEERPIDFD")
    try:
        call("pidfd_send_signal", peer.value, 0, 0, 0)
    finally:
        os.close(peer.value)
    return "a signal to hostd"


@attack("processes", "have the kernel signal hostd (F_SETOWN, F_SETSIG, O_ASYNC)")
def _(t: Target) -> str:
    reader, writer = os.pipe()
    try:
        fcntl.fcntl(reader, fcntl.F_SETOWN, t.pid("hostd"))
        fcntl.fcntl(reader, 10, signal.SIGKILL)  # F_SETSIG
        fcntl.fcntl(reader, fcntl.F_SETFL, os.O_ASYNC | os.O_NONBLOCK)
        os.write(writer, b"x")
        return "asked for it"
    finally:
        os.close(reader)
        os.close(writer)


# --- mounts and namespaces ---

simple("mounts", "mount a tmpfs", "mount", b"none", b"/", b"tmpfs", 0, 0)
simple("mounts", "remount the root writable", "mount", b"none", b"/", b"", 32, 0)
simple("mounts", "bind mount", "mount", b"/", b"/", b"", 4096, 0)
simple("mounts", "umount the root", "umount2", b"/", 2)
simple("mounts", "pivot_root", "pivot_root", b".", b".")
simple("mounts", "fsopen proc", "fsopen", b"proc", 0)
simple("mounts", "fsopen fuse", "fsopen", b"fuse", 0)
simple("mounts", "fspick of the volume", "fspick", lambda t: t.volume, b"", 8)
simple("mounts", "open_tree of the volume, a clone", "open_tree", lambda t: t.volume, b"", 1 | AT_EMPTY_PATH)
simple("mounts", "open_tree of the volume", "open_tree", lambda t: t.volume, b"", AT_EMPTY_PATH)
simple("mounts", "move_mount of the volume to /", "move_mount", lambda t: t.volume, b"", AT_FDCWD, b"/", 4)


@attack("mounts", "mount_setattr: clear nosymfollow, nodev, read-only")
def _(t: Target) -> str:
    attr = ctypes.create_string_buffer(struct.pack("QQQQ", 0, 0x200000 | 4 | 2 | 1, 0, 0), 32)
    call("mount_setattr", t.volume, b"", AT_EMPTY_PATH, attr, 32)
    return "cleared"


simple("mounts", "statmount", "statmount", ctypes.create_string_buffer(64), ctypes.create_string_buffer(256), 256, 0)
simple("mounts", "listmount", "listmount", ctypes.create_string_buffer(64), ctypes.create_string_buffer(256), 32, 0)
for _name, _flag in {"NEWUSER": 0x10000000, "NEWNS": 0x20000, "NEWPID": 0x20000000, "NEWNET": 0x40000000,
                     "NEWCGROUP": 0x2000000, "NEWTIME": 0x80, "FS": 0x200}.items():  # fmt: skip
    simple("namespaces", f"unshare CLONE_{_name}", "unshare", _flag)
simple("namespaces", "setns by a descriptor", "setns", lambda t: t.proc, 0)
simple("namespaces", "setns by a pidfd", "setns", 0, 0x20000)


@attack("namespaces", "user namespace, then mounts in it")
def _(t: Target) -> str:
    call("unshare", 0x10000000 | 0x20000)
    call("mount", b"none", b"/", b"tmpfs", 0, 0)
    return "a mount of its own"


# --- new processes ---


@attack("new processes", "fork")
def _(t: Target) -> str:
    pid = os.fork()
    if pid == 0:
        os._exit(0)
    os.waitpid(pid, 0)
    return "a child"


simple("new processes", "clone with CLONE_NEWUSER", "clone", 0x10000000 | 17, 0, 0, 0, 0)
simple("new processes", "a thread in namespaces of its own", "clone", 0x10000 | 0x800 | 0x100 | 0x40000000, 0, 0, 0, 0)
simple("new processes", "clone3", "clone3", ctypes.create_string_buffer(88), 88)
simple("new processes", "execve", "execve", b"/bin/sh", 0, 0)


@attack("new processes", "execveat of a program in the volume")
def _(t: Target) -> str:
    fd = os.open("program", O_LOOK, dir_fd=t.volume)
    try:
        argv = (ctypes.c_char_p * 2)(b"program", None)
        call("execveat", fd, b"", argv, 0, AT_EMPTY_PATH)
    finally:
        os.close(fd)
    return "ran it"


@attack("new processes", "memfd_create and execveat")
def _(t: Target) -> str:
    fd = call("memfd_create", b"x", 0)
    os.write(fd, b"#!/bin/sh\n")
    call("execveat", fd, b"", 0, 0, AT_EMPTY_PATH)
    return "ran it"


@attack("new processes", "map a file of the volume executable")
def _(t: Target) -> str:
    fd = os.open("program", os.O_RDONLY, dir_fd=t.volume)
    try:
        mmap.mmap(fd, 4096, mmap.MAP_PRIVATE, mmap.PROT_READ | mmap.PROT_EXEC).close()
    finally:
        os.close(fd)
    return "mapped it"


# --- sockets ---


def _socket(family: int, kind: int = socket.SOCK_STREAM, protocol: int = 0) -> int:
    return call("socket", family, kind, protocol)


@attack("sockets", "TCP to the host's sshd")
def _(t: Target) -> str:
    fd = _socket(socket.AF_INET)
    with socket.socket(fileno=fd) as sock:
        sock.settimeout(1)
        sock.connect(("127.0.0.1", t.host["port"]))
    return "connected"


@attack("sockets", "unix sockets of the host by path")
def _(t: Target) -> str:
    with socket.socket(fileno=_socket(socket.AF_UNIX)) as sock:
        for path in t.host["sockets"]:
            sock.connect(path)
    return "connected"


@attack("sockets", "an abstract unix socket of the host")
def _(t: Target) -> str:
    with socket.socket(fileno=_socket(socket.AF_UNIX)) as sock:
        sock.connect("\0" + t.host["abstract"])
    return "connected"


@attack("sockets", "an abstract datagram socket, by a socket pair's end")
def _(t: Target) -> str:
    one, two = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    with one, two:
        one.sendto(b"x", "\0" + t.host["abstract"] + "-datagram")
    return "sent"


@attack("sockets", "a datagram socket by path, by a socket pair's end")
def _(t: Target) -> str:
    one, two = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    with one, two:
        one.sendto(b"x", t.host["datagram"])
    return "sent"


for _name, _family, _kind, _protocol in (
    ("netlink route", 16, 3, 0), ("netlink audit", 16, 3, 9), ("raw", 2, 3, 1), ("packet", 17, 3, 0),
    ("vsock", 40, 1, 0), ("AF_ALG", 38, 5, 0), ("inet6", 10, 1, 0), ("bluetooth", 31, 3, 1),
):  # fmt: skip
    simple("sockets", f"socket {_name}", "socket", _family, _kind, _protocol)
simple("sockets", "socketpair of another family", "socketpair", 30, 1, 0, ctypes.create_string_buffer(8))


# --- the control socket ---


@attack("control socket", "give hostd the FUSE connection and the volume (SCM_RIGHTS)")
def _(t: Target) -> str:
    rights = array.array("i", [t.fuse, t.volume, t.proc])
    with socket.socket(fileno=os.dup(t.control)) as sock:
        # A state that hostd is not waiting for: it takes the message and goes on waiting.
        message = pack(WorkerState(serial=1, handles=0, refused=False, read_only=False))
        sock.sendmsg([message], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, rights)])
    return "sent"


@attack("control socket", "be somebody else (SCM_CREDENTIALS)")
def _(t: Target) -> str:
    with socket.socket(fileno=os.dup(t.control)) as sock:
        message = pack(WorkerState(serial=1, handles=0, refused=False, read_only=False))
        credentials = struct.pack("iII", 1, 0, 0)
        sock.sendmsg([message], [(socket.SOL_SOCKET, socket.SCM_CREDENTIALS, credentials)])
    return "sent"


simple("control socket", "listen on it", "listen", lambda t: t.control, 5)
simple(
    "control socket", "connect it elsewhere", "connect", lambda t: t.control, ctypes.create_string_buffer(b"\1\0x"), 3
)


# --- files of the volume, used against others ---


def _own_file(t: Target, name: str) -> int:
    # A lease is for the file's owner (fcntl(2)), and a worker can give itself a file.
    fd = t.file(name)
    os.fchown(fd, os.getuid(), -1)
    return fd


def _fcntl(name: str, command: int, argument: int) -> Attack:
    def act(t: Target) -> str:
        fd = _own_file(t, "own")
        try:
            fcntl.fcntl(fd, command, argument)
        finally:
            os.close(fd)
        return name

    return act


@attack("files", "the shared ledger made smaller, under hostd's feet (seals)")
def _(t: Target) -> str:
    os.ftruncate(t.ledger, 0)
    return "hostd would get SIGBUS"


@attack("files", "the shared ledger made larger than memory (seals)")
def _(t: Target) -> str:
    os.ftruncate(t.ledger, 1 << 50)
    return "a large one"


@attack("files", "a lock that is waited for (F_SETLKW)")
def _(t: Target) -> str:
    fcntl.lockf(t.ledger, fcntl.LOCK_UN)
    return "a lock"


ATTACKS.append(("files", "a lease on a file (F_SETLEASE)", _fcntl("a lease", fcntl.F_SETLEASE, fcntl.F_WRLCK)))


@attack("files", "notices of a directory (F_NOTIFY)")
def _(t: Target) -> str:
    directory = t.directory()
    try:
        fcntl.fcntl(directory, fcntl.F_NOTIFY, fcntl.DN_CREATE)
    finally:
        os.close(directory)
    return "notices"


simple("files", "fanotify_init", "fanotify_init", 0x200, 0)
simple("files", "inotify_init1", "inotify_init1", 0)


@attack("files", "mknod of the host's disk")
def _(t: Target) -> str:
    os.mknod("made-disk", 0o60666, t.host["disk"], dir_fd=t.volume)
    return "made it"


@attack("files", "mknod of /dev/mem")
def _(t: Target) -> str:
    os.mknod("made-mem", 0o20666, os.makedev(1, 1), dir_fd=t.volume)
    return "made it"


def _suid(make: Callable[[Target, int], None]) -> Attack:
    def act(t: Target) -> str:
        fd = t.file("root-program", 0o755)
        try:
            os.fchown(fd, 0, 0)
            make(t, fd)
            if os.fstat(fd).st_mode & 0o4000:
                return "a program that runs as root"
        finally:
            os.close(fd)
        raise HeldError("no suid bit")

    return act


def _fchmodat(t: Target, fd: int) -> None:
    os.chmod(str(fd), SUID, dir_fd=t.proc)


def _fchmodat2(t: Target, fd: int) -> None:
    call("fchmodat2", fd, b"", SUID, AT_EMPTY_PATH)


ATTACKS.append(("files", "a suid program of root, by fchmod", _suid(lambda _, fd: os.fchmod(fd, SUID))))
ATTACKS.append(("files", "a suid program of root, by fchmodat", _suid(_fchmodat)))
ATTACKS.append(("files", "a suid program of root, by fchmodat2", _suid(_fchmodat2)))


@attack("files", "a suid program by open")
def _(t: Target) -> str:
    fd = os.open("made-suid", os.O_RDWR | os.O_CREAT | os.O_EXCL, SUID, dir_fd=t.volume)
    try:
        os.fchown(fd, 0, 0)
        if os.fstat(fd).st_mode & 0o4000:
            return "suid of root"
    finally:
        os.close(fd)
        os.unlink("made-suid", dir_fd=t.volume)
    raise HeldError("no suid bit after the change of owner")


@attack("files", "a suid program by mknod")
def _(t: Target) -> str:
    os.mknod("made-suid", 0o100000 | SUID, 0, dir_fd=t.volume)
    try:
        os.chown("made-suid", 0, 0, dir_fd=t.volume)
        if os.stat("made-suid", dir_fd=t.volume).st_mode & 0o4000:
            return "suid of root"
    finally:
        os.unlink("made-suid", dir_fd=t.volume)
    raise HeldError("no suid bit after the change of owner")


@attack("files", "a program of group root with sgid, with CAP_FSETID raised")
def _(t: Target) -> str:
    fd = t.file("group-program", 0o755)
    try:
        os.fchown(fd, 0, 0)
        with privileges.effective(privileges.Cap.FSETID):
            os.fchmod(fd, 0o2755)
        if os.fstat(fd).st_mode & 0o2000:
            return "a program of any group"
    finally:
        os.close(fd)
    raise HeldError("no sgid bit")


@attack("files", "file capabilities (fsetxattr)")
def _(t: Target) -> str:
    fd = t.file("root-program", 0o755)
    try:
        value = struct.pack("<IIIII", 0x02000001, 0xFFFFFFFF, 0, 0xFFFFFFFF, 0)
        call("fsetxattr", fd, b"security.capability", ctypes.create_string_buffer(value, 20), 20, 0)
    finally:
        os.close(fd)
    return "set"


def _ioctl(group: str, title: str, number: int, data: bytes, which: Callable[[Target], int] | None = None) -> None:
    def act(t: Target) -> str:
        fd = which(t) if which is not None else t.file("own")
        try:
            fcntl.ioctl(fd, number, bytearray(data))
        finally:
            os.close(fd)
        return "done"

    ATTACKS.append((group, title, act))


_ioctl("ioctl", "FS_IOC_GETFLAGS", 0x80086601, bytes(8))
_ioctl("ioctl", "FS_IOC_SETFLAGS immutable", 0x40086602, struct.pack("Q", 0x10))
_ioctl("ioctl", "FS_IOC_SETFLAGS nodump", 0x40086602, struct.pack("Q", 0x40))
_ioctl("ioctl", "FS_IOC_FSSETXATTR: another project's quota", 0x401C5820, struct.pack("IIIII8x", 0, 0, 0, 7, 0))
_ioctl("ioctl", "FS_IOC_FIEMAP", 0xC020660B, struct.pack("QQIIII", 0, 1 << 20, 0, 0, 0, 0))
_ioctl("ioctl", "FIBMAP", 1, bytes(4))
_ioctl("ioctl", "FITRIM", 0xC0185879, struct.pack("QQQ", 0, 1 << 40, 0))
_ioctl("ioctl", "FIFREEZE", 0xC0045877, bytes(4))
_ioctl("ioctl", "FIDEDUPERANGE", 0xC0189436, bytes(24))
_ioctl("ioctl", "EXT4_IOC_SHUTDOWN", 0x8004587D, struct.pack("I", 2))
_ioctl("ioctl", "BLKFLSBUF on the volume", 0x1261, b"")
_ioctl("ioctl", "BLKRRPART on the volume", 0x125F, b"")
_ioctl("ioctl", "SIOCGIFCONF on the control socket", 0x8912, bytes(16), lambda t: os.dup(t.control))
_ioctl("ioctl", "FIOASYNC on the control socket", 0x5452, struct.pack("i", 1), lambda t: os.dup(t.control))
_ioctl("ioctl", "TIOCSTI on the log", 0x5412, b"x", lambda _: os.dup(2))
_ioctl("ioctl", "TIOCSCTTY on the log", 0x540E, bytes(4), lambda _: os.dup(2))


def _another_fuse(t: Target) -> int:
    return os.open(str(t.fuse), os.O_RDWR | os.O_CLOEXEC, dir_fd=t.proc)


@attack("fuse", "open /dev/fuse again by the magic link")
def _(t: Target) -> str:
    fd = _another_fuse(t)
    try:
        os.set_blocking(fd, False)
        os.read(fd, 65536)
    finally:
        os.close(fd)
    return "a connection that works"


_ioctl("fuse", "FUSE_DEV_IOC_CLONE onto the new one", 0x8004E500, b"\0\0\0\0", _another_fuse)
_ioctl("fuse", "FUSE_DEV_IOC_BACKING_OPEN", 0x4010E501, bytes(16), lambda t: os.dup(t.fuse))


# --- rights ---

simple("rights", "setuid 0", "setuid", 0)
simple("rights", "setresuid of a login", "setresuid", 1910100000, 1910100000, 1910100000)
simple("rights", "setgid 0", "setgid", 0)
simple("rights", "setgroups", "setgroups", 1, ctypes.create_string_buffer(4))


@attack("rights", "setfsuid 0")
def _(t: Target) -> str:
    call("setfsuid", 0)
    if call("setfsuid", -1) == 0:
        return "is root to file systems"
    raise HeldError("it stays what it was")


@attack("rights", "capset of everything")
def _(t: Target) -> str:
    header = ctypes.create_string_buffer(struct.pack("Ii", 0x20080522, 0), 8)
    data = struct.pack("IIIIII", *([0xFFFFFFFF, 0xFFFFFFFF, 0] * 2))
    call("capset", header, ctypes.create_string_buffer(data, 24))
    return "all capabilities"


simple("rights", "prctl: no_new_privs off", "prctl", 38, 0, 0, 0, 0)
simple("rights", "prctl: dumpable", "prctl", 4, 1, 0, 0, 0)
simple("rights", "prctl: keep capabilities", "prctl", 8, 1, 0, 0, 0)
simple("rights", "prctl: ambient capability", "prctl", 47, 2, 21, 0, 0)
simple("rights", "prctl: another's death signal", "prctl", 1, 9, 0, 0, 0)
simple("rights", "seccomp: another filter", "seccomp", 1, 0, 0)
simple("rights", "personality", "personality", 0x0040000)


for _name, _which in {"NOFILE": resource.RLIMIT_NOFILE, "AS": resource.RLIMIT_AS}.items():
    simple("rights", f"raise RLIMIT_{_name}", "prlimit64", 0, _which,
           ctypes.create_string_buffer(struct.pack("QQ", 1 << 50, 1 << 50), 16), 0)  # fmt: skip


# --- the kernel's other doors ---

simple("kernel", "keyctl", "keyctl", 0, -3, 0, 0, 0)
simple("kernel", "add_key", "add_key", b"user", b"x", ctypes.create_string_buffer(4), 4, -3)
simple("kernel", "bpf", "bpf", 0, ctypes.create_string_buffer(128), 72)
simple("kernel", "io_uring_setup", "io_uring_setup", 4, ctypes.create_string_buffer(256))
simple("kernel", "userfaultfd", "userfaultfd", 1)
simple("kernel", "memfd_create", "memfd_create", b"x", 0)
simple("kernel", "memfd_secret", "memfd_secret", 0)
simple("kernel", "init_module", "init_module", 0, 0, b"")
simple("kernel", "finit_module", "finit_module", 0, b"", 0)
simple("kernel", "kexec_load", "kexec_load", 0, 0, 0, 0)
simple("kernel", "reboot, with wrong magic", "reboot", 1, 2, 3, 0)
simple("kernel", "swapon", "swapon", b"/x", 0)
simple("kernel", "syslog", "syslog", 3, ctypes.create_string_buffer(64), 64)
simple("kernel", "acct", "acct", 0)
simple("kernel", "quotactl_fd", "quotactl_fd", lambda t: t.volume, 0, 0, 0)
simple("kernel", "clock_settime", "clock_settime", 0, ctypes.create_string_buffer(16))
simple("kernel", "sethostname", "sethostname", b"x", 1)
simple("kernel", "vhangup", "vhangup")
simple("kernel", "shmget", "shmget", 1, 4096, 0o1666)
simple("kernel", "msgget", "msgget", 1, 0o1666)
simple("kernel", "semget", "semget", 1, 1, 0o1666)
simple("kernel", "mq_open", "mq_open", b"x", 0o102, 0o666, 0)
simple("kernel", "timer_create, signal to itself", "timer_create", 0, 0, ctypes.create_string_buffer(8))


def _outcome(function: Attack, target: Target) -> str:
    try:
        return f"SUCCEEDED: {function(target) or 'done'}"
    except HeldError as exc:
        return f"held: {exc}"
    except OSError as exc:
        return errno.errorcode.get(exc.errno or 0, str(exc))
    except Exception as exc:
        return f"wrong: {exc!r}"  # a mistake of the attack's, which the test does not let pass


def _in_a_child(function: Attack, target: Target) -> str:
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            os.write(writer, _outcome(function, target).encode()[:4000])
        finally:
            os._exit(0)
    os.close(writer)
    try:
        ready, _, _ = select.select([reader], [], [], 5)
        answer = os.read(reader, 4000).decode() if ready else "hangs"
    finally:
        os.close(reader)
    os.kill(pid, signal.SIGKILL)
    _, status = os.waitpid(pid, 0)
    if not answer and os.WIFSIGNALED(status):
        return signal.Signals(os.WTERMSIG(status)).name
    return answer


def attempt_all(target: Target, *, filtered: bool) -> list[tuple[str, str, str]]:
    """(group, attack, outcome) of each. `filtered`: under the system call filter, where nobody can fork."""
    run = _outcome if filtered else _in_a_child
    return [(group, name, run(function, target)) for group, name, function in ATTACKS]


def told(volume: int) -> dict[str, Any]:
    """What the test left in the volume for us."""
    fd = os.open("targets.json", os.O_RDONLY, dir_fd=volume)
    try:
        data: dict[str, Any] = json.loads(os.read(fd, 1 << 20))
    finally:
        os.close(fd)
    return data


def tell(volume: int, results: object) -> None:
    """Leave the results in the volume."""
    fd = os.open("results.part", os.O_WRONLY | os.O_CREAT, 0o666, dir_fd=volume)
    try:
        os.write(fd, json.dumps(results).encode())
    finally:
        os.close(fd)
    os.rename("results.part", "results.json", src_dir_fd=volume, dst_dir_fd=volume)
