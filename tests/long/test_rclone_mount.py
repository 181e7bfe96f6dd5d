"""Ordinary programs at work through rclone mount, which renames and uploads in the background.

On a fast machine its own view lags behind itself at times, so a failure here is looked at before it is believed.
"""

from __future__ import annotations

import time
from pathlib import Path

from tests.sshd.running import Hatchway, wait_until
from tests.sshd.test_mounting_clients import check, hatchway, mounted, work

__all__ = ["hatchway"]


def test_rclone_mount(hatchway: Hatchway, tmp_path: Path) -> None:
    known_hosts = hatchway.options()[3].partition("=")[2]
    remote = (
        f":sftp,host=127.0.0.1,port={hatchway.port},user=shop-web-1,key_file={hatchway.keys}/shop-web-1,"
        f"known_hosts_file={known_hosts},shell_type=none:/data"
    )
    command = ["rclone", "mount", remote, str(tmp_path / "mnt"), "--config", "/dev/null", "--cache-dir", str(tmp_path)]
    # Writes are complete when close returns, for `check` looks at the disk.
    command += ["--vfs-cache-mode", "writes", "--vfs-write-back", "0", "--dir-cache-time", "1s"]
    with mounted(command, tmp_path / "mnt"):
        work(tmp_path / "mnt")
        # It renames and uploads in the background, and drops what is left to do when it is unmounted.
        conf = hatchway.volumes / "shop-web-1-data" / "conf"
        wait_until(lambda: conf.exists() and conf.read_text() == "new\nmore\n", "what was written has been uploaded")
        time.sleep(1)
    check(hatchway.volumes / "shop-web-1-data")
