"""Instances listed in a file, for directories without an engine. Checked whole: a broken file changes nothing.

    [[instance]]
    environment = "backup"
    container = "nas"
    [[instance.volume]]
    path = "/archive"
    directory = "/srv/archive"

The file is the administrator's, but what it names must lie below `host.bind_prefixes` as well: the privileged half
mounts nothing else.
"""

from __future__ import annotations

import os
import posixpath
import stat
import time
import tomllib
from collections.abc import Callable
from typing import NoReturn, TextIO

import msgspec
import trio

from hatchway import config as configuration
from hatchway import log
from hatchway.catalog.container_users import numeric
from hatchway.catalog.feeder import Sink
from hatchway.catalog.names import key_part
from hatchway.config import Config
from hatchway.errors import ConfigError
from hatchway.model import (
    InstanceInfo,
    InstanceKey,
    InstanceState,
    Snapshot,
    VolumeInfo,
    VolumeKind,
    below,
    valid_volume_path,
)

SOURCE = "static"

POLL_EVERY_S = 1.0
NUMBER_MAX = 999_999_999


class StaticVolume(msgspec.Struct, frozen=True, kw_only=True):
    """`path` is where a session finds the `directory` of the host."""

    path: str
    directory: str
    name: str = ""
    read_only: bool = False


class StaticInstance(msgspec.Struct, frozen=True, kw_only=True):
    """`user` is as a container's configured user: "", which is root, or UID:GID."""

    environment: str
    container: str
    number: int = 1
    user: str = ""
    volume: tuple[StaticVolume, ...] = ()


class StaticFile(msgspec.Struct, frozen=True, kw_only=True):
    """The whole file."""

    instance: tuple[StaticInstance, ...] = ()


def parse(text: str, origin: str) -> tuple[InstanceInfo, ...]:
    """The instances that `text` lists, in the order of their keys. No look at the host: `refusal` is None everywhere.

    Raises ConfigError naming `origin`, key, value and what is allowed.
    """
    try:
        data = tomllib.loads(text)
    except tomllib.TOMLDecodeError as exc:
        raise ConfigError(f"{origin}: {exc}") from exc
    found: dict[InstanceKey, InstanceInfo] = {}
    for index, item in enumerate(configuration.decode(data, StaticFile, origin).instance):
        info = _instance(item, origin, f"instance[{index}]")
        if info.key in found:
            raise ConfigError(f"{origin}: instance[{index}] = {str(info.key)!r} is not allowed: it is listed twice")
        found[info.key] = info
    return tuple(found[key] for key in sorted(found))


def _instance(item: StaticInstance, origin: str, at: str) -> InstanceInfo:
    for field in ("environment", "container"):
        value = getattr(item, field)
        if not value or key_part(value) != value:
            expected = 'a text without "/", control characters and blanks at its ends, at most 255 characters'
            raise ConfigError(f"{origin}: {at}.{field} = {value!r} is not allowed: expected {expected}")
    if not 1 <= item.number <= NUMBER_MAX:
        expected = f"a number from 1 to {NUMBER_MAX}"
        raise ConfigError(f"{origin}: {at}.number = {item.number!r} is not allowed: expected {expected}")
    key = InstanceKey(item.environment, item.container, item.number)
    owner = numeric(item.user)
    volumes: dict[str, VolumeInfo] = {}
    for index, volume in enumerate(item.volume):
        where = f"{at}.volume[{index}]"
        if not valid_volume_path(volume.path):
            expected = "an absolute path other than /, without . and .. and a slash at its end"
            raise ConfigError(f"{origin}: {where}.path = {volume.path!r} is not allowed: expected {expected}")
        if volume.path in volumes:
            raise ConfigError(f"{origin}: {where}.path = {volume.path!r} is not allowed: it is listed twice")
        if not valid_volume_path(volume.directory):
            expected = "an absolute path of a directory other than /, without . and .. and a slash at its end"
            raise ConfigError(f"{origin}: {where}.directory = {volume.directory!r} is not allowed: expected {expected}")
        volumes[volume.path] = VolumeInfo(
            path=volume.path,
            kind=VolumeKind.DIRECTORY,
            name=volume.name,
            source=volume.directory,
            read_only=volume.read_only,
        )
    return InstanceInfo(
        key=key,
        runtime_id=f"static:{key}",
        runtime_name=item.container,
        state=InstanceState.STATIC,
        user=item.user,
        owner=owner,
        owner_problem="" if owner is not None else "in a static instance it must be numbers, UID:GID",
        volumes=tuple(volumes[path] for path in sorted(volumes)),
    )


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
