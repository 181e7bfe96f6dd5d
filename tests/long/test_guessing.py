"""A bot that guesses for a minute, by which time most of what it guesses is not looked at any more."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from tests.sshd.running import Hatchway, running
from tests.sshd.test_guessing import INSTANCE, hold_out


@pytest.fixture
def hatchway() -> Iterator[Hatchway]:
    with running(INSTANCE) as made:
        made.enable(INSTANCE)
        yield made


def test_a_minute_from_a_hundred_addresses(hatchway: Hatchway) -> None:
    hold_out(hatchway, 60)
