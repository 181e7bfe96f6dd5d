"""How serving begins, goes on through faults, and ends."""

from __future__ import annotations

import contextlib
import errno
import os
import resource
import signal
import subprocess
import threading
import time
from pathlib import Path

import pytest
from tests.mount.served import WORKER_UID, Served, get, put, refused, served

from hatchway.kernel import fusectl, mounts


def _seen_elsewhere(path: Path) -> bool:
    """Whether another mount namespace has a copy of the mount, which then outlives ours."""
    ours = os.readlink("/proc/self/ns/mnt")
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if os.readlink(process / "ns/mnt") != ours and str(path) in (process / "mountinfo").read_text():
                return True
    return False


def test_unmounting_ends_the_worker() -> None:
    with served() as volume:
        volume.as_session(put, b"file", b"x")
        began = time.monotonic()
        mounts.unmount(str(volume.path))
        if _seen_elsewhere(volume.path):
            pytest.skip("another program on this machine has a copy of the mount")
        assert volume.end() == 0
        assert time.monotonic() - began < 2


def test_a_forced_unmount_ends_the_worker_whoever_has_a_copy() -> None:
    """A mount namespace made meanwhile, as by a service with PrivateTmp, keeps its copy of the mount."""
    with served() as volume:
        ready, go_on = os.pipe()
        pid = os.fork()
        if pid == 0:
            mounts.unshare(mounts.CLONE_NEWNS)
            mounts.make_private("/", recursive=True)
            os.write(go_on, b"x")
            signal.pause()
        assert os.read(ready, 1) == b"x"
        try:
            mounts.unmount(str(volume.path), mounts.MNT_FORCE)
            assert _seen_elsewhere(volume.path)
            assert volume.end() == 0
        finally:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
            os.close(ready)
            os.close(go_on)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_a_dead_worker_leaves_a_dead_mount_not_an_empty_directory(number: signal.Signals) -> None:
    with served(expect_log=True) as volume:
        volume.as_session(put, b"file", b"x")
        os.kill(volume.worker_pid, number)
        deadline = time.monotonic() + 5
        while True:
            try:
                os.listdir(volume.path)
            except OSError as exc:
                assert exc.errno in (errno.ENOTCONN, errno.ECONNABORTED)
                if exc.errno == errno.ENOTCONN:
                    break
            assert time.monotonic() < deadline
        with refused(errno.ENOTCONN):
            os.stat(volume.path / "file")
        mounts.unmount(str(volume.path))
        assert volume.end() == -number


def test_a_listing_that_fails_in_the_middle_is_never_answered() -> None:
    """As long as somebody has a copy of the connection, which hostd has until the sessions are being killed."""
    with served(expect_log=True, hold=True) as volume:
        for number in range(3000):
            (volume.backing / f"{number:04}-{'x' * 60}").touch()
        volume.tell("l")
        outcome: list[object] = []

        def list_it() -> None:
            try:
                outcome.append(volume.as_session(os.listdir))
            except OSError as exc:
                outcome.append(exc.errno)

        thread = threading.Thread(target=list_it)
        thread.start()
        thread.join(2)
        assert outcome == [], "nobody hears how it went on"
        (minor,) = [entry.minor for entry in mounts.mount_table() if entry.target == str(volume.path)]
        assert fusectl.abort([minor]) == {}
        thread.join(10)
        assert outcome in ([errno.ECONNABORTED], [errno.ENOTCONN])
        words = volume.log.read_text()
        assert "a listing cannot go on" in words
        assert "the disk failed" in words
        mounts.unmount(str(volume.path))
        assert volume.end() == 1


def test_cancelling_lets_go_of_everything() -> None:
    with served() as volume:
        fd = os.open(volume.path, os.O_RDONLY)
        handle = os.open(volume.path / "file", os.O_RDWR | os.O_CREAT)
        with pytest.raises((OSError, EOFError)):
            volume.tell("c")
        with refused(errno.ENOTCONN, errno.ECONNABORTED, errno.EIO):
            os.pwrite(handle, b"x", 0)
        with refused(errno.ENOTCONN):
            os.stat(volume.path / "file")
        for number in (fd, handle):
            # close(2) frees the descriptor whatever it answers.
            with contextlib.suppress(OSError):
                os.close(number)
        mounts.unmount(str(volume.path))
        assert volume.end() == 0


def test_a_fault_of_ours_is_an_error_of_one_operation() -> None:
    with served(expect_log=True) as volume:
        (volume.backing / "file").write_bytes(b"content")

        def session() -> None:
            for _ in range(3):
                with refused(errno.EIO):
                    os.stat(b"file")
            with refused(errno.EIO):
                os.listdir()

        volume.tell("x")
        volume.as_session(session)
        # It still serves what does not touch the fault.
        assert volume.as_session(os.statvfs, b".").f_namemax == 255
        words = volume.log.read_text()
        assert words.count('event="a file system operation failed"') >= 4
        assert "operation=lookup" in words
        assert "Traceback" in words


def test_the_worker_is_confined(volume: Served) -> None:
    fields = dict(
        line.split(":\t", 1)
        for line in Path(f"/proc/{volume.worker_pid}/status").read_text().splitlines()
        if ":\t" in line
    )
    assert set(fields["Uid"].split()) == {str(WORKER_UID)}
    # CHOWN, DAC_OVERRIDE and FOWNER in effect; FSETID only permitted.
    assert int(fields["CapEff"], 16) == 0b01011
    assert int(fields["CapPrm"], 16) == 0b11011
    assert fields["Seccomp"] == "2"
    assert fields["NoNewPrivs"] == "1"
    assert fields["Threads"] == "1"


def test_memory_and_descriptors_come_back(volume: Served) -> None:
    count = 8_000

    def memory() -> int:
        return int(Path(f"/proc/{volume.worker_pid}/statm").read_text().split()[1]) * resource.getpagesize()

    def fill() -> None:
        for number in range(count):
            (volume.backing / f"{number:06}").touch()

    def list_and_remove() -> None:
        names = os.listdir()
        assert len(names) == count
        for name in names:
            os.unlink(name)

    sizes = []
    for _ in range(4):
        fill()
        volume.as_session(list_and_remove)
        # The kernel takes back what it knew of each file when the file is gone.
        deadline = time.monotonic() + 5
        while (state := volume.tell("s"))["nodes"] > 100:
            assert time.monotonic() < deadline, state
        assert state["descriptors"] < 40
        sizes.append(memory())
    assert sizes[-1] - sizes[0] < 4 * 2**20


def test_the_kernel_forgets_when_told_to(volume: Served) -> None:
    """What nobody uses, and nothing else: as hostd does it for a session that has walked millions of files."""
    for number in range(3000):
        (volume.backing / f"{number:04}").write_bytes(b"%d" % number)
    go_on, wait = os.pipe()
    ready, tell_ready = os.pipe()

    def session() -> None:
        os.mkdir("dir")
        assert len(os.listdir()) == 3001
        held = os.open("0007", os.O_RDWR)
        gone = os.open("0008", os.O_RDWR)
        os.unlink("0008")
        before = os.fstat(held).st_ino
        os.chdir("dir")
        os.write(tell_ready, b"x")
        assert os.read(go_on, 1) == b"x"
        assert os.fstat(held).st_ino == before == os.stat("../0007").st_ino
        assert os.pread(held, 10, 0) == b"7"
        assert os.pread(gone, 10, 0) == b"8"
        put(b"inside", b"x")
        assert get(b"../0009") == b"9"
        assert len(os.listdir("..")) == 3000

    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            volume.as_session(session)
            status = 0
        finally:
            os._exit(status)
    try:
        assert os.read(ready, 1) == b"x"
        assert volume.tell("s")["nodes"] > 3000
        place = os.open(volume.path, os.O_PATH | os.O_DIRECTORY)
        try:
            mounts.forget_unused(place)
        finally:
            os.close(place)
        deadline = time.monotonic() + 5
        # The root, "dir", and what is open.
        while (state := volume.tell("s"))["nodes"] > 4:
            assert time.monotonic() < deadline, state
    finally:
        os.write(wait, b"x")
        assert os.waitpid(pid, 0)[1] == 0
        for fd in (go_on, wait, ready, tell_ready):
            os.close(fd)


def test_handles_and_activity(volume: Served) -> None:
    quiet = volume.tell("s")
    assert quiet["handles"] == 0
    go_on, wait = os.pipe()

    def session() -> None:
        with open("file", "wb") as file:
            file.write(b"x")
            os.read(go_on, 1)

    pid = os.fork()
    if pid == 0:
        volume.as_session(session)
        os._exit(0)
    deadline = time.monotonic() + 5
    while volume.tell("s")["handles"] != 1:
        assert time.monotonic() < deadline
    os.write(wait, b"x")
    assert os.waitpid(pid, 0)[1] == 0
    os.close(go_on)
    os.close(wait)
    deadline = time.monotonic() + 5
    while (state := volume.tell("s"))["handles"]:
        assert time.monotonic() < deadline
    assert state["activity"] > quiet["activity"]
    assert volume.tell("s")["activity"] == state["activity"]
    assert state["trio"] == "_Trio"


def test_killed_clients_leave_no_handles(volume: Served) -> None:
    def session() -> None:
        for number in range(20):
            fd = os.open(b"%d" % number, os.O_WRONLY | os.O_CREAT, 0o644)
            os.write(fd, b"x")
        os.kill(os.getpid(), signal.SIGKILL)

    pid = os.fork()
    if pid == 0:
        try:
            volume.as_session(session)
        finally:
            os._exit(0)
    os.waitpid(pid, 0)
    deadline = time.monotonic() + 5
    while volume.tell("s")["handles"]:
        assert time.monotonic() < deadline
    assert volume.as_session(get, b"7") == b"x"


def sftp(volume: Served, *commands: str) -> str:
    """Run `commands` with OpenSSH's sftp against its server, both as the session. Raises on the first that fails."""
    server = next(
        (path for path in ("/usr/lib/openssh/sftp-server", "/usr/libexec/openssh/sftp-server") if os.path.exists(path)),
        None,
    )
    if server is None or not os.path.exists("/usr/bin/sftp"):
        pytest.skip("no OpenSSH sftp and sftp-server")
    done = subprocess.run(
        ["/usr/bin/sftp", "-b", "-", "-D", server],
        input="\n".join((*commands, "")),
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
        cwd=volume.path,
        user=volume.uid,
        group=volume.uid,
        extra_groups=[],
        env={"HOME": "/nonexistent", "PATH": "/usr/bin:/bin"},
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_openssh(tmp_path: Path) -> None:
    """The real sftp-server, which needs a user name for its uid: here "nobody"."""
    with served(uid=65534) as volume:
        local = volume.log.parent / "local"
        local.mkdir()
        local.chmod(0o777)
        (local / "up").write_bytes(os.urandom(2_000_000))
        (volume.backing / "partial").write_bytes((local / "up").read_bytes()[:700_000])
        (local / "tree").mkdir()
        for number in range(30):
            (local / "tree" / f"file{number}").write_bytes(b"%d" % number * 1000)
        listing = sftp(
            volume,
            f"put {local}/up file",
            "chmod 640 file",
            "rename file renamed",
            "ln renamed hard",
            "ln -s renamed soft",
            "mkdir dir",
            f"put -rp {local}/tree dir/tree",
            "put /etc/hostname dir/hostname",
            "rename dir moved",
            f"get renamed {local}/down",
            f"get -rp moved {local}/moved",
            f"reget renamed {local}/down",
            f"reput {local}/up partial",
            "rm hard",
            "df",
            "ls -la",
            "ls -n moved/tree",
            "rm moved/tree/*",
            "rmdir moved/tree",
            "rm moved/hostname",
            "rmdir moved",
            "-rm nothing",
        )
        assert (local / "down").read_bytes() == (local / "up").read_bytes() == (volume.backing / "renamed").read_bytes()
        assert (local / "moved" / "tree" / "file7").read_bytes() == b"7" * 1000
        assert (volume.backing / "partial").read_bytes() == (local / "up").read_bytes()
        assert sorted(os.listdir(volume.backing)) == ["partial", "renamed", "soft"]
        assert (volume.backing / "renamed").stat().st_uid == 999
        assert "nobody" in listing
        assert oct((volume.backing / "renamed").stat().st_mode & 0o777) == "0o640"
