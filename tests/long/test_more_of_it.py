"""What the fast tests do some times, many times."""

from __future__ import annotations

from pathlib import Path

from tests.unit.core.test_throttle import many_addresses
from tests.unit.registry.test_registry_opening import opened_at_once


def test_a_million_addresses_take_no_more_room_than_some() -> None:
    many_addresses(1_000_000)


def test_two_processes_may_open_a_new_registry_at_once(tmp_path: Path) -> None:
    opened_at_once(tmp_path, 50)
