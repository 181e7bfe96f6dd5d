"""What tests/sshd/test_failures.py plays in little, as it is with the values that an operator has."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from tests.sshd.place import Place
from tests.sshd.running import Hatchway, running
from tests.sshd.test_failures import NEIGHBOUR, known, stopped


@pytest.fixture
def hatchway() -> Iterator[Hatchway]:
    with running(NEIGHBOUR) as made:
        made.enable(NEIGHBOUR)
        yield made


def test_a_worker_that_is_stopped_for_a_minute(hatchway: Hatchway) -> None:
    place = Place(hatchway)
    (place.data / "file").touch()
    stopped(hatchway, place, 60)


def test_fifty_thousand_files_that_the_kernel_knows(hatchway: Hatchway) -> None:
    known(hatchway, Place(hatchway), 50_000)
