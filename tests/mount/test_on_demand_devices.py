"""Volumes the engine mounts on demand, with real file systems on real block devices; the engine itself is played."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from hatchway.config import Config, Host, Paths
from hatchway.errors import ConflictError, HostError, RefusedError
from hatchway.host import sources
from hatchway.host.hostd import clean_up
from hatchway.host.on_demand import Demand
from hatchway.host.records import Records
from hatchway.host.sources import birth, open_volume
from hatchway.kernel import files, mounts

DEVICE = {"MountType": "ext4", "MountOpts": "", "Quota": {"Size": 0}}


def run(*command: str | Path) -> str:
    done = subprocess.run([str(word) for word in command], capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"
    return done.stdout.strip()


def image(path: Path, megabytes: int = 16) -> Path:
    """A sparse file with a new ext4 in it."""
    with path.open("wb") as file:
        file.truncate(megabytes << 20)
    run("mkfs.ext4", "-q", path)
    return path


def attached(device: str) -> bool:
    return Path(f"/sys/block/{device.removeprefix('/dev/')}/loop").exists()


class Bench:
    """A place for volumes, and loop devices that are taken away at the end."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.root = directory / "engine" / "volumes"
        self.root.mkdir(parents=True)
        self.binds = directory / "binds"
        self.binds.mkdir()
        self.scratch = directory / "run"
        self.devices: list[str] = []
        self.config = self.configured("/dev/loop*")

    def configured(self, *devices: str) -> Config:
        return Config(
            paths=Paths(run_dir=str(self.scratch), state_dir=str(self.directory / "state")),
            host=Host(volume_roots=(str(self.root),), bind_prefixes=(str(self.binds),), volume_devices=devices),
        )

    def device(self, file: Path, *options: str) -> str:
        device = run("losetup", "--find", "--show", *options, file)
        self.devices.append(device)
        return device

    def detach(self, device: str) -> None:
        """Take the file off `device`, which nothing may use any more."""
        run("losetup", "--detach", device)
        # An unmount by the last close is done a moment later (fs/namespace.c, mntput_no_expire).
        end = time.monotonic() + 5
        while attached(device):
            assert time.monotonic() < end, f"{device} is still in use"
            time.sleep(0.01)
        self.devices.remove(device)

    def volume(self, name: str, **options: Any) -> str:
        """A volume as the engine makes it; returns its source."""
        directory = self.root / name
        (directory / "_data").mkdir(parents=True)
        if options:
            file = directory / "opts.json"
            file.write_text(json.dumps(options))
            file.chmod(0o600)
        return f"{directory}/_data"

    def on_device(self, name: str, device: str, o: str = "", kind: str = "ext4") -> str:
        return self.volume(name, **DEVICE | {"MountDevice": device, "MountOpts": o, "MountType": kind})

    def bound(self, name: str, directory: Path | str, o: str = "bind") -> str:
        return self.volume(name, MountType="none", MountOpts=o, MountDevice=str(directory))


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    made = Bench(tmp_path)
    try:
        yield made
    finally:
        for path in sorted(made.root.glob("*/_data")):
            if os.path.ismount(path):
                mounts.unmount(str(path), mounts.MNT_DETACH)
        for device in made.devices:
            subprocess.run(["losetup", "--detach", device], check=False)


@pytest.fixture
def ext4(bench: Bench) -> str:
    """A loop device with an ext4."""
    return bench.device(image(bench.directory / "a.img"))


def write(fd: int, name: str, text: str) -> None:
    file = os.open(name, os.O_WRONLY | os.O_CREAT, 0o644, dir_fd=fd)
    os.write(file, text.encode())
    os.close(file)


def read(fd: int, name: str) -> str:
    file = os.open(name, os.O_RDONLY, dir_fd=fd)
    try:
        return os.read(file, 100).decode()
    finally:
        os.close(file)


def names(fd: int, path: str = ".") -> list[str]:
    directory = os.open(path, os.O_RDONLY, dir_fd=fd)
    try:
        return sorted(os.listdir(directory))
    finally:
        os.close(directory)


def test_a_device_that_nobody_has_mounted(bench: Bench, ext4: str) -> None:
    source = bench.on_device("a", ext4)
    before = mounts.mount_table()
    fd = open_volume(bench.config, source, read_only=False)
    assert mounts.mount_table() == before
    write(fd, "new", "x")
    os.symlink("/etc/passwd", "link", dir_fd=fd)
    with pytest.raises(OSError, match="symbolic links"):
        os.open("link", os.O_RDONLY, dir_fd=fd)
    about = os.fstatvfs(fd)
    assert 10 << 20 < about.f_blocks * about.f_frsize < 16 << 20
    assert about.f_flag & os.ST_NOSUID
    os.close(fd)
    # Let go of whole: what the image has in it is what was written, and it is clean.
    bench.detach(ext4)
    run("e2fsck", "-f", "-n", bench.directory / "a.img")
    assert "new" in run("debugfs", "-R", "ls -p /", bench.directory / "a.img")


def test_a_device_that_the_engine_has_mounted_is_the_same_file_system(bench: Bench, ext4: str) -> None:
    source = bench.on_device("a", ext4)
    stopped = birth(bench.config, source)
    mounts.mount(ext4, source, "ext4", 0)
    assert birth(bench.config, source) == stopped
    fd = open_volume(bench.config, source, read_only=False, expected=stopped)
    write(fd, "ours", "to the container")
    assert Path(source, "ours").read_text() == "to the container"
    Path(source, "theirs").write_text("from the container")
    assert read(fd, "theirs") == "from the container"
    # The container stops, and starts again: the session goes on, and both still see the same.
    mounts.unmount(source)
    write(fd, "between", "x")
    mounts.mount(ext4, source, "ext4", 0)
    assert Path(source, "between").read_text() == "x"
    os.close(fd)


def test_a_read_only_grant_does_not_keep_the_engine_from_writing(bench: Bench, ext4: str) -> None:
    source = bench.on_device("a", ext4)
    fd = open_volume(bench.config, source, read_only=True)
    with pytest.raises(OSError, match="Read-only") as caught:
        os.mkdir("new", dir_fd=fd)
    assert caught.value.errno == errno.EROFS
    mounts.mount(ext4, source, "ext4", 0)
    Path(source, "theirs").write_text("x")
    assert read(fd, "theirs") == "x"
    os.close(fd)


def test_read_only_options_are_read_only_for_us(bench: Bench, ext4: str) -> None:
    source = bench.on_device("a", ext4, "ro")
    mounts.mount(ext4, source, "ext4", 1)  # MS_RDONLY
    fd = open_volume(bench.config, source, read_only=False)
    with pytest.raises(OSError, match="Read-only"):
        os.mkdir("new", dir_fd=fd)
    os.close(fd)


def test_a_device_that_is_mounted_otherwise_says_so(bench: Bench, ext4: str) -> None:
    source = bench.on_device("a", ext4)
    mounts.mount(ext4, source, "ext4", 1)
    with pytest.raises(HostError, match="mounted already, and read-only there"):
        open_volume(bench.config, source, read_only=True)


def test_the_options_are_the_file_systems(bench: Bench, ext4: str) -> None:
    source = bench.on_device("a", ext4, "data=journal,noatime,nosuid")
    fd = open_volume(bench.config, source, read_only=False)
    mounts.mount(ext4, source, "ext4", 0)
    with open("/proc/self/mountinfo", encoding="ascii") as table:
        (line,) = [line for line in table if f" {source} " in line]
    assert "data=journal" in line
    os.close(fd)
    (bench.root / "a" / "opts.json").write_text(
        json.dumps(DEVICE | {"MountDevice": ext4, "MountOpts": "data=nonsense"})
    )
    mounts.unmount(source)
    with pytest.raises(HostError, match="does not take it, or its options"):
        open_volume(bench.config, source, read_only=False)


def test_a_superblock_does_not_make_the_host_panic(bench: Bench) -> None:
    made = image(bench.directory / "panic.img")
    run("tune2fs", "-e", "panic", made)
    device = bench.device(made)
    fd = open_volume(bench.config, bench.on_device("a", device), read_only=False)
    assert "errors=remount-ro" in Path(f"/proc/fs/ext4/{device[5:]}/options").read_text().split()
    os.close(fd)


def test_a_superblock_that_names_another_device_is_refused_unmounted(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    journal = bench.directory / "journal.img"
    with journal.open("wb") as file:
        file.truncate(16 << 20)
    run("mke2fs", "-q", "-b", "4096", "-O", "journal_dev", journal)
    log = bench.device(journal)
    made = bench.directory / "data.img"
    with made.open("wb") as file:
        file.truncate(16 << 20)
    run("mke2fs", "-q", "-t", "ext4", "-b", "4096", "-J", f"device={log}", made)
    monkeypatch.setattr(mounts, "mount_device", lambda *_: pytest.fail("mounted"))
    for name, device in (("data", bench.device(made)), ("log", log)):
        source = bench.on_device(name, device)
        for look in (
            lambda at=source: birth(bench.config, at),
            lambda at=source: open_volume(bench.config, at, read_only=True),
        ):
            with pytest.raises(RefusedError, match="journal on another device"):
                look()


def test_a_nul_does_not_end_the_name_that_is_allowed(bench: Bench, ext4: str) -> None:
    source = bench.on_device("a", f"{ext4}\0-shared")
    with pytest.raises(RefusedError, match="no path of a block device"):
        open_volume(bench.configured("/dev/loop*-shared"), source, read_only=True)
    with pytest.raises(ValueError, match="embedded null byte"):
        files.openat2(-1, b"a\0b", 0)


def test_who_it_is_without_mounting_it(bench: Bench, ext4: str, monkeypatch: pytest.MonkeyPatch) -> None:
    source = bench.on_device("a", ext4)
    monkeypatch.setattr(mounts, "mount_device", lambda *_: pytest.fail("mounted"))
    first = birth(bench.config, source)
    assert birth(bench.config, source) == first


def test_the_same_device_in_a_volume_made_again_is_another(bench: Bench, ext4: str) -> None:
    source = bench.on_device("a", ext4)
    first = birth(bench.config, source)
    Path(source).rmdir()
    Path(source).parent.joinpath("opts.json").unlink()
    Path(source).parent.rmdir()
    bench.on_device("a", ext4)
    assert birth(bench.config, source) != first
    with pytest.raises(ConflictError, match="another directory"):
        open_volume(bench.config, source, read_only=False, expected=first)


def test_another_image_on_the_same_device_is_another_and_is_not_even_mounted(
    bench: Bench, ext4: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Made in the same second: then even the birth of its root, which has whole seconds, is the same."""
    source = bench.on_device("a", ext4)
    first = birth(bench.config, source)
    other = bench.directory / "b.img"
    other.write_bytes((bench.directory / "a.img").read_bytes())
    run("tune2fs", "-U", str(uuid.uuid4()), other)
    bench.detach(ext4)
    run("losetup", ext4, other)
    bench.devices.append(ext4)
    assert birth(bench.config, source) != first
    monkeypatch.setattr(mounts, "mount_device", lambda *_: pytest.fail("mounted"))
    with pytest.raises(ConflictError, match="another directory"):
        open_volume(bench.config, source, read_only=False, expected=first)


def test_an_image_swapped_while_it_is_mounted_by_nobody_else_is_noticed(
    bench: Bench, ext4: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = bench.on_device("a", ext4)
    answers = iter([str(uuid.uuid4()), str(uuid.uuid4())])
    monkeypatch.setattr(sources, "uuid_on", lambda *_: next(answers))
    with pytest.raises(HostError, match="changed while it was mounted"):
        open_volume(bench.config, source, read_only=False)
    monkeypatch.undo()
    bench.detach(ext4)


def part_of(bench: Bench, ext4: str) -> str:
    source = bench.on_device("a", ext4)
    fd = open_volume(bench.config, source, read_only=False)
    os.mkdir("in", dir_fd=fd)
    os.mkdir("in/side", dir_fd=fd)
    os.symlink("in", "link", dir_fd=fd)
    write(fd, "not-mine", "x")
    write(fd, "in/side/mine", "x")
    os.close(fd)
    return source


def test_a_part_of_a_device(bench: Bench, ext4: str) -> None:
    source = part_of(bench, ext4)
    part = birth(bench.config, f"{source}/in/side")
    assert part.startswith(f"{birth(bench.config, source)}+inode:")
    fd = open_volume(bench.config, f"{source}/in/side", read_only=False, expected=part)
    assert names(fd, "..") == ["mine"]
    os.close(fd)
    for other in ("link", "link/side", "gone"):
        with pytest.raises(HostError):
            open_volume(bench.config, f"{source}/{other}", read_only=False)
        with pytest.raises(RefusedError):
            birth(bench.config, f"{source}/{other}")
    bench.detach(ext4)


def test_a_part_is_looked_at_once_and_again_when_it_turned_out_to_be_another(
    bench: Bench, ext4: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = part_of(bench, ext4)
    part = f"{source}/in/side"
    mounted: list[object] = []
    real = mounts.mount_device

    def mount_device(*args: Any) -> int:
        mounted.append(args)
        return real(*args)

    monkeypatch.setattr(mounts, "mount_device", mount_device)
    first = birth(bench.config, part)
    assert birth(bench.config, part) == first
    assert len(mounted) == 1
    fd = open_volume(bench.config, source, read_only=False)
    os.rename("in/side", "in/old", src_dir_fd=fd, dst_dir_fd=fd)
    os.mkdir("in/side", dir_fd=fd)
    os.close(fd)
    with pytest.raises(ConflictError):
        open_volume(bench.config, part, read_only=False, expected=first)
    second = birth(bench.config, part)
    assert second != first
    os.close(open_volume(bench.config, part, read_only=False, expected=second))


def test_a_part_on_kernels_that_clone_only_what_is_mounted(
    bench: Bench, ext4: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Linux before 6.15."""
    source = part_of(bench, ext4)
    scratch = Path(bench.config.mount_dir)
    scratch.mkdir(parents=True)
    mounts.mount("none", str(scratch), "tmpfs", 0, "size=64k")
    try:
        mounts.make_private(str(scratch))
        real = mounts.clone_tree

        def clone_tree(fd: int) -> int:
            if os.readlink(f"/proc/self/fd/{fd}").startswith(str(scratch)):
                return real(fd)
            raise OSError(errno.EINVAL, "Invalid argument")

        monkeypatch.setattr(mounts, "clone_tree", clone_tree)
        fd = open_volume(bench.config, f"{source}/in/side", read_only=True)
        assert names(fd, "..") == ["mine"]
        os.close(fd)
        assert list(scratch.iterdir()) == []
    finally:
        mounts.unmount(str(scratch))
    bench.detach(ext4)


async def test_what_a_killed_hostd_left_mounted_is_taken_away(bench: Bench, capfd: pytest.CaptureFixture[str]) -> None:
    """Its device's number is not one of ours: with FUSE it would be that of somebody else's connection."""
    left = Path(bench.config.mount_dir, ".part-x")
    left.mkdir(parents=True)
    mounts.mount("none", str(left), "tmpfs", 0, "size=64k")
    try:
        await clean_up(bench.config, Records(str(bench.directory / "userdb"), str(bench.scratch)))
        assert not os.path.ismount(left)
    finally:
        if os.path.ismount(left):
            mounts.unmount(str(left), mounts.MNT_DETACH)
    assert "connection not aborted" not in "".join(capfd.readouterr())


def test_devices_that_are_refused(bench: Bench, ext4: str) -> None:
    (bench.directory / "empty.img").write_bytes(b"\0" * (1 << 20))
    empty = bench.device(bench.directory / "empty.img")
    nameless = bench.directory / "nameless.img"
    run("tune2fs", "-U", "clear", image(nameless))
    cases = {
        "outside": (bench.on_device("outside", ext4), bench.configured("/dev/sd*"), "none of host.volume_devices"),
        "none": (bench.on_device("none", "/dev/null"), bench.configured("/dev/null"), "no block device"),
        "gone": (bench.on_device("gone", "/dev/loop9999"), bench.config, "there is no device"),
        "empty": (bench.on_device("empty", empty), bench.config, "has no ext4 file system"),
        "other": (bench.on_device("other", ext4, kind="xfs"), bench.config, "has no xfs file system"),
        "nameless": (bench.on_device("nameless", bench.device(nameless)), bench.config, "no UUID"),
        "file": (bench.on_device("file", f"{nameless}"), bench.configured(str(nameless)), "leads out of /dev"),
    }
    for name, (source, config, words) in cases.items():
        with pytest.raises(RefusedError) as caught:
            birth(config, source)
        assert words in str(caught.value), name
        with pytest.raises(RefusedError):
            open_volume(config, source, read_only=True)


def test_a_link_out_of_dev_is_no_device(bench: Bench, ext4: str) -> None:
    for link, target in (("/dev/hatchway-link", ext4), ("/dev/shm/hatchway-link", f"../{ext4[5:]}")):
        if not os.path.ismount("/dev/shm") and link.startswith("/dev/shm"):
            continue
        os.symlink(target, link)
        try:
            source = bench.on_device(link.replace("/", "-"), link)
            with pytest.raises(RefusedError, match="leads out of /dev"):
                birth(bench.configured(link), source)
        finally:
            os.unlink(link)
    # As udev makes them.
    os.symlink(ext4[5:], "/dev/hatchway-link")
    try:
        source = bench.on_device("good", "/dev/hatchway-link")
        os.close(open_volume(bench.configured("/dev/hatchway-*"), source, read_only=True))
    finally:
        os.unlink("/dev/hatchway-link")


def test_the_hosts_own_device_is_refused_however_generous_the_patterns_are(bench: Bench) -> None:
    number = os.stat(bench.root).st_dev
    device = os.path.realpath(f"/sys/dev/block/{os.major(number)}:{os.minor(number)}").rpartition("/")[2]
    if not os.path.exists(f"/dev/{device}"):
        pytest.skip("the temporary directory is on no block device")
    source = bench.on_device("a", f"/dev/{device}")
    with pytest.raises(RefusedError, match="holds a file system of the host"):
        birth(bench.configured("/dev/*"), source)


def test_something_else_at_the_volumes_place_is_refused(bench: Bench, ext4: str) -> None:
    source = bench.on_device("a", ext4)
    bound = bench.bound("b", directory := bench.binds / "site")
    directory.mkdir()
    for place in (source, bound):
        mounts.mount("none", place, "tmpfs", 0, "size=64k")
        for call in (lambda: birth(bench.config, place), lambda: open_volume(bench.config, place, read_only=True)):  # noqa: B023 - called at once
            with pytest.raises(RefusedError, match="something else is mounted"):
                call()


def test_a_directory_of_the_host(bench: Bench) -> None:
    site = bench.binds / "site"
    (site / "in").mkdir(parents=True)
    (site / "mine").write_text("x")
    source = bench.bound("a", f"{site}/")
    stopped = birth(bench.config, source)
    fd = open_volume(bench.config, source, read_only=False, expected=stopped)
    write(fd, "new", "x")
    os.close(fd)
    assert (site / "new").read_text() == "x"
    mounts.mount(str(site), source, "none", 4096)  # MS_BIND
    assert birth(bench.config, source) == stopped
    os.close(open_volume(bench.config, source, read_only=False, expected=stopped))
    part = birth(bench.config, f"{source}/in")
    assert part != stopped
    os.close(open_volume(bench.config, f"{source}/in", read_only=False, expected=part))
    mounts.unmount(source)
    site.rename(bench.binds / "old")
    site.mkdir()
    with pytest.raises(ConflictError):
        open_volume(bench.config, source, read_only=False, expected=stopped)


def test_a_read_only_bind(bench: Bench) -> None:
    (bench.binds / "site").mkdir()
    fd = open_volume(bench.config, bench.bound("a", bench.binds / "site", "bind,ro"), read_only=False)
    with pytest.raises(OSError, match="Read-only"):
        os.mkdir("new", dir_fd=fd)
    os.close(fd)


def test_directories_of_the_host_that_are_refused(bench: Bench, tmp_path: Path) -> None:
    (bench.binds / "link").symlink_to("/etc")
    (bench.binds / "file").touch()
    (tmp_path / "state").mkdir()
    for name, device, words in (
        ("usr", Path("/usr"), "lies beneath none of"),
        ("link", bench.binds / "link", "symlink is in the way"),
        ("below", bench.binds / "link" / "ssh", "symlink is in the way"),
        ("file", bench.binds / "file", "is no directory"),
        ("gone", bench.binds / "gone", "there is no directory"),
        ("other", bench.root / "usr" / "_data", "the engine's volumes"),
        ("state", tmp_path / "state", "Hatchway itself"),
    ):
        source = bench.bound(name, device)
        with pytest.raises(RefusedError) as caught:
            birth(bench.config, source)
        assert words in str(caught.value), name
        with pytest.raises(RefusedError):
            open_volume(bench.config, source, read_only=True)


def spoil_owner(file: Path) -> None:
    os.chown(file, 1000, 0)


def spoil_mode(file: Path) -> None:
    file.chmod(0o620)


def spoil_type(file: Path) -> None:
    file.unlink()
    os.mkfifo(file)


def spoil_link(file: Path) -> None:
    file.rename(file.parent / "elsewhere")
    file.symlink_to("elsewhere")


def spoil_size(file: Path) -> None:
    file.write_bytes(b" " * 70000)


def spoil_directory(file: Path) -> None:
    file.unlink()
    file.mkdir()


def spoil_text(file: Path) -> None:
    file.write_text('{"MountOpts": "password=s3cret"')


@pytest.mark.parametrize(
    "spoil", [spoil_owner, spoil_mode, spoil_type, spoil_link, spoil_size, spoil_directory, spoil_text]
)
def test_options_that_cannot_be_trusted(bench: Bench, spoil: Callable[[Path], None]) -> None:
    (bench.binds / "site").mkdir()
    source = bench.bound("a", bench.binds / "site")
    assert birth(bench.config, source)
    spoil(bench.root / "a" / "opts.json")
    with pytest.raises(RefusedError, match="the engine's options of this volume") as caught:
        birth(bench.config, source)
    assert "s3cret" not in str(caught.value)


def test_a_volume_without_options_is_as_it_was(bench: Bench) -> None:
    plain = bench.volume("plain")
    quota = bench.volume("quota", MountType="", MountOpts="", MountDevice="", Quota={"Size": 1 << 30})
    for source in (plain, quota):
        assert birth(bench.config, source).count("inode:") == 1
        os.close(open_volume(bench.config, source, read_only=False, expected=birth(bench.config, source)))


def test_a_part_that_is_not_there_is_not_looked_for_at_every_look(
    bench: Bench, ext4: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = part_of(bench, ext4)
    mounted: list[object] = []
    real = mounts.mount_device

    def mount_device(*args: Any) -> int:
        mounted.append(args)
        return real(*args)

    monkeypatch.setattr(mounts, "mount_device", mount_device)
    for _ in range(3):
        with pytest.raises(RefusedError, match="there is no directory"):
            birth(bench.config, f"{source}/later")
    assert len(mounted) == 1
    fd = open_volume(bench.config, source, read_only=False)
    os.mkdir("later", dir_fd=fd)
    os.close(fd)
    # A session tries in any case, and what it finds counts.
    os.close(open_volume(bench.config, f"{source}/later", read_only=True))
    assert "+inode:" in birth(bench.config, f"{source}/later")
    assert len(mounted) == 3
    bench.detach(ext4)


def test_what_is_remembered_is_bounded() -> None:
    looks = sources._Looks()
    demand = Demand("ext4", "/dev/loop0")
    for number in range(sources.LOOKS_MAX + 10):
        looks.put((str(number), demand, "part"), "found")
    assert looks.get(("0", demand, "part")) == ""
    assert looks.get((str(sources.LOOKS_MAX), demand, "part")) == "found"
    for number in range(sources.LOOKS_MAX + 10):
        looks.fail((str(number), demand, "gone"), RefusedError("gone"))
    assert len(looks._births) == len(looks._failures) == sources.LOOKS_MAX
