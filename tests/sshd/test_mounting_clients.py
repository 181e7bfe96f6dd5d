"""Clients that make a file system of SFTP, sshfs and rclone mount, and ordinary programs at work through them."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from tests.sshd.running import Hatchway, running, wait_until

from hatchway.volumefs.adapter import CACHE_S

CLIENT = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LANG": "C.UTF-8", "HOME": "/nonexistent"}

WORK = """
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
"""A session's work in the current directory, with shell programs: a step in each line."""

RCLONE_S = 0.3
"""What rclone needs after an upload to note that it is done, in seconds."""


@pytest.fixture(scope="module")
def hatchway() -> Iterator[Hatchway]:
    with running("shop/web/1") as made:
        os.chown(made.volumes / "shop-web-1-data", 999, 998)
        made.enable("shop/web/1")
        yield made


@contextlib.contextmanager
def mounted(command: list[str], where: Path) -> Iterator[list[str]]:
    """`command`, a client in the foreground, has mounted `where` as long as the block runs.

    What is yielded is, after the block, what it has said, line by line.
    """
    where.mkdir()
    said: list[str] = []
    process = subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=CLIENT
    )
    try:
        wait_until(lambda: os.path.ismount(where) or process.poll() is not None, "the client has mounted")
        assert process.poll() is None
        yield said
    finally:
        subprocess.run(["umount", str(where)], check=False, capture_output=True)
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGKILL)
            process.wait()
        assert process.stdout is not None
        with process.stdout:
            said += process.stdout.read().splitlines()
        # Shown when the test fails.
        sys.stdout.writelines(f"{command[0]}: {line}\n" for line in said)


def work(where: Path, after_step: Callable[[], None] | None = None) -> None:
    """WORK without a mistake. `after_step` is called after each of its steps."""
    for step in WORK.strip().splitlines():
        done = subprocess.run(
            ["/bin/bash", "-euc", step], cwd=where, capture_output=True, text=True, timeout=120, check=False
        )
        assert done.returncode == 0, f"{step}\n{done.stdout}{done.stderr}"
        if after_step is not None:
            after_step()


def check(volume: Path) -> None:
    """What WORK has left is on disk, and belongs to whom the volume belongs."""
    left = {str(path.relative_to(volume)): path for path in volume.rglob("*")}
    assert sorted(left) == ["a", "a/b", "a/b/numbers", "a/moved", "a/zeros", "conf"]
    assert {(path.lstat().st_uid, path.lstat().st_gid) for path in left.values()} == {(999, 998)}
    assert left["conf"].read_text() == "new\nmore\n"
    assert left["a/moved"].read_text() == "".join(f"{number}\n" for number in range(1, 20001))
    assert left["a/zeros"].stat().st_size == 100_010
    assert left["conf"].stat().st_mtime == time.mktime((2001, 2, 3, 4, 5, 6, 0, 0, -1))
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


def test_rclone_mount(hatchway: Hatchway, tmp_path: Path) -> None:
    """With a pause after each step, until what it has written is on disk.

    rclone uploads when the kernel tells it of the close, which is after close(2) has returned, and forgets what is left
    to upload when it is unmounted. 1.60 cannot bear that a file is renamed, or replaced by a rename, meanwhile: it says
    EIO (its SSH_FXP_RENAME replaces nothing, and the target came to be after it had looked), leaves the file under its
    old name, or uploads what was replaced over it. With plain sshd it does the same: see docs/posix.md.
    """
    volume, mnt = hatchway.volumes / "shop-web-1-data", tmp_path / "mnt"
    known_hosts = hatchway.options()[3].partition("=")[2]
    remote = (
        f":sftp,host=127.0.0.1,port={hatchway.port},user=shop-web-1,key_file={hatchway.keys}/shop-web-1,"
        f"known_hosts_file={known_hosts},shell_type=none:/data"
    )
    command = ["rclone", "mount", remote, str(mnt), "--config", "/dev/null", "--cache-dir", str(tmp_path / "cache")]
    command += ["--vfs-cache-mode", "writes", "--vfs-write-back", "0", "--dir-cache-time", "1s"]
    command += ["--log-level", "ERROR"]

    def uploaded() -> None:
        shown = contents(mnt)
        wait_until(lambda: contents(volume) == shown and has_times(volume), f"uploaded: {sorted(shown)}")
        time.sleep(RCLONE_S)

    with mounted(command, mnt) as said:
        work(mnt, uploaded)
    # The step that must fail.
    assert [line for line in said if "Dir.Remove not empty" not in line] == []
    check(volume)


def contents(directory: Path) -> dict[str, bytes | None]:
    """All that is in a directory, with the contents of files."""
    return {
        str(path.relative_to(directory)): None if path.is_dir() else path.read_bytes() for path in directory.rglob("*")
    }


def has_times(directory: Path) -> bool:
    """Whether every file has a time that came over SFTP, in whole seconds: what rclone does last."""
    return all(path.stat().st_mtime_ns % 10**9 == 0 for path in directory.rglob("*") if path.is_file())
