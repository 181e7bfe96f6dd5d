"""Fixtures: a volume, and something outside it that must stay untouched."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests import leftovers
from tests.unit.volumefs.harness import Canary, Volume


@pytest.fixture
def volume(tmp_path: Path) -> Iterator[Volume]:
    """An empty volume. Its tree must have closed every descriptor at the end."""
    backing = tmp_path / "volume"
    backing.mkdir()
    umask = os.umask(0)
    before = leftovers.descriptors()
    volume = Volume(backing, keep_sgid=contextlib.nullcontext)
    try:
        yield volume
    finally:
        volume.close()
        os.umask(umask)
        assert leftovers.descriptors() == before


@pytest.fixture
def canary(tmp_path: Path) -> Iterator[Canary]:
    """Something outside the volume; checked at the end."""
    canary = Canary(tmp_path / "outside")
    yield canary
    canary.assert_untouched()
