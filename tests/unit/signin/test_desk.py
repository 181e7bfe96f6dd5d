"""The process that hands questions out, with answers made up: who may ask, how many at once, for how long."""

from __future__ import annotations

import os
import socket
import struct
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import msgspec
import pytest
from structlog.testing import capture_logs

from hatchway.signin.main import PARALLEL, Answer, Desk, answer
from hatchway.wire.signin import REQUEST_MAX


def echo(connection: socket.socket) -> None:
    """Answer with what was asked; "hang" is never answered, "fail" fails."""
    asked = connection.recv(100)
    if asked == b"hang":
        time.sleep(1000)
    if asked == b"fail":
        raise RuntimeError("hunter2")
    connection.sendall(asked + b" %d" % os.getpid())


@contextmanager
def desk(directory: Path, uid: int, answers: Answer, *, answer_s: float = 15) -> Iterator[str]:
    """A Desk in a process of its own; where it listens. Ends well, with no child left."""
    path = str(directory / "signin.sock")
    stop, end = os.pipe()
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(path)
        listener.listen()
        pid = os.fork()
        if pid == 0:
            status = 1
            try:
                with capture_logs():
                    Desk(listener, uid, answers, answer_s=answer_s).serve(stop)
                try:
                    os.waitpid(-1, os.WNOHANG)
                except ChildProcessError:
                    status = 0
            finally:
                os._exit(status)
    try:
        yield path
    finally:
        os.write(end, b"x")
        assert os.waitpid(pid, 0)[1] == 0
        os.close(stop)
        os.close(end)


def ask(path: str, question: bytes) -> bytes:
    with socket.socket(socket.AF_UNIX) as sock:
        sock.settimeout(20)
        sock.connect(path)
        try:
            sock.sendall(question)
            return sock.recv(100)
        except (BrokenPipeError, ConnectionResetError):
            return b""


def test_each_question_has_a_process_of_its_own(tmp_path: Path) -> None:
    with desk(tmp_path, os.getuid(), echo) as path:
        answers = [ask(path, b"who").split() for _ in range(5)]
        assert {first for first, _ in answers} == {b"who"}
        assert len({pid for _, pid in answers}) == 5
        assert ask(path, b"fail") == b""
        assert ask(path, b"who") != b""


def test_others_are_not_answered(tmp_path: Path) -> None:
    with desk(tmp_path, os.getuid() + 1, echo) as path:
        assert ask(path, b"who") == b""


def test_who_hangs_is_ended_and_the_others_wait_their_turn(tmp_path: Path) -> None:
    with desk(tmp_path, os.getuid(), echo, answer_s=1) as path, ExitStack() as stack:
        began = time.monotonic()
        for _ in range(PARALLEL):
            sock = stack.enter_context(socket.socket(socket.AF_UNIX))
            sock.connect(path)
            sock.sendall(b"hang")
        assert ask(path, b"who").startswith(b"who ")
        assert 1.0 <= time.monotonic() - began < 5.0


def test_what_is_being_answered_is_finished(tmp_path: Path) -> None:
    def slow(connection: socket.socket) -> None:
        time.sleep(1)
        echo(connection)

    with socket.socket(socket.AF_UNIX) as sock:
        with desk(tmp_path, os.getuid(), slow) as path:
            sock.connect(path)
            sock.sendall(b"who")
            time.sleep(0.5)
        assert sock.recv(100).startswith(b"who ")


@pytest.mark.parametrize(
    "question",
    [
        b"",
        b"GET / HTTP/1.1\r\n\r\n",
        struct.pack(">I", REQUEST_MAX + 1) + b"x" * (REQUEST_MAX + 1),
        struct.pack(">I", 2**32 - 1),
        struct.pack(">I", 10) + b"short",
        struct.pack(">I", 1) + b"\xc0",
        (lambda body: struct.pack(">I", len(body)) + body)(msgspec.msgpack.encode({"type": "verdict"})),
    ],
)
def test_what_is_no_question_has_no_answer(tmp_path: Path, question: bytes) -> None:
    with desk(tmp_path, os.getuid(), answer("nobody")) as path, socket.socket(socket.AF_UNIX) as sock:
        sock.settimeout(20)
        sock.connect(path)
        try:
            sock.sendall(question)
            sock.shutdown(socket.SHUT_WR)
            assert sock.recv(100) == b""
        except (BrokenPipeError, ConnectionResetError):
            pass
