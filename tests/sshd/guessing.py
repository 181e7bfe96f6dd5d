"""A bot that guesses at one login from many addresses. Run as a program: PORT LOGIN GUESSES-A-SECOND SECONDS ADDRESSES.

Begins a connection as often as the rate asks for, whatever became of those before, each from the next of 127.1.0.1,
127.1.0.2, …, and makes as many guesses with each as sshd takes (MaxAuthTries in sshd_config(5)). It costs little, since
what is measured runs on the same machine: one process, no host key looked at. Writes one JSON object to standard output
when the last connection is over: `connections` that were begun, how many were open at once (`most`), those that were
`dropped` before a guess, `guesses`, and how many were right (`entered`).
"""

from __future__ import annotations

import asyncio
import json
import sys
from dataclasses import asdict, dataclass

import asyncssh

GUESSES_A_CONNECTION = 6
HAND_SHAKE_S = 30.0


@dataclass
class Outcome:
    """What came of it."""

    connections: int = 0
    most: int = 0
    dropped: int = 0
    guesses: int = 0
    entered: int = 0


class _Client(asyncssh.SSHClient):
    def __init__(self, outcome: Outcome) -> None:
        self._outcome = outcome
        self.guesses = 0

    def validate_host_public_key(self, *_: object) -> bool:
        return True

    def password_auth_requested(self) -> str | None:
        if self.guesses == GUESSES_A_CONNECTION:
            return None
        self.guesses += 1
        self._outcome.guesses += 1
        return f"guess-{self._outcome.guesses}"


async def _connection(port: int, login: str, address: str, outcome: Outcome) -> None:
    client = _Client(outcome)
    outcome.connections += 1
    try:
        connection = await asyncssh.connect(
            "127.0.0.1",
            port,
            local_addr=(address, 0),
            username=login,
            client_factory=lambda: client,
            known_hosts=b"",
            config=None,
            client_keys=None,
            agent_path=None,
            preferred_auth="password",
            kex_algs=["curve25519-sha256"],
            login_timeout=HAND_SHAKE_S * 2,
            connect_timeout=HAND_SHAKE_S,
        )
    except (OSError, asyncssh.Error, TimeoutError):
        outcome.dropped += client.guesses == 0
    else:
        outcome.entered += 1
        connection.abort()


async def attack(port: int, login: str, rate: float, seconds: float, addresses: int) -> Outcome:
    """Guess for `seconds`, `rate` times a second. Returns when all connections are over."""
    outcome = Outcome()
    loop = asyncio.get_running_loop()
    began = loop.time()
    number = open_now = 0

    def over(_: object) -> None:
        nonlocal open_now
        open_now -= 1

    async with asyncio.TaskGroup() as tasks:
        while (at := number * GUESSES_A_CONNECTION / rate) < seconds:
            await asyncio.sleep(max(0.0, began + at - loop.time()))
            address = f"127.1.0.{number % addresses + 1}"
            task = tasks.create_task(_connection(port, login, address, outcome))
            task.add_done_callback(over)
            number += 1
            open_now += 1
            outcome.most = max(outcome.most, open_now)
    return outcome


def main() -> None:
    """Attack as the arguments say."""
    port, login, rate, seconds, addresses = sys.argv[1:]
    outcome = asyncio.run(attack(int(port), login, float(rate), float(seconds), int(addresses)))
    sys.stdout.write(json.dumps(asdict(outcome)) + "\n")


if __name__ == "__main__":
    main()
