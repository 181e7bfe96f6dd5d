"""Several processes that do operations as fast as they can, watched so that none hangs, and what they met.

A driver looks what a name is, does one operation to it, and looks again: so it is known how often an operation met a
directory, a symlink, a FIFO or a device, and how often that changed under it.
"""

from __future__ import annotations

import contextlib
import errno
import mmap
import os
import pickle
import select
import signal
import stat
import struct
import time
import traceback
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

from tests.sshd.hostile.canaries import Breach

HANG_S = 30.0
"""Longest an operation may take: the machine may be busy, but a FIFO is waited for for ever."""

LOOK_EVERY = 3
"""Every so many operations the driver looks what it deals with, which costs as much as the operation."""

_PROGRESS = struct.Struct("=Qd64s")

KINDS = ("directory", "file", "symlink", "fifo", "character device", "block device", "socket", "nothing")
_KIND_OF = {
    stat.S_IFDIR: "directory", stat.S_IFREG: "file", stat.S_IFLNK: "symlink", stat.S_IFIFO: "fifo",
    stat.S_IFCHR: "character device", stat.S_IFBLK: "block device", stat.S_IFSOCK: "socket",
}  # fmt: skip


def kind_of(mode: int) -> str:
    """One of KINDS."""
    return _KIND_OF[stat.S_IFMT(mode)]


class HungError(AssertionError):
    """An operation did not come back."""


@dataclass
class Met:
    """What drivers did. `outcomes` counts (operation, "ok" or an errno's name); `leaves` and `parents` count
    (operation, kind of what it was done to, or of the directory that is in); `changed` how often a kind was another
    one after the operation; `looks` how often that was looked at."""

    operations: int = 0
    looks: int = 0
    changed: int = 0
    outcomes: Counter[tuple[str, str]] = field(default_factory=Counter)
    leaves: Counter[tuple[str, str]] = field(default_factory=Counter)
    parents: Counter[tuple[str, str]] = field(default_factory=Counter)
    breach: str | None = None

    def add(self, other: Met) -> None:
        """Count what another driver met as well."""
        self.operations += other.operations
        self.looks += other.looks
        self.changed += other.changed
        self.outcomes += other.outcomes
        self.leaves += other.leaves
        self.parents += other.parents
        self.breach = self.breach or other.breach

    def succeeded(self, name: str) -> int:
        """How often an operation succeeded."""
        return self.outcomes[name, "ok"]

    def table(self, names: list[str]) -> list[str]:
        """A line for each operation: how often, how often it succeeded, what it met, and its commonest errors."""
        short = {"character device": "char", "block device": "block", "directory": "dir"}
        head = "".join(f"{short.get(kind, kind):>8}" for kind in KINDS)
        lines = [f"  {'operation':<32}{'done':>9}{'ok':>9}  {head}  commonest errors"]
        for name in names:
            done = sum(count for (which, _), count in self.outcomes.items() if which == name)
            errors = [(count, what) for (which, what), count in self.outcomes.items() if which == name and what != "ok"]
            worst = " ".join(f"{what}:{count}" for count, what in sorted(errors, reverse=True)[:4])
            met = "".join(f"{self.leaves[name, kind]:>8}" for kind in KINDS)
            lines.append(f"  {name:<32}{done:>9}{self.succeeded(name):>9}  {met}  {worst}")
        return lines


class Progress:
    """What a driver is doing now, in memory shared with whoever watches it."""

    def __init__(self) -> None:
        self._memory = mmap.mmap(-1, 4096)

    def note(self, count: int, began: float, what: str) -> None:
        """Operation number `count` begins; `began` 0.0 when it has ended."""
        _PROGRESS.pack_into(self._memory, 0, count, began, what.encode()[:64])

    def now(self) -> tuple[int, float, str]:
        """How many there were, since when the one at hand takes (0.0: none), and which it is."""
        count, began, what = _PROGRESS.unpack_from(self._memory, 0)
        return count, began, what.rstrip(b"\0").decode()

    def close(self) -> None:
        """Give the memory back."""
        self._memory.close()


Drive = Callable[[int, Progress, float, int], Met]
"""Do operations until a time (monotonic), or that many: (number of the driver, progress, time, how many)."""


def run(drive: Drive, drivers: int, seconds: float, most: int, watch: Callable[[], None]) -> Met:
    """Have `drivers` processes drive, each for `seconds` or `most` operations, and call `watch` all the time.

    Raises HungError, Breach, or what `watch` raises. No process is left.
    """
    until = time.monotonic() + seconds
    progress = [Progress() for _ in range(drivers)]
    pids: dict[int, int] = {}
    waiting: dict[int, int] = {}
    total = Met()
    try:
        for number in range(drivers):
            reader, writer = os.pipe()
            pid = os.fork()
            if pid == 0:
                _child(drive, number, progress[number], until, most, writer)
            os.close(writer)
            pids[number] = pid
            waiting[reader] = number
        received: dict[int, bytes] = dict.fromkeys(waiting, b"")
        while waiting:
            ready, _, _ = select.select(list(waiting), [], [], 0.2)
            for reader in ready:
                part = os.read(reader, 1 << 20)
                received[reader] += part
                if not part:
                    number = waiting.pop(reader)
                    os.close(reader)
                    _, status = os.waitpid(pids.pop(number), 0)
                    assert received[reader], f"driver {number} ended with {os.waitstatus_to_exitcode(status)}"
                    answer = pickle.loads(received[reader])  # noqa: S301 - our own child's
                    if isinstance(answer, str):
                        raise AssertionError(f"driver {number}: {answer}")
                    total.add(answer)
            watch()
            for number in pids:
                count, began, what = progress[number].now()
                if began and time.monotonic() - began > HANG_S:
                    raise HungError(f"{what} did not come back within {HANG_S:g} s, after {count} operations")
    finally:
        for pid in pids.values():
            os.kill(pid, signal.SIGKILL)
        for pid in pids.values():
            _reap(pid)
        for reader in waiting:
            os.close(reader)
        for one in progress:
            one.close()
    if total.breach:
        raise Breach(total.breach)
    return total


def _reap(pid: int) -> None:
    # What hangs in the file system ends with it; this test's end is not to wait for that.
    end = time.monotonic() + 5
    while os.waitpid(pid, os.WNOHANG)[0] == 0 and time.monotonic() < end:
        time.sleep(0.02)


def _child(drive: Drive, number: int, progress: Progress, until: float, most: int, writer: int) -> None:
    try:
        try:
            answer: Met | str = drive(number, progress, until, most)
        except BaseException:
            answer = traceback.format_exc()
        with os.fdopen(writer, "wb") as file:
            pickle.dump(answer, file)
    finally:
        os._exit(0)


class Recorder:
    """Does operations one by one and counts what they met. `word` is what no result may hold."""

    def __init__(self, word: bytes, progress: Progress) -> None:
        self.met = Met()
        self._word = word
        self._progress = progress

    def do(
        self,
        name: str,
        act: Callable[[], object],
        look: Callable[[], tuple[str, str]] | None,
    ) -> bool:
        """One operation. `look` tells the kinds of leaf and parent. Whether to go on."""
        met = self.met
        before = None
        if look is not None and met.operations % LOOK_EVERY == 0:
            self._progress.note(met.operations, time.monotonic(), f"the look before {name}")
            before = look()
        self._progress.note(met.operations, time.monotonic(), name)
        outcome = "ok"
        seen: list[bytes] = []
        try:
            found = act()
            if found is not None:
                seen = list(found)  # type: ignore[call-overload] # None, or an iterable of bytes
        except OSError as exc:
            outcome = errno.errorcode.get(exc.errno or 0, str(exc))
        met.operations += 1
        met.outcomes[name, outcome] += 1
        self._progress.note(met.operations, 0.0, "")
        if any(self._word in piece for piece in seen):
            met.breach = f"{name} showed a canary: {seen!r:.500}"
            return False
        if before is not None and look is not None:
            met.looks += 1
            met.leaves[name, before[0]] += 1
            met.parents[name, before[1]] += 1
            met.changed += look() != before
        return True


def look_at(path: bytes, parent: bytes) -> tuple[str, str]:
    """The kinds of `path` and `parent`, not following symlinks at their ends."""
    kinds = []
    for name in (path, parent):
        kind = "nothing"
        with contextlib.suppress(OSError):
            kind = kind_of(os.lstat(name).st_mode)
        kinds.append(kind)
    return kinds[0], kinds[1]
