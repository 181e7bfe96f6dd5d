"""A volume's account: how much is in it, and how much may be, in memory shared by everybody who changes it.

hostd makes one for each volume; each worker of the volume maps it. What is added is entered before it is done, and
what is taken away after that, so what is entered is never less than what sessions have made of the volume. The
container is not asked: what it writes is found when the volume is counted (see `counter`).

While the volume is counted, what is added is noted per file as well, so that neither what the count has seen nor what
it has not is taken for the other. Where that cannot be told, since something was removed or moved meanwhile, what is
entered may be too much until the next count, and never too little.

A file that is removed while somebody has it open is an orphan: it keeps its room until it is closed, and no count finds
it, so the ledger has a list of them.

Locks are record locks on the memory's own descriptor (fcntl(2)), so the kernel gives up those of a worker that dies,
and they are never waited for: BlockingIOError when somebody else has one for longer than a moment, before anything is
changed. There are three kinds:
- one for the figures, held for some microseconds;
- one for each file, by its key, that somebody is changing: two sessions that change one file's size take turns;
- one for each file that somebody has open, shared.

A worker could write nonsense here, or keep a lock: that harms the other sessions of its own volume, and them only.
Concurrency: one thread of a process has a Ledger.
"""

from __future__ import annotations

import errno
import fcntl
import mmap
import os
import stat
import struct
import time
from typing import Final, NamedTuple

from hatchway.volumefs.fault import failure

BLOCK: Final = 4096
"""Bytes in whole units of which files count."""

GROWN_MAX: Final = 8192
"""Files of which it can be noted during one count that they have grown; beyond that, what is added may count twice."""

ORPHANS_MAX: Final = 8192
"""Orphans that are known at once: one more keeps its room until the next count, and no longer."""

SUM_MAX: Final = 1 << 50
"""More than there can be, of blocks and of files."""

_PROBES = 32
_SPREAD = 0x9E3779B97F4A7C15
"""2^64 by the golden ratio: inode numbers come in runs, and the same in each group of a file system."""

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
    _REMOVED,  # changes since the count began that it cannot be held against: something is gone, or was not noted
    _MOVED,  # names that were given since the count began to what had another
    _GROWN_SERIAL,  # notes of files that have grown since the count began
    _COUNTS,  # counts that have ended
) = range(13)
_HEAD = 512
_ENTRY = 3  # key, blocks, files
_ORPHANS = _HEAD + GROWN_MAX * _ENTRY
_ORPHAN = 2  # key, blocks
_WORDS = _ORPHANS + ORPHANS_MAX * _ORPHAN
_BYTES = _WORDS * 8
_MASK = (1 << 64) - 1

# Where the locks lie: offsets of the memory, far beyond its end, which fcntl allows.
_FIGURES = 0
_OPEN = 1 << 61
_CHANGING = 1 << 62
_KEYS = (1 << 61) - 1

_TRIES, _OPEN_TRIES, _PAUSE_S = 40, 4, 0.0001
"""A lock that is taken is tried again so often, with such pauses."""

_F_ADD_SEALS, _F_SEALS = 1033, 0x1 | 0x2 | 0x4  # F_SEAL_SEAL, _SHRINK, _GROW (fcntl(2))
_FLOCK = struct.Struct("=hhiqqii")  # struct flock of 64-bit Linux


class Figures(NamedTuple):
    """What is in a volume, and what may be; 0 for no limit. In blocks of BLOCK bytes, and files, which are names.

    `known`: it was counted at least once, last at `counted_at` (Unix seconds).
    """

    limit_blocks: int
    limit_files: int
    known: bool
    blocks: int
    files: int
    counted_at: int


SYMLINK_INLINE: Final = 60
"""Bytes of a symlink's target that are in its inode (ext4 and xfs have as much or more), and so do not count."""


def blocks_of(size: int) -> int:
    """What a regular file of `size` bytes counts, in blocks: holes as well."""
    return -(-size // BLOCK)


def blocks_of_symlink(length: int) -> int:
    """What a symlink with a target of `length` bytes counts, in blocks."""
    return blocks_of(length) if length >= SYMLINK_INLINE else 0


def blocks_in(st: os.stat_result) -> int:
    """What it counts, whatever it is."""
    if stat.S_ISREG(st.st_mode):
        return blocks_of(st.st_size)
    return blocks_of_symlink(st.st_size) if stat.S_ISLNK(st.st_mode) else 0


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
        for _ in range(_OPEN_TRIES):
            # Somebody may just be asking whether it is open.
            if self._lock(fcntl.F_RDLCK, _OPEN + key, 1):
                return
            time.sleep(_PAUSE_S)

    def closed(self, key: int) -> None:
        """It has it open no longer."""
        self._lock(fcntl.F_UNLCK, _OPEN + key, 1)

    def open_elsewhere(self, key: int) -> bool:
        """Whether another process has the file `key` open. This one's own note of it is gone afterwards.

        It is so only after the question: two that close at once then each find the other, and the file stays entered;
        the other way round neither would.
        """
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

    def excess(self) -> int:
        """Blocks that there are beyond the limit."""
        limit = self._words[_LIMIT_BLOCKS]
        return max(0, self._words[_BLOCKS] - limit) if limit else 0

    def files_room(self) -> int:
        """Names that may be added."""
        limit = self._words[_LIMIT_FILES]
        return max(0, limit - self._words[_FILES]) if limit else _MASK >> 1

    def add(self, key: int, blocks: int, files: int = 0) -> None:
        """Enter that so many blocks and names are added to the file `key`; 0 while the file is not there yet."""
        words = self._words
        words[_BLOCKS] = words[_BLOCKS] + blocks & _MASK
        words[_FILES] = words[_FILES] + files & _MASK
        if words[_COUNTING]:
            words[_ADDED_BLOCKS] = words[_ADDED_BLOCKS] + blocks & _MASK
            words[_ADDED_FILES] = words[_ADDED_FILES] + files & _MASK
            if key:
                self._grown(key, blocks, files)

    def made(self, key: int, blocks: int) -> None:
        """What was entered without a key, a name and so many blocks, is the file `key`."""
        if self._words[_COUNTING]:
            self._grown(key, blocks, 1)

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
            words[_REMOVED] = words[_REMOVED] + 1 & _MASK

    def moved(self) -> None:
        """Something has, or may soon have, a name where a count has already been."""
        if self._words[_COUNTING]:
            self._words[_MOVED] = self._words[_MOVED] + 1 & _MASK

    @property
    def counts(self) -> int:
        """How many counts have ended: an entry that was due before the last one has been overtaken by it."""
        return self._words[_COUNTS]

    def orphan(self, key: int, blocks: int) -> None:
        """The file `key` of so many blocks has lost its last name and is open."""
        words = self._words
        at = self._find_orphan(key)
        if at < 0 and (at := self._find_orphan(0, near=key)) < 0:
            return
        words[at], words[at + 1] = key, blocks & _MASK
        if words[_COUNTING]:
            words[_REMOVED] = words[_REMOVED] + 1 & _MASK

    def is_orphan(self, key: int) -> bool:
        """Whether `orphan` was told of it."""
        return self._find_orphan(key) >= 0

    def grow_orphan(self, key: int, blocks: int) -> None:
        """Enter that an orphan has so many blocks more, or less. Of no effect on a count, which does not find it.

        Of one that somebody else made, so that the ledger does not know it, only what is added from now on counts.
        """
        words = self._words
        if blocks > 0 and not self.is_orphan(key):
            self.orphan(key, 0)
        at = self._find_orphan(key)
        if at >= 0:
            blocks = max(blocks, -words[at + 1])
            words[at + 1] = words[at + 1] + blocks & _MASK
        if at >= 0 or blocks > 0:
            words[_BLOCKS] = max(0, words[_BLOCKS] + blocks) & _MASK

    def orphan_gone(self, key: int) -> None:
        """The last one to have it open has closed it. Of no effect when it is no orphan that the ledger knows."""
        words = self._words
        if (at := self._find_orphan(key)) >= 0:
            words[_BLOCKS] = max(0, words[_BLOCKS] - words[at + 1])
            words[at] = words[at + 1] = 0
            if words[_COUNTING]:
                words[_REMOVED] = words[_REMOVED] + 1 & _MASK

    def _find_orphan(self, key: int, near: int | None = None) -> int:
        """Where `key` stands, looked for where `near` would stand; -1 for nowhere. The key 0 is a free place."""
        start = _slot(key if near is None else near, ORPHANS_MAX)
        for probe in range(_PROBES):
            at = _ORPHANS + (start + probe) % ORPHANS_MAX * _ORPHAN
            if self._words[at] == key:
                return at
        return -1

    def _grown(self, key: int, blocks: int, files: int) -> None:
        words = self._words
        at = self._find(key)
        if at < 0:
            words[_REMOVED] = words[_REMOVED] + 1 & _MASK  # it may count twice
            return
        words[at] = key
        words[at + 1] = words[at + 1] + blocks & _MASK
        words[at + 2] = words[at + 2] + files & _MASK
        words[_GROWN_SERIAL] = words[_GROWN_SERIAL] + 1 & _MASK

    def _find(self, key: int) -> int:
        """Where the note of `key` is, or is to be; -1 when there is no room."""
        words, start = self._words, _slot(key, GROWN_MAX)
        for probe in range(_PROBES):
            at = _HEAD + (start + probe) % GROWN_MAX * _ENTRY
            if words[at] in (key, 0):
                return at
        return -1

    # Counting

    def calm(self) -> bool:
        """Whether nobody is in the middle of a change. For whoever has the figures: then nobody begins one."""
        calm = self._lock(fcntl.F_WRLCK, _CHANGING, _KEYS + 1)
        self._lock(fcntl.F_UNLCK, _CHANGING, _KEYS + 1)
        return calm

    def begin(self) -> None:
        """A count begins. For whoever has the figures, when it is calm.

        What was entered before, and is done after the count has looked, would be in neither.
        """
        words = self._words
        words[_ADDED_BLOCKS] = words[_ADDED_FILES] = words[_REMOVED] = words[_MOVED] = words[_GROWN_SERIAL] = 0
        self._forget_notes()
        words[_COUNTING] = 1

    def abandon(self) -> None:
        """The count has failed, or there was none."""
        self._words[_COUNTING] = 0
        self._forget_notes()

    def unknown(self) -> None:
        """Nothing is known until the next count."""
        self._words[_KNOWN] = 0

    def finish(self, blocks: int, files: int, now: int, *, least: bool) -> bool:
        """The count has found so much, without what has grown since it began; `now` is in Unix seconds.

        `least`: there is more than it could count. Whether the result is exact. For whoever has the figures, when it
        is calm: what is being removed, and has not been entered yet, would be subtracted afterwards.
        """
        words = self._words
        found_blocks = max(0, blocks + _signed(words[_ADDED_BLOCKS])) + self._orphaned()
        found_files = max(0, files + _signed(words[_ADDED_FILES]))
        if least or words[_MOVED]:
            found_blocks, found_files = max(found_blocks, words[_BLOCKS]), max(found_files, words[_FILES])
        words[_BLOCKS], words[_FILES] = found_blocks & _MASK, found_files & _MASK
        words[_COUNTED_AT], words[_KNOWN], words[_COUNTING] = now, 1, 0
        words[_COUNTS] = words[_COUNTS] + 1 & _MASK
        self._forget_notes()
        return not (least or words[_MOVED] or words[_REMOVED])

    def _orphaned(self) -> int:
        """Blocks of all orphans. Those that nobody has open any more, since their workers have died, are forgotten."""
        # Through the map, to look at a page would be to have it.
        listed = memoryview(os.pread(self._fd, (_WORDS - _ORPHANS) * 8, _ORPHANS * 8)).cast("Q")
        words, total = self._words, 0
        for place in range(0, len(listed), _ORPHAN):
            if key := listed[place]:
                if self.open_elsewhere(key & _KEYS):
                    total += listed[place + 1]
                else:
                    words[_ORPHANS + place] = words[_ORPHANS + place + 1] = 0
        return total

    def _forget_notes(self) -> None:
        # Gives the memory back: with thousands of volumes it would be much.
        self._map.madvise(mmap.MADV_REMOVE, _HEAD * 8, (_ORPHANS - _HEAD) * 8)

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
        return _signed(blocks), _signed(files)


def _slot(key: int, size: int) -> int:
    return (key * _SPREAD & _MASK) >> 32 & size - 1


def _signed(word: int) -> int:
    return word - (word >> 63 << 64)
