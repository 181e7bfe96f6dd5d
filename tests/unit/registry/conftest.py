"""A registry in an empty directory."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from hatchway.registry.store import Registry


@pytest.fixture
def path(tmp_path: Path) -> str:
    """Where the registry is."""
    return str(tmp_path / "registry.sqlite")


@pytest.fixture
def registry(path: str) -> Iterator[Registry]:
    """A new, empty registry."""
    opened = Registry.open(path)
    yield opened
    opened.close()
