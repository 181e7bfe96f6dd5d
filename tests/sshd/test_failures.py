"""What goes wrong beneath a session, with the outcome that docs/failures.md promises. Real kernel, sshd and clients.

Each time: what the client is told, what the log says, that nobody has to help once the cause is gone, that a
neighbour's transfer goes on, and that no program that mirrors would delete a copy.
"""

from __future__ import annotations

import contextlib
import os
import re
import resource
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.figures import note
from tests.sshd.place import Place
from tests.sshd.running import Hatchway, running, wait_until
from tests.sshd.speaking import (
    CREATE,
    EOF,
    FAILURE,
    PERMISSION_DENIED,
    READ,
    WRITE,
    Client,
    ClosedError,
    StatusError,
    status,
)
from tests.sshd.steady import steady_upload
from tests.sshd.test_lifecycle import children, gone
from tests.sshd.test_on_demand_volumes import run

NEIGHBOUR = "shop/web/100"
TIMEOUT_S = 2


@pytest.fixture(scope="module")
def hatchway() -> Iterator[Hatchway]:
    with running(NEIGHBOUR, idle_unmount_s=1, worker_timeout_s=TIMEOUT_S) as made:
        made.enable(NEIGHBOUR)
        yield made


@contextlib.contextmanager
def neighbours(hatchway: Hatchway, place: Place | None = None) -> Iterator[None]:
    """Another login's upload goes on during the block; so does one of the same login to its other volume, if given."""
    with contextlib.ExitStack() as stack:
        directory = hatchway.volumes / "shop-web-100-data"
        stack.enter_context(steady_upload(hatchway, "shop-web-100", directory, "/data"))
        if place is not None:
            stack.enter_context(steady_upload(hatchway, place.login, place.logs, "/logs"))
        yield


def mirrors_delete_nothing(place: Place, local: Path) -> None:
    """Programs that mirror /data onto `local`, which has a file, complain, and would delete nothing."""
    local.mkdir()
    (local / "precious").write_text("the only copy")
    hatchway, login = place.hatchway, place.login
    environment = {"PATH": "/usr/bin:/bin", "HOME": str(hatchway.directory), "LANG": "C.UTF-8"}
    program = "ssh -a -x " + " ".join([*hatchway.options(), *hatchway.key_options(login)])
    lftp = f"set sftp:connect-program '{program}'; set net:max-retries 1; set net:timeout 5; set cmd:fail-exit yes; "
    lftp += f"open -u {login}, sftp://127.0.0.1; mirror --delete --dry-run /data {local}"
    remote = f":sftp,host=127.0.0.1,port={hatchway.port},user={login},key_file={hatchway.keys / login},shell_type=none"
    rclone = ["rclone", "sync", "--dry-run", "--retries", "1", "--low-level-retries", "1", "-v"]
    for command in (["lftp", "-c", lftp], [*rclone, f"{remote}:/data", str(local)]):
        done = subprocess.run(command, capture_output=True, text=True, timeout=90, env=environment, check=False)
        said = done.stdout + done.stderr
        assert done.returncode != 0, (command[0], said)
        assert "precious" not in said, (command[0], said)


def fill(directory: Path, count: int) -> None:
    for number in range(count):
        (directory / f"{number:05}-{'x' * 100}").touch()


# The worker


def test_a_worker_killed_while_idle(hatchway: Hatchway) -> None:
    place = Place(hatchway)
    with neighbours(hatchway), Client(hatchway, place.login) as client:
        assert client.list("/") == ["data", "logs"]
        os.kill(place.worker(), signal.SIGKILL)
        began = time.monotonic()
        with pytest.raises(ClosedError):
            while True:
                client.lstat("/logs")
                assert time.monotonic() < began + 10
        place.works()
        note(f"a killed worker: the next login was in, listed and wrote {time.monotonic() - began:.2f} s after")
    assert place.said("worker died", "path=/data")


def size_of(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def test_a_worker_killed_in_the_middle_of_transfers(hatchway: Hatchway, tmp_path: Path) -> None:
    place = Place(hatchway)
    (place.data / "down").write_bytes(os.urandom(8_000_000))
    (tmp_path / "up").write_bytes(os.urandom(8_000_000))
    with neighbours(hatchway):
        options = [*hatchway.options(), *hatchway.key_options(place.login), "-l", "8000", "-b", "-"]
        with contextlib.ExitStack() as stack:
            transfers = []
            for words in (f"put {tmp_path}/up /data/up", f"get /data/down {tmp_path}/down"):
                one = stack.enter_context(
                    subprocess.Popen(
                        ["sftp", *options, f"{place.login}@127.0.0.1"],
                        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                    )
                )  # fmt: skip
                stack.callback(one.kill)
                assert one.stdin is not None
                one.stdin.write(f"{words}\n")
                one.stdin.flush()
                transfers.append(one)
            wait_until(lambda: size_of(place.data / "up") > 500_000, "the upload's middle")
            wait_until(lambda: size_of(tmp_path / "down") > 500_000, "the download's middle")
            os.kill(place.worker(), signal.SIGKILL)
            for one in transfers:
                output, _ = one.communicate(timeout=20)
                assert one.returncode not in (0, None), output
                assert re.search("closed|Broken pipe|reset", output), output
        # What arrived is what was sent, and can be resumed.
        sent, arrived = (tmp_path / "up").read_bytes(), (place.data / "up").read_bytes()
        assert sent.startswith(arrived)
        out = place.sftp(f"reput {tmp_path}/up /data/up\nreget /data/down {tmp_path}/down\n")
        assert (place.data / "up").read_bytes() == sent, out
        assert (tmp_path / "down").read_bytes() == (place.data / "down").read_bytes(), out


def test_a_listing_cut_off_by_the_workers_death_never_ends_well(hatchway: Hatchway) -> None:
    """sftp-server tells a readdir(3) that fails as the end of the directory. hostd may be slow: it is stopped here."""
    place = Place(hatchway)
    fill(place.data, 4000)
    (hostd,) = children(hatchway, "hatchway.host.main")
    with neighbours(hatchway), Client(hatchway, place.login) as client:
        handle = client.opendir("/data")
        seen = client.readdir(handle)
        os.kill(hostd, signal.SIGSTOP)
        try:
            os.kill(place.worker(), signal.SIGKILL)
            with pytest.raises(TimeoutError):
                while True:
                    client.ask_readdir(handle)
                    seen += Client._names(client.answer(2)[1])
        finally:
            os.kill(hostd, signal.SIGCONT)
        with pytest.raises(ClosedError):
            client.answer(10)
        assert len(seen) < 4000
        place.works()


def test_a_worker_that_is_stopped(hatchway: Hatchway) -> None:
    place = Place(hatchway)
    (place.data / "file").touch()
    stopped(hatchway, place, TIMEOUT_S)


def stopped(hatchway: Hatchway, place: Place, timeout_s: float) -> None:
    """Stop a worker: its sessions hang, and are ended after the watchdog's time; then all is well."""
    with neighbours(hatchway), Client(hatchway, place.login) as client:
        handle = client.opendir("/data")
        worker = place.worker()
        os.kill(worker, signal.SIGSTOP)
        began = time.monotonic()
        client.ask_readdir(handle)
        with pytest.raises(ClosedError):
            client.answer(2 * timeout_s + 15)
        took = time.monotonic() - began
        assert took >= timeout_s
        place.works()
        note(
            f"a stopped worker (host.worker_timeout_s {timeout_s:g}): its session ended after {took:.1f} s, "
            f"the next login was in {time.monotonic() - began - took:.1f} s later"
        )
    assert place.said("worker taken away, it is stuck", "did not answer")
    wait_until(lambda: gone(worker), "the worker's end")


# The file system beneath


class Disk:
    """A file system of its own on a loop device, to be mounted where a volume is."""

    def __init__(self, path: Path, megabytes: int, *make: str) -> None:
        self.path = path
        with path.open("wb") as file:
            file.truncate(megabytes << 20)
        run(*(make or ("mkfs.ext4", "-q", "-E", "root_owner=1000:1000")), path)
        self.target: Path | None = None

    @property
    def device(self) -> str:
        """The loop device it is on."""
        return run("findmnt", "-n", "-o", "SOURCE", str(self.target))

    def mount(self, target: Path) -> None:
        """Mount it there."""
        self.target = target
        # Through the page cache, a loop device would give zeros where its file has ended (drivers/block/loop.c).
        device = run("losetup", "--find", "--show", "--direct-io=on", self.path)
        try:
            run("mount", device, target)
        finally:
            # Now, or when it is unmounted.
            run("losetup", "--detach", device)

    def unmount(self) -> None:
        """Unmount it, as soon as nobody uses it."""
        assert self.target is not None
        run("umount", self.target)
        wait_until(lambda: str(self.path) not in run("losetup", "-a"), "the loop device is let go of")
        self.target = None

    def close(self) -> None:
        """Unmount it whatever happens."""
        if self.target is not None:
            subprocess.run(["umount", "-l", self.target], check=False, capture_output=True)


@pytest.fixture
def disks() -> Iterator[list[Disk]]:
    made: list[Disk] = []
    yield made
    for disk in made:
        disk.close()


def test_a_full_file_system(hatchway: Hatchway, tmp_path: Path, disks: list[Disk]) -> None:
    disks.append(Disk(tmp_path / "disk", 16))
    place = Place(hatchway, disks[0].mount)
    (tmp_path / "big").write_bytes(os.urandom(20 << 20))
    (tmp_path / "small").write_bytes(b"x" * 100_000)
    with neighbours(hatchway, place), Client(hatchway, place.login) as client:
        out = place.sftp(f"put {tmp_path}/small /data/before\nput {tmp_path}/big /data/big\n")
        assert re.search(r'write remote "/data/big": Failure', out), out
        # What had arrived until then is there, and so is everything else.
        part = (place.data / "big").read_bytes()
        assert (tmp_path / "big").read_bytes().startswith(part)
        assert 1_000_000 < len(part) < 20 << 20
        assert client.list("/data") == ["before", "big", "lost+found"]
        client.release(client.open("/data/before", READ))
        out = place.sftp("df /data\nrm /data/big\n")
        place.works()
    (line,) = place.said("is full")
    assert "path=/data" in line
    assert "level=warning" in line


def test_a_quota_of_the_file_system(hatchway: Hatchway, tmp_path: Path, disks: list[Disk]) -> None:
    """Of btrfs, the one that every kernel with btrfs has."""
    disks.append(Disk(tmp_path / "disk", 160, "mkfs.btrfs", "-q"))

    def prepare(directory: Path) -> None:
        disks[0].mount(directory)
        directory.chmod(0o755)
        run("btrfs", "quota", "enable", directory)
        run("btrfs", "qgroup", "limit", "8M", "0/5", directory)

    place = Place(hatchway, prepare)
    (tmp_path / "big").write_bytes(os.urandom(20 << 20))
    with neighbours(hatchway, place):
        out = place.sftp(f"put {tmp_path}/big /data/big\n")
        assert re.search(r'write remote "/data/big": Failure', out), out
        assert (place.data / "big").stat().st_size < 9 << 20
        assert "/data/big" in place.sftp("ls -1 /data\n")
        run("btrfs", "qgroup", "limit", "none", "0/5", place.data)
        place.works()
    assert place.said("a quota of the file system of the volume is used up", "path=/data")


def test_a_file_system_that_becomes_read_only_under_a_writer(
    hatchway: Hatchway, tmp_path: Path, disks: list[Disk]
) -> None:
    """ext4 makes itself read-only when it finds an error (errors=remount-ro), whoever has files open."""
    disks.append(Disk(tmp_path / "disk", 32, "mkfs.ext4", "-q", "-e", "remount-ro"))
    place = Place(hatchway, disks[0].mount)
    (place.data / "file").write_text("content")
    with neighbours(hatchway, place):
        with Client(hatchway, place.login) as client:
            writer = client.open("/data/new", WRITE | CREATE)
            client.write(writer, 0, b"before")
            name = disks[0].device.removeprefix("/dev/")
            Path(f"/sys/fs/ext4/{name}/trigger_fs_error").write_text("a test")
            with pytest.raises(OSError, match="Read-only file system"):
                (place.data / "by-the-host").touch()
            with status(PERMISSION_DENIED):
                client.write(writer, 6, b"after")
            assert client.read(client.open("/data/file", READ), 0, 100) == b"content"
            assert client.list("/data") == ["file", "lost+found", "new"]
        out = place.sftp(f"-put {tmp_path}/disk /data/more\n-mkdir /data/dir\nls -1 /data\n")
        assert "Permission denied" in out
        assert "/data/file" in out
    assert place.said("read-only, although access is not", "path=/data")
    # The operator repairs it. It can be unmounted as soon as it is idle.
    wait_until(lambda: not place.mount_ids(), "unmounted when idle")
    disks[0].unmount()
    subprocess.run(["e2fsck", "-f", "-y", disks[0].path], check=False, capture_output=True)
    disks[0].mount(place.data)
    place.works()


def test_a_device_that_fails(hatchway: Hatchway, tmp_path: Path, disks: list[Disk]) -> None:
    """The file beneath the loop device is cut short, so that reading from the device is EIO."""
    disks.append(Disk(tmp_path / "disk", 64))
    image = disks[0].path

    def prepare(directory: Path) -> None:
        disks[0].mount(directory)
        (directory / "many").mkdir()
        fill(directory / "many", 3000)
        (directory / "precious").write_bytes(os.urandom(1_000_000))

    place = Place(hatchway, prepare)
    whole = (place.data / "precious").read_bytes()
    assert "/data/precious" in place.sftp("ls -1 /data\n")
    hatchway.command("disable", place.instance, "--all")
    disks[0].unmount()
    shutil.copy(image, tmp_path / "copy")
    disks[0].mount(place.data)
    hatchway.enable(place.instance)
    with neighbours(hatchway, place):
        with Client(hatchway, place.login) as client:
            client.lstat("/data/many")
            client.lstat("/data/precious")
            file = client.open("/data/precious", READ)
            # The block of the directory inode itself stays in the cache of whoever has it open: so does the root's.
            os.truncate(image, 1 << 20)
            Path("/proc/sys/vm/drop_caches").write_text("3")
            with status(FAILURE):
                client.read(file, 0, 100_000)
            with pytest.raises(StatusError) as caught:
                client.list("/data/many")
            assert caught.value.code not in (EOF, 0)
        out = place.sftp(f"-get /data/precious {tmp_path}/back\n-ls /data/many\n")
        assert "Failure" in out, out
        mirrors_delete_nothing(place, tmp_path / "mirror")
    assert place.said("the file system of the volume fails", "path=/data", "Input/output error")
    # The operator puts the disk right.
    wait_until(lambda: not place.mount_ids(), "unmounted when idle")
    disks[0].unmount()
    shutil.copy(tmp_path / "copy", image)
    disks[0].mount(place.data)
    place.works()
    assert place.sftp(f"get /data/precious {tmp_path}/back\n")
    assert (tmp_path / "back").read_bytes() == whole


# The directory


@pytest.mark.parametrize("how", ["removed", "replaced"])
def test_a_directory_that_is_gone(hatchway: Hatchway, tmp_path: Path, how: str) -> None:
    """Either hostd looks first, and the login's sessions end, or the core has news, and they go on without it."""
    place = Place(hatchway)
    (place.data / "precious").write_text("x")
    with neighbours(hatchway), Client(hatchway, place.login) as client:
        assert client.list("/data") == ["precious"]
        began = time.monotonic()
        if how == "removed":
            shutil.rmtree(place.data)
        else:
            place.data.rename(place.data.with_suffix(".old"))
            place.data.mkdir()
            (place.data / "of-somebody-else").touch()
        while still_has(client, [] if how == "removed" else ["precious"]):
            assert time.monotonic() < began + 3 * TIMEOUT_S + 5
            time.sleep(0.1)
        note(f"a directory that was {how}: sessions had it no more after {time.monotonic() - began:.1f} s")
    if not place.said("its directory is gone, sessions end", "path=/data"):
        assert place.said("unmounted, sessions go on", "path=/data")
    # Nobody sees what stands there now, and no mirror deletes.
    assert re.search("Connection closed|not found", place.sftp("ls /data\n"))
    mirrors_delete_nothing(place, tmp_path / "mirror")
    place.data.mkdir(exist_ok=True)
    assert re.search("Connection closed|not found", place.sftp("ls /data\n"))
    # Until the operator says that it is to be this one.
    hatchway.add_volume("/news", number=1000 + int(place.login.rpartition("-")[2]))
    hatchway.write_instances()
    wait_until(lambda: place.volumes()["/data"] == "suspended", "the grant is suspended")
    # The news of the new directory may not have come yet.
    wait_until(lambda: not hatchway.cli("confirm", place.instance, "/data").returncode, "access is confirmed")
    place.works()


def still_has(client: Client, names: list[str]) -> bool:
    """Whether a session still has /data, which shows `names`, or nothing but errors."""
    try:
        if "data" not in client.list("/"):
            return False
        found = client.list("/data")
        assert names, "a directory that is removed must not look empty"
        assert found == names
    except StatusError:
        pass
    except ClosedError:
        return False
    return True


# Limits of our own


def test_more_open_files_than_allowed(hatchway: Hatchway) -> None:
    place = Place(hatchway)
    (place.data / "file").write_text("content")
    place.sftp("ls\n")
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (6000, max(hard, 6000)))
    held: list[int] = []
    seen = f"{hatchway.run_dir}/mnt/{place.login}/data/file"
    try:
        with neighbours(hatchway, place), Client(hatchway, place.login) as client:
            with pytest.raises(OSError, match="Too many open files in system"):
                while len(held) < 5000:
                    held.append(os.open(seen, os.O_RDONLY))
            assert 3000 < len(held) < 4096
            with status(FAILURE):
                client.open("/data/file", READ)
            with status(FAILURE):
                client.opendir("/data")
            client.lstat("/data/file")
            assert "/logs/of-logs" in place.sftp("ls -1 /logs\n")
            while held:
                os.close(held.pop())
            wait_until(lambda: client.list("/data") == ["file"], "it works again")
    finally:
        for fd in held:
            os.close(fd)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    (line,) = place.said("too many files of the volume are open at once")
    assert "path=/data" in line


def test_ten_thousand_files_that_the_kernel_knows(hatchway: Hatchway) -> None:
    """More than a worker may have descriptors; tests/long has fifty thousand."""
    known(hatchway, Place(hatchway), 10_000)


def known(hatchway: Hatchway, place: Place, count: int) -> None:
    """List `count` files, so that each is a live inode, then open and close them one after another."""
    for number in range(count):
        os.close(os.open(place.data / f"{number:05}", os.O_WRONLY | os.O_CREAT, 0o644))
    with neighbours(hatchway, place), Client(hatchway, place.login) as client:
        began = time.monotonic()
        assert len(client.list("/data")) == count
        listed = time.monotonic() - began
        worker = place.worker()
        assert len(os.listdir(f"/proc/{worker}/fd")) < 64
        seen = f"{hatchway.run_dir}/mnt/{place.login}/data"
        for number in range(count):
            os.close(os.open(f"{seen}/{number:05}", os.O_RDONLY))
        descriptors = len(os.listdir(f"/proc/{worker}/fd"))
        memory = int(Path(f"/proc/{worker}/statm").read_text().split()[1]) * resource.getpagesize()
        assert descriptors < 64
        client.release(client.open(f"/data/{count - 1:05}", READ))
        assert place.worker() == worker
    note(f"{count} files: listed in {listed:.1f} s; {descriptors} descriptors, {memory >> 20} MiB resident in all")
