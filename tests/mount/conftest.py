"""Fixtures of the mount tier: volumes that are really mounted."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from tests.mount.served import Served, served


@pytest.fixture
def volume() -> Iterator[Served]:
    """An empty volume, mounted read-write, that belongs to somebody else on disk."""
    with served() as volume:
        yield volume
