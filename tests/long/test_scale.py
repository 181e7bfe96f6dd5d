"""Two thousand containers, created and not started, each with a volume: how long things take, and how much memory.

The figures are printed; asserted is only that the view is complete and right and that no process is enormous.
"""

from __future__ import annotations

import statistics
import threading
import time
from collections.abc import Callable

import pytest
from tests import leftovers
from tests.figures import note
from tests.sshd.dockerd import IMAGE
from tests.sshd.running import Hatchway, running
from tests.sshd.test_engines import caller, look, names, own_engine, resident_mib, volume_root_on_disk

from hatchway.wire.admin import DaemonStatus, Status
from hatchway.wire.frames import call_blocking

pytestmark = pytest.mark.engine

CONTAINERS = 2000
RENAMED = 1000
THREADS = 4
MOST_MIB = 300
PATIENCE_S = 120.0


def in_threads(work: Callable[[int], None]) -> float:
    """Run `work` with 0, 1, … in THREADS threads. Returns seconds. Raises the first failure."""
    failures: list[BaseException] = []

    def run(number: int) -> None:
        try:
            work(number)
        except BaseException as exc:
            failures.append(exc)

    began = time.monotonic()
    threads = [threading.Thread(target=run, args=(number,)) for number in range(THREADS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failures:
        raise failures[0]
    return time.monotonic() - began


def until(condition: Callable[[], bool], what: str, since: float) -> float:
    """Wait for `condition`, not asking it all the time: each answer costs something. Returns seconds since `since`."""
    while not condition():
        assert time.monotonic() - since < PATIENCE_S, what
        time.sleep(0.2)
    return time.monotonic() - since


def known(hatchway: Hatchway) -> int:
    """How many instances the engine has, as far as Hatchway knows."""
    status = call_blocking(f"{hatchway.run_dir}/admin.sock", DaemonStatus(), Status)
    return sum(source.instances for source in status.sources if source.source == "docker" and source.problem is None)


def median(times: int, do: Callable[[], object]) -> float:
    """The median of how many seconds `do` takes."""

    def once() -> float:
        began = time.monotonic()
        do()
        return time.monotonic() - began

    return statistics.median(once() for _ in range(times))


def memory(hatchway: Hatchway) -> dict[str, tuple[float, float]]:
    """MiB now and at most of each process of ours, by its name."""
    assert hatchway.process is not None
    found = {"supervisor": hatchway.process.pid}
    modules = {"hatchway.host.main": "hostd", "hatchway.daemon": "core", "hatchway.catalog.main": "catalog"}
    for process in sorted(leftovers.processes(above=hatchway.process.pid)):
        words = process.what.split()
        for module, name in modules.items():
            if module in words:
                found[name] = process.pid
        if "hatchway.host.zygote" in words:
            found["worker" if "zygote" in found else "zygote"] = process.pid
    return {name: (resident_mib(pid), resident_mib(pid, "VmHWM")) for name, pid in found.items()}


def test_two_thousand_containers() -> None:
    with own_engine() as engine:

        def create(number: int) -> None:
            with caller(engine.url) as api:
                for which in range(number, CONTAINERS, THREADS):
                    mount = {"Type": "volume", "Source": f"volume-{which}", "Target": "/data"}
                    body = {"Image": IMAGE, "HostConfig": {"Mounts": [mount], "NetworkMode": "none"}}
                    api.call("POST", f"/containers/create?name=c{which}", body)

        note(f"{CONTAINERS} containers")
        note(f"  created in {in_threads(create):.0f} s by {THREADS} threads")
        began = time.monotonic()
        with running(engine_url=engine.url, volume_root=volume_root_on_disk(engine)) as hatchway:
            note(f"  hatchway run answers after {time.monotonic() - began:.1f} s")
            first_s = until(lambda: known(hatchway) == CONTAINERS, "the first complete view", began)
            note(f"  the first complete view after {first_s:.1f} s")
            listing = look(hatchway)
            assert names(hatchway) == {f"c{which}" for which in range(CONTAINERS)}
            assert all([volume.refusal for volume in one.volumes] == [None] for one in listing.instances)

            note(f"  hatchway ls: {median(3, lambda: hatchway.cli('ls')):.2f} s")
            note(f"  hatchway ls --json: {median(3, lambda: hatchway.command('ls')):.2f} s")
            began = time.monotonic()
            login = hatchway.enable("default/c1000/1", "/data")
            note(f"  enable and key export: {time.monotonic() - began:.2f} s")
            first_s, later_s = (median(times, lambda: hatchway.sftp(login, "ls\n")) for times in (1, 5))
            note(f"  login and ls: {first_s:.2f} s the first time, {later_s:.2f} s later")

            def rename(number: int) -> None:
                with caller(engine.url) as api:
                    for which in range(number, RENAMED, THREADS):
                        api.call("POST", f"/containers/c{which}/rename?name=r{which}")

            took_s = in_threads(rename)
            last = time.monotonic()
            expected = {f"{'r' if which < RENAMED else 'c'}{which}" for which in range(CONTAINERS)}
            right_s = until(lambda: names(hatchway) == expected, "the renamed ones", last)
            note(f"  {RENAMED} renames in {took_s:.1f} s; the view is right {right_s:.1f} s after the last")
            # One more, of a view this large.
            with caller(engine.url) as api:
                api.call("POST", "/containers/c1500/rename?name=last")
            last = time.monotonic()
            note(f"  a single rename is seen after {until(lambda: 'last' in names(hatchway), 'one more', last):.1f} s")

            used = memory(hatchway)
            note("  process       now    at most (MiB)")
            for name, (now, most) in used.items():
                note(f"  {name:<10} {now:>6.1f} {most:>10.1f}")
            assert used.keys() == {"supervisor", "hostd", "core", "catalog", "zygote", "worker"}
            for name, (_, most) in used.items():
                assert most < MOST_MIB, name
