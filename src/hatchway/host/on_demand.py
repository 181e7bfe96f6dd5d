"""Volumes that the engine's `local` driver mounts when a container starts: what their options ask for, if we do it.

The options are read from the engine's own file in the volume's directory, never taken from the core. `o` may hold the
password of a network share: nothing of it is ever put into a message or a log.

Pure but for `demand_of` and `open_device`. Sources: volume/local/local.go and local_unix.go in moby, for the file and
for when it mounts; mount/flags_unix.go and mounter_linux.go in moby/sys, for how it reads `o`; the kernel's
Documentation/filesystems/overlayfs.rst, ext4.rst and xfs.rst.
"""

from __future__ import annotations

import errno
import os
import stat
from dataclasses import dataclass

import msgspec

from hatchway.config import Config
from hatchway.errors import RefusedError
from hatchway.host.policy import check_device, private_directories
from hatchway.kernel import mounts
from hatchway.kernel.files import (
    RESOLVE_BENEATH,
    RESOLVE_NO_MAGICLINKS,
    RESOLVE_NO_SYMLINKS,
    RESOLVE_NO_XDEV,
    openat2,
)
from hatchway.kernel.superblock import KINDS
from hatchway.printable import escaped

OPTIONS_FILE = b"opts.json"
OPTIONS_BYTES_MAX = 65536

BIND = "bind"
"""The kind of a demand that shows a directory of the host."""


class _Options(msgspec.Struct, frozen=True):
    """The engine's file, as far as it concerns us."""

    mount_type: str = msgspec.field(default="", name="MountType")
    mount_opts: str = msgspec.field(default="", name="MountOpts")
    mount_device: str = msgspec.field(default="", name="MountDevice")


@dataclass(frozen=True, slots=True)
class Demand:
    """What the engine mounts: `device` with the file system `kind`, or the directory `device` if that is BIND.

    `options` are the file system's own, None for one without a value; `attributes` are the mount's (ATTR_*).
    """

    kind: str
    device: str
    read_only: bool = False
    options: tuple[tuple[str, str | None], ...] = ()
    attributes: int = 0


def demand_of(volume: int) -> Demand | None:
    """What the volume with the directory `volume` (a descriptor) demands; None when the engine mounts nothing for it.

    Raises RefusedError when its options cannot be read or are not supported.
    """
    resolve = RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS | RESOLVE_NO_MAGICLINKS | RESOLVE_NO_XDEV
    try:
        # Not blocking: it could be a FIFO.
        fd = openat2(volume, OPTIONS_FILE, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC, 0, resolve)
    except FileNotFoundError:
        return None
    except OSError as exc:
        if exc.errno in (errno.EMFILE, errno.ENFILE, errno.ENOMEM):
            raise
        raise RefusedError(f"the engine's options of this volume cannot be read: {exc.strerror}") from exc
    try:
        found = os.fstat(fd)
        if not stat.S_ISREG(found.st_mode) or found.st_uid != 0 or found.st_mode & 0o022:
            raise RefusedError("the engine's options of this volume are not in a file that only root can write")
        raw = b""
        while len(raw) <= OPTIONS_BYTES_MAX and (more := os.read(fd, OPTIONS_BYTES_MAX + 1 - len(raw))):
            raw += more
    except OSError as exc:
        raise RefusedError(f"the engine's options of this volume cannot be read: {exc.strerror}") from exc
    finally:
        os.close(fd)
    if len(raw) > OPTIONS_BYTES_MAX:
        raise RefusedError("the engine's options of this volume are too long")
    return parse(raw)


def parse(raw: bytes) -> Demand | None:
    """What the engine's options file `raw` demands, None when nothing. Raises RefusedError as `demand_of`."""
    try:
        options = msgspec.json.decode(raw, type=_Options | None)
    except (msgspec.MsgspecError, UnicodeError, RecursionError):
        # Not chained: the decoder's message could quote the file.
        raise RefusedError("the engine's options of this volume cannot be understood") from None
    # Only a size is a quota on the volume's own directory: localVolume.needsMount.
    if options is None or not (options.mount_type or options.mount_device):
        return None
    if not options.mount_device:
        raise RefusedError("the volume's options name no device; the engine cannot mount it either")
    words = options.mount_opts.split(",")
    if "remount" in words:
        raise RefusedError("volumes with the option remount are not supported yet")
    # mount(2) does not look at the type of a bind mount.
    if "bind" in words or "rbind" in words:
        return Demand(BIND, _directory(options.mount_device), read_only=_last(words, "ro", "rw"))
    if options.mount_type not in KINDS:
        raise RefusedError(_why_not(options.mount_type))
    return Demand(
        options.mount_type,
        _path(options.mount_device, "the volume's device is no path of a block device"),
        _last(words, "ro", "rw"),
        _own_options(options.mount_type, words),
        _attributes(words),
    )


def _why_not(kind: str) -> str:
    if kind == "btrfs":
        return (
            "volumes of type btrfs are not supported yet: what its superblock says decides which other devices are "
            "mounted with it"
        )
    if kind == "tmpfs":
        return "a volume of type tmpfs has no contents while nothing has it mounted"
    if kind == "overlay":
        return "a volume of type overlay is not shared: what two mounts of its upper directory do is undefined"
    return (
        f"volumes of type {escaped(kind[:40])!r} are not supported yet: "
        f"only directories (o=bind) and {', '.join(sorted(KINDS))} are"
    )


def _directory(device: str) -> str:
    return _path(device, "the volume's device is no absolute path of a directory without '..'")


def _path(device: str, problem: str) -> str:
    """`device` with no empty or "." components. Raises RefusedError with `problem`: a server's name has passwords."""
    parts = [part for part in device.split("/") if part not in ("", ".")]
    if not device.startswith("/") or ".." in parts or not parts or not device.isprintable():
        raise RefusedError(problem)
    return "/" + "/".join(parts)


def _last(words: list[str], word: str, opposite: str) -> bool:
    """Whether `word` is among `words`, and `opposite` not after it."""
    said = [found for found in words if found in (word, opposite)]
    return bool(said) and said[-1] == word


def _attributes(words: list[str]) -> int:
    if _last(words, "noatime", "atime"):
        attributes = mounts.ATTR_NOATIME
    else:
        attributes = mounts.ATTR_STRICTATIME if _last(words, "strictatime", "nostrictatime") else 0
    if _last(words, "nodiratime", "diratime"):
        attributes |= mounts.ATTR_NODIRATIME
    return attributes


# moby/sys/mount's words for flags of mount(2) that make no difference here: of the mount point, not of its contents,
# or what we set in any case.
_NO_MATTER = frozenset(
    (
        "", "rw", "suid", "nosuid", "dev", "nodev", "exec", "noexec", "async", "mand", "nomand", "ro",
        "atime", "noatime", "diratime", "nodiratime", "relatime", "norelatime", "strictatime", "nostrictatime",
        "private", "rprivate", "shared", "rshared", "slave", "rslave", "unbindable", "runbindable",
    )
)  # fmt: skip

_EXT = frozenset(
    (
        "acl", "noacl", "user_xattr", "nouser_xattr", "errors", "data", "commit", "barrier", "nobarrier", "discard",
        "nodiscard", "delalloc", "nodelalloc", "journal_checksum", "journal_async_commit", "quota", "noquota",
        "usrquota", "grpquota", "prjquota", "resuid", "resgid", "stripe", "min_batch_time", "max_batch_time",
        "init_itable", "noinit_itable", "inode_readahead_blks", "auto_da_alloc", "noauto_da_alloc", "block_validity",
        "noblock_validity", "dioread_lock", "dioread_nolock", "i_version", "nombcache", "grpid", "bsdgroups",
        "nogrpid", "sysvgroups", "max_dir_size_kb",
    )
)  # fmt: skip
_EXTS = ("ext2", "ext3", "ext4")
_KNOWN = {
    "ext2": _EXT,
    "ext3": _EXT,
    "ext4": _EXT,
    "xfs": frozenset(
        (
            "allocsize", "discard", "nodiscard", "grpid", "bsdgroups", "nogrpid", "sysvgroups", "filestreams", "ikeep",
            "noikeep", "inode32", "inode64", "largeio", "nolargeio", "logbufs", "logbsize", "noalign", "noquota",
            "quota", "uquota", "usrquota", "uqnoenforce", "qnoenforce", "gquota", "grpquota", "gqnoenforce", "pquota",
            "prjquota", "pqnoenforce", "sunit", "swidth", "swalloc", "wsync", "attr2", "barrier", "nobarrier",
        )
    ),
}  # fmt: skip
"""Options that concern nothing but the file system on the device itself. Others may name further devices or files,
which nobody has allowed (journal_path, logdev, rtdev, usrjquota), or another superblock (sb)."""

_BY_KERNEL = frozenset(("sync", "dirsync", "lazytime", "nolazytime"))
"""Of every file system: fs/fs_context.c, common_set_sb_flag."""


def _own_options(kind: str, words: list[str]) -> tuple[tuple[str, str | None], ...]:
    """Those of `words` that the file system is to get, in the form of fsconfig(2). Raises RefusedError."""
    options: list[tuple[str, str | None]] = [("ro", None)] if _last(words, "ro", "rw") else []
    for word in words:
        key, equals, value = word.partition("=")
        if word in _NO_MATTER:
            continue
        if word in _BY_KERNEL:
            if word != "sync" or _last(words, "sync", "async"):
                options.append((word, None))
        elif key in _KNOWN[kind] and word != "errors=panic" and "\0" not in value:
            options.append((key, value if equals else None))
        else:
            raise RefusedError(
                f"an option in the volume's o= is not supported yet for {kind}; docs/security.md says why"
            )
    if kind in _EXTS and not any(key == "errors" for key, _ in options):
        # The superblock has a default of its own, which may be to panic (ext4.rst).
        options.append(("errors", "remount-ro"))
    return tuple(options)


def open_device(config: Config, path: str) -> int:
    """The block device at `path`, open for reading: for as long as it is, nothing else can be put behind its number.

    Raises RefusedError when host.volume_devices does not name it, when it is none, or when it holds what the host
    itself runs on; OSError.
    """
    check_device(config, path)
    directory = os.open("/dev", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        # Symlinks are udev's (/dev/mapper), unless they stand where everybody may write: /dev/shm, another mount.
        resolve = RESOLVE_BENEATH | RESOLVE_NO_MAGICLINKS | RESOLVE_NO_XDEV
        found = openat2(directory, os.fsencode(path.removeprefix("/dev/")), os.O_PATH | os.O_CLOEXEC, 0, resolve)
    except FileNotFoundError:
        raise RefusedError(f"there is no device {path}") from None
    except OSError as exc:
        if exc.errno in (errno.ELOOP, errno.EXDEV):
            raise RefusedError(f"{path} leads out of /dev") from exc
        raise
    finally:
        os.close(directory)
    try:
        about = os.fstat(found)
        # Before it is opened: to open a tape rewinds it, to open a watchdog starts it.
        if not stat.S_ISBLK(about.st_mode):
            raise RefusedError(f"{path} is no block device")
        if about.st_rdev in _devices_in_use(config):
            raise RefusedError(f"{path} holds a file system of the host, the engine or Hatchway itself")
        return os.open(f"/proc/self/fd/{found}", os.O_RDONLY | os.O_CLOEXEC)
    finally:
        os.close(found)


def _devices_in_use(config: Config) -> set[int]:
    """Numbers of the devices that hold what is never shared as a whole, however generous host.volume_devices is."""
    own = {"/", *private_directories(config), *config.host.volume_roots}
    numbers = set()
    for path in own:
        try:
            numbers.add(os.stat(path).st_dev)
        except OSError:
            continue
    return numbers
