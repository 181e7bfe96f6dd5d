"""The volume as a tree of nodes: every operation a session can cause, on descriptors, without FUSE.

What holds for all of them:
- One name at a time, in a directory we hold by descriptor, symlinks never followed; then by descriptor. `finder`
  checks that what was found is what the node means.
- Only regular files and directories are opened. Opening a FIFO, even without blocking, wakes or hangs a process of
  the container; so an O_PATH descriptor is looked at first, and opened anew by its magic link.
- Something new is never seen with a wrong owner, and what fails half way leaves nothing: see `making`.
- Errors are OSError as the kernel raises them, or as `fault.failure` makes them.

The root directory, the fd directory and `keep_sgid` come from whoever confined this process.

Concurrency: no operation waits for another or gives way in the middle; all are called from one thread. They block
while the file system beneath does, except on a container's lease: opening is always O_NONBLOCK, and raises
BlockingIOError instead.
"""

from __future__ import annotations

import errno
import os
import resource
import stat
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from typing import NamedTuple

from hatchway.kernel import files
from hatchway.volumefs.changing import Changer
from hatchway.volumefs.fault import failure
from hatchway.volumefs.finder import Finder
from hatchway.volumefs.fixed import FixedDirectories
from hatchway.volumefs.handles import HandleTable
from hatchway.volumefs.ledger import Ledger, blocks_of_symlink
from hatchway.volumefs.listing import Lister
from hatchway.volumefs.making import O_OPEN, Maker
from hatchway.volumefs.names import component
from hatchway.volumefs.nodes import Node, NodeTable
from hatchway.volumefs.ownership import DIRECTORY, KIND_SHIFT, REGULAR, SYMLINK, Owner, View
from hatchway.volumefs.quota import Quota, Space

KEPT_DIRECTORIES = 256
"""Descriptors kept for directories in use."""

SPARE_DESCRIPTORS = 64
"""Descriptors left for everything else: the event loop, sockets, a file between two calls."""

_O_CLIENT = os.O_ACCMODE | os.O_APPEND | os.O_TRUNC | os.O_SYNC | os.O_DSYNC | os.O_NOATIME
"""What a client's flags may ask for. O_DIRECT would demand aligned buffers; the rest is the kernel's affair."""


class Entry(NamedTuple):
    """What is shown of an object. `mode` is st_mode as the session sees it, `stat` what is on disk."""

    node: Node
    mode: int
    stat: os.stat_result


def descriptor_limit() -> int:
    """Open handles this process has room for, by its RLIMIT_NOFILE."""
    soft, _hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    return max(soft - KEPT_DIRECTORIES - SPARE_DESCRIPTORS, 16)


class VolumeTree:
    """One volume. Borrows `root_fd` (O_PATH, its root directory) and `proc_fd_dir` (this process's fd directory).

    `view` says whose everything is; `caller` of an operation is who asked for it (None: this process).
    `keep_sgid` is entered around a chmod that must keep an sgid bit (CAP_FSETID). The
    process's umask must be 0: modes arrive with the session's umask applied, and get the view's.
    `activity` counts operations and never goes back: an idle worker is one where it stays. `places` are where other
    volumes stand in this one, see `fixed`. `ledger`, borrowed, is the volume's account; None: it has no limits.
    """

    def __init__(
        self,
        *,
        root_fd: int,
        proc_fd_dir: int,
        view: View,
        keep_sgid: Callable[[], AbstractContextManager[None]],
        read_only: bool = False,
        max_handles: int | None = None,
        places: Iterable[bytes] = (),
        ledger: Ledger | None = None,
    ) -> None:
        self.view = view
        self.activity = 0
        self._root_fd = root_fd
        self._proc_fd_dir = proc_fd_dir
        self._read_only = read_only
        self._refused = False
        self._nodes = NodeTable(os.fstat(root_fd))
        self._fixed = FixedDirectories(self._nodes, places)
        self._finder = Finder(self._nodes, root_fd, KEPT_DIRECTORIES)
        self._quota = Quota(ledger)
        self._handles = HandleTable(descriptor_limit() if max_handles is None else max_handles, self._quota)
        self._ourselves = Owner(os.geteuid(), os.getegid())
        self._maker = Maker(proc_fd_dir, keep_sgid)
        self._changer = Changer(self._finder, self._handles, self._quota, view, proc_fd_dir, self._maker.chmod)
        self._lister = Lister(self._nodes, self._finder, self._handles, self._fixed, self._fixed_stat, root_fd)
        self.flush_matters = files.reports_errors_at_close(root_fd)

    @property
    def open_handles(self) -> int:
        """Open files and directories."""
        return len(self._handles)

    @property
    def live_nodes(self) -> int:
        """Objects the kernel knows, the root included."""
        return len(self._nodes)

    @property
    def refused(self) -> bool:
        """Whether every operation is answered with EACCES."""
        return self._refused

    @property
    def read_only(self) -> bool:
        """Whether every change is answered with EACCES."""
        return self._read_only

    def restrict(self, *, refuse: bool, read_only: bool) -> None:
        """From now on answer everything (`refuse`) or every change (`read_only`) with EACCES, open handles included.

        Handles can still be released and nodes forgotten. Calling it again with False lifts a restriction. From
        `read_only` without `refuse` on no file is open for writing, so that the mount itself can be made read-only;
        nothing can be written with handles from before, then or later.
        """
        self._refused = refuse
        self._read_only = read_only
        if read_only and not refuse:
            # What is refused altogether must not wait for a file system that does not answer.
            self._handles.stop_writing(self._proc_fd_dir)

    def close(self) -> None:
        """Close all handles and kept descriptors. The two borrowed descriptors stay open."""
        self._handles.close()
        self._finder.close()

    # Looking

    def lookup(self, parent_id: int, name: bytes) -> Entry:
        """What `name` in the directory is, counted as told to the kernel. Raises OSError ENOENT."""
        if self._fixed and (fixed := self._fixed.get(parent_id, name)) is not None:
            return self._entry(fixed, self._fixed_stat(fixed))
        self._admit()
        directory = self._finder.directory(self._nodes.get(parent_id))
        st = os.stat(component(name), dir_fd=directory, follow_symlinks=False)
        return self._told(self._nodes.seen(parent_id, name, st), st)

    def getattr(self, node_id: int) -> Entry:
        """Attributes as they are now, of an open file without a name too."""
        node = self._nodes.get(node_id)
        if node.fixed or (self._refused and self._fixed and node is self._nodes.root):
            return self._entry(node, self._fixed_stat(node))
        self._admit()
        return self._entry(node, self._finder.stat(node))

    def readlink(self, node_id: int) -> bytes:
        """A symlink's target, as it is on disk: data, which the caller's kernel resolves in the caller's root."""
        self._admit()
        node = self._nodes.get(node_id)
        if node.kind != SYMLINK:
            raise failure(errno.EINVAL)
        fd = self._finder.open(node)
        try:
            return os.readlink(b"", dir_fd=fd)
        finally:
            os.close(fd)

    def statfs(self) -> Space:
        """Room on the file system the root directory is on (statvfs(3)), or within the volume's limits."""
        self._admit()
        st = os.fstatvfs(self._root_fd)
        space = Space(
            block_size=st.f_bsize,
            fragment_size=st.f_frsize,
            blocks=st.f_blocks,
            free=st.f_bfree,
            available=st.f_bavail,
            files=st.f_files,
            files_free=st.f_ffree,
            files_available=st.f_favail,
            name_max=st.f_namemax,
        )
        return space if not self._quota.active else self._quota.within(space)

    def forget(self, node_id: int, count: int) -> None:
        """The kernel takes back `count` times it was told of a node. Never refused, never raises."""
        self._dropped(self._nodes.forget(node_id, count))

    # Changing names

    def mkdir(self, parent_id: int, name: bytes, mode: int, caller: Owner | None = None) -> Entry:
        """Make a directory, sgid inherited (mkdir(2)). Raises OSError EEXIST."""
        self._admit_change()
        self._check_free(parent_id, name, errno.EEXIST)
        directory, owner = self._place(parent_id, caller)
        wanted = mode & ~self.view.umask
        with self._quota.making() as made:
            st = self._maker.directory(
                directory, component(name), lambda current: self.view.directory_bits(wanted, current), owner
            )
            made(st)
        return self._told(self._nodes.made(parent_id, name, st), st)

    def symlink(self, parent_id: int, name: bytes, target: bytes, caller: Owner | None = None) -> Entry:
        """Make a symlink with any target. Raises OSError EEXIST."""
        self._admit_change()
        self._check_free(parent_id, name, errno.EEXIST)
        directory, owner = self._place(parent_id, caller)
        with self._quota.making(blocks_of_symlink(len(target))) as made:
            st = self._maker.symlink(directory, component(name), target, owner)
            made(st)
        return self._told(self._nodes.made(parent_id, name, st), st)

    def mknod(self, parent_id: int, name: bytes, mode: int, caller: Owner | None = None) -> Entry:
        """Make an empty regular file, or what else the view lets be made; EPERM for a device. Raises OSError EEXIST."""
        self._admit_change()
        self._check_free(parent_id, name, errno.EEXIST)
        kind = mode >> KIND_SHIFT or REGULAR
        if kind not in self.view.makes:
            raise failure(errno.EPERM)
        directory, owner = self._place(parent_id, caller)
        bits = self.view.file_bits(mode & ~self.view.umask)
        with self._quota.making() as made:
            if kind == REGULAR:
                fd, st = self._maker.file(directory, component(name), bits, os.O_WRONLY, owner)
                os.close(fd)
            else:
                st = self._maker.node(directory, component(name), kind, bits, owner)
            made(st)
        return self._told(self._nodes.made(parent_id, name, st), st)

    def link(self, node_id: int, parent_id: int, name: bytes) -> Entry:
        """Give a file (or symlink, or FIFO) another name. Raises OSError EPERM for a directory, EEXIST, EXDEV."""
        self._admit_change()
        self._check_free(parent_id, name, errno.EEXIST)
        node = self._nodes.get(node_id)
        if node.kind == DIRECTORY:
            raise failure(errno.EPERM)
        fd = self._finder.open(node)
        try:
            directory = self._finder.directory(self._nodes.get(parent_id))
            with self._quota.moving(), self._quota.making() as made:
                files.link(self._proc_fd_dir, fd, directory, component(name))
                st = os.fstat(fd)
                made(st)
        finally:
            os.close(fd)
        node.add_name(parent_id, name)
        return self._told(node, st)

    def unlink(self, parent_id: int, name: bytes) -> None:
        """Remove a name that is no directory. Raises OSError."""
        self._admit_change()
        self._check_free(parent_id, name, errno.EBUSY)
        directory = self._finder.directory(self._nodes.get(parent_id))
        with self._quota.removing(directory, component(name)):
            os.unlink(name, dir_fd=directory)

    def rmdir(self, parent_id: int, name: bytes) -> None:
        """Remove an empty directory. Raises OSError ENOTEMPTY."""
        self._admit_change()
        self._check_free(parent_id, name, errno.EBUSY)
        directory = self._finder.directory(self._nodes.get(parent_id))
        with self._quota.removing(directory, component(name)):
            os.rmdir(name, dir_fd=directory)

    def rename(self, parent_id: int, name: bytes, new_parent_id: int, new_name: bytes, flags: int = 0) -> None:
        """rename(2), with `flags` 0, RENAME_NOREPLACE or RENAME_EXCHANGE. Raises OSError, EINVAL for other flags."""
        self._admit_change()
        if flags not in (0, files.RENAME_NOREPLACE, files.RENAME_EXCHANGE):
            raise failure(errno.EINVAL)
        component(name)
        component(new_name)
        self._check_free(parent_id, name, errno.EBUSY)
        self._check_free(new_parent_id, new_name, errno.EBUSY)
        old = self._finder.directory(self._nodes.get(parent_id))
        new = self._finder.directory(self._nodes.get(new_parent_id))
        with self._quota.moving():
            if flags:
                files.renameat2(old, name, new, new_name, flags)
            else:
                with self._quota.removing(new, new_name):
                    os.rename(name, new_name, src_dir_fd=old, dst_dir_fd=new)
        self._moved(parent_id, name, new, new_parent_id, new_name)
        if flags == files.RENAME_EXCHANGE:
            self._moved(new_parent_id, new_name, old, parent_id, name)

    # Changing attributes

    def setattr(
        self,
        node_id: int,
        *,
        handle: int | None = None,
        size: int | None = None,
        mode: int | None = None,
        uid: int | None = None,
        gid: int | None = None,
        atime_ns: int | None = None,
        mtime_ns: int | None = None,
        caller: Owner | None = None,
    ) -> Entry:
        """Change what is not None: size, then owner, mode, times. `handle` is an open file of this node.

        A symlink's own times can be set. What may be changed, and uid and gid: see `View`. Raises OSError;
        BlockingIOError when a size meets a lease.
        """
        self._admit_change()
        node = self._nodes.get(node_id)
        st = self._changer.change(
            node,
            handle=handle,
            size=size,
            mode=mode,
            uid=uid,
            gid=gid,
            atime_ns=atime_ns,
            mtime_ns=mtime_ns,
            caller=caller or self._ourselves,
        )
        return self._entry(node, st)

    # Files

    def open(self, node_id: int, flags: int) -> int:
        """Open a regular file as open(2) does with `flags`. Returns a handle's number.

        Raises OSError EACCES for anything that is no regular file, ENFILE when too many are open, and
        BlockingIOError when the container holds a lease on it: the kernel has asked for it back, so try again soon.
        """
        self._admit()
        if self._read_only and _writes(flags):
            raise failure(errno.EACCES)
        node = self._nodes.get(node_id)
        self._handles.check_room()
        if node.kind != REGULAR:
            raise failure(errno.EISDIR if node.kind == DIRECTORY else errno.EACCES)
        return self._handles.add(self._open_file(node, flags), node, append=_appends(flags))

    def create(
        self, parent_id: int, name: bytes, mode: int, flags: int, caller: Owner | None = None
    ) -> tuple[int, Entry]:
        """Open `name`, made if it is not there (open(2) with O_CREAT). Returns a handle's number and what it is of.

        Raises OSError as `open` does; EEXIST with O_EXCL; ESTALE when something else than a file has appeared there
        since the kernel looked, on which it looks again.
        """
        self._admit_change()
        self._handles.check_room()
        self._check_free(parent_id, name, errno.EEXIST)
        try:
            # O_TMPFILE must be opened for writing (open(2)); what the client may do is the kernel's check.
            access = os.O_RDWR if flags & os.O_ACCMODE == os.O_RDONLY else flags & os.O_ACCMODE
            flags_of_new = flags & _O_CLIENT & ~os.O_ACCMODE & ~os.O_TRUNC | access
            bits = self.view.file_bits(mode & ~self.view.umask)
            directory, owner = self._place(parent_id, caller)
            with self._quota.making() as made:
                fd, st = self._maker.file(directory, component(name), bits, flags_of_new, owner)
                made(st)
        except FileExistsError:
            if flags & os.O_EXCL:
                raise
            return self._open_existing(parent_id, name, flags)
        node = self._nodes.made(parent_id, name, st)
        return self._handles.add(fd, node, append=_appends(flags)), self._told(node, st)

    def read(self, handle: int, offset: int, size: int) -> bytes:
        """Up to `size` bytes at `offset`; fewer only at the end of the file. Raises OSError EBADF."""
        self._admit()
        return os.pread(self._handles.get(handle).fd, size, offset)

    def write(self, handle: int, offset: int, data: bytes) -> int:
        """Write at `offset`, or at the end if opened with O_APPEND. Returns how many bytes were written, 1 at least.

        Raises OSError: ENOSPC, EDQUOT, EFBIG, EBADF.
        """
        self._admit_change()
        return self._handles.write(handle, offset, data)

    def flush(self, handle: int) -> None:
        """What close(2) on the file system beneath would report now. Raises OSError. See `flush_matters`."""
        self._admit()
        os.close(os.dup(self._handles.get(handle).fd))

    def fsync(self, handle: int, data_only: bool) -> None:
        """fsync(2) or fdatasync(2), of a file or a directory. Raises OSError."""
        self._admit()
        fd = self._handles.get(handle).fd
        if data_only:
            os.fdatasync(fd)
        else:
            os.fsync(fd)

    def release(self, handle: int) -> None:
        """Close a file's or directory's handle. Never refused. Raises OSError EBADF."""
        self._handles.release(handle)

    def opened(self, handle: int, longest: int) -> tuple[bytes, bool]:
        """The path of an open file, see `NodeTable.path`, and whether it is open for writing. Raises OSError EBADF."""
        return self._nodes.path(self._handles.get(handle).node, longest), self._handles.writes(handle)

    # Directories

    def opendir(self, node_id: int) -> int:
        """Open a directory for reading. Returns a handle's number.

        Raises OSError ENOTDIR, ENFILE; what reading it raises, as far as that can be known now: see `readdir`.
        """
        self._admit()
        node = self._nodes.get(node_id)
        self._handles.check_room()
        return self._lister.open(node)

    def readdir(self, handle: int, offset: int, show: Callable[[bytes, Entry, int], bool]) -> None:
        """Give entries from `offset` on to `show` (name, entry, offset after it) until it answers False.

        `offset` is 0 or one given out for this directory. An entry for which `show` answered True counts as told to
        the kernel. Raises OSError EBADF, and see `Lister.read`: whoever lists the directory may take that for its end,
        so nobody must hear of it.
        """
        self._admit()

        def entry(name: bytes, node: Node, st: os.stat_result, after: int) -> bool:
            return show(name, Entry(node, self.view.mode(st.st_mode), st), after)

        self._lister.read(self._handles.get(handle), offset, entry)

    # Below: steps the operations share

    def _admit(self) -> None:
        self.activity += 1
        if self._refused:
            raise failure(errno.EACCES)

    def _admit_change(self) -> None:
        self.activity += 1
        if self._refused or self._read_only:
            raise failure(errno.EACCES)

    def _check_free(self, parent_id: int, name: bytes, number: int) -> None:
        """Raise OSError `number` when the name is fixed."""
        if self._fixed and self._fixed.get(parent_id, name) is not None:
            raise failure(number)

    def _fixed_stat(self, node: Node) -> os.stat_result:
        self.activity += 1
        if self._refused:
            # The way to what stands here must stay open, or it could not be unmounted; nothing of the disk is told.
            return self._fixed.stat()
        try:
            return os.fstat(self._finder.directory(node))
        except OSError:
            return self._fixed.stat()

    def _entry(self, node: Node, st: os.stat_result) -> Entry:
        return Entry(node, self.view.mode(st.st_mode), st)

    def _told(self, node: Node, st: os.stat_result) -> Entry:
        node.lookups += 1
        return Entry(node, self.view.mode(st.st_mode), st)

    def _dropped(self, node: Node | None) -> None:
        if node is not None:
            self._finder.forgotten(node)

    def _place(self, parent_id: int, caller: Owner | None) -> tuple[int, Owner]:
        """Where something new goes, and whom it will belong to. Raises OSError."""
        directory = self._finder.directory(self._nodes.get(parent_id))
        return directory, self.view.owner_of_new(os.fstat(directory), caller or self._ourselves)

    def _open_file(self, node: Node, flags: int) -> int:
        path = self._finder.open(node)
        try:
            if flags & os.O_TRUNC:
                return self._quota.resize(
                    path, 0, lambda: files.reopen(self._proc_fd_dir, path, flags & _O_CLIENT | O_OPEN), refill=True
                )
            return files.reopen(self._proc_fd_dir, path, flags & _O_CLIENT | O_OPEN)
        finally:
            os.close(path)

    def _open_existing(self, parent_id: int, name: bytes, flags: int) -> tuple[int, Entry]:
        directory = self._finder.directory(self._nodes.get(parent_id))
        try:
            st = os.stat(name, dir_fd=directory, follow_symlinks=False)
        except FileNotFoundError:
            raise failure(errno.ESTALE) from None
        if st.st_mode >> KIND_SHIFT != REGULAR:
            raise failure(errno.ESTALE)
        # The kernel has checked the directory only, since it saw no file: the file's own bits are ours to check.
        needed = (stat.S_IRUSR if flags & os.O_ACCMODE != os.O_WRONLY else 0) | (stat.S_IWUSR if _writes(flags) else 0)
        self.view.check_opens(st.st_mode, needed)
        node = self._nodes.seen(parent_id, name, st)
        try:
            fd = self._open_file(node, flags)
        except BaseException:
            self._dropped(self._nodes.drop_unused(node))
            raise
        handle = self._handles.add(fd, node, append=_appends(flags))
        return handle, self._told(node, os.fstat(fd))

    def _moved(self, parent_id: int, name: bytes, new_directory: int, new_parent_id: int, new_name: bytes) -> None:
        """Note that what was `name` is now `new_name`. What was replaced loses its name when next looked for."""
        try:
            st = os.stat(new_name, dir_fd=new_directory, follow_symlinks=False)
        except OSError:
            return  # gone again already
        node = self._nodes.known(st)
        if node is not None:
            node.drop_name(parent_id, name)
            node.add_name(new_parent_id, new_name)


def _appends(flags: int) -> bool:
    return bool(flags & os.O_APPEND)


def _writes(flags: int) -> bool:
    return flags & os.O_ACCMODE != os.O_RDONLY or bool(flags & os.O_TRUNC)
