"""What a session, and the process that serves it, can reach: the volumes that were enabled, nothing else."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.sshd.running import Hatchway, running, wait_until

from hatchway.kernel import privileges

OWNER = 1234


@pytest.fixture(scope="module")
def hatchway() -> Iterator[Hatchway]:
    with running("shop/web/1", "shop/web/2") as made:
        secret = made.add_volume("/secret")
        (secret / "not-for-you").write_text("x")
        made.write_instances()
        wait_until(lambda: len(volumes(made)) == 2, "the catalog sees the second volume")
        made.enable("shop/web/1", "/data")
        made.enable("shop/web/2")
        yield made


def volumes(hatchway: Hatchway) -> list[str]:
    instances = hatchway.command("ls")["instances"]
    return [volume["path"] for volume in instances[0]["volumes"]]


@pytest.fixture
def data(hatchway: Hatchway) -> Iterator[Path]:
    directory = hatchway.volumes / "shop-web-1-data"
    os.chown(directory, OWNER, OWNER)
    yield directory
    for entry in directory.iterdir():
        if entry.is_dir() and not entry.is_symlink():
            shutil.rmtree(entry)
        else:
            entry.unlink()


def test_the_root_holds_the_enabled_volume_and_nothing_else(hatchway: Hatchway, data: Path) -> None:
    done = hatchway.sftp("shop-web-1", "ls -1 /\nls -1 /..\nls -1 /../../..\n-ls /secret\n-ls /etc\n-cd /proc\n")
    listed = [line for line in done.stdout.splitlines() if not line.startswith("sftp>")]
    assert set(listed) <= {"/data", "/../data", "/../../../data"}, listed
    assert 'Can\'t ls: "/secret" not found' in done.stderr
    assert 'Can\'t ls: "/etc" not found' in done.stderr


def test_nothing_can_be_made_outside_the_volume(hatchway: Hatchway, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    batch = (
        f"-put {tmp_path}/file /file\n-mkdir /dir\n-rename /data /other\n-rmdir /data\n-chmod 777 /\n-symlink / /x\n"
    )
    done = hatchway.sftp("shop-web-1", batch)
    assert done.stderr.count("ermission denied") + done.stderr.count("Failure") == 6, done.stderr
    assert hatchway.sftp("shop-web-1", "ls -1 /\n").stdout.split() == ["sftp>", "ls", "-1", "/", "/data"]


def test_symlinks_lead_nowhere_outside(hatchway: Hatchway, data: Path, tmp_path: Path) -> None:
    """Planted by the container, absolute and relative; read, listed, written, and walked through."""
    (data / "inside").write_text("inside")
    for name, target in {
        "shadow": "/etc/shadow",
        "up": "../../../../../../etc",
        "host": "/",
        "proc": "/proc/self/root",
        "neighbour": "../shop-web-2-data",
        "ok": "inside",
        "absolute": "/data/inside",
    }.items():
        (data / name).symlink_to(target)
    (data / "dir").mkdir()
    (tmp_path / "evil").write_text("evil")
    batch = "".join(
        f"-{line}\n"
        for line in (
            f"get shadow {tmp_path}/1",
            f"get up/shadow {tmp_path}/2",
            f"get host/etc/shadow {tmp_path}/3",
            f"get proc/etc/shadow {tmp_path}/4",
            f"get neighbour/x {tmp_path}/5",
            f"put {tmp_path}/evil shadow",
            f"put {tmp_path}/evil up/evil",
            f"put {tmp_path}/evil host/tmp/evil",
            "chmod 777 shadow",
            "ls up/",
            "ls neighbour/",
        )
    )
    done = hatchway.sftp("shop-web-1", batch)
    assert not any((tmp_path / str(number)).exists() for number in range(1, 6)), done.stdout
    assert not Path("/tmp/evil").exists()
    assert (data / "shadow").is_symlink()
    assert done.stderr.count("Can't ls: ") == 2, done.stderr
    assert "passwd" not in done.stdout
    # What the container's own links mean is kept: they are resolved in the session's root.
    hatchway.sftp("shop-web-1", f"get ok {tmp_path}/ok\nget absolute {tmp_path}/absolute\n")
    assert (tmp_path / "ok").read_text() == (tmp_path / "absolute").read_text() == "inside"


def test_symlinks_and_hard_links_made_by_the_session(hatchway: Hatchway, data: Path, tmp_path: Path) -> None:
    (data / "file").write_text("x")
    batch = f"symlink /etc/passwd link\n-get link {tmp_path}/got\nln file hard\n-ln /etc/passwd stolen\n"
    hatchway.sftp("shop-web-1", batch)
    assert os.readlink(data / "link") == "/etc/passwd"
    assert not (tmp_path / "got").exists()
    assert (data / "hard").stat().st_ino == (data / "file").stat().st_ino
    assert not (data / "stolen").exists()


def test_the_neighbour_is_neither_seen_nor_reached(hatchway: Hatchway, tmp_path: Path) -> None:
    (hatchway.volumes / "shop-web-2-data" / "theirs").write_text("theirs")
    hatchway.sftp("shop-web-2", "ls /data\n")  # mounted and in use
    done = hatchway.sftp("shop-web-1", f"ls -1 /data\n-get ../shop-web-2/data/theirs {tmp_path}/x\n")
    assert "theirs" not in done.stdout.replace("../shop-web-2/data/theirs", "")
    assert not (tmp_path / "x").exists()


def test_new_files_belong_to_whom_the_directory_belongs(hatchway: Hatchway, data: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("new")
    other = data / "other"
    other.mkdir()
    os.chown(other, 77, 78)
    batch = f"put {tmp_path}/file\nmkdir dir\nput {tmp_path}/file other/file\nsymlink file link\nls -ln\n"
    done = hatchway.sftp("shop-web-1", batch)
    for name, ids in {
        "file": (OWNER, OWNER),
        "dir": (OWNER, OWNER),
        "link": (OWNER, OWNER),
        "other/file": (77, 78),
    }.items():
        found = os.lstat(data / name)
        assert (found.st_uid, found.st_gid) == ids, name
    shown = re.findall(r"^[-dl]\S+\s+\S+\s+(\d+)\s+(\d+)", done.stdout, re.MULTILINE)
    assert len(shown) == 4
    assert set(shown) == {("1910100000", shown[0][1])}


def test_special_files_are_listed_and_never_opened(hatchway: Hatchway, data: Path, tmp_path: Path) -> None:
    os.mkfifo(data / "fifo")
    os.mknod(data / "disk", 0o60666, os.makedev(254, 0))
    done = hatchway.sftp("shop-web-1", f"ls -l\n-get fifo {tmp_path}/1\n-get disk {tmp_path}/2\nrm fifo\nrm disk\n")
    assert "p---------" in done.stdout
    assert "b---------" in done.stdout
    assert not (tmp_path / "1").exists()
    assert not (data / "fifo").exists()


def test_suid_cannot_be_set_and_is_lost_when_written(hatchway: Hatchway, data: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    (data / "old").write_text("root's program")
    (data / "old").chmod(0o6755)
    hatchway.sftp("shop-web-1", f"put {tmp_path}/file new\nchmod 6777 new\nput {tmp_path}/file old\n")
    assert (data / "new").stat().st_mode & 0o7777 == 0o777
    assert (data / "old").stat().st_mode & 0o7000 == 0


def test_a_read_only_grant_changes_nothing(hatchway: Hatchway, data: Path, tmp_path: Path) -> None:
    (data / "file").write_text("kept")
    hatchway.enable("shop/web/1", "/data", read_only=True)
    try:
        lines = (
            "put {0}/x x",
            "put {0}/x file",
            "rm file",
            "mkdir d",
            "rename file g",
            "chmod 777 file",
            "ln file h",
        )
        (tmp_path / "x").write_text("x")
        batch = f"get file {tmp_path}/got\n" + "".join(f"-{line.format(tmp_path)}\n" for line in lines)
        done = hatchway.sftp("shop-web-1", batch)
        assert (tmp_path / "got").read_text() == "kept"
        assert done.stderr.count("ermission denied") == len(lines), done.stderr
        assert [entry.name for entry in data.iterdir()] == ["file"]
    finally:
        hatchway.enable("shop/web/1", "/data")
    hatchway.sftp("shop-web-1", f"put {tmp_path}/x x\n")


def test_the_worker_has_only_what_it_needs(hatchway: Hatchway) -> None:
    with hatchway.open_sftp("shop-web-1") as session:
        wait_until(lambda: hatchway.sessions() >= 1, "the session")
        workers = [int(entry) for entry in os.listdir("/proc") if entry.isdigit() and is_worker(int(entry))]
        assert workers
        for pid in workers:
            status = dict(line.split(":\t", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
            assert status["Groups"].strip() == ""
            assert status["CapPrm"].strip() == f"{sum(1 << cap for cap in privileges.WORKER_CAPS):016x}"
            assert status["CapEff"].strip() == f"{sum(1 << cap for cap in privileges.WORKER_EFFECTIVE):016x}"
            assert status["CapBnd"].strip() == status["CapInh"].strip() == status["CapAmb"].strip() == f"{0:016x}"
            assert (status["NoNewPrivs"].strip(), status["Seccomp"].strip()) == ("1", "2")
            mounted = Path(f"/proc/{pid}/mountinfo").read_text().splitlines()
            assert len(mounted) == 1, "its name space holds its empty root only"
            assert os.listdir(f"/proc/{pid}/root/") == []
            for space in ("mnt", "net", "ipc", "uts"):
                assert os.readlink(f"/proc/{pid}/ns/{space}") != os.readlink(f"/proc/self/ns/{space}")
        session.communicate("bye\n", timeout=30)


def is_worker(pid: int) -> bool:
    try:
        text = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return False
    match = re.search(r"^Uid:\t(\d+)", text, re.MULTILINE)
    return match is not None and 1910200000 <= int(match[1]) <= 1910299999
