"""Calls on file systems that may never answer."""

from __future__ import annotations

import functools
import os
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import trio

from hatchway.errors import HostError, RefusedError
from hatchway.host import patience
from hatchway.host.patience import Patience


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Half a second is long enough."""
    monkeypatch.setattr(patience, "DEADLINE_S", 0.5)
    monkeypatch.setattr(patience, "SHIFT_S", 0.02)


@pytest.fixture
def release() -> Iterator[threading.Event]:
    """Ends what hangs, at the end at the latest."""
    event = threading.Event()
    yield event
    event.set()


def hang(release: threading.Event, answer: str = "at last") -> Callable[[], str]:
    def call() -> str:
        release.wait(20)
        return answer

    return call


def quick(answer: str) -> Callable[[], str]:
    return lambda: answer


async def test_a_path_that_hangs_costs_nobody_else_anything(tmp_path: Path, release: threading.Event) -> None:
    waiting = Patience()
    opened: list[int] = []

    def hang() -> int:
        release.wait(10)
        opened.append(os.open(tmp_path, os.O_PATH))
        return opened[0]

    with pytest.raises(HostError, match="/dead does not answer in"):
        await waiting.descriptor("/dead", hang)
    with pytest.raises(HostError, match=r"/dead does not answer$"):
        await waiting.text("/dead", lambda: "asked again while it hangs")
    assert await waiting.text("/alive", lambda: "fine") == "fine"
    release.set()
    with trio.fail_after(5):
        while not opened or os.path.exists(f"/proc/self/fd/{opened[0]}"):
            await trio.sleep(0.01)
    assert await waiting.text("/dead", lambda: "well again") == "well again"


async def test_the_next_call_about_a_path_waits_for_its_turn(release: threading.Event) -> None:
    waiting, begun, answers = Patience(), list[str](), set[str]()

    def call(name: str) -> str:
        begun.append(name)
        release.wait(20)
        return name

    async def ask(name: str) -> None:
        answers.add(await waiting.text("/shared", functools.partial(call, name)))

    with trio.fail_after(5):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(ask, "first")
            while not begun:
                await trio.sleep(0.01)
            nursery.start_soon(ask, "second")
            nursery.start_soon(ask, "third")
            await trio.sleep(0.05)
            assert begun == ["first"]
            release.set()
    assert answers == {"first", "second", "third"}
    assert len(begun) == 3


async def test_whoever_waits_for_what_turns_out_to_hang_waits_no_longer(release: threading.Event) -> None:
    waiting, problems = Patience(), list[str]()

    async def ask() -> None:
        with pytest.raises(HostError) as caught:
            await waiting.text("/dead", hang(release))
        problems.append(str(caught.value))

    with trio.fail_after(2):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(ask)
            await trio.sleep(0.2)
            nursery.start_soon(ask)
            nursery.start_soon(ask)
    assert len(problems) == 3
    assert all(problem.startswith("/dead does not answer") for problem in problems)


async def test_a_cancelled_call_gives_its_turn_back() -> None:
    waiting = Patience()
    with trio.move_on_after(0):
        await waiting.text("/path", quick("never wanted"))
    assert await waiting.text("/path", quick("wanted")) == "wanted"


async def test_many_paths_at_once() -> None:
    def refuse() -> str:
        raise RefusedError("not this one")

    def fail() -> str:
        raise KeyError("a fault")

    calls = {f"/volume/{number}": quick(f"is {number}") for number in range(3000)}
    answers = await Patience().texts(calls | {"/refused": refuse, "/faulty": fail})
    assert isinstance(answers.pop("/refused"), RefusedError)
    assert isinstance(answers.pop("/faulty"), KeyError)
    assert answers == {f"/volume/{number}": f"is {number}" for number in range(3000)}
    assert await Patience().texts({}) == {}


async def test_one_thread_is_enough_where_all_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(patience, "LANE_EVERY_S", 10)
    threads = set[int]()

    def call() -> str:
        threads.add(threading.get_ident())
        return ""

    await Patience().texts({f"/volume/{number}": call for number in range(500)})
    assert len(threads) == 1


async def test_those_that_hang_cost_the_others_little(release: threading.Event) -> None:
    waiting = Patience()
    calls = {f"/dead/{number}": hang(release) for number in range(10)}
    calls |= {f"/alive/{number}": quick("fine") for number in range(1000)}
    began = time.monotonic()
    answers = await waiting.texts(calls)
    # Each has its own thread for its deadline: not one after the other.
    assert time.monotonic() - began < 5 * patience.DEADLINE_S
    assert [str(answers[f"/dead/{number}"]) for number in range(10)] == [
        f"/dead/{number} does not answer in 0.5 s" for number in range(10)
    ]
    assert {answers[f"/alive/{number}"] for number in range(1000)} == {"fine"}
    again = await waiting.texts(calls)
    assert str(again["/dead/3"]) == "/dead/3 does not answer"
    release.set()
    with trio.fail_after(5):
        while isinstance((await waiting.texts(calls))["/dead/3"], HostError):
            await trio.sleep(0.01)


async def test_a_path_somebody_is_at_is_asked_about_afterwards(release: threading.Event, tmp_path: Path) -> None:
    waiting, found = Patience(), dict[str, str | Exception]()

    def opening() -> int:
        release.wait(20)
        return os.open(tmp_path, os.O_PATH)

    async def opens() -> None:
        os.close(await waiting.descriptor("/one", opening))

    async def asks() -> None:
        found.update(await waiting.texts({"/one": quick("one"), "/other": quick("other")}))

    with trio.fail_after(5):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(opens)
            await trio.sleep(0.05)
            nursery.start_soon(asks)
            await trio.sleep(0.05)
            release.set()
    assert found == {"/one": "one", "/other": "other"}


async def test_when_no_thread_is_left_all_paths_are_answered(release: threading.Event) -> None:
    waiting = Patience(limit=1)
    with pytest.raises(HostError, match="/dead does not answer in"):
        await waiting.text("/dead", hang(release))
    with trio.fail_after(5):
        answers = await waiting.texts({f"/alive/{number}": quick("fine") for number in range(100)})
        assert len(answers) == 100
        assert all("was not looked at" in str(answer) for answer in answers.values())
        with pytest.raises(HostError, match="/alive/1 does not answer in"):
            await waiting.text("/alive/1", quick("fine"))
        release.set()
        while isinstance((await waiting.texts({"/alive/1": quick("fine")}))["/alive/1"], HostError):
            pass


async def test_a_caller_that_is_cancelled_leaves_nothing_open_and_nothing_hangs(
    release: threading.Event, tmp_path: Path
) -> None:
    waiting, opened = Patience(), list[int]()

    def opening() -> int:
        release.wait(20)
        opened.append(os.open(tmp_path, os.O_PATH))
        return opened[0]

    with trio.move_on_after(0.05):
        await waiting.descriptor("/path", opening)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(waiting.text, "/path", quick("the next one waits"))
        await trio.sleep(0.05)
        release.set()
    with trio.fail_after(5):
        while os.path.exists(f"/proc/self/fd/{opened[0]}"):
            await trio.sleep(0.01)
