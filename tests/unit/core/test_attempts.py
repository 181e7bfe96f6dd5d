"""Passwords are checked a few at a time, in turn, and a flood does not keep anybody else waiting."""

from __future__ import annotations

import contextlib
import functools
import threading
from collections import Counter
from collections.abc import Callable
from random import Random

import pytest
import trio

from hatchway import addresses
from hatchway.access import attempts
from hatchway.access.attempts import (
    FAILURE_S,
    HOLD_S,
    PARALLEL,
    SUSPECTS_MAX,
    WAITING_MAX,
    Attempts,
    Priority,
    UncheckedError,
)
from hatchway.access.throttle import FREE_AT_LOGIN, FREE_OF_ADDRESS

HERE, THERE = addresses.address("192.0.2.1"), addresses.address("192.0.2.2")


def right() -> bool:
    return True


def wrong() -> bool:
    return False


async def test_a_right_password_is_let_in_at_once_and_a_wrong_one_is_not(
    autojump_clock: trio.testing.MockClock,
) -> None:
    found = Attempts()
    before = trio.current_time()
    assert await found.check(HERE, "web", right)
    assert trio.current_time() == before
    assert not await found.check(HERE, "web", wrong)
    assert trio.current_time() == pytest.approx(before + FAILURE_S)


async def test_who_guesses_is_held_a_little_and_then_not_looked_at(autojump_clock: trio.testing.MockClock) -> None:
    found, checked = Attempts(), 0

    def guess() -> bool:
        nonlocal checked
        checked += 1
        return False

    for _ in range(FREE_AT_LOGIN + 2):
        assert not await found.check(HERE, "web", guess)
    before, looked_at = trio.current_time(), checked
    # After 4 free ones and delays of 1 and 2 seconds the next is 4.
    assert not await found.check(HERE, "web", guess)
    assert before + HOLD_S - FAILURE_S <= trio.current_time() <= before + HOLD_S + FAILURE_S
    with pytest.raises(UncheckedError, match=r"^too many wrong guesses$") as unchecked:
        await found.check(HERE, "web", guess)
    assert unchecked.value.wait_s == pytest.approx(4.0, abs=0.5)
    assert checked == looked_at + 1
    assert await found.check(THERE, "web", right), "the owner does not wait"
    await trio.sleep(4.0)
    assert await found.check(HERE, "web", right), "nor for ever who has mistyped"


async def test_a_fault_in_the_check_is_no_guess(autojump_clock: trio.testing.MockClock) -> None:
    found = Attempts()

    def broken() -> bool:
        raise RuntimeError("damaged")

    for _ in range(FREE_AT_LOGIN + 5):
        with pytest.raises(RuntimeError):
            await found.check(HERE, "web", broken)
    assert await found.check(HERE, "web", right)


class Gated:
    """Checks that wait until they may go on, and note their order."""

    def __init__(self) -> None:
        self.running: list[str] = []
        self.most = 0
        self._now = 0
        self._lock = threading.Lock()
        self.go = threading.Semaphore(0)

    def check(self, name: str) -> Callable[[], bool]:
        def run() -> bool:
            with self._lock:
                self.running.append(name)
                self._now += 1
                self.most = max(self.most, self._now)
            assert self.go.acquire(timeout=10)
            with self._lock:
                self._now -= 1
            return False

        return run


async def until(condition: Callable[[], bool]) -> None:
    with trio.fail_after(10):
        while not condition():
            await trio.sleep(0.001)


async def test_only_so_many_at_once_and_whoever_has_guessed_least_first() -> None:
    found, gated = Attempts(), Gated()
    for _ in range(3):
        found.throttle.failed(THERE, "known", trio.current_time())

    async def attempt(address: addresses.Address | None, login: str) -> None:
        assert not await found.check(address, login, gated.check(login))

    async with trio.open_nursery() as nursery:
        for number in range(PARALLEL):
            nursery.start_soon(attempt, addresses.address(f"198.51.100.{number}"), f"first-{number}")
        await until(lambda: len(gated.running) == PARALLEL)
        nursery.start_soon(attempt, THERE, "known")
        await trio.testing.wait_all_tasks_blocked(0.01)
        nursery.start_soon(attempt, HERE, "innocent")
        await trio.testing.wait_all_tasks_blocked(0.01)
        for number in range(PARALLEL):
            gated.go.release()
            await until(lambda number=number: len(gated.running) == PARALLEL + number + 1)  # type: ignore[misc]
        gated.go.release(10)
    assert gated.running[PARALLEL:] == ["innocent", "known"]
    assert gated.most == PARALLEL == 2


async def test_of_one_pair_one_at_a_time() -> None:
    """Else all the guesses that arrive at once were free."""
    found, gated = Attempts(), Gated()
    async with trio.open_nursery() as nursery:
        for _ in range(5):
            nursery.start_soon(found.check, HERE, "web", gated.check("web"))
        await trio.testing.wait_all_tasks_blocked(0.02)
        assert len(gated.running) == 1
        gated.go.release(5)
        with trio.move_on_after(1.0):
            await until(lambda: len(gated.running) == FREE_AT_LOGIN)
        nursery.cancel_scope.cancel()
    assert found._pairs == {}


async def test_who_guessed_most_is_turned_away_when_too_many_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attempts, "FAILURE_S", 0.0)
    found, gated, refused = Attempts(), Gated(), list[str]()
    for _ in range(3):
        found.throttle.failed(THERE, "known", trio.current_time())

    async def attempt(address: addresses.Address | None, login: str) -> None:
        try:
            await found.check(address, login, gated.check(login))
        except UncheckedError:
            refused.append(login)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(attempt, addresses.address("198.51.100.1"), "running-1")
        nursery.start_soon(attempt, addresses.address("198.51.100.2"), "running-2")
        await until(lambda: len(gated.running) == PARALLEL)
        nursery.start_soon(attempt, THERE, "known")
        await trio.testing.wait_all_tasks_blocked(0.01)
        for number in range(WAITING_MAX):
            nursery.start_soon(attempt, addresses.address(f"203.0.113.{number}"), f"new-{number}")
        await until(lambda: bool(refused))
        assert refused == ["known"]
        nursery.start_soon(attempt, THERE, "known")
        await until(lambda: len(refused) == 2)
        gated.go.release(WAITING_MAX + PARALLEL)
    assert refused == ["known", "known"]
    assert len(gated.running) == WAITING_MAX + PARALLEL


async def test_few_who_guessed_wrong_before_may_wait_and_nobody_else_is_turned_away_for_them(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Each that waits holds one of the connections that sshd allows before login."""
    monkeypatch.setattr(attempts, "FAILURE_S", 0.0)
    found, gated, refused = Attempts(), Gated(), list[str]()

    async def attempt(address: str, login: str) -> None:
        try:
            await found.check(addresses.address(address), login, gated.check(login))
        except UncheckedError:
            refused.append(login)

    many = SUSPECTS_MAX + 3
    for number in range(many):
        for _ in range(1 + (number == 2)):
            found.throttle.failed(addresses.address(f"203.0.113.{number}"), f"known-{number}", trio.current_time())
    async with trio.open_nursery() as nursery:
        for number in range(PARALLEL + many):
            nursery.start_soon(attempt, f"198.51.100.{number}", f"new-{number}")
        await until(lambda: len(gated.running) == PARALLEL)
        for number in range(many):
            nursery.start_soon(attempt, f"203.0.113.{number}", f"known-{number}")
            await trio.testing.wait_all_tasks_blocked(0.01)
        # First who guessed wrong more often than the others, then who came last.
        assert refused == ["known-2", f"known-{many - 2}", f"known-{many - 1}"]
        gated.go.release(PARALLEL + 2 * many)
    assert len(gated.running) == PARALLEL + many + SUSPECTS_MAX


async def test_whoever_leaves_takes_no_turn_away() -> None:
    found, gated, leaving = Attempts(), Gated(), trio.CancelScope()

    async def leave() -> None:
        with leaving:
            await found.check(HERE, "web", right)

    with trio.fail_after(10):
        async with trio.open_nursery() as nursery:
            for number in range(PARALLEL):
                nursery.start_soon(found.check, addresses.address(f"198.51.100.{number}"), "a", gated.check("a"))
            await until(lambda: len(gated.running) == PARALLEL)
            nursery.start_soon(leave)
            await trio.testing.wait_all_tasks_blocked(0.01)
            assert len(found._turns._waiting) == 1
            leaving.cancel()
            await until(lambda: found._turns._waiting == [])
            gated.go.release(PARALLEL)
        for _ in range(PARALLEL + 1):
            assert await found.check(HERE, "web", right)
    assert leaving.cancelled_caught
    assert found._turns._taken == 0


async def test_a_flood_at_one_login_keeps_nobody_of_another_waiting() -> None:
    found, gated = Attempts(), Gated()

    async def attempt(address: addresses.Address | None, login: str) -> None:
        with contextlib.suppress(UncheckedError):
            await found.check(address, login, gated.check(login))

    async with trio.open_nursery() as nursery:
        for number in range(WAITING_MAX + 20):
            nursery.start_soon(attempt, addresses.address(f"203.0.113.{number}"), "victim")
        await trio.testing.wait_all_tasks_blocked(0.05)
        assert len(gated.running) == PARALLEL
        nursery.start_soon(attempt, HERE, "other")
        await trio.testing.wait_all_tasks_blocked(0.05)
        gated.go.release()
        await until(lambda: len(gated.running) > PARALLEL)
        assert gated.running[-1] == "other"
        nursery.cancel_scope.cancel()
        gated.go.release(WAITING_MAX * 2)


async def test_whoever_was_let_in_there_before_goes_first() -> None:
    found, gated, let_in = Attempts(), Gated(), list[bool]()
    assert await found.check(HERE, "victim", right)

    async def attempt(address: addresses.Address | None) -> None:
        with contextlib.suppress(UncheckedError):
            await found.check(address, "victim", gated.check("guess"))

    async def owner() -> None:
        let_in.append(await found.check(HERE, "victim", right))

    async with trio.open_nursery() as nursery:
        for number in range(WAITING_MAX + 20):
            nursery.start_soon(attempt, addresses.address(f"203.0.113.{number}"))
        await trio.testing.wait_all_tasks_blocked(0.05)
        nursery.start_soon(owner)
        await trio.testing.wait_all_tasks_blocked(0.05)
        gated.go.release()
        await until(lambda: let_in == [True])
        nursery.cancel_scope.cancel()
        gated.go.release(WAITING_MAX * 2)


async def test_hashes_that_take_long_hold_up_none_but_their_own() -> None:
    found, gated = Attempts(), Gated()
    async with trio.open_nursery() as nursery:
        for number in range(5):
            check = gated.check("slow")
            address = addresses.address(f"203.0.113.{number}")
            nursery.start_soon(functools.partial(found.check, address, f"login-{number}", check, slow=True))
        await until(lambda: len(gated.running) == 1)
        with trio.fail_after(2):
            assert await found.check(HERE, "web", right)
        assert len(gated.running) == 1
        gated.go.release(5)


async def test_guesses_of_one_address_that_arrive_at_once_are_not_all_looked_at() -> None:
    found, checked, unchecked = Attempts(), list[str](), list[str]()

    async def attempt(login: str) -> None:
        def guess() -> bool:
            checked.append(login)
            return False

        try:
            await found.check(HERE, login, guess)
        except UncheckedError:
            unchecked.append(login)

    async with trio.open_nursery() as nursery:
        for number in range(100):
            nursery.start_soon(attempt, f"login-{number}")
    # Twenty are free, and some more are near enough to wait for.
    assert len(checked) <= FREE_OF_ADDRESS + 4
    assert len(checked) + len(unchecked) == 100


async def test_nobody_innocent_makes_room_for_who_has_guessed_wrong() -> None:
    found, gated, refused = Attempts(), Gated(), list[str]()
    suspects = [addresses.address(f"198.51.100.{number}") for number in range(SUSPECTS_MAX + 5)]
    for address in suspects:
        found.throttle.failed(address, "known", trio.current_time())

    async def attempt(address: addresses.Address | None, login: str, name: str) -> None:
        try:
            await found.check(address, login, gated.check(name))
        except UncheckedError:
            refused.append(name)

    async with trio.open_nursery() as nursery:
        # Many wait at one login, so that these come last of all.
        for number in range(20):
            nursery.start_soon(attempt, addresses.address(f"203.0.113.{number}"), "victim", "innocent")
        await trio.testing.wait_all_tasks_blocked(0.02)
        for number, address in enumerate(suspects):
            nursery.start_soon(attempt, address, f"login-{number}", "suspect")
        await until(lambda: len(refused) == 5)
        assert refused == ["suspect"] * 5
        nursery.cancel_scope.cancel()
        gated.go.release(100)


async def test_others_wait_as_long_behind_whatever_check_there_was(autojump_clock: trio.testing.MockClock) -> None:
    """Four guesses at once at one login from one address, and at four logins from as many, where a check takes no time
    and where it takes a while: when each is answered."""

    async def answered(check_s: float, *, same: bool) -> list[float]:
        found, began, at = Attempts(failure_s=2.0, hold_s=1.5), trio.current_time(), list[float]()

        async def ask() -> bool:
            await trio.sleep(check_s)
            if check_s == 0.5:
                raise OSError
            return False

        async def guess(number: int) -> None:
            with contextlib.suppress(OSError):
                await found.ask(addresses.address(f"192.0.2.{number}"), f"login-{number}", ask)
            at.append(round(trio.current_time() - began, 3))

        async with trio.open_nursery() as nursery:
            for number in range(4):
                nursery.start_soon(guess, 0 if same else number)
        return sorted(at)

    for check_s in (0.0, 0.06, 0.5, 1.2):
        assert await answered(check_s, same=True) == [2.0, 3.0, 4.5, 6.0]
        assert await answered(check_s, same=False) == [2.0, 2.0, 3.0, 3.0]


async def test_a_right_guess_holds_nobody_up(autojump_clock: trio.testing.MockClock) -> None:
    found, before = Attempts(failure_s=2.0, hold_s=1.5), trio.current_time()

    async def ask() -> bool:
        return True

    for _ in range(3):
        assert await found.ask(HERE, "web", ask)
    assert trio.current_time() == before


async def test_a_login_is_busy_only_while_guesses_at_it_wait() -> None:
    found, gated = Attempts(), Gated()
    for number in range(3):
        assert await found.check(addresses.address(f"192.0.2.{number}"), "guessed at before", right)

    async def attempt(address: str, login: str) -> None:
        await found.check(addresses.address(address), login, gated.check(login))

    async with trio.open_nursery() as nursery:
        for number in range(PARALLEL):
            nursery.start_soon(attempt, f"198.51.100.{number}", f"running-{number}")
        await until(lambda: len(gated.running) == PARALLEL)
        for number, login in enumerate(("guessed at before", "another")):
            nursery.start_soon(attempt, f"203.0.113.{number}", login)
            await trio.testing.wait_all_tasks_blocked(0.01)
        gated.go.release()
        await until(lambda: len(gated.running) > PARALLEL)
        assert gated.running[PARALLEL] == "guessed at before", "who came first"
        gated.go.release(10)
    assert not found._logins


async def test_an_owner_who_mistyped_takes_no_suspects_place(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attempts, "FAILURE_S", 0.0)
    found, gated, refused = Attempts(), Gated(), list[str]()
    suspects = [addresses.address(f"198.51.100.{number}") for number in range(SUSPECTS_MAX)]
    for address in (HERE, *suspects):
        found.throttle.failed(address, "before", trio.current_time())
    found.throttle.succeeded(HERE, "web")

    async def attempt(address: addresses.Address | None, login: str, name: str) -> None:
        try:
            await found.check(address, login, gated.check(name))
        except UncheckedError:
            refused.append(name)

    async with trio.open_nursery() as nursery:
        for number in range(PARALLEL):
            nursery.start_soon(attempt, addresses.address(f"203.0.113.{number}"), f"running-{number}", "running")
        await until(lambda: len(gated.running) == PARALLEL)
        for number, address in enumerate(suspects):
            nursery.start_soon(attempt, address, f"login-{number}", "suspect")
        await until(lambda: len(found._turns._waiting) == SUSPECTS_MAX)
        nursery.start_soon(attempt, HERE, "web", "owner")
        await trio.testing.wait_all_tasks_blocked(0.01)
        assert (len(found._turns._waiting), refused) == (SUSPECTS_MAX + 1, [])
        gated.go.release()
        await until(lambda: len(gated.running) > PARALLEL)
        assert gated.running[PARALLEL] == "owner"
        gated.go.release(PARALLEL + SUSPECTS_MAX)
    assert refused == []


CHECK_S = 0.08
"""How long one check takes where time is virtual: of those of a real machine a slow one."""


class Simulation:
    """Guesses in virtual time: each check takes CHECK_S. What became of them, by name."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        async def run_sync(verify: Callable[[], bool], *, limiter: object) -> bool:
            await trio.sleep(CHECK_S)
            return verify()

        monkeypatch.setattr(trio.to_thread, "run_sync", run_sync)
        self.attempts = Attempts()
        self.checked: Counter[str] = Counter()
        self.unchecked: Counter[str] = Counter()
        self.took_s: dict[str, float] = {}

    async def guess(self, name: str, address: str, login: str, verify: Callable[[], bool] = wrong) -> None:
        began = trio.current_time()
        try:
            if await self.attempts.check(addresses.address(address), login, verify):
                self.took_s[login] = trio.current_time() - began
            self.checked[name] += 1
        except UncheckedError:
            self.unchecked[name] += 1

    async def flood(
        self, rate: float, seconds: float, address: Callable[[int], str], login: Callable[[int], str]
    ) -> None:
        """Guess `rate` times a second, whatever becomes of it."""
        async with trio.open_nursery() as nursery:
            for number in range(int(rate * seconds)):
                nursery.start_soon(self.guess, "flood", address(number), login(number))
                await trio.sleep(1 / rate)

    async def owners(self, many: int, login: Callable[[int], str]) -> None:
        """Log in for the first time, one a second, each from elsewhere."""
        async with trio.open_nursery() as nursery:
            for number in range(many):
                await trio.sleep(1.0)
                address = f"192.0.2.{number}" if number % 2 else f"2001:db8:{number + 100:x}::1"
                nursery.start_soon(self.guess, "owner", address, login(number), right)


@pytest.mark.parametrize("at_owners", [False, True])
async def test_ever_new_networks_of_one_prefix_keep_no_owner_out(
    autojump_clock: trio.testing.MockClock, monkeypatch: pytest.MonkeyPatch, at_owners: bool
) -> None:
    """80 guesses a second, more than three times what can be checked, each from another /64 of one /48: at logins
    nobody has, or at the owners' own."""
    sim, seconds = Simulation(monkeypatch), 30
    async with trio.open_nursery() as nursery:
        nursery.start_soon(
            sim.flood,
            80.0,
            float(seconds),
            lambda number: f"2001:db8:0:{number * 257 % 65536:x}::1",
            lambda number: f"owner-{number % 25}" if at_owners else f"unknown-{number}",
        )
        nursery.start_soon(sim.owners, 25, lambda number: f"owner-{number}")
    assert len(sim.took_s) == 25, "all of them"
    assert max(sim.took_s.values()) < 2.0
    # What the /48 has free, one in 7.5 s, and what was being looked at.
    assert 200 < sim.checked["flood"] <= 240 + seconds / 7.5 + 5
    assert sim.checked["flood"] + sim.unchecked["flood"] == 80 * seconds
    assert not sim.attempts._networks


@pytest.mark.parametrize("network", ["2001:db8:0:{:x}::1", "203.0.113.{}"])
async def test_what_waits_of_one_network_lets_others_go_first_before_any_of_it_was_wrong(
    autojump_clock: trio.testing.MockClock, monkeypatch: pytest.MonkeyPatch, network: str
) -> None:
    sim = Simulation(monkeypatch)
    async with trio.open_nursery() as nursery:
        for number in range(WAITING_MAX + 50):
            nursery.start_soon(sim.guess, "flood", network.format(number), f"unknown-{number}")
        await trio.sleep(CHECK_S / 2)
        nursery.start_soon(sim.guess, "owner", "192.0.2.1", "web", right)
    assert sim.took_s["web"] < 2 * CHECK_S


ORDINARY = Priority(stranger=True, crowd=0, waiting=0, suspicion=0, beside=0)
WORSE, WORST = ORDINARY._replace(waiting=1), ORDINARY._replace(waiting=2)


class Line:
    """Those who want the one turn there is. Each has it for a moment."""

    def __init__(self) -> None:
        self.turns = attempts._Turns(1)
        self.had: list[str] = []
        self.refused: list[str] = []

    async def want(self, name: str, priority: Priority = ORDINARY, scope: trio.CancelScope | None = None) -> None:
        with scope or trio.CancelScope():
            try:
                async with self.turns.turn(priority):
                    self.had.append(name)
            except UncheckedError:
                self.refused.append(name)


async def test_a_turn_that_is_passed_on_to_whoever_leaves_goes_to_the_next(
    autojump_clock: trio.testing.MockClock,
) -> None:
    line, leaving = Line(), trio.CancelScope()
    with trio.fail_after(10):
        async with trio.open_nursery() as nursery, line.turns.turn(ORDINARY):
            nursery.start_soon(line.want, "leaves", ORDINARY, leaving)
            await trio.testing.wait_all_tasks_blocked()
            nursery.start_soon(line.want, "next", WORSE)
            await trio.testing.wait_all_tasks_blocked()
            # The turn is passed on to it before it has heard that it is to leave.
            leaving.cancel()
        await line.want("later")
    assert leaving.cancelled_caught
    assert line.had == ["next", "later"]


async def test_whoever_leaves_while_refused_passes_no_turn_on(
    autojump_clock: trio.testing.MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else there were more turns at once than may be."""
    monkeypatch.setattr(attempts, "WAITING_MAX", 1)
    line, leaving = Line(), trio.CancelScope()
    with trio.fail_after(10):
        async with trio.open_nursery() as nursery, line.turns.turn(ORDINARY):
            nursery.start_soon(line.want, "leaves", WORST, leaving)
            await trio.testing.wait_all_tasks_blocked()
            # It is refused, for us, before it has heard that it is to leave.
            leaving.cancel()
            with trio.move_on_after(1) as waiting:
                await line.want("ours")
            assert waiting.cancelled_caught
            assert (line.had, line.refused) == ([], [])
        assert leaving.cancelled_caught
        await line.want("later")
    assert (line.had, line.refused) == (["later"], [])


async def test_whoever_is_refused_at_once_and_has_left_already_passes_no_turn_on(
    autojump_clock: trio.testing.MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(attempts, "WAITING_MAX", 1)
    line, left = Line(), trio.CancelScope()
    left.cancel()
    with trio.fail_after(10):
        async with trio.open_nursery() as nursery, line.turns.turn(ORDINARY):
            nursery.start_soon(line.want, "waits")
            await trio.testing.wait_all_tasks_blocked()
            await line.want("has left", WORSE, left)
            await trio.testing.wait_all_tasks_blocked()
            assert (line.had, line.refused) == ([], [])
    assert (line.had, line.refused) == (["waits"], [])


async def test_whoever_leaves_changes_nobody_elses_place(autojump_clock: trio.testing.MockClock) -> None:
    random, line = Random(1), Line()  # noqa: S311 - a seed makes a failure repeatable
    numbers = random.sample(range(WAITING_MAX), WAITING_MAX)
    scopes = {number: trio.CancelScope() for number in numbers}
    with trio.fail_after(10):
        async with trio.open_nursery() as nursery, line.turns.turn(ORDINARY):
            for number in numbers:
                nursery.start_soon(line.want, str(number), ORDINARY._replace(waiting=number), scopes[number])
                await trio.testing.wait_all_tasks_blocked()
            gone = numbers[::3]
            for number in gone:
                scopes[number].cancel()
            await trio.testing.wait_all_tasks_blocked()
    assert line.had == [str(number) for number in sorted(set(numbers) - set(gone))]
