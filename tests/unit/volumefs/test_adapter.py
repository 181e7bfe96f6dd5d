"""The adapter over a fake tree: nothing but FUSEError leaves a handler, and attributes arrive as pyfuse3 takes them."""

from __future__ import annotations

import contextlib
import errno
import inspect
import os
import stat
import types
import typing
from typing import Any

import pyfuse3
import pytest
import structlog
import trio

from hatchway.volumefs import adapter
from hatchway.volumefs.adapter import WAITS_S, ListingFailedError, VolumeOperations, shown
from hatchway.volumefs.callers import Callers
from hatchway.volumefs.nodes import Node
from hatchway.volumefs.ownership import SquashView
from hatchway.volumefs.quota import Space
from hatchway.volumefs.tree import Entry, VolumeTree

CALLER = 100
HANDLE = 7
CONTEXT = types.SimpleNamespace(uid=1001, gid=1002, pid=CALLER, umask=0o022)

HANDLERS = {
    "lookup": (1, b"name", CONTEXT),
    "forget": ([(5, 1)],),
    "getattr": (5, CONTEXT),
    "setattr": (5, pyfuse3.EntryAttributes(), pyfuse3.SetattrFields(), HANDLE, CONTEXT),
    "readlink": (5, CONTEXT),
    "mknod": (1, b"name", stat.S_IFREG | 0o644, 0, CONTEXT),
    "mkdir": (1, b"name", 0o755, CONTEXT),
    "unlink": (1, b"name", CONTEXT),
    "rmdir": (1, b"name", CONTEXT),
    "symlink": (1, b"name", b"target", CONTEXT),
    "rename": (1, b"old", 1, b"new", 0, CONTEXT),
    "link": (5, 1, b"name", CONTEXT),
    "open": (5, os.O_RDONLY, CONTEXT),
    "create": (1, b"name", 0o644, os.O_WRONLY, CONTEXT),
    "read": (HANDLE, 0, 100),
    "write": (HANDLE, 0, b"data"),
    "flush": (HANDLE,),
    "fsync": (HANDLE, True),
    "release": (HANDLE,),
    "opendir": (5, CONTEXT),
    "releasedir": (HANDLE,),
    "fsyncdir": (HANDLE, False),
    "statfs": (CONTEXT,),
}


class FakeTree:
    """Every operation raises `failure`, or the next of a list of them."""

    def __init__(self, *failures: BaseException) -> None:
        self.failures = list(failures)
        self.calls = 0
        self.flush_matters = True
        self.refused = False
        self.view = SquashView(1001, 1002)

    def __getattr__(self, name: str) -> Any:
        def operation(*_args: object, **_kwargs: object) -> object:
            self.calls += 1
            if self.failures:
                raise self.failures.pop(0) if len(self.failures) > 1 else self.failures[0]
            return None

        return operation


def operations(tree: FakeTree, callers: Callers | None = None) -> Any:
    """Handlers over `tree`, where CALLER has HANDLE open."""
    if callers is None:
        callers = Callers()
    callers.opened(HANDLE, CALLER)
    return VolumeOperations(typing.cast(VolumeTree, tree), callers)


def test_every_handler_is_guarded() -> None:
    own = {name for name, value in vars(VolumeOperations).items() if inspect.iscoroutinefunction(value)}
    assert own == {*HANDLERS, "readdir"}


@pytest.mark.parametrize("exc", [OSError(errno.EIO, "failed"), OSError(errno.EACCES, ""), MemoryError(), KeyError(1)])
async def test_a_listing_that_cannot_go_on_is_never_answered(exc: Exception) -> None:
    """sftp-server would tell its client that it has ended."""
    with structlog.testing.capture_logs() as logs, pytest.raises(ListingFailedError):
        await operations(FakeTree(exc)).readdir(HANDLE, 0, None)
    (record,) = logs
    assert record["log_level"] == "error"
    assert record["error"] == str(exc)


async def test_a_listing_is_refused_when_its_session_is_being_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(adapter, "REFUSED_LISTING_S", 0)
    tree = FakeTree(OSError(errno.EACCES, ""))
    tree.refused = True
    with pytest.raises(pyfuse3.FUSEError) as caught:
        await operations(tree).readdir(HANDLE, 0, None)
    assert caught.value.errno == errno.EACCES


def asking(pid: int) -> Any:
    """HANDLERS whose context names the process `pid`."""
    context = types.SimpleNamespace(uid=1001, gid=1002, pid=pid, umask=0o022)
    return {name: tuple(context if one is CONTEXT else one for one in asked) for name, asked in HANDLERS.items()}


WITHOUT_ANSWER = {"forget", "release", "releasedir"}
"""What can never be refused."""


@pytest.mark.parametrize("name", [*HANDLERS, "readdir"])
async def test_an_expelled_process_is_refused_everything(name: str) -> None:
    """What it asks for by name, and by handle whoever asks."""
    callers, tree = Callers(), FakeTree()
    handlers = operations(tree, callers)
    callers.expel([CALLER])
    arguments = (HANDLE, 0, None) if name == "readdir" else HANDLERS[name]
    if name in WITHOUT_ANSWER:
        await getattr(handlers, name)(*arguments)
        assert tree.calls == 1 or name == "forget"
        return
    with pytest.raises(pyfuse3.FUSEError) as caught:
        await getattr(handlers, name)(*arguments)
    assert caught.value.errno == errno.EACCES
    assert tree.calls == 0, "nothing was even tried"


@pytest.mark.parametrize("name", HANDLERS)
async def test_others_are_not_refused(name: str) -> None:
    callers = Callers()
    handlers = operations(FakeTree(OSError(errno.EXDEV, "")), callers)
    callers.released(HANDLE)
    callers.opened(HANDLE, 200)
    callers.expel([CALLER])
    with pytest.raises(pyfuse3.FUSEError) as caught:
        await getattr(handlers, name)(*asking(200)[name])
    assert caught.value.errno == errno.EXDEV


async def test_a_dead_handle_stays_dead_when_its_number_is_nobodys() -> None:
    """Also for another process that is given it, and for attributes set by it."""
    callers, tree = Callers(), FakeTree()
    handlers = operations(tree, callers)
    callers.expel([CALLER])
    callers.expel([])
    for name in ("read", "write", "flush", "fsync", "fsyncdir", "setattr"):
        with pytest.raises(pyfuse3.FUSEError) as caught:
            await getattr(handlers, name)(*asking(200)[name])
        assert caught.value.errno == errno.EACCES
    assert tree.calls == 0


async def test_whoever_waits_for_a_lease_is_refused_when_it_is_expelled_meanwhile(
    autojump_clock: trio.testing.MockClock,
) -> None:
    callers = Callers()
    handlers = operations(FakeTree(BlockingIOError(errno.EAGAIN, "")), callers)

    async def expel() -> None:
        await trio.sleep(0.001)
        callers.expel([CALLER])

    async with trio.open_nursery() as nursery:
        nursery.start_soon(expel)
        with pytest.raises(pyfuse3.FUSEError) as caught:
            await handlers.open(5, os.O_RDONLY, CONTEXT)
    assert caught.value.errno == errno.EACCES
    assert trio.current_time() < 1


async def test_what_is_moved_is_counted_for_whoever_opened_the_file() -> None:
    class Moving(FakeTree):
        def read(self, _handle: int, _offset: int, size: int) -> bytes:
            return b"x" * min(size, 60)

        def write(self, _handle: int, _offset: int, data: bytes) -> int:
            return min(len(data), 3)

    callers = Callers()
    handlers = operations(Moving(), callers)
    callers.opened(8, 200)
    for _ in range(2):
        await handlers.read(HANDLE, 0, 100)
    await handlers.read(8, 0, 10)
    await handlers.write(HANDLE, 0, b"data")
    assert [(one.pid, one.read, one.written) for one in callers.of([100, 200])] == [(100, 120, 3), (200, 10, 0)]


@pytest.mark.parametrize(
    "name", [name for name in HANDLERS if name not in WITHOUT_ANSWER | {"flush", "fsync", "fsyncdir"}]
)
async def test_whatever_is_asked_for_counts_as_activity(name: str) -> None:
    class Answering(FakeTree):
        def read(self, *_args: object) -> bytes:
            return b""

        def write(self, *_args: object) -> int:
            return 1

    callers = Callers()
    handlers = operations(Answering(), callers)
    (account,) = callers.of([CALLER])
    account.active = 0.0
    with contextlib.suppress(pyfuse3.FUSEError):
        await getattr(handlers, name)(*HANDLERS[name])
    assert account.active > 0


async def test_it_is_known_who_has_a_directory_open() -> None:
    class Opening(FakeTree):
        def opendir(self, node_id: int) -> int:
            return node_id * 10

    callers = Callers()
    handlers = operations(Opening(), callers)
    for inode, pid in ((1, 100), (2, 200), (3, 100)):
        await handlers.opendir(inode, types.SimpleNamespace(pid=pid))
    assert list(callers.listing) == [100, 200]
    await handlers.releasedir(20)
    assert list(callers.listing) == [100]


@pytest.mark.parametrize("name", HANDLERS)
async def test_an_error_becomes_an_errno(name: str) -> None:
    with pytest.raises(pyfuse3.FUSEError) as caught:
        await getattr(operations(FakeTree(OSError(errno.EROFS, ""))), name)(*HANDLERS[name])
    assert caught.value.errno == errno.EACCES


@pytest.mark.parametrize("name", HANDLERS)
@pytest.mark.parametrize("exc", [ValueError("odd"), KeyError(1), MemoryError(), RecursionError(), OverflowError()])
async def test_anything_else_becomes_eio_and_a_traceback(name: str, exc: Exception) -> None:
    with structlog.testing.capture_logs() as logs, pytest.raises(pyfuse3.FUSEError) as caught:
        await getattr(operations(FakeTree(exc)), name)(*HANDLERS[name])
    assert caught.value.errno == errno.EIO
    assert [(record["log_level"], record["operation"], record["exc_info"]) for record in logs] == [("error", name, exc)]


@pytest.mark.parametrize("name", HANDLERS)
async def test_a_log_that_cannot_be_written_ends_nothing(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def get() -> object:
        raise BrokenPipeError

    monkeypatch.setattr("hatchway.log.get", get)
    with pytest.raises(pyfuse3.FUSEError) as caught:
        await getattr(operations(FakeTree(ZeroDivisionError())), name)(*HANDLERS[name])
    assert caught.value.errno == errno.EIO


@pytest.mark.parametrize("exc", [KeyboardInterrupt(), SystemExit(), GeneratorExit()])
async def test_the_end_is_not_an_error(exc: BaseException) -> None:
    with pytest.raises(type(exc)):
        await operations(FakeTree(exc)).lookup(1, b"name", CONTEXT)


async def test_cancellation_passes_through(autojump_clock: trio.testing.MockClock) -> None:
    with trio.move_on_after(0.001) as scope:
        await operations(FakeTree(BlockingIOError(errno.EAGAIN, ""))).open(5, os.O_RDONLY, CONTEXT)
    assert scope.cancelled_caught


@pytest.mark.parametrize("name", ["open", "create", "setattr"])
async def test_a_lease_is_waited_for_a_little(name: str, autojump_clock: trio.testing.MockClock) -> None:
    tree = FakeTree(BlockingIOError(errno.EAGAIN, ""))
    began = trio.current_time()
    with pytest.raises(pyfuse3.FUSEError) as caught:
        await getattr(operations(tree), name)(*HANDLERS[name])
    assert caught.value.errno == errno.EBUSY
    assert tree.calls == len(WAITS_S) + 1
    assert trio.current_time() - began == pytest.approx(sum(WAITS_S))
    assert sum(WAITS_S) < 0.2


async def test_a_lease_given_up_in_time(autojump_clock: trio.testing.MockClock) -> None:
    tree = FakeTree(*[BlockingIOError(errno.EAGAIN, "")] * 3, FileNotFoundError(errno.ENOENT, ""))
    with pytest.raises(pyfuse3.FUSEError) as caught:
        await operations(tree).open(5, os.O_RDONLY, CONTEXT)
    assert caught.value.errno == errno.ENOENT
    assert tree.calls == 4


async def test_what_the_kernel_shall_not_ask_again() -> None:
    ops = operations(FakeTree())
    for name, arguments in {
        "getxattr": (5, b"user.x", None),
        "setxattr": (5, b"user.x", b"", None),
        "listxattr": (5, None),
        "removexattr": (5, b"user.x", None),
        "access": (5, 4, None),
        "poll": (5, 7, None, None),
    }.items():
        with pytest.raises(pyfuse3.FUSEError) as caught:
            await getattr(ops, name)(*arguments)
        assert caught.value.errno == errno.ENOSYS


async def test_flush_is_asked_for_only_where_it_matters() -> None:
    tree = FakeTree()
    await operations(tree).flush(HANDLE)
    assert tree.calls == 1
    tree.flush_matters = False
    with pytest.raises(pyfuse3.FUSEError) as caught:
        await operations(tree).flush(HANDLE)
    assert caught.value.errno == errno.ENOSYS
    assert tree.calls == 1


def test_what_is_cached() -> None:
    assert not VolumeOperations.supports_dot_lookup
    assert not VolumeOperations.enable_writeback_cache
    assert not VolumeOperations.enable_acl


@pytest.mark.parametrize("ns", [0, -1, -5_000_000_001, 1_700_000_000_123_456_789, 2**40 * 10**9 + 1])
@pytest.mark.parametrize("size", [0, 2**53 + 1, 2**63 - 1])
def test_attributes(ns: int, size: int) -> None:
    mode = stat.S_IFREG | 0o640
    st = os.stat_result(
        (mode, 99, 7, 3, 5, 6, size, 0, 0, 0),
        {
            "st_atime_ns": ns,
            "st_mtime_ns": ns + 1,
            "st_ctime_ns": ns + 2,
            "st_blksize": 512,
            "st_blocks": 9,
            "st_rdev": 3,
        },
    )
    tree = typing.cast(VolumeTree, FakeTree())
    answer = shown(tree, Entry(Node(42, 0, 8, 1, b"x"), mode, st))
    assert (answer.st_ino, answer.generation) == (42, 0)
    assert (answer.st_uid, answer.st_gid) == (1001, 1002)
    assert (answer.st_atime_ns, answer.st_mtime_ns, answer.st_ctime_ns) == (ns, ns + 1, ns + 2)
    assert (answer.st_size, answer.st_mode, answer.st_nlink) == (size, mode, 3)
    assert (answer.st_blksize, answer.st_blocks, answer.st_rdev) == (512, 9, 3)
    assert answer.entry_timeout == answer.attr_timeout == adapter.CACHE_S == 1.0


async def test_space() -> None:
    class Tree(FakeTree):
        def statfs(self) -> Space:
            return Space(4096, 1024, 973, 957, 906, 100, 90, 80, 255)

    answer = await operations(Tree()).statfs(CONTEXT)
    assert (answer.f_bsize, answer.f_frsize, answer.f_blocks) == (4096, 1024, 973)
    assert (answer.f_bfree, answer.f_bavail) == (957, 906)
    assert (answer.f_files, answer.f_ffree, answer.f_favail) == (100, 90, 80)
    assert answer.f_namemax == 255
