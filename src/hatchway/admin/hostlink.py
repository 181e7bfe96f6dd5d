"""The core's link to hostd: publishes logins, applies what is shared, hears of sessions that ended.

hostd may be away (restarting): what the registry says is then published and applied when it is back.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import trio

from hatchway import log
from hatchway.config import Config
from hatchway.errors import HatchwayError, HostError, NotRunningError, ProtocolError
from hatchway.wire import frames
from hatchway.wire.admin import HOST_STARTING
from hatchway.wire.frames import Failure
from hatchway.wire.host import (
    Activities,
    ApplyViews,
    AskActivity,
    AskBirths,
    AskFolders,
    AskLeftovers,
    Births,
    Deliver,
    Delivered,
    Done,
    EndSessions,
    Folder,
    Folders,
    FolderState,
    HostStatus,
    KeyFiles,
    Leftovers,
    Measure,
    OpenSession,
    Published,
    PublishUsers,
    ReadKeys,
    SessionActivity,
    SessionEnded,
    SharedVolume,
    Sizes,
    Status,
    UserRecord,
    View,
    Watch,
    Withdraw,
    Withdrawal,
    Withdrawn,
)

RESTART_S = 5.0
"""How long who needs hostd waits for it: longer than a restart of it takes."""

RETRY_S = 0.5

MEASURE_TIMEOUT_S = 10.0
"""hostd answers from memory; who lists volumes need not wait longer for their sizes."""

ACTIVITY_TIMEOUT_S = 10.0
"""hostd waits half a second for its workers."""


class HostLink:
    """Requests to hostd, each on a connection of its own, and one connection that hears of endings."""

    def __init__(self, config: Config) -> None:
        self._path = config.hostd_socket
        self.problem: str | None = HOST_STARTING
        self._reached = trio.Event()

    async def reached(self, timeout_s: float = RESTART_S) -> None:
        """Wait until hostd is reached, or for `timeout_s`: it may just be restarted. `problem` says which."""
        with trio.move_on_after(timeout_s):
            while self.problem is not None:
                await self._reached.wait()

    async def publish(self, users: tuple[UserRecord, ...]) -> dict[str, str]:
        """Make the published logins exactly these. Returns those that could not be, with why. Raises HatchwayError."""
        return (await frames.call(self._path, PublishUsers(users), Published)).problems

    async def open_session(self, session: str, user: UserRecord, views: tuple[View, ...], helper_pid: int) -> None:
        """Mount and count a session. Raises HatchwayError: then there must be no session."""
        await frames.call(self._path, OpenSession(session, user.login, user.uid, views, helper_pid), Done)

    async def apply(self, login: str, views: tuple[View, ...]) -> None:
        """Make what is mounted for `login` match `views`; with none, end its sessions. Raises HatchwayError."""
        request = ApplyViews(login, views) if views else EndSessions(login)
        await frames.call(self._path, request, Done)

    async def end_sessions(self, login: str, sessions: tuple[str, ...]) -> None:
        """End these sessions and no others, what they have open before that; when it returns they have ended.

        Those that are not open are passed over. Raises HatchwayError: then they may go on, and must be ended again.
        """
        await frames.call(self._path, EndSessions(login, sessions), Done)

    async def activity(self, login: str | None = None) -> tuple[SessionActivity, ...]:
        """What the sessions of `login`, or all, have moved and have open. Raises HatchwayError."""
        return (await frames.call(self._path, AskActivity(login), Activities, ACTIVITY_TIMEOUT_S)).sessions

    async def births(self, sources: tuple[str, ...]) -> Births:
        """Which directories stand at these paths now. Raises HatchwayError."""
        return await frames.call(self._path, AskBirths(sources), Births)

    async def folders(self, asked: tuple[Folder, ...]) -> tuple[FolderState, ...]:
        """What is where these folders should be. Raises HatchwayError."""
        states = (await frames.call(self._path, AskFolders(asked), Folders, MEASURE_TIMEOUT_S)).states
        if len(states) != len(asked):
            raise HostError(f"hostd says of {len(states)} folders what is there, not of {len(asked)}")
        return states

    async def measure(self, volumes: tuple[SharedVolume, ...]) -> Sizes:
        """Have hostd know the sizes of these volumes and no others; as it knows them now. Raises HatchwayError."""
        return await frames.call(self._path, Measure(volumes), Sizes, MEASURE_TIMEOUT_S)

    async def read_keys(self, source: str, birth: str, token: bytes = b"") -> KeyFiles:
        """Public keys in a volume whose root is somebody's .ssh, or that nothing has changed since `token`.

        Raises HatchwayError.
        """
        return await frames.call(self._path, ReadKeys(source, birth, token), KeyFiles)

    async def deliver(self, request: Deliver) -> bool:
        """Put a private key into a volume. Whether it was not there before.

        Raises HatchwayError: ConflictError when there is a file of that name that is not ours, RefusedError when the
        volume is read-only, NotFoundError when the directory is not there.
        """
        return (await frames.call(self._path, request, Delivered)).changed

    async def withdraw(self, request: Withdraw) -> Withdrawal:
        """Take it out again. Raises HatchwayError."""
        return (await frames.call(self._path, request, Withdrawn)).outcome

    async def status(self) -> HostStatus:
        """What hostd holds. Raises HatchwayError."""
        return await frames.call(self._path, Status(), HostStatus)

    async def leftovers(self) -> Leftovers:
        """What nobody uses any more. Raises HatchwayError."""
        return await frames.call(self._path, AskLeftovers(), Leftovers)

    async def follow(
        self,
        connected: Callable[[HostStatus, float], Awaitable[None]],
        ended: Callable[[str, int, int, bool], Awaitable[None]],
        ready: Callable[[], None],
    ) -> None:
        """Hear of endings for ever: of which session, and whether hostd ended it.

        `connected` is awaited each time hostd is (again) reached, with its state and when it was asked for (trio's
        clock, seconds): what began later need not be in it. After that, `problem` being None, `ready` is called.
        `ended` is awaited for each session that ends, with its id and the bytes that its client has got and sent.
        """
        logger = log.get()
        while True:
            try:
                await self._follow_once(connected, ended, ready)
                self.problem = "hostd hung up"
            except (HatchwayError, ProtocolError, trio.BrokenResourceError) as exc:
                self.problem = str(exc)
                if not isinstance(exc, NotRunningError):
                    logger.warning("link to hostd failed", error=str(exc))
            except Exception:
                self.problem = "the core failed while it spoke to hostd; the log has the details"
                logger.exception("link to hostd failed")
            await trio.sleep(RETRY_S)

    async def _follow_once(
        self,
        connected: Callable[[HostStatus, float], Awaitable[None]],
        ended: Callable[[str, int, int, bool], Awaitable[None]],
        ready: Callable[[], None],
    ) -> None:
        channel = await frames.connect(self._path)
        async with channel.stream:
            asked_at = trio.current_time()
            await channel.send(Watch())
            while (message := await channel.receive(HostStatus | SessionEnded | Failure)) is not None:
                if isinstance(message, Failure):
                    raise message.error()
                if isinstance(message, HostStatus):
                    await connected(message, asked_at)
                    self.problem = None
                    self._reached.set()
                    self._reached = trio.Event()
                    ready()
                else:
                    await ended(message.session, message.read, message.written, message.by_hostd)
