"""From a directory's path to a detached mount of it, without ever following a symlink below the configured root.

A container can swap a directory for a symlink at any moment. Every product that resolved such paths as strings was
broken by that; so the path is walked once by the kernel with RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS (openat2(2)), and
what was opened is cloned by descriptor. A volume that the engine mounts on demand is mounted by us as well, whether the
engine has it mounted or not: see `on_demand`. These calls may block for ever where a server does not answer: see
`patience`.
"""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import functools
import os
import threading
import time
from collections import OrderedDict
from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple

from hatchway.config import Config
from hatchway.errors import ConflictError, HatchwayError, HostError, RefusedError
from hatchway.host.on_demand import BIND, Demand, demand_of, open_device
from hatchway.host.policy import check_directory, check_source, check_within, private_directories
from hatchway.host.whereabouts import Whereabouts, of_device
from hatchway.kernel import mounts
from hatchway.kernel.birth import birth_of
from hatchway.kernel.files import (
    RESOLVE_BENEATH,
    RESOLVE_NO_MAGICLINKS,
    RESOLVE_NO_SYMLINKS,
    RESOLVE_NO_XDEV,
    openat2,
)
from hatchway.kernel.statx import statx
from hatchway.kernel.superblock import journal_elsewhere, uuid_on
from hatchway.model import below
from hatchway.wire.host import FolderState

_RESOLVE = RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS | RESOLVE_NO_MAGICLINKS
_ATTRIBUTES = mounts.ATTR_NOSYMFOLLOW | mounts.ATTR_NOSUID | mounts.ATTR_NODEV | mounts.ATTR_NOEXEC

LOOKS_MAX = 1024
"""Parts of file systems that `birth` remembers, instead of mounting those file systems each time it is asked."""

REAL_S = 5.0
"""How long it is remembered where a configured directory really is."""

FAILED_S = 300.0
"""How long `birth` remembers that one could not be had. A session tries in any case."""


def open_volume(config: Config, source: str, *, read_only: bool, expected: str = "", folder: str = "") -> int:
    """A detached, private mount of the directory `source`: nosymfollow, nosuid, nodev, noexec, read-only if asked.

    With `expected` it must be that very directory, as `birth` said: a path can have been removed and made again for
    somebody else since the core looked. With `folder` only that directory of it is mounted, and stays so wherever the
    container moves it. Returns its O_PATH descriptor. Raises RefusedError when the policy forbids it, ConflictError
    when it is another directory, HostError when it cannot be had.
    """
    with contextlib.ExitStack() as stack:
        found = _find(config, source, stack, expected)
        if folder:
            try:
                found = _within(found, folder, stack)
            except OSError as exc:
                raise HostError(_why_not(f"{source}/{folder}", exc)) from exc
        try:
            volume = found.mount(config.mount_dir)
        except OSError as exc:
            raise HostError(f"{source} cannot be mounted: {exc.strerror}") from exc
        attributes = _ATTRIBUTES
        if read_only or found.read_only:
            attributes |= mounts.ATTR_RDONLY
        try:
            mounts.set_attributes(volume, add=attributes, propagation=mounts.MS_PRIVATE)
        except OSError as exc:
            os.close(volume)
            raise HostError(f"{source} cannot be mounted: {exc.strerror}") from exc
        return volume


def _within(found: _Found, folder: str, stack: contextlib.ExitStack) -> _Found:
    """The directory `folder` of what was found, if it is of the same mount. Raises OSError."""
    flags = os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC
    directory = _keep(stack, openat2(found.directory, os.fsencode(folder), flags, 0, _RESOLVE | RESOLVE_NO_XDEV))
    return dataclasses.replace(found, directory=directory, whole=False)


def _find(config: Config, source: str, stack: contextlib.ExitStack, expected: str) -> _Found:
    """The directory `source`, which must be `expected` unless that is "". Raises as `open_volume`."""
    root, rest = check_source(config, source)
    try:
        asked = _asked(config, root, rest, stack)
        if asked is None:
            found = _Found(_keep(stack, _open_beneath(config, root, rest)))
        else:
            found = _found_on_demand(config, source, asked, stack, expected)
    except OSError as exc:
        raise HostError(_why_not(source, exc)) from exc
    try:
        if expected and found.birth() != expected:
            raise _another(source)
    except OSError as exc:
        raise HostError(f"{source} cannot be mounted: {exc.strerror}") from exc
    return found


@dataclass(frozen=True, slots=True)
class Room:
    """What the file system has that a volume is on, in bytes and files; `files` is 0 where it has no number of them.

    `own`: the volume is all of it, and `nominal` then the size of its device.
    """

    own: bool
    nominal: int
    total: int
    free: int
    available: int
    files: int
    files_free: int


def room(config: Config, source: str, *, expected: str) -> Room:
    """How much room there is where `source` is. Raises as `open_volume`."""
    with contextlib.ExitStack() as stack:
        found = _find(config, source, stack, expected)
        try:
            there, space = os.fstat(found.directory), os.fstatvfs(found.directory)
            own = found.whole or (found.tree is None and _is_file_system(found.directory))
        except OSError as exc:
            raise HostError(f"{source} cannot be looked at: {exc.strerror}") from exc
        total = space.f_blocks * space.f_frsize
        return Room(
            own=own,
            nominal=_device_size(there.st_dev) or total,
            total=total,
            free=space.f_bfree * space.f_frsize,
            available=space.f_bavail * space.f_frsize,
            files=space.f_files,
            files_free=space.f_ffree,
        )


def folder_states(config: Config, source: str, *, expected: str, folders: Iterable[str]) -> dict[str, FolderState]:
    """What is where these folders of `source` should be, for a session that asked for one now.

    Of a volume on a device nothing is said: its file system is mounted only for who uses it. Raises as `open_volume`.
    """
    if device_of(config, source):
        return {}
    with contextlib.ExitStack() as stack:
        found = _find(config, source, stack, expected)
        return {folder: _folder_state(found, folder) for folder in folders}


def _folder_state(found: _Found, folder: str) -> FolderState:
    check_within(folder)
    with contextlib.ExitStack() as stack:
        try:
            _within(found, folder, stack)
        except OSError as exc:
            return _STATES.get(exc.errno or 0, FolderState.UNKNOWN)
    return FolderState.THERE


_STATES = {
    errno.ENOENT: FolderState.NOTHING,
    errno.ENOTDIR: FolderState.FILE,
    errno.ELOOP: FolderState.LINK,
    errno.EXDEV: FolderState.LINK,
}


def device_of(config: Config, source: str) -> str:
    """The device the engine mounts `source` from, while somebody uses it; "" for what is there anyway.

    Raises RefusedError, HostError.
    """
    root, rest = check_source(config, source)
    with contextlib.ExitStack() as stack:
        try:
            asked = _asked(config, root, rest, stack)
        except OSError as exc:
            raise HostError(_why_not(source, exc)) from exc
    return "" if asked is None or asked.demand.kind == BIND else asked.demand.device


def _is_file_system(directory: int) -> bool:
    """Whether a directory is all that there is of its file system."""
    if not statx(directory).mount_root:
        return False
    real = os.readlink(f"/proc/self/fd/{directory}")
    roots = [entry.root for entry in mounts.mount_table() if entry.target == real]
    return bool(roots) and roots[-1] == "/"


def _device_size(number: int) -> int:
    """Bytes of the block device `number` (st_dev), 0 when it is none (sysfs-block: size, in units of 512)."""
    try:
        with open(f"/sys/dev/block/{os.major(number)}:{os.minor(number)}/size", encoding="ascii") as file:
            return int(file.read()) * 512
    except (OSError, ValueError):
        return 0


_OURS = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOMEM})


def birth(config: Config, source: str) -> str:
    """Which directory `source` is now. Raises as `look`."""
    return look(config, source, Whereabouts()).birth


class Look(NamedTuple):
    """Which directory it is, and where on its file system; "" when that cannot be told."""

    birth: str
    where: str


def look(config: Config, source: str, whereabouts: Whereabouts) -> Look:
    """Which directory `source` is now, and where.

    Raises RefusedError with the reason when it is not there, not allowed or cannot be told from another; HostError
    when we are out of something, or a file system cannot be mounted: that says nothing about the directory, and must
    not be taken for its absence.
    """
    root, rest = check_source(config, source)
    try:
        with contextlib.ExitStack() as stack:
            asked = _asked(config, root, rest, stack)
            if asked is None:
                directory = _keep(stack, _open_beneath(config, root, rest))
                return Look(birth_of(directory), whereabouts.of(directory))
            return _look_on_demand(config, source, asked, stack, whereabouts)
    except OSError as exc:
        raise _failure(source, exc) from exc


_GONE = frozenset({errno.ENOENT, errno.ENOTDIR, errno.ELOOP})


def vanished(config: Config, source: str, expected: str) -> str:
    """Why `source` is not the directory `expected` (as `birth` said) any more; "" when it is, or that is not certain.

    Raises HatchwayError as `birth`, for which there may be other reasons than the directory's absence.
    """
    try:
        found = birth(config, source)
    except RefusedError as exc:
        if isinstance(exc.__cause__, OSError) and exc.__cause__.errno in _GONE:
            return str(exc)
        raise
    return "" if found == expected else str(_another(source))


def _failure(source: str, exc: OSError) -> HatchwayError:
    if exc.errno in _OURS:
        return HostError(f"{source} cannot be looked at: {exc.strerror}")
    return RefusedError(_why_not(source, exc))


def _another(source: str) -> ConflictError:
    return ConflictError(f"{source} is another directory than the one access was given to")


@dataclass(frozen=True, slots=True)
class _Found:
    """The directory that is to be shown, an O_PATH descriptor.

    `volume` is the birth of what brought us there, "" for nothing but its path, and `tree` the detached mount that the
    directory lies in already. `whole`: it is a file system's root, of which `volume` says all.
    """

    directory: int
    volume: str = ""
    tree: int | None = None
    whole: bool = False
    read_only: bool = False

    def birth(self) -> str:
        """Which directory it is. Raises OSError."""
        if self.whole:
            return self.volume
        own = birth_of(self.directory)
        return f"{self.volume}+{own}" if self.volume else own

    def mount(self, scratch: str) -> int:
        """A detached mount of it, which is the caller's. `scratch` as of `mounts.clone_part`. Raises OSError."""
        if self.tree is None:
            return mounts.clone_tree(self.directory)
        if self.directory == self.tree:
            return os.dup(self.tree)
        return mounts.clone_part(self.directory, self.tree, scratch)


@dataclass(frozen=True, slots=True)
class _Asked:
    """A volume, by the descriptor of its directory, that the engine mounts on demand; `part` is what is shown of it."""

    volume: int
    demand: Demand
    part: str

    @property
    def whole(self) -> bool:
        """Whether the file system's UUID says which directory it is."""
        return not self.part and self.demand.kind != BIND


@dataclass(frozen=True, slots=True)
class _Device:
    """An open block device, its number, and which volume it is at the moment."""

    fd: int
    number: int
    uuid: str
    volume: str


class _Looks:
    """What was found in file systems that are not mounted all the time. Used by several threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._births: OrderedDict[tuple[str, Demand, str], str] = OrderedDict()
        self._failures: OrderedDict[tuple[str, Demand, str], tuple[float, type[HatchwayError], str]] = OrderedDict()

    def get(self, key: tuple[str, Demand, str]) -> str:
        """What `put` was told last, "" for nothing."""
        with self._lock:
            return self._births.get(key, "")

    def put(self, key: tuple[str, Demand, str], found: str) -> None:
        """Remember `found`."""
        with self._lock:
            self._failures.pop(key, None)
            self._births[key] = found
            self._births.move_to_end(key)
            while len(self._births) > LOOKS_MAX:
                self._births.popitem(last=False)

    def failed(self, key: tuple[str, Demand, str]) -> HatchwayError | None:
        """What went wrong less than FAILED_S ago, None for nothing."""
        with self._lock:
            until, kind, text = self._failures.get(key, (0.0, HostError, ""))
        return kind(text) if time.monotonic() < until else None

    def fail(self, key: tuple[str, Demand, str], error: HatchwayError) -> None:
        """Remember that nothing was found, and why."""
        with self._lock:
            self._failures[key] = time.monotonic() + FAILED_S, type(error), str(error)
            self._failures.move_to_end(key)
            while len(self._failures) > LOOKS_MAX:
                self._failures.popitem(last=False)


_looks = _Looks()


def _keep(stack: contextlib.ExitStack, fd: int) -> int:
    """`fd`, which is closed with `stack`."""
    stack.callback(os.close, fd)
    return fd


def _asked(config: Config, root: str, rest: str, stack: contextlib.ExitStack) -> _Asked | None:
    """What the engine mounts for a volume, None where it mounts nothing. Raises OSError, RefusedError."""
    if root not in config.host.volume_roots:
        return None
    name, _, data = rest.partition("/")
    volume = _keep(stack, _open(root, name))
    demand = demand_of(volume)
    return None if demand is None else _Asked(volume, demand, data.removeprefix("_data").strip("/"))


def _look_on_demand(
    config: Config, source: str, asked: _Asked, stack: contextlib.ExitStack, whereabouts: Whereabouts
) -> Look:
    if asked.demand.kind == BIND:
        there = _found_directory(config, source, asked, stack)
        return Look(there.birth(), whereabouts.of(there.directory))
    device = _device(config, asked, stack)
    where = of_device(device.number, asked.part)
    if asked.whole:
        _check_data(config, source, asked, device.number)
        return Look(device.volume, where)
    return Look(_birth_of_part(config, source, asked, device, stack), where)


def _birth_of_part(config: Config, source: str, asked: _Asked, device: _Device, stack: contextlib.ExitStack) -> str:
    key = device.volume, asked.demand, asked.part
    if found := _looks.get(key):
        return found
    if (failed := _looks.failed(key)) is not None:
        raise failed
    try:
        return _found_on_device(config, source, asked, device, stack).birth()
    except OSError as exc:
        failure: HatchwayError = _failure(source, exc)
        _looks.fail(key, failure)
        raise failure from exc
    except HatchwayError as exc:
        _looks.fail(key, exc)
        raise


def _found_on_demand(config: Config, source: str, asked: _Asked, stack: contextlib.ExitStack, expected: str) -> _Found:
    if asked.demand.kind == BIND:
        return _found_directory(config, source, asked, stack)
    device = _device(config, asked, stack)
    # Before the kernel parses somebody else's file system.
    if expected and expected != device.volume and not expected.startswith(f"{device.volume}+"):
        raise _another(source)
    return _found_on_device(config, source, asked, device, stack)


def _found_directory(config: Config, source: str, asked: _Asked, stack: contextlib.ExitStack) -> _Found:
    device = asked.demand.device
    path = f"{device}/{asked.part}" if asked.part else device
    volume = birth_of(asked.volume)
    try:
        root = _keep(stack, _open_beneath(config, *check_directory(config, device)))
        directory = _keep(stack, _open_beneath(config, *check_directory(config, path))) if asked.part else root
    except OSError as exc:
        raise _failure(path, exc) from exc
    there = os.fstat(root)
    _check_data(config, source, asked, there.st_dev, there.st_ino)
    return _Found(directory, volume, read_only=asked.demand.read_only)


def _device(config: Config, asked: _Asked, stack: contextlib.ExitStack) -> _Device:
    demand = asked.demand
    try:
        fd = _keep(stack, open_device(config, demand.device))
        number, uuid = os.fstat(fd).st_rdev, uuid_on(fd, demand.kind)
        elsewhere = bool(uuid) and journal_elsewhere(fd, demand.kind)
    except OSError as exc:
        raise _failure(demand.device, exc) from exc
    if elsewhere:
        raise RefusedError(
            f"the file system on {demand.device} has its journal on another device, which it names itself"
        )
    if not uuid:
        raise RefusedError(f"{demand.device} has no {demand.kind} file system, or one that has no UUID")
    return _Device(fd, number, uuid, f"{birth_of(asked.volume)}+uuid:{uuid}")


def _found_on_device(
    config: Config, source: str, asked: _Asked, device: _Device, stack: contextlib.ExitStack
) -> _Found:
    demand = asked.demand
    try:
        # The device's own name, not /proc/self/fd/N: it is in the kernel's log. Whether it was it is seen afterwards.
        name = os.readlink(f"/proc/self/fd/{device.fd}")
        tree = _keep(stack, mounts.mount_device(demand.kind, name, demand.options, _ATTRIBUTES | demand.attributes))
        same = os.stat(name).st_rdev == device.number
    except OSError as exc:
        raise HostError(f"{demand.device} cannot be mounted: {_why_not_mounted(exc)}") from exc
    root = os.fstat(tree)
    if not same or root.st_dev != device.number or uuid_on(device.fd, demand.kind) != device.uuid:
        raise HostError(f"{demand.device} changed while it was mounted")
    _check_data(config, source, asked, root.st_dev, root.st_ino)
    directory = tree
    if asked.part:
        part = os.fsencode(asked.part)
        directory = _keep(stack, openat2(tree, part, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC, 0, _RESOLVE))
    found = _Found(directory, device.volume, tree, asked.whole, demand.read_only)
    if not asked.whole:
        _looks.put((device.volume, demand, asked.part), found.birth())
    return found


def _why_not_mounted(exc: OSError) -> str:
    match exc.errno:
        case errno.EBUSY:
            return "it is mounted already, and read-only there but not here, or the other way round"
        case errno.EINVAL:
            return "the kernel does not take it, or its options; its log may say more"
        case errno.ENODEV:
            return "the kernel does not know this type of file system"
        case _:
            return exc.strerror or "error"


def _check_data(config: Config, source: str, asked: _Asked, device: int, inode: int | None = None) -> None:
    """Raise RefusedError when something else is mounted on the volume's own directory than the engine mounts there.

    That is the directory `inode` of the file system `device` (st_dev); None for whichever it is. Raises OSError.
    """
    flags = os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC
    mounted = False
    try:
        data = openat2(asked.volume, b"_data", flags, 0, _RESOLVE | RESOLVE_NO_XDEV)
    except OSError as exc:
        if exc.errno != errno.EXDEV:
            raise
        mounted = True
        data = openat2(asked.volume, b"_data", flags, 0, _RESOLVE)
    try:
        _check_place(config, data)
        there = os.fstat(data)
    finally:
        os.close(data)
    if mounted and (there.st_dev != device or inode not in (None, there.st_ino)):
        raise RefusedError(f"something else is mounted at {source} than the volume's options say")


def _why_not(source: str, exc: OSError) -> str:
    match exc.errno:
        case errno.ENOENT:
            return f"there is no directory {source}"
        case errno.ENOTDIR:
            return f"{source} is no directory: single files, sockets and devices are not shared"
        case errno.ELOOP | errno.EXDEV:
            return f"a symlink is in the way of {source}; give the real path"
        case _:
            return f"{source} cannot be shared: {exc.strerror}"


def _open_beneath(config: Config, root: str, rest: str) -> int:
    fd = _open(root, rest)
    try:
        _check_place(config, fd)
    except BaseException:
        os.close(fd)
        raise
    return fd


@functools.lru_cache(maxsize=4)
def _real(paths: tuple[str, ...], _now: int) -> tuple[str, ...]:
    """Where configured directories really are. They are the operator's, and asked for once for each of thousands."""
    return tuple(os.path.realpath(path) for path in paths)


def _check_place(config: Config, fd: int) -> None:
    """Raise RefusedError when the directory really is one that is never shared, whatever name led there."""
    real = os.readlink(f"/proc/self/fd/{fd}")
    for own_real in _real(private_directories(config), int(time.monotonic() / REAL_S)):
        if below(real, own_real) or below(own_real, real):
            raise RefusedError(f"{real} is, holds or lies in a directory of Hatchway itself")
    for root in _real(config.host.volume_roots, int(time.monotonic() / REAL_S)):
        if below(root, real):
            raise RefusedError(f"{real} holds all volumes of the engine")
        # Docker's layout: beside volumes/ lie the containers' own file systems and their configuration.
        engine = os.path.dirname(root) if os.path.basename(root) == "volumes" else root
        if below(real, engine):
            _name, _, data = real[len(root) + 1 :].partition("/")
            if not below(real, root) or not below(data, "_data"):
                raise RefusedError(f"{real} is the engine's own")


def _open(root: str, rest: str) -> int:
    # The configured root itself may contain symlinks: it is the operator's, like the configuration.
    root_fd = os.open(root, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    if not rest:
        return root_fd
    try:
        return openat2(root_fd, os.fsencode(rest), os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC, 0, _RESOLVE)
    finally:
        os.close(root_fd)
