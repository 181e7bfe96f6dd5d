"""hostd's accounts: which volume is counted when, and what is said of its size. Counters and file systems are faked."""

from __future__ import annotations

import array
import contextlib
import os
import signal
import socket
import subprocess
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import trio
from trio.testing import MockClock

from hatchway.config import Config, Host, Paths, Sizes
from hatchway.errors import HostError
from hatchway.host import errands, sizes, sources
from hatchway.host.account import Account
from hatchway.host.errands import Errands
from hatchway.host.patience import Patience
from hatchway.host.processes import Process
from hatchway.host.sizes import Accounts
from hatchway.host.sources import Room
from hatchway.host.workers import WorkerUids, Zygote
from hatchway.model import NO_LIMITS, Limits
from hatchway.volumefs.ledger import BLOCK, Ledger
from hatchway.wire.host import Measure, SharedVolume, Usage, View, VolumeSize
from hatchway.wire.task import Perform
from hatchway.wire.worker import Count, Counted, CounterFailed, Counting, Spawn, pack

GIB = 1 << 30
PLAIN = Room(False, 100 * GIB, 100 * GIB, 60 * GIB, 50 * GIB, 1000, 900)
OWN = Room(True, GIB, 973 << 20, 957 << 20, 906 << 20, 65536, 65500)


class World(Accounts):
    """Accounts whose counters take `takes_s` seconds each and find what `found` says, or fail with it."""

    def __init__(self, directory: Path) -> None:
        self.config = Config(
            paths=Paths(run_dir=f"{directory}/run"),
            host=Host(volume_roots=(), bind_prefixes=(str(directory),)),
            sizes=Sizes(measure_every_s=300),
        )
        patience = Patience()
        super().__init__(self.config, Errands(self.config, Zygote("info"), WorkerUids(1, 9), patience), patience)
        self.directory = directory
        self.rooms: dict[str, Room] = {}
        self.devices: set[str] = set()
        self.found: dict[str, tuple[int, int] | Exception] = {}
        self.takes_s = 1.0
        self.exact = True
        self.counts: list[tuple[float, str]] = []
        self.at_once = self.most = 0

    async def _on_device(self, account: Account) -> bool:
        return account.source in self.devices

    async def _look(self, account: Account) -> None:
        account.room = self.rooms.get(account.source, PLAIN)

    async def _count(self, account: Account) -> bool:
        self.counts.append((trio.current_time(), account.source))
        account.stale = False
        self.at_once += 1
        self.most = max(self.most, self.at_once)
        try:
            await trio.sleep(self.takes_s)
        finally:
            self.at_once -= 1
        if account.stale:
            self._hurry(account, trio.current_time())
            return False
        match self.found.get(account.source, (0, 0)):
            case Exception() as problem:
                raise problem
            case blocks, files:
                account.ledger.finish(blocks, files, int(time.time()), least=False)
        return self.exact

    def volume(self, name: str, limits: Limits = NO_LIMITS, known: Usage | None = None) -> SharedVolume:
        return SharedVolume(source=f"{self.directory}/{name}", birth="b", limits=limits, known=known)

    def view(self, name: str, limits: Limits = NO_LIMITS) -> View:
        return View("/data", f"{self.directory}/{name}", False, "b", limits=limits)

    async def sizes(self, *volumes: SharedVolume) -> tuple[VolumeSize, ...]:
        return (await self.measure(Measure(volumes))).sizes

    def of(self, name: str) -> list[float]:
        """When it was counted."""
        return [at for at, source in self.counts if source == f"{self.directory}/{name}"]


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    async with trio.open_nursery() as nursery:
        world = World(tmp_path)
        nursery.start_soon(world.run)
        yield world
        nursery.cancel_scope.cancel()
    await world.measure(Measure(()))


async def test_nothing_is_known_until_it_is_counted(world: World, autojump_clock: MockClock) -> None:
    shared = world.volume("a", Limits(size=10_000_000))
    world.found[shared.source] = (100, 7)
    (before,) = await world.sizes(shared)
    assert (before.used, before.files_used, before.counted) == (None, None, None)
    # Of 10 MB files may use 9.25 MB, in whole blocks; one file for 16 KiB.
    assert before.nominal == 10_000_000
    assert before.usable == 9_250_000 // BLOCK * BLOCK
    assert before.files_usable == 10_000_000 // 16384
    await trio.sleep(2)
    (after,) = await world.sizes(shared)
    assert (after.used, after.files_used) == (100 * BLOCK, 7)
    assert after.available == after.usable - 100 * BLOCK if after.usable is not None else False
    assert after.counted is not None
    assert abs(after.counted.measured_at - time.time()) < 5


async def test_what_was_counted_before_counts(world: World, autojump_clock: MockClock) -> None:
    known = Usage(size=50 * BLOCK, files=3, measured_at=1000.0)
    (size,) = await world.sizes(world.volume("a", Limits(size=10_000_000), known))
    assert (size.used, size.files_used, size.counted) == (50 * BLOCK, 3, known)


async def test_a_directory_without_a_limit(world: World, autojump_clock: MockClock) -> None:
    world.found[f"{world.directory}/a"] = (100, 7)
    await world.sizes(world.volume("a"))
    await trio.sleep(2)
    (size,) = await world.sizes(world.volume("a"))
    assert (size.used, size.usable, size.nominal, size.own) == (100 * BLOCK, None, None, False)
    assert (size.files_used, size.files_usable) == (7, None)
    assert size.available == PLAIN.available


async def test_a_file_system_of_its_own_is_not_counted(world: World, autojump_clock: MockClock) -> None:
    world.rooms[f"{world.directory}/a"] = OWN
    await world.sizes(world.volume("a"))
    await trio.sleep(2)
    (size,) = await world.sizes(world.volume("a"))
    assert world.counts == []
    assert size.own
    assert (size.nominal, size.usable, size.used) == (OWN.nominal, OWN.total, OWN.total - OWN.free)
    assert size.available == OWN.available
    assert (size.files_used, size.files_usable) == (36, 65536)


async def test_a_limit_on_a_file_system_of_its_own(world: World, autojump_clock: MockClock) -> None:
    shared = world.volume("a", Limits(size=2 * GIB))
    world.rooms[shared.source] = OWN
    world.found[shared.source] = (4096, 2)
    await world.sizes(shared)
    await trio.sleep(2)
    (size,) = await world.sizes(shared)
    assert (size.nominal, size.used) == (2 * GIB, 4096 * BLOCK)
    assert size.available == OWN.available, "there is less on the disk than the limit would leave"


async def test_how_often(world: World, autojump_clock: MockClock) -> None:
    """A volume somebody is in every five minutes, others once an hour, and none more than a twentieth of the time."""
    await world.sizes(world.volume("used", Limits(size=10_000_000)), world.volume("unused", Limits(size=10_000_000)))
    account = world.account(world.view("used", Limits(size=10_000_000)))
    world.use(account)
    await trio.sleep(3500)
    assert len(world.of("used")) == 12
    assert len(world.of("unused")) == 1
    world.takes_s = 100
    await trio.sleep(10_000)
    gaps = [after - before for before, after in zip(world.of("used"), world.of("used")[1:], strict=False)]
    assert gaps[-1] >= 2000
    world.leave(account)


async def test_the_urgent_ones_first_and_few_at_once(world: World, autojump_clock: MockClock) -> None:
    volumes = [world.volume(f"plain{n}") for n in range(20)]
    await world.sizes(*volumes)
    await trio.sleep(0.5)
    began = trio.current_time()
    await world.sizes(*volumes, *(world.volume(f"limited{n}", Limits(files=5)) for n in range(6)))
    await trio.sleep(5)
    for n in range(6):
        assert world.of(f"limited{n}")[0] - began < 4, "it does not wait for those that nobody waits for"
    assert world.most <= sizes.COUNTS_MAX
    await trio.sleep(20 * 21 * 2)
    assert {source for _, source in world.counts} >= {volume.source for volume in volumes}
    plain = sorted(at for at, source in world.counts if "plain" in source)
    assert plain[-1] - plain[0] > 20 * 15, "they take turns with pauses"


async def test_what_is_full_or_not_exact_is_counted_soon(world: World, autojump_clock: MockClock) -> None:
    limits = Limits(size=10_000_000)
    world.found[f"{world.directory}/a"] = (5000, 7)
    await world.sizes(world.volume("a", limits))
    account = world.account(world.view("a", limits))
    world.use(account)
    await trio.sleep(100)
    assert len(world.of("a")) >= 4
    world.found[f"{world.directory}/a"] = (10, 7)
    await trio.sleep(30)
    before = len(world.of("a"))
    await trio.sleep(200)
    assert len(world.of("a")) == before
    world.exact = False
    await trio.sleep(200)
    assert len(world.of("a")) >= before + 3
    world.leave(account)


async def test_it_is_counted_when_the_last_one_has_left(world: World, autojump_clock: MockClock) -> None:
    await world.sizes(world.volume("a"))
    account = world.account(world.view("a"))
    world.use(account)
    await trio.sleep(50)
    before = len(world.of("a"))
    world.leave(account)
    await trio.sleep(60)
    assert len(world.of("a")) == before + 1


async def test_a_device_is_not_mounted_only_to_be_looked_at(world: World, autojump_clock: MockClock) -> None:
    limits = Limits(size=10_000_000)
    world.devices = {f"{world.directory}/a"}
    await world.sizes(world.volume("a", limits))
    await trio.sleep(20_000)
    assert world.of("a") == []
    (size,) = await world.sizes(world.volume("a", limits))
    assert "when somebody is in" in size.problem
    account = world.account(world.view("a", limits))
    world.use(account)
    await trio.sleep(1000)
    assert len(world.of("a")) > 3
    (size,) = await world.sizes(world.volume("a", limits))
    assert (size.problem, size.used) == ("", 0)
    world.leave(account)


async def test_what_it_is_hurried_to_while_it_is_counted(world: World, autojump_clock: MockClock) -> None:
    """A limit that is new, and the last session's end, are not forgotten."""
    world.takes_s = 100
    await world.sizes(world.volume("a"))
    account = world.account(world.view("a"))
    world.use(account)
    await trio.sleep(50)
    world.leave(account)
    await trio.sleep(150)
    assert len(world.of("a")) == 2
    limits = Limits(size=10_000_000)
    began = trio.current_time()
    world.found[f"{world.directory}/a"] = (5, 5)
    await world.sizes(world.volume("a", limits))
    (size,) = await world.sizes(world.volume("a", limits))
    assert size.used is None, "what was counted without a limit says nothing of what was written since"
    await trio.sleep(250)
    assert any(at > began for at in world.of("a"))
    (size,) = await world.sizes(world.volume("a", limits))
    assert size.used == 5 * BLOCK


async def test_a_slow_count_does_not_stop_the_others(world: World, autojump_clock: MockClock) -> None:
    slow = [world.volume(f"slow{n}", Limits(files=5)) for n in range(2)]
    world.takes_s = 3 * 3600
    await world.sizes(*slow)
    await trio.sleep(10)
    world.takes_s = 1
    more = [world.volume("limited", Limits(files=5)), world.volume("plain")]
    began = trio.current_time()
    await world.sizes(*slow, *more)
    await trio.sleep(300)
    assert world.of("limited")[0] - began < sizes.SLOW_S + 5
    assert len(world.of("plain")) == 1
    await trio.sleep(4 * 3600)
    more.append(world.volume("later"))
    began = trio.current_time()
    await world.sizes(*slow, *more)
    await trio.sleep(300)
    assert world.of("later")[0] - began <= sizes.REST_S + 25


async def test_what_is_known_is_not_counted_anew_at_once(world: World, autojump_clock: MockClock) -> None:
    known = Usage(size=BLOCK, files=1, measured_at=time.time() - 60)
    await world.sizes(*(world.volume(f"v{n}", known=known) for n in range(20)))
    await trio.sleep(3000)
    assert world.counts == []
    await trio.sleep(3000)
    assert len(world.counts) == 20


async def test_nonsense_of_the_core_is_one_volumes(world: World, autojump_clock: MockClock) -> None:
    bad = world.volume("bad", known=Usage(size=-5, files=1, measured_at=1.0))
    worse = world.volume("worse", Limits(size=1))
    told = await world.sizes(bad, worse, world.volume("good"))
    assert "cannot be in a volume" in told[0].problem
    assert "size 1" in told[1].problem
    assert told[2].problem == ""


async def test_what_a_worker_writes_for_limits_does_not_last(world: World, autojump_clock: MockClock) -> None:
    limits = Limits(size=10_000_000)
    await world.sizes(world.volume("a", limits))
    account = world.account(world.view("a", limits))
    account.ledger.limit(0, 0)
    await world.sizes(world.volume("a", limits))
    assert account.ledger.figures().limit_blocks == 9_250_000 // BLOCK


async def test_it_hardly_wakes_while_nothing_can_begin(
    world: World, autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks: list[float] = []
    look = world._next

    def looking(now: float) -> Account | None:
        looks.append(now)
        return look(now)

    monkeypatch.setattr(world, "_next", looking)
    world.takes_s = 50
    await world.sizes(*(world.volume(f"v{n}") for n in range(30)))
    await trio.sleep(600)
    assert len(looks) < 60


async def test_one_that_cannot_be_counted_does_not_hold_up_others(world: World, autojump_clock: MockClock) -> None:
    bad, good = world.volume("bad", Limits(files=5)), world.volume("good", Limits(files=5))
    world.found[bad.source] = HostError("its file system does not answer")
    await world.sizes(bad, good)
    await trio.sleep(10)
    told = await world.sizes(bad, good)
    assert told[0].problem == "its file system does not answer"
    assert told[0].used is None
    assert told[1].used == 0
    world.found[bad.source] = (1, 1)
    await trio.sleep(100)
    (told_again, _) = await world.sizes(bad, good)
    assert (told_again.problem, told_again.used) == ("", BLOCK)


async def test_what_may_not_be_shared_is_not_counted(world: World, autojump_clock: MockClock) -> None:
    allowed, other = world.volume("a"), SharedVolume(source="/etc", birth="b")
    told = await world.sizes(other, allowed)
    await trio.sleep(10)
    assert "/etc" in told[0].problem
    assert {source for _, source in world.counts} == {allowed.source}


async def test_accounts_go_when_nobody_needs_them(world: World, autojump_clock: MockClock) -> None:
    await world.sizes(world.volume("a"), world.volume("b"))
    account = world.account(world.view("b"))
    world.use(account)
    await trio.sleep(50)
    await world.sizes()
    assert world.account(world.view("b")) is account, "somebody is in"
    world.leave(account)
    assert world.account(world.view("b")) is not account
    world.let_go(world.account(world.view("b")))


async def test_a_limit_is_the_same_for_everybody_at_once(world: World, autojump_clock: MockClock) -> None:
    account = world.account(world.view("a", Limits(size=10_000_000)))
    assert account.ledger.figures().limit_blocks == 9_250_000 // BLOCK
    assert world.account(world.view("a", Limits(files=3))) is account
    assert account.ledger.figures()[:2] == (0, 3)
    world.account(world.view("a"))
    assert not account.ledger.limited
    world.let_go(account)


async def test_a_ledger_is_taken_over(world: World, autojump_clock: MockClock) -> None:
    """By the workers that have it, and those that come."""
    ledger = Ledger.make()
    ledger.suppose(5, 5, 1)
    first, second = os.dup(ledger.fileno()), os.dup(ledger.fileno())
    account = world.adopt(world.view("a", Limits(files=9)), first)
    assert world.adopt(world.view("a", Limits(files=9)), second) is account
    assert ledger.figures()[:5] == (0, 9, True, 5, 5)
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(second)
    world.leave(account)
    assert world.account(world.view("a", Limits(files=9))) is account, "the other one still uses it"
    world.leave(account)
    ledger.close()


async def test_nonsense_in_a_ledger_is_no_nonsense_elsewhere(world: World, autojump_clock: MockClock) -> None:
    """A worker can write what it likes there."""
    limits = Limits(size=10_000_000)
    await world.sizes(world.volume("a", limits))
    await trio.sleep(3)
    account = world.account(world.view("a", limits))
    os.pwrite(account.ledger.fileno(), b"\xff" * 4096, 0)
    (size,) = await world.sizes(world.volume("a", limits))
    for number in (size.used, size.usable, size.available, size.files_used, size.files_usable):
        assert number is None or 0 <= number < 1 << 63


class FakeZygote(Zygote):
    """Its counters say what is in `says`, and hang up at "end"; without that they live until they are killed."""

    def __init__(self) -> None:
        super().__init__("info")
        self.says: list[object] = []
        self.ends: list[socket.socket] = []
        self.programs: list[subprocess.Popen[bytes]] = []
        self.asked: list[Spawn | Count | Perform] = []

    async def spawn(self, spec: Spawn | Count | Perform, fds: tuple[int, ...]) -> Process:
        self.asked.append(spec)
        volume, ledger, control = fds
        assert os.readlink(f"/proc/self/fd/{volume}") == "/"
        assert "hatchway-ledger" in os.readlink(f"/proc/self/fd/{ledger}")
        end = socket.socket(fileno=os.dup(control))
        for message in self.says:
            if message == "end":
                break
            if message == "descriptor":
                with contextlib.suppress(PermissionError), open("/dev/null", "rb") as null:
                    rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [null.fileno()]))]
                    end.sendmsg([pack(Counting())], rights)
            else:
                end.send(pack(message) if not isinstance(message, bytes) else message)
        if "end" in self.says:
            end.close()
        else:
            self.ends.append(end)
        program = subprocess.Popen(["sleep", "1000"])
        self.programs.append(program)
        return Process(program.pid)


@pytest.fixture
async def counting(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[tuple[Accounts, FakeZygote]]:
    config = Config(paths=Paths(run_dir=str(tmp_path)), host=Host(volume_roots=(), bind_prefixes=(str(tmp_path),)))
    zygote = FakeZygote()
    monkeypatch.setattr(sources, "open_volume", lambda *_args, **_more: os.open("/", os.O_PATH))
    monkeypatch.setattr(sizes, "STALLED_S", 0.3)
    patience = Patience()
    yield Accounts(config, Errands(config, zygote, WorkerUids(7, 7), patience), patience), zygote
    for program in zygote.programs:
        program.kill()
        program.wait()
    for end in zygote.ends:
        end.close()


@pytest.mark.parametrize(
    ("says", "problem"),
    [
        ([Counted(5, 6, False)], ""),
        ([Counting(), Counting(), Counted(5, 6, False)], ""),
        (["descriptor", Counted(5, 6, False)], ""),
        ([Counted(5, 6, True)], "some of what is in it cannot be read"),
        ([CounterFailed("EIO")], "EIO"),
        ([Counting(), "end"], "the counter ended"),
        (["end"], "the counter ended"),
        ([b"nonsense"], "it cannot be counted"),
        ([Counting()], "does not answer"),
        ([Counted(1 << 62, -(1 << 62), False)], ""),
    ],
)
async def test_a_count(counting: tuple[Accounts, FakeZygote], says: list[object], problem: str) -> None:
    accounts, zygote = counting
    zygote.says = says
    account = accounts.account(View("/data", "/srv/x", False, "b", limits=Limits(size=10_000_000)))
    before = set(os.listdir("/proc/self/fd"))
    for _ in range(2):  # with the only uid there is
        if problem:
            with pytest.raises(HostError, match=problem):
                await accounts._count(account)
        else:
            assert await accounts._count(account)
        assert zygote.programs[-1].poll() == -signal.SIGKILL, "no counter goes on"
    figures = account.ledger.figures()
    assert figures.known == (not problem or "some of" in problem)
    if figures.known:
        assert 0 <= figures.blocks <= 1 << 50
        assert 0 <= figures.files <= 1 << 50
    account.ledger.add(3, 1)
    assert account.ledger.grown(3) is None, "nobody counts any more"
    for end in zygote.ends:
        end.close()
    zygote.ends.clear()
    with trio.fail_after(5):
        while set(os.listdir("/proc/self/fd")) - before:
            await trio.sleep(0.01)
    accounts.let_go(account)


async def test_a_counter_that_cannot_be_ended_is_the_last_of_its_volume(
    counting: tuple[Accounts, FakeZygote], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Or each attempt would cost a process and a uid."""
    accounts, zygote = counting
    monkeypatch.setattr(errands, "END_S", 0.1)
    account = accounts.account(View("/data", "/srv/x", False, "b", limits=Limits(size=10_000_000)))
    with monkeypatch.context() as patch:
        patch.setattr(Process, "signal", lambda *_: None)
        with pytest.raises(HostError, match="its file system does not answer"):
            await accounts._count(account)
        for _ in range(2):
            with pytest.raises(HostError, match="/srv/x does not answer"):
                await accounts._count(account)
    assert len(zygote.asked) == 1
    zygote.programs[0].kill()
    zygote.programs[0].wait()
    zygote.says = [Counted(5, 6, False)]
    assert await accounts._count(account), "with the only uid there is"
    accounts.let_go(account)


async def test_a_count_waits_for_a_change(counting: tuple[Accounts, FakeZygote]) -> None:
    """And gives up in the end; nobody else waits for longer than the changes take."""
    accounts, zygote = counting
    zygote.says = [Counted(5, 6, False)]
    account = accounts.account(View("/data", "/srv/x", False, "b", limits=Limits(size=10_000_000)))
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        account.ledger.take(5)
        account.ledger.give_figures()
        os.write(writer, b"x")
        time.sleep(60)
        os._exit(0)
    os.read(reader, 1)
    try:
        with pytest.raises(HostError, match="in the middle of a change"):
            await accounts._count(account)
        assert zygote.asked == []
        account.ledger.take(6)
        account.ledger.give_figures()
        account.ledger.give(6)
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)  # noqa: ASYNC222 - it is being killed
        os.close(reader)
        os.close(writer)
    assert await accounts._count(account)
    accounts.let_go(account)


async def test_a_limit_that_came_while_it_was_counted(counting: tuple[Accounts, FakeZygote]) -> None:
    accounts, zygote = counting
    account = accounts.account(View("/data", "/srv/x", False, "b"))
    zygote.says = [Counting()]

    async def limit_and_end() -> None:
        while not zygote.ends:
            await trio.sleep(0.01)
        accounts.account(View("/data", "/srv/x", False, "b", limits=Limits(size=10_000_000)))
        zygote.ends[0].send(pack(Counted(5, 6, False)))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(limit_and_end)
        assert not await accounts._count(account)
    assert not account.ledger.figures().known
    zygote.says = [Counted(5, 6, False)]
    assert await accounts._count(account)
    assert account.ledger.figures().known
    accounts.let_go(account)
