"""The test bed: a racing container, canaries all around its volume, and whoever is to be kept inside.

Three kinds of visitor can be let loose: sessions (processes of the login in its root, behind a real `hatchway run`),
the tree alone, and a server that looks at paths as strings, which must fail here: or the bed would prove nothing.
"""

from __future__ import annotations

import contextlib
import os
import pwd
import random
import signal
import stat
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.sshd.dockerd import Workshop
from tests.sshd.hostile import driving, tree_operations
from tests.sshd.hostile.canaries import Breach, Canaries
from tests.sshd.hostile.container import SLOTS, Racer, compiled, racing
from tests.sshd.hostile.driving import Met, Progress, Recorder, look_at
from tests.sshd.hostile.operations import OPERATIONS, Visitor
from tests.sshd.running import Hatchway, wait_until

PATH = "/data"


@dataclass
class Bed:
    """`volume` is the volume's directory on the host; `elsewhere` the canary tree on the host far from it."""

    volume: Path
    canaries: Canaries
    racer: Racer
    instance: str
    elsewhere: Path
    scratch: Path


@contextlib.contextmanager
def loop_device(file: Path) -> Iterator[str]:
    """The path of a block device that has the contents of `file`."""
    command = ["losetup", "--find", "--show", str(file)]
    device = subprocess.run(command, check=True, capture_output=True, text=True, timeout=30).stdout.strip()
    try:
        yield device
    finally:
        subprocess.run(["losetup", "--detach", device], check=True, timeout=30)
        wait_until(lambda: not Path(f"/sys/block/{device.removeprefix('/dev/')}/loop").exists(), "the loop device goes")


@contextlib.contextmanager
def made(
    shop: Workshop,
    name: str,
    base: Path,
    *,
    bind: Path | None = None,
    wild: bool = False,
    seed: int = 1,
) -> Iterator[Bed]:
    """A bed in the working directory `base`. The volume is the engine's, or the directory `bind`, which is made.

    `wild`: symlinks lead to /, /proc and the device as well, not to canaries only: for who cannot follow them so far
    that a mistake would harm this machine.
    """
    canaries = Canaries()
    if bind is None:
        volume = shop.volume(f"{name}-data")
        directory = Path(str((volume.attrs or {})["Mountpoint"]))
        source = str(volume.name)
    else:
        bind.mkdir(parents=True)
        directory, source = bind, str(bind)
    other = shop.volume(f"{name}-other")
    beside = canaries.plant(directory.parent / "beside")
    neighbour = canaries.plant(Path(str((other.attrs or {})["Mountpoint"])) / "tree")
    elsewhere = canaries.plant(base / "etc" / "canary")
    directories, files = _targets(directory, [beside, neighbour, elsewhere], wild=wild)
    with contextlib.ExitStack() as stack:
        stack.callback(canaries.close)
        device = stack.enter_context(loop_device(canaries.device_image(base / "image")))
        if wild:
            files.append(device)
        number = os.stat(device).st_rdev
        assert stat.S_ISBLK(os.stat(device).st_mode)
        canaries.watch()
        racer = stack.enter_context(
            racing(
                shop,
                name,
                compiled(base),
                source,
                device=f"{os.major(number)}:{os.minor(number)}",
                directories=directories,
                files=files,
                seed=seed,
            )
        )
        yield Bed(directory, canaries, racer, f"default/{shop.name(name)}/1", elsewhere, base)


def _targets(volume: Path, trees: list[Path], *, wild: bool) -> tuple[list[str], list[str]]:
    """Where the symlinks lead: to each canary, by every kind of path."""
    directories = []
    for tree in trees:
        directories += [str(tree), f"{'../' * 40}{str(tree)[1:]}"]
        # From the volume's root, and from directories in it.
        relative = os.path.relpath(tree, volume)
        directories += [relative, f"../{relative}", f"../../{relative}"]
        # By magic links.
        directories += [f"/proc/self/root{tree}", f"/proc/1/root{tree}", f"/proc/self/cwd/{'../' * 20}{str(tree)[1:]}"]
    files = [f"{path}/leaf" for path in directories]
    if wild:
        directories += [
            "/",
            "..",
            "../..",
            "/proc/self/root",
            "/proc/self/fd",
            "/proc/self/cwd",
            "/proc/thread-self/fd/5",
        ]
        files += ["/proc/self/environ", "/proc/self/fd/4", "/proc/self/fd/5/../beside/leaf"]
    return directories, files


def sessions(hatchway: Hatchway, bed: Bed, login: str, *, drivers: int, seconds: float, most: int) -> Met:
    """Let processes of the login loose in its root. A session must be open, so that the volume is mounted."""
    account = pwd.getpwnam(login)
    root = f"{hatchway.run_dir}/mnt/{login}"

    def drive(number: int, progress: Progress, until: float, most: int) -> Met:
        os.chroot(root)
        os.chdir(PATH)
        os.setgroups([])
        os.setresgid(account.pw_gid, account.pw_gid, account.pw_gid)
        os.setresuid(account.pw_uid, account.pw_uid, account.pw_uid)
        os.umask(0o022)
        # What the holder of a lease is sent when another driver opens the file.
        signal.signal(signal.SIGIO, signal.SIG_IGN)
        visitor = Visitor(number, SLOTS)
        recorder = Recorder(bed.canaries.word, progress)
        names = list(OPERATIONS)
        while recorder.met.operations < most and time.monotonic() < until:
            visitor.random.shuffle(names)
            for name in names:
                path = visitor.path()
                act = OPERATIONS[name]
                parent = os.path.dirname(path) or b"."

                def look(path: bytes = path, parent: bytes = parent) -> tuple[str, str]:
                    return look_at(path, parent)

                def do(path: bytes = path, act=act) -> object:  # type: ignore[no-untyped-def] # an Operation
                    return act(visitor, path)

                if not recorder.do(name, do, look):
                    return recorder.met
        return recorder.met

    return driving.run(drive, drivers, seconds, most, lambda: _untouched(bed))


def tree_alone(bed: Bed, *, drivers: int, seconds: float, most: int, mistake: str | None = None) -> Met:
    """Let the tree loose on the plain directory, without any of what confines a worker. Raises Breach."""

    def drive(number: int, progress: Progress, until: float, most: int) -> Met:
        return tree_operations.drive(bed.volume, SLOTS, bed.canaries.word, number, progress, until, most, mistake)

    return driving.run(drive, drivers, seconds, most, lambda: _untouched(bed))


def _untouched(bed: Bed) -> None:
    found = bed.canaries.events()
    if found:
        raise Breach("canaries were touched:\n  " + "\n  ".join(found[:20]))


class Naive:
    """A server as others are: it makes sure that a path's real one is in the volume, then uses the path."""

    def __init__(self, bed: Bed) -> None:
        self._root = os.fsencode(bed.volume)
        self._random = random.Random(7)  # noqa: S311 - a race, no secret

    def path(self, *rests: bytes) -> bytes:
        """A path that has just been checked. Raises PermissionError when it leads out."""
        path = self._root + b"/s%03d" % self._random.randrange(8) + self._random.choice(rests)
        if not os.path.realpath(path).startswith(self._root + b"/"):
            raise PermissionError(13, "outside")
        return path

    def read(self) -> bytes:
        fd = os.open(self.path(b"", b"/leaf", b"/sub/leaf"), os.O_RDONLY | os.O_NONBLOCK)
        try:
            return os.read(fd, 4096)
        finally:
            os.close(fd)

    def write(self) -> bytes:
        fd = os.open(self.path(b"", b"/leaf"), os.O_WRONLY | os.O_NONBLOCK)
        try:
            os.write(fd, b"written by a server that looks at paths\n")
        finally:
            os.close(fd)
        return b""

    def chmod(self) -> bytes:
        os.chmod(self.path(b"", b"/leaf"), 0o700)
        return b""

    def create(self) -> bytes:
        os.close(os.open(self.path(b"/new", b"/sub/new"), os.O_WRONLY | os.O_CREAT, 0o666))
        return b""

    def list(self) -> bytes:
        return b"\n".join(os.listdir(self.path(b"", b"/sub")))


def naive(bed: Bed, seconds: float) -> set[str]:
    """Let the naive server loose until everything has been breached. Returns what was done to canaries."""
    server = Naive(bed)
    done: set[str] = set()
    until = time.monotonic() + seconds
    wanted = {"shown", "opened", "read", "written", "attributes changed", "created in"}
    while not wanted <= done and time.monotonic() < until:
        for _ in range(50):
            for act in (server.read, server.write, server.chmod, server.create, server.create, server.list):
                with contextlib.suppress(OSError):
                    if bed.canaries.word in act():
                        done.add("shown")
        for event in bed.canaries.events():
            done.update(event.rpartition(": ")[2].split(", "))
    return done


def clients(hatchway: Hatchway, bed: Bed, login: str, rounds: int, seed: int = 1) -> int:
    """The same by real sftp clients. Returns how many lines they were given. Raises AssertionError at a breach."""
    chosen = random.Random(seed)  # noqa: S311 - a race, no secret
    lines = 0
    for number in range(rounds):
        here = bed.scratch / f"client-{seed}-{number}"
        here.mkdir()
        (here / "up").write_bytes(b"uploaded\n")
        (here / "tree" / "sub").mkdir(parents=True)
        (here / "tree" / "sub" / "leaf").write_bytes(b"uploaded\n")
        batch = [f"lcd {here}"]
        for step in range(20):
            one, two = (f"s{chosen.randrange(SLOTS):03d}{chosen.choice(('', '/leaf', '/sub/leaf'))}" for _ in range(2))
            batch += [
                f"get {one} got-{step}", f"get -r {one} tree-{step}", f"put up {two}", f"put -r tree {two}",
                f"ls -la {one}", f"ls -la {two}/", f"chmod 777 {one}", f"chown 0 {one}", f"rename {one} {two}",
                f"ln {one} {two}", f"ln -s ../beside {two}", f"mkdir {one}", f"rmdir {two}", f"rm {one}", f"df {two}",
                f"reput up {two}", f"cp {one} {two}",
            ]  # fmt: skip
        batch = [batch[0], *(f"-{line}" for line in batch[1:])]
        done = hatchway.sftp(login, "\n".join(batch) + "\n", check=False)
        lines += len(batch)
        word = bed.canaries.word
        assert word.decode() not in done.stdout + done.stderr, "a listing shows a canary"
        for path in here.rglob("*"):
            assert word.decode() not in path.name
            if path.is_file() and not path.is_symlink():
                assert word not in path.read_bytes(), f"{path} is a canary"
        _untouched(bed)
    return lines
