"""From the engine's descriptions of containers and volumes to instances. Pure: no I/O, no SDK, no state.

Everything read here was written by whoever made the container. A description that is not of the expected form is left
out whole: half of one could put a container's volumes behind another container's key.
Sources: Docker Engine API v1.41 and later, ContainerInspect and VolumeList; the Compose specification's labels.
"""

from __future__ import annotations

import itertools
import math
import posixpath
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from types import MappingProxyType
from typing import Any, NamedTuple

import msgspec

from hatchway.catalog.container_users import numeric
from hatchway.model import (
    ACCESS_LABEL,
    ANONYMOUS_PREFIX,
    DEPTH_MAX,
    IdPair,
    IdRange,
    InstanceInfo,
    InstanceKey,
    InstanceState,
    VolumeInfo,
    VolumeKind,
    valid_volume_path,
)
from hatchway.names import encodable, key_part, printable

DEFAULT_ENVIRONMENT = "default"
"""The environment of containers that Compose did not make."""

COMPOSE_DEFAULT = "default (compose)"
"""The environment of a Compose project that is called as that."""

PROJECT = "com.docker.compose.project"
SERVICE = "com.docker.compose.service"
NUMBER = "com.docker.compose.container-number"
ONE_OFF = "com.docker.compose.oneoff"
ANONYMOUS = "com.docker.volume.anonymous"

TEXT_MAX = 512
"""Characters of what is only shown. A frame holds all instances, and one of them shall not fill it."""

ACCESS_LABEL_MAX = 1024
"""Characters. Whoever may make containers writes it."""

ENGINE_SOCKETS = frozenset({"docker.sock", "podman.sock", "containerd.sock"})
"""File names of sockets that give whoever reaches them root on the host."""

ON_DEMAND_OPTIONS = ("type", "device", "o")
"""Options that make the local driver mount something when a container starts (docker volume create). Of an engine that
keeps them in files `docker_source` leaves them out, and the privileged half decides."""

_STATES = {
    state.value: state
    for state in InstanceState
    if state not in (InstanceState.STATIC, InstanceState.UNKNOWN)  # ours, not the engine's words
} | {
    # Podman's words, podman-ps(1).
    "configured": InstanceState.CREATED,
    "initialized": InstanceState.CREATED,
    "stopping": InstanceState.RUNNING,
    "stopped": InstanceState.EXITED,
}


class _State(msgspec.Struct, frozen=True, rename="pascal"):
    status: str = ""


class _Config(msgspec.Struct, frozen=True, rename="pascal"):
    labels: dict[str, str] | None = None
    user: str = ""
    image: str = ""
    volumes: dict[str, object] | None = None


class _VolumeOptions(msgspec.Struct, frozen=True, rename="pascal"):
    subpath: str | None = None


class _MountRequest(msgspec.Struct, frozen=True, rename="pascal"):
    target: str = ""
    volume_options: _VolumeOptions | None = None


class _HostConfig(msgspec.Struct, frozen=True, rename="pascal"):
    mounts: tuple[_MountRequest, ...] | None = None
    binds: tuple[str, ...] | None = None
    volumes_from: tuple[str, ...] | None = None
    tmpfs: dict[str, str] | None = None
    userns_mode: str = ""


class Namespaces(NamedTuple):
    """Which ids of the host those of an engine's containers are; `problem` when that cannot be told."""

    uid_map: tuple[IdRange, ...] = ()
    gid_map: tuple[IdRange, ...] = ()
    problem: str = ""


SAME_IDS = Namespaces()

NOT_LOOKED = "the name was not looked up (engine.container_users); name the ids instead, UID:GID"


class _Mount(msgspec.Struct, frozen=True, rename="pascal"):
    type: str
    destination: str
    name: str = ""
    source: str = ""
    # Unknown is read-only: the kernel enforces it, so the mistake on the safe side is this one.
    rw: bool = msgspec.field(default=False, name="RW")


class Container(msgspec.Struct, frozen=True, kw_only=True, rename="pascal"):
    """What is used of an engine's description of a container. Go writes null for an empty list or map."""

    id: str
    name: str
    config: _Config
    host_config: _HostConfig
    mounts: tuple[_Mount, ...] | None
    created: str = ""
    state: _State | None = None


class _Line(msgspec.Struct, frozen=True, rename="pascal"):
    names: tuple[str, ...]
    state: str


class Volume(msgspec.Struct, frozen=True, kw_only=True, rename="pascal"):
    """What is used of an engine's description of a volume. `created_at` is opaque text, "" when it means nothing."""

    name: str
    driver: str
    mountpoint: str = ""
    created_at: str | None = None
    labels: dict[str, str] | None = None
    options: dict[str, str] | None = None
    anonymous: bool = False


def read_container(raw: object) -> Container | None:
    """The container that `raw`, the engine's answer to an inspect, describes. None when it is of no use."""
    try:
        container = msgspec.convert(raw, Container)
    except (msgspec.MsgspecError, ValueError, RecursionError):
        return None
    return container if key_part(container.id) else None


def as_listed(container: Container, line: object) -> Container | None:
    """`container` with the name and the state that its line in the engine's list gives it.

    All else that is used of a container stays the same for its life. None when the line does not tell.
    """
    try:
        told = msgspec.convert(line, _Line)
    except (msgspec.MsgspecError, ValueError, RecursionError):
        return None
    # Beside its own name stand those that others link to it by, "/other/alias" (docker run --link).
    names = [name for name in told.names if name.rfind("/") == 0]
    if len(names) != 1:
        return None
    return msgspec.structs.replace(container, name=names[0], state=_State(told.state))


def read_volume(raw: object) -> Volume | None:
    """The volume that `raw` describes. None when it is of no use."""
    try:
        return msgspec.convert(raw, Volume)
    except (msgspec.MsgspecError, ValueError, RecursionError):
        return None


def instances(containers: Sequence[object], volumes: Mapping[str, object]) -> tuple[InstanceInfo, ...]:
    """The instances behind `containers` (answers to inspect), in the order of their keys.

    `volumes` maps a volume's name to its description. One instance per container of the expected form: the result is
    shorter by the number of those that are not.
    """
    readable = [container for raw in containers if (container := read_container(raw)) is not None]
    described = {name: volume for name, raw in volumes.items() if (volume := read_volume(raw)) is not None}
    return build(readable, described)


def build(
    containers: Iterable[Container],
    volumes: Mapping[str, Volume],
    users: Mapping[str, IdPair | str] = MappingProxyType({}),
    namespaces: Namespaces = SAME_IDS,
) -> tuple[InstanceInfo, ...]:
    """As `instances`, from what was read already.

    `users` are the configured users of containers, by id, that had to be looked up in them, or why they are not known.
    """
    taken: dict[InstanceKey, InstanceInfo] = {}
    # The oldest first: a container that comes later never takes a key, and with it a login, from one that has it.
    for container in sorted(containers, key=_age):
        candidates = list(itertools.islice(_keys(container), 3))
        key = next(key for key in itertools.chain(candidates, _keys(container)) if key not in taken)
        status = container.state.status if container.state else ""
        taken[key] = InstanceInfo(
            key=key,
            runtime_id=printable(container.id),
            runtime_name=_name(container),
            state=_STATES.get(status, InstanceState.UNKNOWN),
            user=encodable(container.config.user)[:TEXT_MAX],
            image=printable(container.config.image)[:TEXT_MAX],
            access_label=_access_label(container.config.labels or {}),
            # So is the one that Compose makes beside the one it is to replace, which has the key until it is gone.
            provisional=key != candidates[0] or _one_off(container.config.labels or {}),
            volumes=_volumes(container, volumes),
            **_owner(container, users, namespaces),
        )
    return tuple(taken[key] for key in sorted(taken))


def _owner(container: Container, users: Mapping[str, IdPair | str], namespaces: Namespaces) -> dict[str, Any]:
    """What InstanceInfo says of a container's user."""
    # Docker's "host" is the engine's own namespace whatever the engine does else; Podman has modes of its own.
    mode = container.host_config.userns_mode
    if mode not in ("", "host"):
        namespaces = Namespaces(problem=f"it has a user namespace of its own ({printable(mode)[:TEXT_MAX]})")
    elif mode == "host":
        namespaces = Namespaces(problem=namespaces.problem)
    if namespaces.problem:
        return {"ids_problem": namespaces.problem}
    found = numeric(container.config.user) or users.get(container.id, NOT_LOOKED)
    maps = {"uid_map": namespaces.uid_map, "gid_map": namespaces.gid_map}
    if isinstance(found, str):
        return {"owner": None, "owner_problem": found, **maps}
    return {"owner": found, **maps}


def _access_label(labels: Mapping[str, str]) -> str:
    """What a container asks for. One that is too long asks for nothing: the rest of it might say ":ro"."""
    label = printable(labels.get(ACCESS_LABEL, ""))
    return label if len(label) <= ACCESS_LABEL_MAX else ""


def _name(container: Container) -> str:
    return printable(container.name.removeprefix("/"))


def _keys(container: Container) -> Iterator[InstanceKey]:
    """The keys a container may have, the preferred one first. Endless."""
    labels = container.config.labels or {}
    environment, service = key_part(labels.get(PROJECT, "")), key_part(labels.get(SERVICE, ""))
    number = _number(labels.get(NUMBER, "1"))
    # `docker compose run` makes throw-away containers with the labels of the service they are run for.
    if environment and service and number is not None and not _one_off(labels):
        # A project may be called as we call what is in none.
        project = environment if environment != DEFAULT_ENVIRONMENT else COMPOSE_DEFAULT
        yield InstanceKey(project, service, number)
    short_id = key_part(container.id)[:12]
    name = key_part(container.name.removeprefix("/")) or short_id
    yield InstanceKey(DEFAULT_ENVIRONMENT, name, 1)
    for number in itertools.count(1):
        yield InstanceKey(DEFAULT_ENVIRONMENT, f"{name}-{short_id}", number)


def _number(text: str) -> int | None:
    return int(text) if re.fullmatch(r"[1-9][0-9]{0,8}", text) else None


def _one_off(labels: Mapping[str, str]) -> bool:
    return labels.get(ONE_OFF, "").lower() == "true"


_TIME = re.compile(r"([0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9:]{8})(?:\.([0-9]{1,9}))?(Z|[+-][0-9]{2}:[0-9]{2})")


def _age(container: Container) -> tuple[float, int, str]:
    """Sorts by creation, the oldest first; by id what was created at the same moment or tells no time."""
    # As text it would not sort: Go's RFC3339Nano cuts trailing zeros.
    match = _TIME.fullmatch(container.created)
    if not match:
        return math.inf, 0, container.id
    try:
        seconds = datetime.fromisoformat(match[1] + match[3]).timestamp()
    except (ValueError, OverflowError):
        return math.inf, 0, container.id
    return seconds, int((match[2] or "").ljust(9, "0")), container.id


def _volumes(container: Container, volumes: Mapping[str, Volume]) -> tuple[VolumeInfo, ...]:
    subpaths = {
        _clean(request.target): request.volume_options.subpath
        for request in container.host_config.mounts or ()
        if request.volume_options and request.volume_options.subpath
    }
    found: dict[str, VolumeInfo] = {}
    own = _own_targets(container) if container.host_config.volumes_from else None
    for mount in container.mounts or ():
        target = _clean(mount.destination)
        volume = _volume(mount, volumes, subpaths.get(target, ""))
        if own is not None and mount.type == "volume" and target not in own:
            # The engine takes the other's subpath over and does not tell it here (moby, daemon/volumes.go,
            # registerMountPoints). The other may be gone.
            volume = _refused(volume, "it comes from another container (--volumes-from), perhaps only a part of it")
        if found.setdefault(volume.path, volume) != volume:
            found[volume.path] = _refused(volume, "the engine reports two different mounts at this path")
    # `docker run --tmpfs` is not among the mounts, `--mount type=tmpfs` is.
    for path in container.host_config.tmpfs or ():
        tmpfs = _volume(_Mount("tmpfs", path, rw=True), volumes)
        found.setdefault(tmpfs.path, tmpfs)
    return tuple(found[path] for path in sorted(found))


def _own_targets(container: Container) -> set[str]:
    """Where the container has mounts by its own description, not by another container's."""
    host = container.host_config
    targets = [request.target for request in host.mounts or ()]
    # "source:target[:options]", or "target" alone.
    targets += [text.split(":")[1] if ":" in text else text for text in host.binds or ()]
    return {_clean(target) for target in [*targets, *(container.config.volumes or ())]}


def _clean(path: str) -> str:
    """`path` as the engine cleans a target (Go's filepath.Clean); POSIX would keep two leading slashes."""
    return "/" + posixpath.normpath(path).lstrip("/")


def _volume(mount: _Mount, volumes: Mapping[str, Volume], subpath: str = "") -> VolumeInfo:
    info = _by_type(mount, volumes, subpath)
    if info.path.count("/") > DEPTH_MAX:
        return _refused(info, f"the path is too deep: {DEPTH_MAX} directories at most")
    if mount.destination == "/":
        return _refused(info, "a mount at / cannot be shared")
    if not valid_volume_path(mount.destination):
        return _refused(info, "the path is not one a session could show")
    return info


def _by_type(mount: _Mount, volumes: Mapping[str, Volume], subpath: str) -> VolumeInfo:
    path, read_only = encodable(mount.destination), not mount.rw
    if mount.type == "volume":
        return _named(mount, volumes.get(mount.name), path, subpath)
    if mount.type == "bind":
        # Whether it lies beneath one of host.bind_prefixes, and is a directory, the privileged half finds out.
        refusal, source = None, encodable(mount.source)
        if posixpath.basename(mount.source) in ENGINE_SOCKETS:
            refusal = "the engine's own socket gives root on the host and is never shared"
        elif not valid_volume_path(mount.source):
            refusal = "the engine names no usable directory for this mount"
        return VolumeInfo(path=path, kind=VolumeKind.BIND, source=source, read_only=read_only, refusal=refusal)
    if mount.type == "tmpfs":
        refusal = "a tmpfs has no contents on the host"
        return VolumeInfo(path=path, kind=VolumeKind.TMPFS, read_only=read_only, refusal=refusal)
    refusal = f"mounts of type {printable(mount.type)!r} are not supported"
    return VolumeInfo(path=path, kind=VolumeKind.OTHER, read_only=read_only, refusal=refusal)


def _named(mount: _Mount, volume: Volume | None, path: str, subpath: str) -> VolumeInfo:
    """A mount of a volume, or of `subpath` in it. `volume` is None when the engine does not describe it."""
    if volume is None:
        return VolumeInfo(
            path=path,
            kind=VolumeKind.VOLUME,
            name=printable(mount.name),
            read_only=not mount.rw,
            refusal="the engine does not know this volume, or not any more",
        )
    name = printable(volume.name)
    anonymous = _anonymous(volume)
    if anonymous:
        # The whole name: a grant binds to it, see VolumeInfo.identity.
        name = f"{ANONYMOUS_PREFIX}{name}"
    info = VolumeInfo(
        path=path,
        kind=VolumeKind.VOLUME,
        name=name,
        driver=printable(volume.driver),
        created=printable(volume.created_at or ""),
        source=encodable(f"{volume.mountpoint}/{subpath}" if subpath else volume.mountpoint),
        read_only=not mount.rw,
        anonymous=anonymous,
    )
    if printable(volume.name) != volume.name:
        # Engines do not allow it. What a grant binds to must not be the same for two volumes.
        return _refused(info, "the volume's name contains invisible characters")
    if volume.driver != "local":
        return _refused(
            info,
            f"volumes of the driver {info.driver!r} are not supported yet: "
            "only the driver 'local' keeps a volume in a directory of the host",
        )
    # Names of options only: "o" may hold the password of a network share.
    options = [option for option in ON_DEMAND_OPTIONS if (volume.options or {}).get(option)]
    if options:
        return _refused(
            info,
            f"volumes with the options {', '.join(options)} are not supported yet: "
            "this engine mounts them only while a container runs, and keeps what it mounts to itself",
        )
    if subpath and not valid_volume_path(f"/{subpath}"):
        return _refused(info, "the subpath is not one a session could show")
    if not valid_volume_path(volume.mountpoint):
        return _refused(info, "the engine names no usable directory for this volume")
    return info


def _anonymous(volume: Volume) -> bool:
    if volume.anonymous or ANONYMOUS in (volume.labels or {}):
        return True
    return re.fullmatch(r"[0-9a-f]{64}", volume.name) is not None


def _refused(info: VolumeInfo, refusal: str) -> VolumeInfo:
    """`info` with `refusal`, unless it has one; a volume that may not be shared names no directory to mount."""
    source = info.source if info.kind is VolumeKind.BIND else None
    return msgspec.structs.replace(info, source=source, refusal=info.refusal or refusal)
