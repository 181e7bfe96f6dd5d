"""Clients that make a file system of SFTP, sshfs and rclone mount, and ordinary programs at work through them."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.sshd.running import Hatchway, running, wait_until

from hatchway.volumefs.adapter import CACHE_S

CLIENT = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LANG": "C.UTF-8", "HOME": "/nonexistent"}

WORK = """
cd "$1"
mkdir -p a/b
seq 20000 >a/b/numbers
cp a/b/numbers copy
cmp a/b/numbers copy
mv copy a/moved
test ! -e copy
printf 'new\\n' >.conf.tmp
printf 'old\\n' >conf
mv -f .conf.tmp conf
grep -qx new conf
echo more >>conf
test "$(wc -l <conf)" = 2
dd if=/dev/zero of=a/zeros bs=64k count=40 status=none
printf middle | dd of=a/zeros bs=1 seek=100000 conv=notrunc status=none
test "$(stat -c %s a/zeros)" = 2621440
truncate -s 100010 a/zeros
test "$(tail -c 10 a/zeros | tr -d '\\0')" = middle
tar -cf a.tar a
mkdir out
tar -C out -xf a.tar
diff -r a out/a
test "$(find out -type f | wc -l)" = 3
touch -d '2001-02-03 04:05:06' conf
test "$(stat -c %Y conf)" = "$(date -d '2001-02-03 04:05:06' +%s)"
rm -r out a.tar
ls -la a >listing
du -s . >listing
df . >listing
! mkdir a 2>error
grep -q exists error
! rmdir a 2>error
! cat nothing 2>error
grep -q 'No such file' error
rm error listing
"""
"""A session's work in the directory $1, with shell programs."""


@pytest.fixture(scope="module")
def hatchway() -> Iterator[Hatchway]:
    with running("shop/web/1") as made:
        os.chown(made.volumes / "shop-web-1-data", 999, 998)
        made.enable("shop/web/1")
        yield made


@contextlib.contextmanager
def mounted(command: list[str], where: Path) -> Iterator[None]:
    """`command`, a client in the foreground, has mounted `where` as long as the block runs."""
    where.mkdir()
    process = subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=CLIENT
    )
    try:
        wait_until(lambda: os.path.ismount(where) or process.poll() is not None, "the client has mounted")
        assert process.poll() is None, process.communicate()[0]
        yield
    finally:
        subprocess.run(["umount", str(where)], check=False, capture_output=True)
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGKILL)
            process.wait()
        assert process.stdout is not None
        process.stdout.close()


def work(where: Path) -> None:
    """WORK without a mistake."""
    done = subprocess.run(
        ["/bin/bash", "-exuc", WORK, "work", str(where)], capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


def check(volume: Path) -> None:
    """What WORK has left is on disk, and belongs to whom the volume belongs."""
    left = {str(path.relative_to(volume)): path for path in volume.rglob("*")}
    assert sorted(left) == ["a", "a/b", "a/b/numbers", "a/moved", "a/zeros", "conf"]
    assert {(path.lstat().st_uid, path.lstat().st_gid) for path in left.values()} == {(999, 998)}
    assert left["conf"].read_text() == "new\nmore\n"
    assert left["a/moved"].read_text() == "".join(f"{number}\n" for number in range(1, 20001))
    assert left["a/zeros"].stat().st_size == 100_010
    for path in sorted(left.values(), reverse=True):
        (path.rmdir if path.is_dir() else path.unlink)()
    # What is removed behind a session's back, it may believe in for so long.
    time.sleep(CACHE_S + 0.2)


def test_sshfs(hatchway: Hatchway, tmp_path: Path) -> None:
    volume = hatchway.volumes / "shop-web-1-data"
    options = [*hatchway.options(), *hatchway.key_options("shop-web-1")]
    command = [
        "sshfs",
        "-f",
        "-o",
        "dir_cache=no",
        "shop-web-1@127.0.0.1:/data",
        str(tmp_path / "mnt"),
        *pairs(options),
    ]
    with mounted(command, tmp_path / "mnt"):
        work(tmp_path / "mnt")
        mnt = tmp_path / "mnt"
        # What sshfs passes on beyond that: symlinks, hard links, and fsync.
        (mnt / "soft").symlink_to("conf")
        assert os.readlink(volume / "soft") == "conf"
        assert (mnt / "soft").read_text() == "new\nmore\n"
        os.link(mnt / "conf", mnt / "hard")
        assert (volume / "conf").stat().st_nlink == 2
        with (mnt / "conf").open("r+b") as file:
            os.fsync(file)
        (mnt / "hard").unlink()
        (mnt / "soft").unlink()
    check(volume)


def pairs(options: list[str]) -> list[str]:
    """ssh's options as sshfs takes them: all with -o."""
    found = []
    at = iter(options)
    for option in at:
        value = next(at)
        found += ["-o", {"-F": f"ssh_command=ssh -F {value}", "-i": f"IdentityFile={value}"}.get(option, value)]
    return found
