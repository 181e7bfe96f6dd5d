"""One login's root with the kernel's mounts and the workers faked: what is left, and in which order things end."""

from __future__ import annotations

import contextlib
import errno
import os
import signal
import socket
import subprocess
import threading
import time
from collections.abc import AsyncIterator, Callable, Collection, Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest
import trio
from msgspec import structs

from hatchway.config import Config, Paths
from hatchway.errors import HostError, RefusedError
from hatchway.host import activity, patience, processes, sources, watchdog, workers
from hatchway.host.account import Account
from hatchway.host.errands import Errands
from hatchway.host.handover import Handover
from hatchway.host.patience import Patience
from hatchway.host.placement import Placement
from hatchway.host.processes import Process
from hatchway.host.roots import LoginRoot
from hatchway.host.sizes import Accounts
from hatchway.host.workers import Worker, WorkerUids, Zygote
from hatchway.kernel import mounts
from hatchway.kernel.mounts import MountEntry
from hatchway.wire import host as wire
from hatchway.wire.frames import MAX_FRAME, decode
from hatchway.wire.host import FILES_MAX, PATH_MAX, View
from hatchway.wire.worker import CallerState, OpenFile, WorkerState, pack

DATA = View("/data", "/srv/data", False)
LOGS = View("/logs", "/srv/logs", False)
INNER = View("/data/inner", "/srv/inner", False)
SESSION = "0" * 32


def state(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2][0]
    except OSError:
        return "gone"


class Table:
    """The mount table. `hangs` are targets that cannot be unmounted until the event is set; `serving` are workers."""

    def __init__(self) -> None:
        self.targets: list[str] = []
        self.problem: Exception | None = None
        self.hangs: dict[str, threading.Event] = {}
        self.serving: dict[str, int] = {}

    def entries(self) -> list[MountEntry]:
        if self.problem is not None:
            raise self.problem
        return [
            MountEntry(target, mounts.FUSE_KIND, "hatchway:x", 1_000_000 + n) for n, target in enumerate(self.targets)
        ]

    def unmount(self, target: str, _flags: int = 0) -> None:
        if target in self.hangs:
            self.hangs[target].wait(10)
        if target not in self.targets:
            raise OSError(errno.EINVAL, "not mounted")
        self.targets.remove(target)
        if target in self.serving:
            os.kill(self.serving.pop(target), signal.SIGKILL)


class FakeWorker(Worker):
    """A worker that does as told; `stuck` ones answer nothing."""

    def __init__(self, view: View, target: str, uid: int, program: int, account: Account) -> None:
        ours, theirs = socket.socketpair()
        theirs.close()
        super().__init__(Process(program), trio.socket.from_stdlib_socket(ours), view, target, uid, account)
        self.stuck = False
        self.nodes = 1
        self.asked = 0
        self.mount_id = 1
        self.listing: tuple[int, ...] = ()
        self.refused_when: list[str] = []
        """What was to be known of other processes when it was told to refuse: see `watched`."""
        self.watched: list[int] = []
        self.expelled: tuple[int, ...] = ()
        self.was_expelled: set[int] = set()
        self.did: dict[int, CallerState] = {}

    async def expel(self, pids: Collection[int], timeout_s: float = 0.3) -> bool:
        if pids:
            self.refused_when = [state(pid) for pid in self.watched]
            self.was_expelled |= set(pids)
        if self.stuck:
            await trio.sleep(timeout_s)
            return False
        self.expelled = tuple(pids)
        return True

    async def callers(self, pids: Collection[int], *, ended: bool = False) -> list[CallerState]:
        if self.stuck:
            await trio.sleep(workers.CALLERS_TIMEOUT_S)
            raise HostError("no answer")
        return [self.did.pop(pid) if ended else self.did[pid] for pid in pids if pid in self.did]

    async def set_read_only(self, view: View, *, mount: bool = True) -> None:
        if self.stuck:
            raise HostError("no answer")
        self.view = view

    async def ping(self, timeout_s: float) -> WorkerState:
        self.asked += 1
        if self.stuck:
            raise HostError("no answer")
        return WorkerState(0, 0, False, False, self.nodes, expelled=self.expelled)

    async def refuse(self) -> WorkerState | None:
        self.refused_when = [state(pid) for pid in self.watched]
        return None if self.stuck else WorkerState(0, 0, True, True, listing=self.listing)


class Made:
    """A root and what stands in for the rest. `fail` are paths whose worker does not start."""

    def __init__(
        self, root: LoginRoot, table: Table, programs: Callable[[str], int], ended: list[tuple[str, int, int, bool]]
    ) -> None:
        self.root = root
        self.ended = ended
        self.table = table
        self.fail: set[str] = set()
        self.started: list[str] = []
        self._programs = programs

    async def start(self, *_args: Any, placement: Placement, account: Account, target: str, **_more: Any) -> Worker:
        path = placement.view.path
        self.started.append(path)
        self.table.targets.append(target)
        if path in self.fail:
            raise HostError("the worker did not start")
        self.table.serving[target] = pid = self._programs("exec sleep 1000")
        return FakeWorker(placement.view, target, 10 + len(self.started), pid, account)

    async def open(self, *views: View, session: str = SESSION) -> None:
        await self.root.open_session(session, views, Process(self._programs("sleep 1000 & wait")))


@pytest.fixture
def programs() -> Iterator[Callable[[str], int]]:
    """Starts a shell script in a group of its own, and returns its pid."""
    with contextlib.ExitStack() as stack:

        def start(script: str) -> int:
            program = stack.enter_context(subprocess.Popen(["sh", "-c", script], start_new_session=True))

            def end() -> None:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(program.pid, signal.SIGKILL)

            stack.callback(end)
            return program.pid

        yield start


@pytest.fixture
async def made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, programs: Callable[[str], int]) -> AsyncIterator[Made]:
    config = Config(paths=Paths(run_dir=str(tmp_path)))
    os.mkdir(config.mount_dir)
    handover = Handover(config.handover_dir)
    handover.open()
    table = Table()
    monkeypatch.setattr(mounts, "mount_table", table.entries)
    monkeypatch.setattr(mounts, "unmount", table.unmount)
    monkeypatch.setattr(patience, "DEADLINE_S", 0.2)
    ended: list[tuple[str, int, int, bool]] = []
    async with trio.open_nursery() as nursery:
        zygote, uids, patient = Zygote("info"), WorkerUids(1, 1000), Patience()
        accounts = Accounts(config, Errands(config, zygote, uids, patient), patient)
        root = LoginRoot(
            config, zygote, uids, accounts, patient, handover, nursery, lambda *told: ended.append(told),
            login="shop-web-1", uid=1000, gid=1000,
        )  # fmt: skip
        made = Made(root, table, programs, ended)
        monkeypatch.setattr(workers, "start", made.start)
        monkeypatch.setattr(root._skeleton, "open", lambda _target: os.open("/", os.O_PATH))
        yield made
        for event in table.hangs.values():
            event.set()
        await root.close()
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize("problem", [OSError(errno.EMFILE, "too many open files"), ValueError("odd line")])
async def test_a_failed_mount_that_cannot_be_taken_back_is_not_being_mounted_for_ever(
    made: Made, problem: Exception
) -> None:
    made.fail = {"/data"}
    made.table.problem = problem
    with pytest.raises((HostError, ValueError)):
        await made.open(DATA)
    assert made.root.targets == ()
    made.table.problem = None
    made.fail = set()
    await made.open(DATA)
    assert made.table.targets == [f"{made.root.directory}/data"], "the failed one is gone"


async def test_nothing_is_mounted_on_top_of_what_cannot_be_taken_away(made: Made) -> None:
    inner = f"{made.root.directory}/data/inner"
    made.fail, made.table.hangs = {"/data/inner"}, {inner: threading.Event()}
    with pytest.raises(HostError, match="did not start"):
        await made.open(DATA, INNER)
    made.fail = set()
    with pytest.raises(HostError, match="/data/inner of shop-web-1 cannot be mounted: what was there"):
        await made.open(DATA, INNER)
    assert made.started == ["/data", "/data/inner"]
    assert made.table.targets.count(inner) == 1
    made.table.hangs[inner].set()
    with trio.fail_after(5):
        while inner in made.table.targets:
            await trio.sleep(0.01)
    await made.open(DATA, INNER)
    assert made.table.targets.count(inner) == 1


async def test_what_could_not_be_taken_away_goes_when_nobody_is_in(made: Made) -> None:
    inner = f"{made.root.directory}/data/inner"
    made.fail, made.table.hangs = {"/data/inner"}, {inner: threading.Event()}
    with pytest.raises(HostError, match="did not start"):
        await made.open(DATA, INNER)
    made.table.hangs.pop(inner).set()
    with trio.fail_after(5):
        while inner in made.table.targets:
            await trio.sleep(0.01)
    made.table.targets.append(inner)
    await made.root.unmount_if_idle(trio.current_time() + 1_000_000)
    assert made.table.targets == []
    assert not os.path.exists(made.root.directory)


async def test_a_worker_that_knows_too_many_files_is_relieved(made: Made, monkeypatch: pytest.MonkeyPatch) -> None:
    """And looked after more often from a quarter of that on, for it may get there quickly."""
    monkeypatch.setattr(watchdog, "WATCHDOG_S", 0.05)
    monkeypatch.setattr(watchdog, "BUSY_WATCHDOG_S", 0.01)
    opened: list[str] = []
    problems: list[OSError | None] = [OSError(errno.EIO, "broken"), None]

    def forget(fd: int) -> None:
        opened.append(os.readlink(f"/proc/self/fd/{fd}"))
        if problems and (problem := problems.pop(0)) is not None:
            raise problem
        assert isinstance(worker, FakeWorker)
        worker.nodes = 1

    monkeypatch.setattr(mounts, "forget_unused", forget)
    await made.open(DATA)
    worker = made.root._workers["/data"]
    assert isinstance(worker, FakeWorker)
    worker.nodes = watchdog.FORGET_FROM
    with trio.fail_after(5):
        while worker.asked < 3:
            await trio.sleep(0.01)
    assert opened == []
    worker.nodes = watchdog.FORGET_FROM + 1
    with trio.fail_after(5):
        while worker.nodes > 1:
            await trio.sleep(0.01)
    # The first attempt failed, which ended nothing.
    assert opened == ["/", "/"]
    assert made.root.sessions == (SESSION,)
    asked = worker.asked
    with trio.fail_after(5):
        while worker.asked == asked:
            await trio.sleep(0.01)
    assert opened == ["/", "/"]


async def test_a_stuck_worker_is_killed_only_when_its_sessions_are_stopped(
    made: Made, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watchdog, "WATCHDOG_S", 0.1)
    await made.open(DATA)
    (monitor,) = made.root.monitors
    children = Path(f"/proc/{monitor}/task/{monitor}/children")
    with trio.fail_after(5):
        while not children.read_text().split():
            await trio.sleep(0.01)
    child = int(children.read_text().split()[0])
    worker = made.root._workers["/data"]
    assert isinstance(worker, FakeWorker)
    seen: list[tuple[int, str]] = []

    def signalled(number: int) -> None:
        time.sleep(0.2)  # one that was sent SIGKILL runs until it has ended
        seen.append((number, state(child)))

    monkeypatch.setattr(worker.process, "signal", signalled)
    worker.stuck = True
    with trio.fail_after(15):
        while made.table.targets:
            await trio.sleep(0.05)
    assert seen, "it was killed"
    assert seen[0][0] == signal.SIGKILL
    assert seen[0][1] in ("T", "Z", "gone"), "what a session's processes see fail they must not tell"
    assert made.root.sessions == ()


class Session:
    """A session with one process below its monitor."""

    def __init__(self, made: Made, number: int) -> None:
        self.id = f"{number:032}"
        self.monitor = made.root._sessions.pids[self.id]
        self.child = 0

    async def begin(self) -> None:
        children = Path(f"/proc/{self.monitor}/task/{self.monitor}/children")
        with trio.fail_after(5):
            while not (found := children.read_text().split()):
                await trio.sleep(0.01)
        self.child = int(found[0])

    def over(self) -> bool:
        return state(self.child) in ("Z", "gone")


async def two_sessions(made: Made, *views: View) -> list[Session]:
    sessions = []
    for number in range(2):
        await made.open(*views, session=f"{number:032}")
        session = Session(made, number)
        await session.begin()
        sessions.append(session)
    return sessions


def worker_at(made: Made, path: str) -> FakeWorker:
    worker = made.root._workers[path]
    assert isinstance(worker, FakeWorker)
    return worker


async def test_sessions_go_on_without_a_volume_that_is_taken_away(made: Made) -> None:
    sessions = await two_sessions(made, DATA, LOGS)
    leaving, staying = worker_at(made, "/data"), worker_at(made, "/logs")
    leaving.watched = [pid for one in sessions for pid in (one.monitor, one.child)]
    await made.root.apply((LOGS,))
    assert leaving.refused_when == ["T"] * 4, "nobody runs while the worker refuses and the mount goes"
    assert worker_at(made, "/logs") is staying
    assert staying.refused_when == []
    assert made.started == ["/data", "/logs"]
    assert made.table.targets == [f"{made.root.directory}/logs"]
    assert os.listdir(made.root.directory) == ["logs"]
    assert [one.over() for one in sessions] == [False, False]
    assert all(state(pid) in "SR" for one in sessions for pid in (one.monitor, one.child)), "they run again"
    assert len(made.root.sessions) == 2


async def test_who_has_a_directory_of_it_open_is_ended_and_nobody_else(made: Made) -> None:
    sessions = await two_sessions(made, DATA, LOGS)
    worker_at(made, "/data").listing = (sessions[1].child,)
    await made.root.apply((LOGS,))
    assert [one.over() for one in sessions] == [False, True]
    assert made.root.sessions == (sessions[0].id,)


async def test_a_listing_of_nobody_we_know_ends_all(made: Made, programs: Callable[[str], int]) -> None:
    sessions = await two_sessions(made, DATA, LOGS)
    worker_at(made, "/data").listing = (programs("exec sleep 1000"),)
    await made.root.apply((LOGS,))
    assert [one.over() for one in sessions] == [True, True]
    assert made.table.targets == [f"{made.root.directory}/logs"]


async def test_a_listing_of_a_process_that_has_ended_ends_nobody(made: Made) -> None:
    sessions = await two_sessions(made, DATA, LOGS)
    with subprocess.Popen(["true"]) as ended:
        ended.wait()
    worker_at(made, "/data").listing = (ended.pid,)
    await made.root.apply((LOGS,))
    assert [one.over() for one in sessions] == [False, False]


async def test_a_worker_that_does_not_refuse_ends_all(made: Made) -> None:
    sessions = await two_sessions(made, DATA, LOGS)
    worker_at(made, "/data").stuck = True
    await made.root.apply((LOGS,))
    assert [one.over() for one in sessions] == [True, True]
    assert made.root.sessions == ()


@pytest.mark.parametrize("left", [(DATA,), (INNER,)])
async def test_sessions_do_not_go_on_when_a_volume_stands_in_another(made: Made, left: tuple[View, ...]) -> None:
    sessions = await two_sessions(made, DATA, INNER)
    await made.root.apply(left)
    assert [one.over() for one in sessions] == [True, True]


async def test_read_only_is_no_new_mount(made: Made) -> None:
    sessions = await two_sessions(made, DATA, LOGS)
    before = worker_at(made, "/data")
    await made.root.apply((structs.replace(DATA, read_only=True), LOGS))
    assert worker_at(made, "/data") is before
    assert [(mount.path, mount.read_only) for mount in made.root.mounts] == [("/data", True), ("/logs", False)]
    assert [one.over() for one in sessions] == [False, False]
    # One that does not obey is taken away, from everybody, and another is mounted.
    await made.root.apply((DATA, LOGS))
    before = worker_at(made, "/data")
    before.stuck = True
    await made.root.apply((structs.replace(DATA, read_only=True), LOGS))
    assert worker_at(made, "/data") is not before
    assert [one.over() for one in sessions] == [True, True]


async def test_another_directory_at_the_same_path_is_mounted_anew_for_open_sessions(made: Made) -> None:
    sessions = await two_sessions(made, DATA, LOGS)
    await made.root.apply((structs.replace(DATA, source="/srv/other"), LOGS))
    assert made.started == ["/data", "/logs", "/data"]
    assert [one.over() for one in sessions] == [False, False]
    assert worker_at(made, "/data").view.source == "/srv/other"


async def test_a_mount_point_is_no_directory_that_can_be_listed(made: Made) -> None:
    await made.open(View("/srv/deep/data", "/srv/data", False), LOGS)
    modes = {path: os.lstat(f"{made.root.directory}/{path}").st_mode & 0o7777 for path in ("srv", "srv/deep")}
    assert set(modes.values()) == {0o755}
    for path in ("srv/deep/data", "logs"):
        assert os.lstat(f"{made.root.directory}/{path}").st_mode & 0o7777 == 0


async def test_a_directory_that_is_gone_ends_its_sessions(made: Made, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watchdog, "WATCHDOG_S", 0.1)
    looks: list[str] = []

    def vanished(_config: Config, source: str, expected: str) -> str:
        looks.append(f"{source} {expected}")
        if len(looks) == 1:
            raise RefusedError("not allowed")
        return "" if len(looks) in (2, 4) else "another directory"

    monkeypatch.setattr(sources, "vanished", vanished)
    await made.open(structs.replace(DATA, birth="b"))
    session = Session(made, 0)
    await session.begin()
    with trio.fail_after(5):
        while made.table.targets:
            await trio.sleep(0.02)
    assert looks == ["/srv/data b"] * 6, "one look that says so is not enough"
    assert session.over()


async def test_named_sessions_end_and_others_go_on(made: Made) -> None:
    """Order: stopped, expelled, killed. Nothing is unmounted, and nobody else is even stopped."""
    sessions = await two_sessions(made, DATA, INNER)
    ending, staying = sessions
    standing = [worker_at(made, path) for path in ("/data", "/data/inner")]
    for worker in standing:
        worker.watched = [ending.monitor, ending.child, staying.monitor, staying.child]
    await made.root.end_sessions(["f" * 32, ending.id])
    for worker in standing:
        assert worker.refused_when[:2] == ["T", "T"]
        assert "T" not in worker.refused_when[2:]
        assert worker.was_expelled == {ending.monitor, ending.child}
        assert worker.expelled == (), "others may have these pids now"
    assert [one.over() for one in sessions] == [True, False]
    assert made.root.sessions == (staying.id,)
    assert [session for session, _read, _written, by_us in made.ended if by_us] == [ending.id]
    assert [worker_at(made, path) for path in ("/data", "/data/inner")] == standing
    await made.root.end_sessions([ending.id, ""])
    assert not staying.over()


async def test_a_worker_that_does_not_expel_holds_nobody_up(made: Made) -> None:
    sessions = await two_sessions(made, DATA, LOGS)
    worker_at(made, "/data").stuck = True
    began = trio.current_time()
    await made.root.end_sessions([sessions[1].id])
    # Half a second more for what the sessions moved, which nobody waits for who is killed.
    assert trio.current_time() - began < 1
    assert [one.over() for one in sessions] == [False, True]
    assert len(made.root.mounts) == 2, "they could end, so nothing is taken away"


async def test_what_keeps_a_session_from_ending_is_taken_away(made: Made, monkeypatch: pytest.MonkeyPatch) -> None:
    sessions = await two_sessions(made, DATA, LOGS)
    worker_at(made, "/data").stuck = True
    real = processes.end

    async def does_not_end(monitors: Iterable[Process], **more: Any) -> bool:
        await real(monitors, **more)
        return False

    monkeypatch.setattr(processes, "end", does_not_end)
    await made.root.end_sessions([sessions[1].id])
    assert [mount.path for mount in made.root.mounts] == ["/logs"]
    assert [one.over() for one in sessions] == [True, True], "what they see fail they must not tell"


async def test_a_worker_that_was_not_told_is_told_later_that_nobody_is_expelled(
    made: Made, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watchdog, "WATCHDOG_S", 0.05)
    await made.open(DATA)
    worker = worker_at(made, "/data")
    async with made.root._lock:
        # As while sessions are being ended.
        worker.expelled = (7, 8)
        asked = worker.asked
        await trio.sleep(0.3)
        assert worker.asked > asked
        assert len(worker.expelled) == 2
    with trio.fail_after(5):
        while len(worker.expelled) > 0:
            await trio.sleep(0.01)


def did(pid: int, read: int, written: int, *files: bytes, idle_ms: int = 0) -> CallerState:
    return CallerState(pid, read, written, idle_ms, tuple(OpenFile(path, path.startswith(b"w")) for path in files))


async def test_what_sessions_do_is_told_by_their_processes(made: Made) -> None:
    one, other = await two_sessions(made, DATA, LOGS)
    stranger = os.getpid()
    data, logs = worker_at(made, "/data"), worker_at(made, "/logs")
    data.did = {
        one.child: did(one.child, 10, 1, b"writes/me", idle_ms=5000),
        other.child: did(other.child, 20, 2, b"a", b"b"),
        stranger: did(stranger, 999, 999),
    }
    logs.did = {one.child: did(one.child, 300, 30, b"", idle_ms=2500)}
    found = {told.session: told for told in await made.root.activity()}
    assert set(found) == {one.id, other.id}
    told = found[one.id]
    assert (told.login, told.read, told.written, told.idle_s, told.partial) == ("shop-web-1", 310, 31, 2.5, False)
    assert told.files == (wire.OpenFile("/data/writes/me", True), wire.OpenFile("/logs", False))
    assert [file.path for file in found[other.id].files] == ["/data/a", "/data/b"]
    # One that does not answer is left out, and it is said that something is.
    data.stuck = True
    began = trio.current_time()
    (told,) = [told for told in await made.root.activity() if told.session == one.id]
    assert (told.read, told.partial) == (300, True)
    assert trio.current_time() - began < 1


async def test_what_a_session_has_moved_is_known_when_it_ends(made: Made) -> None:
    one, other = await two_sessions(made, DATA, LOGS)
    with trio.fail_after(5):
        while not all(session.pids for session in made.root._sessions):
            await trio.sleep(0.01)
    data, logs = worker_at(made, "/data"), worker_at(made, "/logs")
    data.did = {one.child: did(one.child, 10, 1), other.child: did(other.child, 20, 2)}
    logs.did = {one.child: did(one.child, 300, 30)}
    os.killpg(one.monitor, signal.SIGKILL)
    with trio.fail_after(5):
        while not made.ended:
            await trio.sleep(0.01)
    assert made.ended == [(one.id, 310, 31, False)]
    assert list(data.did) == [other.child], "what has ended is forgotten"
    # And of a volume that is taken away meanwhile, or with the session.
    await made.root.apply((LOGS,))
    data.did = {}
    logs.did = {other.child: did(other.child, 400, 40)}
    await made.root.close()
    assert made.ended[1:] == [(other.id, 420, 42, True)]


async def test_a_process_of_a_session_that_ends_before_it_is_counted_once(made: Made) -> None:
    """A client may end its transfers and begin others in one connection."""
    await made.root.open_session(SESSION, (DATA,), Process(made._programs("while :; do sleep 0.4; done")))
    (session,) = made.root._sessions
    worker = worker_at(made, "/data")
    seen: set[int] = set()
    with trio.fail_after(10):
        while len(seen) < 3:
            for pid in session.pids - seen:
                seen.add(pid)
                worker.did[pid] = did(pid, 1, 100)
            await trio.sleep(0.01)
    assert len(session.pids) < 3
    (told,) = await made.root.activity()
    assert told.written == 100 * len(seen)


@pytest.mark.parametrize("number", [-1, 2**64 - 1])
async def test_what_a_worker_makes_up_is_bounded(made: Made, number: int) -> None:
    """It may have been taken over; the answer to the core must go out all the same."""
    sessions = await two_sessions(made, DATA)
    worker = worker_at(made, "/data")
    paths = [b"\xff\x1b[31m" * 300, "\u202e".encode() * 300, *[b"x"] * 50]
    for session in sessions:
        worker.did[session.child] = did(session.child, number, number, *paths, idle_ms=number)
    made.root._sessions._open[sessions[0].id].read = activity.COUNT_MAX
    told = await made.root.activity()
    assert len(told) == 2
    for one in told:
        assert one.read in (0, activity.COUNT_MAX)
        assert len(one.files) == FILES_MAX
        assert all(len(file.path) <= PATH_MAX and file.path.isprintable() for file in one.files)
    assert decode(pack(wire.Activities(activity.bounded(told))), wire.Activities).sessions == tuple(told)


def test_paths_of_very_many_sessions_have_room_in_a_frame() -> None:
    files = tuple(wire.OpenFile("é" * PATH_MAX, True) for _ in range(FILES_MAX))
    one = wire.SessionActivity(session=SESSION, login="l" * 32, read=1, written=1, idle_s=1.0, files=files)
    told = activity.bounded([one] * 10_000)
    assert len(told) == 10_000
    assert (told[0].files, told[-1].files, told[-1].partial) == (files, (), True)
    assert len(pack(wire.Activities(told))) < MAX_FRAME


async def test_who_is_in_is_known_whatever_becomes_of_what_they_moved(
    made: Made, monkeypatch: pytest.MonkeyPatch
) -> None:
    (one, _other) = await two_sessions(made, DATA)
    with trio.fail_after(5):
        while not all(session.pids for session in made.root._sessions):
            await trio.sleep(0.01)

    async def fails(_pids: Collection[int], *, ended: bool = False) -> list[CallerState]:
        raise ValueError("odd")

    monkeypatch.setattr(worker_at(made, "/data"), "callers", fails)
    os.killpg(one.monitor, signal.SIGKILL)
    with trio.fail_after(5):
        while len(made.ended) < 1:
            await trio.sleep(0.01)
    assert made.ended == [(one.id, 0, 0, False)]
    await made.root.close()
    assert len(made.ended) == 2


async def test_nothing_is_unmounted_before_it_is_known_what_was_moved(
    made: Made, monkeypatch: pytest.MonkeyPatch
) -> None:
    await two_sessions(made, DATA)
    worker = worker_at(made, "/data")
    standing: list[bool] = []
    real = worker.callers

    async def slowly(pids: Collection[int], *, ended: bool = False) -> list[CallerState]:
        await trio.sleep(0.2)
        standing.append(worker.target in made.table.targets)
        return await real(pids, ended=ended)

    monkeypatch.setattr(worker, "callers", slowly)
    await made.root.close()
    assert len(made.ended) == 2
    assert standing == [True, True]


async def test_what_was_moved_has_room_in_a_message_however_many_made_it_up(made: Made) -> None:
    await made.open(DATA)
    (session,) = made.root._sessions
    for _ in range(3000):
        session.has_moved([activity.Moved(activity.COUNT_MAX, activity.COUNT_MAX, 0.0)])
    assert pack(wire.SessionEnded(session.id, session.read, session.written))
