"""Taking over one login's root: all of it, or nothing and nothing held. Real processes, faked workers."""

from __future__ import annotations

import array
import contextlib
import os
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import trio
from msgspec import structs

from hatchway.config import Config, Host, Paths
from hatchway.errors import HatchwayError
from hatchway.host import workers
from hatchway.host.adoption import adopt
from hatchway.host.errands import Errands
from hatchway.host.handover import (
    Handover,
    KeptRoot,
    KeptWorker,
    control_name,
    kept_names,
    ledger_name,
    process_name,
    session_name,
)
from hatchway.host.patience import Patience
from hatchway.host.sizes import Accounts
from hatchway.host.workers import WorkerUids, Zygote
from hatchway.kernel import mounts
from hatchway.volumefs.ledger import Ledger
from hatchway.wire import notify
from hatchway.wire.frames import decode
from hatchway.wire.host import View
from hatchway.wire.worker import MAX_PACKET, Lend, Ping, WorkerState, pack

LOGIN, GID, UIDS, SESSION = "shop-web-1", 4242, (1_901_000_001, 1_901_000_002), "a" * 32


class World:
    """What an earlier hostd has left: two workers, one in the other's volume, and a session."""

    def __init__(
        self, directory: Path, start: Callable[[], subprocess.Popen[bytes]], patch: pytest.MonkeyPatch
    ) -> None:
        volumes = directory / "volumes"
        (volumes / "data").mkdir(parents=True)
        self.config = Config(
            paths=Paths(run_dir=f"{directory}/run"), host=Host(volume_roots=(), bind_prefixes=(str(volumes),))
        )
        views = [View(path, f"{volumes}/data", False) for path in ("/data", "/data/inner")]
        self.programs = [start(), start()]
        self.monitor = start()
        self.ends: list[socket.socket] = []
        passes = [("hostd", 0)]
        for uid, program in zip(UIDS, self.programs, strict=True):
            ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            self.ends.append(theirs)
            passes += [(control_name(uid), ours.detach()), (process_name(uid), os.pidfd_open(program.pid))]
            passes.append((ledger_name(uid), Ledger.make().fileno()))
        passes.append((session_name(SESSION), os.pidfd_open(self.monitor.pid)))
        self.passed = dict(passes[1:])
        self.forgotten: list[str] = []
        patch.setattr(notify, "passed", lambda: passes)
        patch.setattr(notify, "forget", self.forgotten.append)
        os.makedirs(self.config.paths.run_dir)
        self.handover = Handover(self.config.handover_dir)
        self.handover.open()
        self.kept = KeptRoot(
            login=LOGIN,
            uid=1_900_100_001,
            gid=GID,
            workers=tuple(
                KeptWorker(view, program.pid, uid, places)
                for view, program, uid, places in zip(views, self.programs, UIDS, (("inner",), ()), strict=True)
            ),
            sessions={SESSION: self.monitor.pid},
        )
        self.mounted = [f"{self.config.mount_dir}/{LOGIN}{view.path}" for view in views]
        patience = Patience()
        self.accounts = Accounts(
            self.config, Errands(self.config, Zygote("info"), WorkerUids(1, 9), patience), patience
        )
        self.refused = self.read_only = False
        self.lent = {path: os.open(path, os.O_RDONLY | os.O_CLOEXEC) for path in ("/dev/null", "/dev/zero")}
        # The second stands for /dev/fuse, which only root may open.
        patch.setattr(mounts, "FUSE_DEVICE", os.stat("/dev/zero").st_rdev)
        self.lends = ["/dev/null", "/dev/zero"]
        self.answers = [True, True]
        self.ending: list[str] = []

    async def worker(self, number: int) -> None:
        """Answers as a worker does."""
        control = trio.socket.from_stdlib_socket(self.ends[number].dup())
        with control:
            while data := await control.recv(MAX_PACKET):
                if self.answers[number]:
                    message = decode(data, Ping | Lend)
                    packet = pack(WorkerState(message.serial, 0, self.refused, self.read_only))
                    if isinstance(message, Ping):
                        await control.send(packet)
                    else:
                        rights = array.array("i", [self.lent[name] for name in self.lends])
                        await control.sendmsg([packet], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, rights)])

    async def adopt(self) -> tuple[list[int], list[int], dict[str, tuple[str, ...]]]:
        """Pids of workers and sessions, and places, that were taken over."""
        problem: HatchwayError | None = None
        async with trio.open_nursery() as nursery:
            for number in range(2):
                nursery.start_soon(self.worker, number)
            try:
                adopted = await adopt(
                    self.config, self.handover, self.accounts, self.kept, gid=GID, mounted=self.mounted
                )
            except HatchwayError as exc:
                problem = exc
            nursery.cancel_scope.cancel()
        if problem is not None:
            raise problem
        adopted.close()
        self.ending = adopted.ending
        held = [one.process.pid for one in adopted.workers]
        return held, [one.pid for one in adopted.sessions.values()], adopted.placed


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    monkeypatch.setattr(workers, "RESTRICT_TIMEOUT_S", 0.3)
    with contextlib.ExitStack() as stack:

        def start() -> subprocess.Popen[bytes]:
            program = stack.enter_context(subprocess.Popen(["sleep", "1000"]))
            stack.callback(program.kill)
            return program

        made = World(tmp_path, start, monkeypatch)
        yield made
        for end in made.ends:
            end.close()
        for fd in made.lent.values():
            os.close(fd)
        made.handover.discard()


def still_held(world: World) -> list[str]:
    """Names of what was passed and is open, and still the same."""
    return [name for name, fd in world.passed.items() if os.path.exists(f"/proc/self/fd/{fd}")]


async def test_all_of_it(world: World) -> None:
    held, sessions, placed = await world.adopt()
    assert held == [program.pid for program in world.programs]
    assert sessions == [world.monitor.pid]
    assert placed == {"/data": ("inner",), "/data/inner": ()}
    assert world.forgotten == [], "it stays kept for the next one"
    assert world.ending == []


async def test_a_session_that_was_being_ended_is_taken_over_to_be_ended(world: World) -> None:
    """By itself: other sessions of the login have nothing to do with it."""
    _stopped_session(world)
    _held, sessions, _placed = await world.adopt()
    assert sessions == [world.monitor.pid]
    assert world.ending == [SESSION]


def _other_group(world: World) -> None:
    world.kept = structs.replace(world.kept, gid=GID + 1)


def _half_mounted(world: World) -> None:
    world.kept = structs.replace(world.kept, starting=("/logs",))


def _not_mounted(world: World) -> None:
    world.mounted.pop()


def _uid_of_somebody(world: World) -> None:
    world.kept = structs.replace(world.kept, uid=1000)


def _login_of_somebody(world: World) -> None:
    world.kept = structs.replace(world.kept, login="../root")


def _no_longer_allowed(world: World) -> None:
    world.config = structs.replace(world.config, host=Host(volume_roots=(), bind_prefixes=()))


def _no_control(world: World) -> None:
    os.close(world.handover.descriptor(control_name(UIDS[1])))


def _no_pidfd(world: World) -> None:
    os.close(world.handover.descriptor(process_name(UIDS[1])))


def _no_session(world: World) -> None:
    os.close(world.handover.descriptor(session_name(SESSION)))


def _stopped_session(world: World) -> None:
    world.monitor.send_signal(signal.SIGSTOP)
    while Path(f"/proc/{world.monitor.pid}/stat").read_text().rpartition(") ")[2][0] != "T":
        time.sleep(0.001)


def _dead_worker(world: World) -> None:
    world.programs[1].kill()
    world.programs[1].wait()


def _refusing(world: World) -> None:
    world.refused = True


def _other_mode(world: World) -> None:
    world.read_only = True


def _lends_nothing(world: World) -> None:
    world.lends = []


def _lends_another_thing(world: World) -> None:
    world.lends = ["/dev/zero", "/dev/null"]


def _silent(world: World) -> None:
    world.answers[1] = False


@pytest.mark.parametrize(
    ("spoil", "why"),
    [
        (_other_group, "another one"),
        (_half_mounted, "/logs was being mounted"),
        (_not_mounted, "/data/inner is not mounted"),
        (_uid_of_somebody, "outside"),
        (_login_of_somebody, "no login"),
        (_no_longer_allowed, "bind_prefixes"),
        (_no_control, "nothing is left of c"),
        (_no_pidfd, "nothing is left of p"),
        (_no_session, "nothing is left of s"),
        (_dead_worker, "the worker of /data/inner has died"),
        (_refusing, "/data was being taken away"),
        (_other_mode, "/data was being made read-only or writable"),
        (_lends_nothing, "does not lend what it has"),
        (_lends_another_thing, "does not lend what it has"),
        (_silent, "did not answer in 0.3 s"),
    ],
)
async def test_nothing_of_it(world: World, spoil: Callable[[World], None], why: str) -> None:
    spoil(world)
    with pytest.raises(HatchwayError, match=why):
        await world.adopt()
    assert world.forgotten == kept_names(world.kept)
    world.handover.discard()
    with trio.fail_after(5):
        while still_held(world):
            await trio.sleep(0.01)  # what a worker may have sent is closed in a thread
    assert world.monitor.poll() is None, "nothing is ended here"
    assert world.programs[0].poll() is None
