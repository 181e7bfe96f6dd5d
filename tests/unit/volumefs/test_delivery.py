"""The private key in a volume: whole, with its owner, and nothing else is ever touched."""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
import signal
import socket
import stat
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from hatchway.kernel import files
from hatchway.volumefs import delivery
from hatchway.volumefs.counter import Counter
from hatchway.volumefs.delivery import KEY_MAX, Delivery, DeliveryError
from hatchway.volumefs.fault import LimitError, failure
from hatchway.volumefs.ledger import Ledger
from hatchway.volumefs.ownership import Owner
from hatchway.volumefs.quota import Quota
from hatchway.wire.host import Withdrawal
from hatchway.wire.task import Problem

KEY = b"-----BEGIN OPENSSH PRIVATE KEY-----\nnew\n"
BEFORE = b"-----BEGIN OPENSSH PRIVATE KEY-----\nold\n"
ME = Owner(os.geteuid(), os.getegid())


def digest(data: bytes) -> bytes:
    return hashlib.sha256(data).digest()


class Place:
    """A directory of a volume with a limit of 10 blocks and files."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.key = path / "id_container"
        self.ledger = Ledger.make()
        self.ledger.suppose(0, 0, 1)
        self.ledger.limit(10, 10)
        self.fd = os.open(path, os.O_PATH | os.O_DIRECTORY)
        self.proc = os.open("/proc/self/fd", os.O_PATH | os.O_DIRECTORY)

    def close(self) -> None:
        self.ledger.close()
        os.close(self.fd)
        os.close(self.proc)

    def made(self) -> Delivery:
        return Delivery(self.fd, self.proc, Quota(self.ledger))

    def deliver(self, data: bytes = KEY, *replaces: bytes, owner: Owner = ME) -> bool:
        made = self.made()
        made.deliver(data, owner, [digest(one) for one in replaces])
        return made.changed

    def withdraw(self, *ours: bytes) -> Withdrawal:
        return self.made().withdraw([digest(one) for one in ours])

    def entered(self) -> tuple[int, int]:
        figures = self.ledger.figures()
        return figures.blocks, figures.files

    def there(self) -> dict[str, bytes]:
        """Regular files by name."""
        return {entry.name: entry.read_bytes() for entry in self.path.iterdir() if entry.is_file()}

    def count(self) -> tuple[int, int]:
        counter = Counter(self.ledger, lambda: None)
        counter.count(self.fd)
        return counter.blocks, counter.files


@pytest.fixture(params=["whole", "no-tmpfile", "no-exchange", "neither"])
def place(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Place]:
    """On file systems that can do all, and such that cannot make files without a name, or exchange names."""
    real_open = os.open

    def opening(path: Any, flags: int, *args: Any, **more: Any) -> int:
        if flags & os.O_TMPFILE == os.O_TMPFILE:
            raise failure(errno.EOPNOTSUPP)
        return real_open(path, flags, *args, **more)

    def renaming(*args: Any) -> None:
        raise failure(errno.EINVAL)

    if request.param in ("no-tmpfile", "neither"):
        monkeypatch.setattr(os, "open", opening)
    if request.param in ("no-exchange", "neither"):
        monkeypatch.setattr(files, "renameat2", renaming)
    (tmp_path / "v").mkdir()
    made = Place(tmp_path / "v")
    yield made
    assert not {".id_container.new", ".id_container.old"} & set(os.listdir(made.path)), "nothing is left over"
    made.close()


@pytest.fixture
def plain(tmp_path: Path) -> Iterator[Place]:
    """On a file system that can do all."""
    (tmp_path / "v").mkdir()
    made = Place(tmp_path / "v")
    yield made
    made.close()


def test_it_is_there_with_mode_and_owner(place: Place) -> None:
    assert place.deliver()
    assert place.there() == {"id_container": KEY}
    assert stat.S_IMODE(place.key.stat().st_mode) == 0o600
    assert place.entered() == place.count() == (1, 1)


def test_it_belongs_to_whom_it_should(place: Place) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root gives files away")
    assert place.deliver(owner=Owner(1234, 4321))
    st = place.key.stat()
    assert (st.st_uid, st.st_gid, stat.S_IMODE(st.st_mode)) == (1234, 4321, 0o600)


def test_the_same_again_is_nothing_to_do(place: Place) -> None:
    place.deliver()
    place.key.chmod(0o640)
    before = place.key.stat()
    assert not place.deliver()
    assert place.key.stat() == before, "what the container made of it stays"


def test_what_is_delivered_while_the_volume_is_counted(place: Place) -> None:
    """Counts once, whether the count has been there or not."""
    for count_first in (False, True):
        place.ledger.begin()
        found = place.count() if count_first else (0, 0)
        place.deliver()
        if not count_first:
            found = place.count()
        place.ledger.finish(*found, 1, least=False)
        assert place.entered() == (1, 1)
        place.withdraw(KEY)
        assert place.entered() == (0, 0)


def test_a_key_of_before_is_replaced(place: Place) -> None:
    place.deliver(BEFORE)
    kept = os.open(place.key, os.O_RDONLY)
    assert place.deliver(KEY, b"another", BEFORE)
    assert place.there() == {"id_container": KEY}
    assert os.read(kept, 100) == BEFORE, "in its place, not over it"
    os.close(kept)
    assert place.entered() == place.count() == (1, 1)


def test_a_file_of_the_containers_own_stays(place: Place) -> None:
    for contents in (b"mine", b"", BEFORE, KEY + b"\n", b"x" * (KEY_MAX + 1), KEY[:-1]):
        place.key.write_bytes(contents)
        before = place.key.stat()
        with pytest.raises(DeliveryError) as caught:
            place.deliver(KEY, b"another", b"x" * (KEY_MAX + 1))
        assert caught.value.problem == Problem.FOREIGN
        assert place.withdraw(KEY, b"another") == Withdrawal.FOREIGN
        assert (place.there(), place.key.stat()) == ({"id_container": contents}, before)
        place.key.unlink()
    assert place.entered() == (0, 0)


def test_so_does_what_is_no_file(place: Place, tmp_path: Path) -> None:
    target = tmp_path / "target"
    target.write_bytes(KEY)
    with socket.socket(socket.AF_UNIX) as listener:
        ways: tuple[Callable[[], object], ...] = (
            lambda: place.key.symlink_to(target),
            lambda: place.key.symlink_to(tmp_path / "missing"),
            lambda: place.key.mkdir(),
            lambda: os.mkfifo(place.key),
            lambda: listener.bind(str(place.key)),
        )
        for make in ways:
            make()
            began = time.monotonic()
            with pytest.raises(DeliveryError) as caught:
                place.deliver(BEFORE, KEY)
            assert caught.value.problem == Problem.FOREIGN
            assert place.withdraw(KEY) == Withdrawal.FOREIGN
            assert time.monotonic() - began < 1
            assert os.path.lexists(place.key)
            if place.key.is_dir():
                place.key.rmdir()
            else:
                place.key.unlink()
    assert target.read_bytes() == KEY
    assert not (tmp_path / "missing").exists()


def test_it_is_taken_out_again(place: Place) -> None:
    assert place.withdraw(KEY) == Withdrawal.ABSENT
    place.deliver()
    assert place.withdraw(BEFORE) == Withdrawal.FOREIGN
    assert place.withdraw(BEFORE, KEY) == Withdrawal.REMOVED
    assert place.there() == {}
    assert place.entered() == (0, 0)


def test_a_volume_that_is_full(place: Place) -> None:
    place.deliver(BEFORE)
    place.ledger.limit(1, 10)
    with pytest.raises(LimitError):
        place.deliver(KEY, BEFORE)
    assert place.there() == {"id_container": BEFORE}
    place.ledger.limit(10, 1)
    with pytest.raises(LimitError):
        place.deliver(KEY, BEFORE)
    assert place.there() == {"id_container": BEFORE}
    assert place.withdraw(BEFORE) == Withdrawal.REMOVED
    place.ledger.limit(10, 10)
    assert place.deliver()
    assert place.entered() == (1, 1)


@pytest.mark.parametrize("call", ["write", "fsync"])
def test_a_file_system_that_is_full(place: Place, monkeypatch: pytest.MonkeyPatch, call: str) -> None:
    place.deliver(BEFORE)

    def failing(*_args: Any) -> int:
        raise failure(errno.ENOSPC)

    monkeypatch.setattr(os, call, failing)
    for withdraw_first in (False, True):
        if withdraw_first:
            place.withdraw(BEFORE)
        with pytest.raises(OSError) as caught:
            place.deliver(KEY, BEFORE)
        assert caught.value.errno == errno.ENOSPC
        assert place.there() == ({} if withdraw_first else {"id_container": BEFORE})
        assert place.entered() == place.count()


def test_what_an_ended_task_left_is_removed(place: Place) -> None:
    """The key of before, after the exchange; the new one, before it; the beginning of the new one."""
    for name, contents in ((".new", BEFORE), (".new", KEY), (".new", KEY[:5]), (".new", b""), (".old", BEFORE)):
        place.key.write_bytes(BEFORE)
        (place.path / f".id_container{name}").write_bytes(contents)
        place.ledger.suppose(0, 0, 1)
        assert place.deliver(KEY, BEFORE)
        assert place.there() == {"id_container": KEY}
        (place.path / f".id_container{name}").write_bytes(KEY)
        assert place.withdraw(KEY, BEFORE) == Withdrawal.REMOVED
        assert place.there() == {}
    (place.path / ".id_container.old").write_bytes(KEY)
    assert place.withdraw(KEY) == Withdrawal.REMOVED, "a task had begun with it"
    assert place.there() == {}


def test_what_is_in_the_way_stays(plain: Place) -> None:
    ways: tuple[Callable[[Path], object], ...] = (
        lambda at: at.write_bytes(b"theirs"),
        lambda at: at.mkdir(),
        lambda at: at.symlink_to("id_container"),
    )
    for make in ways:
        for name in (".id_container.new", ".id_container.old"):
            plain.key.write_bytes(BEFORE)
            way = plain.path / name
            make(way)
            before = way.lstat()
            with pytest.raises(DeliveryError) as caught:
                if name.endswith("new"):
                    plain.deliver(KEY, BEFORE)
                else:
                    plain.withdraw(BEFORE)
            assert caught.value.problem == Problem.IN_THE_WAY
            assert way.lstat() == before
            assert plain.key.read_bytes() == BEFORE
            (way.rmdir if way.is_dir() and not way.is_symlink() else way.unlink)()
    assert plain.entered() == (0, 0)


class Meddling:
    """Before the `at`-th rename, 0 being the first, of a delivery something happens."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, at: int, happens: Callable[[], object]) -> None:
        self._real, self._at, self._happens = files.renameat2, at, happens
        self.renames = 0
        monkeypatch.setattr(files, "renameat2", self._rename)

    def _rename(self, *args: Any) -> None:
        if self.renames == self._at:
            self._happens()
        self.renames += 1
        self._real(*args)


def swap(place: Place, contents: bytes) -> Callable[[], object]:
    """As programs replace a file."""

    def happens() -> None:
        (place.path / "theirs").write_bytes(contents)
        (place.path / "theirs").rename(place.key)

    return happens


def test_what_is_put_there_while_it_is_replaced_comes_back(plain: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    plain.deliver(BEFORE)
    meddling = Meddling(monkeypatch, 0, swap(plain, b"theirs"))
    with pytest.raises(DeliveryError) as caught:
        plain.deliver(KEY, BEFORE)
    assert caught.value.problem == Problem.FOREIGN
    assert meddling.renames == 2
    assert plain.there() == {"id_container": b"theirs"}
    assert plain.entered() == (1, 1)


def test_what_is_put_there_while_that_is_put_back_is_the_latest(plain: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    plain.deliver(BEFORE)
    first = swap(plain, b"theirs")

    def happens() -> None:
        first()
        Meddling(monkeypatch, 0, swap(plain, b"theirs too"))

    Meddling(monkeypatch, 0, happens)
    with pytest.raises(DeliveryError) as caught:
        plain.deliver(KEY, BEFORE)
    assert caught.value.problem == Problem.MOVED
    assert plain.there() == {"id_container": b"theirs too", ".id_container.new": b"theirs"}


def test_it_vanishes_while_it_is_replaced(plain: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    plain.deliver(BEFORE)
    Meddling(monkeypatch, 0, lambda: plain.key.unlink())
    assert plain.deliver(KEY, BEFORE)
    assert plain.there() == {"id_container": KEY}
    # What the container removed is found by the next count, nothing else is.
    assert plain.entered() == (2, 2)


def test_what_was_put_there_vanishes_while_something_is_put_back(plain: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    plain.deliver(BEFORE)
    first = swap(plain, b"theirs")

    def happens() -> None:
        first()
        Meddling(monkeypatch, 0, lambda: plain.key.unlink())

    Meddling(monkeypatch, 0, happens)
    with pytest.raises(DeliveryError) as caught:
        plain.deliver(KEY, BEFORE)
    assert caught.value.problem == Problem.FOREIGN
    assert plain.there() == {"id_container": b"theirs"}


def test_something_appears_while_it_is_made(plain: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    real = files.link

    def linking(*args: Any) -> None:
        monkeypatch.setattr(files, "link", real)
        plain.key.write_bytes(b"theirs")
        real(*args)

    monkeypatch.setattr(files, "link", linking)
    with pytest.raises(DeliveryError) as caught:
        plain.deliver()
    assert caught.value.problem == Problem.FOREIGN
    assert plain.there() == {"id_container": b"theirs"}
    assert plain.entered() == (0, 0)


def test_what_is_put_there_while_it_is_taken_out_comes_back(plain: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    plain.deliver()
    Meddling(monkeypatch, 0, swap(plain, b"theirs"))
    assert plain.withdraw(KEY) == Withdrawal.FOREIGN
    assert plain.there() == {"id_container": b"theirs"}


def test_what_cannot_come_back_is_said(plain: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    plain.deliver()
    first = swap(plain, b"theirs")

    def happens() -> None:
        first()
        Meddling(monkeypatch, 0, swap(plain, b"theirs too"))

    Meddling(monkeypatch, 0, happens)
    with pytest.raises(DeliveryError) as caught:
        plain.withdraw(KEY)
    assert caught.value.problem == Problem.MOVED
    assert plain.there() == {"id_container": b"theirs too", ".id_container.old": b"theirs"}


def test_a_container_that_never_leaves_it_alone(plain: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """It takes what is ours away each time we have looked: that ends."""
    plain.deliver(BEFORE)
    real = delivery.Delivery._look

    def looking(self: Delivery, name: bytes) -> Any:
        found = real(self, name)
        if name == delivery.NAME and found is not None:
            plain.key.unlink()
        elif name == delivery.NAME:
            plain.key.write_bytes(BEFORE)
        return found

    monkeypatch.setattr(delivery.Delivery, "_look", looking)
    with pytest.raises(DeliveryError) as caught:
        plain.deliver(KEY, BEFORE)
    assert caught.value.problem == Problem.BUSY


def test_another_session_is_in_the_way(plain: Place) -> None:
    """Nothing has been done then."""
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        plain.ledger.take_figures()
        os.write(writer, b"x")
        time.sleep(60)
        os._exit(0)
    os.read(reader, 1)
    try:
        with pytest.raises(BlockingIOError):
            plain.deliver()
        assert plain.there() == {}
    finally:
        os.kill(pid, 9)
        os.waitpid(pid, 0)
        os.close(reader)
        os.close(writer)
    assert plain.deliver()
    assert plain.entered() == (1, 1)


def test_what_cannot_be_read_after_it_was_moved_comes_back(plain: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """A program of the container's has a lease on what it has put there."""
    lease: list[int] = []

    def happens() -> None:
        swap(plain, b"theirs")()
        lease.append(os.open(plain.key, os.O_RDWR))
        fcntl.fcntl(lease[0], fcntl.F_SETLEASE, fcntl.F_WRLCK)

    handler = signal.signal(signal.SIGIO, signal.SIG_IGN)
    try:
        for attempt in (lambda: plain.deliver(KEY, BEFORE), lambda: plain.withdraw(BEFORE)):
            plain.key.unlink(missing_ok=True)
            plain.deliver(BEFORE)
            with monkeypatch.context() as patch:
                Meddling(patch, 0, happens)
                with pytest.raises(BlockingIOError):
                    attempt()
            os.close(lease.pop())
            assert plain.there() == {"id_container": b"theirs"}
    finally:
        signal.signal(signal.SIGIO, handler)
