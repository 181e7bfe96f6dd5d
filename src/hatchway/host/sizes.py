"""How large the volumes are: an account for each, and counting what is in it, one after the other and for ever.

An account is there for each volume that the core says is shared and for each that is mounted. Nobody waits for a count:
a login is mounted with what is known, and what is asked is answered from memory. Counters stand behind everybody else
for the processor and the disk, are few at a time, and as a whole work a small part of the time; only a volume whose
limits wait for it goes first.

Concurrency: all in the event loop; what touches a file system is in a thread with a deadline, or in a counter.
"""

from __future__ import annotations

import contextlib
import functools
import math
import os
import time
from collections.abc import Callable, Iterable
from typing import Final, TypeVar

import trio

from hatchway import log
from hatchway.config import Config
from hatchway.errors import HatchwayError, HostError, ProtocolError, RefusedError
from hatchway.host import policy, sources
from hatchway.host.account import Account
from hatchway.host.errands import Errands
from hatchway.host.patience import Patience
from hatchway.model import NO_LIMITS, Limits
from hatchway.volumefs.ledger import BLOCK, SUM_MAX, Figures, Ledger
from hatchway.wire.host import Measure, SharedVolume, Sizes, Usage, View, VolumeSize
from hatchway.wire.worker import Count, Counted, CounterFailed, Counting, close_elsewhere, receive_with_fds_async

T = TypeVar("T")

COUNTS_MAX: Final = 2
"""Volumes that are counted at the same time."""

SLOW_S: Final = 60.0
"""A count that takes longer keeps no other from beginning, up to SLOW_MAX of them."""

SLOW_MAX: Final = 8

REST_S: Final = 60.0
"""Longest pause before a count that nobody waits for, however long the last one took."""

RARELY_S: Final = 3600.0
"""The same before the same volume is counted again, or as long as it took if that is more."""

DRAIN_S: Final = 0.05
"""How long changes of a volume wait for each other to end, when a count begins or ends."""

DRAIN_TRIES: Final = 25

SELDOM: Final = 12
"""How many times as seldom a volume is counted that nobody is in."""

DUTY: Final = 20
"""A count is followed by a pause of so many times as long as it took."""

SOON_S: Final = 5.0
"""After what time at least a volume is counted again, when its figures are known not to be exact."""

FULL_S: Final = 15.0
"""The same when it is full: the container may have made room."""

STALLED_S: Final = 60.0
"""A counter that has not said for so long that it goes on is ended: its file system does not answer."""

LONGEST_S: Final = 6 * 3600.0
"""Longest that a count may take."""

AGAIN_S: Final = 60.0
"""When a volume that could not be counted is tried again."""

LOOK_S: Final = 1.0
"""Longest that an answer waits for file systems that are to say how much room they have."""

FRESH_S: Final = 1.0
"""How old what they said may be."""

BYTES_PER_FILE: Final = 16384
"""With a size limit and none of files there may be one file for so many bytes (mke2fs(8), inode_ratio)."""


class Accounts:
    """All accounts, by directory of the host and which that is."""

    def __init__(self, config: Config, errands: Errands, patience: Patience) -> None:
        self._config = config
        self._errands = errands
        self._patience = patience
        self._accounts: dict[tuple[str, str], Account] = {}
        # When each count that is going on began.
        self._running: dict[Account, float] = {}
        self._news = trio.Event()
        # When a count that is not urgent may begin.
        self._free_at = -math.inf
        self._logger = log.get()

    # For those who mount

    def account(self, view: View) -> Account:
        """The account of a view's volume, whose limits hold from now on."""
        account = self._get(view.source, view.birth)
        self._limit(account, view.limits)
        return account

    def use(self, account: Account) -> None:
        """A worker more serves the volume."""
        account.users += 1
        if account.counting:
            return
        age_s = max(0.0, time.time() - account.ledger.figures().counted_at)
        self._hurry(account, trio.current_time() + max(0.0, self._interval_s(account) - age_s))

    def leave(self, account: Account) -> None:
        """One less."""
        account.users -= 1
        if not account.users:
            # What the last session did is to be seen.
            self._hurry(account, trio.current_time() + max(SOON_S, DUTY * account.took_s))
            self.let_go(account)

    def let_go(self, account: Account) -> None:
        """Forget an account that nobody uses, of a volume that is not shared."""
        if not account.shared and not account.users and not account.counting:
            self._drop(account)

    def adopt(self, view: View, ledger_fd: int) -> Account:
        """As `account` and `use`, for a worker of an earlier hostd with the ledger `ledger_fd`, which becomes ours."""
        account = self._accounts.get((view.source, view.birth))
        if account is None:
            account = Account(view.source, view.birth, Ledger(ledger_fd))
            account.ledger.abandon()
            account.limits = view.limits
            self._accounts[view.source, view.birth] = account
        else:
            if os.fstat(account.ledger.fileno()).st_ino != os.fstat(ledger_fd).st_ino:
                self._logger.error("two ledgers of one volume, which limit it apart", source=view.source)
            os.close(ledger_fd)
        self._limit(account, view.limits)
        self.use(account)
        return account

    # For the core

    async def measure(self, request: Measure) -> Sizes:
        """Keep accounts of these volumes and no others, and say what is known of them."""
        wanted: list[Account | str] = []
        for volume in request.volumes:
            try:
                wanted.append(self._shared(volume))
            except RefusedError as exc:
                wanted.append(str(exc))
        here = [account for account in wanted if isinstance(account, Account)]
        for account in list(self._accounts.values()):
            account.shared = False
        for account in here:
            account.shared = True
        for account in list(self._accounts.values()):
            self.let_go(account)
        with trio.move_on_after(LOOK_S):
            await self._look_at(account for account in here if account.users)
        return Sizes(tuple(self._size(one) if isinstance(one, Account) else VolumeSize(problem=one) for one in wanted))

    def account_of(self, volume: SharedVolume) -> Account:
        """The account of a volume. Of one that is there already the limits stay. Raises RefusedError."""
        return self._accounts.get((volume.source, volume.birth)) or self._shared(volume)

    def _shared(self, volume: SharedVolume) -> Account:
        policy.check_source(self._config, volume.source)
        policy.check_limits(volume.limits)
        policy.check_usage(volume.known)
        new = (volume.source, volume.birth) not in self._accounts
        account = self._get(volume.source, volume.birth)
        if new and (known := volume.known) is not None:
            account.limits = volume.limits  # no news: it was counted under these, or soon will be
            account.ledger.suppose(known.size // BLOCK, known.files, int(known.measured_at))
            if volume.limits == NO_LIMITS:
                age_s = max(0.0, time.time() - known.measured_at)
                account.due = trio.current_time() + max(0.0, self._interval_s(account) - age_s)
        self._limit(account, volume.limits)
        return account

    def _size(self, account: Account) -> VolumeSize:
        # What a worker has written there may be nonsense, and is at least no number that nothing can hold.
        figures, room = Figures._make(min(word, SUM_MAX) for word in account.ledger.figures()), account.room
        files_used = figures.files if figures.known else None
        counted = None
        if figures.known and account.counts:
            counted = Usage(figures.blocks * BLOCK, figures.files, figures.counted_at)
        used: int | None = None if counted is None else counted.size
        nominal = usable = files_usable = None
        available = None if room is None else room.available
        if figures.limit_blocks:
            nominal, usable = account.limits.size, figures.limit_blocks * BLOCK
            left = None if used is None else max(0, usable - used)
            available = left if available is None else available if left is None else min(left, available)
        elif room is not None and room.own:
            used, usable, nominal = room.total - room.free, room.total, room.nominal
            if room.files:
                files_used, files_usable = room.files - room.files_free, room.files
        if figures.limit_files:
            files_used, files_usable = None if counted is None else counted.files, figures.limit_files
        return VolumeSize(
            used=used,
            usable=usable,
            nominal=nominal,
            available=available,
            files_used=files_used,
            files_usable=files_usable,
            limits=account.limits,
            own=room is not None and room.own,
            counted=counted,
            problem=account.problem,
        )

    # Counting

    async def run(self) -> None:
        """Count what is due, for ever."""
        async with trio.open_nursery() as nursery:
            while True:
                now = trio.current_time()
                while (account := self._next(now)) is not None:
                    account.counting = True
                    account.due = math.inf
                    self._running[account] = now
                    nursery.start_soon(self._count_guarded, account)
                with trio.move_on_after(self._pause_s(now)):
                    await self._news.wait()
                self._news = trio.Event()

    def _next(self, now: float) -> Account | None:
        """What is to be counted now, if anything."""
        if not self._slots(now):
            return None
        due = [one for one in self._accounts.values() if one.due <= now and not one.counting]
        if not self._leisure(now):
            due = [one for one in due if one.urgent]
        return min(due, key=lambda one: (not one.urgent, one.due), default=None)

    def _slots(self, now: float) -> bool:
        """Whether another count may begin."""
        quick = sum(now - began < SLOW_S for began in self._running.values())
        return quick < COUNTS_MAX and len(self._running) < SLOW_MAX

    def _leisure(self, now: float) -> bool:
        """Whether one that nobody waits for may begin."""
        return now >= self._free_at and all(now - began >= SLOW_S for began in self._running.values())

    def _pause_s(self, now: float) -> float:
        """How long nothing can begin, unless there is news."""
        times = [began + SLOW_S for began in self._running.values() if now - began < SLOW_S]
        if self._slots(now):
            free_at = self._free_at if self._leisure(now) or not times else max(self._free_at, *times)
            times += [
                one.due if one.urgent else max(one.due, free_at) for one in self._accounts.values() if not one.counting
            ]
        return max(0.05, min(times, default=math.inf) - now)

    async def _count_guarded(self, account: Account) -> None:
        began = trio.current_time()
        before, exact = account.problem, True
        try:
            on_device = await self._on_device(account)
            if on_device and not account.users:
                # The kernel is given no file system to read that no session has asked for.
                account.problem = "" if account.room else "the device is looked at when somebody is in the volume"
            else:
                await self._look(account)
                if account.counts:
                    exact = await self._count(account)
                account.problem = ""
        except Exception as exc:
            account.problem = str(exc)
            if not isinstance(exc, (HatchwayError, OSError)):
                self._logger.exception("a volume could not be counted", source=account.source)
            elif account.problem != before:
                self._logger.warning("a volume could not be counted", source=account.source, error=str(exc))
        finally:
            account.counting = False
            del self._running[account]
            now = trio.current_time()
            account.took_s = now - began
            pause_s = min(DUTY * account.took_s, max(RARELY_S, account.took_s))
            # What it was hurried to meanwhile stays.
            account.due = min(account.due, now + max(pause_s, self._interval_s(account, exact=exact)))
            if not account.problem:
                self._free_at = max(self._free_at, now + min(DUTY * account.took_s, REST_S))
            self._tell_excess(account)
            self._news.set()
            self.let_go(account)

    def _tell_excess(self, account: Account) -> None:
        figures = account.ledger.figures()
        over = bool(figures.limit_blocks) and figures.known and figures.blocks > figures.limit_blocks
        if over != account.over:
            account.over = over
            if over:
                size, limit = figures.blocks * BLOCK, figures.limit_blocks * BLOCK
                self._logger.warning("a volume is larger than its limit", source=account.source, size=size, limit=limit)
            else:
                self._logger.info("a volume is within its limit again", source=account.source)

    def _interval_s(self, account: Account, *, exact: bool = True) -> float:
        if account.problem:
            return AGAIN_S
        if not account.users:
            return float(self._config.sizes.measure_every_s) * SELDOM
        figures = account.ledger.figures()
        if figures.limit_blocks and figures.blocks >= figures.limit_blocks:
            return FULL_S
        return float(self._config.sizes.measure_every_s) if exact else SOON_S

    async def _count(self, account: Account) -> bool:
        """Have a counter count it. Whether the result is exact. Raises HatchwayError, OSError."""
        self._write_limits(account)
        account.stale = False
        spec = functools.partial(_counter, account.source)
        try:
            async with self._errands.volume(account.source, account.birth, read_only=True) as volume:
                await self._calmly(account.ledger, account.ledger.begin)
                async with self._errands.process(account.source, spec, (volume, account.ledger.fileno())) as control:
                    with trio.fail_after(LONGEST_S):
                        found = await self._result(control)
                    exact = await self._finish(account, found)
        except trio.TooSlowError:
            raise HostError("counting what is in it takes too long") from None
        finally:
            account.ledger.abandon()
        if found.least:
            raise HostError("some of what is in it cannot be read, so there is more than was counted")
        return exact

    async def _calmly(self, ledger: Ledger, call: Callable[[], T]) -> T:
        """Call it with the figures, when no session is in the middle of a change. Raises HostError."""
        for pause_s in (0.01, 0.05, 0.2, 1.0):
            with contextlib.suppress(BlockingIOError):
                ledger.take_figures()
                try:
                    # Nobody begins a change meanwhile; those that have begun end.
                    for _ in range(DRAIN_TRIES):
                        if ledger.calm():
                            return call()
                        await trio.sleep(DRAIN_S / DRAIN_TRIES)
                finally:
                    ledger.give_figures()
            await trio.sleep(pause_s)
        raise HostError("a session is in the middle of a change and does not go on")

    async def _result(self, control: trio.socket.SocketType) -> Counted:
        """What the counter at the other end of `control` has found. Raises HostError."""
        try:
            while True:
                with trio.move_on_after(STALLED_S):
                    message, fds = await receive_with_fds_async(control, Counting | Counted | CounterFailed)
                    close_elsewhere(fds)
                    match message:
                        case Counted():
                            return message
                        case CounterFailed():
                            raise HostError(f"it cannot be counted what is in it: {message.text}")
                        case Counting():
                            continue
                        case _:
                            raise HostError("it cannot be counted what is in it: the counter ended")
                raise HostError("it cannot be counted what is in it: its file system does not answer")
        except (OSError, ProtocolError) as exc:
            raise HostError(f"it cannot be counted what is in it: {exc}") from exc

    async def _finish(self, account: Account, found: Counted) -> bool:
        """Enter what was found. Whether it is exact. Raises HostError."""
        ledger = account.ledger
        blocks, files = (max(-SUM_MAX, min(number, SUM_MAX)) for number in (found.blocks, found.files))

        def finish() -> bool:
            return ledger.finish(blocks, files, int(time.time()), least=found.least)

        if account.stale:
            # What sessions wrote before there was a limit is in no note.
            self._hurry(account, trio.current_time())
            return False
        return await self._calmly(ledger, finish)

    # Looking at file systems

    async def _look_at(self, accounts: Iterable[Account]) -> None:
        now = trio.current_time()
        looks = {one.source: one for one in accounts if now - one.looked_at >= FRESH_S and not one.counting}
        for account in looks.values():
            account.looked_at = now
        calls = {source: functools.partial(self._take_room, account) for source, account in looks.items()}
        await self._patience.texts(calls)

    async def _on_device(self, account: Account) -> bool:
        """Whether the volume is on a device, which the engine mounts only while somebody uses it."""
        call = functools.partial(sources.device_of, self._config, account.source)
        return bool(await self._patience.text(account.source, call))

    async def _look(self, account: Account) -> None:
        await self._patience.text(account.source, functools.partial(self._take_room, account))

    def _take_room(self, account: Account) -> str:
        account.room = sources.room(self._config, account.source, expected=account.birth)
        return ""

    # Accounts

    def _get(self, source: str, birth: str) -> Account:
        account = self._accounts.get((source, birth))
        if account is None:
            account = self._accounts[source, birth] = Account(source, birth, Ledger.make())
            self._news.set()
        return account

    def _limit(self, account: Account, limits: Limits) -> None:
        """These are the limits of a volume from now on. What it has grown to without any nobody has noted."""
        before, account.limits = account.limits, limits
        self._write_limits(account)
        if limits == before:
            return
        self._logger.info("limits", source=account.source, size=limits.size, files=limits.files)
        if before == NO_LIMITS:
            account.ledger.unknown()
            account.stale = True
            self._hurry(account, trio.current_time())

    def _write_limits(self, account: Account) -> None:
        # Again and again: a worker may have written something else there.
        limits, blocks, files = account.limits, 0, 0
        if limits.size is not None:
            usable = limits.size * (100 - self._config.sizes.index_reserve) / 100
            blocks = max(1, int(usable) // BLOCK)
            files = max(1, limits.size // BYTES_PER_FILE)
        if limits.files is not None:
            files = limits.files
        account.ledger.limit(blocks, files)

    def _hurry(self, account: Account, due: float) -> None:
        if due < account.due:
            account.due = due
            self._news.set()

    def _drop(self, account: Account) -> None:
        if self._accounts.pop((account.source, account.birth), None) is not None:
            account.ledger.close()


def _counter(source: str, uid: int) -> Count:
    return Count(source=source, worker_uid=uid)
