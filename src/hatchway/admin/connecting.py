"""What a client needs to connect: the admin socket's requests for it."""

from __future__ import annotations

import socket

import trio

from hatchway.admin import hindering
from hatchway.admin.callers import Caller, Requests
from hatchway.admin.conditions import ConditionRequests
from hatchway.admin.core import Core
from hatchway.admin.finding import Finding
from hatchway.admin.measuring import Measuring
from hatchway.admin.secrets import of_kind, password_kind, unsealed
from hatchway.admin.statuses import Statuses
from hatchway.admin.volume_keys import VolumeKeys
from hatchway.config import Config
from hatchway.credentials import passwords
from hatchway.credentials.secret import DamagedSecretError
from hatchway.errors import HostError
from hatchway.model import Login, valid_host
from hatchway.registry.records import CredentialKind, PersonRecord
from hatchway.sshd import dropin, hostkeys
from hatchway.wire.admin import ConnectionInfo, HostKey, Server, Show, ShowServer
from hatchway.wire.entry import Hindrance
from hatchway.wire.service import Request

ROOT = (0,)


class Connecting:
    """The requests, on one Core."""

    def __init__(
        self,
        core: Core,
        finding: Finding,
        measuring: Measuring,
        statuses: Statuses,
        conditions: ConditionRequests,
        volume_keys: VolumeKeys,
    ) -> None:
        self._core = core
        self._finding = finding
        self._measuring = measuring
        self._statuses = statuses
        self._conditions = conditions
        self._volume_keys = volume_keys

    def table(self) -> Requests:
        """Their part of the admin socket's request table."""
        return {Show: Request(ROOT, self._show), ShowServer: Request(ROOT, self._server)}

    async def _told(self) -> Server:
        """Where clients are told to connect to. Raises HostError."""
        config = self._core.config
        return Server(
            host=config.connect.host or _own_name(),
            port=config.connect.port or config.sshd.port,
            host_keys=await trio.to_thread.run_sync(_host_keys, config),
        )

    async def _server(self, _request: ShowServer, _caller: Caller) -> Server:
        return await self._told()

    async def _show(self, request: Show, _caller: Caller) -> ConnectionInfo:
        record = await self._finding.holder(request.instance)
        sessions, sizes = await self._statuses.sessions(), await self._measuring.sizes()
        instance = person = None
        if isinstance(record, PersonRecord):
            person = self._statuses.of_person(record, sessions, sizes, await self._statuses.folders([record]))
            of_volumes = hindering.of_person(person)
        else:
            instance = self._statuses.of(record, self._core.inventory.get(record.key), sessions, sizes)
            of_volumes = hindering.of_instance(instance)
        known = await self._core.db(lambda registry: registry.credentials(record.login))
        key, password = of_kind(known, CredentialKind.KEY), of_kind(known, CredentialKind.PASSWORD)
        secret = unsealed(self._core, record.login, password) if request.secrets else None
        in_volumes = await self._volume_keys.shown(record)
        conditions = self._conditions.status(record)
        problems = [*conditions.hindrances, *of_volumes, *self._of_host(record.login)]
        if in_volumes.problems:
            text = "not all that is in its volumes counts as a key"
            problems.append(Hindrance(text, f"hatchway key list {record.login}"))
        hashed, rehash = "", False
        if password is not None:
            try:
                hashed, rehash = passwords.kind(password.public), passwords.needs_rehash(password.public)
            except DamagedSecretError as exc:
                problems.append(Hindrance(str(exc), f"hatchway password reset {record.login}"))
        server = await self._told()
        return ConnectionInfo(
            instance=instance,
            person=person,
            host=server.host,
            port=server.port,
            login=record.login,
            start_directory=self._core.user_record(record).home,
            password_kind=password_kind(password),
            password=None if secret is None else secret.reveal(),
            key_fingerprint=None if key is None else key.fingerprint,
            key_public=None if key is None else key.public,
            host_keys=server.host_keys,
            conditions=conditions,
            keys=sum(one.kind is CredentialKind.ADDED_KEY for one in known),
            volume_keys=len(in_volumes.keys) if record.conditions.volume_keys else None,
            problems=tuple(problems),
            password_hash=hashed,
            password_rehash=rehash,
        )

    def _of_host(self, login: Login) -> list[Hindrance]:
        found = []
        if (unpublished := self._core.unpublished.get(login)) is not None:
            found.append(Hindrance(f"nobody can enter as {login}: {unpublished}"))
        if self._core.host.problem is not None:
            found.append(Hindrance(f"nobody can enter now: {self._core.host.problem}", "hatchway doctor"))
        return found


def _host_keys(config: Config) -> tuple[HostKey, ...]:
    """Those of the sshd that serves our port. Raises HostError."""
    theirs = dropin.host_key_files(config)
    return hostkeys.read(config.sshd.host_key_dir) if theirs is None else hostkeys.of(theirs)


def _own_name() -> str:
    """This host's name. Raises HostError for one that must stand in no file of a client."""
    name = socket.gethostname()
    if not valid_host(name):
        raise HostError(f"this host's own name, {name!r}, is none that clients can be told: set connect.host")
    return name
