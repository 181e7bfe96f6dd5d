"""The engine's socket through the `docker` SDK: reading calls only, none of which can change anything but `file`, for
which the engine mounts what a container has (see engine.container_users in the configuration).

The SDK blocks, so each call runs in a thread; a cancelled call returns at once and leaves its thread to end by itself
(threads of trio do not keep a process alive). The stream of events has a client and a thread of its own.
One call and one stream at a time. The SDK takes an answer of any length and waits for ever for one that trickles:
what is read here has a limit in bytes and in time.
"""

from __future__ import annotations

import io
import socket
import tarfile
import time
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import Any, NamedTuple, NoReturn, Protocol, TypeVar

import docker
import msgspec
import requests
import trio
from docker.errors import APIError, DockerException, NotFound
from docker.types import CancellableStream
from docker.utils import convert_filters, version_lt
from urllib3.exceptions import ProtocolError, ReadTimeoutError

from hatchway.catalog.container_users import FILE_MAX
from hatchway.errors import EngineError
from hatchway.names import encodable, printable

T = TypeVar("T")

FIRST_API_WITH_CREATION_TIME = "1.42"
"""API version of Engine 23.0. Before it a local volume's CreatedAt was the change time of its directory, which moves
with every file made in it (moby/moby#38274, fixed by #44719)."""

ANSWER_MAX = 64 * 1024 * 1024
"""Bytes of one answer. A list of 2,000 containers with ten mounts and some labels each has about 12 MB."""

FILE_TIMEOUT_S = 2
"""How long one file of a container may take: news of all others wait for that."""

EVENT_MAX = 1024 * 1024
"""Bytes of one event, which holds all labels of its container."""

EVENTS_SURE = 512
"""The engine keeps 1,024 events for a reader; one that comes then and waits for 0.1 s it drops without a word (moby,
daemon/events/events.go and pkg/pubsub). Who looks at everything once in so many events does so after every drop, since
all that was waiting then is read later."""

_NOISE = (
    "exec_", "health_status", "top", "attach", "detach", "resize", "copy", "export", "archive-path", "extract-to-dir",
    "commit", "mount", "unmount",
)  # fmt: skip
"""Beginnings of actions that change nothing we show. A health check alone makes three events, every few seconds."""


class AnswerError(EngineError):
    """The engine answered this call with an error, or not in time; it may be well otherwise."""


class Event(NamedTuple):
    """Something happened to the container or volume `id`. `kind` is the engine's word, "" if it gave none."""

    kind: str
    id: str


class About(NamedTuple):
    """The engine itself.

    `creation_times`: a volume's CreatedAt is the time of its creation. `options_in_files`: what it mounts for a volume
    of the local driver stands in a file beside the volume, where the privileged half reads it. `remapped` and
    `rootless`: ids in its containers are other ones on the host (userns-remap), or in the engine's own user namespace.
    """

    data_root: str | None
    creation_times: bool
    options_in_files: bool
    remapped: bool = False
    rootless: bool = False


class Engine(Protocol):
    """What `docker_source` asks of an engine. All raise EngineError when it cannot be reached."""

    async def about(self) -> About:
        """What kind of engine this is."""
        ...

    async def probe(self) -> None:
        """Whether the engine answers at all; cheap."""
        ...

    async def containers(self) -> list[Any]:
        """All containers in any state, as the engine lists them."""
        ...

    async def inspect(self, container_id: str) -> object | None:
        """The full description of one container, None when there is none. Raises AnswerError too."""
        ...

    async def file(self, container_id: str, path: str) -> str:
        """The beginning of a text file of a container, running or not, "" when there is none. Raises AnswerError."""
        ...

    async def volumes(self) -> list[Any]:
        """All volumes, as the engine lists them."""
        ...

    async def events(self, seen: Callable[[Event], None], opened: Callable[[], None]) -> NoReturn:
        """Call `seen` for each event until the stream ends, which raises EngineError.

        Calls `opened` once no event can be missed any more.
        """
        ...

    def close(self) -> None:
        """Let go of all connections."""
        ...


class DockerEngine:
    """An Engine behind a unix socket: Docker's, or Podman's imitation of it."""

    def __init__(self, client: docker.APIClient, url: str, timeout_s: int) -> None:
        self._client = client
        self._url = url
        self._timeout_s = timeout_s

    @classmethod
    async def connect(cls, url: str, timeout_s: int) -> DockerEngine:
        """Agree on an API version with the engine at `url`. Each wait for it is at most `timeout_s` seconds.

        Raises EngineError when it cannot be reached.
        """
        return cls(await _call(url, timeout_s, partial(_open, url, timeout_s)), url, timeout_s)

    async def about(self) -> About:
        """See Engine."""
        info = await self._ask(self._client.info)
        version = await self._ask(self._client.version)
        root = info.get("DockerRootDir") if isinstance(info, dict) else None
        components = (version.get("Components") if isinstance(version, dict) else None) or ()
        podman = any(str(part.get("Name", "")).startswith("Podman") for part in components if isinstance(part, dict))
        modern = not version_lt(self._client.api_version, FIRST_API_WITH_CREATION_TIME)
        # Podman has a database for them.
        options = (info.get("SecurityOptions") if isinstance(info, dict) else None) or ()
        security = {str(option).partition(",")[0] for option in options if isinstance(options, list)}
        return About(
            encodable(root) if isinstance(root, str) and root else None,
            podman or modern,
            not podman,
            remapped="name=userns" in security,
            rootless="name=rootless" in security,
        )

    async def probe(self) -> None:
        """See Engine."""
        # A list never waits for a container's lock, as an inspect does.
        await self._ask(partial(self._client.containers, limit=1))

    async def containers(self) -> list[Any]:
        """See Engine."""
        return self._list(await self._ask(partial(self._client.containers, all=True)))

    async def inspect(self, container_id: str) -> object | None:
        """See Engine."""
        try:
            raw: object = await self._ask(partial(self._client.inspect_container, container_id))
        except AnswerError as exc:
            if isinstance(exc.__cause__, NotFound):
                return None
            raise
        return raw

    async def file(self, container_id: str, path: str) -> str:
        """See Engine."""
        timeout_s = min(self._timeout_s, FILE_TIMEOUT_S)
        return str(await self._ask(partial(_file, self._client, container_id, path, timeout_s)))

    async def volumes(self) -> list[Any]:
        """See Engine."""
        answer = await self._ask(self._client.volumes)
        # A dictionary without it is no list of no volumes.
        return self._list(answer.get("Volumes", answer) if isinstance(answer, dict) else answer)

    async def events(self, seen: Callable[[Event], None], opened: Callable[[], None]) -> NoReturn:
        """See Engine."""
        client = await self._ask(partial(_open, self._url, self._timeout_s, self._client.api_version))
        response: requests.Response | None = None
        try:
            with trio.move_on_after(self._timeout_s) as waiting:  # the SDK waits for a stream without a limit
                response = await self._ask(partial(_stream, client))
            if response is None or waiting.cancelled_caught:
                raise EngineError(_silent(self._url, f"no events within {self._timeout_s} s"))
            opened()
            await trio.to_thread.run_sync(_pump, response, seen, abandon_on_cancel=True)
            raise EngineError(_silent(self._url, "it ended the stream of events"))
        finally:
            if response is not None:
                _end(response)
            client.close()

    def close(self) -> None:
        """See Engine."""
        self._client.close()

    async def _ask(self, call: Callable[[], Any]) -> Any:
        return await _call(self._url, self._timeout_s, call)

    def _list(self, answer: object) -> list[Any]:
        if answer is None:  # Go's way of writing an empty list
            return []
        if not isinstance(answer, list):
            raise EngineError(f"the engine at {self._url} gave an unusable answer: no list")
        return answer


async def _call(url: str, timeout_s: int, call: Callable[[], T]) -> T:
    try:
        return await trio.to_thread.run_sync(call, abandon_on_cancel=True)
    except APIError as exc:
        raise AnswerError(f"the engine at {url} refused: {_short(exc.explanation or exc)}") from exc
    except requests.exceptions.ReadTimeout as exc:
        what = "nothing whole" if isinstance(exc, _TricklesError) else "nothing"
        raise AnswerError(_silent(url, f"{what} within {timeout_s} s")) from exc
    except Exception as exc:
        for cause in _behind(exc):
            if isinstance(cause, _UnusableError):
                raise AnswerError(f"the engine at {url} gave an unusable answer: {cause}") from exc
        # Whatever the SDK stumbles over (KeyError for an error without a text, …) is an answer of no use.
        raise EngineError(_silent(url, _reason(exc, timeout_s))) from exc


def _open(url: str, timeout_s: int, version: str = "auto") -> docker.APIClient:
    """In a thread: a client of the engine, after a first attempt of our own to connect.

    When it cannot connect, the SDK leaves its socket to the garbage collector and hides the reason in its text.
    """
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
        sock.settimeout(timeout_s)
        sock.connect(url.removeprefix("unix://"))
    return _Client(base_url=url, version=version, timeout=timeout_s)


class _UnusableError(Exception):
    """What came is no answer. The text says why."""


class _TricklesError(requests.exceptions.ReadTimeout):
    """Something came, but not all of it in time."""


class _Client(docker.APIClient):
    """The SDK's client with `_limited` at every answer, that to its first question included."""

    def send(self, request: requests.PreparedRequest, **kwargs: Any) -> requests.Response:
        request.hooks["response"].append(_limited)
        return super().send(request, **kwargs)


def _limited(response: requests.Response, *, stream: bool, timeout: float | None, **_: Any) -> None:
    """In a thread, before anybody else reads of it: read the body, unless it is a stream as asked for.

    `timeout` is how long that may take, in seconds. Raises _UnusableError, requests' ReadTimeout.
    """
    if stream and response.status_code == requests.codes.ok:
        return
    try:
        response.raw = io.BytesIO(_whole(response, timeout))
    except BaseException:
        response.close()
        raise


def _whole(response: requests.Response, timeout_s: float | None) -> bytes:
    if response.is_redirect:
        raise _UnusableError("it points elsewhere")
    body = bytearray()
    end = None if timeout_s is None else time.monotonic() + timeout_s
    try:
        # read1: what has come, and not until so much has come.
        while part := response.raw.read1(65536, decode_content=True):
            body += part
            if len(body) > ANSWER_MAX:
                body.clear()  # an error's traceback keeps it, and there may be another before that is collected
                raise _UnusableError(f"it is longer than {ANSWER_MAX // 2**20} MiB")
            if end is not None and time.monotonic() > end:
                raise _TricklesError
    except ReadTimeoutError as exc:
        raise requests.exceptions.ReadTimeout(str(exc)) from exc
    return bytes(body)


def _stream(client: docker.APIClient) -> requests.Response:
    """In a thread: the stream of events about containers and volumes.

    Not by the SDK's `events`, which collects in memory, for ever, what is no JSON, and passes over it.
    """
    params = {"filters": convert_filters({"type": ["container", "volume"]})}
    response = client.get(f"{client.base_url}/v{client.api_version}/events", params=params, stream=True, timeout=None)
    if response.status_code != requests.codes.ok:
        raise _UnusableError(f"no events, but {response.status_code} {_short(response.reason)}")
    return response


def _file(client: docker.APIClient, container_id: str, path: str, timeout_s: int) -> str:
    """In a thread: see Engine.file. The engine sends a tar archive, of which no more is read than is wanted.

    What is there is the container's: it may be a directory, a link or endless.
    """
    url = f"{client.base_url}/v{client.api_version}/containers/{container_id}/archive"
    response = client.get(url, params={"path": path}, stream=True, timeout=timeout_s)
    try:
        if response.status_code == requests.codes.not_found:
            return ""
        if response.status_code != requests.codes.ok:
            raise _UnusableError(f"no file, but {response.status_code} {_short(response.reason)}")
        data, end = bytearray(), time.monotonic() + timeout_s
        while len(data) < FILE_MAX and (part := response.raw.read1(65536, decode_content=True)):
            data += part
            if time.monotonic() > end:
                raise _TricklesError
    except ReadTimeoutError as exc:
        raise requests.exceptions.ReadTimeout(str(exc)) from exc
    finally:
        response.close()
    return _first_file(bytes(data))


def _first_file(archive: bytes) -> str:
    """The text of the regular file a tar archive begins with, as far as it is there; "" for anything else."""
    try:
        with tarfile.open(fileobj=io.BytesIO(archive), mode="r|") as tar:
            first = tar.next()
            if first is None or not first.isreg():
                return ""
            start = first.offset_data
            return archive[start : start + first.size].decode(errors="replace")
    except Exception:
        return ""


def _silent(url: str, reason: str) -> str:
    return f"the engine at {url} does not answer: {reason}"


def _reason(exc: BaseException, timeout_s: int) -> str:
    """What is behind an error of the SDK, which wraps the system's answer several times."""
    for cause in _behind(exc):
        if isinstance(cause, PermissionError):
            return "Permission denied; is this process in the group of that socket?"
        # requests' exceptions are OSErrors too, without an errno.
        if isinstance(cause, OSError) and cause.errno is not None and cause.strerror:
            return cause.strerror
        if isinstance(cause, (TimeoutError, requests.exceptions.Timeout)):
            return f"nothing within {timeout_s} s"
    return _short(exc)


def _behind(exc: BaseException) -> Iterator[BaseException]:
    """`exc` and what it was made of, the nearest first."""
    queue, seen = [exc], set[int]()
    while queue:
        cause = queue.pop(0)
        if id(cause) in seen:
            continue
        seen.add(id(cause))
        yield cause
        links = [*cause.args, cause.__cause__, cause.__context__]
        queue.extend(link for link in links if isinstance(link, BaseException))


def _short(text: object) -> str:
    return printable(" ".join(str(text).split()))[:200]


def _pump(response: requests.Response, seen: Callable[[Event], None]) -> None:
    """In a thread: pass events on until the stream ends, and close it.

    What is no JSON breaks it: who knows what is lost there.
    """
    line, count = bytearray(), 0
    try:
        while part := response.raw.read1(65536, decode_content=True):
            line += part
            if b"\n" not in part:
                _check_length(line)
                continue
            *lines, rest = bytes(line).split(b"\n")
            line = bytearray(rest)
            events = [_event(msgspec.json.decode(text)) for text in lines if text.strip()]
            known = [event for event in events if event is not None]
            if count // EVENTS_SURE != (count := count + len(events)) // EVENTS_SURE:
                known.append(Event("", ""))
            trio.from_thread.run_sync(_each, seen, known)
    except (trio.RunFinishedError, ProtocolError):
        pass  # also an engine that is killed ends it
    except Exception as exc:
        # A stream that is closed while it is read fails in whatever way urllib3 comes upon it.
        raise EngineError(f"the engine's stream of events broke: {_short(exc)}") from exc
    finally:
        response.close()


def _check_length(line: bytearray) -> None:
    if len(line) > EVENT_MAX:
        raise _UnusableError(f"an event is longer than {EVENT_MAX // 2**20} MiB")


def _each(seen: Callable[[Event], None], events: Iterable[Event]) -> None:
    for event in events:
        seen(event)


def _event(raw: object) -> Event | None:
    """What `raw` says, None when it is of no interest."""
    if not isinstance(raw, dict):
        return Event("", "")
    action, actor = raw.get("Action") or raw.get("status"), raw.get("Actor")
    if isinstance(action, str) and action.startswith(_NOISE):
        return None
    ident = (actor.get("ID") if isinstance(actor, dict) else None) or raw.get("id")
    kind = raw.get("Type")
    if not isinstance(kind, str) or not isinstance(ident, str):
        return Event("", "")
    return Event(kind, ident)


def _end(response: requests.Response) -> None:
    """Make the thread that reads a stream stop."""
    try:
        CancellableStream(iter(()), response).close()
    except (AttributeError, OSError, DockerException):
        pass  # it had ended already
