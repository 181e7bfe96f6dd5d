"""Every operation a session can cause, done to names that change their meaning meanwhile.

The functions run in a session's root, as the login, with the volume as working directory. Each does one thing to a
path and returns what it got to see, which must not be a canary's. That most of them fail most of the time is the
point; an OSError is an answer like any other. `NEVER` are those that must not succeed at all.
"""

from __future__ import annotations

import errno
import fcntl
import mmap
import os
import random
import socket
import stat
from collections.abc import Callable, Iterable

from hatchway.kernel import files

AT_FDCWD = -100
FLICKERING = 2
"""How many of the first names the racer swaps to and fro in bursts (PAIRS in racer.c)."""
WRITTEN = b"written by a session\n"
RESTS = (b"", b"", b"", b"/leaf", b"/leaf", b"/sub", b"/sub/leaf", b"/new")

Seen = Iterable[bytes]


class Visitor:
    """Who does it: chooses names, and keeps some directories open over many operations."""

    def __init__(self, seed: int, slots: int) -> None:
        self.random = random.Random(seed)  # noqa: S311 - a race, no secret
        self.slots = slots
        self.held: list[int] = []

    def slot(self) -> bytes:
        """One of the racer's names; mostly one of the few that never stay the same."""
        return b"s%03d" % self.random.randrange(self.random.choice((FLICKERING, 8, self.slots, self.slots)))

    def path(self) -> bytes:
        """A name at most three levels deep, sometimes by way of another directory's `..`."""
        way = self.slot() + b"/../" if self.random.random() < 0.1 else b""
        return way + self.slot() + self.random.choice(RESTS)

    def other(self) -> bytes:
        """Where something may go: in the volume's root, or in one of the names there."""
        return self.slot() + self.random.choice((b"", b"/new"))

    def hold(self, fd: int) -> None:
        """Keep a directory's descriptor, and close an old one."""
        self.held.append(fd)
        if len(self.held) > 16:
            os.close(self.held.pop(self.random.randrange(16)))

    def any_held(self) -> int:
        """A directory that was opened a while ago. Raises OSError when there is none."""
        if not self.held:
            self.hold(os.open(b".", os.O_RDONLY | os.O_DIRECTORY))
        return self.random.choice(self.held)


Operation = Callable[[Visitor, bytes], Seen]
OPERATIONS: dict[str, Operation] = {}
NEVER: set[str] = set()


def operation(name: str, *, never: bool = False) -> Callable[[Operation], Operation]:
    """Put a function into the table."""

    def put(function: Operation) -> Operation:
        OPERATIONS[name] = function
        if never:
            NEVER.add(name)
        return function

    return put


def _opened(path: bytes, flags: int, do: Callable[[int], Seen | None], mode: int = 0o666) -> Seen:
    fd = os.open(path, flags | os.O_CLOEXEC, mode)
    try:
        return do(fd) or ()
    finally:
        os.close(fd)


def _shown(st: os.stat_result) -> Seen:
    # Attributes cannot hold the canary's word, but nobody may be shown a device as something to read.
    if not stat.S_ISREG(st.st_mode) and not stat.S_ISDIR(st.st_mode) and not stat.S_ISLNK(st.st_mode):
        assert stat.S_IMODE(st.st_mode) == 0, oct(st.st_mode)
    return ()


# lookup, getattr, statfs


@operation("stat")
def _(v: Visitor, path: bytes) -> Seen:
    return _shown(os.stat(path))


@operation("lstat")
def _(v: Visitor, path: bytes) -> Seen:
    return _shown(os.lstat(path))


@operation("fstat of O_PATH")
def _(v: Visitor, path: bytes) -> Seen:
    return _opened(path, os.O_PATH | os.O_NOFOLLOW, lambda fd: _shown(os.fstat(fd)))


@operation("access")
def _(v: Visitor, path: bytes) -> Seen:
    os.access(path, os.R_OK | os.W_OK)
    return ()


@operation("statvfs")
def _(v: Visitor, path: bytes) -> Seen:
    os.statvfs(path)
    return ()


@operation("readlink")
def _(v: Visitor, path: bytes) -> Seen:
    return (os.readlink(path),)


# setattr


@operation("chmod by path")
def _(v: Visitor, path: bytes) -> Seen:
    os.chmod(path, v.random.choice((0o777, 0o755, 0o4777, 0o2777, 0o1777)))
    return ()


@operation("chmod by handle")
def _(v: Visitor, path: bytes) -> Seen:
    return _opened(path, os.O_RDONLY | os.O_NONBLOCK, lambda fd: os.fchmod(fd, 0o777))


@operation("chown by path")
def _(v: Visitor, path: bytes) -> Seen:
    os.chown(path, os.getuid(), os.getgid())
    return ()


@operation("lchown")
def _(v: Visitor, path: bytes) -> Seen:
    os.lchown(path, os.getuid(), -1)
    return ()


@operation("chown by handle")
def _(v: Visitor, path: bytes) -> Seen:
    return _opened(path, os.O_RDONLY | os.O_NONBLOCK, lambda fd: os.fchown(fd, os.getuid(), os.getgid()))


@operation("truncate by path")
def _(v: Visitor, path: bytes) -> Seen:
    os.truncate(path, v.random.choice((0, 5, 5000)))
    return ()


@operation("truncate by handle")
def _(v: Visitor, path: bytes) -> Seen:
    return _opened(path, os.O_WRONLY | os.O_NONBLOCK, lambda fd: os.ftruncate(fd, 3))


@operation("utimens by path")
def _(v: Visitor, path: bytes) -> Seen:
    os.utime(path, ns=(1, 1))
    return ()


@operation("utimens of a link")
def _(v: Visitor, path: bytes) -> Seen:
    os.utime(path, ns=(2, 2), follow_symlinks=False)
    return ()


@operation("utimens by handle, now")
def _(v: Visitor, path: bytes) -> Seen:
    return _opened(path, os.O_RDONLY | os.O_NONBLOCK, lambda fd: os.utime(fd))


# names


@operation("mkdir")
def _(v: Visitor, path: bytes) -> Seen:
    os.mkdir(path)
    return ()


@operation("rmdir")
def _(v: Visitor, path: bytes) -> Seen:
    os.rmdir(path)
    return ()


@operation("unlink")
def _(v: Visitor, path: bytes) -> Seen:
    os.unlink(path)
    return ()


@operation("symlink")
def _(v: Visitor, path: bytes) -> Seen:
    os.symlink(b"../beside", path)
    return ()


@operation("link")
def _(v: Visitor, path: bytes) -> Seen:
    os.link(path, v.other(), follow_symlinks=False)
    return ()


@operation("link to the target")
def _(v: Visitor, path: bytes) -> Seen:
    os.link(path, v.slot() + b"/stolen", follow_symlinks=True)
    return ()


@operation("rename")
def _(v: Visitor, path: bytes) -> Seen:
    os.rename(path, v.other())
    return ()


@operation("rename, NOREPLACE")
def _(v: Visitor, path: bytes) -> Seen:
    files.renameat2(AT_FDCWD, path, AT_FDCWD, v.other(), files.RENAME_NOREPLACE)
    return ()


@operation("rename, EXCHANGE")
def _(v: Visitor, path: bytes) -> Seen:
    files.renameat2(AT_FDCWD, path, AT_FDCWD, v.other(), files.RENAME_EXCHANGE)
    return ()


@operation("mknod of a file")
def _(v: Visitor, path: bytes) -> Seen:
    os.mknod(path, 0o666 | stat.S_IFREG)
    return ()


@operation("mknod of a FIFO", never=True)
def _(v: Visitor, path: bytes) -> Seen:
    os.mkfifo(path)
    return ()


@operation("mknod of a device", never=True)
def _(v: Visitor, path: bytes) -> Seen:
    os.mknod(path, 0o666 | stat.S_IFCHR, os.makedev(1, 5))
    return ()


@operation("bind of a socket", never=True)
def _(v: Visitor, path: bytes) -> Seen:
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(path)
    return ()


@operation("connect to a socket", never=True)
def _(v: Visitor, path: bytes) -> Seen:
    with socket.socket(socket.AF_UNIX) as sock:
        sock.setblocking(False)
        sock.connect(path)
    return ()


# open with every flag, read, write

_FLAGS = {
    "O_RDONLY": os.O_RDONLY,
    "O_RDONLY without O_NONBLOCK": -1,
    "O_RDONLY|O_NOFOLLOW": os.O_RDONLY | os.O_NOFOLLOW,
    "O_RDONLY|O_NOATIME": os.O_RDONLY | os.O_NOATIME,
    "O_RDONLY|O_DIRECT": os.O_RDONLY | os.O_DIRECT,
    "O_RDONLY|O_TRUNC": os.O_RDONLY | os.O_TRUNC,
    "O_WRONLY": os.O_WRONLY,
    "O_RDWR": os.O_RDWR,
    "O_WRONLY|O_APPEND": os.O_WRONLY | os.O_APPEND,
    "O_WRONLY|O_TRUNC": os.O_WRONLY | os.O_TRUNC,
    "O_RDWR|O_SYNC": os.O_RDWR | os.O_SYNC,
    "O_RDWR|O_DSYNC|O_NOCTTY": os.O_RDWR | os.O_DSYNC | os.O_NOCTTY,
    "O_CREAT": os.O_WRONLY | os.O_CREAT,
    "O_CREAT|O_TRUNC": os.O_WRONLY | os.O_CREAT | os.O_TRUNC,
    "O_CREAT|O_EXCL": os.O_RDWR | os.O_CREAT | os.O_EXCL,
    "O_CREAT|O_APPEND|O_NOFOLLOW": os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW,
}


def _use(fd: int, flags: int) -> Seen:
    seen = []
    access = flags & os.O_ACCMODE
    if access != os.O_RDONLY:
        os.write(fd, WRITTEN)
        os.pwrite(fd, WRITTEN, 7)
    if access != os.O_WRONLY:
        seen += [os.read(fd, 4096), os.pread(fd, 4096, 0)]
    return seen


def _open_with(name: str, flags: int) -> None:
    if flags < 0:
        flags = os.O_RDONLY
    else:
        flags |= os.O_NONBLOCK

    @operation(f"open {name}")
    def _(v: Visitor, path: bytes) -> Seen:
        return _opened(path, flags, lambda fd: _use(fd, flags))


for _name, _flags in _FLAGS.items():
    _open_with(_name, _flags)


@operation("open O_TMPFILE", never=True)
def _(v: Visitor, path: bytes) -> Seen:
    return _opened(path, os.O_TMPFILE | os.O_RDWR, lambda _fd: ())


@operation("fsync and fdatasync")
def _(v: Visitor, path: bytes) -> Seen:
    def sync(fd: int) -> None:
        os.fsync(fd)
        os.fdatasync(fd)

    return _opened(path, os.O_RDONLY | os.O_NONBLOCK, sync)


@operation("copy_file_range")
def _(v: Visitor, path: bytes) -> Seen:
    def copy(source: int) -> Seen:
        def into(target: int) -> Seen:
            os.copy_file_range(source, target, 4096)
            return (os.pread(target, 4096, 0),)

        return _opened(v.other(), os.O_RDWR | os.O_CREAT | os.O_NONBLOCK, into)

    return _opened(path, os.O_RDONLY | os.O_NONBLOCK, copy)


@operation("fallocate")
def _(v: Visitor, path: bytes) -> Seen:
    return _opened(path, os.O_RDWR | os.O_NONBLOCK, lambda fd: os.posix_fallocate(fd, 0, 100))


@operation("lseek to data and holes")
def _(v: Visitor, path: bytes) -> Seen:
    def seek(fd: int) -> Seen:
        os.lseek(fd, 0, os.SEEK_HOLE)
        return (os.read(fd, 4096),)

    return _opened(path, os.O_RDONLY | os.O_NONBLOCK, seek)


@operation("lock")
def _(v: Visitor, path: bytes) -> Seen:
    return _opened(path, os.O_RDWR | os.O_NONBLOCK, lambda fd: fcntl.lockf(fd, fcntl.LOCK_EX | fcntl.LOCK_NB))


@operation("lease")
def _(v: Visitor, path: bytes) -> Seen:
    def lease(fd: int) -> None:
        # One of the session's kernel on the file as the session sees it: the container does not notice.
        fcntl.fcntl(fd, fcntl.F_SETLEASE, fcntl.F_WRLCK)

    return _opened(path, os.O_RDWR | os.O_NONBLOCK, lease)


@operation("shared mapping", never=True)
def _(v: Visitor, path: bytes) -> Seen:
    def mapped(fd: int) -> None:
        try:
            mmap.mmap(fd, 1, mmap.MAP_SHARED).close()
        except ValueError:  # the file is empty
            raise OSError(errno.EINVAL, "empty") from None

    return _opened(path, os.O_RDWR | os.O_NONBLOCK, mapped)


@operation("getxattr and listxattr", never=True)
def _(v: Visitor, path: bytes) -> Seen:
    os.listxattr(path)
    return (os.getxattr(path, "user.canary"),)


@operation("setxattr", never=True)
def _(v: Visitor, path: bytes) -> Seen:
    os.setxattr(path, "user.canary", WRITTEN)
    return ()


@operation("removexattr", never=True)
def _(v: Visitor, path: bytes) -> Seen:
    os.removexattr(path, "user.canary")
    return ()


# directories


@operation("list")
def _(v: Visitor, path: bytes) -> Seen:
    return os.listdir(path)


@operation("list and look at each")
def _(v: Visitor, path: bytes) -> Seen:
    names = []
    with os.scandir(path) as entries:
        for entry in entries:
            names.append(entry.name)
            try:
                _shown(entry.stat(follow_symlinks=False))
            except FileNotFoundError:
                pass  # it has just been swapped away
    return names


@operation("list what was opened before")
def _(v: Visitor, path: bytes) -> Seen:
    v.hold(os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC))
    return (os.fsencode(name) for name in os.listdir(v.any_held()))


@operation("fsync of a directory")
def _(v: Visitor, path: bytes) -> Seen:
    return _opened(path, os.O_RDONLY | os.O_DIRECTORY, lambda fd: os.fsync(fd))


@operation("open in a directory held")
def _(v: Visitor, path: bytes) -> Seen:
    name = v.random.choice((b"leaf", b"sub/leaf", b"../leaf", b"../beside/leaf"))
    fd = os.open(name, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=v.any_held())
    try:
        return (os.read(fd, 4096),)
    finally:
        os.close(fd)


@operation("create in a directory held")
def _(v: Visitor, path: bytes) -> Seen:
    name = v.random.choice((b"leaf", b"sub/made", b"made", b"../beside/made"))
    fd = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_NONBLOCK | os.O_CLOEXEC, 0o666, dir_fd=v.any_held())
    try:
        os.write(fd, WRITTEN)
    finally:
        os.close(fd)
    return ()


@operation("list above a directory held")
def _(v: Visitor, path: bytes) -> Seen:
    name = v.random.choice((b"..", b"../..", b"../../..", b"../../../../../.."))
    fd = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=v.any_held())
    try:
        return [os.fsencode(name) for name in os.listdir(fd)]
    finally:
        os.close(fd)
