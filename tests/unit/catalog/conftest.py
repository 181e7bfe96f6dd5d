"""What the tests of the catalog share."""

from __future__ import annotations

import pytest

from hatchway.model import Snapshot


class Heard:
    """A Sink that remembers."""

    def __init__(self) -> None:
        self.snapshots: list[Snapshot] = []
        self.signs: list[str] = []

    def publish(self, snapshot: Snapshot) -> None:
        self.snapshots.append(snapshot)

    def alive(self, source: str) -> None:
        self.signs.append(source)

    def last(self) -> Snapshot:
        return self.snapshots[-1]

    def keys(self) -> list[str]:
        return [str(info.key) for info in self.last().instances]


@pytest.fixture
def heard() -> Heard:
    return Heard()
