"""Calls on files that CPython does not wrap: openat2, renameat2, getdents64, and chown and utimens by descriptor.

Every call works on a descriptor, most on one name beneath it; a path of this process is never an argument. Where
`os` passes a call on unchanged (`dir_fd=`), it is used instead and does not appear here.

Concurrency: the functions keep no state. A `DirectoryReader` owns the read position of its descriptor and belongs to
one task. All calls give the GIL away; EINTR is tried again, as `os` does (PEP 475).

Sources: openat2(2), rename(2), getdents64(2), chown(2), utimensat(2), open(2) on O_PATH and O_TMPFILE,
proc_pid_fd(5), statfs(2), include/uapi/linux/openat2.h, include/uapi/linux/stat.h, include/uapi/linux/magic.h.
"""

from __future__ import annotations

import ctypes
import errno
import os
import struct
import time
from collections.abc import Callable
from typing import NamedTuple

from hatchway.kernel.libc import LIBC, syscall

RESOLVE_NO_XDEV = 0x01
RESOLVE_NO_MAGICLINKS = 0x02
RESOLVE_NO_SYMLINKS = 0x04
RESOLVE_BENEATH = 0x08

RENAME_NOREPLACE = 1
RENAME_EXCHANGE = 2

_AT_EMPTY_PATH = 0x1000
_UTIME_OMIT = (1 << 30) - 2
_NS_PER_S = 1_000_000_000

# The same number on every architecture Hatchway runs on (include/uapi/asm-generic/unistd.h); glibc has no wrapper
# before 2.42. The other calls have one since 2.30, so no table by architecture is needed here.
_OPENAT2 = 437

_DIRENT_HEAD = struct.Struct("=QqHB")
_NAME_OFFSET = _DIRENT_HEAD.size
_DIRENTS_BYTES = 32768
"""Bytes of one getdents64 call: the same as glibc's readdir(3), some 1,000 names."""

CHECK_S = 2.0
"""Longest that `DirectoryReader.check` goes on, in seconds."""

_LOCAL_MAGIC = frozenset(
    {
        0xEF53,  # ext2, ext3, ext4
        0x58465342,  # xfs
        0x9123683E,  # btrfs
        0x01021994,  # tmpfs
        0x794C7630,  # overlayfs
        0xF2F52010,  # f2fs
        0x2FC12FC1,  # zfs
    }
)


class _OpenHow(ctypes.Structure):
    _fields_ = (("flags", ctypes.c_uint64), ("mode", ctypes.c_uint64), ("resolve", ctypes.c_uint64))


class _Timespec(ctypes.Structure):
    _fields_ = (("seconds", ctypes.c_long), ("nanoseconds", ctypes.c_long))


class _Statfs(ctypes.Structure):
    # f_type is the first member, a long on both architectures; the rest (120 bytes there) is not looked at.
    _fields_ = (("kind", ctypes.c_ulong), ("rest", ctypes.c_byte * 248))


_TimespecPair = _Timespec * 2

_renameat2 = LIBC.renameat2
_renameat2.argtypes = (ctypes.c_int, ctypes.c_char_p, ctypes.c_int, ctypes.c_char_p, ctypes.c_uint)
_fchownat = LIBC.fchownat
_fchownat.argtypes = (ctypes.c_int, ctypes.c_char_p, ctypes.c_uint, ctypes.c_uint, ctypes.c_int)
_utimensat = LIBC.utimensat
_utimensat.argtypes = (ctypes.c_int, ctypes.c_char_p, ctypes.POINTER(_Timespec), ctypes.c_int)
_fstatfs = LIBC.fstatfs
_fstatfs.argtypes = (ctypes.c_int, ctypes.POINTER(_Statfs))
_getdents64 = LIBC.getdents64
_getdents64.argtypes = (ctypes.c_int, ctypes.c_void_p, ctypes.c_size_t)
_getdents64.restype = ctypes.c_ssize_t


def _call(function: Callable[..., int], *args: object) -> int:
    """Result of a libc function; OSError by its errno when it is negative, once more after EINTR."""
    while True:
        result = function(*args)
        if result >= 0:
            return result
        number = ctypes.get_errno()
        if number != errno.EINTR:
            raise OSError(number, os.strerror(number))


def openat2(dirfd: int, name: bytes, flags: int, mode: int = 0, resolve: int = 0) -> int:
    """Open `name` beneath `dirfd` under the constraints `resolve` (RESOLVE_*). Returns a descriptor.

    The only call of Hatchway that takes more than one component. `flags` are open(2)'s and are taken literally: pass
    O_CLOEXEC. Raises OSError: ELOOP for a symlink with RESOLVE_NO_SYMLINKS, EXDEV for an escape with RESOLVE_BENEATH.
    """
    how = _OpenHow(flags, mode, resolve)
    while True:
        try:
            return syscall(_OPENAT2, "openat2", dirfd, name, ctypes.byref(how), ctypes.sizeof(how))
        except OSError as exc:
            # EAGAIN: something was renamed on the way, so ".." could not be proved safe (openat2(2), NOTES).
            if exc.errno not in (errno.EINTR, errno.EAGAIN):
                raise


def renameat2(old_dirfd: int, old: bytes, new_dirfd: int, new: bytes, flags: int) -> None:
    """rename(2) with `flags` RENAME_NOREPLACE or RENAME_EXCHANGE. Raises OSError."""
    _call(_renameat2, old_dirfd, old, new_dirfd, new, flags)


def chown(fd: int, uid: int, gid: int) -> None:
    """Set owner and group of what `fd` refers to, a symlink or an O_PATH descriptor included. Raises OSError."""
    _call(_fchownat, fd, b"", uid, gid, _AT_EMPTY_PATH)


def set_times(fd: int, atime_ns: int | None, mtime_ns: int | None) -> None:
    """Set access and modification time of what `fd` refers to, a symlink or an O_PATH descriptor included.

    Times are nanoseconds since 1970, negative before; None leaves that time alone. Raises OSError.
    """
    times = _TimespecPair(_timespec(atime_ns), _timespec(mtime_ns))
    _call(_utimensat, fd, b"", times, _AT_EMPTY_PATH)


def _timespec(ns: int | None) -> _Timespec:
    if ns is None:
        return _Timespec(0, _UTIME_OMIT)
    return _Timespec(ns // _NS_PER_S, ns % _NS_PER_S)


def reopen(proc_fd_dir: int, fd: int, flags: int) -> int:
    """Open anew what `fd` (O_PATH) refers to, by its magic link. Returns a descriptor with `flags` of its own.

    No name is looked up, so it cannot be another file than the one `fd` was checked to be. Raises OSError.
    """
    return os.open(b"%d" % fd, flags, dir_fd=proc_fd_dir)


def link(proc_fd_dir: int, fd: int, dirfd: int, name: bytes) -> None:
    """Give what `fd` refers to (O_PATH, O_TMPFILE, a symlink) another name in `dirfd`. Raises OSError, EEXIST too.

    By magic link, because linkat(2) with AT_EMPTY_PATH needs CAP_DAC_READ_SEARCH.
    """
    os.link(b"%d" % fd, name, src_dir_fd=proc_fd_dir, dst_dir_fd=dirfd, follow_symlinks=True)


def chmod(proc_fd_dir: int, fd: int, mode: int) -> None:
    """Set the mode of what `fd` (O_PATH, not a symlink) refers to, by its magic link. Raises OSError."""
    os.chmod(b"%d" % fd, mode, dir_fd=proc_fd_dir)


def reports_errors_at_close(fd: int) -> bool:
    """Whether a write may fail as late as at close(2) on the file system of `fd`: NFS, SMB, FUSE, the unknown."""
    buffer = _Statfs()
    _call(_fstatfs, fd, ctypes.byref(buffer))
    return int(buffer.kind) not in _LOCAL_MAGIC


class DirectoryEntry(NamedTuple):
    """One name of a directory. `kind` is a DT_* number (0: unknown); `offset` continues after this entry."""

    inode: int
    kind: int
    name: bytes
    offset: int


class DirectoryReader:
    """Reads an open directory in the file system's own order, from any offset it gave out, in bounded memory.

    Offsets are the file system's cookies: they stay good while names come and go (getdents64(2), telldir(3)).
    The reader does not own `fd`: whoever opened it closes it.
    """

    __slots__ = ("_buffer", "_entries", "_fd", "_index", "_start")

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._buffer: ctypes.Array[ctypes.c_char] | None = None
        self._entries: list[DirectoryEntry] = []
        self._index = 0
        self._start = 0

    def check(self) -> None:
        """Read it to the end once, before anything is told of it. Raises OSError: ENOENT when it is removed, EIO.

        Who lists a directory is not always told that reading it failed half way. Nothing read here is told: what
        is made until somebody lists it must be in that list. It is read again from the page cache. A directory that
        takes longer than CHECK_S is not read to its end.
        """
        end = time.monotonic() + CHECK_S
        if self._buffer is None:
            self._buffer = ctypes.create_string_buffer(_DIRENTS_BYTES)
        while _call(_getdents64, self._fd, self._buffer, _DIRENTS_BYTES):
            if time.monotonic() > end:
                break
        self._rewind(0)

    def seek(self, offset: int) -> None:
        """Continue at `offset`: 0, or the offset of an entry read before. 0 reads everything afresh."""
        if offset and offset == self._before(self._index):
            return
        self._rewind(offset)

    def _rewind(self, offset: int) -> None:
        os.lseek(self._fd, offset, os.SEEK_SET)
        self._entries = []
        self._index = 0
        self._start = offset

    def read(self) -> DirectoryEntry | None:
        """The next entry but "." and "..", None at the end. Raises OSError."""
        if self._index == len(self._entries) and not self._fill():
            return None
        entry = self._entries[self._index]
        self._index += 1
        return entry

    def unread(self) -> None:
        """Give back the entry just read: it will be the next again."""
        self._index -= 1

    def _before(self, index: int) -> int:
        return self._entries[index - 1].offset if index else self._start

    def _fill(self) -> bool:
        if self._buffer is None:
            self._buffer = ctypes.create_string_buffer(_DIRENTS_BYTES)
        self._start = self._before(self._index)
        self._index = 0
        self._entries = []
        # A call may give nothing but "." and "..": that is not the end.
        while not self._entries:
            count = _call(_getdents64, self._fd, self._buffer, _DIRENTS_BYTES)
            if count == 0:
                return False
            self._entries = _parse(ctypes.string_at(self._buffer, count))
        return True


def _parse(data: bytes) -> list[DirectoryEntry]:
    entries = []
    at = 0
    while at < len(data):
        inode, offset, length, kind = _DIRENT_HEAD.unpack_from(data, at)
        start = at + _NAME_OFFSET
        name = data[start : data.index(b"\0", start)]
        if name not in (b".", b".."):
            entries.append(DirectoryEntry(inode, kind, name, offset))
        at += length
    return entries
