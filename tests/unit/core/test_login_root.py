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
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import trio
from msgspec import structs

from hatchway.config import Config, Paths
from hatchway.errors import HostError, RefusedError
from hatchway.host import patience, sources, watchdog, workers
from hatchway.host.account import Account
from hatchway.host.handover import Handover
from hatchway.host.patience import Patience
from hatchway.host.placement import Placement
from hatchway.host.processes import Process
from hatchway.host.roots import LoginRoot
from hatchway.host.sizes import Accounts
from hatchway.host.workers import Worker, WorkerUids, Zygote
from hatchway.kernel import mounts
from hatchway.kernel.mounts import MountEntry
from hatchway.wire.host import View
from hatchway.wire.worker import WorkerState

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

    async def set_read_only(self, view: View, *, mount: bool = True) -> None:
        if self.stuck:
            raise HostError("no answer")
        self.view = view

    async def ping(self, timeout_s: float) -> WorkerState:
        self.asked += 1
        if self.stuck:
            raise HostError("no answer")
        return WorkerState(0, 0, False, False, self.nodes)

    async def refuse(self) -> WorkerState | None:
        self.refused_when = [state(pid) for pid in self.watched]
        return None if self.stuck else WorkerState(0, 0, True, True, listing=self.listing)


class Made:
    """A root and what stands in for the rest. `fail` are paths whose worker does not start."""

    def __init__(self, root: LoginRoot, table: Table, programs: Callable[[str], int]) -> None:
        self.root = root
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
    async with trio.open_nursery() as nursery:
        zygote, uids, patient = Zygote("info"), WorkerUids(1, 1000), Patience()
        accounts = Accounts(config, zygote, uids, patient)
        root = LoginRoot(
            config, zygote, uids, accounts, patient, handover, nursery, lambda _: None,
            login="shop-web-1", uid=1000, gid=1000,
        )  # fmt: skip
        made = Made(root, table, programs)
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
