"""pyfuse3's view of a `VolumeTree`: inodes, attributes and errnos in and out, nothing else.

No exception but FUSEError and cancellation leaves a handler: pyfuse3 ends the mount on any other. That is what a
listing does that cannot go on (`ListingFailedError`): sftp-server tells a readdir(3) that fails as the end of the
directory (sftp-server.c, process_readdir), so such a request is never answered. Handlers run one after another in the
event loop and do not give way, except while somebody is waited for: a container's lease, another login's session that
changes the same file, the first count of a volume that has got a limit.

Caching is what coherence allows: the container changes the same files underneath. Names and attributes are good for
one second, file contents are never cached (direct_io), and there is no write-back cache.

Sources: pyfuse3's handlers.pxi and internal.pxi, fs/fuse/ in the kernel, lib/fuse_lowlevel.c in libfuse.
"""

# ruff: noqa: ARG002 - pyfuse3 passes every handler a context, needed or not

from __future__ import annotations

import errno
import functools
import time
from collections.abc import Callable, Coroutine, Sequence
from typing import Any, Concatenate, Final, NoReturn, ParamSpec, TypeVar

import pyfuse3
import trio
from pyfuse3 import EntryAttributes, FileInfo, FUSEError, RequestContext, SetattrFields, StatvfsData

from hatchway import log
from hatchway.volumefs.callers import Callers
from hatchway.volumefs.complaints import Complaints
from hatchway.volumefs.fault import StillCountingError, client_errno, failure
from hatchway.volumefs.ownership import Owner
from hatchway.volumefs.tree import Entry, VolumeTree
from hatchway.volumefs.waiting import polling

REFUSED_LISTING_S = 0.5
"""Seconds a listing waits before it is refused."""

CACHE_S: Final = 1.0
"""How long the kernel may believe a name or attributes, in seconds."""

FIXED_S: Final = 86400.0
"""The same for the name of a fixed directory, which always means the same: asked less, less can go wrong."""

WAITS_S: Final = (0.005, 0.01, 0.02, 0.05, 0.1)
"""Pauses before something is tried again, in seconds: the container has a lease on the file, or another session of the
volume is changing it."""


class ListingFailedError(Exception):
    """A listing that had begun cannot go on. The process must end without an answer to it."""


P = ParamSpec("P")
T = TypeVar("T")


def _refuse(name: str, exc: Exception, complaints: Complaints) -> NoReturn:
    """Answer `exc`, raised by the handler `name`, as an errno."""
    if isinstance(exc, FUSEError):
        raise exc
    try:
        if isinstance(exc, OSError):
            complaints.heard(name, exc)
        else:
            log.get().error("a file system operation failed", operation=name, exc_info=exc)
    except Exception:  # noqa: S110 - a log that cannot be written must not end the mount
        pass
    raise FUSEError(client_errno(exc) if isinstance(exc, OSError) else errno.EIO) from None


def answers(method: Callable[Concatenate[Any, P], T]) -> Callable[Concatenate[Any, P], Coroutine[Any, Any, T]]:
    """Make a synchronous method a handler: nothing but FUSEError leaves it, and it waits a little for others."""

    async def again(self: Any, *args: P.args, **kwargs: P.kwargs) -> T:
        pauses = list(WAITS_S)
        while pauses:
            await trio.sleep(pauses[0])
            try:
                return method(self, *args, **kwargs)
            except StillCountingError:
                continue
            except BlockingIOError:
                del pauses[0]
        raise failure(errno.EBUSY)

    @functools.wraps(method)
    async def handler(self: Any, /, *args: P.args, **kwargs: P.kwargs) -> T:
        try:
            try:
                return method(self, *args, **kwargs)
            except BlockingIOError:
                return await again(self, *args, **kwargs)
        except Exception as exc:
            _refuse(method.__name__, exc, self.complaints)

    return handler


class VolumeOperations(pyfuse3.Operations):
    """The handlers pyfuse3 calls, over `tree`. In `callers` it is noted which process does what, and who is refused.

    What is missing here the base class answers with ENOSYS, after which the kernel does not ask again: extended
    attributes (else it asks before every write), access (default_permissions decides in the kernel), poll.
    """

    supports_dot_lookup = False
    enable_writeback_cache = False
    enable_acl = False

    def __init__(self, tree: VolumeTree, callers: Callers) -> None:
        super().__init__()
        self.complaints = Complaints()
        self._tree = tree
        self._callers = callers

    @answers
    def lookup(self, parent_inode: int, name: bytes, ctx: RequestContext) -> EntryAttributes:
        self._callers.asks(ctx.pid)
        return shown(self._tree, self._tree.lookup(parent_inode, name))

    @answers
    def forget(self, inode_list: Sequence[tuple[int, int]]) -> None:
        for inode, count in inode_list:
            self._tree.forget(inode, count)

    @answers
    def getattr(self, inode: int, ctx: RequestContext) -> EntryAttributes:
        self._callers.asks(ctx.pid)
        return shown(self._tree, self._tree.getattr(inode))

    @answers
    def setattr(
        self,
        inode: int,
        attr: EntryAttributes,
        fields: SetattrFields,
        fh: int | None,
        ctx: RequestContext,
    ) -> EntryAttributes:
        self._callers.asks(ctx.pid)
        if fh is not None:
            self._callers.by(fh)
        entry = self._tree.setattr(
            inode,
            handle=fh,
            size=attr.st_size if fields.update_size else None,
            mode=attr.st_mode & 0o7777 if fields.update_mode else None,
            uid=attr.st_uid if fields.update_uid else None,
            gid=attr.st_gid if fields.update_gid else None,
            # "Now" has become a time before it comes here.
            atime_ns=attr.st_atime_ns if fields.update_atime else None,
            mtime_ns=attr.st_mtime_ns if fields.update_mtime else None,
            caller=_caller(ctx),
        )
        return shown(self._tree, entry)

    @answers
    def readlink(self, inode: int, ctx: RequestContext) -> bytes:
        self._callers.asks(ctx.pid)
        return self._tree.readlink(inode)

    @answers
    def mknod(self, parent_inode: int, name: bytes, mode: int, rdev: int, ctx: RequestContext) -> EntryAttributes:
        self._callers.asks(ctx.pid)
        return shown(self._tree, self._tree.mknod(parent_inode, name, mode, _caller(ctx)))

    @answers
    def mkdir(self, parent_inode: int, name: bytes, mode: int, ctx: RequestContext) -> EntryAttributes:
        self._callers.asks(ctx.pid)
        return shown(self._tree, self._tree.mkdir(parent_inode, name, mode, _caller(ctx)))

    @answers
    def unlink(self, parent_inode: int, name: bytes, ctx: RequestContext) -> None:
        self._callers.asks(ctx.pid)
        self._tree.unlink(parent_inode, name)

    @answers
    def rmdir(self, parent_inode: int, name: bytes, ctx: RequestContext) -> None:
        self._callers.asks(ctx.pid)
        self._tree.rmdir(parent_inode, name)

    @answers
    def symlink(self, parent_inode: int, name: bytes, target: bytes, ctx: RequestContext) -> EntryAttributes:
        self._callers.asks(ctx.pid)
        return shown(self._tree, self._tree.symlink(parent_inode, name, target, _caller(ctx)))

    @answers
    def rename(
        self,
        parent_inode_old: int,
        name_old: bytes,
        parent_inode_new: int,
        name_new: bytes,
        flags: int,
        ctx: RequestContext,
    ) -> None:
        self._callers.asks(ctx.pid)
        self._tree.rename(parent_inode_old, name_old, parent_inode_new, name_new, flags)

    @answers
    def link(self, inode: int, new_parent_inode: int, new_name: bytes, ctx: RequestContext) -> EntryAttributes:
        self._callers.asks(ctx.pid)
        return shown(self._tree, self._tree.link(inode, new_parent_inode, new_name))

    @answers
    def open(self, inode: int, flags: int, ctx: RequestContext) -> FileInfo:
        self._callers.asks(ctx.pid)
        handle = self._tree.open(inode, flags)
        self._callers.opened(handle, ctx.pid)
        return FileInfo(fh=handle, direct_io=True, keep_cache=False)

    @answers
    def create(
        self,
        parent_inode: int,
        name: bytes,
        mode: int,
        flags: int,
        ctx: RequestContext,
    ) -> tuple[FileInfo, EntryAttributes]:
        self._callers.asks(ctx.pid)
        handle, entry = self._tree.create(parent_inode, name, mode, flags, _caller(ctx))
        self._callers.opened(handle, ctx.pid)
        return FileInfo(fh=handle, direct_io=True, keep_cache=False), shown(self._tree, entry)

    @answers
    def read(self, fh: int, off: int, size: int) -> bytes:
        account = self._callers.by(fh)
        data = self._tree.read(fh, off, size)
        account.read += len(data)
        account.active = time.monotonic()
        return data

    @answers
    def write(self, fh: int, off: int, buf: bytes) -> int:
        account = self._callers.by(fh)
        written = self._tree.write(fh, off, buf)
        account.written += written
        account.active = time.monotonic()
        return written

    @answers
    def flush(self, fh: int) -> None:
        if not self._tree.flush_matters:
            # Saves a round trip at every close: local file systems report at the write.
            raise FUSEError(errno.ENOSYS)
        self._callers.by(fh)
        self._tree.flush(fh)

    @answers
    def fsync(self, fh: int, datasync: bool) -> None:
        self._callers.by(fh)
        self._tree.fsync(fh, datasync)

    @answers
    def release(self, fh: int) -> None:
        self._callers.released(fh)
        self._tree.release(fh)

    @answers
    def opendir(self, inode: int, ctx: RequestContext) -> int:
        self._callers.asks(ctx.pid)
        handle = self._tree.opendir(inode)
        self._callers.opened(handle, ctx.pid, directory=True)
        return handle

    async def readdir(self, fh: int, start_id: int, token: pyfuse3.ReaddirToken) -> None:
        try:
            self._readdir(fh, start_id, token)
        except Exception as exc:
            if self._tree.refused or self._callers.is_dead(fh):
                _refuse("readdir", exc, self.complaints)
            self.complaints.lost("readdir", exc)
            raise ListingFailedError(f"{type(exc).__name__}: {exc}") from exc

    def _readdir(self, fh: int, start_id: int, token: pyfuse3.ReaddirToken) -> None:
        def show(name: bytes, entry: Entry, offset: int) -> bool:
            return pyfuse3.readdir_reply(token, name, shown(self._tree, entry), offset)

        if self._tree.refused:
            # sftp-server tells a listing that fails as one that has ended: to a client that mirrors, an empty
            # directory. A refused session is being killed; it is to die before it has this answer.
            time.sleep(REFUSED_LISTING_S)
        # Whoever is expelled has been stopped before, and is killed without having heard of it: see host/roots.py. To
        # wait here as well would hold up the sessions that go on.
        self._callers.by(fh).active = time.monotonic()
        self._tree.readdir(fh, start_id, show)

    @answers
    def releasedir(self, fh: int) -> None:
        self._callers.released(fh)
        self._tree.release(fh)

    @answers
    def fsyncdir(self, fh: int, datasync: bool) -> None:
        self._callers.by(fh)
        self._tree.fsync(fh, datasync)

    @answers
    def statfs(self, ctx: RequestContext) -> StatvfsData:
        self._callers.asks(ctx.pid)
        space = self._tree.statfs()
        answer = StatvfsData()
        answer.f_bsize = space.block_size
        answer.f_frsize = space.fragment_size
        answer.f_blocks = space.blocks
        answer.f_bfree, answer.f_bavail = space.free, space.available
        answer.f_files = space.files
        answer.f_ffree, answer.f_favail = space.files_free, space.files_available
        answer.f_namemax = space.name_max
        return answer


def _caller(ctx: RequestContext) -> Owner:
    return Owner(ctx.uid, ctx.gid)


def shown(tree: VolumeTree, entry: Entry) -> EntryAttributes:
    """`entry` as pyfuse3 wants it. The inode number shown is the node id: pyfuse3 knows no other."""
    st = entry.stat
    answer = EntryAttributes()
    answer.st_ino = entry.node.id
    answer.entry_timeout = FIXED_S if entry.node.fixed else CACHE_S
    answer.attr_timeout = CACHE_S
    answer.st_mode = entry.mode
    answer.st_nlink = st.st_nlink
    answer.st_uid, answer.st_gid = tree.view.owner(st)
    answer.st_rdev = st.st_rdev
    answer.st_size = st.st_size
    answer.st_blksize = st.st_blksize
    answer.st_blocks = st.st_blocks
    answer.st_atime_ns = st.st_atime_ns
    answer.st_mtime_ns = st.st_mtime_ns
    answer.st_ctime_ns = st.st_ctime_ns
    return answer


async def serve(tree: VolumeTree, fuse_fd: int, callers: Callers) -> None:
    """Answer the FUSE connection `fuse_fd`, already mounted, until it is unmounted or this is cancelled.

    `callers` is where it is noted which process does what; pids are those of the mount's pid namespace.
    Takes `fuse_fd` over and closes it; that ends the connection if it is the last copy, and clients get ENOTCONN.
    Closes what `tree` has open. One per process (pyfuse3 has one session). Raises an exception group with OSError if
    the connection cannot be read, with ListingFailedError if a listing cannot go on. A signal is not handled: SIGTERM
    ends the process, with the same effect.
    """
    # The mount options were fixed by whoever mounted; libfuse only checks that it knows these.
    pyfuse3.init(VolumeOperations(tree, callers), f"/dev/fd/{fuse_fd}", set(pyfuse3.default_options))
    try:
        # More tasks take turns at one thing at a time: 5-25 % slower at everything but reading a large file.
        with polling():
            await pyfuse3.main(min_tasks=1, max_tasks=1)
    finally:
        pyfuse3.close(unmount=False)
        tree.close()
