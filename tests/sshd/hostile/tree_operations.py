"""The operations of `VolumeTree` itself, by nodes that were looked up a while ago.

Here the tree is alone: it works on a plain descriptor of the volume's directory, as root, where symlinks lead to the
host, `..` leads out, devices work, and no kernel of a session looks at anything before. So it shows what the code
does by itself; in production a detached mount that follows no symlink, an empty root and a uid without rights are
beneath it.
"""

from __future__ import annotations

import contextlib
import os
import random
import stat
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from tests.sshd.hostile.driving import Met, Progress, Recorder, kind_of
from tests.sshd.hostile.operations import FLICKERING

from hatchway.kernel import files
from hatchway.volumefs.nodes import ROOT_ID
from hatchway.volumefs.ownership import SquashView
from hatchway.volumefs.tree import Entry, VolumeTree

WRITTEN = b"written through the tree\n"
SESSION = 1_910_100_000

Seen = Iterable[bytes] | None


@contextlib.contextmanager
def _as_is() -> Iterator[None]:
    yield


class TreeVisitor:
    """Chooses nodes and names, and keeps nodes and handles over many operations, as the kernel does."""

    def __init__(self, directory: Path, seed: int, slots: int) -> None:
        self.random = random.Random(seed)  # noqa: S311 - a race, no secret
        self.slots = slots
        self.root_fd = os.open(directory, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        self.proc_fd = os.open("/proc/self/fd", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        self.tree = VolumeTree(
            root_fd=self.root_fd,
            proc_fd_dir=self.proc_fd,
            view=SquashView(SESSION, SESSION),
            keep_sgid=_as_is,
            max_handles=256,
        )
        self.known: deque[tuple[int, str]] = deque()
        self.handles: deque[tuple[int, int]] = deque()
        self.chosen: list[str] = []

    def close(self) -> None:
        """Close everything."""
        self.tree.close()
        os.close(self.root_fd)
        os.close(self.proc_fd)

    def learn(self, entry: Entry) -> None:
        """The kernel now knows this node; it forgets the oldest one."""
        self.known.append((entry.node.id, kind_of(entry.stat.st_mode)))
        if len(self.known) > 400:
            self.tree.forget(self.known.popleft()[0], 1)

    def any_known(self) -> tuple[int, str]:
        """A node's id and kind, every second time one that was looked up just now. Some must be known."""
        newest = min(len(self.known), self.random.choice((8, len(self.known))))
        return self.known[-1 - self.random.randrange(newest)]

    def node(self) -> int:
        """Some node, of whatever kind."""
        if not self.known:
            return ROOT_ID
        node, kind = self.any_known()
        self.chosen.append(kind)
        return node

    def directory(self) -> int:
        """The root, or a node that was a directory when it was looked up."""
        for _ in range(8):
            if self.known:
                node, kind = self.any_known()
                if kind == "directory":
                    self.chosen.append(kind)
                    return node
        return ROOT_ID

    def name_in(self, parent: int) -> bytes:
        """A name that `parent` may have."""
        if parent != ROOT_ID:
            return self.random.choice((b"leaf", b"sub", b"new"))
        return b"s%03d" % self.random.randrange(self.random.choice((FLICKERING, 8, self.slots, self.slots)))

    def keep(self, handle: int, node: int) -> None:
        """Keep a handle for later operations, and release an old one."""
        self.handles.append((handle, node))
        if len(self.handles) > 32:
            self.tree.release(self.handles.popleft()[0])


def _lookup(v: TreeVisitor) -> Seen:
    parent = v.directory() if v.random.random() < 0.5 else ROOT_ID
    v.learn(v.tree.lookup(parent, v.name_in(parent)))
    return None


def _getattr(v: TreeVisitor) -> Seen:
    entry = v.tree.getattr(v.node())
    assert stat.S_ISREG(entry.mode) or stat.S_ISDIR(entry.mode) or stat.S_ISLNK(entry.mode) or entry.mode & 0o7777 == 0
    return None


def _readlink(v: TreeVisitor) -> Seen:
    return (v.tree.readlink(v.node()),)


def _statfs(v: TreeVisitor) -> Seen:
    v.tree.statfs()
    return None


def _chmod(v: TreeVisitor) -> Seen:
    v.tree.setattr(v.node(), mode=v.random.choice((0o777, 0o4777, 0o1777)))
    return None


def _chown(v: TreeVisitor) -> Seen:
    v.tree.setattr(v.node(), uid=SESSION, gid=SESSION)
    return None


def _truncate(v: TreeVisitor) -> Seen:
    v.tree.setattr(v.node(), size=v.random.choice((0, 7, 7000)))
    return None


def _utimens(v: TreeVisitor) -> Seen:
    v.tree.setattr(v.node(), atime_ns=1, mtime_ns=1)
    return None


def _by_handle(v: TreeVisitor) -> Seen:
    if v.handles:
        handle, node = v.random.choice(v.handles)
        v.tree.setattr(node, handle=handle, size=3, mode=0o666, mtime_ns=5)
    return None


def _mkdir(v: TreeVisitor) -> Seen:
    parent = v.directory()
    v.learn(v.tree.mkdir(parent, v.name_in(parent), 0o777))
    return None


def _symlink(v: TreeVisitor) -> Seen:
    parent = v.directory()
    v.learn(v.tree.symlink(parent, v.name_in(parent), b"../beside"))
    return None


def _mknod(v: TreeVisitor) -> Seen:
    parent = v.directory()
    v.learn(v.tree.mknod(parent, v.name_in(parent), 0o666))
    return None


def _link(v: TreeVisitor) -> Seen:
    parent = v.directory()
    v.learn(v.tree.link(v.node(), parent, v.name_in(parent)))
    return None


def _unlink(v: TreeVisitor) -> Seen:
    parent = v.directory()
    v.tree.unlink(parent, v.name_in(parent))
    return None


def _rmdir(v: TreeVisitor) -> Seen:
    parent = v.directory()
    v.tree.rmdir(parent, v.name_in(parent))
    return None


def _rename(flags: int) -> Callable[[TreeVisitor], Seen]:
    def act(v: TreeVisitor) -> Seen:
        old, new = v.directory(), v.directory()
        v.tree.rename(old, v.name_in(old), new, v.name_in(new), flags)
        return None

    return act


def _open(flags: int) -> Callable[[TreeVisitor], Seen]:
    def act(v: TreeVisitor) -> Seen:
        node = v.node()
        handle = v.tree.open(node, flags)
        v.keep(handle, node)
        seen = []
        if flags & os.O_ACCMODE != os.O_WRONLY:
            seen.append(v.tree.read(handle, 0, 4096))
        if flags & os.O_ACCMODE != os.O_RDONLY:
            v.tree.write(handle, 3, WRITTEN)
        return seen

    return act


def _create(flags: int) -> Callable[[TreeVisitor], Seen]:
    def act(v: TreeVisitor) -> Seen:
        parent = v.directory()
        handle, entry = v.tree.create(parent, v.name_in(parent), 0o666, flags | os.O_CREAT)
        v.learn(entry)
        v.keep(handle, entry.node.id)
        v.tree.write(handle, 0, WRITTEN)
        return (v.tree.read(handle, 0, 4096),)

    return act


def _use_handle(v: TreeVisitor) -> Seen:
    if not v.handles:
        return None
    handle, _node = v.random.choice(v.handles)
    v.tree.flush(handle)
    v.tree.fsync(handle, v.random.random() < 0.5)
    return (v.tree.read(handle, 0, 4096),)


def _list(v: TreeVisitor) -> Seen:
    handle = v.tree.opendir(v.directory())
    seen = []

    def show(name: bytes, entry: Entry, _offset: int) -> bool:
        seen.append(name)
        # One more is about to count for this look-up, when this returns.
        v.known.append((entry.node.id, kind_of(entry.stat.st_mode)))
        return len(seen) < 50

    try:
        v.tree.readdir(handle, 0, show)
    finally:
        v.tree.release(handle)
    while len(v.known) > 400:
        v.tree.forget(v.known.popleft()[0], 1)
    return seen


OPERATIONS: dict[str, Callable[[TreeVisitor], Seen]] = {
    "lookup": _lookup,
    "getattr": _getattr,
    "readlink": _readlink,
    "statfs": _statfs,
    "chmod": _chmod,
    "chown": _chown,
    "truncate": _truncate,
    "utimens": _utimens,
    "setattr by handle": _by_handle,
    "mkdir": _mkdir,
    "symlink": _symlink,
    "mknod": _mknod,
    "link": _link,
    "unlink": _unlink,
    "rmdir": _rmdir,
    "rename": _rename(0),
    "rename, NOREPLACE": _rename(files.RENAME_NOREPLACE),
    "rename, EXCHANGE": _rename(files.RENAME_EXCHANGE),
    "open O_RDONLY": _open(os.O_RDONLY),
    "open O_RDWR": _open(os.O_RDWR),
    "open O_WRONLY|O_TRUNC": _open(os.O_WRONLY | os.O_TRUNC),
    "open O_RDWR|O_APPEND": _open(os.O_RDWR | os.O_APPEND),
    "create": _create(os.O_RDWR),
    "create O_EXCL": _create(os.O_RDWR | os.O_EXCL),
    "create O_TRUNC": _create(os.O_RDWR | os.O_TRUNC),
    "flush, fsync, read of a handle": _use_handle,
    "opendir and readdir": _list,
}


def _checked_name(v: TreeVisitor, kind: int) -> bytes:
    """The name of a node in the root that is of type `kind` at this moment. Raises OSError."""
    entry = v.tree.getattr(v.node())
    if entry.node.parent != ROOT_ID or entry.node.name is None or stat.S_IFMT(entry.stat.st_mode) != kind:
        raise FileNotFoundError(2, "another kind")
    return entry.node.name


def _careless_chmod(v: TreeVisitor) -> Seen:
    os.chmod(_checked_name(v, stat.S_IFREG), 0o600, dir_fd=v.root_fd)
    return None


def _careless_read(v: TreeVisitor) -> Seen:
    fd = os.open(_checked_name(v, stat.S_IFREG), os.O_RDONLY | os.O_NONBLOCK, dir_fd=v.root_fd)
    try:
        return (os.read(fd, 4096),)
    finally:
        os.close(fd)


def _careless_list(v: TreeVisitor) -> Seen:
    fd = os.open(_checked_name(v, stat.S_IFDIR), os.O_RDONLY | os.O_DIRECTORY, dir_fd=v.root_fd)
    try:
        return [os.fsencode(name) for name in os.listdir(fd)]
    finally:
        os.close(fd)


CARELESS: dict[str, Callable[[TreeVisitor], Seen]] = {
    "chmod": _careless_chmod,
    "read": _careless_read,
    "list": _careless_list,
}
"""What a tree would do that looks a node up with all care, and then uses its name once more: one mistake, each in one
operation only, as others have made it."""


def drive(directory: Path, slots: int, word: bytes, number: int, progress: Progress, until: float, most: int,
          mistake: str | None = None) -> Met:  # fmt: skip
    """Do them in random order. Counted as met is what a node was when it was looked up.

    With `mistake`, one of CARELESS, do nothing but look-ups and that.
    """
    visitor = TreeVisitor(directory, number + 1000, slots)
    recorder = Recorder(word, progress)
    operations = OPERATIONS if mistake is None else {"lookup": _lookup, mistake: CARELESS[mistake]}
    names = list(operations)
    try:
        while recorder.met.operations < most and time.monotonic() < until:
            name = visitor.random.choice(names)
            # More than every second operation is a look-up, or there would soon be nothing to work on.
            if visitor.random.random() < 0.4:
                name = "lookup"
            visitor.chosen.clear()
            if not recorder.do(name, lambda name=name: operations[name](visitor), None):  # type: ignore[misc]
                break
            for kind in visitor.chosen:
                recorder.met.leaves[name, kind] += 1
    finally:
        visitor.close()
    return recorder.met
