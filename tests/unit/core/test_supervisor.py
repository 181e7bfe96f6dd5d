"""`hatchway run` watches over its processes: one that does not say that it is well is started again."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest
import trio

from hatchway import supervisor
from hatchway.config import Config, Paths
from hatchway.provision import Account
from hatchway.supervisor import Running, Service

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="gives sockets to their owners")

SAY = """
import os, socket, time
def say(what):
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.connect(os.environ["NOTIFY_SOCKET"])
        sock.send(what)
def well():
    say(b"WATCHDOG=1")
    time.sleep(int(os.environ["WATCHDOG_USEC"]) / 1e6 / 5)
"""


async def run(tmp_path: Path, program: str, *, for_s: float = 20) -> float | None:
    """Run a process that does `program`; after how many seconds it was over, None if it was not after `for_s`."""
    service = Service("core", (sys.executable, "-c", SAY + program), Account("root", 0, 0))
    one = Running(service)
    began = trio.current_time()
    with trio.move_on_after(for_s) as scope:
        try:
            await supervisor._run_once(Config(paths=Paths(run_dir=str(tmp_path))), one, {})
        finally:
            if one.process is not None:
                one.process.kill()
                one.process.wait()
    assert one.ready.is_set()
    return None if scope.cancelled_caught else trio.current_time() - began


async def test_who_says_nothing_any_more_is_killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(supervisor, "WATCHDOG_S", 1.0)
    program = "say(b'READY=1'); [well() for _ in range(10)]; time.sleep(1000)"
    over = await run(tmp_path, program)
    assert over is not None
    assert over >= 2.5, "it was well for two seconds, and is given one"


async def test_who_goes_on_saying_so_lives(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(supervisor, "WATCHDOG_S", 1.0)
    program = "say(b'READY=1')\nwhile True: well()"
    assert await run(tmp_path, program, for_s=3) is None


async def test_who_is_not_ready_yet_is_given_its_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(supervisor, "WATCHDOG_S", 0.2)
    # It does not end at once: what a process that has ended said last does not make it ready.
    over = await run(tmp_path, "time.sleep(1.5); say(b'READY=1'); [well() for _ in range(10)]")
    assert over is not None
    assert over >= 1.5
