"""hostd's side of volume tasks: turns, deadlines, and what a task that misbehaves can do. The tasks are faked."""

from __future__ import annotations

import array
import contextlib
import errno
import hashlib
import os
import signal
import socket
import subprocess
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
import trio

from hatchway.admin.hostlink import HostLink
from hatchway.config import Config, Host, Paths
from hatchway.errors import ConflictError, HatchwayError, HostError, NotFoundError, NotRunningError, RefusedError
from hatchway.host import errands, sources, tasks
from hatchway.host.errands import Errands
from hatchway.host.hostd import Hostd
from hatchway.host.patience import Patience
from hatchway.host.processes import Process
from hatchway.host.sizes import Accounts
from hatchway.host.tasks import Tasks
from hatchway.host.workers import WorkerUids, Zygote
from hatchway.model import IdPair, Limits
from hatchway.volumefs.keyfiles import FILE_MAX, PUB_MAX, TOTAL_MAX
from hatchway.wire.frames import decode, encode
from hatchway.wire.host import (
    Deliver,
    Delivered,
    KeyFile,
    KeyFiles,
    PrivateBytes,
    ReadKeys,
    SharedVolume,
    Withdraw,
    Withdrawal,
    Withdrawn,
)
from hatchway.wire.service import Peer, serve
from hatchway.wire.task import ANSWER_MAX, Perform, Problem, Put, ReadKeyFiles, Take, TaskFailed, TaskKind, send_answer
from hatchway.wire.worker import MAX_PACKET, Count, Spawn, pack

CORE = Peer(1, 0, 0)
SECRET = b"-----BEGIN OPENSSH PRIVATE KEY-----\nb3BlbnNzaC1rZXk\n"


class FakeZygote(Zygote):
    """What its tasks do with their end of the socket is `does`, in a thread; they live until they are killed."""

    def __init__(self) -> None:
        super().__init__("info")
        self.does: Callable[[socket.socket], object] = lambda _end: None
        self.asked: list[tuple[Perform, int]] = []
        self.programs: list[subprocess.Popen[bytes]] = []
        self.running = self.most = 0
        self.kills = True

    async def spawn(self, spec: Spawn | Count | Perform, fds: tuple[int, ...]) -> Process:
        assert isinstance(spec, Perform)
        self.asked.append((spec, len(fds)))
        volume, *rest, control = fds
        assert os.readlink(f"/proc/self/fd/{volume}") == "/"
        for ledger in rest:
            assert "hatchway-ledger" in os.readlink(f"/proc/self/fd/{ledger}")
        end = socket.socket(fileno=os.dup(control))
        self.running += 1
        self.most = max(self.most, self.running)
        trio.lowlevel.spawn_system_task(self._task, end)
        program = subprocess.Popen(["sleep", "1000"])
        self.programs.append(program)
        return Process(program.pid)

    async def _task(self, end: socket.socket) -> None:
        with end:
            await trio.to_thread.run_sync(self.does, end, abandon_on_cancel=True)
        self.running -= 1


def says(answer: object) -> Callable[[socket.socket], None]:
    def does(end: socket.socket) -> None:
        end.recv(MAX_PACKET)
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            send_answer(end, answer)

    return does


class Bed:
    """Tasks beneath a directory."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.config = Config(
            paths=Paths(run_dir=f"{directory}/run"), host=Host(volume_roots=(), bind_prefixes=(str(directory),))
        )
        self.zygote = FakeZygote()
        self.uids = WorkerUids(7, 12)
        patience = Patience()
        self.errands = Errands(self.config, self.zygote, self.uids, patience)
        self.accounts = Accounts(self.config, self.errands, patience)
        self.tasks = Tasks(self.config, self.errands, self.accounts)

    def volume(self, name: str = "v", limits: Limits = Limits(size=10_000_000)) -> SharedVolume:  # noqa: B008
        return SharedVolume(source=f"{self.directory}/{name}", birth="b", limits=limits)

    async def read(self, name: str = "v", token: bytes = b"") -> KeyFiles:
        return await self.tasks.read_keys(ReadKeys(f"{self.directory}/{name}", "b", token), CORE)

    async def deliver(self, **more: Any) -> Delivered:
        return await self.tasks.deliver(Deliver(volume=self.volume(), key=PrivateBytes(SECRET), **more), CORE)

    async def withdraw(self, **more: Any) -> Withdrawn:
        return await self.tasks.withdraw(Withdraw(volume=self.volume(), hashes=(b"h" * 32,), **more), CORE)


@pytest.fixture
async def bed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Bed]:
    monkeypatch.setattr(sources, "open_volume", lambda *_args, **_more: os.open("/", os.O_PATH))
    made = Bed(tmp_path)
    before = set(os.listdir("/proc/self/fd"))
    yield made
    for program in made.zygote.programs:
        program.kill()
        program.wait()
    with trio.fail_after(5):
        while made.zygote.running or len(set(os.listdir("/proc/self/fd")) - before) > len(made.errands._stuck):
            await trio.sleep(0.01)
    for _, process, _ in made.errands._stuck:
        process.close()


async def test_what_a_task_is_given(bed: Bed) -> None:
    """A reader no ledger, and what it is to do only by its own socket."""
    heard: list[object] = []

    def does(end: socket.socket) -> None:
        heard.append(decode(end.recv(MAX_PACKET), ReadKeyFiles | Put | Take))
        answers: dict[type, object] = {
            ReadKeyFiles: KeyFiles(b"t" * 32),
            Put: Delivered(True),
            Take: Withdrawn(Withdrawal.REMOVED),
        }
        send_answer(end, answers[type(heard[-1])])

    bed.zygote.does = does
    assert (await bed.read(token=b"x" * 32)).token == b"t" * 32
    hashes = (hashlib.sha256(b"1").digest(),)
    assert (await bed.deliver(directory="a/.ssh", owner=IdPair(5, 6), replaces=hashes)).changed
    assert (await bed.withdraw()).outcome == Withdrawal.REMOVED
    assert heard == [
        ReadKeyFiles(b"x" * 32),
        Put((b"a", b".ssh"), IdPair(5, 6), PrivateBytes(SECRET), hashes),
        Take((), (b"h" * 32,)),
    ]
    assert [(spec.kind, fds) for spec, fds in bed.zygote.asked] == [
        (TaskKind.READ_KEYS, 2),
        (TaskKind.DELIVER, 3),
        (TaskKind.WITHDRAW, 3),
    ]
    assert all(SECRET not in pack(spec) for spec, _ in bed.zygote.asked)
    assert bed.uids.used == frozenset()
    assert all(program.poll() == -signal.SIGKILL for program in bed.zygote.programs)
    assert bed.tasks._turns == {}
    assert bed.accounts._accounts == {}, "what is not shared is not kept"


def test_a_private_key_is_not_shown() -> None:
    key = PrivateBytes(SECRET)
    volume = SharedVolume(source="/srv/v", birth="b")
    for message in (key, Put((), None, key, ()), Deliver(volume=volume, key=key)):
        for text in (
            repr(message),
            str(message),
            f"{message}",
            f"{message!r:>200}",
            repr([message]),
            repr({1: message}),
        ):
            assert "OPENSSH" not in text
            assert "BEGIN" not in text
            assert "<secret>" in text
    assert key.__rich_repr__() == []
    assert decode(encode(Deliver(volume=volume, key=key))[4:], Deliver).key.value == SECRET


@pytest.mark.parametrize(
    ("body", "field"),
    [({"type": "deliver", "key": {"value": 5}}, "value"), ({"type": "deliver", "key": SECRET}, "key")],
)
def test_nor_when_it_is_malformed(body: dict[str, Any], field: str) -> None:
    with pytest.raises(HatchwayError, match=field) as caught:
        decode(msgspec.msgpack.encode({"volume": {"source": "", "birth": ""}, **body}), Deliver)
    assert "OPENSSH" not in str(caught.value)


@pytest.mark.parametrize(
    ("failed", "kind", "text"),
    [
        (TaskFailed(Problem.FOREIGN), ConflictError, "v/a/id_container is there and is not a key"),
        (TaskFailed(Problem.IN_THE_WAY), ConflictError, ".id_container.new or .id_container.old is in the way"),
        (TaskFailed(Problem.MOVED), ConflictError, "changed meanwhile"),
        (TaskFailed(Problem.BUSY), HostError, "in use"),
        (TaskFailed(Problem.READ_ONLY, errno.EROFS), RefusedError, "v is read-only"),
        (TaskFailed(Problem.NO_DIRECTORY), NotFoundError, "there is no directory .*v/a"),
        (TaskFailed(Problem.NO_ROOM, errno.ENOSPC), HostError, "no room"),
        (TaskFailed(Problem.LIMIT, errno.EDQUOT), HostError, "limit"),
        (TaskFailed(Problem.FAILED, errno.EIO), HostError, "Input/output error"),
        (TaskFailed(Problem.FAILED), HostError, "the task failed"),
        (TaskFailed(Problem.FAILED, 1 << 40), HostError, "the task failed"),
    ],
)
async def test_what_went_wrong_is_said(bed: Bed, failed: TaskFailed, kind: type[HatchwayError], text: str) -> None:
    bed.zygote.does = says(failed)
    with pytest.raises(kind, match=text):
        await bed.deliver(directory="a")
    assert bed.uids.used == frozenset()


def hangs_up(end: socket.socket) -> None:
    end.recv(MAX_PACKET)


def sends_nonsense(end: socket.socket) -> None:
    end.recv(MAX_PACKET)
    end.send(b"nonsense")


def sends_a_part(end: socket.socket) -> None:
    end.recv(MAX_PACKET)
    end.send(pack(KeyFiles(files=(KeyFile(b"a", b"x" * 10000),)))[:5000])


def never_ends(end: socket.socket) -> None:
    end.recv(MAX_PACKET)
    with contextlib.suppress(OSError):
        for _ in range(2 * ANSWER_MAX // 32768):
            end.send(b"x" * 32768)


@pytest.mark.parametrize(
    "does",
    [
        hangs_up,
        sends_nonsense,
        sends_a_part,
        never_ends,
        says(Delivered(True)),
        says(KeyFiles(files=(KeyFile(b"a", b"x" * (FILE_MAX + 1)),))),
        says(KeyFiles(files=(KeyFile(b"a", b""),) * (PUB_MAX + 2))),
        says(KeyFiles(files=(KeyFile(b"a", b"x" * FILE_MAX),) * (TOTAL_MAX // FILE_MAX + 1))),
        says(KeyFiles(token=b"x" * 33)),
    ],
)
async def test_a_task_that_says_what_it_should_not(bed: Bed, does: Callable[[socket.socket], object]) -> None:
    bed.zygote.does = does
    with pytest.raises(HostError, match=r"task for .*v"):
        await bed.read()
    assert bed.uids.used == frozenset()


async def test_a_task_that_sends_descriptors(bed: Bed) -> None:
    def does(end: socket.socket) -> None:
        end.recv(MAX_PACKET)
        with contextlib.suppress(PermissionError), open("/dev/null", "rb") as null:
            rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [null.fileno()] * 3))]
            end.sendmsg([pack(KeyFiles())], rights)
            return
        send_answer(end, KeyFiles())

    bed.zygote.does = does
    for _ in range(3):
        assert await bed.read() == KeyFiles()
    # The fixture looks for descriptors that are left.


async def test_what_does_not_answer_is_ended(bed: Bed, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tasks, "TASK_S", 0.2)
    bed.zygote.does = lambda end: end.recv(MAX_PACKET) and end.recv(MAX_PACKET)
    with pytest.raises(HostError, match=r"does not answer in 0\.2 s"):
        await bed.read()
    assert bed.zygote.programs[-1].poll() == -signal.SIGKILL
    assert bed.uids.used == frozenset()


async def test_what_cannot_be_ended_keeps_its_uid_and_its_volume(bed: Bed, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tasks, "TASK_S", 0.1)
    monkeypatch.setattr(errands, "END_S", 0.1)
    bed.zygote.does = lambda end: end.recv(MAX_PACKET) and end.recv(MAX_PACKET)
    with monkeypatch.context() as patch:
        patch.setattr(Process, "signal", lambda *_: None)
        with pytest.raises(HostError, match="does not answer in"):
            await bed.read()
        assert len(bed.uids.used) == 1
        with pytest.raises(HostError, match="v does not answer"):
            await bed.read()
    assert len(bed.zygote.asked) == 1
    bed.zygote.does = says(KeyFiles())
    await bed.read("another")
    assert len(bed.uids.used) == 1
    bed.zygote.programs[0].kill()
    bed.zygote.programs[0].wait()
    assert await bed.read() == KeyFiles()
    assert bed.uids.used == frozenset()


async def test_one_at_a_time_in_a_volume_and_few_in_all(bed: Bed) -> None:
    go = [trio.Event()]
    token = trio.lowlevel.current_trio_token()

    def does(end: socket.socket) -> None:
        end.recv(MAX_PACKET)
        trio.from_thread.run(go[0].wait, trio_token=token)
        send_answer(end, KeyFiles())

    bed.zygote.does = does
    async with trio.open_nursery() as nursery:
        for _ in range(3):
            nursery.start_soon(bed.read, "v")
        await trio.sleep(0.1)
        assert len(bed.zygote.asked) == 1
        for number in range(10):
            nursery.start_soon(bed.read, f"other-{number}")
        await trio.sleep(0.2)
        assert len(bed.zygote.asked) == tasks.TASKS_MAX
        go[0].set()
    assert len(bed.zygote.asked) == 13
    assert bed.zygote.most <= tasks.TASKS_MAX
    assert bed.tasks._turns == {}


async def test_nobody_waits_for_ever(bed: Bed, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tasks, "TURN_S", 0.1)
    monkeypatch.setattr(tasks, "TASK_S", 0.5)
    bed.zygote.does = lambda end: end.recv(MAX_PACKET) and end.recv(MAX_PACKET)

    async def first() -> None:
        with pytest.raises(HostError, match="does not answer"):
            await bed.read()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(first)
        await trio.sleep(0.1)
        with pytest.raises(HostError, match="too much else"):
            await bed.read()
    assert len(bed.zygote.asked) == 1
    bed.zygote.does = says(KeyFiles())
    await bed.read()


async def test_a_volume_that_cannot_be_had(bed: Bed, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuses(*_args: object, **_more: object) -> int:
        raise ConflictError("it is another directory")

    monkeypatch.setattr(sources, "open_volume", refuses)
    for attempt in (bed.read, bed.deliver, bed.withdraw):
        with pytest.raises(ConflictError):
            await attempt()
    assert bed.zygote.asked == []


async def test_how_the_volume_is_opened(bed: Bed, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing that reads is given a mount that can be written."""
    opened: list[dict[str, Any]] = []

    def opening(_config: Config, source: str, **more: Any) -> int:
        opened.append({"source": source, **more})
        return os.open("/", os.O_PATH)

    monkeypatch.setattr(sources, "open_volume", opening)
    bed.zygote.does = says(TaskFailed(Problem.FAILED))
    for attempt in (bed.read, bed.deliver, bed.withdraw):
        with pytest.raises(HostError):
            await attempt()
    source = f"{bed.directory}/v"
    assert opened == [{"source": source, "read_only": read_only, "expected": "b"} for read_only in (True, False, False)]


async def test_what_is_refused_without_a_task(bed: Bed) -> None:
    volume, key = bed.volume(), PrivateBytes(SECRET)
    elsewhere = SharedVolume(source="/etc", birth="b")
    digest = b"h" * 32
    for request in (
        ReadKeys("/etc", "b"),
        ReadKeys(volume.source, ""),
        ReadKeys(volume.source, "b", b"x" * 33),
        Deliver(volume=elsewhere, key=key),
        Deliver(volume=msgspec.structs.replace(volume, birth=""), key=key),
        Deliver(volume=volume, key=key, directory="../x"),
        Deliver(volume=volume, key=key, owner=IdPair(-1, 5)),
        Deliver(volume=volume, key=PrivateBytes(b"")),
        Deliver(volume=volume, key=key, replaces=(b"short",)),
        Withdraw(volume=elsewhere, hashes=(digest,)),
        Withdraw(volume=msgspec.structs.replace(volume, birth=""), hashes=(digest,)),
        Withdraw(volume=volume, hashes=(b"short",)),
        Withdraw(volume=volume, hashes=(digest,), directory="/x"),
    ):
        handlers: dict[type, Any] = {
            ReadKeys: bed.tasks.read_keys,
            Deliver: bed.tasks.deliver,
            Withdraw: bed.tasks.withdraw,
        }
        with pytest.raises(RefusedError):
            await handlers[type(request)](request, CORE)
    assert bed.zygote.asked == []


async def test_the_account_is_kept_while_something_is_put_there(bed: Bed) -> None:
    """And it is counted again afterwards."""
    counted: list[int] = []

    def does(end: socket.socket) -> None:
        (account,) = bed.accounts._accounts.values()
        counted.append(account.users)
        counted.append(account.ledger.figures().limit_blocks)
        says(Delivered(True))(end)

    bed.zygote.does = does
    await bed.deliver()
    assert counted == [1, 9_250_000 // 4096]
    assert bed.accounts._accounts == {}


@pytest.mark.parametrize("ours", [True, False])
async def test_only_the_core_asks_and_hears(bed: Bed, ours: bool, capsys: pytest.CaptureFixture[str]) -> None:
    """By hostd's own socket; and nothing of it is in the log."""
    Path(bed.config.paths.run_dir).mkdir()
    socket_ = trio.socket.socket(trio.socket.AF_UNIX)
    await socket_.bind(bed.config.hostd_socket)
    socket_.listen()
    link, volume, key = HostLink(bed.config), bed.volume(), PrivateBytes(SECRET)
    deliver = Deliver(volume=volume, key=key)
    async with trio.open_nursery() as nursery:
        hostd = Hostd(bed.config, nursery, gid=1)
        hostd._tasks = bed.tasks
        table = hostd.table(os.geteuid() if ours else os.geteuid() + 1)
        nursery.start_soon(serve, "hostd", trio.SocketListener(socket_), table)
        with trio.fail_after(10):
            if ours:
                bed.zygote.does = says(KeyFiles(token=b"t" * 32))
                assert await link.read_keys(volume.source, "b") == KeyFiles(token=b"t" * 32)
                bed.zygote.does = says(Delivered(True))
                assert await link.deliver(deliver)
                bed.zygote.does = says(Withdrawn(Withdrawal.FOREIGN))
                assert await link.withdraw(Withdraw(volume=volume, hashes=())) == Withdrawal.FOREIGN
                bed.zygote.does = says(TaskFailed(Problem.FOREIGN))
                with pytest.raises(ConflictError, match="stays as it is"):
                    await link.deliver(deliver)
            else:
                for attempt in (
                    link.read_keys(volume.source, "b"),
                    link.deliver(deliver),
                    link.withdraw(Withdraw(volume=volume, hashes=())),
                ):
                    with pytest.raises(NotRunningError, match="hung up"):
                        await attempt
                assert bed.zygote.asked == []
        nursery.cancel_scope.cancel()
    said = "".join(capsys.readouterr())
    assert "request" in said
    assert "OPENSSH" not in said
