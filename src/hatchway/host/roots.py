"""A login's root directory: the skeleton sshd chroots into, with one FUSE mount per volume, and who is in it.

What is mounted, and changed while somebody is in. The skeleton (`skeleton`) lives on a tmpfs of hostd's own (mode 0700,
private propagation). hostd touches a path behind a mount point only where a volume stands in another one, and then in a
thread with a deadline: a stopped worker would hang it.

Concurrency: every change of one login's root happens under that root's lock; different logins do not wait for each
other. Order when something is taken away: the sessions are stopped, the worker refuses, the sessions are killed, then
it is unmounted. Never the other way round: a client that mirrors would find an empty directory and delete its copy.
Where a session may go on without it (`_withdraw`), only those are killed that have a directory of it open, and the
others go on when it is unmounted and its mount point removed. Mount points have mode 0: what is not covered by a
mount cannot be listed.
"""

from __future__ import annotations

import dataclasses
import errno
import functools
import os
import signal
from collections.abc import Awaitable, Callable, Collection, Sequence

import trio
from msgspec import structs

from hatchway import log
from hatchway.config import Config
from hatchway.errors import HatchwayError, HostError
from hatchway.host import processes, sources, workers
from hatchway.host.activity import Answers, ask
from hatchway.host.handover import Handover, KeptRoot, KeptWorker, worker_names
from hatchway.host.patience import Patience
from hatchway.host.placement import Placement, placements, with_nested
from hatchway.host.processes import Process
from hatchway.host.sessions import Sessions
from hatchway.host.sizes import Accounts
from hatchway.host.skeleton import Skeleton
from hatchway.host.watchdog import Watchdog
from hatchway.kernel import fusectl, mounts
from hatchway.model import below
from hatchway.wire.host import MountStatus, SessionActivity, View

END_GRACE_S = 1.0
"""How long some sessions that are ended may take, twice, before what serves them is taken away, in seconds.

Their connections are gone at once, whatever a worker does; what may take so long is the one request that is at work."""


class LoginRoot:
    """The root of one login. `ended` is called with a session's id, and bytes read and written, when its sshd process
    is gone.
    """

    def __init__(
        self,
        config: Config,
        zygote: workers.Zygote,
        uids: workers.WorkerUids,
        accounts: Accounts,
        patience: Patience,
        handover: Handover,
        nursery: trio.Nursery,
        ended: Callable[[str, int, int, bool], None],
        *,
        login: str,
        uid: int,
        gid: int,
    ) -> None:
        self.login = login
        self.uid = uid
        self._gid = gid
        self._config = config
        self._zygote = zygote
        self._uids = uids
        self._accounts = accounts
        self._patience = patience
        self._handover = handover
        self._nursery = nursery
        self._lock = trio.Lock()
        self._workers: dict[str, workers.Worker] = {}
        self._placed: dict[str, Placement] = {}
        self._starting: set[str] = set()
        # Places of what could not be had.
        self._closed: set[str] = set()
        # Mount points of what could not be taken away: nothing must stand on top of it.
        self._left: set[str] = set()
        self._logger = log.get(login=login)
        self._skeleton = Skeleton(f"{config.mount_dir}/{login}")
        self._sessions = Sessions(login, handover, self._keep, self._callers, ended, self._logger)
        self._watchdog = Watchdog(config, patience, self._skeleton, self._logger)

    @property
    def directory(self) -> str:
        """Where sshd chroots to."""
        return self._skeleton.directory

    @property
    def sessions(self) -> tuple[str, ...]:
        """Ids of the sessions in this root."""
        return tuple(self._sessions.pids)

    @property
    def mounts(self) -> tuple[MountStatus, ...]:
        """What is mounted in it."""
        return tuple(
            MountStatus(self.login, path, worker.view.read_only, worker.process.pid, worker.uid)
            for path, worker in self._workers.items()
        )

    @property
    def closed(self) -> tuple[str, ...]:
        """What stands for volumes that could not be had."""
        return tuple(f"{self.directory}{path}" for path in self._closed)

    @property
    def targets(self) -> tuple[str, ...]:
        """Where something is mounted, or being mounted, that is in use."""
        return tuple(f"{self.directory}{path}" for path in (*self._workers, *self._starting))

    @property
    def monitors(self) -> tuple[int, ...]:
        """Pids of the sessions' sshd monitors."""
        return tuple(self._sessions.pids.values())

    @property
    def empty(self) -> bool:
        """Whether nothing is mounted and nobody is in."""
        return not self._workers and not self._sessions

    async def open_session(self, session: str, views: tuple[View, ...], monitor: Process) -> None:
        """Mount what `views` names and count `monitor` as a session. Raises HostError when a view cannot be mounted.

        Fails as a whole: a session that silently lacks a volume makes a mirroring client delete its copy of it.
        """
        async with self._lock:
            try:
                self._sessions.check_room()
                await self._apply(views)
            except BaseException:
                monitor.close()
                if not self._sessions:
                    self._sessions.idle_since = trio.current_time()
                raise
            added = self._sessions.add(session, monitor)
            self._keep()
        self._start(self._sessions.watch, added)

    def adopt(
        self,
        adopted: Sequence[workers.Worker],
        places: dict[str, tuple[str, ...]],
        sessions: dict[str, Process],
        closed: Collection[str] = (),
    ) -> None:
        """Take over what an earlier hostd has mounted, and who is in. Only for a root that is new.

        `places` are those each worker was started with, by its path; `closed` the places of what could not be had.
        """
        self._closed.update(closed)
        now = placements(worker.view for worker in adopted)
        self._placed = {path: dataclasses.replace(one, places=places[path]) for path, one in now.items()}
        for worker in adopted:
            self._uids.reserve(worker.uid)
            self._workers[worker.view.path] = worker
            self._start(self._watch_worker, worker.view.path, worker)
            self._start(self._look_after, worker)
        for taken in self._sessions.adopt(sessions):
            self._start(self._sessions.watch, taken)
        self._keep()
        self._logger.info("taken over", workers=len(adopted), sessions=len(sessions))

    def _keep(self) -> None:
        """Keep for a successor how things are now."""
        if self.empty and not self._starting and not self._left:
            self._handover.drop(self.login)
            return
        kept = KeptRoot(
            login=self.login,
            uid=self.uid,
            gid=self._gid,
            workers=tuple(
                KeptWorker(one.view, one.process.pid, one.uid, self._placed[path].places, one.mount_id)
                for path, one in self._workers.items()
            ),
            # A root with something left in it is none to take over either.
            starting=(*self._starting, *(target[len(self.directory) :] for target in self._left)),
            sessions=self._sessions.pids,
            closed=tuple(sorted(self._closed)),
        )
        self._handover.save(kept)

    async def apply(self, views: tuple[View, ...]) -> None:
        """Make the root show exactly `views`, if anything is mounted or anybody is in."""
        async with self._lock:
            if not self.empty:
                await self._apply(views)

    async def close(self) -> None:
        """End all sessions and take everything away."""
        async with self._lock:
            await self._remove(list(self._workers))
            await self._sessions.end()
            await self._retry_left()
            self._skeleton.clear()

    async def end_sessions(self, sessions: Collection[str]) -> None:
        """End these sessions and no others. Those that are not open are passed over.

        They are stopped, the workers refuse them everything, and they are killed: so what they have open is dead first,
        and no client hears of it. Nothing is unmounted. A worker that does not answer is not waited for; if one of
        their processes does not end and it still does not answer, what it serves is taken away from all.
        """
        async with self._lock:
            ending = [one for one in self._sessions if one.id in sessions]
            if not ending:
                return
            expelled: set[int] = set()
            silent: list[str] = []

            async def expel(pids: Collection[int]) -> None:
                expelled.update(pids)
                silent.extend(await self._expel(pids))

            done = await self._sessions.end(expel, only=ending, grace_s=END_GRACE_S)
            if not done and (stuck := await self._expel(expelled)):
                self._logger.error("a worker is stuck and keeps sessions from ending, it is taken away", paths=stuck)
                for path in stuck:
                    # It has been asked twice. What waits for it does not see its death: see workers.Worker.
                    self._workers[path].process.signal(signal.SIGKILL)
                await self._remove(stuck)
            # Others may have these pids now. One that has not answered is told so by its watchdog.
            await self._expel((), but=silent)

    async def _expel(self, pids: Collection[int], *, but: Collection[str] = ()) -> list[str]:
        """Have all workers, `but` some, refuse everything to exactly these processes. Returns where they do not."""
        silent: list[str] = []

        async def expel(path: str, worker: workers.Worker) -> None:
            if not await worker.expel(pids):
                silent.append(path)

        async with trio.open_nursery() as nursery:
            for path, worker in self._workers.items():
                if path not in but:
                    nursery.start_soon(expel, path, worker)
        return silent

    async def activity(self) -> list[SessionActivity]:
        """What the sessions do. Waits for no change of the root, and for no worker longer than CALLERS_TIMEOUT_S."""
        return await self._sessions.activity()

    async def _callers(self, pids: Collection[int], ended: bool) -> Answers:
        return await ask(tuple(self._workers.values()), pids, ended=ended)

    async def unmount_if_idle(self, now: float) -> None:
        """Take everything away when nobody has been in for the configured time. `now` is trio's clock, seconds."""
        if self._sessions.idle_since is None or now - self._sessions.idle_since < self._config.host.idle_unmount_s:
            return
        async with self._lock:
            if self._sessions or self._sessions.idle_since is None:
                return
            await self._retry_left()
            for path in with_nested(self._workers, self._workers):
                try:
                    await self._unmount(path)
                except OSError as exc:
                    if exc.errno == errno.EBUSY:
                        self._logger.info("still in use, not unmounted", path=path)
                        self._sessions.idle_since = now
                        return
                    self._logger.warning("cannot be unmounted", path=path, error=str(exc))
                    await self._remove(list(self._workers))
                    break
                self._forget(path)
                self._logger.info("unmounted, idle", path=path)
            self._skeleton.clear()
            self._sessions.idle_since = now if self._left else None

    def _start(self, task: Callable[..., Awaitable[None]], *args: object) -> None:
        """Run `task` in the background; a fault in it is this login's alone."""

        async def guarded() -> None:
            try:
                await task(*args)
            except Exception:
                self._logger.exception("background task failed", task=task.__name__)

        self._nursery.start_soon(guarded)

    async def _apply(self, views: tuple[View, ...]) -> None:
        wanted = placements(views)
        obsolete = []
        for path, placement in list(self._placed.items()):
            new = wanted.get(path)
            if new is not None:
                placement = self._limit(path, new.view)
            if new == placement and self._workers[path].process.alive():
                continue
            if new is None or not await self._change_mode(placement, new):
                obsolete.append(path)
        if obsolete and not await self._withdraw(obsolete):
            await self._remove(obsolete)
        for path in self._closed - wanted.keys():
            self._closed.discard(path)
            self._skeleton.remove(path)
            self._keep()
        for path, placement in wanted.items():
            if path not in self._workers:
                try:
                    await self._mount(placement)
                except (HatchwayError, OSError) as exc:
                    if not placement.view.optional:
                        raise
                    self._close_place(placement, exc)
                else:
                    self._closed.discard(path)

    def _close_place(self, placement: Placement, why: Exception) -> None:
        """Have something stand where a volume should that cannot be had: an error, for whoever looks, and no absence,
        which a client that mirrors would take for a removal."""
        path = placement.view.path
        self._logger.warning("sessions are without a volume", path=path, error=str(why))
        if placement.inside is not None or f"{self.directory}{path}" in self._left:
            return
        try:
            self._skeleton.make(path)
        except OSError as exc:
            self._logger.error("nothing can stand at the place of a volume", path=path, error=str(exc))
            return
        self._closed.add(path)
        self._keep()

    def _limit(self, path: str, view: View) -> Placement:
        """Have the limits of `view` hold for what is mounted at `path`, if that is its volume. What is there now."""
        placement, worker = self._placed[path], self._workers[path]
        if view.limits != placement.view.limits and (view.source, view.birth) == (
            placement.view.source,
            placement.view.birth,
        ):
            limited = structs.replace(placement.view, limits=view.limits)
            self._accounts.account(limited)
            worker.view = structs.replace(worker.view, limits=view.limits)
            placement = self._placed[path] = dataclasses.replace(placement, view=limited)
            self._keep()
        return placement

    async def _change_mode(self, old: Placement, new: Placement) -> bool:
        """Make what is mounted read-only, or writable again, for whoever is in. False when it must be mounted anew."""
        path, worker = old.view.path, self._workers[old.view.path]
        same = structs.replace(old.view, read_only=new.view.read_only)
        if dataclasses.replace(old, view=same) != new:
            return False
        if not worker.process.alive() or not worker.mount_id:
            return False
        try:
            mount = new.view.read_only or await self._mountable_read_write(new.view)
            if not new.view.read_only:
                # Should we die half way, the next hostd must not take for read-only what is not.
                self._placed[path], worker.view = new, new.view
                self._keep()
            await worker.set_read_only(new.view, mount=mount)
        except (HatchwayError, OSError) as exc:
            self._logger.error("cannot be changed while it is mounted", path=path, error=str(exc))
            return False
        self._placed[path] = new
        self._keep()
        self._logger.info("changed", path=path, read_only=new.view.read_only)
        return True

    async def _withdraw(self, paths: list[str]) -> bool:
        """Take volumes away from sessions that go on without them. False when these must be ended instead.

        That is so for volumes that stand in another one or have others in them, since the way to those leads through
        a worker; when a worker is dead or does not obey; and when there is nobody to go on.
        """
        placed = [self._placed[path] for path in paths]
        if not self._sessions or any(one.inside is not None or one.places for one in placed):
            return False
        leaving = [self._workers[path] for path in paths]
        if not all(worker.process.alive() for worker in leaving):
            return False
        monitors = [one.monitor for one in self._sessions]
        try:
            async with processes.paused(monitors) as family:
                listing: set[int] = set()
                obeying: list[workers.Worker] = []

                async def refuse(worker: workers.Worker) -> None:
                    if (state := await worker.refuse()) is not None:
                        obeying.append(worker)
                        listing.update(state.listing)

                async with trio.open_nursery() as nursery:
                    for worker in leaving:
                        nursery.start_soon(refuse, worker)
                known: set[int] = set().union(*(family(monitor) for monitor in monitors))
                strangers = [pid for pid in listing - known if processes.exists(pid)]
                if len(obeying) < len(leaving) or strangers:
                    # The sessions must not go on before they are ended.
                    await self._remove(paths)
                    return True
                # sftp-server would tell a listing that is refused as one that has ended.
                lists = [one for one in self._sessions if not listing.isdisjoint(family(one.monitor))]
                await self._sessions.end(only=lists)
                await self._remember_moved(leaving)
                for path in paths:
                    await self._unmount_under_sessions(path)
        except OSError as exc:
            self._logger.error("sessions cannot go on without it", paths=paths, error=str(exc))
            return False
        return True

    async def _remember_moved(self, leaving: Sequence[workers.Worker]) -> None:
        """Note what the sessions have moved by these workers, which will not be asked again."""
        answers = await ask(leaving, {pid for session in self._sessions for pid in session.pids})
        for session in self._sessions:
            session.has_moved(answers.of(session.pids))

    async def _unmount_under_sessions(self, path: str) -> None:
        """Unmount a volume whose worker refuses everything, whoever has files of it open. They are stopped now."""
        try:
            await self._unmount(path)
        except OSError:
            # Without MNT_FORCE: the answer to what is open is the worker's refusal, as long as it lives.
            await self._unmount(path, mounts.MNT_DETACH)
        self._skeleton.remove(path)
        self._forget(path)
        self._logger.info("unmounted, sessions go on", path=path)

    async def _mount(self, placement: Placement) -> None:
        view = placement.view
        target = f"{self.directory}{view.path}"
        await self._retry_left()
        if any(below(target, left) or below(left, target) for left in self._left):
            raise HostError(f"{view.path} of {self.login} cannot be mounted: what was there cannot be taken away yet")
        if placement.inside is None:
            self._skeleton.make(view.path)
        self._starting.add(view.path)
        self._keep()
        try:
            worker = await self._start_worker(placement, target)
        except BaseException:
            try:
                with trio.CancelScope(shield=True):
                    await self._take_away(placement, target)
            finally:
                self._starting.discard(view.path)
                self._keep()
            raise
        self._placed[view.path] = placement
        self._workers[view.path] = worker
        self._starting.discard(view.path)
        for name, fd in zip(worker_names(worker.uid), worker.descriptors, strict=True):
            self._handover.keep(name, fd)
        self._keep()
        self._start(self._watch_worker, view.path, worker)
        self._start(self._look_after, worker)
        self._logger.info("mounted", path=view.path, read_only=view.read_only, worker=worker.process.pid)

    async def _start_worker(self, placement: Placement, target: str) -> workers.Worker:
        place: int | None = None
        account = self._accounts.account(placement.view)
        self._accounts.use(account)
        try:
            if placement.inside is not None:
                # The way there leads through another volume's worker: walked in a thread, and then by descriptor.
                place = await self._patience.descriptor(target, functools.partial(self._skeleton.open, target))
            return await workers.start(
                self._config,
                self._zygote,
                self._uids,
                self._patience,
                login=self.login,
                uid=self.uid,
                gid=self._gid,
                placement=placement,
                account=account,
                target=target,
                at=target if place is None else f"/proc/self/fd/{place}",
            )
        except BaseException:
            self._accounts.leave(account)
            raise
        finally:
            if place is not None:
                os.close(place)

    async def _take_away(self, placement: Placement, target: str) -> None:
        """Unmount what was not mounted well: nobody has been in it."""
        self._left.add(target)
        await self._retry_left()
        # What stands for a volume that cannot be had is never gone for a moment: see _close_place.
        if placement.inside is None and target not in self._left and not placement.view.optional:
            self._skeleton.remove(placement.view.path)

    async def _retry_left(self) -> None:
        """Unmount what could not be unmounted before, innermost first. What still cannot stays in `_left`."""
        if not self._left:
            return
        try:
            self._left &= {entry.target for entry in mounts.mount_table()}
        except OSError as exc:
            self._logger.error("cannot be unmounted now", targets=sorted(self._left), error=str(exc))
            return
        for target in sorted(self._left, key=lambda target: -target.count("/")):
            try:
                await self._unmount_patiently(target, mounts.MNT_FORCE | mounts.MNT_DETACH)
                self._left.discard(target)
            except OSError as exc:
                self._logger.error("cannot be unmounted now", target=target, error=str(exc))
        self._keep()

    async def _unmount(self, path: str, flags: int = 0) -> None:
        """Unmount a volume. Raises OSError, ETIMEDOUT when the worker on the way there does not answer."""
        # In a thread: the kernel forgets all files it knows of it, which may be hundreds of thousands.
        await self._unmount_patiently(self._workers[path].target, flags)

    async def _unmount_patiently(self, target: str, flags: int) -> None:
        def unmount() -> str:
            mounts.unmount(target, flags)
            return ""

        try:
            await self._patience.text(target, unmount)
        except HostError as exc:
            raise OSError(errno.ETIMEDOUT, str(exc)) from exc

    async def _remove(self, paths: list[str]) -> None:
        """Take volumes, and those that stand in them, away from whoever is in, in the order above."""
        paths = with_nested(paths, self._workers)
        if not paths:
            return
        disobedient: list[workers.Worker] = []

        async def refuse(worker: workers.Worker) -> None:
            if await worker.refuse() is None:
                disobedient.append(worker)

        async def refuse_all(_pids: Collection[int]) -> None:
            async with trio.open_nursery() as nursery:
                for path in paths:
                    nursery.start_soon(refuse, self._workers[path])

        def kill() -> None:
            for worker in disobedient:
                worker.process.signal(signal.SIGKILL)
            # One that cannot be killed keeps whoever waits for it from dying.
            self._abort({worker.target for worker in disobedient})

        # sftp-server tells a listing that fails as one that has ended: to a client that mirrors, an empty directory.
        # So its processes are stopped before a worker refuses anything, and are dying before one is killed that does
        # not obey, whose requests then fail.
        await self._sessions.end(refuse_all, kill)
        for path in paths:
            if path in self._workers:
                await self._unmount_for_good(path)

    async def _unmount_for_good(self, path: str) -> None:
        """Unmount one volume, by force if need be; if that fails, what it stands in too. No session is left."""
        placement = self._placed[path]
        try:
            await self._unmount(path)
        except OSError as exc:
            self._logger.warning("not unmounted in peace", path=path, error=str(exc))
            try:
                await self._unmount(path, mounts.MNT_FORCE | mounts.MNT_DETACH)
            except OSError as forced:
                self._logger.error("cannot be unmounted", path=path, error=str(forced))
                if placement.inside in self._workers:
                    # With it goes what stands in it (umount2(2), MNT_DETACH).
                    await self._unmount_for_good(placement.inside)
                else:
                    self._left.add(self._workers[path].target)
        # What stood in it, if anything is left, went with it.
        for gone in with_nested([path], self._workers):
            self._forget(gone)
            self._logger.info("unmounted", path=gone)
        if placement.inside is None:
            self._skeleton.remove(path)

    def _forget(self, path: str) -> None:
        worker = self._workers.pop(path)
        del self._placed[path]
        self._keep()
        for name in worker_names(worker.uid):
            self._handover.forget(name)
        # It ends by itself when its connection is gone; what still runs then is stuck.
        self._start(self._reap, worker)

    async def _reap(self, worker: workers.Worker) -> None:
        with trio.CancelScope(shield=True):
            with trio.move_on_after(5):
                await worker.process.wait()
            if worker.process.alive():
                worker.process.signal(signal.SIGKILL)
                with trio.move_on_after(5):
                    await worker.process.wait()
            self._uids.give_back(worker.uid)
            worker.close()
            self._accounts.leave(worker.account)

    async def _watch_worker(self, path: str, worker: workers.Worker) -> None:
        await worker.process.wait()
        if self._workers.get(path) is not worker:
            return
        # The mount stays, answering ENOTCONN, until the sessions that use it are gone: see `_remove`.
        self._logger.error("worker died", path=path, worker=worker.process.pid)
        async with self._lock:
            if self._workers.get(path) is worker:
                await self._remove([path])

    async def _look_after(self, worker: workers.Worker) -> None:
        path = worker.view.path

        async def take_away(event: str, problem: str) -> None:
            async with self._lock:
                if self._workers.get(path) is worker and worker.process.alive():
                    self._logger.error(event, path=path, source=worker.view.source, error=problem)
                    await self._remove([path])

        async def readmit() -> None:
            async with self._lock:
                await worker.expel(())

        await self._watchdog.watch(worker, lambda: self._workers.get(path) is worker, take_away, readmit)

    async def _mountable_read_write(self, view: View) -> bool:
        """Whether a mount of `view` that is not asked to be read-only can be written to. Raises HatchwayError."""
        opening = functools.partial(
            sources.open_volume, self._config, view.source, read_only=False, expected=view.birth
        )
        volume = await self._patience.descriptor(view.source, opening)
        try:
            return not os.fstatvfs(volume).f_flag & os.ST_RDONLY
        finally:
            with trio.CancelScope(shield=True):
                await trio.to_thread.run_sync(os.close, volume)

    def _abort(self, targets: Collection[str]) -> None:
        """Fail the requests that wait for the workers of `targets`, without taking the mounts away."""
        if not targets:
            return
        try:
            minors = {entry.minor: entry.target for entry in mounts.mount_table() if entry.target in targets}
        except OSError as exc:
            self._logger.warning("connections not aborted", targets=sorted(targets), error=str(exc))
            return
        for minor, problem in fusectl.abort(minors).items():
            self._logger.warning("connection not aborted", target=minors[minor], error=problem)
