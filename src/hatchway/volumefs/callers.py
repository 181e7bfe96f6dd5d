"""Which process asks: what each has moved and has open, and which are refused everything.

All sessions of a login have one uid and share this worker; what tells them apart is the pid the kernel names with a
request (struct fuse_in_header, include/uapi/linux/fuse.h). Reading and writing by a handle come without one that is of
use: whoever opened the handle counts.

A pid is used again by another process. So being refused is said of pids only for as long as hostd says so, which holds
them until they have ended; a handle stays dead for good, since it belongs to the account and not to the pid.

No FUSE and no I/O here. Changed on the event loop only.
"""

from __future__ import annotations

import errno
import time
from collections.abc import Collection, Iterable

from hatchway.volumefs.fault import failure

CALLERS_MAX = 1000
"""Accounts kept. Those of processes that have nothing open go first, the longest inactive of them before others."""


class Account:
    """Of one process: bytes it has `read` and `written`, when it asked for something last (`active`, time.monotonic(),
    seconds), and its open `handles`, each with whether it is a directory's. `expelled`: it is refused everything.
    """

    __slots__ = ("active", "expelled", "handles", "pid", "read", "written")

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self.read = 0
        self.written = 0
        self.active = time.monotonic()
        self.expelled = False
        self.handles: dict[int, bool] = {}


class Callers:
    """The accounts, by process and by handle. `limit`: see CALLERS_MAX."""

    def __init__(self, limit: int = CALLERS_MAX) -> None:
        self._limit = limit
        self._by_pid: dict[int, Account] = {}
        self._by_handle: dict[int, Account] = {}

    def __len__(self) -> int:
        return len(self._by_pid)

    def asks(self, pid: int) -> None:
        """A process asks for something. Raises OSError EACCES when it is refused everything."""
        account = self._by_pid.get(pid) or self._new(pid)
        if account.expelled:
            raise failure(errno.EACCES)
        account.active = time.monotonic()

    def opened(self, handle: int, pid: int, *, directory: bool = False) -> None:
        """A process has got a handle."""
        account = self._by_pid.get(pid) or self._new(pid)
        account.handles[handle] = directory
        self._by_handle[handle] = account

    def released(self, handle: int) -> None:
        """A handle is no more."""
        account = self._by_handle.pop(handle, None)
        if account is not None:
            del account.handles[handle]

    def by(self, handle: int) -> Account:
        """Whose handle it is. Raises OSError EACCES when that process is refused everything, or was."""
        account = self._by_handle[handle]
        if account.expelled:
            raise failure(errno.EACCES)
        return account

    def is_dead(self, handle: int) -> bool:
        """Whether a handle is answered nothing but EACCES."""
        account = self._by_handle.get(handle)
        return account is not None and account.expelled

    def expel(self, pids: Collection[int]) -> None:
        """From now on refuse everything to these processes, and to no others. What they have open is dead for good."""
        for pid in self.expelled:
            if pid not in pids:
                del self._by_pid[pid]
        for pid in pids:
            (self._by_pid.get(pid) or self._new(pid)).expelled = True

    @property
    def expelled(self) -> tuple[int, ...]:
        """The processes that are refused everything."""
        return tuple(pid for pid, account in self._by_pid.items() if account.expelled)

    @property
    def listing(self) -> tuple[int, ...]:
        """The processes that have a directory open."""
        return tuple(sorted({one.pid for handle, one in self._by_handle.items() if one.handles[handle]}))

    def of(self, pids: Iterable[int]) -> list[Account]:
        """The accounts there are of these processes."""
        return [account for pid in pids if (account := self._by_pid.get(pid)) is not None]

    def forget(self, pids: Iterable[int]) -> None:
        """These processes have ended: whoever has such a pid now is another. One that is refused stays so."""
        for account in self.of(pids):
            if not account.expelled:
                del self._by_pid[account.pid]

    def _new(self, pid: int) -> Account:
        if len(self._by_pid) >= self._limit:
            idle = [one for one in self._by_pid.values() if not one.handles and not one.expelled]
            # Some at once, so that a login of many short sessions does not look through all of them each time.
            for account in sorted(idle, key=lambda one: one.active)[: max(self._limit // 8, 1)]:
                del self._by_pid[account.pid]
        account = self._by_pid[pid] = Account(pid)
        return account
