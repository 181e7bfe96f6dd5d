"""The real zygote: what it does with requests of somebody who has gone, and when it is told to end."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import trio
from tests.mount.tasked import Beneath

from hatchway.errors import HostError
from hatchway.host import workers
from hatchway.wire.worker import Count


def children(pid: int) -> list[str]:
    return Path(f"/proc/{pid}/task/{pid}/children").read_text().split()


async def until(condition: Callable[[], bool]) -> None:
    with trio.fail_after(10):
        while not condition():
            await trio.sleep(0.01)


async def test_who_did_not_want_to_wait_gets_no_worker_later(beneath: Beneath, monkeypatch: pytest.MonkeyPatch) -> None:
    """A stopped zygote finds the request when it goes on: a worker of it would be known to nobody."""
    monkeypatch.setattr(workers, "START_TIMEOUT_S", 0.3)
    before = time.monotonic()
    os.kill(beneath.zygote.pid, signal.SIGSTOP)
    try:
        with pytest.raises(HostError, match="does not answer"):
            await beneath.zygote.spawn(Count(source="/", worker_uid=1), (0, 1, 2))
    finally:
        os.kill(beneath.zygote.pid, signal.SIGCONT)
    assert time.monotonic() - before < 5
    monkeypatch.undo()
    # It goes on, and with the next request.
    await beneath.read(beneath.volume("next"))
    await until(lambda: children(beneath.zygote.pid) == [])
    assert "traceback" not in beneath.zygote.said().lower()


async def test_what_it_was_asked_it_does_before_it_ends(beneath: Beneath) -> None:
    """As systemd ends it for an upgrade."""
    volume = beneath.volume("asked")
    os.kill(beneath.zygote.pid, signal.SIGSTOP)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(beneath.read, volume)
        await trio.sleep(0.2)
        os.kill(beneath.zygote.pid, signal.SIGTERM)
        os.kill(beneath.zygote.pid, signal.SIGCONT)
    assert await beneath.zygote.ended() == 0


async def test_with_nothing_to_do_it_ends_at_once(beneath: Beneath) -> None:
    os.kill(beneath.zygote.pid, signal.SIGTERM)
    assert await beneath.zygote.ended() == 0
