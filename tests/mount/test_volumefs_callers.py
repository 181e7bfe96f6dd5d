"""Some processes of a uid are refused everything while others of it go on: as with two sessions of one login."""

from __future__ import annotations

import errno
import os
import pickle
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from tests.mount.served import PATIENCE_S, Served, get, put, refused

BLOCK = 32768


class Actor:
    """A process of the session's uid that does one thing at a time when it is told to."""

    def __init__(self, volume: Served) -> None:
        self._words, words = os.pipe()
        orders, self._orders = os.pipe()
        self.pid = os.fork()
        if self.pid == 0:
            try:
                os.close(self._words)
                os.close(self._orders)
                os.setgroups([])
                os.setresgid(volume.uid, volume.uid, volume.uid)
                os.setresuid(volume.uid, volume.uid, volume.uid)
                os.chdir(volume.path)
                with os.fdopen(orders, "rb") as asked, os.fdopen(words, "wb") as said:
                    while True:
                        name, arguments = pickle.load(asked)  # noqa: S301 - our parent's
                        try:
                            answer = getattr(os, name)(*arguments)
                        except OSError as exc:
                            answer = exc
                        pickle.dump(answer, said)
                        said.flush()
            finally:
                os._exit(0)
        os.close(words)
        os.close(orders)
        self._said = os.fdopen(self._words, "rb")
        self._asked = os.fdopen(self._orders, "wb")

    def __call__(self, name: str, *arguments: object) -> Any:
        """The result of a function of os, or what it raises."""
        self.begin(name, *arguments)
        return self.result()

    def begin(self, name: str, *arguments: object) -> None:
        """Have it call a function of os."""
        pickle.dump((name, arguments), self._asked)
        self._asked.flush()

    def result(self) -> Any:
        """What the function it was told to call gave, or raised."""
        answer = pickle.load(self._said)  # noqa: S301 - our own child's
        if isinstance(answer, OSError):
            raise answer
        return answer

    def close(self) -> None:
        """End it."""
        os.kill(self.pid, signal.SIGKILL)
        os.waitpid(self.pid, 0)
        self._said.close()
        self._asked.close()


@contextmanager
def actors(volume: Served) -> Iterator[tuple[Actor, Actor]]:
    one, other = Actor(volume), Actor(volume)
    try:
        yield one, other
    finally:
        one.close()
        other.close()


def test_what_an_expelled_process_has_open_is_dead_and_others_go_on(volume: Served) -> None:
    volume.as_session(put, b"there", b"content")
    with actors(volume) as (one, other):
        written = {who: who("open", b"%d" % who.pid, os.O_RDWR | os.O_CREAT, 0o644) for who in (one, other)}
        reading = {who: who("open", b"there", os.O_RDONLY) for who in (one, other)}
        for who in (one, other):
            assert who("write", written[who], b"before") == 6
        volume.tell("e", one.pid)
        fd, there = written[one], reading[one]
        attempts: list[tuple[str, tuple[object, ...]]] = [
            ("write", (fd, b"after")),
            ("pwrite", (fd, b"after", 0)),
            ("pread", (there, 10, 0)),
            ("fsync", (fd,)),
            ("ftruncate", (fd, 0)),
            ("truncate", (b"there", 0)),
            ("utime", (fd,)),
            ("open", (b"there", os.O_RDONLY)),
            ("open", (b"new", os.O_WRONLY | os.O_CREAT, 0o644)),
            ("mkdir", (b"dir",)),
            ("unlink", (b"there",)),
            ("rename", (b"there", b"elsewhere")),
            ("symlink", (b"x", b"link")),
            ("link", (b"there", b"hard")),
            ("chmod", (b"there", 0o600)),
            ("listdir", (b".",)),
            ("statvfs", (b".",)),
            ("stat", (b"never seen",)),
        ]
        for name, arguments in attempts:
            with refused(errno.EACCES):
                one(name, *arguments)
        assert other("write", written[other], b" and after") == 10
        assert other("pread", reading[other], 10, 0) == b"content"
        assert sorted(other("listdir", b".")) == sorted([b"there", b"%d" % one.pid, b"%d" % other.pid])
        # Whoever gets the pid later is another: what was open stays dead, and nothing else does.
        volume.tell("e")
        with refused(errno.EACCES):
            one("write", fd, b"after")
        with refused(errno.EACCES):
            one("pread", there, 10, 0)
        assert one("pread", one("open", b"there", os.O_RDONLY), 10, 0) == b"content"
        assert volume.as_session(get, b"%d" % one.pid) == b"before"
        assert volume.as_session(get, b"%d" % other.pid) == b"before and after"


def writer(volume: Served, name: bytes) -> int:
    """A process that writes block after block, until it is refused, and then ends with status 7."""
    pid = os.fork()
    if pid:
        return pid

    def write() -> None:
        fd = os.open(name, os.O_WRONLY | os.O_CREAT, 0o644)
        try:
            while True:
                os.write(fd, b"x" * BLOCK)
        except PermissionError:
            os._exit(7)

    try:
        run_as(volume, write)
    finally:
        os._exit(1)


def run_as(volume: Served, function: Callable[[], None]) -> None:
    os.setgroups([])
    os.setresgid(volume.uid, volume.uid, volume.uid)
    os.setresuid(volume.uid, volume.uid, volume.uid)
    os.chdir(volume.path)
    function()


def test_expelled_in_the_middle_of_writing(volume: Served) -> None:
    pids = {name: writer(volume, name) for name in (b"one", b"other")}
    try:
        files = {name: volume.backing / os.fsdecode(name) for name in pids}
        end = time.monotonic() + PATIENCE_S
        while not all(path.exists() and path.stat().st_size > 10 * BLOCK for path in files.values()):
            assert time.monotonic() < end
            time.sleep(0.01)
        volume.tell("e", pids[b"one"])
        stopped_at = files[b"one"].stat().st_size
        goes_on = files[b"other"].stat().st_size
        assert os.waitstatus_to_exitcode(os.waitpid(pids.pop(b"one"), 0)[1]) == 7
        while files[b"other"].stat().st_size < goes_on + 10 * BLOCK:
            assert time.monotonic() < end
        assert files[b"one"].stat().st_size == stopped_at, "not a byte after the answer"
        (told,) = volume.tell("s", pids[b"other"])["callers"]
        pid, read, written, open_files = told
        assert (pid, read, open_files) == (pids[b"other"], 0, [(b"other", True)])
        assert goes_on <= written <= files[b"other"].stat().st_size
    finally:
        for pid in pids.values():
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
        for path in volume.backing.iterdir():
            path.unlink()


def test_a_listing_in_progress_is_refused_only_to_the_expelled(volume: Served) -> None:
    """The worker goes on at once: the one who lists has been stopped, and does not live to hear of it."""
    for number in range(3000):
        (volume.backing / f"{number:04}-{'x' * 60}").touch()
    listing = (
        "import os, sys\n"
        "with os.scandir('.') as found:\n"
        "    seen = sum(1 for _, _ in zip(range(10), found))\n"
        "    os.write(1, b'x'); os.read(0, 1)\n"
        "    try:\n"
        "        seen += sum(1 for _ in found)\n"
        "    except OSError as exc:\n"
        "        sys.exit(exc.errno)\n"
        "sys.exit(0 if seen == 3000 else 99)\n"
    )
    pids, ends = [], []
    for _ in range(2):
        orders, order = os.pipe()
        said, say = os.pipe()
        pid = os.fork()
        if pid == 0:
            try:
                os.dup2(orders, 0)
                os.dup2(say, 1)
                run_as(volume, lambda: exec(listing, {}))  # noqa: S102 - the text above
            except SystemExit as exc:
                os._exit(int(str(exc)))
            finally:
                os._exit(98)
        assert os.read(said, 1) == b"x"
        pids.append(pid)
        ends += [order, orders, said, say]
    volume.tell("e", pids[0])
    began = time.monotonic()
    for order in ends[::4]:
        os.write(order, b"x")
    statuses = [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in pids]
    assert statuses == [errno.EACCES, 0]
    assert time.monotonic() - began < 0.4, "nobody else waits"
    for fd in ends:
        os.close(fd)
