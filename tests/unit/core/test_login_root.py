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

from hatchway.config import Config, Paths
from hatchway.errors import HostError
from hatchway.host import patience, roots, workers
from hatchway.host.handover import Handover
from hatchway.host.patience import Patience
from hatchway.host.placement import Placement
from hatchway.host.processes import Process
from hatchway.host.roots import LoginRoot
from hatchway.host.workers import Worker, WorkerUids, Zygote
from hatchway.kernel import mounts
from hatchway.kernel.mounts import MountEntry
from hatchway.wire.host import View
from hatchway.wire.worker import WorkerState

DATA = View("/data", "/srv/data", False)
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

    def __init__(self, view: View, target: str, uid: int, program: int) -> None:
        ours, theirs = socket.socketpair()
        theirs.close()
        super().__init__(Process(program), trio.socket.from_stdlib_socket(ours), view, target, uid)
        self.stuck = False
        self.nodes = 1
        self.asked = 0

    async def ping(self, timeout_s: float = 0) -> WorkerState:
        self.asked += 1
        if self.stuck:
            raise HostError("no answer")
        return WorkerState(0, 0, False, False, self.nodes)

    async def refuse(self) -> bool:
        return not self.stuck


class Made:
    """A root and what stands in for the rest. `fail` are paths whose worker does not start."""

    def __init__(self, root: LoginRoot, table: Table, programs: Callable[[str], int]) -> None:
        self.root = root
        self.table = table
        self.fail: set[str] = set()
        self.started: list[str] = []
        self._programs = programs

    async def start(self, *_args: Any, placement: Placement, target: str, **_more: Any) -> Worker:
        path = placement.view.path
        self.started.append(path)
        self.table.targets.append(target)
        if path in self.fail:
            raise HostError("the worker did not start")
        self.table.serving[target] = pid = self._programs("exec sleep 1000")
        return FakeWorker(placement.view, target, 10 + len(self.started), pid)

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
        root = LoginRoot(
            config, Zygote("info"), WorkerUids(1, 1000), Patience(), handover, nursery, lambda _: None,
            login="shop-web-1", uid=1000, gid=1000,
        )  # fmt: skip
        made = Made(root, table, programs)
        monkeypatch.setattr(workers, "start", made.start)
        monkeypatch.setattr(root, "_open_place", lambda _target: os.open("/", os.O_PATH))
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
    monkeypatch.setattr(roots, "WATCHDOG_S", 0.05)
    monkeypatch.setattr(roots, "BUSY_WATCHDOG_S", 0.01)
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
    worker.nodes = roots.FORGET_FROM
    with trio.fail_after(5):
        while worker.asked < 3:
            await trio.sleep(0.01)
    assert opened == []
    worker.nodes = roots.FORGET_FROM + 1
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
    monkeypatch.setattr(roots, "WATCHDOG_S", 0.1)
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
