"""`hatchway doctor` names what an earlier Hatchway left. Real sshd and real sessions."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.sshd.running import Hatchway, running, wait_until
from tests.sshd.test_lifecycle import children, gone, is_over, listening, mounted, open_session, restart, worker_of

from hatchway.kernel import mounts


@pytest.fixture
def hatchway() -> Iterator[Hatchway]:
    with running("shop/web/1", "shop/web/2") as made:
        yield made


def finding(hatchway: Hatchway) -> dict[str, str]:
    """What doctor says of leftovers."""
    done = hatchway.cli("--json", "doctor")
    (found,) = (one for one in json.loads(done.stdout)["findings"] if one["name"] == "leftovers")
    assert isinstance(found, dict)
    return found


def kill_everything(hatchway: Hatchway) -> None:
    """SIGKILL to the supervisor, the core and hostd. Catalog and sshd's listener end with the supervisor."""
    assert hatchway.process is not None
    for pid in (
        hatchway.process.pid,
        *children(hatchway, "hatchway.host.main"),
        *children(hatchway, "hatchway.daemon"),
    ):
        os.kill(pid, signal.SIGKILL)
    hatchway.process.wait()
    wait_until(lambda: children(hatchway, "hatchway.catalog.main") == [], "the catalog ends with the supervisor")
    hatchway.log_path.unlink()
    wait_until(lambda: not listening(hatchway.port), "sshd ends with the supervisor")


def processes_of(uid: int) -> list[int]:
    found = []
    for path in Path("/proc").glob("[0-9]*/status"):
        try:
            if f"\nUid:\t{uid}\t" in path.read_text():
                found.append(int(path.parent.name))
        except OSError:
            continue
    return found


def test_nothing_is_left_over_of_a_healthy_session(hatchway: Hatchway) -> None:
    none = {"name": "leftovers", "level": "ok", "text": "none", "fix": None}
    assert finding(hatchway) == none
    hatchway.enable("shop/web/1")
    hatchway.enable("shop/web/2")
    session = open_session(hatchway, "shop-web-1")
    hatchway.sftp("shop-web-2", "ls\n")
    assert finding(hatchway) == none
    # Somebody who has not logged in yet, and takes their time.
    command = ["ssh", *hatchway.options(), "-o", "PreferredAuthentications=password", "shop-web-2@127.0.0.1"]
    with hatchway.password_environment("x") as environment:
        slow = Path(environment["SSH_ASKPASS"])
        slow.write_text("#!/bin/sh\nexec sleep 60\n")
        with subprocess.Popen(command, stderr=subprocess.DEVNULL, env=environment, start_new_session=True) as waiting:
            wait_until(lambda: b"shop-web-2 [priv]" in subprocess.check_output(["ps", "-eo", "args"]), "a login")
            assert finding(hatchway) == none
            os.killpg(waiting.pid, signal.SIGKILL)
    restart(hatchway)
    assert finding(hatchway) == none
    assert not is_over(session)


def test_everything_is_killed_and_what_is_left_is_named_until_it_is_ended(hatchway: Hatchway) -> None:
    hatchway.enable("shop/web/1")
    session = open_session(hatchway, "shop-web-1")
    worker = worker_of(hatchway, "shop-web-1")
    uid = json.loads(Path("/run/userdb/shop-web-1.user").read_text())["uid"]
    inside = processes_of(uid)
    assert len(inside) >= 2
    kill_everything(hatchway)
    found = finding(hatchway)
    assert found["level"] == "warning"
    assert "start 'hatchway run'" in found["fix"]
    named = found["text"].split("; ")
    for pid in inside:
        assert f"session process {pid} (uid {uid}) of shop-web-1" in named
    assert any(one.startswith("session process ") and one.endswith(" (uid 0) of shop-web-1") for one in named), "sshd's"
    assert any(one.startswith(f"worker process {worker} (uid 19102") for one in named)
    assert f"mount {hatchway.run_dir}/mnt/shop-web-1/data" in named
    assert f"mount {hatchway.run_dir}/mnt" in named
    assert f"record /run/userdb/shop-web-1.user (user shop-web-1, {uid})" in named
    assert any(one.startswith("record /run/userdb/hwtest-sftp.group (group hwtest-sftp, ") for one in named)
    hatchway.start()
    assert finding(hatchway)["text"] == "none"
    assert is_over(session)
    assert gone(worker)
    assert hatchway.stop() == 0
    assert finding(hatchway)["text"] == "none"


def test_what_is_left_over_while_hatchway_runs_is_ended_by_another_hostd(hatchway: Hatchway) -> None:
    for instance in ("shop/web/1", "shop/web/2"):
        hatchway.enable(instance)
    session, other = open_session(hatchway, "shop-web-1"), open_session(hatchway, "shop-web-2")
    # A session without its monitor, a process with a worker's uid, and a mount, which hostd knows nothing of.
    inside = processes_of(json.loads(Path("/run/userdb/shop-web-1.user").read_text())["uid"])
    (monitor,) = {int(Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2].split()[1]) for pid in inside} - {
        *inside
    }
    target = hatchway.run_dir / "mnt" / "nobody's; touch x" / "data"
    target.mkdir(parents=True)
    fuse = os.open("/dev/fuse", os.O_RDWR | os.O_CLOEXEC)
    mounts.mount_fuse(fuse, str(target), name="hatchway:nobody")
    os.close(fuse)
    (hatchway.run_dir / "mnt" / "empty").mkdir()
    with subprocess.Popen(["setpriv", "--reuid", "1910299999", "--clear-groups", "sleep", "100"]) as stray:
        os.kill(monitor, signal.SIGKILL)
        wait_until(lambda: hatchway.sessions() == 1, "hostd counts it no more")
        found = finding(hatchway)
        assert found["level"] == "warning"
        named = set(found["text"].split("; "))
        (hostd,) = children(hatchway, "hatchway.host.main")
        assert found["fix"].startswith(f"kill -HUP {hostd}: ")
        text = found["text"]
        assert f"worker process {stray.pid} (uid 1910299999)" in named
        assert f"mount '{hatchway.run_dir}/mnt/nobody'\"'\"'s; touch x/data'" in text
        assert f"directory {hatchway.run_dir}/mnt/empty" in named
        left = [pid for pid in inside if not gone(pid)]
        assert left
        assert all(f"session process {pid} " in text for pid in left)
        assert "shop-web-2" not in text
        restart(hatchway, signal.SIGHUP)
        assert stray.wait(10) == -signal.SIGKILL
    assert finding(hatchway)["text"] == "none"
    assert all(gone(pid) for pid in inside)
    assert is_over(session)
    assert sorted(mounted(hatchway)) == ["shop-web-1/data", "shop-web-2/data"]
    assert not is_over(other)
