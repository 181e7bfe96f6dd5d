"""The source "static": instances listed in a file (see `staticfile`), for directories without an engine.

The file is the administrator's, but what it names must lie below `host.bind_prefixes` as well: the privileged half
mounts nothing else.
"""

from __future__ import annotations

import os
import posixpath
import stat
import time
from collections.abc import Callable
from typing import NoReturn, TextIO

import msgspec
import trio

from hatchway import log
from hatchway.catalog.feeder import Sink
from hatchway.config import Config
from hatchway.errors import ConfigError
from hatchway.model import InstanceInfo, Snapshot, below
from hatchway.staticfile import parse

SOURCE = "static"

POLL_EVERY_S = 1.0


def refusal(directory: str, prefixes: tuple[str, ...]) -> str | None:
    """Why `directory` cannot be shared at present, None when it can as far as this process sees.

    `prefixes` is host.bind_prefixes. Looks at the host; may block.
    """
    prefix = next((prefix for prefix in prefixes if below(directory, prefix)), None)
    if prefix is None:
        wanted = ", ".join(f'"{text}"' for text in (*prefixes, directory))
        return (
            f"{directory} is not below any of host.bind_prefixes; to allow it, write in the configuration "
            f"under [host]: bind_prefixes = [{wanted}]"
        )
    try:
        if not stat.S_ISDIR(os.stat(directory).st_mode):
            return f"{directory} is not a directory"
        # The privileged half follows no symlink below a prefix (openat2(2), RESOLVE_NO_SYMLINKS).
        straight = posixpath.join(os.path.realpath(prefix), posixpath.relpath(directory, prefix))
        if os.path.realpath(directory) != posixpath.normpath(straight):
            return f"{directory} is or lies behind a symbolic link; name the directory it leads to"
    except PermissionError:
        return None  # the privileged half will see
    except OSError as exc:
        return f"{directory}: {exc.strerror}"
    return None


class StaticSource:
    """The source "static": follows `config.static.file`. `now` gives Unix time in seconds."""

    def __init__(self, config: Config, sink: Sink, *, now: Callable[[], float] = time.time) -> None:
        self._file = config.static.file
        self._prefixes = config.host.bind_prefixes
        self._sink = sink
        self._now = now
        self._logger = log.get(source=SOURCE)
        self._stamp: tuple[int, ...] | None = None
        self._changing: tuple[int, ...] | None = None
        self._fault: str | None = None
        """What is wrong in the file as it was read last."""
        self._absence: str | None = None
        """Why the file cannot be read at present."""
        self._listed: tuple[InstanceInfo, ...] = ()
        self._taken_at = 0.0
        self._published: Snapshot | None = None

    async def follow(self) -> NoReturn:
        """Look at the file and the directories it names, every second, until cancelled."""
        while True:
            # In a thread: a directory of the network may not answer for minutes.
            snapshot = await trio.to_thread.run_sync(self._look, abandon_on_cancel=True)
            if snapshot.problem is None:
                self._sink.alive(SOURCE)
            last = self._published
            if last is None or msgspec.structs.replace(snapshot, taken_at=last.taken_at) != last:
                if snapshot.problem is not None and (last is None or last.problem != snapshot.problem):
                    self._logger.warning("file not usable", error=snapshot.problem)
                self._published = snapshot
                self._sink.publish(snapshot)
            await trio.sleep(POLL_EVERY_S)

    def _look(self) -> Snapshot:
        self._read()
        problem = self._absence or self._fault
        if problem is None:
            self._taken_at = self._now()
        return Snapshot(
            source=SOURCE,
            taken_at=self._taken_at,
            instances=tuple(self._checked(info) for info in self._listed),
            problem=problem,
        )

    def _read(self) -> None:
        """Read the file again if it is another than last time."""
        self._absence = None
        try:
            with open(self._file, encoding="utf-8") as file:
                status = os.fstat(file.fileno())
                stamp = (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)
                if stamp == self._stamp:
                    return
                if self._stamp is not None and stamp != self._changing:
                    # Half a file may be a good one with fewer instances: let its writer finish first.
                    self._changing = stamp
                    return
                self._stamp = stamp
                self._listed = self._parsed(status, file)
            self._fault = None
        except ConfigError as exc:
            self._fault = str(exc)
        except UnicodeDecodeError as exc:
            self._fault = f"{self._file}: {exc}"
        except OSError as exc:
            self._absence = f"{self._file}: {exc.strerror}"

    def _parsed(self, status: os.stat_result, file: TextIO) -> tuple[InstanceInfo, ...]:
        if status.st_mode & stat.S_IWOTH:
            raise ConfigError(f"{self._file}: everybody may write it (chmod o-w), so it is not used")
        return parse(file.read(), self._file)

    def _checked(self, info: InstanceInfo) -> InstanceInfo:
        return msgspec.structs.replace(
            info,
            volumes=tuple(
                msgspec.structs.replace(volume, refusal=refusal(volume.source or "", self._prefixes))
                for volume in info.volumes
            ),
        )
