"""Follows a container engine: lists everything once, then looks again only at what the engine's events name.

Events are hints, never data: what is published always comes from an inspect or a list made after the event. A list
every minute finds what no event told. Knows no SDK: see `docker_engine`. One task, besides the one that hears events.
"""

from __future__ import annotations

import re
import time
from collections.abc import Awaitable, Callable
from typing import NoReturn

import msgspec
import trio

from hatchway import log
from hatchway.catalog.container_users import FILE_MAX, UnknownUserError, numeric, remapped, resolve
from hatchway.catalog.docker_engine import About, AnswerError, DockerEngine, Engine, Event
from hatchway.catalog.docker_instances import (
    SAME_IDS,
    Container,
    Namespaces,
    Volume,
    as_listed,
    build,
    instances,
    read_container,
    read_volume,
)
from hatchway.catalog.feeder import Sink
from hatchway.config import Engine as EngineConfig
from hatchway.errors import EngineError
from hatchway.model import IdPair, InstanceInfo, Snapshot

__all__ = ["DockerSource", "instances"]

SOURCE = "docker"

SETTLE_S = 0.2
"""Events that follow each other this closely are answered together …"""
SETTLE_MAX_S = 1.0
"""… but none waits longer than this."""
RESYNC_EVERY_S = 60.0
PROBE_EVERY_S = 3.0
USERS_SLICE_S = 0.5
"""How long users of containers are looked up at a time, so that nothing that happens meanwhile waits."""

RETRY_STUCK_S = 600.0
"""How long a container that does not answer is left alone: each attempt may cost the whole timeout."""
BACKOFF_MIN_S = 0.5
BACKOFF_MAX_S = 5.0
ABSENT_EVERY_S = 1.0
"""How soon an engine that cannot be reached is tried again: that costs next to nothing, and one that comes up shall be
seen within 2 s."""
MANY = 100
"""More changed containers than this are met by a list of all, which takes as long as so many inspects or less."""


_ID = re.compile(r"[0-9a-f]{12,64}")
"""What may be asked for by id: it becomes a part of a request's path."""


class _Wanted:
    """What events say must be looked at again."""

    def __init__(self) -> None:
        self.containers: set[str] = set()
        self.volumes = False
        self.everything = False
        self.woken = trio.Event()
        self._first = self._last = 0.0

    def note(self, event: Event) -> None:
        """Something happened."""
        if event.kind == "container" and _ID.fullmatch(event.id) and len(self.containers) < MANY:
            self.containers.add(event.id)
        elif event.kind == "volume":
            self.volumes = True
        else:
            self.everything = True
        self._last = trio.current_time()
        if not self.woken.is_set():
            self._first = self._last
            self.woken.set()

    async def settle(self) -> None:
        """Wait until events pause for SETTLE_S, at most SETTLE_MAX_S after the first."""
        while (until := min(self._last + SETTLE_S, self._first + SETTLE_MAX_S)) > trio.current_time():  # noqa: ASYNC110 - events move it
            await trio.sleep_until(until)

    def take(self) -> tuple[set[str], bool, bool]:
        """Containers, whether volumes, whether everything; forgotten here."""
        taken = self.containers, self.volumes, self.everything
        self.containers, self.volumes, self.everything = set(), False, False
        self.woken = trio.Event()
        return taken


class DockerSource:
    """The source "docker". `connect` reaches the engine or raises EngineError; `now` gives Unix time in seconds."""

    def __init__(
        self,
        config: EngineConfig,
        sink: Sink,
        *,
        now: Callable[[], float] = time.time,
        connect: Callable[[str, int], Awaitable[Engine]] = DockerEngine.connect,
    ) -> None:
        self._config = config
        self._sink = sink
        self._now = now
        self._connect = connect
        self._logger = log.get(source=SOURCE)
        self._containers: dict[str, Container | None] = {}
        """By id; None for one whose description is of no use."""
        self._stuck: dict[str, float] = {}
        """By id, when to try again."""
        self._users: dict[str, IdPair | str] = {}
        """By id, of those that had to be looked up: who the configured user is, or why that is not known."""
        self._unanswered: dict[str, float] = {}
        """By id, of those that could not be looked up, when to try again."""
        self._namespaces = SAME_IDS
        self._nameless = 0
        self._odd_volumes = 0
        self._volumes: dict[str, Volume] = {}
        self._data_root: str | None = None
        self._creation_times = True
        self._options_in_files = False
        self._published: Snapshot | None = None
        self._instances: tuple[InstanceInfo, ...] = ()
        self._taken_at = 0.0

    async def follow(self) -> NoReturn:
        """Follow the engine, through its absences, until cancelled."""
        backoff_s = BACKOFF_MIN_S
        while True:
            start = trio.current_time()
            longest_s = ABSENT_EVERY_S
            try:
                engine = await self._connect(self._config.url, self._config.timeout_s)
                longest_s = BACKOFF_MAX_S
                await self._session(engine)
            except EngineError as exc:
                problem = str(exc)
            except Exception:
                # A description nobody thought of must not take the other sources along.
                self._logger.exception("engine not followed")
                problem = f"the answers of the engine at {self._config.url} made a fault here; the log has the details"
            if self._published is None or self._published.problem != problem:
                self._logger.warning("engine lost", error=problem)
            self._publish(problem)
            # An engine that is lost time and again is not asked for everything more than half of the time.
            if trio.current_time() - start > backoff_s:
                backoff_s = BACKOFF_MIN_S
            await trio.sleep(min(backoff_s, longest_s))
            backoff_s = min(backoff_s * 2, longest_s)

    async def _session(self, engine: Engine) -> NoReturn:
        """From one connection, which it closes, to its loss, which raises EngineError."""
        lost: list[EngineError] = []
        try:
            async with trio.open_nursery() as nursery:
                wanted, opened = _Wanted(), trio.Event()

                async def listen() -> None:
                    try:
                        await engine.events(wanted.note, opened.set)
                    except EngineError as exc:
                        lost.append(exc)
                    nursery.cancel_scope.cancel()

                nursery.start_soon(listen)
                try:
                    # Events first: what happens while the list is made must not be missed.
                    await opened.wait()
                    await self._keep_up(engine, wanted)
                except EngineError as exc:
                    lost.append(exc)
                nursery.cancel_scope.cancel()
        finally:
            engine.close()
        raise lost[0]

    async def _keep_up(self, engine: Engine, wanted: _Wanted) -> NoReturn:
        about = await engine.about()
        self._data_root = about.data_root
        self._creation_times, self._options_in_files = about.creation_times, about.options_in_files
        self._namespaces = _namespaces(about)
        self._stuck.clear()
        await self._list(engine, again=True)
        self._answered()
        self._logger.info("engine followed", containers=len(self._containers), volumes=len(self._volumes))
        next_list = trio.current_time() + RESYNC_EVERY_S
        while True:
            unknown = self._unknown_users()
            with trio.move_on_after(0 if unknown else PROBE_EVERY_S) as quiet:
                await wanted.woken.wait()
            if trio.current_time() >= next_list:
                await self._list(engine)
                next_list = trio.current_time() + RESYNC_EVERY_S
            elif quiet.cancelled_caught and unknown:
                await self._look_up_users(engine, unknown, wanted)
            elif quiet.cancelled_caught:
                await engine.probe()
            if wanted.woken.is_set():
                await wanted.settle()
                containers, volumes, everything = wanted.take()
                for ident in containers:
                    self._stuck.pop(ident, None)
                    self._unanswered.pop(ident, None)
                    await self._inspect(engine, ident)
                if everything:
                    await self._list(engine)
                elif volumes or self._unknown_volumes(containers):
                    await self._list_volumes(engine)
            self._answered()

    async def _list(self, engine: Engine, *, again: bool = False) -> None:
        """List all containers, and inspect those that are new; `again`: all. Raises EngineError."""
        listed: dict[str, object] = {}
        self._nameless = 0
        for line in await engine.containers():
            ident = line.get("Id") if isinstance(line, dict) else None
            if isinstance(ident, str) and _ID.fullmatch(ident):
                listed[ident] = line
            else:
                self._nameless += 1
        # Of a list that is partly of no use it cannot be said what is not on it.
        for ident in self._containers.keys() - listed.keys() if not self._nameless else ():
            self._forget(ident)
        for ident, line in listed.items():
            known = None if again or ident in self._stuck else self._containers.get(ident)
            # An inspect of each would take several seconds when a thousand were renamed.
            if known is not None and (now := as_listed(known, line)) is not None:
                self._containers[ident] = now
            else:
                await self._inspect(engine, ident)
        await self._list_volumes(engine)

    async def _list_volumes(self, engine: Engine) -> None:
        listed = await engine.volumes()
        found = [volume for raw in listed if (volume := read_volume(raw)) is not None]
        if not self._creation_times:
            found = [msgspec.structs.replace(volume, created_at=None) for volume in found]
        if self._options_in_files:
            # None of our business then: hostd takes nobody's word for them, and they may hold a password.
            found = [msgspec.structs.replace(volume, options=None) for volume in found]
        self._odd_volumes = len(listed) - len(found)
        kept = self._volumes if self._odd_volumes else {}
        self._volumes = kept | {volume.name: volume for volume in found}

    def _unknown_volumes(self, containers: set[str]) -> bool:
        names = {
            mount.name
            for ident in containers
            if (container := self._containers.get(ident)) is not None
            for mount in container.mounts or ()
            if mount.type == "volume"
        }
        return not names <= self._volumes.keys()

    async def _inspect(self, engine: Engine, ident: str) -> None:
        start = trio.current_time()
        if self._stuck.get(ident, start) > start:
            return
        try:
            raw = await engine.inspect(ident)
        except AnswerError as exc:
            # A container whose lock is held, as when its runtime hangs, answers no inspect; the others do.
            await engine.probe()
            self._logger.warning("container not read", container=ident, error=str(exc))
            waited = trio.current_time() > start + 1
            self._stuck[ident] = trio.current_time() + (RETRY_STUCK_S if waited else 0)
            self._containers.setdefault(ident, None)
        else:
            self._stuck.pop(ident, None)
            if raw is None:
                self._forget(ident)
            elif (container := read_container(raw)) is not None:
                self._containers[ident] = container
            elif self._containers.setdefault(ident, None) is not None:
                # What it was is truer than that it is gone, which would end its sessions.
                self._stuck[ident] = trio.current_time()
        self._sink.alive(SOURCE)

    def _unknown_users(self) -> list[Container]:
        if not self._config.container_users:
            return []
        now = trio.current_time()
        return [
            container
            for ident, container in self._containers.items()
            if container is not None
            and ident not in self._users
            and numeric(container.config.user) is None
            and self._unanswered.get(ident, now) <= now
        ]

    async def _look_up_users(self, engine: Engine, unknown: list[Container], wanted: _Wanted) -> None:
        """Look up, in the containers, who users are that have names, until something happens.

        One container's files may take FILE_TIMEOUT_S each; it is then left alone for a while.
        """
        end = trio.current_time() + USERS_SLICE_S
        for container in unknown:
            if wanted.woken.is_set() or trio.current_time() >= end:
                return
            # Before it is asked: should the connection break at it, the next one is not to break at it at once.
            self._unanswered[container.id] = trio.current_time() + RETRY_STUCK_S
            try:
                texts = {path: await engine.file(container.id, path) for path in ("/etc/passwd", "/etc/group")}
                self._users[container.id] = resolve(container.config.user, texts.__getitem__)
            except UnknownUserError as exc:
                self._users[container.id] = str(exc)
            except AnswerError as exc:
                self._logger.warning("user not looked up", container=container.id, error=str(exc))

    def _forget(self, ident: str) -> None:
        self._containers.pop(ident, None)
        self._users.pop(ident, None)
        self._unanswered.pop(ident, None)
        self._stuck.pop(ident, None)

    def _answered(self) -> None:
        containers = filter(None, self._containers.values())
        self._instances = build(containers, self._volumes, self._users, self._namespaces)
        self._taken_at = self._now()
        self._sink.alive(SOURCE)
        self._publish(self._unread(), partly=True)

    def _unread(self) -> str | None:
        """What is wrong although the engine answers."""
        problems = []
        bad = sorted(ident for ident, container in self._containers.items() if container is None)
        if bad:
            problems.append(f"{len(bad)} containers cannot be read and are left out: {_some(bad)}")
        if self._nameless:
            problems.append(f"{self._nameless} containers in the engine's list have no usable id and are left out")
        if self._odd_volumes:
            problems.append(f"{self._odd_volumes} volumes in the engine's list cannot be read and are left out")
        stale = sorted(ident for ident in self._stuck if self._containers.get(ident) is not None)
        if stale:
            problems.append(f"{len(stale)} containers cannot be read now, shown as they were last: {_some(stale)}")
        return "; ".join(problems) or None

    def _publish(self, problem: str | None, *, partly: bool = False) -> None:
        """Publish what is known, unless that is what was published last."""
        snapshot = Snapshot(
            source=SOURCE,
            taken_at=self._taken_at,
            instances=self._instances,
            data_root=self._data_root,
            problem=problem,
            partly=partly and problem is not None,
        )
        last = self._published
        if last is None or msgspec.structs.replace(snapshot, taken_at=last.taken_at) != last:
            self._published = snapshot
            self._sink.publish(snapshot)


def _namespaces(about: About) -> Namespaces:
    """Which ids of the host those of an engine are."""
    if about.rootless:
        return Namespaces(problem="the engine runs rootless, in a user namespace of its own")
    if not about.remapped:
        return SAME_IDS
    files = ("/etc/subuid", "/etc/subgid")
    uid_map, gid_map = (remapped(about.data_root, _text(path), column) for column, path in enumerate(files))
    if not uid_map or not gid_map:
        return Namespaces(problem="the engine remaps ids (userns-remap) and its data root does not tell to which")
    return Namespaces(uid_map, gid_map)


def _text(path: str) -> str:
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            return file.read(FILE_MAX)
    except OSError:
        return ""


def _some(idents: list[str]) -> str:
    """The first few of `idents`, short."""
    more = ", …" if len(idents) > 3 else ""
    return ", ".join(ident[:12] for ident in idents[:3]) + more
