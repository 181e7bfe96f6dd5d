"""The process: as the accounts and units start it."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
from tests.web.browsing import Client
from tests.web.core import FakeCore, serving

NOBODY = 65534


def _start(directory: Path, text: str, **more: object) -> subprocess.Popen[str]:
    file = directory / "hatchway.toml"
    file.write_text(text)
    command = [sys.executable, "-m", "hatchway.web.main", "--config", str(file)]
    return subprocess.Popen(command, stderr=subprocess.PIPE, text=True, **more)  # type: ignore[call-overload,no-any-return]


@pytest.mark.skipif(os.geteuid() != 0, reason="changes its uid")
def test_serves_as_a_user_without_rights(core: FakeCore, directory: Path) -> None:
    directory.chmod(0o755)
    (directory / "state-web").mkdir()
    os.chown(directory / "state-web", NOBODY, NOBODY)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    text = f'[paths]\nrun_dir = "{directory}"\nstate_dir = "{directory}/state"\n[web]\nlisten = ["127.0.0.1:{port}"]\n'
    with serving(core, directory / "web.sock"):
        process = _start(directory, text, user=NOBODY, group=NOBODY, extra_groups=[])
        try:
            client = Client(f"https://127.0.0.1:{port}")
            for _ in range(100):
                try:
                    assert client.sign_in().status == 303
                    break
                except ConnectionRefusedError:
                    time.sleep(0.1)
            assert client.get("/").status == 200
            status = Path(f"/proc/{process.pid}/status").read_text()
            assert "CapEff:\t0000000000000000" in status and "NoNewPrivs:\t1" in status
            process.send_signal(signal.SIGTERM)
            _, log = process.communicate(timeout=15)
        finally:
            process.kill()
            process.wait()
    assert process.returncode == 0
    assert "ready" in log and "sha256=" in log and "Traceback" not in log


@pytest.mark.skipif(os.geteuid() != 0, reason="is about root")
def test_not_as_root(directory: Path) -> None:
    process = _start(directory, "[web]\n")
    _, log = process.communicate(timeout=20)
    assert process.returncode == 7 and "must not run as root" in log


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('[web]\ntls = "off"\nlisten = ["0.0.0.0:8022"]\n', "web.listen"),
        ("[web]\nliste = []\n", "liste"),
        ("[web\n", "hatchway.toml"),
    ],
)
def test_configuration_that_cannot_be(directory: Path, text: str, said: str) -> None:
    process = _start(directory, text)
    _, log = process.communicate(timeout=20)
    assert process.returncode == 3 and said in log
