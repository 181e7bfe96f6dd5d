"""Fixtures of the mount tier: volumes that are really mounted."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from tests.mount.served import Served, served
from tests.mount.tasked import Beneath
from tests.mount.test_on_demand_devices import Bench

from hatchway.kernel import mounts


@pytest.fixture
def volume() -> Iterator[Served]:
    """An empty volume, mounted read-write, that belongs to somebody else on disk."""
    with served() as volume:
        yield volume


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    made = Bench(tmp_path)
    yield made
    for path in sorted(made.binds.iterdir()):
        if os.path.ismount(path):
            mounts.unmount(str(path), mounts.MNT_DETACH)
    for device in list(made.devices):
        made.detach(device)


@pytest.fixture
async def beneath(bench: Bench) -> AsyncIterator[Beneath]:
    made = Beneath(bench)
    await made.zygote.start()
    # It is ready when it has forked once; its imports are not what a test measures.
    await made.read(made.volume("warm"))
    yield made
    assert made.uids.used == frozenset()
    await made.zygote.stop()
