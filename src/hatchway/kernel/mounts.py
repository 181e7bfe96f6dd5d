"""Mounts as file descriptors, the FUSE mount, and the mount table.

Sources: open_tree(2), fsopen(2), fsconfig(2), fsmount(2), fspick(2), mount_setattr(2), move_mount(2), mount(2),
umount(2), pivot_root(2), proc_pid_mountinfo(5), include/uapi/linux/mount.h.
System call numbers from 424 on are the same on all architectures but alpha (include/uapi/asm-generic/unistd.h).
"""

from __future__ import annotations

import ctypes
import errno
import os
import re
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass

from hatchway.kernel.libc import LIBC, MACHINE, checked, syscall

_OPEN_TREE = 428
_MOVE_MOUNT = 429
_FSOPEN = 430
_FSCONFIG = 431
_FSMOUNT = 432
_FSPICK = 433
_MOUNT_SETATTR = 442
_PIVOT_ROOT = {"x86_64": 155, "aarch64": 41}

AT_EMPTY_PATH = 0x1000
_OPEN_TREE_CLONE = 1
_MOVE_MOUNT_F_EMPTY_PATH = 4
_AT_FDCWD = -100
_FSOPEN_CLOEXEC = 1
_FSMOUNT_CLOEXEC = 1
_SET_FLAG = 0
_SET_STRING = 1
_CMD_CREATE = 6
_CMD_RECONFIGURE = 7
_FSPICK_CLOEXEC = 1
_FSPICK_EMPTY_PATH = 8

ATTR_RDONLY = 0x1
ATTR_NOSUID = 0x2
ATTR_NODEV = 0x4
ATTR_NOEXEC = 0x8
ATTR_NOATIME = 0x10
ATTR_STRICTATIME = 0x20
ATTR_NODIRATIME = 0x80
ATTR_NOSYMFOLLOW = 0x200000

MS_NOSUID = 2
MS_NODEV = 4
MS_NOEXEC = 8
MS_REC = 0x4000
MS_BIND = 0x1000
MS_PRIVATE = 1 << 18

MNT_FORCE = 1
MNT_DETACH = 2
UMOUNT_NOFOLLOW = 8

CLONE_NEWNS = 0x00020000
CLONE_NEWUTS = 0x04000000
CLONE_NEWIPC = 0x08000000
CLONE_NEWNET = 0x40000000


class _MountAttr(ctypes.Structure):
    _fields_ = (
        ("attr_set", ctypes.c_uint64),
        ("attr_clr", ctypes.c_uint64),
        ("propagation", ctypes.c_uint64),
        ("userns_fd", ctypes.c_uint64),
    )


def clone_tree(fd: int) -> int:
    """A detached mount whose root is the directory `fd` refers to. Mounts below it are not part of it.

    Returns an O_PATH descriptor, close-on-exec; the mount goes when its last user does. Needs CAP_SYS_ADMIN.
    """
    flags = _OPEN_TREE_CLONE | os.O_CLOEXEC | AT_EMPTY_PATH
    return syscall(_OPEN_TREE, "open_tree", fd, b"", flags)


def clone_part(part: int, tree: int, scratch: str) -> int:
    """As `clone_tree` of the directory `part`, which lies in the detached mount `tree`.

    Before Linux 6.15 only what is in a mount namespace can be cloned (fs/namespace.c, may_copy_tree); there `tree`
    is mounted, for that moment, in the directory `scratch`, which must be a private mount's and nobody else's.
    """
    try:
        return clone_tree(part)
    except OSError as exc:
        if exc.errno != errno.EINVAL:
            raise
    return _clone_attached(part, tree, scratch)


def _clone_attached(part: int, tree: int, scratch: str) -> int:
    # Never removed with what is in it: if it cannot be unmounted, that is somebody's volume.
    place = tempfile.mkdtemp(prefix=".part-", dir=scratch)
    try:
        syscall(_MOVE_MOUNT, "move_mount", tree, b"", _AT_FDCWD, os.fsencode(place), _MOVE_MOUNT_F_EMPTY_PATH)
        try:
            return clone_tree(part)
        finally:
            unmount(place, MNT_DETACH)
    finally:
        os.rmdir(place)


def mount_device(kind: str, device: str, options: Iterable[tuple[str, str | None]], attributes: int) -> int:
    """A detached mount of the file system of type `kind` on the block device `device`, with `attributes` (ATTR_*).

    `options` are the file system's, with None for one that has no value; "ro" among them concerns the file system
    itself. When it is mounted already, wherever that is, this is the same one, with the options it has.
    Returns an O_PATH descriptor, close-on-exec; the mount goes when its last user does. Raises OSError: EBUSY when it
    is mounted already and is read-only there and not here, or the other way round; EINVAL for an option or contents
    that the file system does not know. Needs CAP_SYS_ADMIN.
    """
    return mount_detached(kind, (("source", device), *options), attributes)


def mount_detached(kind: str, options: Iterable[tuple[str, str | None]], attributes: int) -> int:
    """As `mount_device`, for a file system that is on no device."""
    context = syscall(_FSOPEN, "fsopen", kind.encode(), _FSOPEN_CLOEXEC)
    try:
        for key, value in options:
            command, text = (_SET_FLAG, None) if value is None else (_SET_STRING, os.fsencode(value))
            syscall(_FSCONFIG, "fsconfig", context, command, os.fsencode(key), text, 0)
        syscall(_FSCONFIG, "fsconfig", context, _CMD_CREATE, None, None, 0)
        return syscall(_FSMOUNT, "fsmount", context, _FSMOUNT_CLOEXEC, attributes)
    finally:
        os.close(context)


def set_attributes(fd: int, *, add: int = 0, remove: int = 0, propagation: int = 0) -> None:
    """Change the attributes (ATTR_*) and propagation (MS_PRIVATE) of the mount `fd` refers to.

    Raises OSError EBUSY for ATTR_RDONLY while a file is open for writing through that mount.
    """
    attr = _MountAttr(add, remove, propagation, 0)
    size = ctypes.sizeof(attr)
    syscall(_MOUNT_SETATTR, "mount_setattr", fd, b"", AT_EMPTY_PATH, ctypes.byref(attr), size)


def mount_id(fd: int) -> int:
    """The number of the mount `fd` is on, which no other mount has while this one is there (proc_pid_fdinfo(5))."""
    with open(f"/proc/self/fdinfo/{fd}", encoding="ascii") as file:
        fields = dict(line.partition(":")[::2] for line in file)
    return int(fields["mnt_id"])


def mount(source: str, target: str, kind: str, flags: int, data: str = "") -> None:
    """mount(2). Raises OSError."""
    args = (os.fsencode(source), os.fsencode(target), kind.encode(), ctypes.c_ulong(flags), os.fsencode(data))
    checked(LIBC.mount(*args), f"mount {kind} at {target}")


def make_private(target: str, *, recursive: bool = False) -> None:
    """Stop mounts from spreading between `target` and its peers (mount_namespaces(7))."""
    flags = MS_PRIVATE | (MS_REC if recursive else 0)
    checked(LIBC.mount(None, os.fsencode(target), None, ctypes.c_ulong(flags), None), f"make {target} private")


def unmount(target: str, flags: int = 0) -> None:
    """umount2(2), never following a symlink at `target`. Raises OSError, EBUSY while it is in use."""
    checked(LIBC.umount2(os.fsencode(target), flags | UMOUNT_NOFOLLOW), f"umount {target}")


FUSE_KIND = "fuse.hatchway"
"""The type our file systems have in the mount table."""

FUSE_DEVICE = os.makedev(10, 229)
"""The number of /dev/fuse (Documentation/admin-guide/devices.txt)."""


def mount_fuse(fuse_fd: int, target: str, *, name: str) -> None:
    """Mount the FUSE connection `fuse_fd` at the directory `target`; `name` is its source in the mount table.

    allow_other: sshd looks the directory up as root with the user's gid, then serves it as the user.
    default_permissions: the kernel checks the modes it is shown, for the user it is shown to.
    """
    data = f"fd={fuse_fd},rootmode=40000,user_id=0,group_id=0,default_permissions,allow_other"
    # Not MS_RDONLY for a read-only grant: sshd tells EROFS as "Failure", the worker's EACCES as "Permission denied".
    # The volume's own mount, which the worker cannot change, is what makes it read-only.
    mount(name, target, FUSE_KIND, MS_NOSUID | MS_NODEV | MS_NOEXEC, data)


def forget_unused(fd: int) -> None:
    """Have the kernel give up all that it remembers of the file system at `fd` (O_PATH will do) and nobody uses.

    It is reconfigured, with nothing changed: before that the kernel drops unused names and inodes (fs/super.c,
    reconfigure_super, shrink_dcache_sb), of which FUSE tells its server. Takes some 5 µs for each, and does not wait
    for the server. Raises OSError. Needs CAP_SYS_ADMIN.
    """
    context = syscall(_FSPICK, "fspick", fd, b"", _FSPICK_CLOEXEC | _FSPICK_EMPTY_PATH)
    try:
        syscall(_FSCONFIG, "fsconfig", context, _CMD_RECONFIGURE, None, None, 0)
    finally:
        os.close(context)


def unshare(flags: int) -> None:
    """unshare(2)."""
    checked(LIBC.unshare(flags), "unshare")


def enter_empty_root(scratch: str) -> None:
    """Make an empty, read-only tmpfs the root directory of this process and let go of everything else.

    Needs a mount namespace of its own with private propagation; `scratch` is any directory in it. The old root is
    detached: else this namespace's copy of other mounts would keep them alive, and an unmount outside would never
    end the worker that serves them.
    """
    mount("none", scratch, "tmpfs", MS_NOSUID | MS_NODEV | MS_NOEXEC, "size=4k,nr_inodes=2,mode=0555")
    _enter_root(scratch)


def enter_bare_root(scratch: str, empty: str) -> None:
    """As `enter_empty_root`, but with /proc, /dev/null and the empty directory `empty` in it (an absolute path)."""
    mount("none", scratch, "tmpfs", MS_NOSUID | MS_NODEV | MS_NOEXEC, "size=16k,nr_inodes=8,mode=0755")
    for directory in (empty, "/proc", "/dev"):
        os.mkdir(f"{scratch}{directory}", 0o555)
    os.close(os.open(f"{scratch}/dev/null", os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o444))
    for path in ("/proc", "/dev/null"):
        mount(path, f"{scratch}{path}", "", MS_BIND)
    _enter_root(scratch)


def _enter_root(directory: str) -> None:
    os.chdir(directory)
    # With both arguments "." the old root is stacked on the new one and can be detached there (pivot_root(2), NOTES).
    syscall(_PIVOT_ROOT[MACHINE], "pivot_root", b".", b".")
    unmount(".", MNT_DETACH)
    os.chdir("/")
    root = os.open("/", os.O_PATH | os.O_CLOEXEC)
    try:
        set_attributes(root, add=ATTR_RDONLY | ATTR_NOSYMFOLLOW)
    finally:
        os.close(root)


def try_nosymfollow() -> None:
    """Make a detached mount that follows no symlink, as Linux 5.14 or newer can, and let it go. Raises OSError.

    There is nothing weaker to fall back to.
    """
    # A directory that never has mounts below it, so that it can be cloned wherever this runs.
    source = os.open("/proc/self/fdinfo", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        tree = clone_tree(source)
    finally:
        os.close(source)
    try:
        set_attributes(tree, add=ATTR_NOSYMFOLLOW | ATTR_NOSUID | ATTR_NODEV)
    finally:
        os.close(tree)


@dataclass(frozen=True, slots=True)
class MountEntry:
    """One line of the mount table. `minor` is the FUSE connection's number in /sys/fs/fuse/connections; `root` which
    directory of its file system is mounted, and `device` that file system's "major:minor". `number` as of `mount_id`.
    """

    target: str
    kind: str
    source: str
    minor: int
    root: str = "/"
    device: str = ""
    number: int = 0


def same_mounts_as(pid: int) -> bool:
    """Whether process `pid` is in our mount namespace: a mount's number is the same there, and nowhere else.

    /proc/<pid>/ns/mnt would say so too, to whoever may trace that process (proc_pid_ns(5)). Raises OSError.
    """
    with open(f"/proc/{pid}/mountinfo", "rb") as theirs, open("/proc/self/mountinfo", "rb") as ours:
        return theirs.readline().split()[:1] == ours.readline().split()[:1]


def mount_table() -> list[MountEntry]:
    """All mounts of this process's namespace, in mount order. Reading it never touches a file system."""
    entries = []
    with open("/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape", newline="\n") as file:
        for line in file:
            head, _, tail = line.rstrip("\n").partition(" - ")
            left, right = head.split(" "), tail.split(" ")
            entries.append(
                MountEntry(
                    _unescape(left[4]),
                    right[0],
                    _unescape(right[1]),
                    int(left[2].partition(":")[2]),
                    _unescape(left[3]),
                    left[2],
                    int(left[0]),
                )
            )
    return entries


def _unescape(text: str) -> str:
    raw = os.fsencode(text)
    return os.fsdecode(re.sub(rb"\\([0-7]{3})", lambda m: bytes((int(m[1], 8),)), raw))
