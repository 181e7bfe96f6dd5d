"""Connections that do not log in: how many one address may hold, and that a few addresses shut nobody else out."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Iterator

import pytest
from tests.sshd.entering import source
from tests.sshd.running import Hatchway, running, wait_until

INSTANCE, LOGIN = "shop/web/1", "shop-web-1"
IDLERS = [f"127.3.0.{number}" for number in range(1, 9)]
MOST = 20
"""What docs/security.md promises that one address may hold."""


@pytest.fixture(scope="module")
def hatchway() -> Iterator[Hatchway]:
    with running(INSTANCE) as made:
        made.enable(INSTANCE)
        yield made


@contextlib.contextmanager
def held(hatchway: Hatchway, address: str, attempts: int) -> Iterator[int]:
    """Begin connections from `address` and say nothing. How many of them sshd took."""
    with contextlib.ExitStack() as stack:
        taken = 0
        for _ in range(attempts):
            sock = stack.enter_context(socket.create_connection(("127.0.0.1", hatchway.port), 20, (address, 0)))
            with contextlib.suppress(ConnectionError):
                taken += sock.recv(100).startswith(b"SSH-2.0-")
        yield taken


def enters(hatchway: Hatchway, address: str) -> bool:
    """Whether the login's key lets it in from there."""
    return hatchway.sftp(LOGIN, "ls\n", check=False, options=source(address)).returncode == 0


def test_eight_addresses_that_hold_what_they_can_shut_nobody_else_out(hatchway: Hatchway) -> None:
    with contextlib.ExitStack() as stack:
        taken = [stack.enter_context(held(hatchway, address, MOST + 15)) for address in IDLERS]
        assert taken == [MOST] * len(IDLERS)
        assert not enters(hatchway, IDLERS[0]), "who is behind the same address"
        assert [enters(hatchway, f"127.9.0.{number}") for number in range(1, 11)] == [True] * 10
    wait_until(lambda: enters(hatchway, IDLERS[0]), "they have hung up")


def test_beside_the_ten_of_one_client_others_behind_its_address_log_in(hatchway: Hatchway) -> None:
    """Ten connections of which none has logged in yet, and ten logins at once, all from one address."""
    with held(hatchway, IDLERS[0], 10) as taken:
        assert taken == 10
        sessions = [hatchway.open_sftp(LOGIN, options=source(IDLERS[0])) for _ in range(10)]
        said = [session.communicate("ls\nbye\n", timeout=60) for session in sessions]
        assert [session.returncode for session in sessions] == [0] * 10, said
