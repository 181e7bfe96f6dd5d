"""Sizes and limits with real containers, sessions and file systems: df, show and the host say the same."""

from __future__ import annotations

import contextlib
import os
import re
import subprocess
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from docker.types import Mount
from tests.sshd.bench import Bench
from tests.sshd.dockerd import client_of, running_engine, workshop
from tests.sshd.place import worker_of
from tests.sshd.running import running, wait_until
from tests.sshd.test_on_demand_volumes import Disk, container_of, device_volume, inside, run
from tests.sshd.test_restarts import kill

from hatchway.kernel import privileges

pytestmark = pytest.mark.engine

LIMIT = 10_000_000
USABLE = 9_250_000 // 4096 * 4096
"""Of 10 MB, less 7.5 percent for the index, in whole blocks."""


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    directory = tmp_path_factory.mktemp("e") / "d"
    with running_engine(directory) as url, client_of(url) as client, workshop(client) as shop:
        root = f"{client.info()['DockerRootDir']}/volumes"
        options: dict[str, Any] = {"volume_devices": ("/dev/loop*",), "measure_every_s": 10, "idle_unmount_s": 5}
        with running(engine_url=url, volume_root=root, **options) as hatchway:
            yield Bench(hatchway, shop)


def on_disk(directory: str | Path) -> int:
    """Bytes of the files there, each in whole blocks, by other means than those under test."""
    return sum(
        (os.lstat(f"{where}/{name}").st_size + 4095) // 4096 * 4096
        for where, _, names in os.walk(directory)
        for name in names
    )


def df(bench: Bench, login: str, path: str = "/data") -> tuple[int, int, int, int]:
    """Size, used, available and available to root, in KiB, as sftp(1) shows them."""
    output = bench.hatchway.sftp(login, f"df {path}\n").stdout
    found = re.findall(r"^ +(\d+) +(\d+) +(\d+) +(\d+) +\d+%", output, re.MULTILINE)
    assert len(found) == 1, output
    size, used, available, root = map(int, found[0])
    return size, used, available, root


def counted(bench: Bench, instance: str, path: str = "/data") -> dict[str, Any]:
    """The volume's size as `hatchway ls` says, when it has been counted."""

    def size() -> dict[str, Any] | None:
        found: dict[str, Any] | None = bench.volume(instance, path)["size"]
        return found if found is not None and found["used"] is not None else None

    wait_until(lambda: size() is not None, f"{path} of {instance} is counted")
    found = size()
    assert found is not None
    return found


def limited(bench: Bench, name: str, *options: str) -> tuple[str, str, str]:
    """A container with a new volume, limited by `options` of enable: its instance, login and directory."""
    volume = bench.shop.volume(name)
    instance = bench.container(name, Mount("/data", volume.name))
    login = enabled(bench, instance, *options)
    counted(bench, instance)
    return instance, login, str(volume.attrs["Mountpoint"])


def enabled(bench: Bench, instance: str, *options: str) -> str:
    bench.hatchway.command("enable", instance, "/data", *options)
    return bench.hatchway.enable(instance, "/data")


def test_eight_uploads_of_two_logins_fill_it_exactly(bench: Bench, tmp_path: Path) -> None:
    instance, login, directory = limited(bench, "eight", "--size", "10MB")
    second = bench.container("eight-more", Mount("/data", bench.shop.name("eight")))
    other = enabled(bench, second)
    file = tmp_path / "file"
    file.write_bytes(os.urandom(2_000_000))
    assert df(bench, login) == (USABLE // 1024, 0, USABLE // 1024, USABLE // 1024)

    def upload(number: int) -> int:
        batch = f"-put {file} /data/{number}\n-put {file} /data/again-{number}\n"
        return bench.hatchway.sftp(other if number % 2 else login, batch, check=False).returncode

    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(upload, range(8))) == [0] * 8
    assert on_disk(directory) == USABLE
    assert df(bench, login)[1:3] == df(bench, other)[1:3] == (USABLE // 1024, 0)
    assert counted(bench, instance)["used"] == counted(bench, second)["used"] == USABLE
    # What has arrived is the file's beginning, without a hole.
    for path in Path(directory).iterdir():
        assert file.read_bytes().startswith(path.read_bytes())
    done = bench.hatchway.sftp(login, f"put {file} /data/one-more\n", check=False)
    assert done.returncode != 0
    assert "Failure" in done.stderr
    assert "reached its size limit" in bench.hatchway.log()
    shown = bench.hatchway.cli("show", instance).stdout
    assert "full: nothing can be uploaded" in shown
    # Room is made by whoever has access, and can be used by the other: at once, or after the count that was going on.
    bench.hatchway.sftp(other, "rm /data/again-*\n-rm /data/one-more\nrm /data/0\n")
    wait_until(lambda: bench.hatchway.sftp(login, f"put {file} /data/fits\n", check=False).returncode == 0, "room", 30)
    assert on_disk(directory) == counted(bench, instance)["used"] <= USABLE


def test_what_clients_do_to_get_round_it(bench: Bench, tmp_path: Path) -> None:
    """Resuming, replacing, renaming over, copying on the server: all count, and nothing counts twice."""
    instance, login, directory = limited(bench, "tricks", "--size", "10MB")
    file = tmp_path / "file"
    file.write_bytes(os.urandom(6_000_000))
    bench.hatchway.sftp(login, f"put {file} /data/a\nput {file} /data/a\n")
    refused = bench.hatchway.sftp(login, "cp /data/a /data/b\n", check=False)
    assert refused.returncode != 0
    assert on_disk(directory) <= USABLE
    bench.hatchway.sftp(login, "rm /data/b\n")
    # Of what could not be resumed sftp(1) itself cuts all of it off, on every server; so here it can.
    (tmp_path / "longer").write_bytes(file.read_bytes() + b"x" * 3_000_000)
    bench.hatchway.sftp(login, f"reput {tmp_path}/longer /data/a\n")
    assert counted(bench, instance)["used"] == on_disk(directory) == 2198 * 4096
    # An upload beside the old file that is renamed over it.
    (tmp_path / "small").write_bytes(b"x" * 4096)
    bench.hatchway.sftp(
        login, f"rm /data/a\nput {file} /data/a\nput {tmp_path}/small /data/new\nrename /data/new /data/a\n"
    )
    assert counted(bench, instance)["used"] == on_disk(directory) == 4096
    bench.hatchway.sftp(login, f"ln /data/a /data/link\nrm /data/a\nput {file} /data/c\n")
    assert counted(bench, instance)["used"] == on_disk(directory)


def test_the_number_of_files(bench: Bench, tmp_path: Path) -> None:
    instance, login, _ = limited(bench, "files", "--files", "5")
    (tmp_path / "x").write_text("x")
    bench.hatchway.sftp(
        login, "mkdir /data/1\nln -s x /data/2\n" + f"put {tmp_path}/x /data/3\nmkdir /data/1/4\nmkdir /data/5\n"
    )
    for line in ("mkdir /data/6", "ln -s x /data/6", f"put {tmp_path}/x /data/6"):
        assert bench.hatchway.sftp(login, f"{line}\n", check=False).returncode != 0
    assert counted(bench, instance)["files_used"] == counted(bench, instance)["files_usable"] == 5
    assert "5 of 5 files" in bench.hatchway.cli("show", instance).stdout
    bench.hatchway.sftp(login, "rmdir /data/1/4\n" + f"put {tmp_path}/x /data/6\n")


def test_a_container_that_writes_beyond_the_limit(bench: Bench, tmp_path: Path) -> None:
    """SFTP adds nothing once that has been counted; how much it is is shown; room made by the container is room."""
    instance, login, directory = limited(bench, "beyond", "--size", "10MB")
    container = container_of(bench, "beyond")
    container.start()
    (tmp_path / "x").write_bytes(b"x" * 5000)
    with bench.hatchway.open_sftp(login) as session:
        wait_until(lambda: bench.hatchway.sessions() and bench.mounted(login), "a session")
        inside(container, "dd", "if=/dev/zero", "of=/data/dump", "bs=1000000", "count=12")
        wait_until(lambda: counted(bench, instance)["used"] > USABLE, "what the container wrote is counted", 30)
        assert counted(bench, instance)["used"] == on_disk(directory)
        assert bench.hatchway.sftp(login, f"put {tmp_path}/x /data/x\n", check=False).returncode != 0
        assert df(bench, login)[2] == 0
        shown = bench.hatchway.cli("ls").stdout
        assert "2.8 MB over its limit" in shown, shown
        inside(container, "rm", "/data/dump")
        wait_until(lambda: df(bench, login)[2] > 0, "there is room again", 40)
        assert session.stdin is not None
        session.stdin.write(f"put {tmp_path}/x /data/y\nbye\n")
        session.stdin.flush()
        output = session.communicate(timeout=30)[0]
        assert session.returncode == 0, output
    assert (Path(directory) / "y").read_bytes() == b"x" * 5000


def test_a_limit_comes_and_goes_in_a_session(bench: Bench, tmp_path: Path) -> None:
    instance, login, directory = limited(bench, "live")
    (tmp_path / "x").write_bytes(b"x" * 3_000_000)
    with bench.hatchway.open_sftp(login) as session:
        wait_until(lambda: bench.hatchway.sessions() and bench.mounted(login), "a session")
        worker = worker_of(bench.hatchway, login, "/data")
        bench.hatchway.sftp(login, f"put {tmp_path}/x /data/1\n")
        bench.hatchway.command("enable", instance, "/data", "--size", "4MB")
        wait_until(lambda: counted(bench, instance)["usable"] is not None, "the limit holds")
        wait_until(lambda: counted(bench, instance)["used"] == on_disk(directory), "it has been counted")
        assert bench.hatchway.sftp(login, f"put {tmp_path}/x /data/2\n", check=False).returncode != 0
        # Not told again, it stays.
        bench.hatchway.command("enable", instance, "/data")
        assert bench.hatchway.sftp(login, f"put {tmp_path}/x /data/2\n", check=False).returncode != 0
        bench.hatchway.command("enable", instance, "/data", "--size", "none")
        bench.hatchway.sftp(login, f"put {tmp_path}/x /data/2\n")
        assert worker_of(bench.hatchway, login, "/data") == worker, "without being mounted anew"
        assert session.stdin is not None
        session.communicate("ls /data\nbye\n", timeout=30)
        assert session.returncode == 0


@pytest.mark.parametrize("process", ["hatchway.host.main", "hatchway.daemon"])
def test_a_limit_survives_whoever_keeps_it(bench: Bench, tmp_path: Path, process: str) -> None:
    name = f"restart-{process.rpartition('.')[2]}"
    instance, login, directory = limited(bench, name, "--size", "10MB")
    (tmp_path / "x").write_bytes(b"x" * 7_000_000)
    with bench.hatchway.open_sftp(login) as session:
        wait_until(lambda: bench.hatchway.sessions() and bench.mounted(login), "a session")
        bench.hatchway.sftp(login, f"put {tmp_path}/x /data/1\n")
        kill(bench.hatchway, process)
        # The session from before, and one that comes, on one account.
        assert session.stdin is not None
        output = session.communicate(f"-put {tmp_path}/x /data/2\ndf /data\nbye\n", timeout=60)[0]
        assert session.returncode == 0, output
    assert on_disk(directory) == USABLE
    refused = bench.hatchway.sftp(login, f"put {tmp_path}/x /data/3\n", check=False)
    assert refused.returncode != 0
    assert on_disk(directory) == USABLE
    assert df(bench, login)[1:3] == (USABLE // 1024, 0)
    bench.hatchway.sftp(login, f"rm /data/*\nput {tmp_path}/x /data/1\n")
    assert counted(bench, instance)["used"] == on_disk(directory)
    # A worker that has changed hands is nobody's child in particular.
    wait_until(lambda: not bench.mounted(login), "it is unmounted")


def test_a_file_system_of_its_own(bench: Bench, tmp_path: Path) -> None:
    """A 1 GiB ext4: df in a session, df and tune2fs on the host, and `hatchway show` agree."""
    disk = Disk(tmp_path / "disk.img", 1024)
    try:
        instance = bench.container("ext4", Mount("/data", device_volume(bench, "ext4", disk.device)))
        login = bench.hatchway.enable(instance, "/data")
        (tmp_path / "x").write_bytes(os.urandom(20_000_000))
        bench.hatchway.sftp(login, f"put {tmp_path}/x /data/x\n")
        with bench.hatchway.open_sftp(login) as session:
            wait_until(lambda: bench.hatchway.sessions() and bench.mounted(login), "a session")
            run("sync")
            seen = df(bench, login)
            size = counted(bench, instance)
            wait_until(lambda: counted(bench, instance)["used"] >= 20_000_000, "it is looked at again", 5)
            size = counted(bench, instance)
            place = tmp_path / "place"
            place.mkdir()
            run("mount", disk.device, place)
            try:
                host = run("df", "-k", "--output=size,used,avail,itotal,iused", place).splitlines()[-1].split()
            finally:
                run("umount", place)
            facts = run("tune2fs", "-l", disk.device)
            assert session.stdin is not None
            session.communicate("bye\n", timeout=30)
        blocks, block_size = (
            int(re.search(rf"^{what}: +(\d+)", facts, re.MULTILINE)[1])  # type: ignore[index]
            for what in ("Block count", "Block size")
        )
        assert seen[:3] == tuple(int(number) for number in host[:3])
        assert size["nominal"] == blocks * block_size == 1 << 30
        assert size["usable"] == int(host[0]) * 1024 < size["nominal"]
        assert size["used"] == int(host[1]) * 1024
        assert size["available"] == int(host[2]) * 1024
        assert (size["files_usable"], size["files_used"]) == (int(host[3]), int(host[4]))
        shown = bench.hatchway.cli("show", instance).stdout
        assert "of 973.4 MiB used" in shown, shown
        assert "device 1 GiB with index" in shown, shown
        bench.hatchway.command("disable", instance, "--all")
        wait_until(lambda: bench.mounted(login) == [], "it is unmounted")
    finally:
        wait_until(lambda: subprocess.run(["fuser", "-s", disk.device], check=False).returncode != 0, "unused")
        disk.detach()


def test_a_login_waits_for_no_count(bench: Bench, tmp_path: Path) -> None:
    """Of 100,000 files: sessions come and go, and are refused only what would add something, while it is counted."""
    volume = bench.shop.volume("many")
    directory = Path(str(volume.attrs["Mountpoint"]))
    for each in range(100):
        (directory / str(each)).mkdir()
        for file in range(1000):
            os.close(os.open(f"{directory}/{each}/{file}", os.O_CREAT | os.O_WRONLY))
    instance = bench.container("many", Mount("/data", volume.name))
    login = enabled(bench, instance, "--size", "1GB", "--files", "1000000")
    began = time.monotonic()
    bench.hatchway.sftp(login, "ls /data\n")
    assert time.monotonic() - began < 5
    assert counted(bench, instance)["files_used"] == 100_100
    bench.hatchway.sftp(login, "mkdir /data/more\nrm /data/0/0\nrm /data/0/1\n")
    assert counted(bench, instance)["files_used"] == 100_099


def test_a_counter_has_only_what_it_needs(bench: Bench) -> None:
    """The lowest priority, and no more powers than reading needs."""
    volume = bench.shop.volume("watched")
    directory = Path(str(volume.attrs["Mountpoint"]))
    for file in range(60_000):
        os.close(os.open(f"{directory}/{file}", os.O_CREAT | os.O_WRONLY))
    instance = bench.container("watched", Mount("/data", volume.name))
    enabled(bench, instance, "--size", "1GB", "--files", "1000000")
    seen: dict[str, str] = {}
    deadline = time.monotonic() + 30
    while not seen and time.monotonic() < deadline:
        for pid in filter(str.isdigit, os.listdir("/proc")):
            with contextlib.suppress(OSError):
                seen = seen or counter(pid)
    assert seen["CapPrm"] == seen["CapEff"] == f"{1 << privileges.Cap.DAC_OVERRIDE:016x}"
    assert seen["CapBnd"] == seen["CapInh"] == seen["CapAmb"] == f"{0:016x}"
    assert (seen["NoNewPrivs"], seen["Seccomp"], seen["Groups"]) == ("1", "2", "")
    assert seen["mounts"] == "1"
    assert seen["memory"] == "2"
    wait_until(lambda: counted(bench, instance)["files_used"] == 60_000, "it is counted")
    assert "could not be counted" not in bench.hatchway.log()


def counter(pid: str) -> dict[str, str]:
    """What /proc says of a counter, nothing of any other process."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2].split()
    status = dict(line.split(":\t", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
    uid = int(status["Uid"].split()[0])
    if not (fields[16] == "19" and 1_910_200_000 <= uid <= 1_910_299_999 and status["Seccomp"].strip() == "2"):
        return {}
    mounts = Path(f"/proc/{pid}/mountinfo").read_text().splitlines()
    links = [os.readlink(path) for path in Path(f"/proc/{pid}/fd").iterdir()]
    return {
        **{name: value.strip() for name, value in status.items()},
        "mounts": str(len(mounts)),
        # Its descriptor of the ledger, and the one that mmap keeps.
        "memory": str(sum("memfd" in link for link in links)),
    }
