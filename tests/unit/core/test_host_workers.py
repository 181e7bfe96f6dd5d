"""hostd's side of a worker, with the worker faked at the other end of its socket."""

from __future__ import annotations

import array
import errno
import os
import socket
import subprocess
from collections.abc import Iterator

import pytest
import trio
from tests import leftovers
from trio.testing import MockClock

from hatchway.config import Config, Host
from hatchway.errors import HostError
from hatchway.host import workers
from hatchway.host.account import Account
from hatchway.host.placement import Placement
from hatchway.host.processes import Process
from hatchway.host.workers import Worker, WorkerUids
from hatchway.kernel import mounts
from hatchway.model import IdPair
from hatchway.volumefs.ledger import Ledger
from hatchway.wire.frames import decode
from hatchway.wire.host import View
from hatchway.wire.worker import (
    CALLERS_MAX,
    MAX_PACKET,
    AskCallers,
    CallersState,
    CallerState,
    Expel,
    Lend,
    Restrict,
    WorkerState,
    pack,
)


@pytest.fixture
def program() -> Iterator[subprocess.Popen[bytes]]:
    with subprocess.Popen(["sleep", "1000"]) as process:
        yield process
        process.kill()


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours, theirs:
        yield ours, theirs


LEDGER = Ledger.make()
"""One for all tests here, which do not look at it."""


def made(pair: tuple[socket.socket, socket.socket], program: subprocess.Popen[bytes]) -> Worker:
    control = trio.socket.from_stdlib_socket(pair[0].dup())
    account = Account("/srv/x", "", LEDGER)
    return Worker(Process(program.pid), control, View("/data", "/srv/x", False), "/mnt/data", 1, account)


async def answer(sock: socket.socket, obey: bool) -> None:
    """What a worker does when it is told to refuse."""
    control = trio.socket.from_stdlib_socket(sock.dup())
    message = decode(await control.recv(MAX_PACKET), Restrict)
    assert message.refuse
    await control.send(pack(WorkerState(serial=message.serial, handles=1, refused=obey, read_only=obey)))
    control.close()


async def test_a_worker_that_obeys(pair: tuple[socket.socket, socket.socket], program: subprocess.Popen[bytes]) -> None:
    worker = made(pair, program)
    # An answer to a question of an earlier hostd is none to ours.
    pair[1].send(pack(WorkerState(serial=1, handles=0, refused=False, read_only=False)))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(answer, pair[1], True)
        assert await worker.refuse()
    worker.close()


async def test_a_worker_that_says_it_goes_on_is_known_for_it(
    pair: tuple[socket.socket, socket.socket], program: subprocess.Popen[bytes]
) -> None:
    worker = made(pair, program)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(answer, pair[1], False)
        assert not await worker.refuse()
    worker.close()


async def test_a_question_that_is_not_answered_delays_no_revocation(
    pair: tuple[socket.socket, socket.socket], program: subprocess.Popen[bytes], autojump_clock: MockClock
) -> None:
    worker = made(pair, program)

    async def ping() -> None:
        with pytest.raises(HostError, match="did not answer in 60 s"):
            await worker.ping(60)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(ping)
        await trio.sleep(1)
        begin = trio.current_time()
        assert not await worker.refuse()
        assert trio.current_time() - begin <= workers.RESTRICT_TIMEOUT_S
    worker.close()


class Lending:
    """What a worker does that is told to be read-only and lends its descriptors. `happened` is the order of it all."""

    def __init__(self, sock: socket.socket, patch: pytest.MonkeyPatch) -> None:
        self.happened: list[str] = []
        self.obeys = True
        self.problem: OSError | None = None
        self._sock = sock
        self._volume = os.open("/dev/null", os.O_RDONLY)
        self.mount_id = mounts.mount_id(self._volume)
        patch.setattr(mounts, "set_attributes", self._set_attributes)
        patch.setattr(mounts, "FUSE_DEVICE", os.stat("/dev/zero").st_rdev)

    def _set_attributes(self, _fd: int, *, add: int = 0, remove: int = 0) -> None:
        assert {add, remove} == {0, mounts.ATTR_RDONLY}
        if self.problem is not None:
            raise self.problem
        self.happened.append("the mount is read-only" if add else "the mount is writable")

    async def serve(self) -> None:
        control = trio.socket.from_stdlib_socket(self._sock.dup())
        fuse = os.open("/dev/zero", os.O_RDONLY | os.O_CLOEXEC)
        try:
            read_only = False
            while data := await control.recv(MAX_PACKET):
                message = decode(data, Restrict | Lend)
                if isinstance(message, Restrict):
                    assert not message.refuse
                    self.happened.append(f"read-only: {message.read_only}")
                    read_only = message.read_only if self.obeys else not message.read_only
                packet = pack(WorkerState(serial=message.serial, handles=0, refused=False, read_only=read_only))
                if isinstance(message, Lend):
                    rights = array.array("i", [self._volume, fuse])
                    await control.sendmsg([packet], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, rights)])
                else:
                    await control.send(packet)
        finally:
            os.close(fuse)
            os.close(self._volume)
            control.close()


async def changed(worker: Worker, lending: Lending, *, read_only: bool, mount: bool = True) -> str:
    """Why `worker` could not be changed, "" when it could. Nothing it lent stays open."""
    before = leftovers.descriptors()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(lending.serve)
        try:
            await worker.set_read_only(View("/data", "/srv/x", read_only), mount=mount)
            problem = ""
        except HostError as exc:
            problem = str(exc)
        nursery.cancel_scope.cancel()
    with trio.fail_after(5):
        while not set(leftovers.descriptors()) <= set(before):
            await trio.sleep(0.01)  # they are closed in a thread
    return problem


async def test_the_worker_refuses_before_the_kernel_does_and_the_other_way_round(
    pair: tuple[socket.socket, socket.socket], program: subprocess.Popen[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    for read_only, mount, order in (
        (True, True, ["read-only: True", "the mount is read-only"]),
        (False, True, ["the mount is writable", "read-only: False"]),
        (False, False, ["read-only: False"]),
    ):
        worker, lending = made(pair, program), Lending(pair[1], monkeypatch)
        worker.mount_id = lending.mount_id
        assert await changed(worker, lending, read_only=read_only, mount=mount) == ""
        assert lending.happened == order
        assert worker.view.read_only is read_only
        worker.close()


@pytest.mark.parametrize("how", ["another mount", "cannot be changed", "does not obey", "unknown"])
async def test_a_worker_that_cheats_is_not_taken_for_read_only(
    pair: tuple[socket.socket, socket.socket],
    program: subprocess.Popen[bytes],
    monkeypatch: pytest.MonkeyPatch,
    how: str,
) -> None:
    worker, lending = made(pair, program), Lending(pair[1], monkeypatch)
    worker.mount_id = lending.mount_id
    if how == "another mount":
        how = "does not lend what it has"
        worker.mount_id += 1
    elif how == "unknown":
        worker.mount_id = 0
        how = "not known which mount"
    elif how == "cannot be changed":
        lending.problem = OSError(errno.EBUSY, "a file is open for writing")
    else:
        lending.obeys = False
    assert how in await changed(worker, lending, read_only=True)
    assert "the mount is read-only" not in lending.happened
    assert not worker.view.read_only
    worker.close()


def test_no_two_workers_share_a_uid() -> None:
    uids = WorkerUids(10, 12)
    assert {uids.take() for _ in range(3)} == {10, 11, 12}
    with pytest.raises(HostError, match="used up"):
        uids.take()
    uids.give_back(11)
    assert uids.take() == 11


@pytest.mark.parametrize(
    ("view", "told"),
    [
        (View("/data", "/v", False), (None, False, 0o027, False)),
        (View("/data", "/v", True, "b", IdPair(7, 8), False, 0o002), (IdPair(7, 8), False, 0o002, True)),
        (View("/data", "/v", False, "b", None, True, 0), (None, True, 0, False)),
    ],
)
def test_what_a_worker_is_told(view: View, told: tuple[IdPair | None, bool, int, bool]) -> None:
    config = Config(host=Host(umask="027"))
    spec = workers.spawn_of(config, Placement(view, places=("in",)), login="a", uid=5, gid=6, worker_uid=9)
    assert (spec.owner, spec.real, spec.umask, spec.read_only) == told
    assert (spec.login, spec.path, spec.uid, spec.gid, spec.worker_uid, spec.places) == ("a", "/data", 5, 6, 9, ("in",))


@pytest.mark.parametrize("says", [(7, 8), (8, 7), (7,), (7, 8, 9), ()])
async def test_a_worker_expels_exactly_whom_it_is_told_to(
    pair: tuple[socket.socket, socket.socket], program: subprocess.Popen[bytes], says: tuple[int, ...]
) -> None:
    worker = made(pair, program)

    async def answer_it() -> None:
        control = trio.socket.from_stdlib_socket(pair[1].dup())
        message = decode(await control.recv(MAX_PACKET), Expel)
        assert message.pids == (7, 8)
        # That of another question comes first, late.
        await control.send(pack(CallersState(message.serial, ())))
        await control.send(pack(WorkerState(message.serial - 1, 0, False, False, expelled=(7, 8))))
        await control.send(pack(WorkerState(message.serial, 0, False, False, expelled=says)))
        control.close()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(answer_it)
        assert await worker.expel((7, 8)) == (set(says) == {7, 8})
    worker.close()


async def test_a_worker_that_does_not_answer_is_not_waited_for_to_expel(
    pair: tuple[socket.socket, socket.socket], program: subprocess.Popen[bytes], autojump_clock: MockClock
) -> None:
    worker = made(pair, program)
    began = trio.current_time()
    assert not await worker.expel((7,))
    assert trio.current_time() - began == pytest.approx(workers.EXPEL_TIMEOUT_S)
    worker.close()


async def test_very_many_callers_are_asked_for_in_parts(
    pair: tuple[socket.socket, socket.socket], program: subprocess.Popen[bytes]
) -> None:
    worker = made(pair, program)
    asked: list[int] = []

    async def answer_all() -> None:
        with trio.socket.from_stdlib_socket(pair[1].dup()) as control:
            while True:
                message = decode(await control.recv(MAX_PACKET), AskCallers)
                assert message.ended
                asked.append(len(message.pids))
                states = tuple(CallerState(pid, pid, 2, 3) for pid in message.pids)
                await control.send(pack(CallersState(message.serial, states)))

    pids = range(4_000_000, 4_000_000 + CALLERS_MAX + 1)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(answer_all)
        found = await worker.callers(pids, ended=True)
        nursery.cancel_scope.cancel()
    assert [one.read for one in found] == list(pids)
    assert asked == [CALLERS_MAX, 1]
    worker.close()


async def test_a_worker_that_is_let_go_meanwhile_gives_no_answer(
    pair: tuple[socket.socket, socket.socket], program: subprocess.Popen[bytes]
) -> None:
    worker = made(pair, program)

    async def asks() -> None:
        with pytest.raises(HostError, match="gave no answer"):
            await worker.callers([7])

    async with trio.open_nursery() as nursery:
        nursery.start_soon(asks)
        await trio.testing.wait_all_tasks_blocked()
        worker.close()
