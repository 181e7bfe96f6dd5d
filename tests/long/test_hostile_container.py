"""The race of tests/sshd/test_hostile_container.py for long: millions of operations, on a disk and in memory.

In memory (tmpfs) the container swaps some three times as fast.
"""

from __future__ import annotations

import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path

import pytest
from tests.figures import note
from tests.sshd.dockerd import client_of, running_engine, workshop
from tests.sshd.hostile import bed as beds
from tests.sshd.hostile import operations, tree_operations
from tests.sshd.hostile.driving import KINDS
from tests.sshd.running import running, wait_until
from tests.sshd.test_hostile_container import check_everything_was_met, check_it_was_a_race, report

pytestmark = pytest.mark.engine

SESSIONS = 1_000_000
"""Operations of the sessions, on each kind of volume."""
TREE = 2_000_000
"""Operations of the tree alone, on each."""
DRIVERS = 3
MOST_S = 900.0
"""Longest one of these may take, in seconds: a busy machine is no failure of theirs."""


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with running_engine(tmp_path_factory.mktemp("e") / "d") as url:
        yield url


@contextmanager
def memory(directory: Path) -> Iterator[Path]:
    """A file system in memory at `directory`."""
    directory.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "mode=0755,size=512m", "tmpfs", directory], check=True)
    try:
        yield directory
    finally:
        subprocess.run(["umount", directory], check=True)
        directory.rmdir()


@pytest.mark.parametrize("kind", ["disk", "memory"])
def test_a_million_operations_of_sessions(engine: str, tmp_path: Path, kind: str) -> None:
    began = time.monotonic()
    with client_of(engine) as client, workshop(client) as shop:
        root = f"{client.info()['DockerRootDir']}/volumes"
        with (
            running(engine_url=engine, volume_root=root) as hatchway,
            memory(hatchway.volumes / "fast") if kind == "memory" else nullcontext() as fast,
            beds.made(shop, "racer", tmp_path, wild=True, seed=2, bind=fast and fast / "hostile" / "data") as bed,
        ):
            wait_until(lambda: hatchway.cli("enable", bed.instance, beds.PATH).returncode == 0, "the catalog sees it")
            login = hatchway.enable(bed.instance, beds.PATH)
            with hatchway.open_sftp(login) as session:
                wait_until(lambda: hatchway.sessions() >= 1, "the session")
                each = -(-SESSIONS // DRIVERS)
                met = beds.sessions(hatchway, bed, login, drivers=DRIVERS, seconds=MOST_S, most=each)
                session.communicate("bye\n", timeout=30)
            lines = beds.clients(hatchway, bed, login, 30)
            counted = bed.racer.stop()
            bed.canaries.check()
            # The container goes before what it has mounted.
            bed.racer.container.remove(force=True)
            hatchway.command("disable", bed.instance, "--all")
    report(f"sessions, {kind}", met, counted, list(operations.OPERATIONS))
    note(f"  and {lines} lines of sftp clients; {time.monotonic() - began:.0f} s in all")
    assert met.operations >= SESSIONS
    check_it_was_a_race(met, set(operations.OPERATIONS), operations.NEVER, counted)
    check_everything_was_met(met, set(operations.OPERATIONS))
    by_path = {name for name in operations.OPERATIONS if "held" not in name}
    assert [(name, one) for name in by_path for one in KINDS if not met.leaves[name, one]] == []


@pytest.mark.parametrize("kind", ["disk", "memory"])
def test_millions_of_operations_of_the_tree_alone(engine: str, tmp_path: Path, kind: str) -> None:
    began = time.monotonic()
    with (
        client_of(engine) as client,
        workshop(client) as shop,
        memory(tmp_path / "fast") if kind == "memory" else nullcontext() as fast,
        beds.made(shop, "tree", tmp_path, seed=3, bind=fast and fast / "hostile" / "data") as bed,
    ):
        met = beds.tree_alone(bed, drivers=2, seconds=MOST_S, most=TREE // 2)
        counted = bed.racer.stop()
        bed.canaries.check()
        bed.racer.container.remove(force=True)
    report(f"the tree alone, {kind}", met, counted, list(tree_operations.OPERATIONS))
    note(f"  {time.monotonic() - began:.0f} s in all")
    assert met.operations >= TREE
    check_it_was_a_race(met, set(tree_operations.OPERATIONS), set(), counted)
