"""Several at work in one volume: processes of a session, two logins with a worker each, and the container."""

from __future__ import annotations

import contextlib
import errno
import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from tests.mount.served import OWNER_GID, OWNER_UID, SESSION_UID, Served, get, put, refused, served

from hatchway.kernel.files import RENAME_EXCHANGE, RENAME_NOREPLACE, renameat2

AT_FDCWD = -100
LINES = 150
RACES = 150


@pytest.fixture
def second(volume: Served) -> Iterator[Served]:
    """The same volume as another login has it."""
    with served(uid=SESSION_UID + 1, beside=volume) as second:
        yield second


@contextlib.contextmanager
def at_once(*works: Callable[[], object]) -> Iterator[None]:
    """Each of `works` in a process of its own while the block runs; it ends when they have. All must succeed."""
    pids = []
    for work in works:
        pid = os.fork()
        if pid == 0:
            status = 1
            try:
                work()
                status = 0
            finally:
                os._exit(status)
        pids.append(pid)
    try:
        yield
    finally:
        statuses = [os.waitpid(pid, 0)[1] for pid in pids]
    assert statuses == [0] * len(pids)


def append(letter: bytes, length: int) -> None:
    fd = os.open(b"log", os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    for _ in range(LINES):
        assert os.write(fd, letter * (length - 1) + b"\n") == length
    os.close(fd)


@pytest.mark.parametrize("length", [20, 60_000])
def test_appenders(volume: Served, second: Served, length: int) -> None:
    """Two of either login and the container: no line is lost, torn or written over."""

    def container() -> None:
        os.chdir(volume.backing)
        append(b"e", length)

    with at_once(
        lambda: volume.as_session(append, b"a", length),
        lambda: volume.as_session(append, b"b", length),
        lambda: second.as_session(append, b"c", length),
        lambda: second.as_session(append, b"d", length),
        container,
    ):
        pass
    lines = (volume.backing / "log").read_bytes().splitlines()
    assert {line[:1]: lines.count(line) for line in lines} == dict.fromkeys((b"a", b"b", b"c", b"d", b"e"), LINES)
    assert {len(line) for line in lines} == {length - 1}


def exclusive(name: bytes) -> None:
    os.close(os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))


def make(name: bytes) -> None:
    os.mkdir(name)


def symlink(name: bytes) -> None:
    os.symlink(b"%d" % os.getpid(), name)


def link(name: bytes) -> None:
    own = b"own-%d" % os.getpid()
    with contextlib.suppress(FileExistsError):
        os.close(os.open(own, os.O_CREAT | os.O_EXCL | os.O_WRONLY))
    os.link(own, name)


def no_replace(name: bytes) -> None:
    own = b"own-%d" % os.getpid()
    os.close(os.open(own, os.O_CREAT | os.O_WRONLY))
    renameat2(AT_FDCWD, own, AT_FDCWD, name, RENAME_NOREPLACE)


@pytest.mark.parametrize("take", [exclusive, make, symlink, link, no_replace])
def test_only_one_gets_a_name(volume: Served, second: Served, take: Callable[[bytes], None]) -> None:
    """What locks are made of decides among all of them, the container included."""

    def racer(letter: str) -> None:
        won = []
        for number in range(RACES):
            try:
                take(b"name-%d" % number)
            except FileExistsError:
                continue
            won.append(str(number))
        Path(f"won-{letter}").write_text(" ".join(won))

    def container() -> None:
        os.chdir(volume.backing)
        racer("c")

    with at_once(lambda: volume.as_session(racer, "a"), lambda: second.as_session(racer, "b"), container):
        pass
    won = [number for letter in "abc" for number in (volume.backing / f"won-{letter}").read_text().split()]
    assert sorted(won, key=int) == [str(number) for number in range(RACES)]


def test_what_one_login_does_the_other_sees(volume: Served, second: Served) -> None:
    def first_writes() -> None:
        put(b"file", b"first")
        os.mkdir(b"dir")

    volume.as_session(first_writes)

    def other() -> None:
        assert get(b"file") == b"first"
        put(b"file", b"the second login's")
        os.rename(b"file", b"dir/moved")
        fd = os.open(b"dir/moved", os.O_RDWR)
        os.pwrite(fd, b"THE", 0)
        os.close(fd)

    second.as_session(other)
    assert volume.as_session(get, b"dir/moved") == b"THE second login's"
    assert volume.as_session(lambda: os.stat(b"dir/moved").st_uid) == SESSION_UID
    assert second.as_session(lambda: os.stat(b"dir/moved").st_uid) == SESSION_UID + 1
    st = (volume.backing / "dir" / "moved").stat()
    assert (st.st_uid, st.st_gid) == (OWNER_UID, OWNER_GID)
    with refused(errno.ENOENT):
        volume.as_session(get, b"file")


@pytest.mark.parametrize("on", [None, "/dev/shm"], ids=["disk", "tmpfs"])
def test_listing_while_others_create_remove_and_rename(on: str | None) -> None:
    """What is there all the time is listed exactly once, whatever else comes, goes and changes its name."""
    stays = {b"stays-%05d" % number for number in range(3000)}
    with served(on=on) as volume:
        for name in sorted(stays):
            (volume.backing / os.fsdecode(name)).touch()
        pids = []
        for letter in (b"x", b"y"):
            pid = os.fork()
            if pid == 0:
                churn(volume.backing, letter)
            pids.append(pid)

        def session() -> int:
            turns = 0
            deadline = time.monotonic() + 2.5
            while time.monotonic() < deadline:
                seen = [os.fsencode(name) for name in os.listdir()]
                kept = [name for name in seen if name.startswith(b"stays")]
                assert len(kept) == len(stays)
                assert set(kept) == stays
                turns += 1
            return turns

        try:
            assert volume.as_session(session) > 3
        finally:
            for pid in pids:
                os.kill(pid, signal.SIGKILL)
                os.waitpid(pid, 0)


def churn(where: Path, letter: bytes) -> None:
    """Create, rename, exchange and remove names for ever."""
    os.chdir(where)
    while True:
        for number in range(40):
            os.close(os.open(b"%s-%d" % (letter, number), os.O_CREAT | os.O_WRONLY, 0o600))
        for number in range(0, 40, 2):
            renameat2(AT_FDCWD, b"%s-%d" % (letter, number), AT_FDCWD, b"%s-%d" % (letter, number + 1), RENAME_EXCHANGE)
            os.rename(b"%s-%d" % (letter, number), b"%s-renamed-to-something-longer-%d" % (letter, number))
        for number in range(0, 40, 2):
            os.unlink(b"%s-renamed-to-something-longer-%d" % (letter, number))
            os.unlink(b"%s-%d" % (letter, number + 1))


def test_far_below_path_max(volume: Served) -> None:
    """Deeper in all than PATH_MAX: everything works there by working directory and by descriptor."""
    step = b"d" * 200
    depth = 45

    def session() -> None:
        top = os.open(b".", os.O_RDONLY)
        for _ in range(depth):
            os.mkdir(step)
            os.chdir(step)
        with refused(errno.ENAMETOOLONG):
            os.stat(os.getcwdb())
        put(b"bottom", b"deep")
        os.rename(b"bottom", b"moved")
        os.link(b"moved", b"second")
        os.symlink(b"moved", b"soft")
        assert get(b"soft") == b"deep"
        assert sorted(os.listdir(b".")) == [b"moved", b"second", b"soft"]
        os.truncate(b"second", 2)
        os.utime(b"moved", ns=(1, 2))
        assert (os.stat(b"moved").st_size, os.stat(b"moved").st_nlink) == (2, 2)
        # More directories than the worker keeps descriptors of, and back up by "..".
        for number in range(300):
            os.mkdir(b"%d" % number)
            put(b"%d/file" % number, b"x")
        for number in range(300):
            os.unlink(b"%d/file" % number)
            os.rmdir(b"%d" % number)
        for name in (b"moved", b"second", b"soft"):
            os.unlink(name)
        for _ in range(depth):
            os.chdir(b"..")
            os.rmdir(step)
        assert os.path.samestat(os.stat(b"."), os.fstat(top))
        os.close(top)

    volume.as_session(session)
    assert os.listdir(volume.backing) == []


def test_an_inode_number_used_again_is_another_file(volume: Served) -> None:
    """ext4 gives a freed number to the next file. Who has the old one open keeps it."""

    def session() -> None:
        numbers: set[int] = set()
        for turn in range(200):
            held = os.open(b"file", os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
            os.write(held, b"%d" % turn)
            os.unlink(b"file")
            put(b"file", b"next")
            assert os.fstat(held).st_nlink == 0
            assert os.fstat(held).st_ino != os.stat(b"file").st_ino
            assert os.pread(held, 10, 0) == b"%d" % turn
            assert get(b"file") == b"next"
            numbers.update((os.fstat(held).st_ino, os.stat(b"file").st_ino))
            os.unlink(b"file")
            os.close(held)
        # What a session is shown as the inode number is never used again, so it needs no generation.
        assert len(numbers) == 400

    volume.as_session(session)
