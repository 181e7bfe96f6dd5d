"""hostd's side of the zygote, which is started again by somebody else when it dies."""

from __future__ import annotations

import array
import contextlib
import os
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest
import trio

from hatchway.errors import HostError
from hatchway.host import workers
from hatchway.host.workers import Zygote
from hatchway.host.zygote import LINE_MAX, WorkersLog
from hatchway.wire.frames import decode
from hatchway.wire.task import Perform
from hatchway.wire.worker import MAX_PACKET, Count, Spawn, Spawned, SpawnFailed, pack

COUNT = Count(source="/srv/a", worker_uid=1)

Behaviour = Callable[[trio.socket.SocketType], Awaitable[None]]


async def spawn(sock: trio.socket.SocketType) -> None:
    """One request, answered as it should be, with ourselves as worker."""
    data, ancillary, _, _ = await sock.recvmsg(MAX_PACKET, 100)
    assert isinstance(decode(data, Spawn | Count | Perform), Count)
    for _, _, rights in ancillary:
        for fd in array.array("i", rights):
            os.close(fd)
    pidfd = os.pidfd_open(os.getpid())
    try:
        sent = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [pidfd]))]
        await sock.sendmsg([pack(Spawned(os.getpid()))], sent)
    finally:
        os.close(pidfd)


async def refuse(sock: trio.socket.SocketType) -> None:
    await sock.recv(MAX_PACKET)
    await sock.send(pack(SpawnFailed("too many")))


async def die(sock: trio.socket.SocketType) -> None:
    await sock.recv(MAX_PACKET)
    sock.close()


async def babble(sock: trio.socket.SocketType) -> None:
    await sock.recv(MAX_PACKET)
    await sock.send(b"\xff")


async def hung_up(sock: trio.socket.SocketType) -> None:
    assert await sock.recv(MAX_PACKET) == b""
    sock.close()


async def hang(_sock: trio.socket.SocketType) -> None:
    await trio.sleep_forever()


class Server:
    """Serves one connection after another; `does` is what is done at each request."""

    def __init__(self, path: Path) -> None:
        self.does: list[Behaviour] = []
        self.connections = 0
        self.path = str(path)
        self._listener = trio.socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)

    async def run(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        await self._listener.bind(self.path)
        self._listener.listen()
        task_status.started()
        with self._listener:
            while True:
                sock, _ = await self._listener.accept()
                self.connections += 1
                with sock:
                    while sock.fileno() >= 0:
                        with trio.fail_after(10):
                            while not self.does:
                                await trio.sleep(0.01)
                        await self.does.pop(0)(sock)


@pytest.fixture
async def server(tmp_path: Path, nursery: trio.Nursery) -> AsyncIterator[Server]:
    made = Server(tmp_path / "workers.sock")
    await nursery.start(made.run)
    yield made


async def ask(zygote: Zygote) -> int:
    process = await zygote.spawn(COUNT, ())
    process.close()
    return process.pid


async def test_one_connection_serves_many(server: Server) -> None:
    zygote = Zygote(server.path)
    server.does = [spawn, spawn, refuse, spawn]
    await zygote.start()
    assert [await ask(zygote) for _ in range(2)] == [os.getpid()] * 2
    with pytest.raises(HostError, match="too many"):
        await ask(zygote)
    assert await ask(zygote) == os.getpid()
    assert server.connections == 1
    zygote.close()


@pytest.mark.parametrize("failure", [die, babble])
async def test_what_was_sent_is_not_sent_again(server: Server, failure: Behaviour) -> None:
    """Else there could be two workers of one volume, and only one of them known."""
    zygote = Zygote(server.path)
    await zygote.start()
    server.does = [failure, hung_up, spawn] if failure is babble else [failure, spawn]
    with pytest.raises(HostError, match="no worker could be started"):
        await ask(zygote)
    assert server.does != []
    assert await ask(zygote) == os.getpid()
    assert (server.connections, server.does) == (2, [])
    zygote.close()


async def leave(sock: trio.socket.SocketType) -> None:
    sock.close()


async def test_another_one_that_has_taken_its_place_is_asked(server: Server) -> None:
    zygote = Zygote(server.path)
    await zygote.start()
    server.does = [leave]
    while server.does:
        await trio.sleep(0.01)
    server.does = [spawn]
    assert await ask(zygote) == os.getpid()
    assert server.connections == 2
    zygote.close()


async def test_when_nobody_is_there_it_is_said(tmp_path: Path) -> None:
    zygote = Zygote(str(tmp_path / "none"))
    with pytest.raises(HostError, match=r"no workers can be started: .*No such file"):
        await zygote.start()
    with pytest.raises(HostError, match="no worker could be started"):
        await ask(zygote)


async def test_who_does_not_answer_is_not_waited_for_long(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workers, "START_TIMEOUT_S", 0.1)
    zygote = Zygote(server.path)
    server.does = [hang]
    await zygote.start()
    with trio.fail_after(5), pytest.raises(HostError, match="does not answer"):
        await ask(zygote)
    zygote.close()


async def test_the_answer_to_a_request_that_was_given_up_is_nobody_elses(server: Server) -> None:
    """Else the next one would get the worker of the one before, in another volume."""
    late = trio.Event()

    async def slow(sock: trio.socket.SocketType) -> None:
        await late.wait()
        with contextlib.suppress(OSError):
            await refuse(sock)
        sock.close()

    zygote = Zygote(server.path)
    server.does = [slow]
    await zygote.start()
    with trio.move_on_after(0.1):
        await ask(zygote)
    server.does.append(spawn)
    late.set()
    assert await ask(zygote) == os.getpid()
    assert server.connections == 2
    zygote.close()


def test_it_is_not_started_but_by_root_and_with_its_socket(tmp_path: Path) -> None:
    config = tmp_path / "hatchway.toml"
    config.touch()
    code = "import sys; from hatchway.host.zygote import main; sys.argv[1:] = ['--config', sys.argv[1]]; main()"
    done = subprocess.run(
        [sys.executable, "-c", code, str(config)],
        capture_output=True,
        text=True,
        env={"PYTHONPATH": ":".join(sys.path)},
        check=False,
    )
    assert done.returncode == 10
    assert "no listening socket 'workers' was passed" in done.stderr


def test_what_workers_say_is_passed_on_in_lines(capfd: pytest.CaptureFixture[str]) -> None:
    said = WorkersLog()
    said.copy()
    os.write(said.writer, b"<6>one\n<0>to all terminals\n<4>tw")
    said.copy()
    assert capfd.readouterr().err == "<6>one\n<3>to all terminals\n"
    os.write(said.writer, b"o\n" + b"x" * 20_000 + b"<0>")
    said.copy()
    os.write(said.writer, b"<0>\n\n")
    said.copy()
    assert capfd.readouterr().err == f"<4>two\n{'x' * LINE_MAX}\n\n"
    # Nobody waits: who writes more than there is room for loses it.
    with pytest.raises(BlockingIOError):
        while True:
            os.write(said.writer, b"x" * 4096)
    for fd in (said.reader, said.writer):
        os.close(fd)
