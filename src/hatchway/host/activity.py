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
    moved: dict[int, list[Moved]] = {}
    silent: list[Worker] = []

    async def one(worker: Worker) -> None:
        try:
            states = await worker.callers(pids, ended=ended)
        except HostError:
            silent.append(worker)
            return
        for state in {state.pid: state for state in states if state.pid in pids}.values():
            files = tuple(
                OpenFile(_shown(worker.view.path, file.path), file.writing) for file in state.files[:FILES_MAX]
            )
            idle_s = _count(state.idle_ms) / 1000
            moved.setdefault(state.pid, []).append(Moved(_count(state.read), _count(state.written), idle_s, files))

    if pids:
        async with trio.open_nursery() as nursery:
            for worker in workers:
                nursery.start_soon(one, worker)
    return Answers(moved, partial=bool(silent))


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
