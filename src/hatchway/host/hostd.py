"""hostd's requests: one table, answered to the core only."""

from __future__ import annotations

import contextlib
import functools
import os
import re
import signal
from collections.abc import Collection, Sequence

import trio

from hatchway import log
from hatchway.config import Config
from hatchway.errors import ConflictError, HatchwayError, HostError, RefusedError
from hatchway.host import orphans, policy, processes, sources
from hatchway.host.activity import bounded
from hatchway.host.adoption import adopt
from hatchway.host.errands import Errands
from hatchway.host.handover import Handover, KeptRoot
from hatchway.host.patience import Patience
from hatchway.host.processes import Process
from hatchway.host.records import Records
from hatchway.host.roots import LoginRoot
from hatchway.host.sizes import Accounts
from hatchway.host.skeleton import remove_tree
from hatchway.host.tasks import Tasks
from hatchway.host.whereabouts import Whereabouts
from hatchway.host.workers import WorkerUids, Zygote
from hatchway.kernel import fusectl, mounts
from hatchway.kernel.mounts import MountEntry
from hatchway.wire.frames import Channel
from hatchway.wire.host import (
    Activities,
    ApplyViews,
    AskActivity,
    AskBirths,
    AskFolders,
    AskLeftovers,
    Births,
    Deliver,
    Done,
    EndSessions,
    Folders,
    FolderState,
    HostStatus,
    Leftover,
    Leftovers,
    Measure,
    OpenSession,
    Published,
    PublishUsers,
    ReadKeys,
    SessionActivity,
    SessionEnded,
    Sizes,
    Status,
    Watch,
    Withdraw,
)
from hatchway.wire.service import Peer, Request, Table

IDLE_CHECK_S = 5.0

LOOK_S = 1.0
"""Longest that an answer about folders waits for their file systems."""

_SESSION = re.compile(r"[0-9a-f]{32}")


class Hostd:
    """Everything hostd holds. `gid` is the session group's."""

    def __init__(self, config: Config, nursery: trio.Nursery, *, gid: int) -> None:
        self._config = config
        self._nursery = nursery
        self._gid = gid
        self._records = Records(config.paths.userdb_dir, config.paths.run_dir)
        self._zygote = Zygote(config.workers_socket)
        self._patience = Patience()
        self._handover = Handover(config.handover_dir)
        self._uids = WorkerUids(*config.ids.worker_uids)
        errands = Errands(config, self._zygote, self._uids, self._patience)
        self._accounts = Accounts(config, errands, self._patience)
        self._tasks = Tasks(config, errands, self._accounts)
        self._roots: dict[str, LoginRoot] = {}
        self._watchers: set[trio.MemorySendChannel[SessionEnded]] = set()
        self._counting = trio.CancelScope()
        self._records_lock = trio.Lock()
        # The logins that are to be published; nobody has said yet when None.
        self._wanted: frozenset[str] | None = None
        # Directories of which nothing could be said when they were asked for last, and why.
        self._unidentified: dict[str, str] = {}
        self._logger = log.get()

    def table(self, core_uid: int) -> Table:
        """The requests, all of them the core's alone."""
        only = (core_uid,)
        return {
            PublishUsers: Request(only, self._publish_users),
            OpenSession: Request(only, self._open_session),
            ApplyViews: Request(only, self._apply_views),
            EndSessions: Request(only, self._end_sessions),
            AskActivity: Request(only, self._activity),
            AskBirths: Request(only, self._births),
            AskFolders: Request(only, self._folders),
            Measure: Request(only, self._measure),
            ReadKeys: Request(only, self._tasks.read_keys),
            Deliver: Request(only, self._tasks.deliver),
            Withdraw: Request(only, self._tasks.withdraw),
            AskLeftovers: Request(only, self._leftovers),
            Status: Request(only, self._status),
            Watch: Request(only, self._status, stream=self._stream_endings),
        }

    async def start(self) -> None:
        """Take over from an earlier hostd what goes on, clean up the rest, find the zygote."""
        try:
            mounts.try_nosymfollow()
        except OSError as exc:
            raise HostError(f"no mount can be made that follows no symlink ({exc}); Linux 5.14 or newer can") from exc
        await self._take_over()
        prepare_mount_directory(self._config)
        await self._zygote.start()

    async def stop(self) -> None:
        """End all sessions, take all mounts and records away."""
        self._counting.cancel()
        async with trio.open_nursery() as nursery:
            for root in self._roots.values():
                nursery.start_soon(root.close)
        self._roots.clear()
        self._zygote.close()
        await clean_up(self._config, self._records)
        self._withdraw_all()

    async def end_everything(self) -> None:
        """As `stop`, of what a hostd that is gone has left. Instead of `start`."""
        self._handover.open()
        logins = {kept.login for kept in self._handover.roots()}
        self._handover.discard()
        await clean_up(self._config, self._records, failed=logins)
        self._withdraw_all()
        if any(entry.target == self._config.mount_dir for entry in mounts.mount_table()):
            mounts.unmount(self._config.mount_dir)

    def _withdraw_all(self) -> None:
        for login in self._records.logins(*self._config.ids.login_uids):
            self._records.withdraw_user(login)
        self._handover.close()

    async def _take_over(self) -> None:
        self._handover.open()
        mounted = [entry.target for entry in mounts.mount_table() if entry.kind == mounts.FUSE_KIND]
        failed: set[str] = set()

        async def one(kept: KeptRoot) -> None:
            try:
                adopted = await adopt(
                    self._config, self._handover, self._accounts, kept, gid=self._gid, mounted=mounted
                )
            except Exception as exc:
                self._logger.error("not taken over, will be ended", login=kept.login, error=str(exc))
                failed.add(kept.login)
                self._handover.drop(kept.login)
            else:
                root = self._roots[kept.login] = self._root(kept.login, kept.uid)
                root.adopt(adopted.workers, adopted.placed, adopted.sessions, kept.closed)
                try:
                    await root.end_sessions(adopted.ending)
                except Exception:
                    self._logger.exception("sessions that were being ended are not, so all end", login=kept.login)
                    await root.close()

        async with trio.open_nursery() as nursery:
            for kept in self._handover.roots():
                nursery.start_soon(one, kept)
        self._handover.discard()
        await clean_up(self._config, self._records, tuple(self._roots.values()), failed)

    def _root(self, login: str, uid: int) -> LoginRoot:
        return LoginRoot(
            self._config,
            self._zygote,
            self._uids,
            self._accounts,
            self._patience,
            self._handover,
            self._nursery,
            self._session_ended,
            login=login,
            uid=uid,
            gid=self._gid,
        )

    async def count_volumes(self) -> None:
        """Count what is in the volumes for ever."""
        with self._counting:
            while True:
                try:
                    await self._accounts.run()
                except Exception:
                    self._logger.exception("volumes are not counted for a moment")
                    await trio.sleep(IDLE_CHECK_S)

    async def unmount_idle(self) -> None:
        """Look for idle roots for ever."""
        while True:
            await trio.sleep(IDLE_CHECK_S)
            for root in list(self._roots.values()):
                try:
                    await root.unmount_if_idle(trio.current_time())
                except Exception:
                    self._logger.exception("not unmounted", login=root.login)

    async def _stream_endings(self, channel: Channel) -> None:
        send, receive = trio.open_memory_channel[SessionEnded](10_000)
        self._watchers.add(send)
        try:
            # Again, now that nothing can be missed: what ended since the answer was sent is not in it.
            await channel.send(self._state())
            async for ended in receive:
                await channel.send(ended)
        finally:
            self._watchers.discard(send)
            send.close()

    def _session_ended(self, session: str, read: int, written: int, by_hostd: bool) -> None:
        for send in list(self._watchers):
            try:
                send.send_nowait(SessionEnded(session, read, written, by_hostd))
            except trio.WouldBlock:
                self._logger.error("a watcher does not keep up; it will see the truth when it connects again")
                self._watchers.discard(send)
                send.close()

    async def _publish_users(self, request: PublishUsers, _peer: Peer) -> Published:
        async with self._records_lock:
            wanted = {record.login: record for record in request.users}
            self._wanted = frozenset(wanted)
            first, last = self._config.ids.login_uids
            own = self._records.logins(first, last)
            for login in own.keys() - wanted.keys():
                self._records.withdraw_user(login)
            own = self._records.logins(first, last)
            problems: dict[str, str] = {}
            for record in wanted.values():
                try:
                    if own.get(record.login, record.uid) != record.uid and self._idle(record.login):
                        # Of another registry, before everything was killed.
                        self._records.withdraw_user(record.login)
                        del own[record.login]
                    # Name services may be slow (LDAP), so not in the event loop.
                    check = functools.partial(policy.check_record, self._config, record, own)
                    await trio.to_thread.run_sync(check)
                    self._records.publish_login(record.login, record.uid, self._gid, record.home)
                    own[record.login] = record.uid
                except (ConflictError, RefusedError, HostError) as exc:
                    problems[record.login] = str(exc)
        for login, problem in problems.items():
            self._logger.error("login not published", login=login, error=problem)
        return Published(problems)

    def _idle(self, login: str) -> bool:
        root = self._roots.get(login)
        return root is None or root.empty

    async def _open_session(self, request: OpenSession, _peer: Peer) -> Done:
        policy.check_login(self._config, request.login, request.uid)
        policy.check_views(self._config, request.views)
        if self._records.uid_of(request.login) != request.uid:
            raise RefusedError(f"{request.login} is not published with uid {request.uid}")
        known = any(request.session in root.sessions for root in self._roots.values())
        if known or _SESSION.fullmatch(request.session) is None:
            raise RefusedError(f"{request.session!r} is no new session")
        monitor = processes.session_monitor(request.helper_pid, request.login, self._config.sshd.pam_service)
        root = self._roots.get(request.login)
        if root is None:
            root = self._roots[request.login] = self._root(request.login, request.uid)
        await root.open_session(request.session, request.views, monitor)
        return Done()

    async def _apply_views(self, request: ApplyViews, _peer: Peer) -> Done:
        if (root := self._roots.get(request.login)) is not None and not root.empty:
            try:
                policy.check_views(self._config, request.views)
            except RefusedError:
                # Something among them was taken away, perhaps, and must not stay because something else may not come.
                await root.close()
                raise
            await root.apply(request.views)
        return Done()

    async def _end_sessions(self, request: EndSessions, _peer: Peer) -> Done:
        if (root := self._roots.get(request.login)) is not None:
            if request.sessions is None:
                await root.close()
            else:
                await root.end_sessions(request.sessions)
        return Done()

    async def _activity(self, request: AskActivity, _peer: Peer) -> Activities:
        roots = [root for login, root in self._roots.items() if request.login in (None, login)]
        found: list[SessionActivity] = []

        async def one(root: LoginRoot) -> None:
            found.extend(await root.activity())

        async with trio.open_nursery() as nursery:
            for root in roots:
                nursery.start_soon(one, root)
        return Activities(bounded(found))

    async def _births(self, request: AskBirths, _peer: Peer) -> Births:
        answer, whereabouts, where = Births({}, {}, {}, {}), Whereabouts(), dict[str, str]()

        def look(source: str) -> str:
            # In a thread, which may be done when nobody waits for it any more.
            found = sources.look(self._config, source, whereabouts)
            where[source] = found.where
            return found.birth

        looks = {source: functools.partial(look, source) for source in request.sources}
        for source, found in (await self._patience.texts(looks)).items():
            match found:
                case str():
                    answer.births[source], answer.whereabouts[source] = found, where[source]
                case RefusedError():
                    answer.refused[source] = str(found)
                case HostError():
                    answer.unknown[source] = str(found)
                case _:
                    raise found
        for source, problem in answer.unknown.items():
            if self._unidentified.get(source) != problem:
                self._logger.warning("not identified", source=source, error=problem)
        others = [(source, problem) for source, problem in self._unidentified.items() if source not in looks]
        self._unidentified = {**dict(others[-sources.LOOKS_MAX :]), **answer.unknown}
        return answer

    async def _folders(self, request: AskFolders, _peer: Peer) -> Folders:
        asked: dict[tuple[str, str], list[str]] = {}
        for one in request.folders:
            asked.setdefault((one.source, one.birth), []).append(one.folder)
        found: dict[tuple[str, str], dict[str, FolderState]] = {}

        def look(source: str) -> str:
            # In a thread, which may be done when nobody waits for it any more.
            for (of, birth), folders in asked.items():
                if of == source:
                    with contextlib.suppress(HatchwayError):
                        found[of, birth] = sources.folder_states(self._config, source, expected=birth, folders=folders)
            return ""

        looks = {source: functools.partial(look, source) for source, _ in asked}
        with trio.move_on_after(LOOK_S):
            await self._patience.texts(looks)
        known = dict(found)
        return Folders(
            tuple(
                known.get((one.source, one.birth), {}).get(one.folder, FolderState.UNKNOWN) for one in request.folders
            )
        )

    async def _measure(self, request: Measure, _peer: Peer) -> Sizes:
        return await self._accounts.measure(request)

    async def _leftovers(self, _request: AskLeftovers, _peer: Peer) -> Leftovers:
        found = await self._look()
        if found:
            await trio.sleep(orphans.PAUSE_S)
            again = set(await self._look())
            found = [one for one in found if one in again]
        return Leftovers(tuple(found), os.getpid())

    async def _look(self) -> list[Leftover]:
        roots = self._roots.values()
        ids = self._config.ids
        wanted = self._records.logins(*ids.login_uids) if self._wanted is None else self._wanted
        in_use = orphans.InUse(
            names=frozenset({*wanted, *ids.names}),
            roots=frozenset(self._roots),
            targets=frozenset({self._config.mount_dir, *(target for root in roots for target in root.targets)}),
            worker_uids=self._uids.used,
            monitors=frozenset(pid for root in roots for pid in root.monitors),
        )
        return await trio.to_thread.run_sync(orphans.find, self._config, in_use)

    async def _status(self, _request: Status | Watch, _peer: Peer) -> HostStatus:
        return self._state()

    def _state(self) -> HostStatus:
        roots = self._roots.values()
        return HostStatus(
            mounts=tuple(mount for root in roots for mount in root.mounts),
            sessions={session: root.login for root in roots for session in root.sessions},
        )


def prepare_mount_directory(config: Config) -> None:
    """Make the directory of login roots a private tmpfs of its own, readable by root only. Raises HostError.

    Private: under systemd's shared propagation nothing in it could be moved. 0700: at 0755 any local user could list
    a tenant's directory; sshd looks it up as root.
    """
    directory = config.mount_dir
    try:
        os.makedirs(directory, mode=0o700, exist_ok=True)
        if not any(entry.target == directory for entry in mounts.mount_table()):
            flags = mounts.MS_NOSUID | mounts.MS_NODEV | mounts.MS_NOEXEC
            mounts.mount("hatchway", directory, "tmpfs", flags, "mode=0700,size=64m,nr_inodes=200k")
        mounts.make_private(directory)
    except OSError as exc:
        raise HostError(f"{directory} cannot be prepared: {exc}") from exc


async def clean_up(
    config: Config, records: Records, adopted: Sequence[LoginRoot] = (), failed: Collection[str] = ()
) -> None:
    """Remove what an earlier hostd left and is not part of `adopted`: sessions, FUSE mounts, directories.

    `failed` are logins that had sessions. Processes are sent SIGKILL before anything they wait for fails: what they
    are told then they do not live to pass on, an empty directory above all. The logins' records stay: whose login is
    none any more the core says, and until then nobody can enter without it.
    """
    logger = log.get()
    directory = config.mount_dir
    left = orphans.mounts(config, {directory, *(target for root in adopted for target in root.targets)})
    logins = records.logins(*config.ids.login_uids).keys() - {root.login for root in adopted}
    ending = {*failed, *(entry.target[len(directory) + 1 :].partition("/")[0] for entry in left)}
    running = processes.everyone()
    # Of logins where nothing is left only one that hostd had stopped, in order to end it, when it was itself killed:
    # the rest are just logging in.
    ended = [
        seen
        for seen in running
        if (login := seen.monitored(config.sshd.pam_service)) in ending or (login in logins and seen.state == "T")
    ]
    workers: list[Process] = []
    alone = not orphans.others(config)
    numbers = {uid for login, uid in records.logins(*config.ids.login_uids).items() if login in ending}
    ended += [
        seen
        for seen in orphans.sessions(config, running, logins, {pid for root in adopted for pid in root.monitors})
        # Beside another Hatchway, which may have our uids by mistake, only those of logins of which something is left.
        if alone or seen.monitored(config.sshd.pam_service) in ending or seen.uids[0] in numbers
    ]
    if alone:
        # Else ours cannot be told from its; ours end when their connections are aborted.
        worker_uids = {mount.worker_uid for root in adopted for mount in root.mounts}
        workers = processes.hold(orphans.workers(config, running, worker_uids))
    for seen in set(ended):
        logger.info("left over from before, ended", pid=seen.pid, login=seen.monitored(config.sshd.pam_service))
    sessions = processes.hold(set(ended))
    for process in sessions:
        process.signal(signal.SIGKILL)
    connections = {entry.minor: entry.target for entry in left if entry.kind == mounts.FUSE_KIND}
    for minor, problem in fusectl.abort(connections).items():
        logger.warning("connection not aborted", target=connections[minor], error=problem)
    for process in workers:
        process.signal(signal.SIGKILL)
    with trio.move_on_after(5):
        for process in (*sessions, *workers):
            await process.wait()
    for process in (*sessions, *workers):
        process.close()
    await _unmount(config, left)
    remaining = {entry.target for entry in mounts.mount_table()}
    if directory in remaining:
        # What stands for a volume that cannot be had stays as well, in sessions that go on.
        remaining |= {place for root in adopted for place in root.closed}
        for name in os.listdir(directory):
            remove_tree(f"{directory}/{name}", remaining)


async def _unmount(config: Config, left: Sequence[MountEntry]) -> None:
    """Unmount everything in `left`, of each login what stands in another volume before that.

    The way there leads through that volume's worker, which need not answer: so in threads, each with a deadline.
    """
    logger = log.get()
    patience = Patience()
    by_login: dict[str, list[str]] = {}
    for entry in reversed(left):
        name = entry.target[len(config.mount_dir) + 1 :].partition("/")[0]
        by_login.setdefault(name, []).append(entry.target)

    async def of_one(targets: list[str]) -> None:
        for target in sorted(targets, key=lambda target: -target.count("/")):
            try:
                await patience.text(target, functools.partial(_unmount_by_force, target))
                logger.info("left over from before, unmounted", target=target)
            except (OSError, HostError) as exc:
                # One that stands in another volume goes with that.
                logger.info("not unmounted by itself", target=target, error=str(exc))

    async with trio.open_nursery() as nursery:
        for targets in by_login.values():
            nursery.start_soon(of_one, targets)


def _unmount_by_force(target: str) -> str:
    try:
        mounts.unmount(target)
    except OSError:
        mounts.unmount(target, mounts.MNT_FORCE | mounts.MNT_DETACH)
    return ""
