"""Limits of a volume: nothing is added beyond them, whatever the operation and whoever does it at the same time."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import random
import stat
import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

import pytest
from tests.figures import note
from tests.mount.served import Served, counted, get, put, refused, served

from hatchway.volumefs.counter import Counter
from hatchway.volumefs.ledger import BLOCK, GROWN_MAX, Ledger, key_of
from hatchway.volumefs.quota import Quota

T = TypeVar("T")

LIMIT = 40
FILES = 30


@pytest.fixture
def ledger() -> Iterator[Ledger]:
    ledger = Ledger.make()
    ledger.suppose(0, 0, 1)
    ledger.limit(LIMIT, FILES)
    yield ledger
    ledger.close()


@pytest.fixture
def volume(ledger: Ledger) -> Iterator[Served]:
    with served(ledger=ledger, expect_log=True) as volume:
        yield volume


@pytest.fixture
def second(ledger: Ledger, volume: Served) -> Iterator[Served]:
    """The same volume for a second login."""
    with served(beside=volume, ledger=ledger, expect_log=True) as second:
        yield second


def on_disk(volume: Served) -> tuple[int, int]:
    """Blocks and names that are there."""
    return counted(volume.backing.resolve())


def entered(ledger: Ledger) -> tuple[int, int]:
    figures = ledger.figures()
    return figures.blocks, figures.files


def count(ledger: Ledger, volume: Served, before_the_end: Callable[[], None] = lambda: None) -> bool:
    """Count the volume as hostd has it counted. Whether the result is exact."""
    calmly(ledger, ledger.begin)
    counter = Counter(ledger, lambda: None)
    root = os.open(volume.backing, os.O_PATH | os.O_DIRECTORY)
    try:
        counter.count(root)
    finally:
        os.close(root)
    before_the_end()
    now = int(time.time())
    return calmly(ledger, lambda: ledger.finish(counter.blocks, counter.files, now, least=counter.least))


def calmly(ledger: Ledger, call: Callable[[], T]) -> T:
    """Call it with the figures, when nobody is in the middle of a change. Raises BlockingIOError."""
    ledger.take_figures()
    try:
        deadline = time.monotonic() + 0.05
        while not ledger.calm():
            if time.monotonic() > deadline:
                raise BlockingIOError
            time.sleep(0.001)
        return call()
    finally:
        ledger.give_figures()


def test_filled_to_the_last_byte(volume: Served, ledger: Ledger) -> None:
    def session() -> None:
        put(b"first", b"x" * (LIMIT - 2) * BLOCK)
        fd = os.open(b"second", os.O_WRONLY | os.O_CREAT, 0o600)
        assert os.write(fd, b"y" * 100) == 100
        # What there is no room for is not written, what there is room for is.
        assert os.write(fd, b"y" * 4 * BLOCK) == 2 * BLOCK - 100
        with refused(errno.EDQUOT):
            os.write(fd, b"z")
        # What is there can be written anew.
        assert os.pwrite(fd, b"z" * 2 * BLOCK, 0) == 2 * BLOCK
        os.close(fd)
        df = os.statvfs(b".")
        assert (df.f_frsize, df.f_blocks, df.f_bfree, df.f_bavail) == (BLOCK, LIMIT, 0, 0)
        os.unlink(b"second")
        assert os.statvfs(b".").f_bavail == 2
        put(b"third", b"w" * 2 * BLOCK)

    volume.as_session(session)
    assert entered(ledger) == on_disk(volume) == (LIMIT, 2)
    assert "reached its size limit" in volume.log.read_text()


def test_a_single_file_of_the_limits_size(volume: Served, ledger: Ledger) -> None:
    volume.as_session(lambda: put(b"file", b"x" * LIMIT * BLOCK))
    assert entered(ledger) == on_disk(volume) == (LIMIT, 1)


def test_appends(volume: Served, ledger: Ledger) -> None:
    def session() -> None:
        fd = os.open(b"log", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        for _ in range(LIMIT):
            assert os.write(fd, b"x" * BLOCK) == BLOCK
        with refused(errno.EDQUOT):
            os.write(fd, b"x")
        os.close(fd)

    volume.as_session(session)
    assert entered(ledger) == on_disk(volume) == (LIMIT, 1)


def test_sizes_and_holes_count_in_full(volume: Served, ledger: Ledger) -> None:
    def session() -> None:
        put(b"file", b"x")
        with refused(errno.EDQUOT):
            os.truncate(b"file", LIMIT * BLOCK + 1)
        fd = os.open(b"file", os.O_RDWR)
        with refused(errno.EDQUOT):
            os.ftruncate(fd, 1 << 40)
        with refused(errno.EDQUOT):
            os.pwrite(fd, b"x", LIMIT * BLOCK)
        assert os.fstat(fd).st_size == 1
        assert os.pwrite(fd, b"x", LIMIT * BLOCK - 1) == 1
        with refused(errno.EDQUOT):
            put(b"other", b"x")
        # The hole was counted, so it may be filled.
        assert os.pwrite(fd, b"y" * (LIMIT - 1) * BLOCK, 0) == (LIMIT - 1) * BLOCK
        os.ftruncate(fd, 10)
        os.close(fd)
        os.truncate(b"file", BLOCK)
        put(b"other", b"y" * (LIMIT - 1) * BLOCK)
        # Opened anew with O_TRUNC, as by an upload over it.
        put(b"other", b"z" * BLOCK)

    volume.as_session(session)
    assert entered(ledger) == on_disk(volume) == (2, 2)


def test_what_is_replaced_makes_room(volume: Served, ledger: Ledger) -> None:
    def session() -> None:
        put(b"old", b"x" * 30 * BLOCK)
        put(b"new", b"y" * 10 * BLOCK)
        os.link(b"old", b"other name")
        os.rename(b"new", b"old")
        with refused(errno.EDQUOT):
            put(b"more", b"z")
        os.unlink(b"more")
        os.rename(b"old", b"other name")
        put(b"more", b"z" * 30 * BLOCK)
        # Two names of one file: nothing happens (rename(2)).
        os.link(b"more", b"same")
        os.rename(b"more", b"same")
        os.mkdir(b"a")
        os.mkdir(b"b")
        os.rename(b"a", b"b")

    volume.as_session(session)
    assert entered(ledger) == on_disk(volume) == (LIMIT, 4)


def test_files_are_counted(volume: Served, ledger: Ledger) -> None:
    def session() -> None:
        makers: list[Callable[[bytes], None]] = [
            os.mkdir,
            lambda name: os.symlink(b"target", name),
            lambda name: put(name, b""),
            lambda name: os.mknod(name, stat.S_IFREG | 0o600),
        ]
        for number in range(FILES):
            makers[number % 4](b"%d" % number)
        df = os.statvfs(b".")
        assert (df.f_files, df.f_ffree, df.f_favail) == (FILES, 0, 0)
        for maker in makers:
            with refused(errno.EDQUOT):
                maker(b"one too many")
        assert not os.path.lexists(b"one too many")
        # Another name counts as well: directories grow with each.
        with refused(errno.EDQUOT):
            os.link(b"2", b"another name")
        os.rename(b"2", b"another name")
        with refused(errno.EDQUOT):
            os.mkdir(b"one too many")
        with refused(errno.EEXIST):
            os.mkdir(b"1")
        os.rmdir(b"0")
        os.mkdir(b"one again")
        # An upload over what is there makes nothing.
        put(b"another name", b"x")
        os.unlink(b"another name")
        os.unlink(b"1")

    volume.as_session(session)
    assert entered(ledger) == on_disk(volume) == (0, FILES - 2)
    assert "reached its limit of files" in volume.log.read_text()


def test_what_fails_leaves_no_entry(volume: Served, ledger: Ledger) -> None:
    def session() -> None:
        put(b"file", b"x")
        os.mkdir(b"dir")
        put(b"dir/inner", b"")
        for number, call in (
            (errno.EEXIST, lambda: os.mkdir(b"file")),
            (errno.EEXIST, lambda: os.symlink(b"x", b"file")),
            (errno.EEXIST, lambda: os.open(b"file", os.O_WRONLY | os.O_CREAT | os.O_EXCL)),
            (errno.ENOTEMPTY, lambda: os.rmdir(b"dir")),
            (errno.ENOTEMPTY, lambda: os.rename(_made(b"empty"), b"dir")),
            (errno.EISDIR, lambda: os.rename(b"file", b"dir")),
            (errno.ENOENT, lambda: os.unlink(b"nothing")),
            (errno.ENAMETOOLONG, lambda: os.mkdir(b"n" * 256)),
        ):
            with refused(number):
                call()

    volume.as_session(session)
    assert entered(ledger) == on_disk(volume) == (1, 4)


def _made(name: bytes) -> bytes:
    os.mkdir(name)
    return name


def test_removed_while_it_is_open(volume: Served, second: Served, ledger: Ledger) -> None:
    """It takes its room until whoever has it open, here or in another login's session, closes it."""

    def session() -> None:
        for opener, remover in ((b".", b"."), (b".", os.fsencode(second.path)), (os.fsencode(second.path), b".")):
            put(b"file", b"x" * LIMIT * BLOCK)
            fd = os.open(opener + b"/file", os.O_RDWR)
            os.unlink(remover + b"/file")
            with refused(errno.EDQUOT):
                put(b"other", b"y")
            with refused(errno.EDQUOT):
                os.pwrite(fd, b"x", LIMIT * BLOCK)
            os.close(fd)
            _until(lambda: os.statvfs(b".").f_bavail == LIMIT)
            put(b"other", b"y" * LIMIT * BLOCK)
            os.unlink(b"other")

    volume.as_session(session)
    assert entered(ledger) == on_disk(volume) == (0, 0)


def _until(condition: Callable[[], bool]) -> None:
    """A release comes some time after close(2) (fuse: FUSE_RELEASE is not waited for)."""
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


@pytest.mark.parametrize("size", [1, BLOCK - 1, 3 * BLOCK, 70_000])
def test_uploads_at_the_same_time(volume: Served, second: Served, ledger: Ledger, size: int) -> None:
    """Eight, in the sessions of two logins: together they fill the volume and do not exceed it."""
    blocks, files = 2000, 400
    ledger.limit(blocks, files)

    def session() -> None:
        pids = []
        for number in range(8):
            if (pid := os.fork()) == 0:
                with contextlib.suppress(BaseException):
                    where = os.fsencode(second.path) if number % 2 else b"."
                    for each in range(files):
                        try:
                            put(where + b"/%d-%d" % (number, each), b"x" * size)
                        except OSError as exc:
                            os._exit(0 if exc.errno == errno.EDQUOT else 1)
                os._exit(1)
            pids.append(pid)
        assert [os.waitpid(pid, 0)[1] for pid in pids] == [0] * 8

    volume.as_session(session)
    found = on_disk(volume)
    assert entered(ledger) == found
    assert found[0] == blocks or found[1] == files
    assert found[0] <= blocks
    assert found[1] <= files


@pytest.mark.parametrize("seed", range(3))
def test_random_changes_from_two_logins_while_it_is_counted(
    volume: Served, second: Served, ledger: Ledger, seed: int
) -> None:
    """What is entered is never less than what is there, and the same when it was counted in peace."""
    ledger.limit(300, 60)

    def change(number: int) -> None:
        rng = random.Random(f"{seed} {number}")  # noqa: S311 - to be played again
        where = os.fsencode(second.path) if number % 2 else b"."
        handles: list[int] = []

        def name() -> bytes:
            return where + b"/%c" % rng.choice(b"abcdefghij")

        for _ in range(400):
            with contextlib.suppress(OSError):
                match rng.randrange(9):
                    case 0 | 1:
                        put(name(), b"x" * rng.randrange(20 * BLOCK))
                    case 2:
                        os.unlink(name())
                    case 3:
                        os.rename(name(), name())
                    case 4:
                        os.truncate(name(), rng.randrange(30 * BLOCK))
                    case 5:
                        os.link(name(), name())
                    case 6:
                        handles.append(os.open(name(), os.O_RDWR))
                    case 7:
                        os.pwrite(rng.choice(handles or [-1]), b"y" * rng.randrange(9 * BLOCK), rng.randrange(99999))
                    case 8 if handles:
                        os.close(handles.pop())
        for fd in handles:
            os.close(fd)

    pids = []
    for number in range(4):
        if (pid := os.fork()) == 0:
            try:
                volume.as_session(change, number)
            except BaseException:
                traceback.print_exc()
                os._exit(1)
            os._exit(0)
        pids.append(pid)
    counts = 0
    while pids:
        with contextlib.suppress(BlockingIOError):
            count(ledger, volume)
            counts += 1
        done, status = os.waitpid(pids[0], os.WNOHANG)
        if done:
            assert status == 0
            pids.pop(0)
    assert counts > 3
    time.sleep(0.5)  # the last releases
    blocks, files = on_disk(volume)
    entered_blocks, entered_files = entered(ledger)
    assert entered_blocks >= blocks
    assert entered_files >= files
    assert entered_blocks <= 300
    assert count(ledger, volume)
    assert entered(ledger) == (blocks, files)
    note(f"quota, random changes {seed}: {counts} counts meanwhile; entered {entered_blocks}, there {blocks}")


def test_a_count_in_the_middle_of_an_upload_is_exact(volume: Served, ledger: Ledger) -> None:
    """Neither what the count has seen nor what it has not is counted twice or not at all."""
    ledger.limit(1 << 20, 1 << 20)
    pid = os.fork()
    if pid == 0:
        try:
            volume.as_session(_upload_for, 2.0)
        except BaseException:
            os._exit(1)
        os._exit(0)
    counts = exact = 0
    while not os.waitpid(pid, os.WNOHANG)[0]:
        with contextlib.suppress(BlockingIOError):
            exact += count(ledger, volume)
            counts += 1
    assert counts > 5
    assert exact == counts
    blocks, files = on_disk(volume)
    # A file that was made in the moment between two looks may count twice until the next count.
    assert blocks <= entered(ledger)[0] <= blocks + counts
    assert files <= entered(ledger)[1] <= files + counts
    assert count(ledger, volume)
    assert entered(ledger) == (blocks, files)


def _upload_for(seconds: float) -> None:
    deadline, number = time.monotonic() + seconds, 0
    while time.monotonic() < deadline:
        put(b"%d" % number, b"x" * 500_000)
        number += 1


def test_what_the_container_writes(volume: Served, ledger: Ledger) -> None:
    """It can go beyond the limit. Then sessions add nothing, and whatever they take away helps."""
    (volume.backing / "dump").write_bytes(b"x" * (LIMIT + 10) * BLOCK)
    assert count(ledger, volume)
    assert entered(ledger) == (LIMIT + 10, 1)

    def session() -> None:
        df = os.statvfs(b".")
        assert (df.f_blocks, df.f_bavail) == (LIMIT, 0)
        with refused(errno.EDQUOT):
            put(b"mine", b"x")
        assert get(b"mine") == b""
        fd = os.open(b"dump", os.O_RDWR)
        os.pwrite(fd, b"y" * BLOCK, 0)
        os.ftruncate(fd, LIMIT * BLOCK)
        os.close(fd)
        with refused(errno.EDQUOT):
            put(b"mine", b"x")
        os.truncate(b"dump", (LIMIT - 1) * BLOCK)
        put(b"mine", b"x")

    volume.as_session(session)
    assert entered(ledger) == on_disk(volume) == (LIMIT, 2)


def test_an_upload_over_a_file_when_there_is_no_room_for_it(volume: Served, ledger: Ledger) -> None:
    """What was there stays there, unless giving it up makes room."""
    (volume.backing / "dump").write_bytes(b"x" * LIMIT * BLOCK)
    for name, blocks in (("small", 2), ("large", 10)):
        (volume.backing / name).write_bytes(b"old" + b"x" * (blocks * BLOCK - 3))
    os.chmod(volume.backing, 0o777)
    for name in ("small", "large"):
        os.chown(volume.backing / name, os.stat(volume.backing).st_uid, 0)
    count(ledger, volume)

    def session() -> None:
        for name in (b"small", b"large"):
            with refused(errno.EDQUOT):
                put(name, b"new")
            assert get(name).startswith(b"old")
        # It is taken away when that is what is asked for.
        os.truncate(b"small", 0)
        os.unlink(b"large")
        with refused(errno.EDQUOT):
            put(b"small", b"new")
        os.truncate(b"dump", (LIMIT - 1) * BLOCK)
        put(b"small", b"new")
        # Exactly full is not too much.
        put(b"small", b"newer")

    volume.as_session(session)
    assert entered(ledger) == on_disk(volume) == (LIMIT, 2)


def test_links_deep_directories_and_special_files_are_counted(volume: Served, ledger: Ledger) -> None:
    root = volume.backing
    (root / "file").write_bytes(b"x" * (BLOCK + 1))
    os.link(root / "file", root / "again")
    os.symlink("file", root / "link")
    os.mkfifo(root / "fifo")
    os.truncate(_touched(root / "sparse"), 100 * BLOCK)
    os.makedirs(root / "/".join("d" * 50))
    assert count(ledger, volume)
    assert entered(ledger) == on_disk(volume) == (102, 55)


def _touched(path: Path) -> Path:
    path.touch()
    return path


def test_what_cannot_be_counted_does_not_make_room(
    volume: Served, ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    volume.as_session(lambda: put(b"file", b"x" * 30 * BLOCK))
    os.makedirs(volume.backing / "deep/er/and/deeper")
    os.rename(volume.backing / "file", volume.backing / "deep/er/and/deeper/file")
    monkeypatch.setattr("hatchway.volumefs.counter.DEPTH_MAX", 3)
    count(ledger, volume)
    assert entered(ledger)[0] == 30
    monkeypatch.undo()
    count(ledger, volume)
    assert entered(ledger) == on_disk(volume)


def test_before_the_first_count(volume: Served) -> None:
    """Nothing can be added to what nobody knows; reading and removing can go on, and a count ends it."""
    with contextlib.closing(Ledger.make()) as ledger:
        ledger.limit(LIMIT, FILES)
        (volume.backing / "there").write_bytes(b"old")
        with served(beside=volume, ledger=ledger, expect_log=True) as uncounted:

            def session() -> None:
                assert get(b"there") == b"old"
                began = time.monotonic()
                with refused(errno.EDQUOT):
                    put(b"new", b"x")
                assert 2 < time.monotonic() - began < 5
                began = time.monotonic()
                with refused(errno.EDQUOT):
                    os.mkdir(b"dir")
                assert time.monotonic() - began < 1
                os.pwrite(fd := os.open(b"there", os.O_WRONLY), b"new", 0)
                os.close(fd)
                os.unlink(b"there")

            uncounted.as_session(session)
            assert "has not been counted yet" in uncounted.log.read_text()
            count(ledger, volume)
            uncounted.as_session(lambda: put(b"new", b"x"))
        assert entered(ledger) == on_disk(volume) == (1, 1)


def test_a_limit_comes_and_goes_while_it_is_mounted(volume: Served, ledger: Ledger) -> None:
    ledger.limit(0, 0)

    def beyond() -> None:
        put(b"large", b"x" * 2 * LIMIT * BLOCK)
        assert os.statvfs(b".").f_blocks != LIMIT

    volume.as_session(beyond)
    count(ledger, volume)
    ledger.limit(LIMIT, 0)

    def within() -> None:
        with refused(errno.EDQUOT):
            put(b"more", b"x")
        assert os.statvfs(b".").f_blocks == LIMIT

    volume.as_session(within)


def test_orphans_keep_their_room_through_counts(volume: Served, second: Served, ledger: Ledger) -> None:
    """A count does not find what has no name any more; it is there even so, until it is closed."""

    def session() -> None:
        put(b"keep", b"x" * 20 * BLOCK)
        put(b"gone", b"x" * 20 * BLOCK)
        here, there = os.open(b"gone", os.O_RDWR), os.open(os.fsencode(second.path) + b"/gone", os.O_RDWR)
        os.unlink(b"gone")
        told()
        with refused(errno.EDQUOT):
            put(b"more", b"y")
        os.unlink(b"more")
        os.close(here)
        told()
        with refused(errno.EDQUOT):
            put(b"more", b"y")
        # What it loses is room, what it gains takes room, and a count changes nothing of that.
        os.ftruncate(there, 5 * BLOCK)
        put(b"more", b"y" * 10 * BLOCK)
        assert os.pwrite(there, b"x" * 9 * BLOCK, 5 * BLOCK) == 5 * BLOCK
        told()
        with refused(errno.EDQUOT):
            os.pwrite(there, b"x", 10 * BLOCK)
        os.close(there)
        _until(lambda: os.statvfs(b".").f_bavail == 10)
        put(b"last", b"y" * 10 * BLOCK)

    def told() -> None:
        """Have the other process count, and wait until it has."""
        os.write(asking[1], b"?")
        assert os.read(answering[0], 1) == b"!"

    asking, answering = os.pipe(), os.pipe()
    pid = os.fork()
    if pid == 0:
        for fd in (asking[1], answering[0]):
            os.close(fd)
        while os.read(asking[0], 1):
            count(ledger, volume)
            os.write(answering[1], b"!")
        os._exit(0)
    try:
        volume.as_session(session)
    finally:
        for fd in (*asking, *answering):
            os.close(fd)
        assert os.waitpid(pid, 0)[1] == 0
    assert entered(ledger) == on_disk(volume) == (LIMIT, 3)
    assert count(ledger, volume)
    assert entered(ledger) == on_disk(volume)


def test_what_the_container_removes_while_it_is_open(volume: Served, ledger: Ledger) -> None:
    """Nothing is subtracted twice: neither what a count no longer finds, nor when it is closed."""

    def session() -> None:
        put(b"keep", b"x" * 20 * BLOCK)
        put(b"gone", b"x" * 20 * BLOCK)
        fd = os.open(b"gone", os.O_RDWR)
        os.unlink(backing + b"/gone")
        with refused(errno.EDQUOT):
            put(b"more", b"y")
        os.close(fd)

    backing = os.fsencode(volume.backing)
    os.chmod(volume.backing, 0o777)
    volume.as_session(session)
    time.sleep(0.3)
    assert entered(ledger)[0] == 40
    count(ledger, volume)
    assert entered(ledger) == on_disk(volume) == (20, 2)


def test_an_orphan_of_a_worker_that_died(volume: Served, second: Served, ledger: Ledger) -> None:
    """The next count finds that nobody has it open."""

    def session() -> None:
        put(b"file", b"x" * LIMIT * BLOCK)
        os.open(os.fsencode(second.path) + b"/file", os.O_RDWR)
        os.unlink(b"file")
        with refused(errno.EDQUOT):
            put(b"file", b"y")

    volume.as_session(session)
    os.kill(second.worker_pid, 9)
    os.waitpid(second.worker_pid, 0)
    second.worker_pid = 0
    count(ledger, volume)
    assert entered(ledger) == on_disk(volume) == (0, 1)


@pytest.mark.parametrize("other", ["open and close", "unlink", "rename over"])
def test_two_logins_at_one_name(volume: Served, second: Served, ledger: Ledger, other: str) -> None:
    """Each removal is entered once, whoever made it."""
    ledger.limit(5000, 1000)
    ballast = 2000

    def session() -> None:
        put(b"ballast", b"x" * ballast * BLOCK)
        there = os.fsencode(second.path)
        deadline = time.monotonic() + 3
        if (pid := os.fork()) == 0:
            number = 0
            while time.monotonic() < deadline:
                number += 1
                with contextlib.suppress(OSError):
                    if other == "open and close":
                        os.close(os.open(there + b"/x", os.O_RDONLY))
                    elif other == "unlink":
                        os.unlink(there + b"/x")
                    else:
                        put(there + b"/y", b"y" * 10 * BLOCK)
                        os.rename(there + b"/y", there + b"/x")
            os._exit(0)
        while time.monotonic() < deadline:
            with contextlib.suppress(OSError):
                fd = os.open(b"x", os.O_RDWR | os.O_CREAT, 0o600)
                os.ftruncate(fd, 50 * BLOCK)
                os.close(fd)
                os.unlink(b"x")
        assert os.waitpid(pid, 0)[1] == 0

    volume.as_session(session)
    time.sleep(0.3)
    blocks, files = on_disk(volume)
    entered_blocks, entered_files = entered(ledger)
    assert entered_blocks >= blocks >= ballast
    assert entered_files >= files
    note(f"quota, {other} against unlink: entered {entered_blocks}, there {blocks}")
    # The kernel tells a worker that a file is closed when it comes to it (fuse_release); until then it has its room.
    deadline = time.monotonic() + 10
    while count(ledger, volume) and entered(ledger) != (blocks, files) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert entered(ledger) == (blocks, files)


@pytest.mark.parametrize("how", ["rename", "link", "again and again"])
def test_what_is_moved_past_the_counter(
    volume: Served, ledger: Ledger, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    """From where it has not been to where it has been, or the other way round: it counts, and another count is due."""
    ledger.limit(1000, 1000)
    for name in ("1", "2", "3"):
        (volume.backing / name).mkdir()
        os.chown(volume.backing / name, os.stat(volume.backing).st_uid, 0)
    volume.as_session(lambda: put(b"1/large", b"x" * 900 * BLOCK))
    count(ledger, volume)
    before = entered(ledger)
    assert before == on_disk(volume)
    left: list[int] = []
    leave = Counter._leave

    def leaving(counter: Counter) -> None:
        leave(counter)
        left.append(1)
        if len(left) < 4:
            volume.as_session(change, len(left))

    def change(number: int) -> None:
        (here,) = [name for name in (b"1", b"2", b"3") if os.path.exists(name + b"/large")]
        to = {b"1": b"2", b"2": b"3", b"3": b"1"}[here] + b"/large"
        if how == "link":
            os.link(here + b"/large", to)
            os.unlink(here + b"/large")
        else:
            if how == "again and again":
                os.truncate(here + b"/large", 0)
                os.truncate(here + b"/large", 900 * BLOCK)
            os.rename(here + b"/large", to)

    monkeypatch.setattr(Counter, "_leave", leaving)
    assert not count(ledger, volume), "it is not exact"
    assert len(left) == 4
    assert entered(ledger)[0] >= 900
    monkeypatch.undo()
    count(ledger, volume)
    assert entered(ledger) == on_disk(volume) == before


def test_files_whose_numbers_come_in_runs_are_noted(ledger: Ledger) -> None:
    """As those of ext4 do, the same ones in each of its groups."""
    ledger.begin()
    for directory in range(40):
        for file in range(100):
            ledger.add(key_of(0x801, directory * 8192 + 12 + file), 1, 1)
    noted = [ledger.grown(key_of(0x801, each * 8192 + 12 + file)) for each in range(40) for file in range(100)]
    assert noted == [(1, 1)] * 4000
    assert ledger.finish(0, 0, 1, least=False), "it is exact"
    assert entered(ledger) == (4000, 4000)


def test_more_notes_than_there_is_room_for_are_not_exact(ledger: Ledger) -> None:
    ledger.begin()
    for file in range(GROWN_MAX + 1000):
        ledger.add(key_of(0x801, file), 1)
    assert not ledger.finish(0, 0, 1, least=False)


def test_an_entry_that_a_count_has_overtaken(volume: Served, ledger: Ledger) -> None:
    """What could not be entered when it was removed is not subtracted from a count that no longer found it."""
    volume.as_session(lambda: put(b"keep", b"x" * 20 * BLOCK))
    volume.as_session(lambda: put(b"gone", b"x" * 20 * BLOCK))
    taken, release = os.pipe(), os.pipe()
    quota = Quota(ledger)
    directory = os.open(volume.backing, os.O_PATH | os.O_DIRECTORY)
    with quota.removing(directory, b"gone"):
        os.unlink(b"gone", dir_fd=directory)
        pid = os.fork()
        if pid == 0:
            ledger.take_figures()
            os.write(taken[1], b"x")
            os.read(release[0], 1)
            os._exit(0)
        os.read(taken[0], 1)
    os.write(release[1], b"x")
    os.waitpid(pid, 0)
    count(ledger, volume)
    assert entered(ledger) == (20, 1)
    with quota.making() as made:
        os.mkdir(b"dir", dir_fd=directory)
        made(os.stat(b"dir", dir_fd=directory))
    for fd in (directory, *taken, *release):
        os.close(fd)
    assert entered(ledger) == on_disk(volume) == (20, 2)


@pytest.mark.parametrize("start", [0, 1 << 62], ids=["the figures", "every file"])
def test_a_lock_that_is_not_given_back(volume: Served, ledger: Ledger, start: int) -> None:
    """A session waits a moment, is told that it is busy, and nothing is half done. A dead process has no lock."""
    volume.as_session(lambda: put(b"file", b"x"))
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        fcntl.lockf(ledger.fileno(), fcntl.LOCK_EX, 0, start)
        os.write(writer, b"locked")
        time.sleep(60)
        os._exit(0)
    assert os.read(reader, 6) == b"locked"

    def session() -> None:
        with refused(errno.EBUSY):
            os.mkdir(b"dir")
        with refused(errno.EBUSY):
            os.truncate(b"file", 100)
        assert get(b"file") == b"x"
        assert os.listdir(b".") == [b"file"]

    try:
        volume.as_session(session)
    finally:
        os.kill(pid, 9)
        os.waitpid(pid, 0)
        os.close(reader)
        os.close(writer)
    volume.as_session(lambda: put(b"file", b"xyz"))
    assert entered(ledger) == on_disk(volume) == (1, 1)
