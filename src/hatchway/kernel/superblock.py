"""Which file system is on a block device: the UUID in its superblock.

The UUID is drawn when a file system is made, and it can be read without mounting anything, so that the kernel need not
parse what nobody has asked for yet.
Sources: the kernel's Documentation/filesystems/ext4/super.rst, fs/xfs/libxfs/xfs_format.h (struct xfs_dsb).
"""

from __future__ import annotations

import os
import struct
import uuid
from typing import NamedTuple


class _Form(NamedTuple):
    """Where in the device the superblock's magic and its UUID are, in bytes."""

    magic_at: int
    magic: bytes
    uuid_at: int


_EXT = _Form(1024 + 0x38, b"\x53\xef", 1024 + 0x68)
_FORMS = {
    "ext2": _EXT,
    "ext3": _EXT,
    "ext4": _EXT,
    "xfs": _Form(0, b"XFSB", 32),
}

KINDS = frozenset(_FORMS)
"""Types of file systems that can be told apart."""


def uuid_on(device: int, kind: str) -> str:
    """The UUID of the file system of type `kind` (one of KINDS) on `device`, a descriptor open for reading.

    "" when there is none of that type, or one that has no UUID. Raises OSError.
    """
    form = _FORMS[kind]
    if os.pread(device, len(form.magic), form.magic_at) != form.magic:
        return ""
    found = os.pread(device, 16, form.uuid_at)
    return str(uuid.UUID(bytes=found)) if len(found) == 16 and any(found) else ""


_COMPAT_HAS_JOURNAL = 0x4
_INCOMPAT_JOURNAL_DEV = 0x8


def journal_elsewhere(device: int, kind: str) -> bool:
    """Whether the file system of type `kind` on `device` has its journal on another one, which it names itself.

    Or is nothing but such a journal. XFS is told of its log by an option only. Raises OSError.
    """
    if _FORMS[kind] is not _EXT:
        return False
    compat, incompat = struct.unpack("<II", os.pread(device, 8, 1024 + 0x5C))
    inode, number = struct.unpack("<II", os.pread(device, 8, 1024 + 0xE0))
    return bool(incompat & _INCOMPAT_JOURNAL_DEV or number or (compat & _COMPAT_HAS_JOURNAL and not inode))
