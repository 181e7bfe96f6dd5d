"""An instance of its own for each test, in a Hatchway that many tests share."""

from __future__ import annotations

import itertools
import os
import re
from collections.abc import Callable, Sequence
from pathlib import Path

from tests.sshd.running import Hatchway, wait_until

_NUMBERS = itertools.count(1)

TOGETHER = 10
"""Instances that are made at once for a Hatchway: it takes the catalog two looks at its file to see new ones."""


def worker_of(hatchway: Hatchway, login: str, path: str) -> int:
    """The worker that was started last for a volume."""
    return int(re.findall(rf"event=mounted login={login} path={path} .*worker=(\d+)", hatchway.log())[-1])


def mount_ids(hatchway: Hatchway, login: str) -> dict[str, int]:
    """Mount ids by path of what is mounted in a login's root (proc_pid_mountinfo(5))."""
    prefix = f"{hatchway.run_dir}/mnt/{login}/"
    lines = [line.split() for line in Path("/proc/self/mountinfo").read_text().splitlines()]
    return {f"/{line[4].removeprefix(prefix)}": int(line[0]) for line in lines if line[4].startswith(prefix)}


def kernel_read_only(pid: int) -> bool:
    """Whether the volume's own mount, which the worker `pid` holds, is read-only (statvfs(3)).

    The other detached mount it holds is proc's.
    """
    proc = os.stat("/proc").st_dev
    for entry in sorted(os.listdir(f"/proc/{pid}/fd"), key=int):
        info = Path(f"/proc/{pid}/fdinfo/{entry}").read_text()
        flags = int(info.partition("flags:")[2].split()[0], 8)
        path = f"/proc/{pid}/fd/{entry}"
        if flags & os.O_PATH and os.readlink(path) == "/" and os.stat(path).st_dev != proc:
            return bool(os.statvfs(path).f_flag & os.ST_RDONLY)
    raise AssertionError("it holds no volume")


def _made(hatchway: Hatchway, paths: Sequence[str]) -> tuple[int, dict[str, Path]]:
    """The number of an instance that nobody has yet, and its directories."""
    number = next(_NUMBERS)
    directories = {path: hatchway.add_volume(path, number=number) for path in paths}
    for path, directory in directories.items():
        if path != "/data":
            (directory / f"of{path.replace('/', '-')}").write_text(f"content of {path}")
    return number, directories


class Place:
    """An instance with the volumes `paths`, all enabled; `prepare` gets the directory of /data before that.

    In each of the others is a file "of-<name>".
    """

    def __init__(
        self,
        hatchway: Hatchway,
        prepare: Callable[[Path], None] | None = None,
        *,
        paths: Sequence[str] = ("/data", "/logs"),
    ) -> None:
        self.hatchway = hatchway
        # Which directory it is is known from when the catalog sees it.
        spare = hatchway.spare.setdefault(tuple(paths), []) if prepare is None else []
        if not spare:
            spare += [_made(hatchway, paths) for _ in range(TOGETHER if prepare is None else 1)]
            if prepare is not None:
                prepare(spare[0][1]["/data"])
            hatchway.write_instances()
        self.number, self.directories = spare.pop(0)
        self.instance, self.login = f"shop/web/{self.number}", f"shop-web-{self.number}"
        wait_until(lambda: len(self.volumes()) == len(paths), "the catalog sees all volumes")
        hatchway.enable(self.instance)

    @property
    def data(self) -> Path:
        """The directory of /data on disk."""
        return self.directories["/data"]

    @property
    def logs(self) -> Path:
        """The directory of /logs on disk."""
        return self.directories["/logs"]

    def volumes(self) -> dict[str, str]:
        """What `hatchway ls` says of each volume's access."""
        key = {"environment": "shop", "container": "web", "number": self.number}
        for info in self.hatchway.told("ls")["instances"]:
            if info["key"] == key:
                return {volume["path"]: str(volume["access"]) for volume in info["volumes"]}
        return {}

    def sftp(self, batch: str) -> str:
        """What sftp says to `batch`, all of it."""
        done = self.hatchway.sftp(self.login, batch, check=False)
        return done.stdout + done.stderr

    def worker(self, path: str = "/data") -> int:
        """The worker that was started last for a volume."""
        return worker_of(self.hatchway, self.login, path)

    def mount_ids(self) -> dict[str, int]:
        """Mount ids by path of what is mounted in the login's root."""
        return mount_ids(self.hatchway, self.login)

    def standing(self, *paths: str) -> dict[str, tuple[int, int]]:
        """Mount and worker at `paths`, so that it can be compared whether they are still the same."""
        ids = self.mount_ids()
        return {path: (ids[path], self.worker(path)) for path in paths}

    def said(self, *words: str) -> list[str]:
        """Lines of the log about this login that hold all `words`."""
        lines = self.hatchway.log().splitlines()
        return [line for line in lines if f"login={self.login} " in f"{line} " and all(word in line for word in words)]

    def works(self) -> None:
        """A new login sees both volumes and can write."""
        (self.hatchway.directory / "new").write_text("new")
        out = self.sftp(f"put {self.hatchway.directory}/new /data/works\nls -1 /data\nls -1 /logs\nrm /data/works\n")
        assert "/data/works" in out
        assert "/logs/of-logs" in out
