"""The core on a real registry, with hostd faked, and everything that asks it."""

from __future__ import annotations

import hashlib
import os
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import trio

from hatchway.access.service import Gate
from hatchway.admin import requests
from hatchway.admin.admission import Admission
from hatchway.admin.callers import Caller, Requests
from hatchway.admin.core import Core
from hatchway.admin.deliveries import Deliveries
from hatchway.admin.granting import Granting
from hatchway.admin.hostlink import HostLink
from hatchway.admin.inventory import Inventory
from hatchway.admin.measuring import Measuring
from hatchway.admin.reconcile import Reconciler
from hatchway.admin.volume_keys import VolumeKeys
from hatchway.config import Access, Config, Credentials, Login, Paths, Web
from hatchway.credentials.sealing import SealingKey
from hatchway.errors import ConflictError, HatchwayError, HostError, RefusedError
from hatchway.host import policy
from hatchway.model import InstanceInfo, InstanceKey, InstanceState, Snapshot, VolumeInfo, VolumeKind
from hatchway.registry.store import Registry
from hatchway.wire.host import (
    Births,
    Deliver,
    Folder,
    FolderState,
    HostStatus,
    KeyFiles,
    Leftover,
    LeftoverKind,
    Leftovers,
    SessionActivity,
    SharedVolume,
    Sizes,
    UserRecord,
    View,
    VolumeSize,
    Withdraw,
    Withdrawal,
)
from hatchway.wire.service import Peer

ROOT = Caller.of(Peer(1, 0, 0))
WEB = InstanceKey("shop", "web", 1)

WITHOUT_PAGES = Web()


class FakeHost(HostLink):
    """A hostd that does at once what it is told and remembers it."""

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        self.problem = None
        self.published: tuple[UserRecord, ...] = ()
        self.applied: list[tuple[str, tuple[View, ...]]] = []
        self.sessions: dict[str, tuple[str, tuple[View, ...], int]] = {}
        self.failure: HostError | None = None
        self.born: dict[str, str] = {}
        self.conflicts: dict[str, str] = {}
        self.refused: set[str] = set()
        self.hung: set[str] = set()
        self.opening: trio.Event | None = None
        self.measured: list[tuple[SharedVolume, ...]] = []
        self.sizes: dict[str, VolumeSize] = {}
        self.unmeasurable: HatchwayError | None = None
        # What is where folders should be, by source and folder; else they are there.
        self.folder_states: dict[tuple[str, str], FolderState] = {}
        self.unlooked: HatchwayError | None = None
        self.ended: list[str] = []
        self.unendable: HostError | None = None
        self.active: list[SessionActivity] = []
        self.key_files: dict[str, KeyFiles | HostError] = {}
        self.reading: trio.Event | None = None
        self.unwithdrawable: HatchwayError | None = None
        # What lies in which volume's directory, as id_container.
        self.keys_there: dict[tuple[str, str], bytes] = {}
        self.asked_to_deliver: list[Deliver] = []
        # A key is put there, but nobody hears of it.
        self.unanswered: HostError | None = None
        self.read: list[tuple[str, str, bytes]] = []

    def _fail(self) -> None:
        if self.failure is not None:
            raise self.failure

    async def publish(self, users: tuple[UserRecord, ...]) -> dict[str, str]:
        self._fail()
        self.published = users
        return {login: why for login, why in self.conflicts.items() if login in {user.login for user in users}}

    async def apply(self, login: str, views: tuple[View, ...]) -> None:
        self._fail()
        if login in self.refused:
            raise RefusedError(f"{login} may not")
        self.applied.append((login, views))

    async def open_session(self, session: str, user: UserRecord, views: tuple[View, ...], helper_pid: int) -> None:
        self._fail()
        if self.opening is not None:
            await self.opening.wait()
        self.sessions[session] = (user.login, views, helper_pid)

    async def end_sessions(self, login: str, sessions: tuple[str, ...]) -> None:
        self._fail()
        if self.unendable is not None:
            raise self.unendable
        assert all(self.sessions[one][0] == login for one in sessions)
        self.ended += sessions

    async def activity(self, login: str | None = None) -> tuple[SessionActivity, ...]:
        self._fail()
        return tuple(self.active)

    async def read_keys(self, source: str, birth: str, token: bytes = b"") -> KeyFiles:
        self._fail()
        self.read.append((source, birth, token))
        if self.reading is not None:
            await self.reading.wait()
        found = self.key_files[source]
        if isinstance(found, HostError):
            raise found
        return found

    def _check_birth(self, volume: SharedVolume) -> None:
        if self.born.get(volume.source, "inode:2:1.0") != volume.birth:
            raise ConflictError(f"{volume.source} is another directory than the one access was given to")

    async def deliver(self, request: Deliver) -> bool:
        self._fail()
        self.asked_to_deliver.append(request)
        self._check_birth(request.volume)
        policy.check_within(request.directory)
        policy.check_hashes(request.replaces)
        place = (request.volume.source, request.directory)
        there = self.keys_there.get(place)
        if there is not None and hashlib.sha256(there).digest() not in request.replaces:
            raise ConflictError("there is another file id_container")
        self.keys_there[place] = request.key.value
        if self.unanswered is not None:
            raise self.unanswered
        return there != request.key.value

    async def withdraw(self, request: Withdraw) -> Withdrawal:
        self._fail()
        policy.check_within(request.directory)
        policy.check_hashes(request.hashes)
        place = (request.volume.source, request.directory)
        if self.unwithdrawable is not None:
            raise self.unwithdrawable
        self._check_birth(request.volume)
        there = self.keys_there.get(place)
        if there is None:
            return Withdrawal.ABSENT
        if hashlib.sha256(there).digest() not in request.hashes:
            return Withdrawal.FOREIGN
        del self.keys_there[place]
        return Withdrawal.REMOVED

    async def births(self, sources: tuple[str, ...]) -> Births:
        self._fail()
        known = {source: self.born.get(source, "inode:2:1.0") for source in sources if source not in self.hung}
        unknown = {source: f"{source} does not answer" for source in sources if source in self.hung}
        refused = {source: f"there is no directory {source}" for source, birth in known.items() if not birth}
        return Births({source: birth for source, birth in known.items() if birth}, refused, unknown)

    async def folders(self, asked: tuple[Folder, ...]) -> tuple[FolderState, ...]:
        self._fail()
        if self.unlooked is not None:
            raise self.unlooked
        for one in asked:
            policy.check_birth(one.birth)
            policy.check_within(one.folder)
        return tuple(self.folder_states.get((one.source, one.folder), FolderState.THERE) for one in asked)

    async def measure(self, volumes: tuple[SharedVolume, ...]) -> Sizes:
        self._fail()
        if self.unmeasurable is not None:
            raise self.unmeasurable
        self.measured.append(volumes)
        return Sizes(tuple(self.sizes.get(one.source, VolumeSize(limits=one.limits)) for one in volumes))

    async def status(self) -> HostStatus:
        self._fail()
        return HostStatus((), {session: login for session, (login, _, _) in self.sessions.items()})

    async def leftovers(self) -> Leftovers:
        self._fail()
        return Leftovers((Leftover(kind=LeftoverKind.WORKER, pid=7, uid=8),), 9)


@dataclass
class Stage:
    """The core with everything around it."""

    core: Core
    host: FakeHost
    inventory: Inventory
    gate_path: str
    requests: Requests
    admission: Admission
    deliveries: Deliveries
    reconciler: Reconciler
    measuring: Measuring

    @property
    def table(self) -> dict[type, Any]:
        return {kind: row.handler for kind, row in self.requests.items()}

    async def do(self, request: object) -> Any:
        """What the admin socket would answer to root."""
        return await self.table[type(request)](request, ROOT)

    async def ask(self, op: str, **fields: str | bytes) -> tuple[bool, str]:
        """What a helper would hear."""
        parts = [f"op={op}".encode()]
        for name, value in fields.items():
            parts.append(name.encode() + b"=" + (value.encode() if isinstance(value, str) else value))
        stream = await trio.open_unix_socket(self.gate_path)
        async with stream:
            await stream.send_all(b"\0".join(parts))
            await stream.send_eof()
            data = b""
            while chunk := await stream.receive_some(65536):
                data += chunk
        first, _, rest = data.decode().partition("\n")
        assert first in ("ok", "no")
        return first == "ok", rest


def volume(path: str, *, refusal: str | None = None) -> VolumeInfo:
    """A named volume at `path`."""
    name = path.strip("/").replace("/", "_")
    return VolumeInfo(
        path=path,
        kind=VolumeKind.VOLUME,
        name=name,
        driver="local",
        source=f"/var/lib/docker/volumes/{name}/_data",
        refusal=refusal,
    )


def snapshot(*volumes: VolumeInfo, key: InstanceKey = WEB, label: str = "") -> Snapshot:
    """A snapshot of one container. `label` is what it asks for, see model.ACCESS_LABEL."""
    info = InstanceInfo(
        key=key,
        runtime_id="0123",
        runtime_name="shop-web-1",
        state=InstanceState.RUNNING,
        access_label=label,
        volumes=volumes,
    )
    return Snapshot(source="docker", taken_at=1.0, instances=(info,))


@asynccontextmanager
async def staged(
    directory: Path,
    password: str = "raw",
    *,
    labels: bool = False,
    lock_after: int = 0,
    expiry_known: bool = True,
    web: Web = WITHOUT_PAGES,
) -> AsyncIterator[Stage]:
    """A stage in `directory` whose catalog has shown one container with two volumes and a tmpfs."""
    config = Config(
        paths=Paths(state_dir=str(directory), run_dir=str(directory)),
        credentials=Credentials(password=password),  # type: ignore[arg-type] # one of its two words
        access=Access(labels=labels),
        login=Login(lock_after=lock_after),
        web=web,
    )
    registry = Registry.open(config.registry_path)
    try:
        host, inventory = FakeHost(config), Inventory(lambda: 1000.0)
        core = Core(config, registry, SealingKey.load_or_create(config.sealing_key_path), inventory, host)
        await core.feed(snapshot(volume("/data"), volume("/logs"), volume("/tmp/x", refusal="it is a tmpfs")))
        volume_keys = VolumeKeys(core)
        admission = Admission(core, volume_keys)
        gate = Gate(core, admission, os.getuid(), expiry_known=expiry_known)
        if os.getuid() != 0:
            pytest.skip("the gate answers root's helpers only")
        sock = trio.socket.socket(socket.AF_UNIX)
        await sock.bind(config.auth_socket)
        sock.listen()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(gate.serve, trio.SocketListener(sock))
            granting = Granting(core)
            reconciler = Reconciler(core, granting)
            measuring = Measuring(core)
            deliveries = Deliveries(core)
            table = requests.table(core, granting, reconciler, measuring, admission, volume_keys, deliveries)
            yield Stage(core, host, inventory, config.auth_socket, table, admission, deliveries, reconciler, measuring)
            nursery.cancel_scope.cancel()
    finally:
        registry.close()
