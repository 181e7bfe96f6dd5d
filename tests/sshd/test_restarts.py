"""Every process killed while a large file is on its way: the transfer goes on, and nothing is left over."""

from __future__ import annotations

import contextlib
import hashlib
import os
import signal
import subprocess
import tempfile
import time
from collections import Counter
from pathlib import Path

import pytest
from docker.types import Mount
from tests.sshd.dockerd import PrivateDockerd, client_of, make_image, need_private, workshop
from tests.sshd.running import Hatchway, running, wait_until
from tests.sshd.test_lifecycle import children, mounted

pytestmark = pytest.mark.engine

SIZE = 1024**3 // 4
SECONDS = 25
"""How long the upload takes, by sftp's own limit, so that it is still on its way whatever was killed."""


def digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def open_files(hatchway: Hatchway) -> Counter[str]:
    """Descriptors of each process of ours by what they are."""
    assert hatchway.process is not None
    pids = {"supervisor": hatchway.process.pid}
    for module in ("hatchway.daemon", "hatchway.host.main", "hatchway.host.zygote", "hatchway.catalog.main"):
        (pids[module],) = children(hatchway, module)
    found: Counter[str] = Counter()
    for name, pid in pids.items():
        for path in Path(f"/proc/{pid}/fd").iterdir():
            with contextlib.suppress(FileNotFoundError):  # closed meanwhile
                found[f"{name} {os.readlink(path).partition(':[')[0]}"] += 1
    return found


def kill(hatchway: Hatchway, module: str) -> None:
    """Kill a process and wait for the next one."""
    (pid,) = children(hatchway, module)
    os.kill(pid, signal.SIGKILL)
    wait_until(lambda: (now := children(hatchway, module)) != [] and now != [pid], f"another {module}")


def seen(hatchway: Hatchway, instance: str) -> bool:
    """Whether the catalog tells of `instance` without a complaint."""
    answer = hatchway.command("ls")
    keys = [info["key"] for info in answer["instances"] if info["present"]]
    names = [f"{key['environment']}/{key['container']}/{key['number']}" for key in keys]
    return instance in names and all(source["problem"] is None for source in answer["sources"])


def test_an_upload_survives_the_death_of_each_process(tmp_path: Path) -> None:
    need_private()
    # The catalog's own user must reach the socket, which it cannot in pytest's directories.
    place = Path(tempfile.mkdtemp(prefix="hwt-"))
    place.chmod(0o755)
    engine = PrivateDockerd(place / "d")
    big = tmp_path / "big"
    with big.open("wb") as file:
        for _ in range(SIZE // 2**20):
            file.write(os.urandom(2**20))
    try:
        engine.start()
        make_image(engine.url)
        with client_of(engine.url) as client, workshop(client) as shop:
            root = Path(client.info()["DockerRootDir"]) / "volumes"
            volume = shop.volume("data")
            shop.container("web", mounts=[Mount("/data", volume.name)], start=False)
            instance = f"default/{shop.name('web')}/1"
            with running(engine_url=engine.url, volume_root=str(root), idle_unmount_s=0) as hatchway:
                survive(hatchway, engine, instance, big, root / volume.name / "_data")
    finally:
        engine.stop()
        place.rmdir()


def survive(hatchway: Hatchway, engine: PrivateDockerd, instance: str, big: Path, backing: Path) -> None:
    wait_until(lambda: seen(hatchway, instance), "the catalog sees it")
    login = hatchway.enable(instance, "/data")
    hatchway.sftp(login, "ls\n")
    wait_until(lambda: mounted(hatchway) == [] and hatchway.sessions() == 0, "idle")
    time.sleep(2)
    before = open_files(hatchway)
    limit = ["-l", str(SIZE * 8 // 1024 // SECONDS)]
    command = ["sftp", *limit, *hatchway.options(), *hatchway.key_options(login), "-b", "-", f"{login}@127.0.0.1"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT) as upload:
        assert upload.stdin is not None
        upload.stdin.write(f"put {big} big\n".encode())
        upload.stdin.flush()
        wait_until(lambda: (backing / "big").exists(), "its begin")
        for module in ("hatchway.daemon", "hatchway.host.main", "hatchway.host.zygote", "hatchway.catalog.main"):
            kill(hatchway, module)
            assert upload.poll() is None
            # Meanwhile others come in.
            began = time.monotonic()
            assert "big" in hatchway.sftp(login, "ls -1\n").stdout
            assert time.monotonic() - began < 10, "a new login waits for no more than the start of one process"
        engine.kill()
        wait_until(lambda: seen(hatchway, instance), "the catalog sees it again")
        assert (backing / "big").stat().st_size < SIZE, "it was still on its way"
        upload.stdin.write(b"bye\n")
        upload.stdin.close()
        assert upload.wait(120) == 0, upload.stdout and upload.stdout.read()
    assert digest(backing / "big") == digest(big)
    wait_until(lambda: mounted(hatchway) == [], "unmounted")
    wait_until(lambda: hatchway.sessions() == 0, "no session")
    wait_until(lambda: open_files(hatchway) == before, "descriptors as before", 10)
