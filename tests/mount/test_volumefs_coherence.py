"""The container changes the same files, and rights change, while a session is at work."""

from __future__ import annotations

import errno
import fcntl
import os
import signal
import socket
import stat
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.mount.served import PATIENCE_S, Served, get, put, refused, served

from hatchway.kernel.files import RENAME_EXCHANGE, renameat2

COHERENT_S = 2.0


class Session:
    """A session's process that does one thing after another: `do` gives the result, or raises what it raised."""

    def __init__(self, volume: Served) -> None:
        self._ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._ours.settimeout(PATIENCE_S)
        self._steps: dict[str, Callable[[dict[str, int]], object]] = {}
        self._volume = volume
        self._theirs = theirs
        self._thread: threading.Thread | None = None

    def step(self, name: str, action: Callable[[dict[str, int]], object]) -> None:
        """Define a step. `action` gets a dictionary that lasts from step to step."""
        self._steps[name] = action

    def begin(self) -> None:
        """Start the process."""

        def loop() -> None:
            kept: dict[str, int] = {}
            while name := self._theirs.recv(100).decode():
                try:
                    self._theirs.send(repr(self._steps[name](kept)).encode())
                except OSError as exc:
                    self._theirs.send(b"!%d" % (exc.errno or 0))

        self._thread = threading.Thread(target=self._volume.as_session, args=(loop,))
        self._thread.start()

    def do(self, name: str) -> str:
        """Have a step done: the repr of its result, or OSError with its errno."""
        self._ours.send(name.encode())
        answer = self._ours.recv(65536).decode()
        if answer.startswith("!"):
            raise OSError(int(answer[1:]), "in the session")
        return answer

    def end(self) -> None:
        """End the process."""
        self._ours.send(b"")
        self._ours.close()
        self._theirs.close()
        if self._thread is not None:
            self._thread.join(PATIENCE_S)


@contextmanager
def at_work(volume: Served, **steps: Callable[[dict[str, int]], object]) -> Iterator[Session]:
    """A running session that knows `steps`."""
    session = Session(volume)
    for name, action in steps.items():
        session.step(name, action)
    session.begin()
    try:
        yield session
    finally:
        session.end()


def within(seconds: float, check: Callable[[], bool]) -> None:
    """`check` becomes true in that time."""
    deadline = time.monotonic() + seconds
    while not check():
        assert time.monotonic() < deadline, "not within the time"
        time.sleep(0.02)


def _gone(session: Session, step: str) -> bool:
    try:
        session.do(step)
    except FileNotFoundError:
        return True
    return False


def test_what_the_container_does_is_seen(volume: Served) -> None:
    (volume.backing / "file").write_bytes(b"before")
    (volume.backing / "gone").write_bytes(b"x")
    (volume.backing / "dir").mkdir()
    steps: dict[str, Callable[[dict[str, int]], object]] = {
        "listing": lambda _: sorted(os.listdir()),
        "size": lambda _: os.stat("file").st_size,
        "mode": lambda _: stat.S_IMODE(os.stat("file").st_mode),
        "read": lambda _: get(b"file"),
        "gone": lambda _: os.path.exists("gone"),
        "below": lambda _: os.listdir("dir"),
        "deep": lambda _: get(b"moved/new"),
    }
    with at_work(volume, **steps) as session:
        assert session.do("listing") == "['dir', 'file', 'gone']"
        assert session.do("size") == "6"
        assert session.do("gone") == "True"
        assert session.do("below") == "[]"
        (volume.backing / "file").write_bytes(b"changed by the container")
        assert session.do("read") == repr(b"changed by the container")
        (volume.backing / "file").chmod(0o604)
        (volume.backing / "gone").unlink()
        (volume.backing / "dir" / "new").write_bytes(b"n")
        (volume.backing / "dir").rename(volume.backing / "moved")
        (volume.backing / "created").touch()
        within(COHERENT_S, lambda: session.do("size") == "24")
        within(COHERENT_S, lambda: session.do("mode") == str(0o604))
        within(COHERENT_S, lambda: session.do("gone") == "False")
        within(COHERENT_S, lambda: session.do("listing") == "['created', 'file', 'moved']")
        within(COHERENT_S, lambda: session.do("deep") == repr(b"n"))


def test_a_growing_log_can_be_followed(volume: Served) -> None:
    (volume.backing / "log").write_bytes(b"line 1\n")
    steps: dict[str, Callable[[dict[str, int]], object]] = {
        "open": lambda kept: kept.update(fd=os.open(b"log", os.O_RDONLY)),
        "read": lambda kept: os.read(kept["fd"], 65536),
    }
    with at_work(volume, **steps) as session:
        session.do("open")
        assert session.do("read") == repr(b"line 1\n")
        assert session.do("read") == repr(b"")
        with (volume.backing / "log").open("ab") as file:
            file.write(b"line 2\n")
        # At once: no read stops at a size that was true a second ago.
        assert session.do("read") == repr(b"line 2\n")


def test_what_the_session_does_is_seen_at_once(volume: Served) -> None:
    steps: dict[str, Callable[[dict[str, int]], object]] = {
        "create": lambda kept: kept.update(fd=os.open(b"file", os.O_RDWR | os.O_CREAT, 0o644)),
        "write": lambda kept: os.write(kept["fd"], b"from the session"),
        "truncate": lambda kept: os.ftruncate(kept["fd"], 4),
        "rename": lambda _: os.rename(b"file", b"renamed"),
        "unlink": lambda _: os.unlink(b"renamed"),
    }
    with at_work(volume, **steps) as session:
        session.do("create")
        assert (volume.backing / "file").stat().st_size == 0
        session.do("write")
        assert (volume.backing / "file").read_bytes() == b"from the session"
        session.do("truncate")
        assert (volume.backing / "file").read_bytes() == b"from"
        session.do("rename")
        assert os.listdir(volume.backing) == ["renamed"]
        session.do("unlink")
        assert os.listdir(volume.backing) == []


def test_a_file_replaced_underneath(volume: Served) -> None:
    """As editors and package managers do it: a new file renamed over the old one."""
    (volume.backing / "conf").write_bytes(b"old")
    with at_work(volume, read=lambda _: get(b"conf"), chmod=lambda _: os.chmod(b"conf", 0o600)) as session:
        assert session.do("read") == repr(b"old")
        for number in range(20):
            (volume.backing / "new").write_bytes(b"%d" % number)
            (volume.backing / "new").rename(volume.backing / "conf")
            # Never an error: what is stale is looked up again by the kernel.
            assert session.do("read") == repr(b"%d" % number)
            session.do("chmod")
        assert stat.S_IMODE((volume.backing / "conf").stat().st_mode) == 0o600


def test_a_directory_replaced_underneath(volume: Served) -> None:
    (volume.backing / "release").mkdir()
    (volume.backing / "release" / "version").write_bytes(b"1")
    with at_work(volume, read=lambda _: get(b"release/version"), put=lambda _: put(b"release/new", b"x")) as session:
        assert session.do("read") == repr(b"1")
        (volume.backing / "next").mkdir()
        (volume.backing / "next" / "version").write_bytes(b"2")
        (volume.backing / "release").rename(volume.backing / "previous")
        (volume.backing / "next").rename(volume.backing / "release")
        within(COHERENT_S, lambda: session.do("read") == repr(b"2"))
        session.do("put")
        assert (volume.backing / "release" / "new").exists()


def test_removed_and_made_again_with_the_same_inode_number(volume: Served) -> None:
    """ext4 uses a freed number at once. What the kernel knew under it must not become something else."""
    (volume.backing / "a").write_bytes(b"a")
    with at_work(
        volume,
        stat=lambda _: os.stat(b"a").st_size,
        truncate=lambda _: os.truncate(b"a", 0),
        other=lambda _: os.stat(b"b").st_size,
    ) as session:
        for _ in range(4):
            (volume.backing / "a").write_bytes(b"a")
            within(COHERENT_S, lambda: session.do("stat") == "1")
            (volume.backing / "a").unlink()
            (volume.backing / "b").write_bytes(b"precious")
            assert session.do("other") == "8"
            with refused(errno.ENOENT):
                session.do("truncate")
            assert (volume.backing / "b").read_bytes() == b"precious"
            (volume.backing / "b").unlink()
            within(COHERENT_S, lambda: _gone(session, "other"))


def test_refused_at_once(volume: Served) -> None:
    (volume.backing / "file").write_bytes(b"content")
    steps: dict[str, Callable[[dict[str, int]], object]] = {
        "open": lambda kept: kept.update(fd=os.open(b"file", os.O_RDWR), dir=os.open(b".", os.O_RDONLY)),
        "read": lambda kept: os.pread(kept["fd"], 10, 0),
        "write": lambda kept: os.pwrite(kept["fd"], b"x", 0),
        "list": lambda kept: os.listdir(kept["dir"]),
        "truncate": lambda kept: os.ftruncate(kept["fd"], 0),
        "new": lambda _: put(b"new", b"x"),
        "close": lambda kept: os.close(kept["fd"]),
        "fresh": lambda _: get(b"file"),
    }
    with at_work(volume, **steps) as session:
        session.do("open")
        assert session.do("read") == repr(b"content")
        began = time.monotonic()
        assert volume.tell("r")["refused"]
        for name in ("read", "write", "list", "truncate", "new", "fresh"):
            with refused(errno.EACCES):
                session.do(name)
        assert time.monotonic() - began < 1
        session.do("close")
        assert (volume.backing / "file").read_bytes() == b"content"
        assert os.listdir(volume.backing) == ["file"]
        volume.tell("w")
        assert session.do("fresh") == repr(b"content")


def test_read_only_at_once(volume: Served) -> None:
    (volume.backing / "file").write_bytes(b"content")
    steps: dict[str, Callable[[dict[str, int]], object]] = {
        "open": lambda kept: kept.update(fd=os.open(b"file", os.O_RDWR)),
        "read": lambda kept: os.pread(kept["fd"], 10, 0),
        "write": lambda kept: os.pwrite(kept["fd"], b"x", 0),
        "chmod": lambda kept: os.fchmod(kept["fd"], 0o600),
        "truncate": lambda kept: os.ftruncate(kept["fd"], 0),
        "new": lambda _: put(b"new", b"x"),
        "unlink": lambda _: os.unlink(b"file"),
    }
    with at_work(volume, **steps) as session:
        session.do("open")
        assert volume.tell("o")["read_only"]
        assert session.do("read") == repr(b"content")
        for name in ("write", "chmod", "truncate", "new", "unlink"):
            with refused(errno.EACCES):
                session.do(name)
        assert (volume.backing / "file").read_bytes() == b"content"
        volume.tell("w")
        # Not by a handle from before: the worker has nothing open for writing since, so that the kernel refuses too.
        with refused(errno.EACCES):
            session.do("write")
        session.do("open")
        session.do("write")
        assert (volume.backing / "file").read_bytes() == b"xontent"
        session.do("truncate")
        assert (volume.backing / "file").read_bytes() == b""


def test_rights_change_while_a_transfer_saturates_the_worker(volume: Served) -> None:
    """The worker prefers the next request to everything else, but not for long."""
    block = bytes(4096)

    def transfer(_kept: dict[str, int]) -> object:
        fd = os.open(b"file", os.O_WRONLY | os.O_CREAT, 0o644)
        deadline = time.monotonic() + 10
        written = 0
        while time.monotonic() < deadline:
            try:
                written += os.pwrite(fd, block, 0)
            except OSError as exc:
                os.close(fd)
                return (exc.errno, written > 0)
        os.close(fd)
        return "never refused"

    with at_work(volume, transfer=transfer) as session:
        answer: list[str] = []
        thread = threading.Thread(target=lambda: answer.append(session.do("transfer")))
        thread.start()
        within(5, lambda: (volume.backing / "file").exists() and (volume.backing / "file").stat().st_size > 0)
        time.sleep(0.2)
        began = time.monotonic()
        volume.tell("r")
        thread.join(10)
        assert time.monotonic() - began < 1
        assert answer == [repr((errno.EACCES, True))]
        volume.tell("w")


def test_a_lease_is_not_waited_for(volume: Served) -> None:
    """A container's process may hold a lease for 45 s (proc(5), lease-break-time); the worker serves on meanwhile."""
    (volume.backing / "leased").write_bytes(b"x")
    (volume.backing / "other").write_bytes(b"y")
    before = signal.signal(signal.SIGIO, signal.SIG_IGN)
    fd = os.open(volume.backing / "leased", os.O_RDONLY)
    try:
        fcntl.fcntl(fd, fcntl.F_SETLEASE, fcntl.F_RDLCK)
        began = time.monotonic()

        def session() -> None:
            with refused(errno.EBUSY):
                os.open(b"leased", os.O_WRONLY)
            with refused(errno.EBUSY):
                os.truncate(b"leased", 0)
            assert get(b"other") == b"y"
            assert get(b"leased") == b"x"

        volume.as_session(session)
        assert time.monotonic() - began < 2
        fcntl.fcntl(fd, fcntl.F_SETLEASE, fcntl.F_UNLCK)
        volume.as_session(put, b"leased", b"now")
    finally:
        os.close(fd)
        signal.signal(signal.SIGIO, before)


def test_on_tmpfs_as_well() -> None:
    """Another file system: other offsets in directories, inode numbers, O_TMPFILE."""
    with served(on="/dev/shm") as volume:
        names = sorted(f"{number:04}" for number in range(2000))

        def session() -> None:
            for name in names:
                put(name.encode(), b"x")
            assert sorted(os.listdir()) == names
            os.rename("0000", "0001")
            os.truncate("0002", 2**53 + 1)
            assert os.stat("0002").st_size == 2**53 + 1
            os.utime("0003", ns=(-7, -8))
            assert os.stat("0003").st_mtime_ns == -8
            for name in names[1:]:
                os.unlink(name)
            assert os.listdir() == []

        volume.as_session(session)


def test_removed_from_under_us(volume: Served) -> None:
    (volume.backing / "dir").mkdir()

    def session() -> None:
        os.chdir("dir")
        put(b"file", b"x")

    volume.as_session(session)
    steps: dict[str, Callable[[dict[str, int]], object]] = {
        "enter": lambda _: os.chdir("dir"),
        "list": lambda _: os.listdir(),
        "make": lambda _: put(b"new", b"x"),
    }
    with at_work(volume, **steps) as session_:
        session_.do("enter")
        (volume.backing / "dir" / "file").unlink()
        (volume.backing / "dir").rmdir()
        time.sleep(1.1)
        with refused(errno.ENOENT, errno.ESTALE):
            session_.do("make")
        # glibc takes what the kernel says of a removed directory for its end (sysdeps/unix/sysv/linux/readdir64.c):
        # it is said when it is opened.
        with refused(errno.ENOENT, errno.ESTALE):
            session_.do("list")


def test_a_container_that_swaps_names_as_fast_as_it_can(volume: Served, tmp_path: Path) -> None:
    """Nothing outside is reached, and nothing hangs.

    The session's own kernel follows symlinks in the session's own root, here this machine's; so what they point to is
    closed to the session, and only the worker, which passes permission checks, could get there.
    """
    outside = tmp_path / "outside"
    outside.mkdir(mode=0o700)
    (outside / "file").write_bytes(b"outside")
    (outside / "file").chmod(0o600)
    before = [(path.lstat(), sorted(os.listdir(outside))) for path in (outside, outside / "file")]
    # Many, because what the kernel has looked up it does not ask for again within a second.
    directories = [f"real-{number}" for number in range(100)]
    for name in directories:
        (volume.backing / name).mkdir()
        (volume.backing / name / "file").write_bytes(b"inside")
    (volume.backing / "link").symlink_to(outside)
    os.mkfifo(volume.backing / "fifo")
    pid = os.fork()
    if pid == 0:
        root = os.open(volume.backing, os.O_PATH)
        while True:
            for name in directories:
                for other in (b"link", b"fifo", b"link", b"fifo"):
                    renameat2(root, name.encode(), root, other, RENAME_EXCHANGE)

    def session() -> tuple[int, int]:
        done = failed = 0
        deadline = time.monotonic() + 60
        actions = (
            lambda path: get(path + b"/file"),
            lambda path: os.listdir(path),
            lambda path: put(path + b"/file", b"inside"),
            lambda path: os.chmod(path + b"/file", 0o644),
            lambda path: os.truncate(path + b"/file", 6),
            lambda path: os.utime(path + b"/file", ns=(1, 1)),
            lambda path: put(path + b"/other", b"x"),
            lambda path: os.link(path + b"/file", path + b"/second"),
            lambda path: os.rename(path + b"/second", path + b"/other"),
            lambda path: os.unlink(path + b"/other"),
            lambda path: os.mkdir(path + b"/dir"),
            lambda path: os.rmdir(path + b"/dir"),
            lambda path: os.close(os.open(path, os.O_RDONLY | os.O_NOFOLLOW)),
            lambda path: os.chmod(path, 0o755),
        )
        turn = 0
        while min(done, failed) <= 200 and time.monotonic() < deadline:
            turn += 1
            path = directories[turn % len(directories)].encode()
            for action in actions:
                began = time.monotonic()
                try:
                    action(path)
                    done += 1
                except OSError:
                    failed += 1
                assert time.monotonic() - began < 1
        return done, failed

    try:
        done, failed = volume.as_session(session)
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
    assert done > 100
    assert failed > 100
    after = [(path.lstat(), sorted(os.listdir(outside))) for path in (outside, outside / "file")]
    for (was, names), (is_now, names_now) in zip(before, after, strict=True):
        assert names == names_now
        assert (was.st_mode, was.st_uid, was.st_size, was.st_nlink) == (
            is_now.st_mode, is_now.st_uid, is_now.st_size, is_now.st_nlink,
        )  # fmt: skip
        assert (was.st_mtime_ns, was.st_ctime_ns) == (is_now.st_mtime_ns, is_now.st_ctime_ns)
    assert (outside / "file").read_bytes() == b"outside"
