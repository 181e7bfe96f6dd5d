"""A volume's account: how much is in it, and how much may be, in memory shared by everybody who changes it.

hostd makes one for each volume; each worker of the volume maps it. What is added is entered before it is done, and
what is taken away after that, so what is entered is never less than what sessions have made of the volume. The
container is not asked: what it writes is found when the volume is counted (see `counter`).

While the volume is counted, what is added is noted per file as well, so that neither what the count has seen nor what
it has not is taken for the other. What is taken away meanwhile may stay entered until the next count.

Locks are record locks on the memory's own descriptor (fcntl(2)), so the kernel gives up those of a worker that dies,
and they are never waited for: BlockingIOError when somebody else has one for longer than a moment, before anything is
changed. There are three kinds:
- one for the figures, held for some microseconds;
- one for each file, by its key, that somebody is changing: two sessions that change one file's size take turns;
- one for each file that somebody has open, shared: what is removed while it is open is there until it is closed.

A worker could write nonsense here, or keep a lock: that harms the other sessions of its own volume, and them only.
Concurrency: one thread of a process has a Ledger.
"""

from __future__ import annotations

import errno
import fcntl
import mmap
import os
import struct
import time
from typing import Final, NamedTuple

from hatchway.volumefs.fault import failure

BLOCK: Final = 4096
"""Bytes in whole units of which files count."""

GROWN_MAX: Final = 8192
"""Files of which it can be noted during one count that they have grown; beyond that, what is added may count twice."""

_PROBES = 32

# Words of 64 bits.
(
    _LIMIT_BLOCKS,  # 0: none
    _LIMIT_FILES,  # 0: none
    _KNOWN,  # whether it was ever counted
    _BLOCKS,
    _FILES,
    _COUNTED_AT,  # Unix seconds
    _COUNTING,  # whether it is being counted
    _ADDED_BLOCKS,  # since the count began
    _ADDED_FILES,
    _REMOVED,  # blocks and files taken away since the count began
    _GROWN_SERIAL,  # changes with every note of a file that has grown
) = range(11)
_HEAD = 512
_ENTRY = 3  # key, blocks, files
_WORDS = _HEAD + GROWN_MAX * _ENTRY
_BYTES = _WORDS * 8
_MASK = (1 << 64) - 1

# Where the locks lie: offsets of the memory, far beyond its end, which fcntl allows.
_FIGURES = 0
_OPEN = 1 << 61
_CHANGING = 1 << 62
_KEYS = (1 << 61) - 1

_TRIES, _PAUSE_S = 40, 0.0001
"""A lock that is taken is tried again so often, with such pauses."""

_F_ADD_SEALS, _F_SEALS = 1033, 0x1 | 0x2 | 0x4  # F_SEAL_SEAL, _SHRINK, _GROW (fcntl(2))
_FLOCK = struct.Struct("=hhiqqii")  # struct flock of 64-bit Linux


class Figures(NamedTuple):
    """What is in a volume, and what may be; 0 for no limit. In blocks of BLOCK bytes, and files.

    `known`: it was counted at least once, last at `counted_at` (Unix seconds).
    """

    limit_blocks: int
    limit_files: int
    known: bool
    blocks: int
    files: int
    counted_at: int


def blocks_of(size: int) -> int:
    """What a regular file of `size` bytes counts, in blocks: holes as well."""
    return -(-size // BLOCK)


def key_of(device: int, inode: int) -> int:
    """The number a file goes by here; `device` and `inode` as in stat(2)."""
    return (inode ^ device << 40) & _KEYS or 1


class Ledger:
    """One account, by the descriptor of its memory, which it owns."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._map = mmap.mmap(fd, _BYTES)
        self._bytes = memoryview(self._map)
        self._words = self._bytes.cast("Q")

    @classmethod
    def make(cls) -> Ledger:
        """A new one: nothing counted, no limits. Its memory can be neither shrunk nor grown. Raises OSError."""
        fd = os.memfd_create("hatchway-ledger", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        try:
            os.ftruncate(fd, _BYTES)
            fcntl.fcntl(fd, _F_ADD_SEALS, _F_SEALS)
            return cls(fd)
        except BaseException:
            os.close(fd)
            raise

    def fileno(self) -> int:
        """Its descriptor."""
        return self._fd

    def close(self) -> None:
        """Let go of the memory, and of all locks of this process on it."""
        self._words.release()
        self._bytes.release()
        self._map.close()
        os.close(self._fd)

    # Figures

    @property
    def limited(self) -> bool:
        """Whether there is any limit."""
        return bool(self._words[_LIMIT_BLOCKS] or self._words[_LIMIT_FILES])

    @property
    def known(self) -> bool:
        """Whether it was ever counted."""
        return bool(self._words[_KNOWN])

    def figures(self) -> Figures:
        """All of them, as they are now."""
        words = self._words
        return Figures(
            words[_LIMIT_BLOCKS], words[_LIMIT_FILES], bool(words[_KNOWN]), words[_BLOCKS], words[_FILES],
            words[_COUNTED_AT],
        )  # fmt: skip

    def limit(self, blocks: int, files: int) -> None:
        """These are the limits from now on; 0 for none."""
        self._words[_LIMIT_BLOCKS], self._words[_LIMIT_FILES] = blocks, files

    def suppose(self, blocks: int, files: int, counted_at: int) -> None:
        """This was counted last, before there was this account. Of no effect when something was counted since."""
        words = self._words
        if not words[_KNOWN]:
            words[_BLOCKS], words[_FILES], words[_COUNTED_AT] = blocks, files, counted_at
            words[_KNOWN] = 1

    # Locks

    def take_figures(self) -> None:
        """Have the figures for oneself. Raises BlockingIOError."""
        for _ in range(_TRIES):
            if self._lock(fcntl.F_WRLCK, _FIGURES, 1):
                return
            time.sleep(_PAUSE_S)
        raise failure(errno.EAGAIN)

    def give_figures(self) -> None:
        """Let others have the figures."""
        self._lock(fcntl.F_UNLCK, _FIGURES, 1)

    def take(self, key: int) -> None:
        """Have the figures, and be the only one who changes the file `key`. Raises BlockingIOError."""
        for _ in range(_TRIES):
            self.take_figures()
            if self._lock(fcntl.F_WRLCK, _CHANGING + key, 1):
                return
            self.give_figures()
            time.sleep(_PAUSE_S)
        raise failure(errno.EAGAIN)

    def give(self, key: int) -> None:
        """The file `key` is not being changed any more."""
        self._lock(fcntl.F_UNLCK, _CHANGING + key, 1)

    def changing(self, key: int) -> bool:
        """Whether another process is changing the file `key`."""
        asked = _FLOCK.pack(fcntl.F_WRLCK, os.SEEK_SET, 0, _CHANGING + key, 1, 0, 0)
        kind, *_ = _FLOCK.unpack(fcntl.fcntl(self._fd, fcntl.F_GETLK, asked))
        return bool(kind != fcntl.F_UNLCK)

    def opened(self, key: int) -> None:
        """This process has the file `key` open."""
        for _ in range(_TRIES):
            # Somebody may just be asking whether it is open.
            if self._lock(fcntl.F_RDLCK, _OPEN + key, 1):
                return
            time.sleep(_PAUSE_S)

    def closed(self, key: int) -> None:
        """It has it open no longer."""
        self._lock(fcntl.F_UNLCK, _OPEN + key, 1)

    def open_elsewhere(self, key: int) -> bool:
        """Whether another process has the file `key` open. This one's own note of it is gone afterwards."""
        alone = self._lock(fcntl.F_WRLCK, _OPEN + key, 1)
        self._lock(fcntl.F_UNLCK, _OPEN + key, 1)
        return not alone

    def _lock(self, kind: int, start: int, length: int) -> bool:
        """Whether a lock could be had or, with F_UNLCK, was given up."""
        # Not fcntl.lockf, which unlocks with F_SETLKW; a worker may call nothing that waits.
        wanted = _FLOCK.pack(kind, os.SEEK_SET, 0, start, length, 0, 0)
        try:
            fcntl.fcntl(self._fd, fcntl.F_SETLK, wanted)
        except BlockingIOError:
            return False
        return True

    # Entries, for whoever has the figures

    def room(self) -> int:
        """Blocks that may be added, as many as there are numbers for without a limit."""
        limit = self._words[_LIMIT_BLOCKS]
        return max(0, limit - self._words[_BLOCKS]) if limit else _MASK >> 1

    def files_room(self) -> int:
        """Files that may be added."""
        limit = self._words[_LIMIT_FILES]
        return max(0, limit - self._words[_FILES]) if limit else _MASK >> 1

    def add(self, key: int, blocks: int, files: int = 0) -> None:
        """Enter that so many blocks and files are added to the file `key`; 0 while the file is not there yet."""
        words = self._words
        words[_BLOCKS] = words[_BLOCKS] + blocks & _MASK
        words[_FILES] = words[_FILES] + files & _MASK
        if words[_COUNTING]:
            words[_ADDED_BLOCKS] = words[_ADDED_BLOCKS] + blocks & _MASK
            words[_ADDED_FILES] = words[_ADDED_FILES] + files & _MASK
            if key:
                self._grown(key, blocks, files)

    def added(self, key: int, files: int) -> None:
        """What was entered as `files` without a key is the file `key`."""
        if self._words[_COUNTING]:
            self._grown(key, 0, files)

    def undo(self, key: int, blocks: int, files: int = 0) -> None:
        """What was entered has not been done."""
        words = self._words
        words[_BLOCKS] = max(0, words[_BLOCKS] - blocks)
        words[_FILES] = max(0, words[_FILES] - files)
        if words[_COUNTING]:
            words[_ADDED_BLOCKS] = max(0, words[_ADDED_BLOCKS] - blocks)
            words[_ADDED_FILES] = max(0, words[_ADDED_FILES] - files)
            if key:
                self._grown(key, -blocks, -files)

    def remove(self, blocks: int, files: int = 0) -> None:
        """Enter that so many are gone."""
        words = self._words
        words[_BLOCKS] = max(0, words[_BLOCKS] - blocks)
        words[_FILES] = max(0, words[_FILES] - files)
        if words[_COUNTING]:
            words[_REMOVED] = words[_REMOVED] + blocks + files & _MASK

    def _grown(self, key: int, blocks: int, files: int) -> None:
        words = self._words
        at = self._find(key)
        if at < 0:
            return
        words[at] = key
        words[at + 1] = words[at + 1] + blocks & _MASK
        words[at + 2] = words[at + 2] + files & _MASK
        words[_GROWN_SERIAL] = words[_GROWN_SERIAL] + 1 & _MASK

    def _find(self, key: int) -> int:
        """Where the note of `key` is, or is to be; -1 when there is no room."""
        words = self._words
        for probe in range(_PROBES):
            at = _HEAD + (key + probe) % GROWN_MAX * _ENTRY
            if words[at] in (key, 0):
                return at
        return -1

    # Counting

    def begin(self) -> None:
        """A count begins. Raises BlockingIOError when somebody is in the middle of a change for too long."""
        self.take_figures()
        try:
            # What was entered before and is done after the count has looked would be in neither.
            if not self._lock(fcntl.F_WRLCK, _CHANGING, _KEYS):
                raise failure(errno.EAGAIN)
            self._lock(fcntl.F_UNLCK, _CHANGING, _KEYS)
            words = self._words
            words[_ADDED_BLOCKS] = words[_ADDED_FILES] = words[_REMOVED] = 0
            self._bytes[_HEAD * 8 :] = bytes(_BYTES - _HEAD * 8)
            words[_GROWN_SERIAL] = words[_GROWN_SERIAL] + 1 & _MASK
            words[_COUNTING] = 1
        finally:
            self.give_figures()

    def abandon(self) -> None:
        """The count has failed."""
        self._words[_COUNTING] = 0

    def finish(self, blocks: int, files: int, now: int, *, least: bool) -> bool:
        """The count has found so much, without what has grown since it began; `now` is in Unix seconds.

        `least`: there is more than it could count. Whether that is exact: nothing was removed meanwhile. Raises
        BlockingIOError.
        """
        self.take_figures()
        try:
            words = self._words
            found_blocks, found_files = blocks + words[_ADDED_BLOCKS], files + words[_ADDED_FILES]
            if least:
                found_blocks, found_files = max(found_blocks, words[_BLOCKS]), max(found_files, words[_FILES])
            words[_BLOCKS], words[_FILES] = found_blocks & _MASK, found_files & _MASK
            words[_COUNTED_AT], words[_KNOWN], words[_COUNTING] = now, 1, 0
            return words[_REMOVED] == 0
        finally:
            self.give_figures()

    @property
    def grown_serial(self) -> int:
        """Changes whenever a file has grown while the volume is counted."""
        return self._words[_GROWN_SERIAL]

    def grown(self, key: int) -> tuple[int, int] | None:
        """By how many blocks and files the file `key` has grown since the count began, None for nothing noted."""
        at = self._find(key)
        if at < 0 or self._words[at] != key:
            return None
        blocks, files = self._words[at + 1], self._words[at + 2]
        return blocks - (blocks >> 63 << 64), files - (files >> 63 << 64)
