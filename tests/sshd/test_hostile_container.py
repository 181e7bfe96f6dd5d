"""A container that swaps what is in its volume as fast as it can, and what that gets it: nothing outside.

The long version, a million operations, is tests/long/test_hostile_container.py.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.figures import note
from tests.sshd.dockerd import client_of, running_engine, workshop
from tests.sshd.hostile import bed as beds
from tests.sshd.hostile import operations, tree_operations
from tests.sshd.hostile.canaries import Breach
from tests.sshd.hostile.driving import KINDS, Met
from tests.sshd.running import running, wait_until

pytestmark = pytest.mark.engine

FOREVER = 10**12


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with running_engine(tmp_path_factory.mktemp("e") / "d") as url:
        yield url


def check_it_was_a_race(met: Met, names: set[str], never: set[str], counted: dict[str, int]) -> None:
    """Everything was tried, what can succeed did, and things changed under the operations' hands."""
    done = {name for name, _ in met.outcomes}
    assert done == names
    assert {name for name in names - never if not met.succeeded(name)} == set()
    assert {name for name in never if met.succeeded(name)} == set()
    assert counted["swaps"] > 1000
    assert counted["flickers"] > 1000
    assert counted["woken-fifos"] == 0, "somebody had a FIFO open"


SPECIAL = ("fifo", "character device", "block device", "socket")


def check_everything_was_met(met: Met, names: set[str]) -> None:
    """Each operation met each kind of thing, as its object and as the directory its object is in."""
    for kind in KINDS:
        assert sum(count for (_, which), count in met.leaves.items() if which == kind) > 100, kind
    for name in names:
        if "held" in name:
            continue  # these do not use the path that was looked at
        met_kinds = {"special" if kind in SPECIAL else kind for kind in KINDS if met.leaves[name, kind]}
        assert met_kinds == {"directory", "file", "symlink", "special", "nothing"}, name
        above = {"special" if kind in SPECIAL else kind for kind in KINDS if met.parents[name, kind]}
        assert {"directory", "symlink", "special"} <= above, name
    assert met.changed > 100, "nothing changed meanwhile"


def report(who: str, met: Met, counted: dict[str, int], names: list[str] | None = None) -> None:
    """Print what happened; with `names`, a line for each of these operations."""
    note(f"hostile container: {met.operations} operations by {who}, {counted['swaps']} swaps")
    note("  " + ", ".join(f"{word} {count}" for word, count in counted.items()))
    note(f"  looked at {met.looks} times, of which {met.changed} times it was something else after the operation")
    for kind in KINDS:
        met_kind = {what: sum(n for (_, which), n in counts.items() if which == kind)
                    for what, counts in (("objects", met.leaves), ("parents", met.parents))}  # fmt: skip
        note(f"    {kind:<18}{met_kind['objects']:>9} as the object{met_kind['parents']:>9} as its directory")
    note(f"  operations that succeeded {sum(n for (_, what), n in met.outcomes.items() if what == 'ok')}")
    if names:
        for line in met.table(names):
            note(line)


def test_a_server_that_checks_paths_is_broken_at_once(engine: str, tmp_path: Path) -> None:
    """That the bed can tell: the same race against the usual way to do it."""
    with client_of(engine) as client, workshop(client) as shop, beds.made(shop, "naive", tmp_path) as bed:
        done = beds.naive(bed, 120)
        note(f"hostile container: a server that checks paths let out: {', '.join(sorted(done))}")
        assert {"shown", "opened", "read", "written", "attributes changed", "created in"} <= done
        assert bed.canaries.differences()


@pytest.mark.parametrize("mistake", sorted(tree_operations.CARELESS))
def test_one_name_used_once_more_is_found_out(engine: str, tmp_path: Path, mistake: str) -> None:
    """That the bed can tell: a tree that makes one mistake, between two system calls, in one operation."""
    began = time.monotonic()
    with (
        client_of(engine) as client,
        workshop(client) as shop,
        beds.made(shop, f"careless-{mistake}", tmp_path) as bed,
        pytest.raises(Breach) as caught,
    ):
        beds.tree_alone(bed, drivers=2, seconds=60, most=FOREVER, mistake=mistake)
    what = str(caught.value).splitlines()[-1].strip()[-70:]
    note(f"hostile container: a careless {mistake} is found out after {time.monotonic() - began:.1f} s: {what}")


def test_sessions_stay_inside(engine: str, tmp_path: Path) -> None:
    with client_of(engine) as client, workshop(client) as shop:
        root = f"{client.info()['DockerRootDir']}/volumes"
        with (
            running(engine_url=engine, volume_root=root) as hatchway,
            beds.made(shop, "racer", tmp_path, wild=True) as bed,
        ):
            wait_until(lambda: hatchway.cli("enable", bed.instance, beds.PATH).returncode == 0, "the catalog sees it")
            login = hatchway.enable(bed.instance, beds.PATH)
            with hatchway.open_sftp(login) as session:
                wait_until(lambda: hatchway.sessions() >= 1, "the session")
                met = beds.sessions(hatchway, bed, login, drivers=3, seconds=20, most=FOREVER)
                session.communicate("bye\n", timeout=30)
            lines = beds.clients(hatchway, bed, login, 2)
            counted = bed.racer.stop()
            bed.canaries.check()
    report("sessions", met, counted)
    note(f"  and {lines} lines of sftp clients")
    check_it_was_a_race(met, set(operations.OPERATIONS), operations.NEVER, counted)
    check_everything_was_met(met, set(operations.OPERATIONS))


def test_the_tree_alone_stays_inside(engine: str, tmp_path: Path) -> None:
    with client_of(engine) as client, workshop(client) as shop, beds.made(shop, "tree", tmp_path) as bed:
        met = beds.tree_alone(bed, drivers=2, seconds=8, most=FOREVER)
        counted = bed.racer.stop()
        bed.canaries.check()
    report("the tree alone", met, counted)
    check_it_was_a_race(met, set(tree_operations.OPERATIONS), set(), counted)
    for name in ("getattr", "readlink", "chmod", "truncate", "link", "open O_RDONLY", "open O_RDWR"):
        assert not [kind for kind in KINDS if kind != "nothing" and not met.leaves[name, kind]], name
    stale = sum(count for (_, what), count in met.outcomes.items() if what in ("ESTALE", "ENOTDIR"))
    assert stale > 100, "no name meant something else than before"
