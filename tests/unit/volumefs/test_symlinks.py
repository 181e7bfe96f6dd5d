"""For every operation: a symlink at the end of the path, a symlink in the middle, and a container that swaps them.

The trees here stand on a plain directory: no mount forbids symlinks, so what holds is this code's own care. Outside the
volume stands a canary that must not change in any way, nor may anything hang on a FIFO.
"""

from __future__ import annotations

import contextlib
import errno
import os
import signal
import stat
import time
from collections.abc import Callable, Iterator

import pytest
from tests.unit.volumefs.harness import SHOWN_UID, Canary, Volume, refused

from hatchway.kernel.files import RENAME_EXCHANGE, renameat2
from hatchway.volumefs.nodes import ROOT_ID

Operation = Callable[[Volume, int], object]

RACE_S = 0.25
SLOWEST_S = 1.0


def _released(volume: Volume, handle: int) -> None:
    volume.tree.release(handle)


def _created(volume: Volume, parent: int) -> None:
    handle, entry = volume.tree.create(parent, b"new", 0o666, os.O_RDWR)
    volume.tree.write(handle, 0, b"x")
    volume.tree.release(handle)
    volume.tree.forget(entry.node.id, 1)


def _listed(volume: Volume, node_id: int) -> None:
    handle = volume.tree.opendir(node_id)
    try:
        volume.tree.readdir(handle, 0, lambda *_: True)
    finally:
        volume.tree.release(handle)


ON_A_NODE: dict[str, Operation] = {
    "getattr": lambda v, n: v.tree.getattr(n),
    "chmod": lambda v, n: v.tree.setattr(n, mode=0o777),
    "times": lambda v, n: v.tree.setattr(n, atime_ns=5, mtime_ns=6),
    "truncate": lambda v, n: v.tree.setattr(n, size=0),
    "chown": lambda v, n: v.tree.setattr(n, uid=SHOWN_UID),
    "open to read": lambda v, n: _released(v, v.tree.open(n, os.O_RDONLY)),
    "open to write": lambda v, n: _released(v, v.tree.open(n, os.O_WRONLY)),
    "open to truncate": lambda v, n: _released(v, v.tree.open(n, os.O_WRONLY | os.O_TRUNC)),
    "readlink": lambda v, n: v.tree.readlink(n),
    "list": _listed,
    "link": lambda v, n: v.tree.link(n, ROOT_ID, b"linked"),
}
"""Operations that find a node again by its name."""

IN_A_DIRECTORY: dict[str, Operation] = {
    "lookup": lambda v, n: v.tree.lookup(n, b"file"),
    "create": _created,
    "open by create": lambda v, n: _released(v, v.tree.create(n, b"file", 0o666, os.O_RDWR | os.O_TRUNC)[0]),
    "mkdir": lambda v, n: v.tree.mkdir(n, b"newdir", 0o777),
    "mknod": lambda v, n: v.tree.mknod(n, b"newnode", stat.S_IFREG | 0o666),
    "symlink": lambda v, n: v.tree.symlink(n, b"newlink", b"target"),
    "link into": lambda v, n: v.tree.link(v.id(b"spare"), n, b"newname"),
    "unlink": lambda v, n: v.tree.unlink(n, b"file"),
    "rmdir": lambda v, n: v.tree.rmdir(n, b"dir"),
    "rename out": lambda v, n: v.tree.rename(n, b"file", ROOT_ID, b"renamed"),
    "rename in": lambda v, n: v.tree.rename(ROOT_ID, b"spare", n, b"file"),
    "exchange": lambda v, n: v.tree.rename(ROOT_ID, b"spare", n, b"file", RENAME_EXCHANGE),
    "list": _listed,
}
"""Operations on a name in a directory."""


@pytest.fixture
def laid_out(volume: Volume, canary: Canary) -> Volume:
    """A volume with a directory like the canary, and symlinks to the canary."""
    (volume.backing / "real").mkdir()
    (volume.backing / "real" / "file").write_bytes(b"inside")
    (volume.backing / "real" / "dir").mkdir()
    (volume.backing / "spare").write_bytes(b"spare")
    (volume.backing / "to-dir").symlink_to(canary.path)
    (volume.backing / "to-file").symlink_to(canary.path / "file")
    (volume.backing / "to-fifo").symlink_to(canary.path / "fifo")
    os.mkfifo(volume.backing / "fifo")
    return volume


LEAF_ANSWERS = {
    "chmod": errno.EOPNOTSUPP,
    "truncate": errno.EINVAL,
    "open to read": errno.EACCES,
    "open to write": errno.EACCES,
    "open to truncate": errno.EACCES,
    "list": errno.ENOTDIR,
}
"""Operations a symlink itself refuses. The others act on the symlink, never on its target."""


@pytest.mark.parametrize("link", [b"to-file", b"to-dir", b"to-fifo"])
@pytest.mark.parametrize("name", ON_A_NODE)
def test_a_symlink_as_the_object(laid_out: Volume, name: str, link: bytes) -> None:
    node_id = laid_out.id(link)
    target = os.readlink(laid_out.disk(link))
    if name in LEAF_ANSWERS:
        with refused(LEAF_ANSWERS[name]):
            ON_A_NODE[name](laid_out, node_id)
    else:
        ON_A_NODE[name](laid_out, node_id)
    assert os.readlink(laid_out.disk(link)) == target


@pytest.mark.parametrize("name", IN_A_DIRECTORY)
def test_a_symlink_as_the_directory(laid_out: Volume, name: str) -> None:
    with refused(errno.ENOTDIR):
        IN_A_DIRECTORY[name](laid_out, laid_out.id(b"to-dir"))


@pytest.mark.parametrize("link", [b"to-file", b"to-dir"])
def test_a_symlink_as_the_name(laid_out: Volume, link: bytes) -> None:
    tree = laid_out.tree
    with refused(errno.ESTALE):
        tree.create(ROOT_ID, link, 0o666, os.O_WRONLY | os.O_TRUNC)
    with refused(errno.EEXIST):
        tree.create(ROOT_ID, link, 0o666, os.O_WRONLY | os.O_EXCL)
    with refused(errno.EEXIST):
        tree.mkdir(ROOT_ID, link, 0o777)
    with refused(errno.EEXIST):
        tree.symlink(ROOT_ID, link, b"x")
    with refused(errno.EEXIST):
        tree.link(laid_out.id(b"spare"), ROOT_ID, link)
    with refused(errno.ENOTDIR):
        tree.rmdir(ROOT_ID, link)
    tree.rename(ROOT_ID, link, ROOT_ID, b"moved")
    assert os.path.islink(laid_out.disk(b"moved"))
    tree.rename(ROOT_ID, b"spare", ROOT_ID, b"moved")
    assert not os.path.islink(laid_out.disk(b"moved"))
    os.symlink(b"/etc/passwd", laid_out.disk(b"again"))
    tree.unlink(ROOT_ID, b"again")


@pytest.mark.parametrize("name", ON_A_NODE)
@pytest.mark.parametrize("now", ["to-file", "to-dir", "to-fifo", "fifo"])
def test_an_object_swapped_after_it_was_looked_up(laid_out: Volume, name: str, now: str) -> None:
    node_id = laid_out.id(b"spare")
    (laid_out.backing / now).rename(laid_out.backing / "spare")
    expected = (errno.EINVAL,) if name == "readlink" else (errno.ENOTDIR,) if name == "list" else (errno.ESTALE,)
    with refused(*expected):
        ON_A_NODE[name](laid_out, node_id)


@pytest.mark.parametrize("name", IN_A_DIRECTORY)
@pytest.mark.parametrize("now", ["to-dir", "fifo"])
@pytest.mark.parametrize("held", [True, False])
def test_a_directory_swapped_after_it_was_looked_up(laid_out: Volume, name: str, now: str, held: bool) -> None:
    node_id = laid_out.id(b"real")
    laid_out.id(b"real/file")
    laid_out.id(b"spare")
    if not held:
        laid_out.let_go()
    (laid_out.backing / "real").rename(laid_out.backing / "elsewhere")
    (laid_out.backing / now).rename(laid_out.backing / "real")
    if held:
        # We hold the directory itself, so that is where it happens, wherever it is now.
        IN_A_DIRECTORY[name](laid_out, node_id)
    else:
        with refused(errno.ESTALE):
            IN_A_DIRECTORY[name](laid_out, node_id)


@pytest.mark.parametrize("name", ON_A_NODE)
def test_a_directory_on_the_way_swapped(laid_out: Volume, name: str) -> None:
    node_id = laid_out.id(b"real/dir" if name == "list" else b"real/file")
    laid_out.let_go()
    (laid_out.backing / "real").rename(laid_out.backing / "elsewhere")
    (laid_out.backing / "to-dir").rename(laid_out.backing / "real")
    with refused(errno.EINVAL if name == "readlink" else errno.ESTALE):
        ON_A_NODE[name](laid_out, node_id)


@contextlib.contextmanager
def swapping(volume: Volume, name: bytes, others: tuple[bytes, ...]) -> Iterator[None]:
    """A process that keeps putting each of `others` in the place of `name`, as fast as it can."""
    pid = os.fork()
    if pid == 0:
        try:
            root = os.open(volume.backing, os.O_PATH | os.O_DIRECTORY)
            deadline = time.monotonic() + 60
            while time.monotonic() < deadline:
                for other in others:
                    for _there_and_back in range(2):
                        with contextlib.suppress(OSError):
                            renameat2(root, name, root, other, RENAME_EXCHANGE)
        finally:
            os._exit(0)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)


def _race(volume: Volume, attempt: Callable[[], object]) -> None:
    """Repeat `attempt` while the container swaps. OSErrors are what one expects; slowness is not."""
    done = failed = 0
    deadline = time.monotonic() + RACE_S
    while (began := time.monotonic()) < deadline or not done + failed:
        try:
            attempt()
            done += 1
        except OSError:
            failed += 1
        assert time.monotonic() - began < SLOWEST_S
    assert volume.tree.open_handles == 0


@pytest.mark.parametrize("name", IN_A_DIRECTORY)
def test_racing_with_a_directory(laid_out: Volume, name: str) -> None:
    def attempt() -> None:
        # Underneath, and only by descriptor: this must not be what touches the canary.
        try:
            real = os.open(laid_out.disk(b"real"), os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
        except OSError:
            real = -1
        if real >= 0:
            try:
                for made in (b"new", b"newnode", b"newlink", b"newname"):
                    with contextlib.suppress(OSError):
                        os.unlink(made, dir_fd=real)
                with contextlib.suppress(OSError):
                    os.rmdir(b"newdir", dir_fd=real)
                with contextlib.suppress(OSError):
                    os.mkdir(b"dir", dir_fd=real)
                with contextlib.suppress(OSError):
                    os.close(os.open(b"file", os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666, dir_fd=real))
            finally:
                os.close(real)
        with contextlib.suppress(OSError):
            os.close(os.open(laid_out.disk(b"spare"), os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666))
        entry = laid_out.tree.lookup(ROOT_ID, b"real")
        try:
            IN_A_DIRECTORY[name](laid_out, entry.node.id)
        finally:
            laid_out.tree.forget(entry.node.id, 1)

    with swapping(laid_out, b"real", (b"to-dir", b"fifo")):
        _race(laid_out, attempt)


@pytest.mark.parametrize("name", ON_A_NODE)
def test_racing_with_an_object(laid_out: Volume, name: str) -> None:
    def attempt() -> None:
        entry = laid_out.tree.lookup(ROOT_ID, b"spare")
        try:
            ON_A_NODE[name](laid_out, entry.node.id)
        finally:
            laid_out.tree.forget(entry.node.id, 1)
            with contextlib.suppress(OSError):
                os.unlink(laid_out.disk(b"linked"))

    with swapping(laid_out, b"spare", (b"to-file", b"fifo", b"to-dir", b"to-fifo", b"real")):
        _race(laid_out, attempt)


@pytest.mark.parametrize("name", ON_A_NODE)
def test_racing_with_a_directory_on_the_way(laid_out: Volume, name: str) -> None:
    tree = laid_out.tree

    def attempt() -> None:
        parent = tree.lookup(ROOT_ID, b"real")
        try:
            entry = tree.lookup(parent.node.id, b"dir" if name == "list" else b"file")
            try:
                ON_A_NODE[name](laid_out, entry.node.id)
            finally:
                tree.forget(entry.node.id, 1)
        finally:
            tree.forget(parent.node.id, 1)
            with contextlib.suppress(OSError):
                os.unlink(laid_out.disk(b"linked"))

    with swapping(laid_out, b"real", (b"to-dir", b"fifo")):
        _race(laid_out, attempt)


@pytest.mark.parametrize("call", ["mkdir", "symlink"])
@pytest.mark.parametrize("now", ["theirs", "shared", "to-dir", "to-file", "fifo"])
def test_swapped_while_it_is_made(
    laid_out: Volume, canary: Canary, call: str, now: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """mkdir and symlink find what they made by name, and must give away nothing but that."""
    if os.geteuid() != 0:
        pytest.skip("owners other than ourselves need root")
    os.chown(laid_out.backing, 777, 777)
    (laid_out.backing / "theirs").mkdir(mode=0o700)
    os.chown(laid_out.backing / "theirs", 4242, 4242)
    (laid_out.backing / "shared").mkdir(mode=0o700)
    (laid_out.backing / "shared" / "private").touch()
    os.chown(laid_out.backing / "shared", 777, 777)
    os.chown(laid_out.disk(b"to-dir"), 4242, 4242, follow_symlinks=False)
    os.chown(laid_out.disk(b"to-file"), 4242, 4242, follow_symlinks=False)
    before = os.lstat(laid_out.disk(now.encode()))
    real = getattr(os, call)

    def make(*args: object, dir_fd: int, **kwargs: object) -> None:
        real(*args, dir_fd=dir_fd, **kwargs)
        renameat2(dir_fd, b"made", dir_fd, now.encode(), RENAME_EXCHANGE)

    monkeypatch.setattr(os, call, make)
    with refused(errno.ESTALE, errno.ENOTDIR, errno.ELOOP):
        if call == "mkdir":
            laid_out.tree.mkdir(ROOT_ID, b"made", 0o777)
        else:
            laid_out.tree.symlink(ROOT_ID, b"made", b"target")
    monkeypatch.undo()
    swapped_in = os.lstat(laid_out.disk(b"made")) if os.path.lexists(laid_out.disk(b"made")) else None
    if swapped_in is not None:
        assert (swapped_in.st_uid, swapped_in.st_gid, swapped_in.st_mode) == (
            before.st_uid,
            before.st_gid,
            before.st_mode,
        )
