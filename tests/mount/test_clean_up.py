"""What hostd does at its start with mounts an earlier one left, when a volume stands in one that does not answer."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import trio
from tests.mount.served import served

from hatchway.config import Config, Ids, Paths
from hatchway.host import hostd, patience
from hatchway.host.records import Records
from hatchway.kernel import fusectl, mounts


@pytest.fixture
def config(tmp_path: Path) -> Iterator[Config]:
    """Uids nobody has: what has them is ended."""
    ids = Ids(service_uids=(70_000, 70_009), login_uids=(71_000, 71_009), worker_uids=(72_000, 72_009))
    made = Config(paths=Paths(run_dir=f"{tmp_path}/run", userdb_dir=f"{tmp_path}/userdb"), ids=ids)
    hostd.prepare_mount_directory(made)
    yield made
    mounts.unmount(made.mount_dir, mounts.MNT_DETACH)


@pytest.fixture
def silent(config: Config) -> Iterator[int]:
    """A volume with another in it, whose worker, with the pid this gives, answers no more, nor can be killed by us."""
    with served(expect_log=True) as volume:
        outer = f"{config.mount_dir}/one/data"
        os.makedirs(outer)
        bind = 0x1000
        mounts.mount(str(volume.path), outer, "none", bind)
        mounts.make_private(outer)
        mounts.unmount(str(volume.path), mounts.MNT_DETACH)
        os.mkdir(volume.backing / "inner")
        mounts.mount("none", f"{outer}/inner", "tmpfs", 0)
        os.kill(volume.worker_pid, signal.SIGSTOP)
        time.sleep(1.5)  # until the kernel no longer knows the way
        yield volume.worker_pid
        os.kill(volume.worker_pid, signal.SIGCONT)


def left(config: Config) -> list[str]:
    return [entry.target for entry in mounts.mount_table() if entry.target.startswith(f"{config.mount_dir}/")]


async def clean_up(config: Config) -> None:
    """Clean up; meanwhile others must be served."""
    longest = 0.0

    async def others() -> None:
        nonlocal longest
        while True:
            before = time.monotonic()
            await trio.sleep(0.01)
            longest = max(longest, time.monotonic() - before)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(others)
        await trio.sleep(0.05)
        with trio.fail_after(20):
            await hostd.clean_up(config, Records(config.paths.userdb_dir, config.paths.run_dir))
        await trio.sleep(0.05)
        nursery.cancel_scope.cancel()
    assert longest < 2


async def test_connections_are_aborted_first_so_that_nothing_hangs(config: Config, silent: int) -> None:
    begin = time.monotonic()
    await clean_up(config)
    assert time.monotonic() - begin < 4
    assert left(config) == []
    assert os.listdir(config.mount_dir) == []


async def test_what_hangs_all_the_same_stops_nobody(
    config: Config, silent: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fusectl, "abort", lambda minors: dict.fromkeys(minors, "no fusectl in this kernel"))
    monkeypatch.setattr(patience, "DEADLINE_S", 0.5)
    await clean_up(config)
    assert left(config) == []
