"""Volume tasks as hostd has them done: what they have, and volumes on demand."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
import trio
from tests.mount.tasked import BEFORE, CORE, FIRST_UID, KEY, LAST_UID, Beneath, give
from tests.mount.test_on_demand_devices import attached, image, run

from hatchway.errors import ConflictError
from hatchway.host import tasks
from hatchway.kernel.privileges import Cap
from hatchway.wire.host import (
    KeyFile,
    ReadKeys,
    Withdrawal,
)


@pytest.mark.parametrize("mounted", [False, True])
async def test_a_volume_on_a_device(beneath: Beneath, mounted: bool) -> None:
    bench = beneath.bench
    device = bench.device(image(bench.directory / "a.img"))
    source = bench.on_device("a", device)
    if mounted:
        run("mount", device, source)
    assert await beneath.deliver(source)
    assert await beneath.deliver(source, BEFORE, KEY)
    assert (await beneath.read(source)).files == ()
    if not mounted:
        run("mount", device, source)
    assert (Path(source) / "id_container").read_bytes() == BEFORE
    # The new file system's root is root's.
    os.chown(give(Path(source) / "authorized_keys", b"one"), 0, 0)
    if not mounted:
        run("umount", source)
    assert (await beneath.read(source)).files == (KeyFile(b"authorized_keys", b"one"),)
    assert await beneath.withdraw(source, BEFORE) == Withdrawal.REMOVED
    if mounted:
        run("umount", source)
    assert attached(device)
    bench.detach(device)


async def test_another_volume_at_that_path(beneath: Beneath) -> None:
    volume = beneath.volume()
    shared, asked = beneath.shared(volume), ReadKeys(str(volume), beneath.birth(volume))
    volume.rename(volume.parent / "moved")
    other = beneath.volume()
    give(other / "authorized_keys", b"theirs")
    with pytest.raises(ConflictError, match="another directory"):
        await beneath.tasks.read_keys(asked, CORE)
    with pytest.raises(ConflictError, match="another directory"):
        await beneath.deliver(volume, volume=shared)
    assert os.listdir(other) == ["authorized_keys"]


DELIVERS = {Cap.DAC_OVERRIDE, Cap.CHOWN, Cap.FOWNER}


@pytest.mark.parametrize(
    ("act", "caps", "read_only", "ledgers"),
    [
        (lambda here, volume: here.read(volume), {Cap.DAC_OVERRIDE}, True, 0),
        (lambda here, volume: here.deliver(volume), DELIVERS, False, 1),
        (lambda here, volume: here.withdraw(volume, KEY), {Cap.DAC_OVERRIDE, Cap.FOWNER}, False, 1),
    ],
)
async def test_a_task_has_only_what_it_needs(
    beneath: Beneath,
    monkeypatch: pytest.MonkeyPatch,
    act: Callable[[Beneath, Path], Awaitable[object]],
    caps: set[Cap],
    read_only: bool,
    ledgers: int,
) -> None:
    volume = beneath.volume()
    seen: dict[str, Any] = {}
    ask = tasks._ask

    async def looking(*args: Any) -> Any:
        """Before it is told what to do."""
        (uid,) = beneath.uids.used
        with trio.fail_after(5):
            while not seen:
                await trio.sleep(0.01)
                for pid in filter(str.isdigit, os.listdir("/proc")):
                    with contextlib.suppress(OSError):
                        status = dict(
                            line.split(":\t", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines()
                        )
                        if status["Uid"].split() == [str(uid)] * 4 and status["Seccomp"].strip() == "2":
                            seen.update(status_of(pid, status))
        return await ask(*args)

    monkeypatch.setattr(tasks, "_ask", looking)
    await act(beneath, volume)
    assert FIRST_UID <= int(seen["Uid"].split()[0]) <= LAST_UID
    assert len(set(seen["Uid"].split() + seen["Gid"].split())) == 1
    assert seen["CapPrm"] == seen["CapEff"] == f"{sum(1 << cap for cap in caps):016x}"
    assert seen["CapBnd"] == seen["CapInh"] == seen["CapAmb"] == f"{0:016x}"
    assert (seen["NoNewPrivs"], seen["Groups"], seen["Threads"]) == ("1", "", "1")
    assert seen["mounts"] == 1
    assert seen["root"] == []
    assert seen["owner"] == 0, "it cannot be dumped or traced"
    assert seen["volume"] == read_only
    assert seen["ledgers"] == ledgers
    assert seen["others"] == []
    assert seen["core"] == ["0", "0"]


def status_of(pid: str, status: dict[str, str]) -> dict[str, Any]:
    links = {fd: os.readlink(f"/proc/{pid}/fd/{fd}") for fd in os.listdir(f"/proc/{pid}/fd")}
    known = ("/dev/null", "socket:", "pipe:", "/memfd:hatchway-ledger", "/tmp/", "/dev/pts", "/proc/")
    # Beside the volume it has the directory of its own descriptors, a mount of its own as well.
    detached = {fd: os.stat(f"/proc/{pid}/fd/{fd}").st_dev for fd, link in links.items() if link == "/"}
    volumes = [fd for fd, device in detached.items() if device != os.stat("/proc").st_dev]
    limits = Path(f"/proc/{pid}/limits").read_text().splitlines()
    (core,) = [line.split()[4:6] for line in limits if line.startswith("Max core")]
    mount_flags = [bool(os.statvfs(f"/proc/{pid}/fd/{fd}").f_flag & os.ST_RDONLY) for fd in volumes]
    return {
        **{name: value.strip() for name, value in status.items()},
        "mounts": len(Path(f"/proc/{pid}/mountinfo").read_text().splitlines()),
        "root": os.listdir(f"/proc/{pid}/root/"),
        "owner": os.stat(f"/proc/{pid}/mem").st_uid,
        "volume": mount_flags[0] if len(mount_flags) == 1 else None,
        "ledgers": sum(link.startswith("/memfd:hatchway-ledger") for link in links.values()),
        "others": [link for fd, link in links.items() if int(fd) > 2 and link != "/" and not link.startswith(known)],
        "core": core,
    }


async def test_the_private_key_is_in_no_other_process(beneath: Beneath) -> None:
    """The zygote, of which every worker is a copy, never has it; nor is it in what a process is called."""
    volume = beneath.volume()
    marker = b"bm8gb3RoZXIgcHJvY2Vzcw" * 3
    await beneath.deliver(volume, b"-----BEGIN OPENSSH PRIVATE KEY-----\n" + marker)
    regions = 0
    with (
        Path(f"/proc/{beneath.zygote.pid}/maps").open() as table,
        open(f"/proc/{beneath.zygote.pid}/mem", "rb", buffering=0) as memory,
    ):
        for line in table:
            place, rights = line.split()[:2]
            if not rights.startswith("rw"):
                continue
            start, end = (int(number, 16) for number in place.split("-"))
            memory.seek(start)
            with contextlib.suppress(OSError):
                assert marker not in memory.read(end - start)
                regions += 1
    assert regions > 10
    for name in ("cmdline", "environ"):
        assert marker not in Path(f"/proc/{beneath.zygote.pid}/{name}").read_bytes()
