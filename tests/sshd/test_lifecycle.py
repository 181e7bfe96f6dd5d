"""Mounting on login, unmounting when idle, revoking, and processes that die. Real sshd and real sessions."""

from __future__ import annotations

import contextlib
import functools
import os
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.sshd.running import Hatchway, running, wait_until

from hatchway.kernel import mounts


@pytest.fixture
def hatchway() -> Iterator[Hatchway]:
    with running("shop/web/1", "shop/web/2") as made:
        yield made


def mounted(hatchway: Hatchway) -> list[str]:
    prefix = f"{hatchway.run_dir}/mnt/"
    return [entry.target.removeprefix(prefix) for entry in mounts.mount_table() if entry.target.startswith(prefix)]


def children(hatchway: Hatchway, module: str) -> list[int]:
    """Pids of the processes that run a module of ours for this Hatchway; not of workers, which the zygote forked, be
    it this very moment."""
    found: dict[int, int] = {}
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            try:
                words = Path(f"/proc/{entry}/cmdline").read_bytes().split(b"\0")
                status = Path(f"/proc/{entry}/status").read_text()
            except OSError:
                continue
            uid, parent = (re.search(rf"^{name}:\t(\d+)", status, re.MULTILINE) for name in ("Uid", "PPid"))
            worker = module == "hatchway.host.zygote" and uid is not None and uid[1] != "0"
            if module.encode() in words and str(hatchway.config_path).encode() in words and not worker:
                found[int(entry)] = 0 if parent is None else int(parent[1])
    return [pid for pid, parent in found.items() if parent not in found]


def worker_of(hatchway: Hatchway, login: str) -> int:
    lines = re.findall(rf"event=mounted login={login} .*worker=(\d+)", hatchway.log())
    return int(lines[-1])


def gone(pid: int) -> bool:
    """Whether a process has ended; a zombie has."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2][0] in "ZX"
    except OSError:
        return True


def open_session(hatchway: Hatchway, login: str) -> subprocess.Popen[str]:
    before = hatchway.sessions()
    session = hatchway.open_sftp(login)
    wait_until(lambda: hatchway.sessions() == before + 1, f"a session of {login}")
    return session


def another_than(hatchway: Hatchway, module: str, pid: int) -> None:
    wait_until(lambda: children(hatchway, module) not in ([], [pid]), f"another {module}")


def is_over(session: subprocess.Popen[str]) -> bool:
    """Whether the server has ended this session. sftp notices when it is told to do something."""
    session.communicate("ls\nbye\n", timeout=30)
    return session.returncode != 0


def test_nothing_is_mounted_or_published_before_it_is_needed(hatchway: Hatchway) -> None:
    assert mounted(hatchway) == []
    userdb = Path("/run/userdb")
    logins = [path.name for path in userdb.glob("*.user")]
    assert not any(name.startswith("shop-") for name in logins)
    hatchway.enable("shop/web/1")
    assert (userdb / "shop-web-1.user").exists()
    assert not (userdb / "shop-web-2.user").exists()
    assert mounted(hatchway) == []
    hatchway.sftp("shop-web-1", "ls\n")
    assert mounted(hatchway) == ["shop-web-1/data"]


def test_unmounted_when_idle_and_mounted_again() -> None:
    with running("shop/web/1", idle_unmount_s=0) as hatchway:
        hatchway.enable("shop/web/1")
        for wait_s in (6.0, 0.0):
            session = open_session(hatchway, "shop-web-1")
            assert mounted(hatchway) == ["shop-web-1/data"]
            worker = worker_of(hatchway, "shop-web-1")
            time.sleep(wait_s)  # longer than hostd's look for idle roots: a session in use stays
            assert mounted(hatchway) == ["shop-web-1/data"]
            session.communicate("bye\n", timeout=30)
            wait_until(lambda: mounted(hatchway) == [], "unmounted")
            wait_until(functools.partial(gone, worker), "the worker's end")
            assert list(Path(f"{hatchway.run_dir}/mnt").iterdir()) == []


def test_disable_ends_the_session_at_once_and_only_that_one(hatchway: Hatchway, tmp_path: Path) -> None:
    hatchway.enable("shop/web/1")
    hatchway.enable("shop/web/2")
    ours, other = open_session(hatchway, "shop-web-1"), open_session(hatchway, "shop-web-2")
    hatchway.command("disable", "shop/web/1", "--all")
    assert is_over(ours)
    assert mounted(hatchway) == ["shop-web-2/data"]
    assert hatchway.sessions() == 1
    assert hatchway.sftp("shop-web-1", "ls\n", check=False).returncode == 255
    output, _ = other.communicate("pwd\nbye\n", timeout=30)
    assert "/data" in output
    hatchway.enable("shop/web/1")
    hatchway.sftp("shop-web-1", "ls\n")


def test_disable_ends_a_transfer_and_loses_nothing_else(hatchway: Hatchway, tmp_path: Path) -> None:
    hatchway.enable("shop/web/1")
    big = tmp_path / "big"
    with big.open("wb") as file:
        file.truncate(4 * 1024**3)
    data = hatchway.volumes / "shop-web-1-data"
    (data / "before").write_text("kept")
    upload = hatchway.open_sftp("shop-web-1")
    assert upload.stdin is not None
    upload.stdin.write(f"put {big} big\n")
    upload.stdin.flush()
    wait_until(lambda: (data / "big").exists() and (data / "big").stat().st_size > 10_000_000, "the upload's begin")
    hatchway.command("disable", "shop/web/1", "--all")
    size = (data / "big").stat().st_size
    assert upload.wait(5) != 0
    upload.communicate()
    time.sleep(0.5)
    assert (data / "big").stat().st_size == size < big.stat().st_size
    assert (data / "before").read_text() == "kept"


def test_a_worker_that_dies_ends_its_sessions_and_the_next_login_works(hatchway: Hatchway) -> None:
    hatchway.enable("shop/web/1")
    (hatchway.volumes / "shop-web-1-data" / "file").touch()
    session = open_session(hatchway, "shop-web-1")
    os.kill(worker_of(hatchway, "shop-web-1"), signal.SIGKILL)
    wait_until(lambda: hatchway.sessions() == 0, "the session's end")
    assert is_over(session)
    wait_until(lambda: mounted(hatchway) == [], "the dead mount is gone")
    assert "file" in hatchway.sftp("shop-web-1", "ls -1\n").stdout


def test_a_worker_that_hangs_does_not_stop_a_revocation(hatchway: Hatchway) -> None:
    hatchway.enable("shop/web/1")
    session = open_session(hatchway, "shop-web-1")
    worker = worker_of(hatchway, "shop-web-1")
    os.kill(worker, signal.SIGSTOP)
    assert session.stdin is not None
    session.stdin.write("ls -la\n")
    session.stdin.flush()
    hatchway.command("disable", "shop/web/1", "--all")
    assert is_over(session)
    wait_until(lambda: mounted(hatchway) == [], "unmounted")
    wait_until(lambda: gone(worker), "the worker's end")


def test_the_core_dies_and_a_transfer_goes_on(hatchway: Hatchway, tmp_path: Path) -> None:
    hatchway.enable("shop/web/1")
    session = open_session(hatchway, "shop-web-1")
    (core,) = children(hatchway, "hatchway.daemon")
    os.kill(core, signal.SIGKILL)
    (tmp_path / "file").write_text("x")
    output, _ = session.communicate(f"put {tmp_path}/file during\nls -1\nbye\n", timeout=30)
    assert session.returncode == 0, output
    assert (hatchway.volumes / "shop-web-1-data" / "during").exists()
    # A helper that asks meanwhile waits in the socket's queue.
    assert "during" in hatchway.sftp("shop-web-1", "ls -1\n").stdout
    wait_until(lambda: hatchway.sessions() == 0, "the books are right again")


def restart(hatchway: Hatchway, how: signal.Signals = signal.SIGKILL) -> None:
    """End hostd, and wait for the next one."""
    times = hatchway.log().count("process=hostd event=ready")
    (hostd,) = children(hatchway, "hatchway.host.main")
    os.kill(hostd, how)
    wait_until(lambda: hatchway.log().count("process=hostd event=ready") == times + 1, "hostd is back")


def descriptors_of(hatchway: Hatchway) -> list[str]:
    """What the supervisor and hostd have open."""
    assert hatchway.process is not None
    (hostd,) = children(hatchway, "hatchway.host.main")
    links = [
        f"{name} {os.readlink(path)}"
        for name, pid in (("supervisor", hatchway.process.pid), ("hostd", hostd))
        for path in Path(f"/proc/{pid}/fd").iterdir()
    ]
    # Which socket or pipe it is does not matter, only how many there are.
    return sorted(link.partition(":[")[0] for link in links)


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGHUP])
def test_hostd_dies_and_sessions_go_on(hatchway: Hatchway, tmp_path: Path, how: signal.Signals) -> None:
    hatchway.enable("shop/web/1")
    session = open_session(hatchway, "shop-web-1")
    worker = worker_of(hatchway, "shop-web-1")
    for _ in range(2):
        restart(hatchway, how)
    assert hatchway.sessions() == 1
    assert not gone(worker)
    (tmp_path / "file").write_text("x")
    # Somebody else comes in by the same mount.
    hatchway.sftp("shop-web-1", f"put {tmp_path}/file other\n")
    output, _ = session.communicate(f"put {tmp_path}/file during\nls -1\nbye\n", timeout=30)
    assert session.returncode == 0, output
    assert {"during", "other"} <= set(output.split())
    assert worker_of(hatchway, "shop-web-1") == worker
    wait_until(lambda: hatchway.sessions() == 0, "the session's end is seen")
    assert mounted(hatchway) == ["shop-web-1/data"]


def test_what_was_taken_over_can_be_taken_away(hatchway: Hatchway) -> None:
    hatchway.enable("shop/web/1")
    hatchway.enable("shop/web/2")
    session, other = open_session(hatchway, "shop-web-1"), open_session(hatchway, "shop-web-2")
    worker = worker_of(hatchway, "shop-web-1")
    restart(hatchway)
    hatchway.command("disable", "shop/web/1", "--all")
    assert is_over(session)
    wait_until(functools.partial(gone, worker), "the worker's end")
    assert mounted(hatchway) == ["shop-web-2/data"]
    assert not is_over(other)


def test_access_taken_away_while_hostd_is_dead_is_gone_when_it_is_back(hatchway: Hatchway) -> None:
    hatchway.enable("shop/web/1")
    session = open_session(hatchway, "shop-web-1")
    (hostd,) = children(hatchway, "hatchway.host.main")
    os.kill(hostd, signal.SIGKILL)
    hatchway.cli("disable", "shop/web/1", "--all")
    wait_until(lambda: hatchway.log().count("process=hostd event=ready") == 2, "hostd is back")
    wait_until(lambda: mounted(hatchway) == [], "unmounted")
    assert is_over(session)


def test_nothing_is_left_when_the_last_one_that_was_taken_over_ends() -> None:
    with running("shop/web/1", "shop/web/2", idle_unmount_s=0) as hatchway:
        hatchway.enable("shop/web/1")
        hatchway.enable("shop/web/2")
        hatchway.sftp("shop-web-1", "ls\n")
        wait_until(lambda: mounted(hatchway) == [], "unmounted")
        wait_until(lambda: hatchway.sessions() == 0, "no session")
        time.sleep(1)
        before = descriptors_of(hatchway)
        sessions = [open_session(hatchway, login) for login in ("shop-web-1", "shop-web-2", "shop-web-1")]
        workers = [worker_of(hatchway, login) for login in ("shop-web-1", "shop-web-2")]
        restart(hatchway)
        handover = hatchway.run_dir / "handover"
        assert sorted(path.name for path in handover.iterdir()) == ["shop-web-1", "shop-web-2"]
        for session in sessions:
            assert not is_over(session)
        wait_until(lambda: mounted(hatchway) == [], "unmounted")
        wait_until(lambda: all(gone(worker) for worker in workers), "the workers' end")
        wait_until(lambda: list(handover.iterdir()) == [], "nothing is left to hand over")
        with contextlib.suppress(AssertionError):
            wait_until(lambda: descriptors_of(hatchway) == before, "descriptors as before")
        after = descriptors_of(hatchway)
        assert (Counter(after) - Counter(before), Counter(before) - Counter(after)) == (Counter(), Counter())


def test_a_worker_that_died_with_hostd_ends_its_sessions(hatchway: Hatchway) -> None:
    hatchway.enable("shop/web/1")
    hatchway.enable("shop/web/2")
    session, other = open_session(hatchway, "shop-web-1"), open_session(hatchway, "shop-web-2")
    (hostd,) = children(hatchway, "hatchway.host.main")
    os.kill(hostd, signal.SIGSTOP)
    os.kill(worker_of(hatchway, "shop-web-1"), signal.SIGKILL)
    os.kill(hostd, signal.SIGKILL)
    wait_until(lambda: hatchway.log().count("process=hostd event=ready") == 2, "hostd is back")
    assert is_over(session)
    assert not is_over(other)
    hatchway.sftp("shop-web-1", "ls\n")


def test_what_cannot_be_taken_over_is_cleaned_up(hatchway: Hatchway) -> None:
    hatchway.enable("shop/web/1")
    hatchway.enable("shop/web/2")
    session, other = open_session(hatchway, "shop-web-1"), open_session(hatchway, "shop-web-2")
    worker = worker_of(hatchway, "shop-web-1")
    (hatchway.run_dir / "handover" / "shop-web-1").write_text("{")
    restart(hatchway)
    assert is_over(session)
    wait_until(lambda: gone(worker), "the old worker's end")
    assert not is_over(other)
    wait_until(lambda: Path("/run/userdb/shop-web-1.user").exists(), "the login is published again")
    hatchway.sftp("shop-web-1", "ls\n")


def test_logins_wait_for_a_hostd_that_starts_again(hatchway: Hatchway) -> None:
    """None is refused: whoever asks meanwhile waits in the socket's queue."""
    hatchway.enable("shop/web/1")
    hatchway.sftp("shop-web-1", "ls\n")
    (hostd,) = children(hatchway, "hatchway.host.main")
    os.kill(hostd, signal.SIGKILL)
    begin = time.monotonic()
    hatchway.sftp("shop-web-1", "ls\n")
    assert time.monotonic() - begin < 10  # a loaded machine; by hand it is within two


@pytest.mark.parametrize(
    ("module", "how"),
    [("hatchway.daemon", signal.SIGTERM), ("hatchway.host.main", signal.SIGHUP)],
    ids=["core", "hostd"],
)
def test_nobody_who_is_just_logging_in_is_refused_by_a_restart(
    hatchway: Hatchway, module: str, how: signal.Signals
) -> None:
    """What it has been asked it answers before it ends; the rest waits for the next one."""
    hatchway.enable("shop/web/1")
    hatchway.sftp("shop-web-1", "ls\n")
    # Each time six that have come so far, and no further: a restart for each would wait longer and longer.
    for _ in range(2):
        sessions = [hatchway.open_sftp("shop-web-1")]
        for _ in range(5):
            time.sleep(0.06)
            sessions.append(hatchway.open_sftp("shop-web-1"))
        (pid,) = children(hatchway, module)
        os.kill(pid, how)
        assert [is_over(session) for session in sessions] == [False] * 6
        another_than(hatchway, module, pid)


@pytest.mark.parametrize("module", ["hatchway.daemon", "hatchway.host.main", "hatchway.catalog.main"])
def test_a_command_right_after_a_restart_is_carried_out(hatchway: Hatchway, module: str) -> None:
    """It waits until the core knows what there is, instead of saying that there is nothing."""
    for _ in range(3):
        (pid,) = children(hatchway, module)
        os.kill(pid, signal.SIGTERM if module != "hatchway.host.main" else signal.SIGHUP)
        hatchway.enable("shop/web/1")
        hatchway.command("disable", "shop/web/1", "--all")
        another_than(hatchway, module, pid)


def test_everything_is_killed_and_starts_again(hatchway: Hatchway) -> None:
    hatchway.enable("shop/web/1")
    session = open_session(hatchway, "shop-web-1")
    hostd = children(hatchway, "hatchway.host.main")
    core = children(hatchway, "hatchway.daemon")
    assert hatchway.process is not None
    for pid in (hatchway.process.pid, *hostd, *core):
        os.kill(pid, signal.SIGKILL)
    hatchway.process.wait()
    wait_until(lambda: children(hatchway, "hatchway.catalog.main") == [], "the catalog ends with the supervisor")
    hatchway.log_path.unlink()
    wait_until(lambda: not listening(hatchway.port), "sshd ends with the supervisor")
    hatchway.start()
    assert is_over(session)
    assert mounted(hatchway) == []
    hatchway.sftp("shop-web-1", "ls\n")


def test_what_is_left_is_ended_without_a_hostd(hatchway: Hatchway) -> None:
    """As the last unit does that is stopped."""
    hatchway.enable("shop/web/1")
    hatchway.enable("shop/web/2")
    sessions = [open_session(hatchway, login) for login in ("shop-web-1", "shop-web-2")]
    workers = [worker_of(hatchway, login) for login in ("shop-web-1", "shop-web-2")]
    hostd = children(hatchway, "hatchway.host.main")
    assert hatchway.process is not None
    for pid in (hatchway.process.pid, *hostd):
        os.kill(pid, signal.SIGKILL)
    hatchway.process.wait()
    assert not any(gone(worker) for worker in workers)
    command = [sys.executable, "-I", "-m", "hatchway.host.main", "--config", str(hatchway.config_path), "--end"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert all(is_over(session) for session in sessions)
    wait_until(lambda: all(gone(worker) for worker in workers), "the workers' end")
    assert mounted(hatchway) == []
    assert not [path for path in Path("/run/userdb").iterdir() if "shop-web" in path.name]
    assert list((hatchway.run_dir / "handover").iterdir()) == []
    hatchway.log_path.unlink()
    wait_until(lambda: not listening(hatchway.port), "sshd ends with the supervisor")
    hatchway.start()
    hatchway.sftp("shop-web-1", "ls\n")


def listening(port: int) -> bool:
    needle = f":{port:04X} "
    return any(needle in line and " 0A " in line for line in Path("/proc/net/tcp").read_text().splitlines())


def test_a_second_run_is_refused(hatchway: Hatchway) -> None:
    done = hatchway.cli("run")
    assert done.returncode == 6
    assert "another 'hatchway run'" in done.stderr
    hatchway.enable("shop/web/1")
    hatchway.sftp("shop-web-1", "ls\n")


def test_stopping_ends_sessions_and_leaves_nothing(hatchway: Hatchway) -> None:
    hatchway.enable("shop/web/1")
    session = open_session(hatchway, "shop-web-1")
    assert hatchway.stop() == 0
    assert is_over(session)
    assert mounted(hatchway) == []
    assert not hatchway.run_dir.exists()
