"""A volume's tree over a plain directory, driven by paths. No FUSE, no mount, no privileges."""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from collections.abc import Callable, Iterator
from pathlib import Path

from hatchway.volumefs.nodes import ROOT_ID
from hatchway.volumefs.ownership import SquashView, View
from hatchway.volumefs.tree import KEPT_DIRECTORIES, Entry, VolumeTree

SHOWN_UID = 1_900_100_007
SHOWN_GID = 1_900_100_008


class Volume:
    """`tree` shows the directory `backing`. Paths are relative to it, in bytes, and looked up name by name."""

    def __init__(
        self,
        backing: Path,
        *,
        keep_sgid: Callable[[], contextlib.AbstractContextManager[None]] = contextlib.nullcontext,
        places: tuple[bytes, ...] = (),
        view: View | None = None,
    ) -> None:
        self.backing = backing
        self._root_fd = os.open(backing, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        self._proc_fd = os.open("/proc/self/fd", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        self.tree = VolumeTree(
            root_fd=self._root_fd,
            proc_fd_dir=self._proc_fd,
            view=SquashView(SHOWN_UID, SHOWN_GID) if view is None else view,
            keep_sgid=keep_sgid,
            max_handles=100,
            places=places,
        )

    def close(self) -> None:
        self.tree.close()
        os.close(self._root_fd)
        os.close(self._proc_fd)

    def disk(self, path: bytes) -> bytes:
        """Where `path` is on disk."""
        return os.path.join(os.fsencode(self.backing), path)

    def entry(self, path: bytes) -> Entry:
        """Look `path` up, as the kernel does."""
        if not path:
            return self.tree.getattr(ROOT_ID)
        parent, name = self.place(path)
        return self.tree.lookup(parent, name)

    def id(self, path: bytes) -> int:
        """The node id of `path`."""
        return self.entry(path).node.id if path else ROOT_ID

    def place(self, path: bytes) -> tuple[int, bytes]:
        """The node id of the directory `path` is in, and its name there."""
        directory, _, name = path.rpartition(b"/")
        return self.id(directory), name

    def create(self, path: bytes, *, mode: int = 0o644, flags: int = os.O_RDWR) -> tuple[int, Entry]:
        """Create `path`; a handle's number and what it is of."""
        return self.tree.create(*self.place(path), mode, flags | os.O_CREAT)

    def put(self, path: bytes, data: bytes = b"", *, mode: int = 0o644) -> None:
        """Write a file as a client does."""
        handle, _entry = self.create(path, mode=mode, flags=os.O_WRONLY | os.O_TRUNC)
        if data:
            assert self.tree.write(handle, 0, data) == len(data)
        self.tree.release(handle)

    def get(self, path: bytes) -> bytes:
        """Read a file as a client does."""
        handle = self.tree.open(self.id(path), os.O_RDONLY)
        try:
            return self.tree.read(handle, 0, 1 << 20)
        finally:
            self.tree.release(handle)

    def listing(self, path: bytes = b"", *, at_once: int = 7) -> dict[bytes, Entry]:
        """List a directory as the kernel does, `at_once` entries a call."""
        handle = self.tree.opendir(self.id(path))
        found: dict[bytes, Entry] = {}
        offset = 0
        try:
            while True:
                batch: list[tuple[bytes, Entry, int]] = []

                def show(name: bytes, entry: Entry, after: int, batch: list[tuple[bytes, Entry, int]] = batch) -> bool:
                    if len(batch) == at_once:
                        return False
                    batch.append((name, entry, after))
                    return True

                self.tree.readdir(handle, offset, show)
                if not batch:
                    return found
                for name, entry, offset in batch:  # noqa: B007 - the last offset is where the next call goes on
                    assert name not in found
                    found[name] = entry
        finally:
            self.tree.release(handle)

    def let_go(self) -> None:
        """Make the tree give up the descriptors of the directories it has used so far."""
        top = self.tree.mkdir(ROOT_ID, b"other", 0o755).node.id
        for number in range(KEPT_DIRECTORIES):
            node = self.tree.mkdir(top, b"%d" % number, 0o755).node
            with contextlib.suppress(FileNotFoundError):
                self.tree.lookup(node.id, b"nothing")


class Canary:
    """A directory outside the volume that nothing may touch: with a file, a directory and a FIFO in it."""

    def __init__(self, where: Path) -> None:
        self.path = where
        where.mkdir()
        (where / "file").write_bytes(b"canary")
        (where / "file").chmod(0o640)
        (where / "dir").mkdir(mode=0o750)
        (where / "dir" / "file").write_bytes(b"canary below")
        os.mkfifo(where / "fifo", 0o600)
        for path in self._all():
            os.utime(path, ns=(1_000_000_000, 2_000_000_000))
        self._before = self._state()

    def _all(self) -> Iterator[Path]:
        yield self.path
        yield from sorted(self.path.rglob("*"))

    def _state(self) -> list[tuple[object, ...]]:
        found: list[tuple[object, ...]] = []
        for path in self._all():
            st = path.lstat()
            # Reading it for this comparison would move the access time, so contents are compared by size and mtime.
            fields = (st.st_mode, st.st_uid, st.st_gid, st.st_size, st.st_nlink, st.st_atime_ns, st.st_mtime_ns)
            found.append((str(path), *fields, st.st_ctime_ns))
        return found

    def assert_untouched(self) -> None:
        """Not read, written, listed, created beside, linked, or changed in any attribute."""
        now = self._state()
        # Our own walk lists the directories, which may move their access time.
        ignore = {str(path) for path in self._all() if path.is_dir()}
        for was, is_now in zip(self._before, now, strict=True):
            if was[0] in ignore:
                assert was[:6] == is_now[:6]
                assert was[7:] == is_now[7:]
            else:
                assert was == is_now


@contextlib.contextmanager
def refused(*numbers: int) -> Iterator[None]:
    """The block fails with an OSError of one of `numbers`."""
    try:
        yield
    except OSError as exc:
        wanted = [errno.errorcode[number] for number in numbers]
        assert exc.errno in numbers, f"{errno.errorcode.get(exc.errno or 0)} instead of {wanted}"
    else:
        raise AssertionError(f"no {[errno.errorcode[number] for number in numbers]}")


def bits(entry: Entry) -> int:
    """The permission bits a session sees."""
    return stat.S_IMODE(entry.mode)
