"""Instances listed in a file, for directories without an engine. Checked whole: a broken file changes nothing.

    [[instance]]
    environment = "backup"
    container = "nas"
    [[instance.volume]]
    path = "/archive"
    directory = "/srv/archive"

Pure: `catalog.static_source` reads the file and looks at what it names.
"""

from __future__ import annotations

import tomllib

import msgspec

from hatchway.config import decode
from hatchway.errors import ConfigError
from hatchway.model import (
    IdPair,
    InstanceInfo,
    InstanceKey,
    InstanceState,
    VolumeInfo,
    VolumeKind,
    owner_ids,
    valid_volume_path,
)
from hatchway.names import key_part

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
    for index, item in enumerate(decode(data, StaticFile, origin).instance):
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
    owner = owner_ids(item.user) if item.user else IdPair(0, 0)
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
