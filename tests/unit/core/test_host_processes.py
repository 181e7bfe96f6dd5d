"""Ending a session and all that belongs to it, also while it is forking."""

from __future__ import annotations

import contextlib
import errno
import os
import signal
import subprocess
import sys
import time
from collections.abc import Collection
from pathlib import Path

import pytest

from hatchway.host import processes
from hatchway.host.processes import Process

# A monitor that forks, and whose children fork, as fast as they can; each child writes down that it lives.
_FORKING = """
import os, sys, time
directory = sys.argv[1]
ballast = b"x" * int(sys.argv[2])
def live():
    open(os.path.join(directory, str(os.getpid())), "w").close()
live()
for _ in range(60):
    if os.fork() == 0:
        live()
        if os.fork() == 0:
            live()
        time.sleep(60)
        os._exit(0)
    time.sleep(0.001)
time.sleep(60)
"""


def state(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2][0]
    except OSError:
        return "gone"


@pytest.mark.parametrize("ballast", [0, 400 * 1024**2])
async def test_no_child_of_a_session_that_is_forking_escapes(tmp_path: Path, ballast: int) -> None:
    """The more memory, in bytes, the longer it is in the middle of a fork: SIGSTOP then comes too late for that one."""
    for delay_s in (0.03, 0.06, 0.1, 0.3):
        with subprocess.Popen([sys.executable, "-c", _FORKING, str(tmp_path), str(ballast)]) as program:
            while not (tmp_path / str(program.pid)).exists():
                time.sleep(0.001)
            time.sleep(delay_s)
            monitor = Process(program.pid)
            await processes.end([monitor], grace_s=1.0)
            assert not monitor.alive()
            monitor.close()
        # What was born in the last moment has its file a moment later, if it lives.
        time.sleep(0.1)
        assert [pid for pid in map(int, os.listdir(tmp_path)) if state(pid) not in ("Z", "X", "gone")] == []


async def test_a_session_ends_though_its_processes_cannot_be_looked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """Above all its monitor must not stay stopped for ever."""

    def out_of_descriptors(*_pids: int) -> list[Process]:
        raise OSError(errno.EMFILE, "Too many open files")

    monkeypatch.setattr(processes, "descendants", out_of_descriptors)
    with subprocess.Popen(["sleep", "60"]) as program:
        monitor = Process(program.pid)
        await processes.end([monitor], grace_s=1.0)
        monitor.close()
        assert program.wait(5) == -signal.SIGTERM


async def test_paused_sessions_stand_still_and_then_go_on(tmp_path: Path) -> None:
    """All that is below a monitor, also what is born while it is being stopped; and some may be ended meanwhile."""
    with contextlib.ExitStack() as stack:
        programs = []
        for name in ("one", "other"):
            (tmp_path / name).mkdir()
            command = [sys.executable, "-c", _FORKING, str(tmp_path / name), "0"]
            programs.append(stack.enter_context(subprocess.Popen(command)))
            # Until it has forked some times.
            while len(list((tmp_path / name).iterdir())) < 10:
                time.sleep(0.001)
        monitors = [Process(program.pid) for program in programs]
        try:
            async with processes.paused(monitors) as family:
                ours = [family(monitor) for monitor in monitors]
                assert not ours[0] & ours[1]
                assert all(len(pids) > 3 for pids in ours)
                assert {state(pid) for pids in ours for pid in pids} <= {"T", "Z", "gone"}
                born = {name: len(list((tmp_path / name).iterdir())) for name in ("one", "other")}
                time.sleep(0.1)
                assert {name: len(list((tmp_path / name).iterdir())) for name in born} == born, "nobody runs"
                await processes.end([monitors[1]], grace_s=1.0)
            assert monitors[0].alive()
            assert "T" not in {state(pid) for pid in ours[0]}
            assert not monitors[1].alive()
            assert {state(pid) for pid in ours[1]} <= {"Z", "gone"}
        finally:
            await processes.end(monitors, grace_s=1.0)
            for monitor in monitors:
                monitor.close()


async def test_who_is_stopped_is_told_and_whether_all_have_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    told: set[int] = set()

    async def stopped(pids: Collection[int]) -> None:
        told.update(pids)
        assert {state(pid) for pid in pids} == {"T"}

    with subprocess.Popen(["sh", "-c", "sleep 60 & wait"]) as program:
        while not processes.below(program.pid):
            time.sleep(0.001)
        (child,) = processes.below(program.pid)
        monitor = Process(program.pid)
        assert await processes.end([monitor], grace_s=5.0, stopped=stopped)
        assert told == {program.pid, child}
        monitor.close()
    with subprocess.Popen(["sleep", "60"]) as program:
        monitor = Process(program.pid)
        monkeypatch.setattr(monitor, "signal", lambda _number: None)
        assert not await processes.end([monitor], grace_s=0.05)
        program.kill()
        monitor.close()


def test_the_processes_below_one() -> None:
    with subprocess.Popen(["sh", "-c", "sh -c 'sleep 60 & sleep 60 & wait' & wait"], start_new_session=True) as program:
        try:
            while len(processes.below(program.pid)) < 3:
                time.sleep(0.001)
            found = processes.below(program.pid)
            held = processes.descendants(program.pid)
            assert {process.pid for process in held} == found
            for process in held:
                process.close()
        finally:
            os.killpg(program.pid, signal.SIGKILL)
    assert processes.below(program.pid) == set()
