"""Reading public keys from a volume whose root is a .ssh directory: authorized_keys and *.pub, bounded in every way.

The container makes of that directory what it likes while it is read. Only regular files are opened, after a look at
what they are; none is waited for. Of what may be written by others than the directory's owner and root nothing is
taken, as sshd does with StrictModes (misc.c, safe_path): another program in the container, with fewer rights than the
owner's, must not let itself in.

Errors are OSError, of the directory only; a file that cannot be read is passed over. Concurrency: one task.
"""

from __future__ import annotations

import errno
import hashlib
import os
import stat
import time
from typing import Final, NamedTuple

from hatchway.kernel import files
from hatchway.volumefs.fault import failure
from hatchway.volumefs.making import O_OPEN
from hatchway.volumefs.names import component
from hatchway.wire.host import KeyFile, KeyFiles, Skip, Skipped

AUTHORIZED_KEYS: Final = b"authorized_keys"

FILE_MAX: Final = 64 * 1024
"""Bytes of one file."""

TOTAL_MAX: Final = 256 * 1024
"""Bytes of all files together."""

PUB_MAX: Final = 50
"""*.pub that are read, the first ones by name."""

ENTRIES_MAX: Final = 10_000
"""Names in the directory. If there are more, it is chance which of them are seen, so no *.pub is taken at all."""

SKIPPED_MAX: Final = 64
"""Files passed over that are named."""

SETTLED_S: Final = 2.0
"""How long a file must have been the same for its times to show each further change: a file system keeps them in steps,
of up to two seconds (vfat)."""

_ROUNDS = 3
"""How often all is read, while something changes meanwhile."""

_OTHERS_WRITE = stat.S_IWGRP | stat.S_IWOTH
_O_LOOK = os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC


class _Look(NamedTuple):
    """What a file is and which state it is in; two that are equal and SETTLED_S old have the same contents."""

    device: int
    inode: int
    mode: int
    owner: int
    size: int
    mtime_ns: int
    ctime_ns: int


class _State(NamedTuple):
    """All that decides what is read. `looks` are of the files that may be, in order; None for one that is not there.

    `owner` is the directory's. `too_many` are further *.pub. `writable`, `crowded`: see Skip.
    """

    owner: int
    writable: bool
    crowded: bool
    looks: tuple[tuple[bytes, _Look | None], ...]
    too_many: tuple[bytes, ...]

    def token(self) -> bytes:
        """What it goes by later."""
        return hashlib.sha256(repr(self).encode()).digest()

    def settled(self, now_ns: int) -> bool:
        """Whether each further change of a file will show. `now_ns` is in Unix time."""
        latest_ns = max((look.ctime_ns for _, look in self.looks if look is not None), default=0)
        return latest_ns < now_ns - SETTLED_S * 1e9


def read_keys(root_fd: int, proc_fd_dir: int, token: bytes) -> KeyFiles:
    """What is in the directory `root_fd` (O_PATH will do), or only that it is what `token` stands for.

    `proc_fd_dir` as of `files.reopen`. Raises OSError.
    """
    directory = os.open(b".", os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=root_fd)
    try:
        now_ns, state = time.time_ns(), _look_at(directory)
        if token and token == state.token():
            return KeyFiles(token=token, unchanged=True)
        for _ in range(_ROUNDS):
            reading = _Reading(directory, proc_fd_dir, state)
            now_ns, before, state = time.time_ns(), state, _look_at(directory)
            if state == before and not reading.changing:
                return reading.result(state.token() if state.settled(now_ns) else b"")
        return reading.result(b"")
    finally:
        os.close(directory)


def _look_at(directory: int) -> _State:
    st = os.fstat(directory)
    if st.st_mode & _OTHERS_WRITE:
        return _State(st.st_uid, True, False, (), ())
    names = _pubs(directory)
    pubs = names or []
    looks = tuple((name, _look(name, directory)) for name in (AUTHORIZED_KEYS, *pubs[:PUB_MAX]))
    return _State(st.st_uid, False, names is None, looks, tuple(pubs[PUB_MAX:]))


def _pubs(directory: int) -> list[bytes] | None:
    """Names of *.pub, sorted; None when there is too much to look through."""
    os.lseek(directory, 0, os.SEEK_SET)
    reader = files.DirectoryReader(directory)
    names: list[bytes] = []
    for _ in range(ENTRIES_MAX + 1):
        if (entry := reader.read()) is None:
            return sorted(names)
        # As a shell's *.pub, which means no hidden file.
        if entry.name.endswith(b".pub") and not entry.name.startswith(b"."):
            names.append(entry.name)
    return None


def _look(name: bytes, directory: int) -> _Look | None:
    try:
        return _look_of(os.stat(component(name), dir_fd=directory, follow_symlinks=False))
    except OSError:
        return None


def _look_of(st: os.stat_result) -> _Look:
    return _Look(st.st_dev, st.st_ino, st.st_mode, st.st_uid, st.st_size, st.st_mtime_ns, st.st_ctime_ns)


class _Reading:
    """One reading of what `state` says is there."""

    def __init__(self, directory: int, proc_fd_dir: int, state: _State) -> None:
        self.changing = False
        """Whether something did not stay the same meanwhile, or may be read in a moment."""
        self._directory = directory
        self._proc_fd_dir = proc_fd_dir
        self._files: list[KeyFile] = []
        self._skipped: list[Skipped] = []
        self._owners = (0, state.owner)
        self._left = TOTAL_MAX
        if state.writable:
            self._skipped.append(Skipped(b"", Skip.WRITABLE))
        if state.crowded:
            self._skipped.append(Skipped(b"", Skip.CROWDED))
        for name, look in state.looks:
            if look is not None:
                self._take(name, look)
        self._skipped += [Skipped(name, Skip.MANY) for name in state.too_many]

    def result(self, token: bytes) -> KeyFiles:
        """What was read, with `token`."""
        named, more = self._skipped[:SKIPPED_MAX], max(0, len(self._skipped) - SKIPPED_MAX)
        return KeyFiles(token, False, tuple(self._files), tuple(named), more)

    def _take(self, name: bytes, look: _Look) -> None:
        reason = self._objection(look)
        if reason is None:
            try:
                found = self._read(name, look)
            except BlockingIOError:
                reason = Skip.BUSY
            except OSError as exc:
                reason = Skip.CHANGING if exc.errno in (errno.ENOENT, errno.ESTALE) else Skip.FAILED
            else:
                self._files.append(KeyFile(name, found))
                self._left -= len(found)
                return
        if reason in (Skip.BUSY, Skip.CHANGING, Skip.FAILED):
            self.changing = True
        self._skipped.append(Skipped(name, reason))

    def _objection(self, look: _Look) -> Skip | None:
        if stat.S_ISLNK(look.mode):
            return Skip.SYMLINK
        if not stat.S_ISREG(look.mode):
            return Skip.KIND
        if look.mode & _OTHERS_WRITE:
            return Skip.WRITABLE
        if look.owner not in self._owners:
            return Skip.OWNER
        if look.size > FILE_MAX:
            return Skip.SIZE
        return Skip.TOGETHER if look.size > self._left else None

    def _read(self, name: bytes, look: _Look) -> bytes:
        """The contents. Raises OSError, ESTALE when the file is not, or does not stay, as `look` says."""
        path = os.open(name, _O_LOOK, dir_fd=self._directory)
        try:
            # Before it is opened: opening alone would wake whoever waits at a FIFO.
            if _look_of(os.fstat(path)) != look:
                raise failure(errno.ESTALE)
            fd = files.reopen(self._proc_fd_dir, path, os.O_RDONLY | O_OPEN)
        finally:
            os.close(path)
        try:
            data = read_all(fd, look.size)
            if _look_of(os.fstat(fd)) != look or len(data) != look.size:
                raise failure(errno.ESTALE)
            return data
        finally:
            os.close(fd)


def read_all(fd: int, most: int) -> bytes:
    """The contents of the file `fd`, open for reading; one byte more than `most` when it is longer. Raises OSError."""
    data = bytearray()
    while len(data) <= most:
        piece = os.read(fd, most + 1 - len(data))
        if not piece:
            break
        data += piece
    return bytes(data)
