"""Volumes that the engine mounts only while their container runs, over SFTP: running, stopped and never started."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from docker.models.containers import Container
from docker.types import Mount
from tests.sshd.bench import Bench
from tests.sshd.dockerd import client_of, running_engine, workshop
from tests.sshd.place import kernel_read_only, worker_of
from tests.sshd.running import running, wait_until
from tests.sshd.test_lifecycle import restart

pytestmark = pytest.mark.engine


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    directory = tmp_path_factory.mktemp("e") / "d"
    with running_engine(directory) as url, client_of(url) as client, workshop(client) as shop:
        root = f"{client.info()['DockerRootDir']}/volumes"
        with running(engine_url=url, volume_root=root, idle_unmount_s=1, volume_devices=("/dev/loop*",)) as hatchway:
            yield Bench(hatchway, shop)


def run(*command: str | Path) -> str:
    done = subprocess.run([str(word) for word in command], capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"
    return done.stdout.strip()


class Disk:
    """A file with a new ext4 in it, on a loop device. Its root belongs to uid 1000, as a container's would."""

    def __init__(self, path: Path, megabytes: int = 32) -> None:
        self.path = path
        with path.open("wb") as file:
            file.truncate(megabytes << 20)
        run("mkfs.ext4", "-q", "-E", "root_owner=1000:1000", path)
        self.device = run("losetup", "--find", "--show", path)

    @property
    def backing(self) -> str:
        """The file the kernel has on this device, "" for none."""
        file = Path(f"/sys/block/{self.device.removeprefix('/dev/')}/loop/backing_file")
        return file.read_text().strip() if file.exists() else ""

    def detach(self) -> None:
        """Take the device from the file, as soon as nobody uses it."""
        if self.backing:
            run("losetup", "--detach", self.device)

    def swap(self, other: Path) -> None:
        """Put another file on the same device. Nothing may use it."""
        self.detach()
        wait_until(lambda: not self.backing, f"{self.device} is let go of")
        run("losetup", self.device, other)


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Disk]:
    made = Disk(tmp_path / "disk.img")
    try:
        yield made
    finally:
        made.detach()


def device_volume(bench: Bench, name: str, device: str, o: str = "", kind: str = "ext4") -> str:
    options = {"type": kind, "device": device} | ({"o": o} if o else {})
    return str(bench.shop.volume(name, driver="local", driver_opts=options).name)


def container_of(bench: Bench, name: str) -> Container:
    return bench.shop.client.containers.get(bench.shop.name(name))


def inside(container: Container, *command: str) -> str:
    code, output = container.exec_run(list(command))
    assert code == 0, output
    assert isinstance(output, bytes)
    return output.decode()


def transfer(bench: Bench, login: str, tmp_path: Path, name: str) -> None:
    """Put a file and get it back."""
    (tmp_path / name).write_text(f"{name} from the user")
    bench.hatchway.sftp(login, f"put {tmp_path}/{name}\nget {name} {tmp_path}/back\n")
    assert (tmp_path / "back").read_text() == f"{name} from the user"


def let_go(bench: Bench, login: str) -> None:
    wait_until(lambda: bench.mounted(login) == [], "unmounted when idle")


def test_a_device_never_started_running_and_stopped(bench: Bench, disk: Disk, tmp_path: Path) -> None:
    instance = bench.container("life", Mount("/data", device_volume(bench, "life", disk.device)))
    assert bench.volume(instance, "/data")["refusal"] is None
    login = bench.hatchway.enable(instance, "/data")
    transfer(bench, login, tmp_path, "created")

    container = container_of(bench, "life")
    container.start()
    # Both at once: the session mounts the device again, beside the engine.
    assert inside(container, "cat", "/data/created") == "created from the user"
    inside(container, "sh", "-c", "echo from the container >/data/theirs")
    transfer(bench, login, tmp_path, "running")
    assert inside(container, "cat", "/data/running") == "running from the user"
    bench.hatchway.sftp(login, f"get theirs {tmp_path}/theirs\n")
    assert (tmp_path / "theirs").read_text() == "from the container\n"
    assert inside(container, "stat", "-c", "%u", "/data/running").strip() == "1000"

    # A session that is open while the container stops and starts again.
    with bench.hatchway.open_sftp(login) as session:
        wait_until(lambda: bench.hatchway.sessions() == 1, "a session")
        container.stop(timeout=0)
        container.start()
        (tmp_path / "across").write_text("x")
        output, _ = session.communicate(f"put {tmp_path}/across\nls -1\nbye\n", timeout=30)
        assert session.returncode == 0, output
    assert inside(container, "cat", "/data/across") == "x"

    container.stop(timeout=0)
    transfer(bench, login, tmp_path, "stopped")
    assert bench.volume(instance, "/data")["access"] == "rw"

    # Nothing is left: the image can be taken away at once, and is clean.
    bench.hatchway.command("disable", instance, "--all")
    disk.detach()
    wait_until(lambda: not disk.backing, "the device is let go of")
    run("e2fsck", "-f", "-n", disk.path)
    names = run("debugfs", "-R", "ls -p /", disk.path)
    assert all(name in names for name in ("created", "theirs", "running", "across", "stopped"))
    assert disk.device not in Path("/proc/self/mounts").read_text()


def test_the_device_is_let_go_of_when_idle(bench: Bench, disk: Disk) -> None:
    instance = bench.container("idle", Mount("/data", device_volume(bench, "idle", disk.device)))
    login = bench.hatchway.enable(instance, "/data")
    bench.hatchway.sftp(login, "ls\n")
    let_go(bench, login)
    disk.detach()
    wait_until(lambda: not disk.backing, "the device is let go of")
    assert "clean" in run("tune2fs", "-l", disk.path).partition("Filesystem state:")[2].splitlines()[0]


def test_read_only_by_grant_and_by_option(bench: Bench, disk: Disk, tmp_path: Path) -> None:
    instance = bench.container("fixed", Mount("/data", device_volume(bench, "fixed", disk.device)))
    login = bench.hatchway.enable(instance, "/data", read_only=True)
    (tmp_path / "new").write_text("x")
    done = bench.hatchway.sftp(login, f"-put {tmp_path}/new\nls -1\n")
    assert "Permission denied" in done.stdout + done.stderr
    # It does not keep the container from writing, which starts while the volume is mounted for us.
    with bench.hatchway.open_sftp(login) as session:
        wait_until(lambda: bench.hatchway.sessions() == 1, "a session")
        container = container_of(bench, "fixed")
        container.start()
        inside(container, "touch", "/data/theirs")
        output, _ = session.communicate("ls -1\nbye\n", timeout=30)
        assert "theirs" in output
    container.remove(force=True)
    bench.hatchway.command("disable", instance, "--all")

    instance = bench.container("ro", Mount("/data", device_volume(bench, "ro", disk.device, "ro,noatime")))
    login = bench.hatchway.enable(instance, "/data")
    container_of(bench, "ro").start()
    done = bench.hatchway.sftp(login, f"-put {tmp_path}/new\nls -1\n")
    assert "Permission denied" in done.stdout + done.stderr
    assert "theirs" in done.stdout
    # Access that becomes read-only and writable again takes nothing off what the option says.
    with bench.hatchway.open_sftp(login) as session:
        wait_until(lambda: bench.hatchway.sessions() == 1, "a session")
        worker = worker_of(bench.hatchway, login, "/data")
        for read_only in (True, False):
            bench.hatchway.enable(instance, "/data", read_only=read_only)
            assert worker_of(bench.hatchway, login, "/data") == worker
            assert kernel_read_only(worker)
        output, _ = session.communicate(f"-put {tmp_path}/new\nls -1\nbye\n", timeout=30)
        assert "Permission denied" in output
        assert "theirs" in output
    container_of(bench, "ro").remove(force=True)


def test_another_image_on_the_same_device_shows_nothing(bench: Bench, disk: Disk, tmp_path: Path) -> None:
    instance = bench.container("swap", Mount("/data", device_volume(bench, "swap", disk.device)))
    login = bench.hatchway.enable(instance, "/data")
    transfer(bench, login, tmp_path, "mine")
    let_go(bench, login)
    other = Disk(tmp_path / "other.img")
    other.detach()
    disk.swap(other.path)
    done = bench.hatchway.sftp(login, "ls -1\n", check=False)
    assert done.returncode == 255
    assert "lost+found" not in done.stdout
    # The catalog's next news is when it is looked at again.
    bench.container("swap-news")
    wait_until(lambda: bench.volume(instance, "/data")["access"] == "suspended", "the grant is suspended")
    assert bench.hatchway.sftp(login, "ls\n", check=False).returncode == 255
    assert "mounted filesystem" not in kernel_log_of(other)
    # The first one again.
    disk.swap(disk.path)
    bench.container("swap-more-news")
    wait_until(lambda: bench.volume(instance, "/data")["access"] == "rw", "it is there again")
    assert "mine" in bench.hatchway.sftp(login, "ls -1\n").stdout


def kernel_log_of(disk: Disk) -> str:
    """What the kernel has said of the file system on `disk`."""
    about = run("tune2fs", "-l", disk.path)
    found = re.search(r"Filesystem UUID:\s+(\S+)", about)
    assert found is not None
    return "\n".join(line for line in run("dmesg").splitlines() if found[1] in line)


def test_a_volume_removed_and_made_again_on_the_same_device(bench: Bench, disk: Disk, tmp_path: Path) -> None:
    instance = bench.container("again", Mount("/data", device_volume(bench, "again", disk.device)))
    login = bench.hatchway.enable(instance, "/data")
    transfer(bench, login, tmp_path, "mine")
    container_of(bench, "again").remove(force=True)
    bench.shop.client.volumes.get(bench.shop.name("again")).remove()
    bench.container("again", Mount("/data", device_volume(bench, "again", disk.device)))
    wait_until(lambda: bench.volume(instance, "/data")["access"] == "suspended", "the grant is suspended")
    assert bench.hatchway.sftp(login, "ls\n", check=False).returncode == 255
    assert bench.hatchway.enable(instance, "/data") == login
    assert "mine" in bench.hatchway.sftp(login, "ls -1\n").stdout


def test_hostd_restarts_during_a_session(bench: Bench, disk: Disk, tmp_path: Path) -> None:
    instance = bench.container("restart", Mount("/data", device_volume(bench, "restart", disk.device)))
    login = bench.hatchway.enable(instance, "/data")
    (tmp_path / "new").write_text("x")
    with bench.hatchway.open_sftp(login) as session:
        wait_until(lambda: bench.hatchway.sessions() == 1, "a session")
        restart(bench.hatchway)
        output, _ = session.communicate(f"put {tmp_path}/new\nls -1\nbye\n", timeout=30)
        assert session.returncode == 0, output
        assert "new" in output.splitlines()
    transfer(bench, login, tmp_path, "after")
    bench.hatchway.command("disable", instance, "--all")
    disk.detach()
    wait_until(lambda: not disk.backing, "the device is let go of")
    run("e2fsck", "-f", "-n", disk.path)


def test_df_is_that_of_the_image(bench: Bench, tmp_path: Path) -> None:
    disk = Disk(tmp_path / "big.img", 1024)
    try:
        instance = bench.container("df", Mount("/data", device_volume(bench, "df", disk.device)))
        login = bench.hatchway.enable(instance, "/data")
        line = bench.hatchway.sftp(login, "df /data\n").stdout.splitlines()[-1]
        size_kib, used_kib, available_kib, root_kib = (int(word) for word in line.split()[:4])
        # Less than the image: the file system's own tables take their share. Less still is to be had: 5 % are kept
        # for root, and 16 MiB by the kernel (fs/ext4/super.c, ext4_set_resv_clusters). Releases of mkfs differ.
        assert 960 <= size_kib >> 10 <= 1000
        assert 895 <= available_kib >> 10 <= 920
        assert used_kib == size_kib - root_kib < 1024
        bench.hatchway.command("disable", instance, "--all")
    finally:
        disk.detach()


def bound_volume(bench: Bench, name: str, directory: Path | str, o: str = "bind") -> str:
    return device_volume(bench, name, str(directory), o, "none")


def test_a_directory_of_the_host_as_a_volume(bench: Bench, tmp_path: Path) -> None:
    site = bench.directory("bound")
    instance = bench.container("bound", Mount("/data", bound_volume(bench, "bound", site)))
    login = bench.hatchway.enable(instance, "/data")
    transfer(bench, login, tmp_path, "created")
    assert (site / "created").exists()
    container = container_of(bench, "bound")
    container.start()
    transfer(bench, login, tmp_path, "running")
    assert inside(container, "cat", "/data/running") == "running from the user"
    container.stop(timeout=0)
    transfer(bench, login, tmp_path, "stopped")
    assert bench.volume(instance, "/data")["access"] == "rw"
    # Another directory there.
    bench.hatchway.command("disable", instance, "--all")
    bench.hatchway.enable(instance, "/data")
    site.rename(bench.binds / "bound-old")
    bench.directory("bound")
    (site / "of-somebody-else").touch()
    done = bench.hatchway.sftp(login, "ls\n", check=False)
    assert done.returncode == 255
    assert "of-somebody-else" not in done.stdout


def test_a_directory_that_is_bound_read_only(bench: Bench, tmp_path: Path) -> None:
    site = bench.directory("bound-ro")
    instance = bench.container("bound-ro", Mount("/data", bound_volume(bench, "bound-ro", site, "bind,ro")))
    login = bench.hatchway.enable(instance, "/data")
    (tmp_path / "new").write_text("x")
    done = bench.hatchway.sftp(login, f"-put {tmp_path}/new\n")
    assert "Permission denied" in done.stdout + done.stderr
    assert list(site.iterdir()) == []


def test_what_is_refused_says_why(bench: Bench, disk: Disk, tmp_path: Path) -> None:
    (bench.binds / "escape").symlink_to("/etc")
    cases = {
        "/outside": (bound_volume(bench, "outside", tmp_path), "lies beneath none of host.volume_roots"),
        "/host": (bound_volume(bench, "host", "/usr"), "lies beneath none of"),
        "/link": (bound_volume(bench, "link", bench.binds / "escape"), "a symlink is in the way"),
        "/tmpfs": (device_volume(bench, "tmpfs", "tmpfs", "size=1m", "tmpfs"), "tmpfs has no contents"),
        "/overlay": (
            device_volume(bench, "overlay", "overlay", "lowerdir=/usr,upperdir=/srv/u,workdir=/srv/w", "overlay"),
            "overlay is not shared",
        ),
        "/nfs": (
            device_volume(bench, "nfs", ":/export", "addr=127.0.0.1,password=s3cret", "nfs"),
            "type 'nfs' are not supported yet",
        ),
        "/cifs": (
            device_volume(bench, "cifs", "//127.0.0.1/s", "addr=127.0.0.1,password=s3cret", "cifs"),
            "type 'cifs' are not supported yet",
        ),
        "/device": (device_volume(bench, "device", "/dev/vda"), "/dev/vda is none of host.volume_devices (/dev/loop*)"),
        "/kind": (device_volume(bench, "kind", disk.device, kind="xfs"), "has no xfs file system"),
        "/journal": (
            device_volume(bench, "journal", disk.device, "journal_path=/dev/vda"),
            "an option in the volume's o= is not supported yet for ext4",
        ),
    }
    instance = bench.container("refused", *(Mount(path, volume) for path, (volume, _) in cases.items()))
    for path, (_, words) in cases.items():
        assert words in bench.volume(instance, path)["refusal"], path
    for path in ("/outside", "/tmpfs", "/device"):
        done = bench.hatchway.cli("enable", instance, path)
        assert done.returncode != 0
        assert cases[path][1] in " ".join(done.stderr.split())
    assert "s3cret" not in bench.hatchway.cli("ls").stdout + bench.hatchway.log()
