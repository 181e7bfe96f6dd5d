"""Which file system is on a block device: the UUID in its superblock.

The UUID is drawn when a file system is made, and it can be read without mounting anything, so that the kernel need not
parse what nobody has asked for yet.
Sources: the kernel's Documentation/filesystems/ext4/super.rst, fs/xfs/libxfs/xfs_format.h (struct xfs_dsb),
include/uapi/linux/btrfs_tree.h (struct btrfs_super_block).
"""

from __future__ import annotations

import os
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
    "btrfs": _Form(0x10000 + 0x40, b"_BHRfS_M", 0x10000 + 0x20),
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
