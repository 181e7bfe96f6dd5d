"""A volume of a million files that has a limit: it is counted, and nobody waits for that."""

from __future__ import annotations

import os
import time
from pathlib import Path

from tests.figures import note
from tests.sshd.running import Hatchway, running, wait_until

DIRECTORIES, FILES = 1000, 1000


def test_a_million_files(tmp_path: Path) -> None:
    with running("shop/web/1", "shop/web/2") as hatchway:
        directory = hatchway.volumes / "shop-web-1-data"
        for each in range(DIRECTORIES):
            (directory / str(each)).mkdir()
            for file in range(FILES):
                os.close(os.open(f"{directory}/{each}/{file}", os.O_CREAT | os.O_WRONLY))
        (tmp_path / "x").write_bytes(b"x" * 100_000)
        hatchway.enable("shop/web/2", "/data")
        alone = login_s(hatchway, "shop-web-2")
        hatchway.command("enable", "shop/web/1", "/data", "--size", "1GB", "--files", "2000000")
        login = hatchway.enable("shop/web/1", "/data")
        began = time.monotonic()
        during = [login_s(hatchway, login), login_s(hatchway, "shop-web-2")]
        assert used(hatchway) is None, "it is still being counted"
        wait_until(lambda: used(hatchway) is not None, "it is counted", 600)
        took = time.monotonic() - began
        assert used(hatchway) == DIRECTORIES * (FILES + 1)
        note(f"a million files: counted in {took:.1f} s; a login meanwhile {max(during):.2f} s, alone {alone:.2f} s")
        # Another count, in the middle of which sessions add and remove.
        hatchway.sftp(login, "".join(f"put {tmp_path}/x /data/new-{n}\n" for n in range(50)) + "rm /data/0/0\n")
        wait_until(lambda: used(hatchway) == DIRECTORIES * (FILES + 1) + 49, "what sessions did is known")
        assert max(during) < 5


def login_s(hatchway: Hatchway, login: str) -> float:
    """Seconds from nothing to a listing."""
    began = time.monotonic()
    hatchway.sftp(login, "ls -1 /data/0\n", check=False)
    return time.monotonic() - began


def used(hatchway: Hatchway) -> int | None:
    """Files of the volume, as `hatchway ls` knows."""
    (instance,) = [one for one in hatchway.command("ls")["instances"] if one["login"] == "shop-web-1"]
    found: int | None = instance["volumes"][0]["size"]["files_used"]
    return found
