"""Exactly some sessions of one login are ended, in the middle of what they do, and what sessions do is known.

hostd is asked as the core asks it: over its socket, with the core's uid.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import pwd
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.figures import note
from tests.sshd.place import Place
from tests.sshd.running import Hatchway, running, wait_until
from tests.sshd.speaking import CREATE, READ, WRITE, Client, ClosedError
from tests.sshd.steady import BLOCK, PAUSE_S, Upload
from tests.sshd.test_lifecycle import children, gone

from hatchway.host import processes
from hatchway.wire.frames import Failure, decode, encode
from hatchway.wire.host import (
    Activities,
    AskActivity,
    Done,
    EndSessions,
    HostStatus,
    OpenFile,
    SessionActivity,
    SessionEnded,
    Status,
    Watch,
)

IN_TIME_S = 1.0

_ASK = """
import socket, struct, sys
sock = socket.socket(socket.AF_UNIX)
sock.connect(sys.argv[1])
sock.sendall(bytes.fromhex(sys.argv[2]))
file = sock.makefile("rb")
while head := file.read(4):
    print(file.read(struct.unpack(">I", head)[0]).hex(), flush=True)
    if len(sys.argv) == 3:
        break
"""


@pytest.fixture(scope="module")
def hatchway() -> Iterator[Hatchway]:
    with running(idle_unmount_s=300, worker_timeout_s=60) as made:
        yield made


class Core:
    """A question to hostd, as the core asks it. With `watch` the connection stays open."""

    def __init__(self, hatchway: Hatchway, request: object, *, watch: bool = False) -> None:
        account = pwd.getpwnam("hwtest")
        command = [sys.executable, "-I", "-S", "-c", _ASK, f"{hatchway.run_dir}/hostd.sock", encode(request).hex()]
        self.process = subprocess.Popen(
            [*command, "watch"] if watch else command,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            user=account.pw_uid,
            group=account.pw_gid,
            extra_groups=[],
        )

    def answer(self, kind: Any) -> Any:
        """The next answer; None when hostd has hung up."""
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        return decode(bytes.fromhex(line.decode()), kind | Failure) if line else None

    def close(self) -> None:
        """Hang up."""
        assert self.process.stdout is not None
        self.process.kill()
        self.process.wait()
        self.process.stdout.close()


def ask(hatchway: Hatchway, request: object, kind: Any) -> Any:
    """What hostd answers to the core."""
    core = Core(hatchway, request)
    try:
        answer = core.answer(kind)
    finally:
        core.close()
    assert isinstance(answer, kind), answer
    return answer


def activity(hatchway: Hatchway, login: str) -> list[SessionActivity]:
    """What the sessions of a login do."""
    return list(ask(hatchway, AskActivity(login), Activities).sessions)


class Uploading:
    """A session that uploads a file `name` to /data, block after block. `credentials` as of Client."""

    def __init__(self, place: Place, name: str, *, pause_s: float = PAUSE_S, **credentials: Any) -> None:
        self.place = place
        self.path = f"/data/{name}"
        self.file = place.data / name
        self.client = Client(place.hatchway, place.login, **credentials)
        self.upload = Upload(self.client, self.path, pause_s)
        self._thread = threading.Thread(target=self._run)
        self.ended_at = 0.0
        self._thread.start()

    def _run(self) -> None:
        self.upload.run()
        self.ended_at = time.monotonic()

    def goes_on(self) -> None:
        """Some blocks more arrive."""
        before = self.upload.blocks
        wait_until(lambda: self.upload.blocks > before + 5 or self.upload.failure, f"{self.path} goes on")
        assert self.upload.failure is None

    def session(self) -> str:
        """Its id, by the file it has open."""
        found = [one.session for one in activity(self.place.hatchway, self.place.login) if self.writes(one)]
        assert len(found) == 1
        return found[0]

    def writes(self, session: SessionActivity) -> bool:
        """Whether that session is this."""
        return OpenFile(self.path, True) in session.files

    def arrived(self) -> None:
        """End it in peace: all that was sent has arrived."""
        self.upload.end.set()
        self._thread.join()
        assert self.upload.failure is None, self.upload.failure
        assert self.file.stat().st_size == self.upload.blocks * BLOCK
        with self.file.open("rb") as file:
            assert hashlib.file_digest(file, "sha256").digest() == self.upload.digest.digest()

    def close(self) -> None:
        """End it, whatever it does."""
        self.upload.end.set()
        self.client.close()
        self._thread.join()


@contextlib.contextmanager
def uploading(place: Place, *names: str) -> Iterator[list[Uploading]]:
    """Sessions of one login that upload at the same time."""
    with contextlib.ExitStack() as stack:
        made = []
        for name in names:
            made.append(Uploading(place, name))
            stack.callback(made[-1].close)
        for one in made:
            one.goes_on()
        yield made


def test_one_of_two_uploads_of_one_login_is_ended(hatchway: Hatchway) -> None:
    place = Place(hatchway)
    with uploading(place, "ended", "other") as (ended, other), Client(hatchway, place.login) as idle:
        idle.list("/data")
        before = place.standing("/data", "/logs")
        session = ended.session()
        began = time.monotonic()
        ask(hatchway, EndSessions(place.login, (session, "0" * 32)), Done)
        took_s = time.monotonic() - began
        size = ended.file.stat().st_size
        wait_until(lambda: ended.ended_at, "its client hears of it", IN_TIME_S)
        assert isinstance(ended.upload.failure, ClosedError)
        assert took_s < IN_TIME_S
        other.goes_on()
        other.goes_on()
        assert ended.file.stat().st_size == size, "not a byte after the answer"
        assert idle.list("/data") == ["ended", "other"]
        assert place.standing("/data", "/logs") == before, "nothing was mounted anew"
        assert session not in ask(hatchway, Status(), HostStatus).sessions
        assert len(activity(hatchway, place.login)) == 2
        other.arrived()
        note(f"one of two uploads of one login was ended in {took_s * 1000:.0f} ms, the other arrived whole")
        # Nobody is expelled any more, whatever pid it has.
        place.works()


def test_a_session_that_lists_is_ended_and_its_client_does_not_hear_of_an_end(hatchway: Hatchway) -> None:
    place = Place(hatchway)
    for number in range(3000):
        (place.data / f"{number:04}-{'x' * 100}").touch()
    with Client(hatchway, place.login) as lists:
        handle = lists.opendir("/data")
        (session,) = activity(hatchway, place.login)
        with Client(hatchway, place.login) as other, uploading(place, "upload") as (upload,):
            goes_on = other.opendir("/data")
            count = len(lists.readdir(handle))
            lists.ask_readdir(handle)
            ask(hatchway, EndSessions(place.login, (session.session,)), Done)
            with pytest.raises(ClosedError):
                while True:
                    # What was asked for before may have been answered; an end must not be.
                    count += len(lists._names(lists.answer()[1]))
            assert count < 3000
            assert len(other.readdir(goes_on)) > 0
            upload.arrived()


def test_what_sessions_do_is_known(hatchway: Hatchway) -> None:
    place = Place(hatchway)
    (place.data / "down").write_bytes(os.urandom(200_000))
    with uploading(place, "up") as (up,), Client(hatchway, place.login) as reads:
        handle = reads.open("/data/down", READ)
        reads.open("/logs/new", WRITE | CREATE)
        for number in range(4):
            reads.read(handle, number * 32768, 32768)
        time.sleep(1.2)
        told = activity(hatchway, place.login)
        assert len(told) == 2
        (writer,) = [one for one in told if up.writes(one)]
        (reader,) = [one for one in told if not up.writes(one)]
        assert (reader.read, reader.written, reader.partial) == (4 * 32768, 0, False)
        assert reader.files == (OpenFile("/data/down", False), OpenFile("/logs/new", True))
        assert 1.0 < reader.idle_s < 5
        assert writer.idle_s < 1
        blocks = up.upload.blocks
        assert 5 * BLOCK < writer.written <= (blocks + 1) * BLOCK
        assert writer.read == 0
        # Also by the next hostd: the workers know, not it.
        (hostd,) = children(hatchway, "hatchway.host.main")
        os.kill(hostd, signal.SIGKILL)
        wait_until(lambda: children(hatchway, "hatchway.host.main") not in ([], [hostd]), "another hostd")
        (again,) = [one for one in activity(hatchway, place.login) if not up.writes(one)]
        assert (again.session, again.read, again.files) == (reader.session, reader.read, reader.files)
        # A worker that does not answer keeps nobody waiting.
        os.kill(place.worker("/data"), signal.SIGSTOP)
        try:
            began = time.monotonic()
            told = activity(hatchway, place.login)
            assert time.monotonic() - began < 2
            (partly,) = [one for one in told if one.session == reader.session]
            assert (partly.files, partly.partial) == ((OpenFile("/logs/new", True),), True)
        finally:
            os.kill(place.worker("/data"), signal.SIGCONT)
        assert {one.login for one in ask(hatchway, AskActivity(), Activities).sessions} == {place.login}
        up.arrived()
    # Workers whose zygote is gone are nobody's children.
    hatchway.command("disable", place.instance, "--all")


def test_what_a_session_moved_is_told_when_it_ends(hatchway: Hatchway, tmp_path: Path) -> None:
    place = Place(hatchway)
    wait_until(lambda: hatchway.sessions() == 0, "nobody else is in")
    (tmp_path / "up").write_bytes(os.urandom(300_000))
    core = Core(hatchway, Watch(), watch=True)
    try:
        for _ in range(2):
            assert isinstance(core.answer(HostStatus), HostStatus)
        known = 0
        for _ in range(5):
            place.sftp(f"put {tmp_path}/up /data/up\nget /data/up {tmp_path}/down\n")
            ended = core.answer(SessionEnded)
            assert (ended.read, ended.written) in ((0, 0), (300_000, 300_000)), "all or nothing"
            known += ended.read > 0
        note(f"what was moved by {known} of 5 sessions that only put and get one file is known when they end")
        # One that lives for a moment longer always is.
        with Client(hatchway, place.login) as client:
            client.write(client.open("/data/more", WRITE | CREATE), 0, b"x" * 1000)
            time.sleep(0.2)
            client.read(client.open("/data/more", READ), 0, 600)
        ended = core.answer(SessionEnded)
        assert (ended.read, ended.written) == (600, 1000)
        # Ended by us, while its volume is taken away.
        with uploading(place, "up") as (up,):
            hatchway.command("disable", place.instance, "--all")
            ended = core.answer(SessionEnded)
            assert ended.written == up.file.stat().st_size > 5 * BLOCK
    finally:
        core.close()


# Workers that do not answer


def test_a_stopped_worker_does_not_keep_a_session_alive(hatchway: Hatchway) -> None:
    """It is idle, so nothing of it hangs in the worker: the other one goes on as soon as that does."""
    place = Place(hatchway)
    with Client(hatchway, place.login) as idle:
        idle.list("/data")
        (session,) = activity(hatchway, place.login)
        with uploading(place, "other") as (other,):
            worker = place.worker("/data")
            os.kill(worker, signal.SIGSTOP)
            try:
                began = time.monotonic()
                core = Core(hatchway, EndSessions(place.login, (session.session,)))
                idle._process.wait(IN_TIME_S)
                note(f"a session ended {time.monotonic() - began:.2f} s after, though its worker is stopped")
                assert isinstance(core.answer(Done), Done)
                core.close()
                assert time.monotonic() - began < 2
            finally:
                os.kill(worker, signal.SIGCONT)
            other.goes_on()
            other.arrived()
            assert not gone(worker)


def test_what_hangs_in_a_stopped_worker_is_never_done(hatchway: Hatchway) -> None:
    """A process whose request is at work in it cannot end: so that worker is ended, with all that use it."""
    place = Place(hatchway)
    with uploading(place, "ended", "other") as (ended, _other):
        session = ended.session()
        worker = place.worker("/data")
        os.kill(worker, signal.SIGSTOP)
        time.sleep(0.2)
        began = time.monotonic()
        core = Core(hatchway, EndSessions(place.login, (session,)))
        ended.client._process.wait(IN_TIME_S)
        assert isinstance(core.answer(Done), Done)
        core.close()
        assert time.monotonic() - began < 4
        note(f"a session whose request hung in a stopped worker had ended {time.monotonic() - began:.2f} s after")
        size = ended.file.stat().st_size
        with contextlib.suppress(ProcessLookupError):
            os.kill(worker, signal.SIGCONT)
        wait_until(lambda: ended.ended_at, "its client hears of it")
        time.sleep(0.5)
        assert ended.file.stat().st_size == size
        assert session not in ask(hatchway, Status(), HostStatus).sessions
    place.works()


def stopped_monitors(login: str) -> list[int]:
    """Pids of the sshd monitors of a login that have been stopped."""
    return [seen.pid for seen in processes.everyone() if seen.state == "T" and f"{login} [priv]" in seen.title]


def is_stopped(login: str) -> bool:
    """Whether a session of that login has been stopped, with all its processes: the monitor is the first."""
    running = processes.everyone()
    line = stopped_monitors(login)
    for pid in line:
        below = [seen for seen in running if seen.parent == pid]
        if any(seen.state != "T" for seen in below):
            return False
        line += [seen.pid for seen in below]
    return bool(line)


def test_the_next_hostd_ends_what_one_was_ending_that_was_killed(hatchway: Hatchway) -> None:
    place = Place(hatchway)
    with uploading(place, "ended", "other") as (ended, other):
        session = ended.session()
        (hostd,) = children(hatchway, "hatchway.host.main")
        worker = place.worker("/logs")
        # One that does not answer makes hostd wait a moment when the session has been stopped.
        os.kill(worker, signal.SIGSTOP)
        core = Core(hatchway, EndSessions(place.login, (session,)))
        try:
            wait_until(lambda: is_stopped(place.login), "it is stopped")
        finally:
            os.kill(hostd, signal.SIGKILL)
            os.kill(worker, signal.SIGCONT)
        assert core.answer(Done) is None, "it was killed in the middle of it"
        core.close()
        size = ended.file.stat().st_size
        wait_until(lambda: ended.ended_at, "the next one ends it")
        assert isinstance(ended.upload.failure, ClosedError)
        assert stopped_monitors(place.login) == []
        other.goes_on()
        other.arrived()
        assert ended.file.stat().st_size <= size + BLOCK, "what was at work when it was stopped, and no more"
        assert session not in ask(hatchway, Status(), HostStatus).sessions
        assert not place.said("not taken over")
    place.works()
    hatchway.command("disable", place.instance, "--all")
