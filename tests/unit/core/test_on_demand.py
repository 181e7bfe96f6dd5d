"""What a volume's options ask for, as the engine reads them, and what of it is refused."""

from __future__ import annotations

import json

import pytest

from hatchway.errors import RefusedError
from hatchway.host.on_demand import BIND, Demand, parse
from hatchway.kernel import mounts

PASSWORD = "s3cret"


def options(kind: str, device: str, o: str = "", **more: object) -> bytes:
    return json.dumps({"MountType": kind, "MountOpts": o, "MountDevice": device, "Quota": {"Size": 0}, **more}).encode()


SAFE = (("errors", "remount-ro"),)
"""What the ext file systems get in any case: their own superblock might say that the host is to panic."""


@pytest.mark.parametrize(
    "raw",
    [
        b"null",
        b"{}",
        options("", ""),
        options("", "", "uid=1000"),
        options("", "", Quota={"Size": 1 << 30}),
    ],
)
def test_options_for_which_the_engine_mounts_nothing(raw: bytes) -> None:
    assert parse(raw) is None


@pytest.mark.parametrize(
    ("raw", "demand"),
    [
        (options("none", "/srv/a", "bind"), Demand(BIND, "/srv/a")),
        (options("none", "/srv/a/", "rbind,ro"), Demand(BIND, "/srv/a", read_only=True)),
        (options("none", "//srv/./a", "ro,bind,rw"), Demand(BIND, "/srv/a")),
        # mount(2) does not look at the type then.
        (options("ext4", "/srv/a", "bind"), Demand(BIND, "/srv/a")),
        (options("tmpfs", "/srv/a", "size=1m,bind"), Demand(BIND, "/srv/a")),
        (options("", "/srv/a", "bind"), Demand(BIND, "/srv/a")),
        (options("ext4", "/dev/loop0"), Demand("ext4", "/dev/loop0", options=SAFE)),
        (options("xfs", "/dev//vg0/./a", "suid,dev,exec,shared"), Demand("xfs", "/dev/vg0/a")),
        (
            options("ext4", "/dev/loop0", "ro,data=journal,noatime,discard,,nodiratime"),
            Demand(
                "ext4",
                "/dev/loop0",
                True,
                (("ro", None), ("data", "journal"), ("discard", None), *SAFE),
                mounts.ATTR_NOATIME | mounts.ATTR_NODIRATIME,
            ),
        ),
        (options("ext2", "/dev/sdb", "ro,rw,sync,async"), Demand("ext2", "/dev/sdb", options=SAFE)),
        (options("ext2", "/dev/sdb", "errors=continue"), Demand("ext2", "/dev/sdb", options=(("errors", "continue"),))),
        (options("ext2", "/dev/sdb", "dirsync"), Demand("ext2", "/dev/sdb", options=(("dirsync", None), *SAFE))),
        (
            options("ext3", "/dev/sdb", "strictatime"),
            Demand("ext3", "/dev/sdb", options=SAFE, attributes=mounts.ATTR_STRICTATIME),
        ),
    ],
)  # fmt: skip
def test_options_that_are_understood(raw: bytes, demand: Demand) -> None:
    assert parse(raw) == demand


@pytest.mark.parametrize(
    ("raw", "words"),
    [
        (b"", "cannot be understood"),
        (b"[]", "cannot be understood"),
        (b'{"MountType": 5}', "cannot be understood"),
        (b'{"MountOpts": "password=s3cret', "cannot be understood"),
        (b'{"MountOpts": ["password=s3cret"]}', "cannot be understood"),
        (b"[" * 30000, "cannot be understood"),
        (options("ext4", ""), "name no device"),
        (options("tmpfs", "tmpfs", "size=1m"), "tmpfs has no contents"),
        (options("overlay", "overlay", f"lowerdir=/{PASSWORD}"), "overlay is not shared"),
        (options("nfs", ":/export", f"addr=10.0.0.1,password={PASSWORD}"), "type 'nfs' are not supported yet"),
        (options("cifs", f"//user:{PASSWORD}@host/share", f"password={PASSWORD}"), "type 'cifs' are not supported yet"),
        (options("none", "/srv/a"), "type 'none' are not supported yet"),
        (options("", "/srv/a"), "type '' are not supported yet"),
        (options("no\x1b[31m", "/srv/a"), r"type 'no\\x1b[31m' are not"),
        (options("none", f"{PASSWORD}/a", "bind"), "no absolute path"),
        (options("none", "/srv/../etc", "bind"), "without '..'"),
        (options("none", "/", "bind"), "no absolute path"),
        (options("ext4", "loop0"), "no path of a block device"),
        (options("ext4", "/dev/../etc"), "no path of a block device"),
        (options("ext4", "/dev/loop0", "remount"), "remount"),
        # They name other devices and files, or another superblock than the one that is looked at.
        (options("ext4", "/dev/loop0", "journal_path=/dev/sda"), "is not supported yet for ext4"),
        (options("ext4", "/dev/loop0", "journal_dev=0x801"), "is not supported yet for ext4"),
        (options("ext4", "/dev/loop0", "sb=131072"), "is not supported yet for ext4"),
        (options("ext4", "/dev/loop0", "errors=panic"), "is not supported yet for ext4"),
        (options("ext4", "/dev/loop0", "data=a\0b"), "is not supported yet for ext4"),
        (options("xfs", "/dev/loop0", "logdev=/dev/sda"), "is not supported yet for xfs"),
        (options("btrfs", "/dev/loop0"), "decides which other devices"),
        (options("ext4", "/dev/loop0\0-shared"), "no path of a block device"),
        (options("none", "/srv/a\nb", "bind"), "no absolute path"),
        (options("ext4", "/dev/loop0", f"password={PASSWORD}"), "is not supported yet for ext4"),
        (options("ext4", "/dev/loop0", "source=/dev/sda"), "is not supported yet for ext4"),
    ],
)
def test_options_that_are_refused_say_why_and_nothing_else(raw: bytes, words: str) -> None:
    with pytest.raises(RefusedError) as caught:
        parse(raw)
    assert words in str(caught.value)
    assert PASSWORD not in f"{caught.value} {caught.value.__cause__}"
