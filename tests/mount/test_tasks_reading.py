"""Keys in hostile volumes, read by volume tasks as hostd has it done."""

from __future__ import annotations

import fcntl
import os
import shutil
import signal
import socket
import stat
import time
from pathlib import Path

import trio
from tests.mount.tasked import GROUP, OWNER, Beneath, give, meanwhile

from hatchway.volumefs.keyfiles import ENTRIES_MAX
from hatchway.wire.host import (
    KeyFile,
    KeyFiles,
    Skip,
    Skipped,
)


async def test_keys_are_read_whatever_their_mode_is(beneath: Beneath) -> None:
    volume = beneath.volume()
    give(volume / "authorized_keys", b"one\n", 0o400)
    give(volume / "a.pub", b"two\n", 0o000)
    found = await beneath.read(volume)
    assert found.files == (KeyFile(b"authorized_keys", b"one\n"), KeyFile(b"a.pub", b"two\n"))
    assert found.token == b"", "they have just been made"
    await trio.sleep(2.1)
    token = (await beneath.read(volume)).token
    assert await beneath.read(volume, token) == KeyFiles(token=token, unchanged=True)
    give(volume / "authorized_keys", b"two\n", 0o400)
    found = await beneath.read(volume, token)
    assert found.files[0] == KeyFile(b"authorized_keys", b"two\n")


async def test_whose_files_count(beneath: Beneath) -> None:
    """The directory's owner's and root's, not those of a program with fewer rights."""
    volume = beneath.volume(mode=0o755)
    for name, owner in (("authorized_keys", 33), ("a.pub", 0), ("b.pub", OWNER), ("c.pub", OWNER + 1)):
        os.chown(give(volume / name, name.encode(), 0o644), owner, GROUP)
    found = await beneath.read(volume)
    assert [file.name for file in found.files] == [b"a.pub", b"b.pub"]
    assert found.skipped == (Skipped(b"authorized_keys", Skip.OWNER), Skipped(b"c.pub", Skip.OWNER))
    await trio.sleep(2.1)
    token = (await beneath.read(volume)).token
    os.chown(volume, 33, GROUP)
    assert [file.name for file in (await beneath.read(volume, token)).files] == [b"authorized_keys", b"a.pub"]


async def test_256_kib_of_keys_arrive_whole(beneath: Beneath) -> None:
    volume = beneath.volume()
    wanted = [KeyFile(name, os.urandom(65536)) for name in (b"authorized_keys", b"a.pub", b"b.pub", b"c.pub")]
    for file in wanted:
        give(volume / file.name.decode(), file.data)
    assert list((await beneath.read(volume)).files) == wanted


async def test_what_a_container_plants(beneath: Beneath, tmp_path: Path) -> None:
    volume = beneath.volume()
    secret = tmp_path / "secret"
    secret.write_text("secret")
    (volume / "authorized_keys").symlink_to(secret)
    (volume / "a.pub").symlink_to("/etc/shadow")
    os.mkfifo(volume / "b.pub", 0o600)
    os.mknod(volume / "c.pub", 0o600 | stat.S_IFCHR, os.makedev(1, 5))
    os.mknod(volume / "d.pub", 0o600 | stat.S_IFBLK, os.makedev(7, 0))
    (volume / "f.pub").mkdir()
    give(volume / "g.pub", b"good")
    (volume / "h.pub").symlink_to("g.pub")
    with socket.socket(socket.AF_UNIX) as listener:
        # Its path would be too long for the socket.
        here = os.open(volume, os.O_PATH)
        listener.bind(f"/proc/self/fd/{here}/e.pub")
        os.close(here)
    began = time.monotonic()
    found = await beneath.read(volume)
    assert time.monotonic() - began < 2
    assert found.files == (KeyFile(b"g.pub", b"good"),)
    assert {one.name: one.reason for one in found.skipped} == {
        b"authorized_keys": Skip.SYMLINK,
        b"a.pub": Skip.SYMLINK,
        b"b.pub": Skip.KIND,
        b"c.pub": Skip.KIND,
        b"d.pub": Skip.KIND,
        b"e.pub": Skip.KIND,
        b"f.pub": Skip.KIND,
        b"h.pub": Skip.SYMLINK,
    }


async def test_a_lease_is_not_waited_for(beneath: Beneath) -> None:
    volume = beneath.volume()
    path = give(volume / "authorized_keys", b"one")
    give(volume / "a.pub", b"two")
    handler = signal.signal(signal.SIGIO, signal.SIG_IGN)
    fd = os.open(path, os.O_RDWR)
    try:
        fcntl.fcntl(fd, fcntl.F_SETLEASE, fcntl.F_WRLCK)
        began = time.monotonic()
        found = await beneath.read(volume)
        assert time.monotonic() - began < 2
    finally:
        os.close(fd)
        signal.signal(signal.SIGIO, handler)
    assert found.files == (KeyFile(b"a.pub", b"two"),)
    assert [(one.name, one.reason) for one in found.skipped] == [(b"authorized_keys", Skip.BUSY)]
    assert found.token == b""


async def test_60000_names(beneath: Beneath) -> None:
    volume = beneath.volume()
    give(volume / "authorized_keys", b"one")
    here = os.open(volume, os.O_PATH)
    for number in range(60_000):
        os.close(os.open(f"{number}.pub", os.O_CREAT | os.O_WRONLY, 0o600, dir_fd=here))
    os.close(here)
    began = time.monotonic()
    found = await beneath.read(volume)
    assert time.monotonic() - began < 2
    assert found.files == (KeyFile(b"authorized_keys", b"one"),)
    assert [(one.name, one.reason) for one in found.skipped] == [(b"", Skip.CROWDED)]
    assert ENTRIES_MAX < 60_000
    shutil.rmtree(volume)


SWAPPING = """
import ctypes, os, sys
os.chdir(sys.argv[1])
rename = ctypes.CDLL(None).renameat2
names = [b"good", b"link", b"fifo", b"evil", b"directory"]
print("ready", flush=True)
turn = 0
while os.getppid() == int(sys.argv[2]):
    turn += 1
    rename(-100, b"authorized_keys", -100, names[turn % len(names)], 2)
"""


async def test_a_race_for_what_the_name_means(beneath: Beneath, tmp_path: Path) -> None:
    """Whatever the timing: never what is behind a symlink, never what others may write, and never a wait."""
    volume = beneath.volume()
    secret = tmp_path / "secret"
    secret.write_text("secret")
    give(volume / "good", b"good")
    give(volume / "evil", b"evil", 0o666)
    (volume / "link").symlink_to(secret)
    os.mkfifo(volume / "fifo", 0o600)
    (volume / "directory").mkdir()
    give(volume / "authorized_keys", b"good")
    seen: dict[str, int] = {}
    with meanwhile(SWAPPING, volume):
        end = time.monotonic() + 4
        while time.monotonic() < end:
            began = time.monotonic()
            found = await beneath.read(volume)
            assert time.monotonic() - began < 2
            for file in found.files:
                assert (file.name, file.data) == (b"authorized_keys", b"good")
                seen["good"] = seen.get("good", 0) + 1
            for one in found.skipped:
                seen[one.reason] = seen.get(one.reason, 0) + 1
            if found.files:
                assert not found.skipped
    assert seen.get(Skip.CHANGING, 0) > 0, seen


GROWING = """
import os, sys
fd = os.open(sys.argv[1], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
print("ready", flush=True)
while os.getppid() == int(sys.argv[2]):
    os.write(fd, b"ssh-ed25519 x\\n")
    if os.fstat(fd).st_size > 50000:
        os.ftruncate(fd, 0)
"""


async def test_a_file_that_grows_and_shrinks_while_it_is_read(beneath: Beneath) -> None:
    volume = beneath.volume()
    seen: set[str] = set()
    with meanwhile(GROWING, volume / "authorized_keys"):
        end = time.monotonic() + 2
        while time.monotonic() < end:
            found = await beneath.read(volume)
            assert found.token == b""
            for file in found.files:
                assert file.data == b"ssh-ed25519 x\n" * (len(file.data) // 14)
                seen.add("read")
            seen |= {one.reason.value for one in found.skipped}
    assert seen <= {"read", "changing"}
