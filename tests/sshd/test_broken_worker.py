"""A worker that has been taken over tries every way to the host: the kernel denies each, and the table shows how.

hostd, zygote, mounts, the confinement and the neighbours are those of a real `hatchway run`; only what the worker does
when it has been confined is ours (`hostile/broken.py`).
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import mmap
import os
import re
import resource
import shutil
import signal
import socket
import struct
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests import leftovers
from tests.figures import note
from tests.sshd.hostile.attacks import ATTACKS
from tests.sshd.hostile.bed import loop_device
from tests.sshd.hostile.canaries import LIBC, Canaries
from tests.sshd.running import Hatchway, running, wait_until

from hatchway.kernel import privileges
from hatchway.kernel.libc import MACHINE
from hatchway.volumefs import confinement
from hatchway.volumefs.confinement import confine

AT_FDCWD = -100


@contextlib.contextmanager
def breaking_python() -> Iterator[str]:
    """An interpreter like this one, in which `hostile.broken` is imported at the start."""
    directory = Path(tempfile.mkdtemp(prefix="hwtest-python-"))
    directory.chmod(0o755)
    try:
        subprocess.run([sys.executable, "-I", "-m", "venv", "--without-pip", directory], check=True, timeout=60)
        (site,) = directory.glob("lib/python3*/site-packages")
        lines = [f"import site; site.addsitedir({sysconfig.get_paths()['purelib']!r})", str(Path(__file__).parents[2])]
        (site / "broken.pth").write_text("\n".join([*lines, "import tests.sshd.hostile.broken"]) + "\n")
        yield str(directory / "bin" / "python")
    finally:
        shutil.rmtree(directory)


def handle_of(path: Path) -> tuple[int, str]:
    """The file handle of `path` (name_to_handle_at(2)): its type, and its bytes in hexadecimal."""
    buffer = ctypes.create_string_buffer(struct.pack("Ii", 128, 0), 8 + 128)
    mount = ctypes.c_int()
    done = LIBC.name_to_handle_at(AT_FDCWD, os.fsencode(path), buffer, ctypes.byref(mount), 0)
    assert done == 0, os.strerror(ctypes.get_errno())
    length, kind = struct.unpack_from("Ii", buffer)
    return kind, buffer.raw[8 : 8 + length].hex()


class Scene:
    """A Hatchway with broken workers, and what they are told about it."""

    def __init__(self, hatchway: Hatchway, canaries: Canaries, device: str) -> None:
        self.hatchway = hatchway
        self.canaries = canaries
        self.device = os.stat(device).st_rdev
        self.device_path = device
        self.beside = canaries.plant(hatchway.volumes / "beside")
        self.datagram = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.datagram.bind(str(hatchway.directory / "datagram.sock"))
        self.listeners = [socket.socket(socket.AF_UNIX), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)]
        self.abstract = hatchway.run_dir.name
        for suffix, sock in zip(("", "-datagram"), self.listeners, strict=True):
            sock.bind(f"\0{self.abstract}{suffix}")
        self.listeners[0].listen()

    def close(self) -> None:
        """Close the sockets."""
        for sock in (self.datagram, *self.listeners):
            sock.close()

    def pids(self) -> dict[str, int]:
        """The processes somebody would like to reach; the neighbour has a session open."""
        assert self.hatchway.process is not None
        found = {"supervisor": self.hatchway.process.pid}
        modules = {"hatchway.host.main": "hostd", "hatchway.daemon": "core", "hatchway.host.zygote": "zygote"}
        for process in sorted(leftovers.processes(above=self.hatchway.process.pid)):
            for module, name in modules.items():
                if module in process.what.split():
                    found["neighbour" if name in found else name] = process.pid
            if re.search(r"shop-web-1@|sftp-server|internal-sftp", process.what):
                found["session"] = process.pid
        return found

    def prepare(self, volume: Path) -> None:
        """What the container put there, and what the worker is told."""
        shutil.copy("/bin/busybox", volume / "program")
        (volume / "program").chmod(0o755)
        links = {"link-root": "/", "link-up": "..", "link-canary": str(self.beside), "link-proc": "/proc/self/root"}
        for name, to in links.items():
            (volume / name).symlink_to(to)
        os.mknod(volume / "disk", 0o60666, self.device)
        run = self.hatchway.run_dir
        target = {
            "pids": self.pids(),
            "handle": handle_of(self.beside / "leaf"),
            "paths": [str(self.beside / "leaf"), str(self.beside), str(run)],
            "sockets": [f"{run}/{name}.sock" for name in ("admin", "auth", "hostd")],
            "datagram": str(self.hatchway.directory / "datagram.sock"),
            "abstract": self.abstract,
            "port": self.hatchway.port,
            "links": sorted(links),
            "device": "disk",
            "disk": self.device,
            "canary": "volumes/beside/leaf",
        }
        (volume / "targets.json").write_text(json.dumps(target))

    def results(self, login: str, volume: Path) -> dict[tuple[str, str], str]:
        """Outcome by (group, attack), of a worker started by a session of `login`."""
        session = self.hatchway.open_sftp(login)
        try:
            wait_until(lambda: (volume / "please-move").exists(), "the worker asks to move a directory")
            os.rename(volume / "move-me", self.hatchway.directory / f"moved-{login}")
            (volume / "moved").touch()
            done = volume / "results.json"
            wait_until(lambda: done.exists() or session.poll() is not None, "the attacks end")
            assert done.exists(), self.hatchway.log()[-6000:]
        finally:
            session.communicate("ls\nbye\n", timeout=30)
        return {(group, name): outcome for group, name, outcome in json.loads((volume / "results.json").read_text())}


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    canaries = Canaries()
    image = canaries.device_image(tmp_path_factory.mktemp("device") / "image")
    with (
        breaking_python() as python,
        loop_device(image) as device,
        running("shop/web/1", "shop/broken/1", "shop/bare/1", python=python) as hatchway,
    ):
        made = Scene(hatchway, canaries, device)
        try:
            for instance in ("web", "broken", "bare"):
                hatchway.enable(f"shop/{instance}/1")
            yield made
        finally:
            made.close()
            canaries.close()


DENIED = {
    "EPERM", "EACCES", "ELOOP", "EROFS",
    "ENOSYS",  # clone3, so that the C library does with clone
}  # fmt: skip
"""What a denial says: a right that is missing, or the filter; a mount that follows no link, or is read-only."""

OTHERWISE = {
    ("paths", ".. of a directory moved out of the volume"): {"ENOENT"},
    ("sockets", "an abstract datagram socket, by a socket pair's end"): {"ECONNREFUSED"},
    ("sockets", "a datagram socket by path, by a socket pair's end"): {"ENOENT"},
}
"""Denied because there is nothing where it looks: its name spaces and its root are empty, and what has left the mount
has no parent (fs/namei.c, path_connected)."""

HARMLESS = {
    ("files", "a program of group root with sgid, with CAP_FSETID raised"):
        "directories keep their sgid bit thereby, and the filter cannot tell one from a file: docs/security.md",
}  # fmt: skip
"""What succeeds, and why it may."""


def rights_can_be_refused() -> bool:
    """Whether a socket can have the kernel refuse descriptors (SO_PASSRIGHTS, Linux 6.16)."""
    one, two = socket.socketpair()
    with one, two:
        try:
            one.setsockopt(socket.SOL_SOCKET, 83, 0)
        except OSError:
            return False
    return True


if not rights_can_be_refused():
    _GIVEN = ("control socket", "give hostd the FUSE connection and the volume (SCM_RIGHTS)")
    HARMLESS[_GIVEN] = "hostd reads messages without room for descriptors, so the kernel drops them"

BARE = {
    "paths": ("fchdir",),
    "handles": ("name_to_handle_at",),
    "processes": ("pidfd_open", "kill everybody", "sched_getaffinity", "have the kernel signal"),
    "mounts": ("open_tree of the volume",),
    "namespaces": ("unshare CLONE_NEWUSER", "unshare CLONE_FS", "user namespace"),
    "new processes": ("fork", "clone", "clone3"),
    "sockets": ("socket netlink", "socket vsock", "socket inet6"),
    "files": ("a lease", "a lock that is waited for", "notices", "fanotify", "inotify", "a suid program of root"),
    "ioctl": ("FS_IOC_GETFLAGS", "FS_IOC_SETFLAGS nodump", "FS_IOC_FIEMAP", "SIOCGIFCONF", "FIOASYNC"),
    "rights": ("prctl: dumpable", "prctl: keep", "prctl: another's death", "personality"),
    "kernel": ("keyctl", "add_key", "io_uring", "userfaultfd", "memfd", "shmget", "msgget", "semget", "mq_open",
               "timer_create"),
}  # fmt: skip
"""What succeeds without the filter: there the filter is all that denies it. Kernels differ, so these may fail too."""


def connections(descriptors: str) -> int:
    """How many FUSE connections there are among the open files of a process."""
    found = 0
    for name in os.listdir(descriptors):
        with contextlib.suppress(FileNotFoundError):
            found += os.readlink(f"{descriptors}/{name}") == "/dev/fuse"
    return found


def test_whatever_a_broken_worker_tries_the_kernel_denies(scene: Scene) -> None:
    hatchway = scene.hatchway
    volumes = {name: hatchway.volumes / f"shop-{name}-1-data" for name in ("broken", "bare")}
    with hatchway.open_sftp("shop-web-1") as neighbour:
        wait_until(lambda: hatchway.sessions() >= 1, "the neighbour's session")
        for volume in volumes.values():
            scene.prepare(volume)
        pids = json.loads((volumes["bare"] / "targets.json").read_text())["pids"]
        descriptors = f"/proc/{pids['hostd']}/fd"
        fuse_before = connections(descriptors)
        assert set(pids) == {"supervisor", "hostd", "core", "zygote", "neighbour", "session"}
        scene.canaries.watch()
        try:
            found = {name: scene.results(f"shop-{name}-1", volume) for name, volume in volumes.items()}
            scene.canaries.check()
        finally:
            scene.canaries.close()
        assert {name for name, one in pids.items() if not Path(f"/proc/{one}/root").exists()} == set(), (
            "somebody is gone"
        )
        # Its own copy of each worker's, and none that a worker gave it.
        assert connections(descriptors) == fuse_before + len(volumes), "hostd has taken a FUSE connection"
        out, _ = neighbour.communicate("ls -la /data\nbye\n", timeout=30)
        assert neighbour.returncode == 0, out
    with pytest.raises(BlockingIOError):
        scene.datagram.recv(1, socket.MSG_DONTWAIT)

    note("a broken worker: what it tries, what it gets, and what it would get without the system call filter")
    group = ""
    for key in found["broken"]:
        if key[0] != group:
            group = key[0]
            note(f"  {group}")
        note(f"    {key[1]:<62} {found['broken'][key]:<40} {found['bare'][key]}")
    tried = {(group, name) for group, name, _ in ATTACKS}
    assert set(found["broken"]) == set(found["bare"]) == tried
    not_denied = {
        key: outcome
        for key, outcome in found["broken"].items()
        if outcome not in DENIED | OTHERWISE.get(key, set()) and not outcome.startswith("held: ")
    }
    assert set(not_denied) == set(HARMLESS), not_denied
    bare = {
        key: outcome
        for key, outcome in found["bare"].items()
        if outcome.startswith("SUCCEEDED") and key not in HARMLESS and not key[1].startswith(BARE.get(key[0], ()))
    }
    assert bare == {}


MACHINE_CODE = bytes.fromhex("b814000000cd80c3")
"""mov $20, %eax; int $0x80; ret: getpid(2) by the table of 32-bit programs."""


def _other_table(which: str) -> None:
    if which == "x32":
        LIBC.syscall(ctypes.c_long(0x40000000 | 39))
        return
    code = mmap.mmap(-1, 4096, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS, mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
    code.write(MACHINE_CODE)
    ctypes.CFUNCTYPE(ctypes.c_int)(ctypes.addressof(ctypes.c_char.from_buffer(code)))()


@pytest.mark.skipif(MACHINE != "x86_64", reason="other architectures have one table of system calls")
@pytest.mark.parametrize("which", ["x32", "32-bit"])
def test_system_calls_by_another_table_are_the_end(which: str, tmp_path: Path) -> None:
    """Their numbers mean something else than the filter has looked for."""
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            privileges.bound(privileges.ZYGOTE_CAPS)
            # This process is pytest's, which may be larger than a worker may get.
            confinement.MAX_MEMORY = resource.RLIM_INFINITY
            caps = privileges.WORKER_CAPS
            confine({writer}, uid=1910299998, scratch=str(tmp_path), permitted=caps, effective=caps)
            os.write(writer, b"confined ")
            _other_table(which)
            os.write(writer, b"went on")
        finally:
            os._exit(1)
    os.close(writer)
    with os.fdopen(reader, "rb") as file:
        said = file.read()
    _, status = os.waitpid(pid, 0)
    assert said == b"confined "
    assert os.WIFSIGNALED(status)
    killed_by = signal.Signals(os.WTERMSIG(status))
    note(f"a broken worker: a system call by the {which} table: {killed_by.name}")
    # A kernel without 32-bit programs has no such interrupt.
    assert killed_by in ({signal.SIGSYS} if which == "x32" else {signal.SIGSYS, signal.SIGSEGV})
