"""Detached mounts, and what a process that became a worker can still do: nothing else. Real kernel, root."""

from __future__ import annotations

import ctypes
import errno
import fcntl
import json
import os
import resource
import shutil
import socket
import subprocess
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from hatchway.config import Config, Host, Paths
from hatchway.errors import ConflictError, HatchwayError, HostError, RefusedError
from hatchway.host.sources import birth, open_volume
from hatchway.kernel import mounts, privileges, seccomp
from hatchway.kernel.libc import LIBC, MACHINE

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="mounting and dropping privileges need root")

_OPEN_BY_HANDLE_AT = {"x86_64": 304, "aarch64": 265}
_UID = 1_901_777_777


@pytest.fixture
def volume(tmp_path: Path) -> Path:
    root = tmp_path / "root" / "vol"
    root.mkdir(parents=True)
    (root / "file").write_text("mine")
    (root / "sub").mkdir()
    (root / "shadow").symlink_to("/etc/shadow")
    (root / "up").symlink_to("../..")
    return root


@pytest.fixture
def config(tmp_path: Path) -> Config:
    return Config(host=Host(volume_roots=(), bind_prefixes=(str(tmp_path / "root"),)))


@pytest.fixture
def opened(config: Config, volume: Path) -> Iterator[int]:
    fd = open_volume(config, str(volume), read_only=False)
    yield fd
    os.close(fd)


def test_the_root_of_a_volume_has_no_parent(opened: int, volume: Path) -> None:
    here = os.stat(volume)
    for path in (".", "..", "../..", "sub/../.."):
        found = os.stat(path, dir_fd=opened)
        assert (found.st_dev, found.st_ino) == (here.st_dev, here.st_ino)


@pytest.mark.parametrize("name", ["shadow", "up", "up/file", "sub/../shadow"])
def test_no_symlink_is_ever_followed(opened: int, name: str) -> None:
    with pytest.raises(OSError, match="symbolic links") as caught:
        os.open(name, os.O_RDONLY, dir_fd=opened)
    assert caught.value.errno == errno.ELOOP


def test_a_read_only_volume_is_read_only_in_the_kernel(config: Config, volume: Path) -> None:
    fd = open_volume(config, str(volume), read_only=True)
    try:
        for attempt in (
            lambda: os.open("file", os.O_WRONLY, dir_fd=fd),
            lambda: os.mkdir("new", dir_fd=fd),
            lambda: os.unlink("file", dir_fd=fd),
            lambda: os.chmod("file", 0o777, dir_fd=fd),
        ):
            with pytest.raises(OSError) as caught:
                attempt()
            assert caught.value.errno == errno.EROFS
    finally:
        os.close(fd)
    assert (volume / "file").read_text() == "mine"


def test_a_mount_below_the_volume_is_not_part_of_it(config: Config, volume: Path) -> None:
    mounts.mount("none", str(volume / "sub"), "tmpfs", 0, "size=64k")
    try:
        (volume / "sub" / "hidden").touch()
        fd = open_volume(config, str(volume), read_only=False)
        try:
            inner = os.open("sub", os.O_RDONLY, dir_fd=fd)
            assert os.listdir(inner) == []
            os.close(inner)
        finally:
            os.close(fd)
    finally:
        mounts.unmount(str(volume / "sub"))


def test_a_symlink_in_the_way_to_the_source_is_refused(config: Config, tmp_path: Path) -> None:
    (tmp_path / "root").mkdir(exist_ok=True)
    (tmp_path / "root" / "link").symlink_to("/etc")
    for source in ("root/link", "root/link/ssh"):
        with pytest.raises(HostError, match="symlink"):
            open_volume(config, str(tmp_path / source), read_only=False)


def test_a_directory_swapped_for_a_symlink_while_it_is_opened(config: Config, tmp_path: Path) -> None:
    """CVE-2018-15664 and its kin: whatever the timing, only the directory itself is ever opened."""
    root = tmp_path / "root"
    (root / "a" / "vol").mkdir(parents=True)
    (root / "a" / "vol" / "mine").touch()
    outside = tmp_path / "outside"
    (outside / "vol").mkdir(parents=True)
    (outside / "vol" / "secret").touch()
    (root / "b").symlink_to(outside)
    stop = threading.Event()

    def swap() -> None:
        call = LIBC.renameat2
        one, other = os.fsencode(root / "a"), os.fsencode(root / "b")
        while not stop.is_set():
            assert call(-100, one, -100, other, 2) == 0  # RENAME_EXCHANGE

    thread = threading.Thread(target=swap)
    thread.start()
    opened_count = refused = 0
    try:
        for _ in range(3000):
            try:
                fd = open_volume(config, str(root / "a" / "vol"), read_only=False)
            except HostError:
                refused += 1
                continue
            inner = os.open(".", os.O_RDONLY, dir_fd=fd)
            assert os.listdir(inner) == ["mine"]
            os.close(inner)
            os.close(fd)
            opened_count += 1
    finally:
        stop.set()
        thread.join()
    assert opened_count > 0
    assert refused > 0


def test_a_directory_made_again_is_another(config: Config, volume: Path) -> None:
    """The name and path are the same, even the inode number may be: what was granted is refused all the same."""
    with pytest.raises(RefusedError, match="there is no directory"):
        birth(config, str(volume / "missing"))
    before = birth(config, str(volume))
    assert before
    (volume / "file").write_text("changed")
    volume.chmod(0o700)
    assert birth(config, str(volume)) == before
    os.close(open_volume(config, str(volume), read_only=False, expected=before))
    shutil.rmtree(volume)
    volume.mkdir()
    assert birth(config, str(volume)) != before
    with pytest.raises(ConflictError, match="another directory"):
        open_volume(config, str(volume), read_only=False, expected=before)


def test_what_is_never_shared_is_not_by_another_name_either(tmp_path: Path) -> None:
    """A prefix, a volume root or our own directory may be reached by a link of the operator's."""
    for name in ("disk/docker/volumes/shop/_data/in", "disk/docker/overlay2/x", "disk/state/in", "disk/site"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "lib").symlink_to("disk")
    lib, disk = tmp_path / "lib", tmp_path / "disk"
    config = Config(
        paths=Paths(state_dir=f"{lib}/state"),
        host=Host(volume_roots=(f"{lib}/docker/volumes",), bind_prefixes=(str(disk),)),
    )
    for source in (
        "docker",
        "docker/volumes",
        "docker/volumes/shop",
        "docker/overlay2",
        "docker/overlay2/x",
        "state",
        "state/in",
        "",
    ):
        path = str(disk / source) if source else str(disk)
        with pytest.raises(RefusedError):
            birth(config, path)
        with pytest.raises(RefusedError):
            open_volume(config, path, read_only=True)
    for path in (f"{disk}/site", f"{lib}/docker/volumes/shop/_data", f"{lib}/docker/volumes/shop/_data/in"):
        assert birth(config, path)
        os.close(open_volume(config, path, read_only=True))


def test_the_same_without_birth_times(tmp_path: Path) -> None:
    """ext4 with inodes of 128 bytes keeps none, and gives a removed directory's inode number out again at once."""
    image, place = tmp_path / "image", tmp_path / "root"
    with image.open("wb") as file:
        file.truncate(8 * 1024**2)
    subprocess.run(["mkfs.ext4", "-q", "-I", "128", str(image)], check=True, capture_output=True)
    place.mkdir()
    subprocess.run(["mount", "-o", "loop", str(image), str(place)], check=True)
    try:
        config = Config(host=Host(volume_roots=(), bind_prefixes=(str(place),)))
        directory = place / "vol"
        directory.mkdir()
        inode, before = directory.stat().st_ino, birth(config, str(directory))
        directory.rmdir()
        directory.mkdir()
        assert directory.stat().st_ino == inode, "else this test shows nothing"
        assert birth(config, str(directory)) not in ("", before)
    finally:
        subprocess.run(["umount", str(place)], check=True)


def test_out_of_descriptors_is_not_taken_for_absence(config: Config, volume: Path) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (len(os.listdir("/proc/self/fd")) - 1, hard))
    try:
        with pytest.raises(HostError, match="cannot be looked at"):
            birth(config, str(volume))
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def in_child(attempts: Callable[[], dict[str, str]]) -> dict[str, str]:
    """Run `attempts` in a forked child and return what it found."""
    read_end, write_end = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            found = attempts()
        except BaseException as exc:
            found = {"failed": f"{type(exc).__name__}: {exc}"}
        os.write(write_end, json.dumps(found).encode())
        os._exit(0)
    os.close(write_end)
    with os.fdopen(read_end, "rb") as file:
        data = file.read()
    os.waitpid(pid, 0)
    found = json.loads(data)
    assert isinstance(found, dict)
    return found


def outcome(attempt: Callable[[], object]) -> str:
    try:
        attempt()
    except OSError as exc:
        return errno.errorcode.get(exc.errno or 0, "?")
    return "worked"


def raw(number: int, *args: object) -> None:
    converted = [ctypes.c_long(arg) if isinstance(arg, int) else arg for arg in args]
    if LIBC.syscall(ctypes.c_long(number), *converted) < 0:
        raise OSError(ctypes.get_errno(), "call")


def test_a_worker_keeps_four_capabilities_and_cannot_get_more() -> None:
    def attempts() -> dict[str, str]:
        privileges.become(_UID, _UID, permitted=privileges.WORKER_CAPS, effective=privileges.WORKER_EFFECTIVE)
        status = dict(line.split(":\t", 1) for line in Path("/proc/self/status").read_text().splitlines())
        wanted = ("Uid", "Gid", "Groups", "CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb", "NoNewPrivs")
        found = {name: status[name].strip() for name in wanted}
        with privileges.effective(privileges.Cap.FSETID):
            found["raised"] = hex(privileges.held()[0])
        found["after"] = hex(privileges.held()[0])
        return found

    found = in_child(attempts)
    ids = "\t".join([str(_UID)] * 4)
    assert found == {
        "Uid": ids,
        "Gid": ids,
        "Groups": "",
        "CapInh": f"{0:016x}",
        "CapPrm": f"{0b11011:016x}",  # CHOWN, DAC_OVERRIDE, FOWNER, FSETID
        "CapEff": f"{0b01011:016x}",
        "CapBnd": f"{0:016x}",
        "CapAmb": f"{0:016x}",
        "NoNewPrivs": "1",
        "raised": hex(0b11011),
        "after": hex(0b01011),
    }


def test_file_handles_are_refused_with_and_without_the_filter(opened: int) -> None:
    """With CAP_DAC_READ_SEARCH, open_by_handle_at on a volume's descriptor opens the host's root directory."""
    handle = ctypes.create_string_buffer(128)
    ctypes.memmove(handle, (120).to_bytes(4, "little"), 4)
    mount_id = ctypes.c_int()
    anchor = os.open("/", os.O_PATH)
    assert LIBC.name_to_handle_at(anchor, b"", handle, ctypes.byref(mount_id), 0x1000) == 0
    number = _OPEN_BY_HANDLE_AT[MACHINE]
    directory = os.open(".", os.O_RDONLY, dir_fd=opened)
    worked = LIBC.syscall(ctypes.c_long(number), ctypes.c_long(directory), handle, ctypes.c_long(os.O_RDONLY))
    assert worked >= 0, "as root it works: else this test would show nothing"
    os.close(worked)

    def attempts() -> dict[str, str]:
        privileges.become(_UID, _UID, permitted=privileges.WORKER_CAPS, effective=privileges.WORKER_EFFECTIVE)
        before = outcome(lambda: raw(number, directory, handle, os.O_RDONLY))
        seccomp.confine()
        return {"capabilities": before, "filter": outcome(lambda: raw(number, directory, handle, os.O_RDONLY))}

    found = in_child(attempts)
    os.close(anchor)
    os.close(directory)
    assert found == {"capabilities": "EPERM", "filter": "EPERM"}


def test_the_filter_leaves_files_and_nothing_else(tmp_path: Path) -> None:
    directory = os.open(tmp_path, os.O_PATH)

    def attempts() -> dict[str, str]:
        privileges.no_new_privileges()
        seccomp.confine()
        return {
            "execve": outcome(lambda: os.execv("/bin/true", ["true"])),
            "fork": outcome(os.fork),
            "socket": outcome(lambda: socket.socket(socket.AF_INET)),
            "unix socket": outcome(lambda: socket.socket(socket.AF_UNIX)),
            "mount": outcome(lambda: mounts.mount("none", str(tmp_path), "tmpfs", 0)),
            "unshare": outcome(lambda: mounts.unshare(mounts.CLONE_NEWNS)),
            "chroot": outcome(lambda: os.chroot("/")),
            "setuid": outcome(lambda: os.setuid(0)),
            "kill": outcome(lambda: os.kill(1, 0)),
            "ptrace": outcome(lambda: raw(101 if MACHINE == "x86_64" else 117, 16, 1, 0, 0)),
            "bpf": outcome(lambda: raw(321 if MACHINE == "x86_64" else 280, 0, 0, 0)),
            "io_uring_setup": outcome(lambda: raw(425, 1, 0)),
            "open_tree": outcome(lambda: raw(428, -100, b"/", 1)),
            "clone3": outcome(lambda: raw(435, 0, 0)),
            "pidfd_open": outcome(lambda: os.pidfd_open(1)),
            "file": outcome(lambda: (tmp_path / "file").write_text("x")),
            "mkdir": outcome(lambda: os.mkdir("dir", dir_fd=directory)),
        }

    found = in_child(attempts)
    os.close(directory)
    allowed = {name for name, result in found.items() if result == "worked"}
    assert allowed == {"file", "mkdir"}
    assert found.pop("clone3") == "ENOSYS"  # so that glibc falls back to clone, whose flags the filter can see
    assert {result for name, result in found.items() if name not in allowed} == {"EPERM"}


def test_the_filter_looks_at_what_a_call_is_for(tmp_path: Path) -> None:
    directory = os.open(tmp_path, os.O_PATH)
    (tmp_path / "file").write_text("x")
    file = os.open(tmp_path / "file", os.O_RDWR)

    def attempts() -> dict[str, str]:
        privileges.no_new_privileges()
        seccomp.confine()
        one, two = socket.socketpair()
        return {
            "dup": outcome(lambda: os.close(os.dup(file))),
            "O_NONBLOCK": outcome(lambda: os.set_blocking(one.fileno(), False)),
            "F_GETFL": outcome(lambda: fcntl.fcntl(two, fcntl.F_GETFL)),
            "own limit": outcome(lambda: resource.getrlimit(resource.RLIMIT_NOFILE)),
            "own processors": outcome(lambda: os.sched_getaffinity(0)),
            "chmod 1777": outcome(lambda: os.fchmod(file, 0o1777)),
            "chmod 2755": outcome(lambda: os.chmod("file", 0o2755, dir_fd=directory)),
            "create": outcome(lambda: os.close(os.open("new", os.O_CREAT | os.O_WRONLY, 0o777, dir_fd=directory))),
            "thread": outcome(lambda: threading.Thread(target=int).start()),
            "lease": outcome(lambda: fcntl.fcntl(file, fcntl.F_SETLEASE, fcntl.F_WRLCK)),
            "owner of signals": outcome(lambda: fcntl.fcntl(file, fcntl.F_SETOWN, 1)),
            "notices": outcome(lambda: fcntl.fcntl(file, fcntl.F_NOTIFY, 0)),
            "FS_IOC_GETFLAGS": outcome(lambda: fcntl.ioctl(file, 0x80086601, bytes(8))),
            "FS_IOC_FIEMAP": outcome(lambda: fcntl.ioctl(file, 0xC020660B, bytes(32))),
            "another's limit": outcome(lambda: resource.prlimit(os.getppid(), resource.RLIMIT_NOFILE)),
            "another's processors": outcome(lambda: os.sched_getaffinity(os.getppid())),
            "fchmod 4755": outcome(lambda: os.fchmod(file, 0o4755)),
            "fchmodat 6755": outcome(lambda: os.chmod("file", 0o6755, dir_fd=directory)),
            "fchmodat2 4755": outcome(lambda: raw(452, directory, b"file", 0o4755, 0)),
            "create 4755": outcome(lambda: os.open("suid", os.O_CREAT | os.O_WRONLY, 0o4755, dir_fd=directory)),
            "mkdir 4755": outcome(lambda: os.mkdir("suid", 0o4755, dir_fd=directory)),
            "mknod 4755": outcome(lambda: os.mknod("suid", 0o104755, dir_fd=directory)),
            "openat2": outcome(lambda: raw(437, directory, b"file", bytes(24), 24)),
            "inet pair": outcome(lambda: socket.socketpair(socket.AF_INET)),
            "thread with name spaces": outcome(
                lambda: raw(56 if MACHINE == "x86_64" else 220, 0x40000000 | 0x10000 | 0x900, 0, 0, 0, 0)
            ),
        }

    found = in_child(attempts)
    os.close(file)
    os.close(directory)
    worked = {
        "dup",
        "O_NONBLOCK",
        "F_GETFL",
        "own limit",
        "own processors",
        "chmod 1777",
        "chmod 2755",
        "create",
        "thread",
    }
    assert {name for name, result in found.items() if result == "worked"} == worked
    assert {result for name, result in found.items() if name not in worked} == {"EPERM"}


def test_the_filter_refuses_other_machines() -> None:
    with pytest.raises(HatchwayError, match="riscv64"):
        seccomp.program("riscv64")
    assert len(seccomp.program("aarch64")) % 8 == 0


def test_hostd_keeps_a_bounded_set() -> None:
    def attempts() -> dict[str, str]:
        privileges.bound(privileges.HOSTD_CAPS)
        status = dict(line.split(":\t", 1) for line in Path("/proc/self/status").read_text().splitlines())
        return {name: status[name].strip() for name in ("CapPrm", "CapEff", "CapBnd")} | {
            "chroot": outcome(lambda: os.chroot("/")),
        }

    mask = f"{sum(1 << cap for cap in privileges.HOSTD_CAPS):016x}"
    assert in_child(attempts) == {"CapPrm": mask, "CapEff": mask, "CapBnd": mask, "chroot": "EPERM"}


def test_an_empty_root_holds_nothing(tmp_path: Path) -> None:
    def attempts() -> dict[str, str]:
        mounts.unshare(mounts.CLONE_NEWNS)
        mounts.make_private("/", recursive=True)
        mounts.enter_empty_root(str(tmp_path))
        return {
            "entries": str(os.listdir("/")),
            "passwd": outcome(lambda: os.stat("/etc/passwd")),
            "up": str(os.listdir("/../../..")),
            "write": outcome(lambda: os.mkdir("/x")),
        }

    found = in_child(attempts)
    assert found == {"entries": "[]", "passwd": "ENOENT", "up": "[]", "write": "EROFS"}
    assert not any(entry.target == str(tmp_path) for entry in mounts.mount_table())
