"""What sessions have moved and have open, as the workers say of their processes.

A worker may have been taken over: its numbers are bounded and its paths made printable here, and nobody waits for it.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable, Sequence
from typing import NamedTuple

import trio
from msgspec import structs

from hatchway.errors import HostError
from hatchway.host.workers import Worker
from hatchway.printable import escaped
from hatchway.wire.host import FILES_MAX, PATH_MAX, OpenFile, SessionActivity
from hatchway.wire.worker import CallerState

COUNT_MAX = 2**53
"""Bytes. What is more, a worker has made up: the sum of all would have no room in a message (MessagePack)."""

TOLD_MAX = 8 * 1024 * 1024
"""Characters of all paths in one answer, which has to have room in a frame (wire.frames.MAX_FRAME)."""


class Moved(NamedTuple):
    """What one process did by way of one worker. `idle_s` as in SessionActivity."""

    read: int
    written: int
    idle_s: float
    files: tuple[OpenFile, ...] = ()


class Answers(NamedTuple):
    """What was done by process. `partial`: not every worker has answered."""

    moved: dict[int, list[Moved]]
    partial: bool = False

    def of(self, pids: Iterable[int]) -> list[Moved]:
        """What these processes did."""
        return [one for pid in pids for one in self.moved.get(pid, ())]


async def ask(workers: Sequence[Worker], pids: Collection[int], *, ended: bool = False) -> Answers:
    """What these processes did, by all `workers`, which are asked at once. `ended` as in wire.worker.AskCallers."""
    answers: dict[Worker, list[CallerState]] = {}

    async def one(worker: Worker) -> None:
        try:
            answers[worker] = await worker.callers(pids, ended=ended)
        except HostError:
            pass  # that it is missing is said

    if pids:
        async with trio.open_nursery() as nursery:
            for worker in workers:
                nursery.start_soon(one, worker)
    moved: dict[int, list[Moved]] = {}
    for worker in workers:
        for state in {state.pid: state for state in answers.get(worker, ())}.values():
            moved.setdefault(state.pid, []).append(_moved(worker.view.path, state))
    return Answers(moved, partial=bool(pids) and len(answers) < len(workers))


def _moved(volume: str, state: CallerState) -> Moved:
    files = tuple(OpenFile(_shown(volume, file.path), file.writing) for file in state.files[:FILES_MAX])
    return Moved(_count(state.read), _count(state.written), _count(state.idle_ms) / 1000, files)


def total(before: int, more: Iterable[int]) -> int:
    """Bytes `before` and `more`, COUNT_MAX at most."""
    return min(before + sum(more), COUNT_MAX)


def bounded(found: Iterable[SessionActivity]) -> tuple[SessionActivity, ...]:
    """`found`, without files where their paths would have no room."""
    room, told = TOLD_MAX, []
    for one in found:
        room -= sum(len(file.path) for file in one.files)
        told.append(one if room >= 0 else structs.replace(one, files=(), partial=True))
    return tuple(told)


def _count(number: int) -> int:
    return min(max(number, 0), COUNT_MAX)


def _shown(volume: str, path: bytes) -> str:
    text = escaped(f"{volume}/{os.fsdecode(path)}" if path else volume)
    return text if len(text) <= PATH_MAX else f"…{text[1 - PATH_MAX :]}"
