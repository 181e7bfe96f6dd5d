"""hostd's side of a worker, with the worker faked at the other end of its socket."""

from __future__ import annotations

import socket
import subprocess
from collections.abc import Iterator

import pytest
import trio
from trio.testing import MockClock

from hatchway.errors import HostError
from hatchway.host import workers
from hatchway.host.processes import Process
from hatchway.host.workers import Worker, WorkerUids
from hatchway.wire.frames import decode
from hatchway.wire.host import View
from hatchway.wire.worker import MAX_PACKET, Restrict, WorkerState, pack


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


def made(pair: tuple[socket.socket, socket.socket], program: subprocess.Popen[bytes]) -> Worker:
    control = trio.socket.from_stdlib_socket(pair[0].dup())
    return Worker(Process(program.pid), control, View("/data", "/srv/x", False), "/mnt/data", 1)


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


def test_no_two_workers_share_a_uid() -> None:
    uids = WorkerUids(10, 12)
    assert {uids.take() for _ in range(3)} == {10, 11, 12}
    with pytest.raises(HostError, match="used up"):
        uids.take()
    uids.give_back(11)
    assert uids.take() == 11
