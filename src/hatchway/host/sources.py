"""From a directory's path to a detached mount of it, without ever following a symlink below the configured root.

A container can swap a directory for a symlink at any moment. Every product that resolved such paths as strings was
broken by that; so the path is walked once by the kernel with RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS (openat2(2)), and
what was opened is cloned by descriptor. These calls may block for ever where a server does not answer: see
`patience`.
"""

from __future__ import annotations

import errno
import os

from hatchway.config import Config
from hatchway.errors import ConflictError, HostError, RefusedError
from hatchway.host.policy import check_source, private_directories
from hatchway.kernel import mounts
from hatchway.kernel.birth import birth_of
from hatchway.kernel.files import RESOLVE_BENEATH, RESOLVE_NO_MAGICLINKS, RESOLVE_NO_SYMLINKS, openat2
from hatchway.model import below


def open_volume(config: Config, source: str, *, read_only: bool, expected: str = "") -> int:
    """A detached, private mount of the directory `source`: nosymfollow, nosuid, nodev, read-only if asked.

    With `expected` it must be that very directory, as `birth` said: a path can have been removed and made again for
    somebody else since the core looked. Returns its O_PATH descriptor. Raises RefusedError when the policy forbids
    it, ConflictError when it is another directory, HostError when it cannot be had.
    """
    root, rest = check_source(config, source)
    try:
        directory = _open_beneath(config, root, rest)
    except OSError as exc:
        raise HostError(_why_not(source, exc)) from exc
    try:
        if expected and birth_of(directory) != expected:
            raise ConflictError(f"{source} is another directory than the one access was given to")
        volume = mounts.clone_tree(directory)
    except OSError as exc:
        raise HostError(f"{source} cannot be mounted: {exc.strerror}") from exc
    finally:
        os.close(directory)
    attributes = mounts.ATTR_NOSYMFOLLOW | mounts.ATTR_NOSUID | mounts.ATTR_NODEV
    if read_only:
        attributes |= mounts.ATTR_RDONLY
    try:
        mounts.set_attributes(volume, add=attributes, propagation=mounts.MS_PRIVATE)
    except OSError as exc:
        os.close(volume)
        raise HostError(f"{source} cannot be mounted: {exc.strerror}") from exc
    return volume


_OURS = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOMEM})


def birth(config: Config, source: str) -> str:
    """Which directory `source` is now.

    Raises RefusedError with the reason when it is not there, not allowed or cannot be told from another; HostError
    when we are out of something: that says nothing about the directory, and must not be taken for its absence.
    """
    root, rest = check_source(config, source)
    try:
        directory = _open_beneath(config, root, rest)
        try:
            return birth_of(directory)
        finally:
            os.close(directory)
    except OSError as exc:
        if exc.errno in _OURS:
            raise HostError(f"{source} cannot be looked at: {exc.strerror}") from exc
        raise RefusedError(_why_not(source, exc)) from exc


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


def _check_place(config: Config, fd: int) -> None:
    """Raise RefusedError when the directory really is one that is never shared, whatever name led there."""
    real = os.readlink(f"/proc/self/fd/{fd}")
    for own in private_directories(config):
        own_real = os.path.realpath(own)
        if below(real, own_real) or below(own_real, real):
            raise RefusedError(f"{real} is, holds or lies in a directory of Hatchway itself")
    for volume_root in config.host.volume_roots:
        root = os.path.realpath(volume_root)
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
        resolve = RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS | RESOLVE_NO_MAGICLINKS
        return openat2(root_fd, os.fsencode(rest), os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC, 0, resolve)
    finally:
        os.close(root_fd)
