"""A volume really mounted: a worker confined as in production serves a directory to a session of its own uid.

What differs from production: no zygote and no hostd, the mount stands in this process's namespace, and the worker takes
single letters instead of hostd's messages.
"""

from __future__ import annotations

import contextlib
import errno
import itertools
import os
import pickle
import select
import shutil
import signal
import socket
import stat
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

import pyfuse3
import structlog
import trio

from hatchway import log
from hatchway.kernel import mounts, privileges, seccomp
from hatchway.volumefs import adapter
from hatchway.volumefs.callers import Callers
from hatchway.volumefs.ledger import Ledger
from hatchway.volumefs.nodes import Node
from hatchway.volumefs.ownership import SquashView, View
from hatchway.volumefs.tree import VolumeTree
from hatchway.volumefs.worker import callers_state
from hatchway.wire.worker import AskCallers

SESSION_UID = 1_900_100_001
WORKER_UID = 1_901_000_001
OWNER_UID = 999
OWNER_GID = 998
"""Whom the volume's root belongs to on disk, as in a container that runs as a user."""

PATIENCE_S = 20.0

P = ParamSpec("P")
T = TypeVar("T")


class HungError(AssertionError):
    """A session's process did not come back."""


class Served:
    """A mounted volume. `path` is where a session sees it, `backing` where it is on disk."""

    def __init__(
        self, base: Path, uid: int, view: View, worker_uid: int = WORKER_UID, ledger: Ledger | None = None
    ) -> None:
        self.path = base / "seen"
        self.backing = base / "backing"
        self.log = base / "log"
        self.uid = uid
        self.worker_uid = worker_uid
        self.worker_pid = 0
        self.view = view
        self.ledger = ledger
        self._base = base
        self._control, self._worker_end = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._control.settimeout(PATIENCE_S)
        self._held = -1

    def start(self, read_only: bool, *, hold: bool = False) -> None:
        """Mount, and fork the worker. `hold`: keep a copy of the connection, as hostd does."""
        with contextlib.ExitStack() as stack:
            stack.callback(self._worker_end.close)
            directory = os.open(self.backing, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
            stack.callback(os.close, directory)
            volume_fd = mounts.clone_tree(directory)
            stack.callback(os.close, volume_fd)
            attributes = mounts.ATTR_NOSYMFOLLOW | mounts.ATTR_NOSUID | mounts.ATTR_NODEV | mounts.ATTR_NOEXEC
            attributes |= mounts.ATTR_RDONLY if read_only else 0
            mounts.set_attributes(volume_fd, add=attributes, propagation=mounts.MS_PRIVATE)
            fuse_fd = os.open("/dev/fuse", os.O_RDWR | os.O_CLOEXEC)
            stack.callback(os.close, fuse_fd)
            mounts.mount_fuse(fuse_fd, str(self.path), name="hatchway-test")
            if hold:
                self._held = os.dup(fuse_fd)
            self.worker_pid = os.fork()
            if self.worker_pid == 0:
                _worker(self, self._base, volume_fd, fuse_fd, self._worker_end, read_only)
        self.tell("s")

    def end(self) -> int | None:
        """Take the mount away if it is still there, and the worker's exit status, None if it has been fetched."""
        if os.path.ismount(self.path):
            mounts.unmount(str(self.path), mounts.MNT_FORCE | mounts.MNT_DETACH)
        pid, self.worker_pid = self.worker_pid, 0
        try:
            return _ended(pid) if pid else None
        finally:
            self._control.close()
            if self._held >= 0:
                os.close(self._held)
                self._held = -1

    def as_session(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Result of `function`, called in a process of the session's uid whose directory is the mount.

        Root passes every permission check; so this is how the kernel's own checks are tested.
        """
        reader, writer = os.pipe()
        pid = os.fork()
        if pid == 0:
            try:
                os.close(reader)
                os.setgroups([])
                os.setresgid(self.uid, self.uid, self.uid)
                os.setresuid(self.uid, self.uid, self.uid)
                os.umask(0o022)
                os.chdir(self.path)
                answer: tuple[bool, object] = (True, function(*args, **kwargs))
            except BaseException as exc:
                exc.add_note(traceback.format_exc())
                answer = (False, exc)
            with os.fdopen(writer, "wb") as file:
                pickle.dump(answer, file)
            os._exit(0)
        os.close(writer)
        with os.fdopen(reader, "rb") as file:
            ready, _, _ = select.select([file], [], [], PATIENCE_S)
            if not ready:
                os.kill(pid, signal.SIGKILL)
                raise HungError(f"no answer within {PATIENCE_S} s")
            data = file.read()
        os.waitpid(pid, 0)
        good, value = pickle.loads(data)  # noqa: S301 - our own child's
        if good:
            return value  # type: ignore[no-any-return] # what function returned, by way of pickle
        raise value

    def tell(self, letter: str, *pids: int) -> dict[str, Any]:
        """Tell the worker: "s" how are you, and `pids`; "e" expel exactly `pids`; "r" refuse, "o" read-only, "w" allow
        all, "x" break inside, "l" fail in the middle of long listings, "c" end.
        """
        self._control.send(" ".join([letter, *map(str, pids)]).encode())
        answer: dict[str, Any] = pickle.loads(self._control.recv(65536))  # noqa: S301 - our own child's
        return answer


def counted(directory: bytes | Path) -> tuple[int, int]:
    """Blocks of 4096 bytes of what is below `directory`, and how many names there are.

    By other means than those under test.
    """
    blocks, files, inodes = 0, 0, set()
    for _, directories, names, fd in os.fwalk(directory, follow_symlinks=False):
        for entry in (*directories, *names):
            st = os.stat(entry, dir_fd=fd, follow_symlinks=False)
            long_link = stat.S_ISLNK(st.st_mode) and st.st_size >= 60
            if (stat.S_ISREG(st.st_mode) or long_link) and st.st_ino not in inodes:
                blocks += (st.st_size + 4095) // 4096
            inodes.add(st.st_ino)
            files += 1
    return blocks, files


@contextlib.contextmanager
def refused(*numbers: int) -> Iterator[None]:
    """The block fails with an OSError of one of `numbers`."""
    try:
        yield
    except OSError as exc:
        assert exc.errno in numbers, f"{errno.errorcode.get(exc.errno or 0)}: {exc}"
    else:
        raise AssertionError(f"no {[errno.errorcode[number] for number in numbers]}")


def put(name: bytes, data: bytes, mode: int = 0o666) -> None:
    """Write a file as sftp-server does."""
    fd = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, mode)
    try:
        view = memoryview(data)
        while view:
            view = view[os.write(fd, view[:261120]) :]
    finally:
        os.close(fd)


def get(name: bytes) -> bytes:
    """Read a file as sftp-server does."""
    fd = os.open(name, os.O_RDONLY)
    try:
        parts = []
        while part := os.read(fd, 261120):
            parts.append(part)
        return b"".join(parts)
    finally:
        os.close(fd)


@contextlib.contextmanager
def served(
    *,
    uid: int = SESSION_UID,
    read_only: bool = False,
    on: str | None = None,
    beside: Served | None = None,
    expect_log: bool = False,
    hold: bool = False,
    view: View | None = None,
    ledger: Ledger | None = None,
) -> Iterator[Served]:
    """Mount and serve a new, empty volume; `on` is a directory of the file system to put it on. `view`: see `View`.
    `ledger` is its account, the caller's.

    With `beside` it is that one's volume once more, as for a second login: with a worker of its own.

    Afterwards the worker must have ended by itself with status 0 and, unless `expect_log`, without a word in its log.
    """
    with contextlib.ExitStack() as stack:
        base = _directory(stack, "hatchway-mount-", None)
        if beside is None:
            backing = _directory(stack, "hatchway-backing-", on)
            os.chown(backing, OWNER_UID, OWNER_GID)
        else:
            backing = beside.backing.resolve()
        (base / "backing").symlink_to(backing)
        (base / "seen").mkdir()
        (base / "scratch").mkdir()
        seen = SquashView(uid, uid) if view is None else view
        here = Served(base, uid, seen, WORKER_UID if beside is None else beside.worker_uid + 1, ledger)
        stack.callback(here.end)
        here.start(read_only, hold=hold)
        try:
            yield here
        except BaseException:
            # Whatever hangs must not keep the run from ending; the failure is what will be reported.
            mounts.unmount(str(here.path), mounts.MNT_FORCE | mounts.MNT_DETACH)
            raise
        if os.path.ismount(here.path):
            # MNT_FORCE ends the connection although another mount namespace of this machine may have a copy of the
            # mount. Without MNT_DETACH it still fails when anything here is open.
            mounts.unmount(str(here.path), mounts.MNT_FORCE)
        status = here.end()
        words = here.log.read_text()
        assert expect_log or (status in (0, None) and not words), f"worker's exit status {status}:\n{words}"


def _directory(stack: contextlib.ExitStack, prefix: str, on: str | None) -> Path:
    path = Path(tempfile.mkdtemp(prefix=prefix, dir=on))
    path.chmod(0o755)
    stack.callback(shutil.rmtree, path)
    return path


def _ended(pid: int) -> int:
    """Exit status of the worker, killed if it has not ended in time."""
    deadline = time.monotonic() + 5
    while True:
        done, status = os.waitpid(pid, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        if time.monotonic() > deadline:
            os.kill(pid, signal.SIGKILL)
        time.sleep(0.005)


def _worker(volume: Served, base: Path, volume_fd: int, fuse_fd: int, control: socket.socket, read_only: bool) -> None:
    status = 1
    try:
        out = os.open(base / "log", os.O_CREAT | os.O_WRONLY | os.O_APPEND, 0o644)
        os.dup2(out, 2)
        os.close(out)
        # pytest has put something of its own there.
        sys.stderr = os.fdopen(2, "w", buffering=1, closefd=False)
        structlog.contextvars.clear_contextvars()
        log.configure("worker", "info")
        keep = {volume_fd, fuse_fd, control.fileno(), 2}
        if volume.ledger is not None:
            keep.add(volume.ledger.fileno())
        for name in os.listdir("/proc/self/fd"):
            if int(name) not in keep:
                with contextlib.suppress(OSError):
                    os.close(int(name))
        # From here on as hatchway.volumefs.worker does it.
        privileges.bound(privileges.ZYGOTE_CAPS)
        mounts.unshare(mounts.CLONE_NEWNS | mounts.CLONE_NEWNET | mounts.CLONE_NEWIPC | mounts.CLONE_NEWUTS)
        mounts.make_private("/", recursive=True)
        here = os.open("/proc/self/fd", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        proc_fd = mounts.clone_tree(here)
        os.close(here)
        mounts.enter_empty_root(str(base / "scratch"))
        os.umask(0)
        privileges.become(
            volume.worker_uid,
            volume.worker_uid,
            permitted=privileges.WORKER_CAPS,
            effective=privileges.WORKER_EFFECTIVE,
        )
        seccomp.confine()
        tree = VolumeTree(
            root_fd=volume_fd,
            proc_fd_dir=proc_fd,
            view=volume.view,
            keep_sgid=lambda: privileges.effective(privileges.Cap.FSETID),
            read_only=read_only,
            ledger=None if volume.ledger is None else Ledger(volume.ledger.fileno()),
        )
        trio.run(_main, tree, fuse_fd, control)
        status = 0
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(status)


async def _main(tree: VolumeTree, fuse_fd: int, control: socket.socket) -> None:
    async with trio.open_nursery() as nursery:
        end = nursery.cancel_scope.cancel
        callers = Callers()
        nursery.start_soon(_control, tree, callers, trio.socket.from_stdlib_socket(control), end)
        await adapter.serve(tree, fuse_fd, callers)
        end()


async def _control(tree: VolumeTree, callers: Callers, sock: trio.socket.SocketType, end: Callable[[], None]) -> None:
    while message := (await sock.recv(4096)).decode():
        letter, pids = message[0], [int(word) for word in message[1:].split()]
        if letter == "r":
            tree.restrict(refuse=True, read_only=False)
        elif letter == "o":
            tree.restrict(refuse=False, read_only=True)
        elif letter == "w":
            tree.restrict(refuse=False, read_only=False)
        elif letter == "x":
            # Make them fail in a way nobody foresaw.
            tree.lookup = tree.opendir = None  # type: ignore[method-assign,assignment] # that is the point
        elif letter == "l":
            _fail_in_listings(tree)
        elif letter == "e":
            callers.expel(pids)
        elif letter == "c":
            end()
        await sock.send(
            pickle.dumps(
                {
                    "handles": tree.open_handles,
                    "nodes": tree.live_nodes,
                    "activity": tree.activity,
                    "refused": tree.refused,
                    "read_only": tree.read_only,
                    "descriptors": _descriptors(),
                    "expelled": callers.expelled,
                    "callers": [
                        (one.pid, one.read, one.written, [(file.path, file.writing) for file in one.files])
                        for one in callers_state(tree, callers, AskCallers(0, tuple(pids))).callers
                    ],
                    "trio": vars(pyfuse3)["trio"].__class__.__name__,
                }
            )
        )


def _fail_in_listings(tree: VolumeTree) -> None:
    real, entries = tree._lister._next_of, itertools.count()

    def failing(node: Node, reader: Any) -> Any:
        if next(entries) == 1500:
            raise OSError(errno.EIO, "the disk failed")
        return real(node, reader)

    tree._lister._next_of = failing  # type: ignore[method-assign] # that is the point


def _descriptors() -> int:
    """How many descriptors this process has; it has no /proc any more."""
    count = 0
    for fd in range(4096):
        with contextlib.suppress(OSError):
            os.fstat(fd)
            count += 1
    return count
