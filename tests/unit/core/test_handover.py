"""What hostd leaves for its successor, with whoever started it faked."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from hatchway.errors import HostError
from hatchway.host.handover import (
    VERSION,
    Handover,
    KeptRoot,
    KeptWorker,
    control_name,
    kept_names,
    process_name,
    session_name,
)
from hatchway.wire import notify
from hatchway.wire.host import View

ROOT = KeptRoot(
    login="shop-web-1",
    uid=1_900_100_001,
    gid=1_900_000_003,
    workers=(KeptWorker(View("/data", "/srv/data", True, "birth"), 7, 1_901_000_001, ("inner/place",)),),
    starting=("/logs",),
    sessions={"a" * 32: 8},
)


class Starter:
    """Whoever started hostd: takes what it is given unless it is told not to."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.takes = True
        self.kept: list[str] = []
        self.forgotten: list[str] = []
        self.passes: list[tuple[str, int]] = []
        monkeypatch.setattr(notify, "keep", self._keep)
        monkeypatch.setattr(notify, "forget", self.forgotten.append)
        monkeypatch.setattr(notify, "passed", lambda: self.passes)

    def _keep(self, name: str, _descriptor: int) -> bool:
        if self.takes:
            self.kept.append(name)
        return self.takes


@pytest.fixture
def starter(monkeypatch: pytest.MonkeyPatch) -> Starter:
    return Starter(monkeypatch)


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    return tmp_path / "handover"


@pytest.fixture
def handover(directory: Path, starter: Starter) -> Handover:
    made = Handover(str(directory))
    made.open()
    return made


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    ends = os.pipe()
    yield ends
    for fd in ends:
        if is_open(fd):
            os.close(fd)


def is_open(fd: int) -> bool:
    try:
        os.fstat(fd)
    except OSError:
        return False
    return True


def test_a_successor_reads_what_was_saved_last(handover: Handover, directory: Path) -> None:
    handover.save(ROOT)
    later = KeptRoot(login=ROOT.login, uid=ROOT.uid, gid=ROOT.gid)
    for saved in (ROOT, later):
        handover.save(saved)
        successor = Handover(str(directory))
        successor.open()
        assert successor.roots() == [saved]
    handover.drop(ROOT.login)
    handover.drop(ROOT.login)
    assert successor.roots() == []
    assert os.stat(directory).st_mode & 0o777 == 0o700


def test_files_that_say_something_else_are_removed(handover: Handover, directory: Path) -> None:
    handover.save(ROOT)
    good = json.loads((directory / ROOT.login).read_text())
    for name, text in {
        "garbage": "{",
        "empty": "",
        "deep": "[" * 100_000,
        "other-version": json.dumps(good | {"login": "other-version", "version": VERSION + 1}),
        "other-login": json.dumps(good),
        "no-uid": json.dumps({"login": "no-uid", "gid": 1, "version": VERSION}),
        ".half-written": json.dumps(good | {"login": ".half-written"}),
    }.items():
        (directory / name).write_text(text)
    assert handover.roots() == [ROOT]
    assert os.listdir(directory) == [ROOT.login]


def test_what_was_not_taken_cannot_be_handed_over(handover: Handover, directory: Path, starter: Starter) -> None:
    """A file that promises descriptors nobody has would be worse than none."""
    names = kept_names(ROOT)
    assert names == ["c1901000001", "p1901000001", "l1901000001", session_name("a" * 32)]
    handover.save(ROOT)
    starter.takes = False
    handover.keep(names[0], 0)
    handover.save(ROOT)
    assert os.listdir(directory) == []
    starter.takes = True
    handover.keep(names[0], 0)
    handover.save(ROOT)
    assert os.listdir(directory) == [ROOT.login]


def test_what_is_of_no_use_any_more_hinders_nobody(handover: Handover, directory: Path, starter: Starter) -> None:
    starter.takes = False
    handover.keep(control_name(5), 0)
    handover.forget(control_name(5))
    assert starter.forgotten == [control_name(5)]
    handover.save(KeptRoot(login="x", uid=1, gid=1, workers=(KeptWorker(View("/d", "/s", True), 1, 5),)))
    assert os.listdir(directory) == ["x"]


def test_what_cannot_be_written_is_not_left_as_it_was(handover: Handover, directory: Path) -> None:
    handover.save(ROOT)
    (directory / f".{ROOT.login}").mkdir()
    handover.save(ROOT)
    assert not (directory / ROOT.login).exists()


def test_descriptors_that_were_left(directory: Path, starter: Starter, pipe: tuple[int, int]) -> None:
    listener, *others = (os.dup(pipe[0]) for _ in range(4))
    starter.passes = [("hostd", listener), ("c1", others[0]), ("c1", others[1]), ("p1", others[2])]
    for fd in others:
        os.set_inheritable(fd, True)
    handover = Handover(str(directory))
    handover.open()
    assert not is_open(others[0]), "the last of a name counts"
    assert not os.get_inheritable(others[1])
    assert handover.descriptor("c1") == others[1]
    for name in ("c1", "hostd", "s1"):
        with pytest.raises(HostError, match=f"nothing is left of {name}"):
            handover.descriptor(name)
    handover.discard()
    assert not is_open(others[2])
    assert starter.forgotten == ["p1"], "not what somebody has taken"
    assert is_open(listener)
    for fd in (listener, others[1]):
        os.close(fd)


def test_where_it_cannot_be_kept(tmp_path: Path, starter: Starter) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(HostError, match="Not a directory"):
        Handover(str(tmp_path / "file" / "handover")).open()


def test_nothing_is_left_when_there_is_to_be_no_successor(handover: Handover, directory: Path) -> None:
    handover.save(ROOT)
    (directory / ".half").touch()
    handover.close()
    assert list(directory.iterdir()) == []


def test_names_are_ones_that_can_be_kept() -> None:
    assert all(notify.valid_name(name) for name in (*kept_names(ROOT), process_name(2**32 - 2)))
