"""Random operations, the same on a mounted volume and on a plain directory beside it: they must be told the same.

After every step the two trees are compared as the session sees them, and what is open; and the plain directory with
what is really on the volume's disk, where everything must belong to whom the volume belongs. What must differ stands in
`differences`.
"""

from __future__ import annotations

import fcntl
import itertools
import os
import reprlib
import shutil
import stat
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, Phase, seed, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test
from tests.mount.actor import NEST, PARTS, UTIME_NOW, UTIME_OMIT, Actor, Answer, Operations
from tests.mount.differences import Squashed
from tests.mount.served import OWNER_GID, OWNER_UID, Served, counted, served

from hatchway.kernel.files import RENAME_EXCHANGE
from hatchway.volumefs.ledger import Ledger

Chosen = bytes | tuple[int, bytes]
"""A path, or the number of one that exists and what is put behind it: an odd one from where the example began, an even
one from the working directory."""

_FEW = [b"a", b"b", b"c", b"d"]
_STRANGE = [
    b"\xff\xfe\x80", b"new\nline", "grüße".encode(), b" ", b"-rf", b"...", b"n" * 255, b"n" * 256, b"\x7f",
]  # fmt: skip
_TARGETS = [
    *_FEW, b"../a", b"a/b", b".", b"..", b"/nonexistent/x", b"\xff", b"b/", b"", b"t" * 4095, b"t" * 4096, b"c/../a",
]  # fmt: skip

components = st.sampled_from(_FEW * 15 + _STRANGE + [b".", b".."])
fresh = st.builds(
    lambda parts, end: b"/".join(parts) + end,
    st.lists(components, min_size=1, max_size=3),
    st.sampled_from([b""] * 8 + [b"/", b"/."]),
)
# One that exists, by its place in the listing of the tree: names alone would hardly meet.
known = st.tuples(st.sampled_from(range(82)), st.sampled_from([b""] * 12 + [b"/", b"/a", b"/b", b"/..", b"/."]))
paths = st.one_of(
    known, known, known, known, known, fresh, fresh, fresh,
    st.sampled_from([b"", b".", b"..", b"/".join([b"x" * 250] * 17)]),
)  # fmt: skip
# A name that may well be free, in a directory that may well be there.
free = st.one_of(
    st.tuples(st.sampled_from(range(82)), st.sampled_from([b"/a", b"/b", b"/c", b"/d"])), st.sampled_from(_FEW)
)
slots = st.sampled_from([0, 1, 2, 3, 0, 1, 2, 3, 4])
modes = st.one_of(
    st.sampled_from([0o644, 0o600, 0o755, 0o700, 0o777, 0o400, 0o200, 0o000, 0o4755, 0o2755, 0o1777, 0o7777]),
    st.integers(0, 0o7777),
)
access_modes = st.sampled_from([os.O_RDONLY, os.O_WRONLY, os.O_RDWR, os.O_RDWR])
extra_flags = st.sets(
    st.sampled_from([
        os.O_CREAT, os.O_CREAT, os.O_EXCL, os.O_TRUNC, os.O_APPEND, os.O_DIRECTORY, os.O_NOFOLLOW, os.O_NONBLOCK,
        os.O_SYNC, os.O_PATH, os.O_NOATIME, os.O_TMPFILE,
    ]),
    max_size=4,
)  # fmt: skip
sizes = st.one_of(
    st.integers(0, 70_000),
    st.sampled_from([0, 1, 4095, 4096, 4097, 131072, 131073, 1 << 20, (1 << 33) + 5, 1 << 46, (1 << 63) - 1, -1]),
)
lengths = st.one_of(st.integers(0, 300), st.sampled_from([4096, 131072, 131073, 300_000]))
offsets = st.one_of(
    st.integers(0, 5000), st.sampled_from([*PARTS, (1 << 44) - 4097, (1 << 44) + 1, (1 << 62), (1 << 63) - 1, -1])
)
data = st.tuples(st.integers(1, 255), lengths)
"""A byte, and how often."""
times = st.one_of(
    st.sampled_from([(0, UTIME_NOW), (0, UTIME_OMIT)] * 4 + [(0, 1_000_000_000), (0, -1)]),
    st.tuples(st.sampled_from([0, 1, 86_400, 1_000_000_000, -5, 1 << 32, 1 << 33]), st.integers(0, 999_999_999)),
)
owners = st.sampled_from([(1, 1), (1, -1), (-1, 1), (-1, -1), (0, -1), (-1, 0), (0, 0), (1, 0), (12345, 1)])
follow = st.booleans()


@dataclass
class Beds:
    """What stays from example to example: both directories with their actors, and what was counted."""

    volume: Served
    plain: Path
    seen_actor: Actor
    plain_actor: Actor
    numbers: Iterator[int] = field(default_factory=itertools.count)
    steps: int = 0
    succeeded: int = 0
    answers: dict[str, dict[str, int]] = field(default_factory=dict)

    def entered(self) -> tuple[int, int]:
        """Blocks and files that the volume's ledger has."""
        assert self.volume.ledger is not None
        figures = self.volume.ledger.figures()
        return figures.blocks, figures.files

    def count(self, name: str, answer: Answer) -> None:
        """Count what came of the operation `name`."""
        self.steps += 1
        self.succeeded += answer[0] == "ok"
        of_name = self.answers.setdefault(name, {})
        what = "ok" if answer[0] == "ok" else str(answer[1])
        of_name[what] = of_name.get(what, 0) + 1


class Machine(RuleBasedStateMachine):
    """One example. `beds` is set in a subclass by `run`."""

    beds: Beds

    def __init__(self) -> None:
        super().__init__()
        self.case = b"case-%d" % next(self.beds.numbers)
        self.began = time.monotonic()
        self.paths: list[bytes] = []
        for where, uid, gid in (
            (self.beds.volume.backing, OWNER_UID, OWNER_GID),
            (self.beds.plain, self.beds.volume.uid, self.beds.volume.uid),
        ):
            path = os.path.join(os.fsencode(where), self.case)
            os.mkdir(path, 0o755)
            os.chown(path, uid, gid)
        self.entered = self.beds.entered()
        for actor in (self.beds.seen_actor, self.beds.plain_actor):
            assert actor.do("enter", self.case) == ("ok", None)

    def both(self, name: str, *arguments: object) -> None:
        """Have both do it: they must answer the same."""
        plain = self.beds.plain_actor.do(name, *arguments)
        seen = self.beds.seen_actor.do(name, *arguments)
        self.beds.count(name, plain)
        if seen != plain:
            said = f"{brief(name, *arguments)}: the volume answers {brief(*seen)}, a plain directory {brief(*plain)}"
            raise AssertionError(said)

    def path(self, chosen: Chosen) -> bytes:
        """A path from what a strategy gave."""
        if isinstance(chosen, bytes):
            return chosen
        number, end = chosen
        path = (self.paths[number // 2 % len(self.paths)] if self.paths else b"a") + end
        return b"~/" + path if number % 2 else path

    @invariant()
    def the_same_tree(self) -> None:
        """What the session sees, what is open, and what is on disk."""
        plain: Any = None
        for what in ("held", "tree"):
            state, plain = self.beds.plain_actor.do(what)
            assert state == "ok", plain
            state, seen = self.beds.seen_actor.do(what)
            assert state == "ok", f"{what}: the volume answers {seen}"
            differ(seen, plain, f"{what} on the volume")
        nest = b"/".join(NEST) + b"/"
        self.paths = [path.removeprefix(nest) for path in plain if path.startswith(nest) and path[-1:] != b"/"]
        here = on_disk(self.beds.volume.backing, self.case, (OWNER_UID, OWNER_GID))
        there = on_disk(self.beds.plain, self.case, (self.beds.volume.uid, self.beds.volume.uid))
        differ(here, there, "the disk")

    def teardown(self) -> None:
        """Remove it, which root may whatever the modes are."""
        for actor in (self.beds.seen_actor, self.beds.plain_actor):
            actor.do("leave")
        self.what_is_there_is_entered()
        for where in (self.beds.volume.backing, self.beds.plain):
            shutil.rmtree(os.path.join(os.fsencode(where), self.case))

    def what_is_there_is_entered(self) -> None:
        """The ledger has what the example has made of the volume, neither more nor less, when all is closed."""
        there = counted(os.path.join(os.fsencode(self.beds.volume.backing), self.case))
        deadline = time.monotonic() + 5
        while (now := self.beds.entered()) != (expected := tuple(map(sum, zip(self.entered, there, strict=True)))):
            # A file is released some time after it is closed.
            assert time.monotonic() < deadline, f"the ledger has {now}, blocks and files, and not {expected}"
            time.sleep(0.002)

    @initialize(how=st.sampled_from([os.O_RDWR, os.O_RDWR | os.O_APPEND, os.O_RDONLY]), text=st.sampled_from(_TARGETS))
    def begin(self, how: int, text: bytes) -> None:
        """Something to work on: two files, a directory with a file in it, a symlink, and some of it open."""
        for name, *arguments in (
            ("mkdir", b"a", 0o755),
            ("open", 0, b"a/b", os.O_RDWR | os.O_CREAT, 0o644),
            ("write", 0, b"some data " * 50),
            ("open", 1, b"b", os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600),
            ("write", 1, b"other data " * 500),
            ("open", 2, b"b", how, 0),
            ("open", 3, b"a", os.O_RDONLY | os.O_DIRECTORY, 0),
            ("symlink", text, b"c"),
            ("mkdir", b"d", 0o700),
        ):
            self.both(str(name), *arguments)

    # By path

    @rule(slot=slots, path=paths, how=access_modes, extra=extra_flags, mode=modes)
    def open(self, slot: int, path: Chosen, how: int, extra: set[int], mode: int) -> None:
        flags = how
        for flag in extra:
            flags |= flag
        self.both("open", slot, self.path(path), flags, mode)

    @rule(slot=slots, path=paths, mode=modes)
    def create(self, slot: int, path: Chosen, mode: int) -> None:
        self.both("open", slot, self.path(path), os.O_RDWR | os.O_CREAT, mode | 0o600)

    @rule(slot=slots, directory=slots, name=components, how=access_modes, extra=extra_flags, mode=modes)
    def open_at(self, slot: int, directory: int, name: bytes, how: int, extra: set[int], mode: int) -> None:
        flags = how
        for flag in extra - {os.O_TMPFILE}:
            flags |= flag
        self.both("open_at", slot, directory, name, flags, mode)

    @rule(slot=slots, path=paths)
    def opendir(self, slot: int, path: Chosen) -> None:
        self.both("open", slot, self.path(path), os.O_RDONLY | os.O_DIRECTORY, 0)

    @rule(path=paths, follow=follow)
    def stat_path(self, path: Chosen, follow: bool) -> None:
        self.both("stat", self.path(path), follow)

    @rule(path=paths)
    def readlink(self, path: Chosen) -> None:
        self.both("readlink", self.path(path))

    @rule(path=paths, mode=st.integers(0, 7))
    def access(self, path: Chosen, mode: int) -> None:
        self.both("access", self.path(path), mode)

    @rule(path=paths, size=sizes)
    def truncate(self, path: Chosen, size: int) -> None:
        self.both("truncate", self.path(path), size)

    @rule(path=paths)
    def unlink(self, path: Chosen) -> None:
        self.both("unlink", self.path(path))

    @rule(path=paths)
    def rmdir(self, path: Chosen) -> None:
        self.both("rmdir", self.path(path))

    @rule(path=paths, mode=modes)
    def mkdir(self, path: Chosen, mode: int) -> None:
        self.both("mkdir", self.path(path), mode)

    @rule(path=free)
    def make_directory(self, path: Chosen) -> None:
        self.both("mkdir", self.path(path), 0o755)

    @rule(path=st.one_of(paths, free), mode=modes, kind=st.sampled_from([stat.S_IFREG, stat.S_IFIFO, stat.S_IFSOCK]))
    def mknod(self, path: Chosen, mode: int, kind: int) -> None:
        self.both("mknod", self.path(path), kind | mode)

    @rule(old=paths, new=st.one_of(paths, free, free), flags=st.sampled_from([0, 0, 0, 0, 1, 2, 2, 3, 8]))
    def rename(self, old: Chosen, new: Chosen, flags: int) -> None:
        self.both("rename", self.path(old), self.path(new), flags)

    @rule(old=known, new=known)
    def replace(self, old: Chosen, new: Chosen) -> None:
        self.both("rename", self.path(old), self.path(new), 0)

    @rule(old=known, new=known)
    def exchange(self, old: Chosen, new: Chosen) -> None:
        self.both("rename", self.path(old), self.path(new), RENAME_EXCHANGE)

    @rule(old=known, new=free)
    def move(self, old: Chosen, new: Chosen) -> None:
        self.both("rename", self.path(old), self.path(new), 0)

    @rule(old=paths, end=st.sampled_from([b"/a", b"/b/c", b"", b"/.", b"/.."]))
    def rename_into_itself(self, old: Chosen, end: bytes) -> None:
        path = self.path(old)
        self.both("rename", path, path + end, 0)

    @rule(old=paths, new=st.one_of(paths, free, free), follow=follow)
    def link(self, old: Chosen, new: Chosen, follow: bool) -> None:
        self.both("link", self.path(old), self.path(new), follow)

    @rule(text=st.sampled_from(_TARGETS), path=st.one_of(paths, free))
    def symlink(self, text: bytes, path: Chosen) -> None:
        self.both("symlink", text, self.path(path))

    @rule(path=paths, mode=modes)
    def chmod(self, path: Chosen, mode: int) -> None:
        self.both("chmod", self.path(path), mode)

    @rule(path=paths, ids=owners, follow=follow)
    def chown(self, path: Chosen, ids: tuple[int, int], follow: bool) -> None:
        self.both("chown", self.path(path), *ids, follow)

    @rule(path=paths, atime=times, mtime=times, follow=follow)
    def utimens(self, path: Chosen, atime: tuple[int, int], mtime: tuple[int, int], follow: bool) -> None:
        self.both("utimens", self.path(path), atime, mtime, follow)

    @rule(path=paths)
    def listdir(self, path: Chosen) -> None:
        self.both("listdir", self.path(path))

    @rule(path=paths, where=st.integers(0, 40))
    def seek_listing(self, path: Chosen, where: int) -> None:
        self.both("seek_listing", self.path(path), where)

    @rule(path=paths)
    def space(self, path: Chosen) -> None:
        self.both("space", self.path(path))

    @rule(path=paths)
    def chdir(self, path: Chosen) -> None:
        self.both("chdir", self.path(path))

    @rule()
    def home(self) -> None:
        self.both("home")

    @rule(mask=st.sampled_from([0o022, 0o022, 0o000, 0o077, 0o777]))
    def umask(self, mask: int) -> None:
        self.both("umask", mask)

    @rule(path=paths)
    def setxattr(self, path: Chosen) -> None:
        self.both("setxattr", self.path(path), "user.x", b"value")

    # By descriptor

    @rule(slot=slots)
    def close(self, slot: int) -> None:
        self.both("close", slot)

    @rule(slot=slots, size=lengths)
    def read(self, slot: int, size: int) -> None:
        self.both("read", slot, size)

    @rule(slot=slots, size=lengths, offset=offsets)
    def pread(self, slot: int, size: int, offset: int) -> None:
        self.both("pread", slot, size, offset)

    @rule(slot=slots, data=data)
    def write(self, slot: int, data: tuple[int, int]) -> None:
        self.both("write", slot, bytes([data[0]]) * data[1])

    @rule(slot=slots, data=data, offset=offsets)
    def pwrite(self, slot: int, data: tuple[int, int], offset: int) -> None:
        self.both("pwrite", slot, bytes([data[0]]) * data[1], offset)

    @rule(slot=slots, offset=offsets, whence=st.integers(0, 5))
    def lseek(self, slot: int, offset: int, whence: int) -> None:
        self.both("lseek", slot, offset, whence)

    @rule(slot=slots, size=sizes)
    def ftruncate(self, slot: int, size: int) -> None:
        self.both("ftruncate", slot, size)

    @rule(slot=slots, mode=modes)
    def fchmod(self, slot: int, mode: int) -> None:
        self.both("fchmod", slot, mode)

    @rule(slot=slots, ids=owners)
    def fchown(self, slot: int, ids: tuple[int, int]) -> None:
        self.both("fchown", slot, *ids)

    @rule(slot=slots, atime=times, mtime=times)
    def futimens(self, slot: int, atime: tuple[int, int], mtime: tuple[int, int]) -> None:
        self.both("futimens", slot, atime, mtime)

    @rule(slot=slots, data_only=st.booleans())
    def fsync(self, slot: int, data_only: bool) -> None:
        self.both("fsync", slot, data_only)

    @rule(slot=slots, mode=st.sampled_from([0, 1, 3, 0x10]), offset=st.integers(-1, 9000), length=st.integers(-1, 9000))
    def fallocate(self, slot: int, mode: int, offset: int, length: int) -> None:
        self.both("fallocate", slot, mode, offset, length)

    @rule(slot=slots, offset=st.integers(0, 5000), other=slots, other_offset=st.integers(0, 90_000), count=lengths)
    def copy_range(self, slot: int, offset: int, other: int, other_offset: int, count: int) -> None:
        self.both("copy_range", slot, offset, other, other_offset, count)

    @rule(slot=slots, path=st.one_of(paths, free, free))
    def name_again(self, slot: int, path: Chosen) -> None:
        self.both("name_again", slot, self.path(path))

    @rule(slot=slots, other=slots, flags=st.sampled_from([os.O_RDONLY, os.O_RDWR, os.O_WRONLY | os.O_TRUNC]))
    def open_again(self, slot: int, other: int, flags: int) -> None:
        self.both("open_again", slot, other, flags)

    @rule(slot=slots, mode=modes)
    def chmod_by_link(self, slot: int, mode: int) -> None:
        self.both("chmod_by_link", slot, mode)

    @rule(slot=slots)
    def listing(self, slot: int) -> None:
        self.both("listing", slot)

    @rule(slot=slots)
    def fchdir(self, slot: int) -> None:
        self.both("fchdir", slot)

    @rule(slot=slots, how=st.sampled_from([fcntl.LOCK_SH, fcntl.LOCK_EX, fcntl.LOCK_UN]))
    def flock(self, slot: int, how: int) -> None:
        self.both("flock", slot, how)

    @rule(slot=slots, shared=st.booleans())
    def mapped(self, slot: int, shared: bool) -> None:
        self.both("mapped", slot, shared)


def brief(name: str, *values: object) -> str:
    """A call as text, with long strings cut."""
    return f"{name}({', '.join(reprlib.repr(value) for value in values)})"


def differ(one: Any, other: Any, what: str) -> None:
    """Raise AssertionError with what differs between two dictionaries, and nothing else."""
    if one != other:
        lines = [
            f"  {key!r}: {one.get(key)} and not {other.get(key)}"
            for key in sorted(one.keys() | other.keys())
            if one.get(key) != other.get(key)
        ]
        raise AssertionError(f"{what} is not as the plain directory:\n" + "\n".join(lines))


def on_disk(where: Path, case: bytes, owner: tuple[int, int]) -> dict[bytes, object]:
    """What root finds below `where`/`case`; all of it must belong to `owner`."""
    found: dict[bytes, object] = {}
    numbers: dict[int, int] = {}
    top = os.path.join(os.fsencode(where), case)

    def walk(fd: int, above: bytes) -> None:
        try:
            for name in sorted(os.fsencode(name) for name in os.listdir(fd)):
                path = above + name
                st = os.stat(name, dir_fd=fd, follow_symlinks=False)
                assert (st.st_uid, st.st_gid) == owner, path
                is_directory = stat.S_ISDIR(st.st_mode)
                number = -1 if is_directory else numbers.setdefault(st.st_ino, len(numbers))
                inside: object = None
                if stat.S_ISLNK(st.st_mode):
                    inside = os.readlink(name, dir_fd=fd)
                elif stat.S_ISREG(st.st_mode):
                    inside = allocated(fd, name)
                found[path] = (st.st_mode, st.st_nlink, -1 if is_directory else st.st_size, number, inside)
                if is_directory:
                    walk(os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=fd), path + b"/")
        finally:
            os.close(fd)

    walk(os.open(top, os.O_RDONLY | os.O_DIRECTORY), b"")
    return found


def allocated(directory: int, name: bytes) -> list[tuple[int, bytes]]:
    """The data of a file, without the zeros that may as well be holes: (offset, block) of 4096 bytes each."""
    fd = os.open(name, os.O_RDONLY | os.O_NOATIME | os.O_NOFOLLOW, dir_fd=directory)
    found: list[tuple[int, bytes]] = []
    try:
        at = 0
        while True:
            try:
                at = os.lseek(fd, at, os.SEEK_DATA)
            except OSError:
                return found  # ENXIO: no more data
            end = os.lseek(fd, at, os.SEEK_HOLE)
            while at < end:
                block = os.pread(fd, 4096, at)
                if block.strip(b"\0"):
                    found.append((at, block))
                at += 4096
    finally:
        os.close(fd)


@contextmanager
def beds(on: str | None = None) -> Iterator[Beds]:
    """A mounted volume and a plain directory of the session's, on one file system, with an actor in each.

    The volume has a limit, which no step meets: so all is entered in its ledger.
    """
    with ExitStack() as stack:
        ledger = Ledger.make()
        stack.callback(ledger.close)
        ledger.suppose(0, 0, 1)
        ledger.limit(0, 1 << 40)
        volume = stack.enter_context(served(on=on, ledger=ledger))
        plain = Path(tempfile.mkdtemp(prefix="hatchway-plain-", dir=on or tempfile.gettempdir()))
        stack.callback(shutil.rmtree, plain)
        os.chmod(plain, 0o755)
        os.chown(plain, volume.uid, volume.uid)
        seen_actor = Actor(Operations, volume.path, volume.uid)
        stack.callback(seen_actor.end)
        plain_actor = Actor(Squashed, plain, volume.uid)
        stack.callback(plain_actor.end)
        yield Beds(volume, plain, seen_actor, plain_actor)


def run(here: Beds, number: int, examples: int) -> None:
    """Play `examples` on `here`, always the same for the same `number`.

    Raises AssertionError with the shortest steps that lead to a difference.
    """
    how = settings(
        max_examples=examples,
        stateful_step_count=40,
        deadline=None,
        database=None,
        print_blob=False,
        report_multiple_bugs=False,
        phases=(Phase.generate, Phase.shrink),
        suppress_health_check=list(HealthCheck),
    )
    play = seed(number)(type("Play", (Machine,), {"beds": here}))
    run_state_machine_as_test(play, settings=how)
