"""A bot that guesses at a login from a hundred addresses: its owner gets in, and nothing grows. tests/long: a minute.

Real sshd, and a bot that costs the machine little: see guessing.py.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from tests.figures import note
from tests.sshd import guessing
from tests.sshd.running import Hatchway, running, wait_until
from tests.sshd.test_engines import resident_mib

INSTANCE, LOGIN = "shop/web/1", "shop-web-1"
RATE, ADDRESSES = 50, 100
OWNER = "127.0.0.7"

ENTER_S = 2.0
GROWTH_MIB = 10.0
"""What the throttle and the record know of a hundred addresses is some kilobytes; a check's 64 MiB are given back."""

CHECK_CPU_S = 0.25
"""Processor time of one check of a password, several times of what it takes, with all that the core does around it."""

LINES_A_GUESS = 4.0
"""Of ours and sshd's together: what sshd's monitor and PAM say, and our own refusal; at its highest level of detail."""


@pytest.fixture
def hatchway() -> Iterator[Hatchway]:
    with running(INSTANCE) as made:
        made.enable(INSTANCE)
        yield made


def daemons(hatchway: Hatchway) -> dict[str, int]:
    """The pid of each of our daemons."""
    assert hatchway.process is not None
    modules = {
        "core": "hatchway.daemon",
        "hostd": "hatchway.host.main",
        "workers": "hatchway.host.zygote",
        "run": "hatchway.cli.main",
    }
    found = {"run": hatchway.process.pid}
    for child in Path(f"/proc/{hatchway.process.pid}/task/{hatchway.process.pid}/children").read_text().split():
        words = Path(f"/proc/{child}/cmdline").read_text().split("\0")
        found |= {name: int(child) for name, module in modules.items() if module in words}
    assert set(found) == set(modules)
    return found


def cpu_s(pid: int) -> float:
    """Processor time a process has used, in seconds, with that of its children that are over (proc_pid_stat(5))."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return sum(int(ticks) for ticks in fields[11:15]) / 100


@contextmanager
def attacked(
    hatchway: Hatchway, seconds: float, rate: int = RATE, addresses: int = ADDRESSES
) -> Iterator[subprocess.Popen[str]]:
    """A bot at work, from 127.1.0.1 on."""
    numbers = (hatchway.port, LOGIN, rate, seconds, addresses)
    bot = subprocess.Popen(
        [sys.executable, "-I", guessing.__file__, *map(str, numbers)], stdout=subprocess.PIPE, text=True
    )
    try:
        yield bot
    finally:
        if bot.poll() is None:
            bot.kill()
        bot.communicate()


def enters_s(hatchway: Hatchway, password: str | None, source: str = OWNER) -> float:
    """How long a login from `source` and listing something takes, in seconds; with the key if no password is given."""
    began = time.monotonic()
    hatchway.sftp(LOGIN, "ls\n", password=password, options=("-o", f"BindAddress={source}"))
    return time.monotonic() - began


def hold_out(hatchway: Hatchway, seconds: float) -> None:
    """Be attacked for `seconds`; see that the owner gets in, and what it costs."""
    password = hatchway.password(INSTANCE)
    quiet = {"key": enters_s(hatchway, None), "password": enters_s(hatchway, password)}
    pids = daemons(hatchway)
    used = {name: cpu_s(pid) for name, pid in pids.items()}
    before_mib = resident_mib(pids["core"])
    logged = len(hatchway.log().splitlines())
    rows = len(refusals(hatchway))
    entered: dict[str, list[float]] = {"key": [], "password": []}
    began = time.monotonic()
    with attacked(hatchway, seconds) as bot:
        time.sleep(1)
        while time.monotonic() - began < seconds:
            entered["password"].append(enters_s(hatchway, password))
            entered["key"].append(enters_s(hatchway, None))
            time.sleep(seconds / 20)
        bot.wait(120)
        took_s = time.monotonic() - began
        assert bot.stdout is not None
        outcome = guessing.Outcome(**json.loads(bot.stdout.read()))
    lines = len(hatchway.log().splitlines()) - logged
    used = {name: cpu_s(pid) - used[name] for name, pid in pids.items()}
    after_mib, most_mib = resident_mib(pids["core"]), resident_mib(pids["core"], "VmHWM")
    found = refusals(hatchway)
    note(f"guessing for {seconds:g} s: {outcome}, over in {took_s:.1f} s")
    for method, times in entered.items():
        shown = ", ".join(f"{one:.2f}" for one in times)
        note(f"    the owner by {method}: {shown} s; {quiet[method]:.2f} s when all is quiet")
    note(f"    the core: {before_mib:.0f} MiB before, {after_mib:.0f} after, {most_mib:.0f} at most")
    note("    processor time: " + ", ".join(f"{name} {one:.2f} s" for name, one in used.items()))
    note(f"    {lines} lines of log, {lines / outcome.guesses:.1f} a guess; {len(found) - rows} rows")

    assert outcome.entered == 0
    assert outcome.guesses >= 0.8 * RATE * seconds
    assert min(map(len, entered.values())) >= 2
    assert max(entered["password"] + entered["key"]) < ENTER_S
    assert after_mib - before_mib < GROWTH_MIB
    assert used["core"] < CHECK_CPU_S * outcome.guesses
    assert used["run"] + used["hostd"] < 0.2 * took_s
    assert lines < LINES_A_GUESS * outcome.guesses + 100 * sum(map(len, entered.values()))
    assert sum(one["times"] for one in found) == outcome.guesses
    assert len(found) <= ADDRESSES * (took_s // 60 + 2)
    # Afterwards nobody is kept waiting, neither the owner nor another user at one of the bot's addresses.
    assert enters_s(hatchway, password) < ENTER_S
    assert enters_s(hatchway, None, "127.1.0.1") < ENTER_S


def refusals(hatchway: Hatchway) -> list[dict[str, Any]]:
    """What the record has of refused guesses, also what is not written yet."""
    found: list[dict[str, Any]] = hatchway.command("log", "--kind", "refused", "-n", "5000")["entries"]
    return found


def test_six_seconds_from_a_hundred_addresses(hatchway: Hatchway) -> None:
    hold_out(hatchway, 6)


def test_who_guesses_behind_the_owners_address_delays_the_owner_a_little(hatchway: Hatchway) -> None:
    """Who sits in the same office, in the same second. With a key nobody waits, however long somebody guesses there."""
    password = hatchway.password(INSTANCE)
    with attacked(hatchway, 1, guessing.GUESSES_A_CONNECTION, 1) as bot:
        wait_until(lambda: "Failed password" in hatchway.log(), "the first guess")
        by_password_s = enters_s(hatchway, password, "127.1.0.1")
        by_key_s = enters_s(hatchway, None, "127.1.0.1")
        bot.wait(60)
    note(f"beside one who guesses: by password {by_password_s:.2f} s, by key {by_key_s:.2f} s")
    assert by_password_s < 2 * ENTER_S
    assert by_key_s < ENTER_S
