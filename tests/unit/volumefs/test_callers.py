"""Who did what, and who is refused: accounts by process and by handle."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.unit.volumefs.harness import Volume

from hatchway.volumefs.callers import Callers
from hatchway.volumefs.worker import callers_state
from hatchway.wire.host import FILES_MAX
from hatchway.wire.worker import CALLERS_MAX, MAX_PACKET, PATH_MAX, AskCallers, pack


@pytest.fixture
def volume(tmp_path: Path) -> Iterator[Volume]:
    made = Volume(tmp_path)
    yield made
    made.close()


def refused(callers: Callers, pid: int) -> bool:
    try:
        callers.asks(pid)
    except PermissionError:
        return True
    return False


def test_exactly_those_named_last_are_refused() -> None:
    callers = Callers()
    for pid in (1, 2, 3):
        callers.asks(pid)
    callers.expel([2, 9])
    assert [refused(callers, pid) for pid in (1, 2, 3, 9)] == [False, True, False, True]
    assert set(callers.expelled) == {2, 9}
    callers.expel([9])
    assert [refused(callers, pid) for pid in (1, 2, 3, 9)] == [False, False, False, True]
    callers.expel([])
    assert not refused(callers, 9)
    assert not callers.expelled


def test_a_pid_that_is_used_again_has_an_account_of_its_own_and_old_handles_stay_dead() -> None:
    callers = Callers()
    callers.opened(7, 2)
    callers.by(7).written = 5
    callers.expel([2])
    callers.expel([])
    callers.opened(8, 2)
    assert callers.by(8).written == 0
    assert callers.is_dead(7)
    assert not callers.is_dead(8)
    with pytest.raises(PermissionError):
        callers.by(7)
    callers.released(7)
    assert callers.of([2])[0].handles == {8: False}


def test_whoever_is_long_inactive_and_has_nothing_open_is_forgotten() -> None:
    callers = Callers(8)
    for pid in range(8):
        callers.asks(pid)
    callers.opened(70, 0)
    callers.expel([1])
    for account in callers.of([4]):
        account.active += 100
    for pid in range(100, 103):
        callers.asks(pid)
    assert len(callers) == 8
    assert [one.pid for one in callers.of(range(8))] == [0, 1, 4, 6, 7]
    assert refused(callers, 1)
    assert callers.by(70).pid == 0


def test_memory_is_bounded() -> None:
    callers = Callers()
    for pid in range(10_000):
        callers.asks(pid)
    assert len(callers) <= 1000


def test_ended_processes_are_forgotten_but_for_those_that_are_refused(volume: Volume) -> None:
    callers = Callers()
    for pid in (1, 2):
        callers.asks(pid)
    callers.expel([2])
    state = callers_state(volume.tree, callers, AskCallers(5, (1, 2, 3), ended=True))
    assert state.serial == 5
    assert [one.pid for one in state.callers] == [1, 2]
    assert [one.pid for one in callers.of([1, 2])] == [2]


def test_open_files_are_told_by_the_names_they_have_now(volume: Volume) -> None:
    os.makedirs(volume.disk(b"a/b"))
    volume.put(b"a/b/read")
    callers = Callers()
    handle, _ = volume.create(b"a/b/new\xff\n", flags=os.O_WRONLY)
    callers.opened(handle, 1)
    reading = volume.tree.open(volume.id(b"a/b/read"), os.O_RDONLY)
    callers.opened(reading, 1)
    callers.opened(volume.tree.opendir(volume.id(b"a")), 1, directory=True)

    def told() -> list[tuple[bytes, bool]]:
        (state,) = callers_state(volume.tree, callers, AskCallers(1, (1,))).callers
        return [(file.path, file.writing) for file in state.files]

    assert told() == [(b"a/b/new\xff\n", True), (b"a/b/read", False)]
    volume.tree.rename(volume.id(b""), b"a", volume.id(b""), b"c")
    volume.tree.unlink(volume.id(b"c/b"), b"read")
    assert told()[0] == (b"c/b/new\xff\n", True)
    volume.tree.restrict(refuse=False, read_only=True)
    assert told()[0] == (b"c/b/new\xff\n", False)
    callers.released(handle)
    assert len(told()) == 1


def test_the_answer_has_room_in_a_packet_whatever_is_open(volume: Volume, monkeypatch: pytest.MonkeyPatch) -> None:
    callers = Callers()
    top = b"/".join([b"d" * 255] * 3)
    os.makedirs(volume.disk(top))
    handle, _ = volume.create(top + b"/" + b"f" * 255)
    numbers = iter(range(1_000_000, 2_000_000))
    opened = volume.tree.opened
    monkeypatch.setattr(volume.tree, "opened", lambda _handle, longest: opened(handle, longest))
    pids = tuple(range(4_000_000, 4_000_000 + CALLERS_MAX))
    for pid in (*pids, 1):
        for _ in range(30):
            callers.opened(next(numbers), pid)
        callers.of([pid])[0].read = callers.of([pid])[0].written = 2**63
    state = callers_state(volume.tree, callers, AskCallers(2**63, (*pids, 1)))
    assert len(pack(state)) <= MAX_PACKET
    assert len(state.callers) == CALLERS_MAX
    (one,) = callers_state(volume.tree, callers, AskCallers(1, (1,))).callers
    assert len(one.files) == FILES_MAX
    assert one.files[0].path.endswith(b"d/" + b"f" * 255)
    assert len(one.files[0].path) == PATH_MAX


def test_a_path_that_leads_in_a_circle_is_told_all_the_same(volume: Volume) -> None:
    """Nodes remember where they were seen last; a container that moves directories about can make that anything."""
    os.makedirs(volume.disk(b"a/b"))
    handle, _ = volume.create(b"a/b/f")
    node = volume.entry(b"a").node
    node.parent = volume.id(b"a/b")
    path, writing = volume.tree.opened(handle, 20)
    assert path == b"/b/a/b/a/b/a/b/a/b/f"
    assert writing


def test_a_handle_that_is_not_open_is_an_error(volume: Volume) -> None:
    with pytest.raises(OSError) as caught:
        volume.tree.opened(7777, 20)
    assert caught.value.errno == errno.EBADF
