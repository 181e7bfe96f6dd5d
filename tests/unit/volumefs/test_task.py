"""What a volume task does with a request, without the process: where it goes, and what it says when it cannot."""

from __future__ import annotations

import errno
import hashlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from hatchway.kernel.privileges import WORKER_EFFECTIVE, Cap
from hatchway.volumefs import task
from hatchway.volumefs.delivery import Delivery
from hatchway.volumefs.fault import LimitError, failure
from hatchway.volumefs.quota import Quota
from hatchway.volumefs.task import Place, perform
from hatchway.wire.host import Delivered, KeyFile, KeyFiles, PrivateBytes, Withdrawal, Withdrawn
from hatchway.wire.task import Problem, Put, ReadKeyFiles, Take, TaskFailed, TaskKind

KEY = b"a private key"
HASH = hashlib.sha256(KEY).digest()


@pytest.fixture
def volume(tmp_path: Path) -> Path:
    made = tmp_path / "v"
    made.mkdir(mode=0o700)
    return made


@pytest.fixture
def place(volume: Path) -> Iterator[Place]:
    root = os.open(volume, os.O_PATH | os.O_DIRECTORY)
    proc = os.open("/proc/self/fd", os.O_PATH | os.O_DIRECTORY)
    before = len(os.listdir("/proc/self/fd"))
    yield Place(root, proc, Quota(None))
    assert len(os.listdir("/proc/self/fd")) == before, "it closes what it opens"
    os.close(root)
    os.close(proc)


def put(place: Place, *directory: bytes) -> object:
    return perform(TaskKind.DELIVER, Put(directory, None, PrivateBytes(KEY), ()), place)


def take(place: Place, *directory: bytes) -> object:
    return perform(TaskKind.WITHDRAW, Take(directory, (HASH,)), place)


def test_each_does_its_one_thing(place: Place, volume: Path) -> None:
    (volume / "authorized_keys").write_bytes(b"key")
    (volume / "authorized_keys").chmod(0o600)
    read = perform(TaskKind.READ_KEYS, ReadKeyFiles(b""), place)
    assert isinstance(read, KeyFiles)
    assert read.files == (KeyFile(b"authorized_keys", b"key"),)
    assert put(place) == Delivered(True)
    assert put(place) == Delivered(False)
    assert (volume / "id_container").read_bytes() == KEY
    assert take(place) == Withdrawn(Withdrawal.REMOVED)
    assert take(place) == Withdrawn(Withdrawal.ABSENT)


def test_the_way_to_a_directory(place: Place, volume: Path) -> None:
    (volume / "a" / "b").mkdir(parents=True)
    assert put(place, b"a", b"b") == Delivered(True)
    assert (volume / "a" / "b" / "id_container").read_bytes() == KEY
    assert take(place, b"a", b"b") == Withdrawn(Withdrawal.REMOVED)


def test_no_symlink_is_on_it(place: Place, volume: Path, tmp_path: Path) -> None:
    """Whatever the mount allows."""
    outside = tmp_path / "outside"
    (outside / "b").mkdir(parents=True)
    for at in (outside, outside / "b"):
        (at / "id_container").write_bytes(KEY)
    (volume / "real").mkdir()
    for target in (str(outside), "real", "/"):
        (volume / "a").symlink_to(target)
        for way in ((b"a",), (b"a", b"b")):
            assert put(place, *way) == TaskFailed(Problem.NO_DIRECTORY)
            assert take(place, *way) == Withdrawn(Withdrawal.ABSENT)
        (volume / "a").unlink()
    assert sorted(path.name for path in outside.rglob("*")) == ["b", "id_container", "id_container"]
    assert list((volume / "real").iterdir()) == []


@pytest.mark.parametrize("way", [(b"..",), (b".", b"a"), (b"a/b",), (b"",), (b"a\0",), (b"/",), (b"x" * 256,)])
def test_nor_anything_but_names(place: Place, volume: Path, way: tuple[bytes, ...]) -> None:
    (volume / "a" / "b").mkdir(parents=True)
    for answer in (put(place, *way), take(place, *way)):
        assert isinstance(answer, TaskFailed)
        assert answer.problem == Problem.FAILED
    assert [path.name for path in volume.rglob("*")] == ["a", "b"]


@pytest.mark.parametrize(
    ("error", "problem"),
    [
        (failure(errno.EROFS), Problem.READ_ONLY),
        (failure(errno.ENOSPC), Problem.NO_ROOM),
        (failure(errno.EDQUOT), Problem.NO_ROOM),
        (LimitError("full"), Problem.LIMIT),
        (failure(errno.EBUSY), Problem.BUSY),
        (failure(errno.EAGAIN), Problem.BUSY),
        (failure(errno.EIO), Problem.FAILED),
    ],
)
def test_what_went_wrong(place: Place, monkeypatch: pytest.MonkeyPatch, error: OSError, problem: Problem) -> None:
    def fails(*_args: Any) -> None:
        raise error

    monkeypatch.setattr(task, "BUSY_S", 0.1)
    monkeypatch.setattr(Delivery, "deliver", fails)
    said = put(place)
    assert isinstance(said, TaskFailed)
    assert said.problem == problem


def test_what_is_in_the_way_for_a_moment(place: Place, monkeypatch: pytest.MonkeyPatch, volume: Path) -> None:
    real, times = Delivery.deliver, [1, 2, 3]

    def busy(self: Delivery, *args: Any) -> None:
        if times:
            times.pop()
            raise BlockingIOError(errno.EAGAIN, "lease")
        real(self, *args)

    monkeypatch.setattr(Delivery, "deliver", busy)
    assert put(place) == Delivered(True)
    assert not times


def test_no_kind_has_more_than_it_needs() -> None:
    """None may do what a worker may not, and reading gives nothing away."""
    caps = {kind: row.caps for kind, row in task._TABLE.items()}
    assert set(caps) == set(TaskKind)
    assert all(each <= WORKER_EFFECTIVE for each in caps.values())
    assert caps[TaskKind.READ_KEYS] == {Cap.DAC_OVERRIDE}
