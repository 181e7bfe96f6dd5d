"""Aborting a FUSE connection without a fusectl mounted on the host."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from hatchway.kernel import fusectl, mounts

_STAT = """
import os, sys
try:
    os.stat(os.path.join(sys.argv[1], "name"))
except OSError as exc:
    sys.exit(exc.errno)
"""


@pytest.fixture
def silent(tmp_path: Path) -> Iterator[Path]:
    """A FUSE file system whose server never answers."""
    fuse = os.open("/dev/fuse", os.O_RDWR | os.O_CLOEXEC)
    mounts.mount_fuse(fuse, str(tmp_path), name="hatchway:test")
    yield tmp_path
    mounts.unmount(str(tmp_path), mounts.MNT_FORCE | mounts.MNT_DETACH)
    os.close(fuse)


def minor_of(path: Path) -> int:
    (minor,) = (entry.minor for entry in mounts.mount_table() if entry.target == str(path))
    return minor


def test_what_waits_for_a_silent_server_fails_at_once(silent: Path) -> None:
    table = mounts.mount_table()
    with subprocess.Popen([sys.executable, "-c", _STAT, str(silent)]) as waiting:
        time.sleep(0.5)
        assert waiting.poll() is None
        assert fusectl.abort([minor_of(silent)]) == {}
        assert waiting.wait(5) in (errno.ENOTCONN, errno.ECONNABORTED)
    assert mounts.mount_table() == table, "nobody sees how"


def test_a_connection_that_is_gone_is_no_problem() -> None:
    assert fusectl.abort([(1 << 20) - 1]) == {}


def test_a_kernel_without_it_is_named(silent: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    minor = minor_of(silent)
    before = len(os.listdir("/proc/self/fd"))
    monkeypatch.setattr(mounts, "_FSOPEN", 10_000)
    assert fusectl.abort([minor]) == {minor: f"fsopen: {os.strerror(errno.ENOSYS)}"}
    assert fusectl.abort([]) == {}
    assert len(os.listdir("/proc/self/fd")) == before
