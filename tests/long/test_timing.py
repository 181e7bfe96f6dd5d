"""How long it takes to be refused: whether that tells a stranger that a login exists, and how its password is kept.

sshd itself keeps whoever fails waiting for 5 to 9 ms times the least power of two that is longer than the attempt took
(user_specific_delay() in auth2.c); how many of them depends on the login's name and a secret of the server's. So logins
of different names differ, by as much as a half, and that says nothing. What can be compared is one name while there is
no such login, and afterwards. Two hundred attempts each, of all names alike, and each connection from an address
of its own, so that nobody is slowed down for having guessed before.
"""

from __future__ import annotations

import asyncio
import itertools
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator

import asyncssh
import crypt_r
import pytest
from tests.figures import note
from tests.sshd.running import Hatchway, running

ATTEMPTS = 200

KNOWN, KEY_ONLY, IMPORTED = NAMES = "shop-web-1", "shop-key-1", "shop-old-1"
WRONG = "wrong"
PASSWORD = "the right one, which is long enough"

NOISE_S = 0.005
"""How far apart two times of the same thing may be; the quartiles of 200 attempts lie 1 ms apart on a quiet host."""


@pytest.fixture
def hatchway() -> Iterator[Hatchway]:
    with running("shop/web/1", "shop/key/1", "shop/old/1") as made:
        yield made


def make(hatchway: Hatchway) -> None:
    """Have the logins: with a password, without one, and with one that was imported."""
    for name in ("web", "key", "old"):
        hatchway.enable(f"shop/{name}/1")
    give(hatchway, "set", "shop/web/1", PASSWORD)
    hatchway.command("password", "remove", "shop/key/1")
    give(hatchway, "import", "shop/old/1", crypt_r.crypt(PASSWORD, crypt_r.mksalt(crypt_r.METHOD_SHA512)))


def give(hatchway: Hatchway, how: str, instance: str, text: str) -> None:
    """Set or import a password."""
    command = [sys.executable, "-I", "-m", "hatchway.cli.main", "--config", str(hatchway.config_path)]
    subprocess.run([*command, "password", how, instance, "--stdin"], input=f"{text}\n".encode(), check=True, cwd="/",
                   stdout=subprocess.DEVNULL)  # fmt: skip


class _Client(asyncssh.SSHClient):
    """Tries one password or key, and takes the time from then until it is refused or let in."""

    def __init__(self, secret: str | asyncssh.SSHKey) -> None:
        self._secret = secret
        self.tried_at: float | None = None
        self.entered_at: float | None = None

    def validate_host_public_key(self, *_: object) -> bool:
        return True

    def password_auth_requested(self) -> str | None:
        if self.tried_at is not None or not isinstance(self._secret, str):
            return None
        self.tried_at = time.perf_counter()
        return self._secret

    def public_key_auth_requested(self) -> asyncssh.SSHKey | None:
        if self.tried_at is not None or isinstance(self._secret, str):
            return None
        self.tried_at = time.perf_counter()
        return self._secret

    def auth_completed(self) -> None:
        self.entered_at = time.perf_counter()


async def _attempt(port: int, number: int, login: str, secret: str | asyncssh.SSHKey) -> tuple[float, bool]:
    client = _Client(secret)
    try:
        connection = await asyncssh.connect(
            "127.0.0.1",
            port,
            local_addr=(f"127.{2 + number // 50_000}.{number // 250 % 200}.{number % 250 + 1}", 0),
            username=login,
            client_factory=lambda: client,
            known_hosts=b"",
            config=None,
            agent_path=None,
            preferred_auth="password" if isinstance(secret, str) else "publickey",
        )
    except asyncssh.PermissionDenied:
        pass
    else:
        connection.abort()
    ended_at = client.entered_at or time.perf_counter()
    assert client.tried_at is not None
    return ended_at - client.tried_at, client.entered_at is not None


_addresses = itertools.count()


async def measured(port: int, logins: tuple[str, ...], secret: str | asyncssh.SSHKey) -> dict[str, float]:
    """The time of ATTEMPTS with each login, in seconds: what nine of ten took at least. All must come to the same end.

    Not the median: where the attempt takes about as long as sshd's power of two, some of them get the next one.
    """
    times: dict[str, list[float]] = {login: [] for login in logins}
    for turn in range(ATTEMPTS):
        first = turn % len(logins)
        order = logins[first:] + logins[:first]
        attempts = [_attempt(port, next(_addresses), login, secret) for login in order]
        # Who waits for a refusal of a password waits for sshd's clock, so some at once do not slow down each other.
        done = await asyncio.gather(*attempts) if secret == WRONG else [await one for one in attempts]
        for login, (took_s, entered) in zip(order, done, strict=True):
            assert entered == (secret == PASSWORD)
            times[login].append(took_s)
    for login, some in times.items():
        first_s, median_s, third_s = (one * 1000 for one in statistics.quantiles(some, n=4))
        note(f"    {login}: {median_s:.1f} ms, quartiles {first_s:.1f} and {third_s:.1f} ms")
    return {login: statistics.quantiles(some, n=10)[0] for login, some in times.items()}


def test_being_refused_takes_the_same_time_whatever_there_is(hatchway: Hatchway) -> None:
    key = asyncssh.generate_private_key("ssh-ed25519")
    note(f"medians of {ATTEMPTS} attempts; a wrong password while there is no such login:")
    without = asyncio.run(measured(hatchway.port, NAMES, WRONG))
    note("a wrong key while there is no such login:")
    key_without = asyncio.run(measured(hatchway.port, NAMES, key))
    make(hatchway)
    note(f"a wrong password; {KEY_ONLY} has none, that of {IMPORTED} is imported:")
    within = asyncio.run(measured(hatchway.port, NAMES, WRONG))
    note("a wrong key:")
    key_within = asyncio.run(measured(hatchway.port, NAMES, key))
    note("the right password:")
    right = asyncio.run(measured(hatchway.port, (KNOWN,), PASSWORD))
    for login in NAMES:
        assert abs(within[login] - without[login]) < NOISE_S, login
    # What does differ is seen so: the right password, and keys, as docs/security.md says.
    assert right[KNOWN] < within[KNOWN] - NOISE_S
    assert all(key_within[login] > key_without[login] + NOISE_S for login in NAMES)
