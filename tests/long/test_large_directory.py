"""A directory of 200,000 entries: listed in bounded memory and descriptors, forgotten, stable while others change it.

Each entry that is listed is an inode of the kernel's, which the worker remembers until the kernel forgets it (FUSE has
only readdirplus here); so what must come back is what the worker then has too much.
"""

from __future__ import annotations

import os
import re
import resource
import signal
import stat
import time
from pathlib import Path

import pytest
from tests.figures import note
from tests.mount.served import Served, served
from tests.mount.test_volumefs_together import churn
from tests.sshd.running import running, wait_until
from tests.sshd.test_engines import resident_mib

from hatchway.host import watchdog

ENTRIES = 200_000
MOST_FOR_EACH = 600
"""Bytes of the worker's memory for an entry the kernel knows."""


def memory(volume: Served) -> int:
    """Bytes of the worker that are in memory."""
    return int(Path(f"/proc/{volume.worker_pid}/statm").read_text().split()[1]) * resource.getpagesize()


def forget(volume: Served) -> None:
    """Have the kernel give up all inodes that nobody uses, as it does when memory is short."""
    deadline = time.monotonic() + 30
    while volume.tell("s")["nodes"] > 100:
        assert time.monotonic() < deadline
        Path("/proc/sys/vm/drop_caches").write_text("2")
        time.sleep(0.2)


def fill(volume: Served) -> set[str]:
    """Make the entries, as the container. Returns their names."""
    names = {f"stays-{number:06}-and-has-a-name-of-some-length" for number in range(ENTRIES)}
    root = os.open(volume.backing, os.O_PATH)
    for name in names:
        os.close(os.open(name, os.O_CREAT | os.O_WRONLY, 0o644, dir_fd=root))
    os.close(root)
    return names


@pytest.mark.parametrize("on", [None, "/dev/shm"], ids=["disk", "tmpfs"])
def test_memory_and_descriptors(on: str | None) -> None:
    with served(on=on) as volume:
        fill(volume)
        before = memory(volume)
        for turn in range(4):
            began = time.monotonic()
            assert len(volume.as_session(os.listdir)) == ENTRIES
            took = time.monotonic() - began
            state = volume.tell("s")
            listed = memory(volume)
            assert state["nodes"] > ENTRIES
            assert state["descriptors"] < 40
            assert listed - before < ENTRIES * MOST_FOR_EACH
            forget(volume)
            time.sleep(0.2)
            after = memory(volume)
            # What stays is the allocator's, and does not grow.
            assert after - before < (listed - before) * 0.65, (turn, before, listed, after)
            note(
                f"{ENTRIES} entries on {on or 'disk'}: listed in {took:.1f} s; worker's memory {before >> 20} MiB, "
                f"then {listed >> 20}, and {after >> 20} when the kernel has forgotten them"
            )


@pytest.mark.parametrize("on", [None, "/dev/shm"], ids=["disk", "tmpfs"])
def test_listing_while_others_change_it(on: str | None) -> None:
    with served(on=on) as volume:
        stays = fill(volume)
        pid = os.fork()
        if pid == 0:
            churn(volume.backing, b"x")
        try:
            for _ in range(4):
                kept = [name for name in volume.as_session(os.listdir) if name.startswith("stays")]
                assert len(kept) == ENTRIES
                assert set(kept) == stays
        finally:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)


def test_a_worker_that_knows_too_many_files_is_relieved() -> None:
    """With a real hostd: a session has listed more than FORGET_FROM files, and the kernel is told to forget them."""
    count = watchdog.FORGET_FROM + 20_000
    with running("shop/web/1") as hatchway:
        hatchway.enable("shop/web/1")
        volume = hatchway.volumes / "shop-web-1-data"
        root = os.open(volume, os.O_PATH)
        for number in range(count):
            os.mknod(f"{number:07}", stat.S_IFREG | 0o644, dir_fd=root)
        os.close(root)
        listed = hatchway.sftp("shop-web-1", "ls -1f /data\n").stdout
        assert listed.count("/data/") == count
        match = re.search(r"event=mounted .*worker=(\d+)", hatchway.log())
        assert match is not None
        pid = int(match[1])
        before = resident_mib(pid)
        wait_until(lambda: "files forgotten" in hatchway.log(), "the kernel was told to forget", 40)
        wait_until(lambda: resident_mib(pid) < before / 2, "the worker has given the memory back")
        after = resident_mib(pid)
        note(f"{count} files listed over SFTP: the worker has {before:.0f} MiB, {after:.0f} when they are forgotten")
        assert "/data/0000007" in hatchway.sftp("shop-web-1", "ls /data/0000007\n").stdout
