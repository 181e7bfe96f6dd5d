"""A process of one uid that does one system call after another in a directory, and says what came of each.

Long-lived, since a fork for each call would cost more than the call: an operation goes to it over a pipe, as a name and
arguments, and an answer comes back. Two of them, in two directories, are comparable: an answer says nothing of what
must differ between any two trees (inode numbers, the present time, descriptor numbers).
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import hashlib
import mmap
import multiprocessing
import os
import signal
import stat
import time
import traceback
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Final

from hatchway.kernel.files import renameat2

Answer = tuple[str, object]
"""("ok", what it gave), or ("error", the errno's name)."""

NEST: Final = (b"n1", b"n2", b"n3", b"n4", b"n5")
"""Directories between the top that is compared and where the actor works: what climbs a little stays within."""

AT_FDCWD: Final = -100
UTIME_NOW: Final = (1 << 30) - 1
UTIME_OMIT: Final = (1 << 30) - 2
WHOLE: Final = 1 << 18
"""Bytes of a file that are compared one by one; of a larger one only parts, as it is mostly a hole."""

PARTS: Final = (0, 4095, 65536, (1 << 20) - 1, (1 << 32) - 7, 1 << 33)
"""Where data is written, so where a large file is looked at."""

LARGEST: Final = (1 << 44) - 4096
"""Bytes of the largest file on ext4 (Documentation/filesystems/ext4, with blocks of 4096 bytes)."""

_PATIENCE_S = 30.0
_NOW_S = 3600 * 24 * 30
_LIBC = ctypes.CDLL(None, use_errno=True)
_LIBC.opendir.restype = ctypes.c_void_p
_LIBC.opendir.argtypes = (ctypes.c_char_p,)
_LIBC.readdir.restype = ctypes.c_void_p
for _name in ("readdir", "telldir", "closedir", "rewinddir"):
    getattr(_LIBC, _name).argtypes = (ctypes.c_void_p,)
_LIBC.telldir.restype = ctypes.c_long
_LIBC.seekdir.argtypes = (ctypes.c_void_p, ctypes.c_long)
_LIBC.fallocate.argtypes = (ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64)
_LIBC.utimensat.argtypes = (ctypes.c_int, ctypes.c_char_p, ctypes.c_void_p, ctypes.c_int)

_NAME_AT = 19  # of struct dirent (include/bits/dirent.h)


def _fail() -> OSError:
    number = ctypes.get_errno()
    return OSError(number, os.strerror(number))


def _has_no_name(fd: int) -> bool:
    try:
        return os.fstat(fd).st_nlink == 0
    except OSError as exc:
        return exc.errno == errno.ESTALE


def _time(ns: int) -> object:
    """`ns` if somebody chose it, "now" if it is of these days."""
    return "now" if abs(ns - time.time_ns()) < _NOW_S * 10**9 else ns


class Operations:
    """What an actor can do. `tree`, `held` and everything else answer what two trees can be compared by.

    Slots hold what was opened: opening into one that is taken closes what is in it. A path that begins with "~/" begins
    where the example did, whatever the working directory is.
    """

    def __init__(self, top: Path) -> None:
        self._top = os.open(top, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        self._case = -1
        self._home = -1
        self._slots: dict[int, int] = {}

    # The frame of an example

    def enter(self, case: bytes) -> None:
        """Begin in the directory `case` of the top, deep enough below it."""
        os.umask(0o022)
        self._case = os.open(case, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=self._top)
        os.fchdir(self._case)
        for name in NEST:
            os.mkdir(name)
            os.chdir(name)
        self._home = os.open(b".", os.O_PATH | os.O_CLOEXEC)

    def leave(self) -> None:
        """Let go of everything of this example."""
        os.fchdir(self._top)
        for fd in [*self._slots.values(), self._home, self._case]:
            os.close(fd)
        self._slots.clear()
        self._case = -1

    def home(self) -> None:
        """Back to where the example began."""
        os.fchdir(self._home)

    def tree(self) -> dict[bytes, object]:
        """Everything below the example's directory, by path."""
        found: dict[bytes, object] = {}
        numbers: dict[int, int] = {}
        self._walk(os.dup(self._case), b"", found, numbers)
        return found

    def _walk(self, fd: int, above: bytes, found: dict[bytes, object], numbers: dict[int, int]) -> None:
        try:
            for name in sorted(os.listdir(fd), key=os.fsencode):
                raw = os.fsencode(name)
                path = above + raw
                try:
                    st = os.stat(raw, dir_fd=fd, follow_symlinks=False)
                except OSError as exc:
                    found[path] = _errno(exc)
                    continue
                # The same number twice is one file with two names.
                number = numbers.setdefault(st.st_ino, len(numbers)) if not stat.S_ISDIR(st.st_mode) else -1
                found[path] = (*self._shown(st), number, self._inside(fd, raw, st))
                if stat.S_ISDIR(st.st_mode):
                    try:
                        below = os.open(raw, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=fd)
                    except OSError as exc:
                        found[path + b"/"] = _errno(exc)
                    else:
                        self._walk(below, path + b"/", found, numbers)
        finally:
            os.close(fd)

    def _inside(self, fd: int, name: bytes, st: os.stat_result) -> object:
        if stat.S_ISLNK(st.st_mode):
            return os.readlink(name, dir_fd=fd)
        if not stat.S_ISREG(st.st_mode):
            return None
        try:
            file = os.open(name, os.O_RDONLY | os.O_NOATIME | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=fd)
        except OSError as exc:
            return _errno(exc)
        try:
            return self._content(file)
        finally:
            os.close(file)

    def _content(self, fd: int) -> str:
        size = os.fstat(fd).st_size
        if size <= WHOLE:
            return hashlib.sha1(os.pread(fd, WHOLE + 1, 0), usedforsecurity=False).hexdigest()
        digest = hashlib.sha1(usedforsecurity=False)
        for offset in (*PARTS, size - 4096):
            digest.update(os.pread(fd, 4096, offset))
        return digest.hexdigest()

    def _shown(self, st: os.stat_result) -> tuple[object, ...]:
        whole = st.st_mode, st.st_nlink, st.st_uid == os.getuid(), st.st_gid == os.getgid()
        if stat.S_ISDIR(st.st_mode):
            # Its size is the file system's affair; its access time every listing's.
            return (*whole, None, _time(st.st_mtime_ns), None)
        return (*whole, st.st_size, _time(st.st_mtime_ns), _time(st.st_atime_ns))

    def held(self) -> dict[int, object]:
        """What is open, as its descriptor shows it.

        An O_PATH descriptor of what has no name any more is closed: it may be ESTALE (docs/posix.md).
        """
        found: dict[int, object] = {}
        for slot, fd in list(self._slots.items()):
            if fcntl.fcntl(fd, fcntl.F_GETFL) & os.O_PATH and _has_no_name(fd):
                self.close(slot)
                continue
            st = os.fstat(fd)
            try:
                at = os.lseek(fd, 0, os.SEEK_CUR) if stat.S_ISREG(st.st_mode) else None
            except OSError:
                at = None  # O_PATH
            found[slot] = (*self._shown(st), at)
        return found

    def expand(self, value: object) -> object:
        """`value`, a path from the beginning made one the kernel understands."""
        if isinstance(value, bytes) and value.startswith(b"~/"):
            return b"/proc/self/fd/%d" % self._home + value[1:]
        return value

    # By path

    def open(self, slot: int, path: bytes, flags: int, mode: int) -> None:
        self._hold(slot, os.open(path, flags | os.O_CLOEXEC, mode))

    def open_at(self, slot: int, directory: int, name: bytes, flags: int, mode: int) -> None:
        self._hold(slot, os.open(name, flags | os.O_CLOEXEC, mode, dir_fd=self._fd(directory)))

    def stat(self, path: bytes, follow: bool) -> object:
        return self._shown(os.stat(path, follow_symlinks=follow))

    def readlink(self, path: bytes) -> bytes:
        return os.readlink(path)

    def access(self, path: bytes, mode: int) -> bool:
        return os.access(path, mode)

    def truncate(self, path: bytes, size: int) -> None:
        os.truncate(path, size)

    def unlink(self, path: bytes) -> None:
        os.unlink(path)

    def rmdir(self, path: bytes) -> None:
        os.rmdir(path)

    def mkdir(self, path: bytes, mode: int) -> None:
        os.mkdir(path, mode)

    def mknod(self, path: bytes, mode: int) -> None:
        os.mknod(path, mode)

    def rename(self, old: bytes, new: bytes, flags: int) -> None:
        if flags:
            renameat2(AT_FDCWD, old, AT_FDCWD, new, flags)
        else:
            os.rename(old, new)

    def link(self, old: bytes, new: bytes, follow: bool) -> None:
        self._link(old, new, follow)

    def symlink(self, target: bytes, path: bytes) -> None:
        os.symlink(target, path)

    def chmod(self, path: bytes, mode: int) -> None:
        os.chmod(path, mode)

    def chown(self, path: bytes, uid: int, gid: int, follow: bool) -> None:
        os.chown(path, self._id(uid), self._id(gid), follow_symlinks=follow)

    def utimens(self, path: bytes, atime: tuple[int, int], mtime: tuple[int, int], follow: bool) -> None:
        self._utimens(AT_FDCWD, path, atime, mtime, 0 if follow else 0x100)

    def listdir(self, path: bytes) -> list[bytes]:
        return sorted(os.listdir(path))

    def space(self, path: bytes) -> tuple[int, ...]:
        st = os.statvfs(path)
        return st.f_frsize, st.f_bsize, st.f_blocks, st.f_namemax

    def chdir(self, path: bytes) -> None:
        os.chdir(path)

    def umask(self, mask: int) -> None:
        os.umask(mask)

    def setxattr(self, path: bytes, name: str, value: bytes) -> None:
        os.setxattr(path, name, value)

    def seek_listing(self, path: bytes, where: int) -> list[bytes]:
        """Read a directory, then again from the middle and from the beginning, by telldir and seekdir."""
        stream = _LIBC.opendir(path)
        if not stream:
            raise _fail()
        try:
            names, offsets = self._stream(stream)
            at = where % len(offsets)
            _LIBC.seekdir(stream, offsets[at])
            rest, _ = self._stream(stream)
            assert rest == names[at:], (names, at, rest)
            _LIBC.rewinddir(stream)
            again, _ = self._stream(stream)
            assert again == names, (names, again)
            return sorted(name for name in names if name not in (b".", b".."))
        finally:
            _LIBC.closedir(stream)

    def _stream(self, stream: int) -> tuple[list[bytes], list[int]]:
        names, offsets = [], [_LIBC.telldir(stream)]
        while entry := _LIBC.readdir(stream):
            names.append(ctypes.string_at(entry + _NAME_AT))
            offsets.append(_LIBC.telldir(stream))
        return names, offsets

    # By descriptor

    def close(self, slot: int) -> None:
        os.close(self._fd(slot))
        del self._slots[slot]

    def read(self, slot: int, size: int) -> bytes:
        return os.read(self._fd(slot), size)

    def pread(self, slot: int, size: int, offset: int) -> bytes:
        return os.pread(self._fd(slot), size, offset)

    def write(self, slot: int, data: bytes) -> int:
        return os.write(self._fd(slot), data)

    def pwrite(self, slot: int, data: bytes, offset: int) -> int:
        return os.pwrite(self._fd(slot), data, offset)

    def lseek(self, slot: int, offset: int, whence: int) -> int:
        fd = self._fd(slot)
        if (offset or whence) and stat.S_ISDIR(os.fstat(fd).st_mode):
            raise OSError(errno.EISDIR, os.strerror(errno.EISDIR))  # its offsets are the file system's: `seek_listing`
        base = {os.SEEK_CUR: os.lseek(fd, 0, os.SEEK_CUR), os.SEEK_END: os.fstat(fd).st_size}.get(whence, 0)
        if whence <= os.SEEK_END and base + offset > LARGEST:
            # A file system refuses positions beyond its largest file; FUSE has no such limit but 2^63 (docs/posix.md).
            raise OSError(errno.EOVERFLOW, os.strerror(errno.EOVERFLOW))
        return os.lseek(fd, offset, whence)

    def ftruncate(self, slot: int, size: int) -> None:
        os.ftruncate(self._fd(slot), size)

    def fchmod(self, slot: int, mode: int) -> None:
        os.fchmod(self._fd(slot), mode)

    def fchown(self, slot: int, uid: int, gid: int) -> None:
        os.fchown(self._fd(slot), self._id(uid), self._id(gid))

    def futimens(self, slot: int, atime: tuple[int, int], mtime: tuple[int, int]) -> None:
        self._utimens(self._fd(slot), None, atime, mtime, 0)

    def fsync(self, slot: int, data_only: bool) -> None:
        (os.fdatasync if data_only else os.fsync)(self._fd(slot))

    def fallocate(self, slot: int, mode: int, offset: int, length: int) -> None:
        if _LIBC.fallocate(self._fd(slot), mode, offset, length):
            raise _fail()

    def copy_range(self, slot: int, offset: int, other: int, other_offset: int, count: int) -> int:
        return os.copy_file_range(self._fd(slot), self._fd(other), count, offset, other_offset)

    def name_again(self, slot: int, path: bytes) -> None:
        """Another name for what is open, whether it has one or not."""
        self._link(b"/proc/self/fd/%d" % self._fd(slot), path, True)

    def open_again(self, slot: int, other: int, flags: int) -> None:
        """Open what is open anew, whether it has a name or not."""
        self._hold(slot, os.open(b"/proc/self/fd/%d" % self._fd(other), flags | os.O_CLOEXEC))

    def chmod_by_link(self, slot: int, mode: int) -> None:
        os.chmod(b"/proc/self/fd/%d" % self._fd(slot), mode)

    def listing(self, slot: int) -> list[bytes]:
        fd = self._fd(slot)
        os.lseek(fd, 0, os.SEEK_SET)
        return sorted(os.fsencode(name) for name in os.listdir(fd))

    def fchdir(self, slot: int) -> None:
        os.fchdir(self._fd(slot))

    def flock(self, slot: int, how: int) -> None:
        fcntl.flock(self._fd(slot), how | fcntl.LOCK_NB)

    def mapped(self, slot: int, shared: bool) -> bytes:
        fd = self._fd(slot)
        size = min(os.fstat(fd).st_size, WHOLE)
        if not size:
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
        with mmap.mmap(fd, size, flags=mmap.MAP_SHARED if shared else mmap.MAP_PRIVATE, prot=mmap.PROT_READ) as mapping:
            return mapping[:]

    # Below: steps they share

    def _fd(self, slot: int) -> int:
        try:
            return self._slots[slot]
        except KeyError:
            raise OSError(errno.EBADF, os.strerror(errno.EBADF)) from None

    def _hold(self, slot: int, fd: int) -> None:
        if slot in self._slots:
            os.close(self._slots.pop(slot))
        self._slots[slot] = fd

    def _id(self, number: int) -> int:
        """-1: leave it, 0: root, 1: our own."""
        return os.getuid() if number == 1 else number

    def _utimens(self, at: int, path: bytes | None, atime: tuple[int, int], mtime: tuple[int, int], flags: int) -> None:
        times = (ctypes.c_long * 4)(*atime, *mtime)
        # glibc refuses utimensat without a path.
        if _LIBC.futimens(at, times) if path is None else _LIBC.utimensat(at, path, times, flags):
            raise _fail()

    def _link(self, old: bytes, new: bytes, follow: bool) -> None:
        # os.link does not follow symlinks when told to.
        if _LIBC.linkat(AT_FDCWD, old, AT_FDCWD, new, 0x400 if follow else 0):
            raise _fail()


def _errno(exc: OSError) -> str:
    return errno.errorcode.get(exc.errno or 0, str(exc))


class Actor:
    """The process that does `operations`, made in it by `make`, as `uid`."""

    def __init__(self, make: type[Operations], top: Path, uid: int) -> None:
        self._ours, theirs = multiprocessing.Pipe()
        self._pid = os.fork()
        if self._pid == 0:
            self._ours.close()
            _serve(make, top, uid, theirs)
        theirs.close()

    def do(self, name: str, *arguments: object) -> Answer:
        """What came of the operation `name`. Raises AssertionError when it does not come back, or is broken."""
        self._ours.send((name, arguments))
        if not self._ours.poll(_PATIENCE_S):
            os.kill(self._pid, signal.SIGKILL)
            raise AssertionError(f"{name}{arguments} has not come back within {_PATIENCE_S} s")
        answer: Answer = self._ours.recv()
        assert answer[0] in ("ok", "error"), answer[1]
        return answer

    def end(self) -> None:
        """End the process."""
        self._ours.close()
        os.waitpid(self._pid, 0)


def _serve(make: type[Operations], top: Path, uid: int, conn: Connection) -> None:
    try:
        os.setgroups([])
        os.setresgid(uid, uid, uid)
        os.setresuid(uid, uid, uid)
        operations = make(top)
        while True:
            name, arguments = conn.recv()
            try:
                answer: Answer = ("ok", getattr(operations, name)(*map(operations.expand, arguments)))
            except OSError as exc:
                answer = ("error", _errno(exc))
            except Exception:
                answer = ("broken", f"{name}{arguments}: {traceback.format_exc()}")
            conn.send(answer)
    except EOFError:
        pass
    finally:
        os._exit(0)
