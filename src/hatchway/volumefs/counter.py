"""Counting what is in a volume: a process of its own, idle whenever anybody wants the processor or the disk.

It walks the volume as it is, changing all the time; each directory is opened by its name in the one above, no symlink
is followed and nothing but directories is opened. What sessions add meanwhile they note in the ledger, per file; so
much less of that file is counted here, and hostd adds the sum of what was noted at the end. It waits for nobody and
takes no lock: a process that hardly runs must keep nothing from others.

Forked by the zygote and confined as a worker is, with a mount of the volume that is read-only.
"""

from __future__ import annotations

import errno
import os
import signal
import socket
import stat
import time
import traceback
from collections.abc import Callable
from typing import Final

import structlog

from hatchway.kernel import priority, privileges
from hatchway.kernel.files import DirectoryReader
from hatchway.volumefs.confinement import confine
from hatchway.volumefs.ledger import SUM_MAX, Ledger, blocks_in, key_of
from hatchway.wire.worker import Count, Counted, CounterFailed, Counting, pack

DEPTH_MAX: Final = 1000
"""Directories within each other that are looked into. Each is open while what lies below is counted."""

LINKED_MAX: Final = 4_000_000
"""Files with several names that are recognised when they are met again; others count as often as they have names."""

REPORT_S: Final = 2.0
"""How often it says that it goes on."""

_CALM_TRIES, _CALM_PAUSE_S = 50, 0.001
"""How often, and with which pauses, a file that is just being changed is looked at again."""

_O_READ = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_SWAPPED = frozenset({errno.ENOENT, errno.ENOTDIR, errno.ELOOP})


class Counter:
    """Counts one volume once. `report` is called now and then.

    `blocks` (of ledger.BLOCK bytes) and `files`, which are names, are what has been found so far, less what the ledger
    says has grown. `least`: something could not be counted.
    """

    def __init__(self, ledger: Ledger, report: Callable[[], None]) -> None:
        self.blocks = 0
        self.files = 0
        self.least = False
        self._ledger = ledger
        self._report = report
        self._linked: set[int] = set()
        # Files of which it has been taken into account that they have grown: moved ahead, one is met again.
        self._settled: set[int] = set()
        self._open: list[tuple[int, DirectoryReader]] = []

    def count(self, root_fd: int) -> None:
        """Count what is below the directory `root_fd`. Raises OSError when that cannot be read at all."""
        self._enter(os.open(b".", _O_READ, dir_fd=root_fd))
        next_report = time.monotonic() + REPORT_S
        try:
            while self._open:
                if (now := time.monotonic()) >= next_report:
                    self._report()
                    next_report = now + REPORT_S
                if (name := self._next()) is not None:
                    self._look(name)
        finally:
            while self._open:
                self._leave()

    def _enter(self, fd: int) -> None:
        self._open.append((fd, DirectoryReader(fd)))

    def _leave(self) -> None:
        os.close(self._open.pop()[0])

    def _next(self) -> bytes | None:
        """The next name of the innermost directory, which is left when there is none."""
        try:
            entry = self._open[-1][1].read()
        except OSError as exc:
            # ENOENT: it has been removed.
            self.least = self.least or exc.errno != errno.ENOENT
            entry = None
        if entry is None:
            self._leave()
            return None
        return entry.name

    def _look(self, name: bytes) -> None:
        directory = self._open[-1][0]
        try:
            st = os.stat(name, dir_fd=directory, follow_symlinks=False)
            st, grown_blocks, grown_files = self._settle(st, name, directory)
        except OSError as exc:
            self.least = self.least or exc.errno not in _SWAPPED
            return
        self.files += 1 - grown_files
        if stat.S_ISDIR(st.st_mode):
            self._descend(name, directory)
            return
        if st.st_nlink > 1:
            key = st.st_dev << 64 | st.st_ino
            if key in self._linked:
                return
            if len(self._linked) < LINKED_MAX:
                self._linked.add(key)
        self.blocks += blocks_in(st) - grown_blocks

    def _settle(self, st: os.stat_result, name: bytes, directory: int) -> tuple[os.stat_result, int, int]:
        """A file's attributes and by how many blocks and files it had grown at that very moment."""
        ledger = self._ledger
        if ledger.grown_serial == 0:
            return st, 0, 0
        key = key_of(st.st_dev, st.st_ino)
        if key in self._settled or ledger.grown(key) is None:
            return st, 0, 0
        for _ in range(_CALM_TRIES):
            if not ledger.changing(key) and (grown := ledger.grown(key)) is not None:
                st = os.stat(name, dir_fd=directory, follow_symlinks=False)
                if key_of(st.st_dev, st.st_ino) != key:
                    return st, 0, 0  # another file
                if not ledger.changing(key) and ledger.grown(key) == grown:
                    self._settled.add(key)
                    return st, *grown
            time.sleep(_CALM_PAUSE_S)
        # It counts twice, what it has grown by, until the next count.
        return st, 0, 0

    def _descend(self, name: bytes, directory: int) -> None:
        if len(self._open) >= DEPTH_MAX:
            self.least = True
            return
        try:
            self._enter(os.open(name, _O_READ, dir_fd=directory))
        except OSError as exc:
            self.least = self.least or exc.errno not in _SWAPPED


def run(spec: Count, volume_fd: int, ledger_fd: int, control_fd: int) -> None:
    """Confine this freshly forked process and count. Never returns; the result is sent on the control socket."""
    status = 1
    control = socket.socket(fileno=control_fd)
    try:
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        structlog.contextvars.bind_contextvars(process="counter", source=spec.source)
        priority.idle()
        needed = {privileges.Cap.DAC_OVERRIDE}
        confine(
            {volume_fd, ledger_fd, control_fd},
            uid=spec.worker_uid,
            permitted=needed,
            effective=needed,
        )
        counter = Counter(Ledger(ledger_fd), lambda: _say(control, Counting()))
        counter.count(volume_fd)
        blocks, files = (max(-SUM_MAX, min(number, SUM_MAX)) for number in (counter.blocks, counter.files))
        _say(control, Counted(blocks, files, counter.least))
        status = 0
    except BrokenPipeError:
        pass  # nobody wants to know any more
    except BaseException as exc:
        if not isinstance(exc, OSError):
            traceback.print_exc()
        try:
            _say(control, CounterFailed(f"{type(exc).__name__}: {exc}"))
        except OSError:
            pass  # hostd is gone
    finally:
        os._exit(status)


def _say(control: socket.socket, message: Counting | Counted | CounterFailed) -> None:
    control.send(pack(message))
