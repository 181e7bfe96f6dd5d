"""The SDK's side: what is asked of the engine, how its failures read, and that nothing lingers.

A small HTTP server on a unix socket stands for the engine.
"""

from __future__ import annotations

import contextlib
import json
import socket
import socketserver
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import pytest
import trio

from hatchway.catalog import docker_engine
from hatchway.catalog.docker_engine import About, AnswerError, DockerEngine, Event
from hatchway.errors import EngineError

VERSION = {"ApiVersion": "1.45", "Components": [{"Name": "Engine", "Version": "26.1"}]}
ID = "ab" * 32


@dataclass(frozen=True)
class Endless:
    """An answer that does not end: `part`, over and over, each after `pause_s` seconds."""

    part: bytes
    pause_s: float = 0
    status: int = 200
    location: str = ""


class Handler(BaseHTTPRequestHandler):
    """Answers from the server's table: path without version -> what to send as JSON."""

    protocol_version = "HTTP/1.1"
    server: Server

    def do_GET(self) -> None:
        path, _, query = self.path.partition("?")
        path = "/" + path.split("/", 2)[2] if path.startswith("/v1.") else path
        self.server.asked.append(f"GET {path}" + (f"?{query}" if query else ""))
        if path == "/events":
            self._events()
            return
        answer = self.server.answers.get(path)
        if callable(answer):
            answer = answer()
        status = 200
        if isinstance(answer, tuple):
            status, answer = answer
        elif isinstance(answer, int):
            status, answer = answer, {"message": "computer\nsays\x1b no"}
        elif answer is None:
            status, answer = 404, {"message": "No such thing"}
        if isinstance(answer, Endless):
            self._endless(answer)
            return
        body = answer if isinstance(answer, bytes) else json.dumps(answer).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def _endless(self, answer: Endless) -> None:
        self.send_response(answer.status)
        self.send_header("Transfer-Encoding", "chunked")
        if answer.location:
            self.send_header("Location", answer.location)
        self.end_headers()
        while not self.server.more.wait(answer.pause_s):
            self.wfile.write(f"{len(answer.part):x}\r\n".encode() + answer.part + b"\r\n")

    def _events(self) -> None:
        if self.server.endless_events:
            self._endless(self.server.endless_events)
            return
        if self.server.delay_events:
            self.server.more.wait(10)
        if self.server.events_status != 200:
            self.send_response(self.server.events_status)
            self.send_header("Content-Length", "22")
            self.end_headers()
            self.wfile.write(b'{"message":"not here"}')
            return
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        for event in self.server.events:
            body = event if isinstance(event, bytes) else json.dumps(event).encode() + b"\n"
            self.wfile.write(f"{len(body):x}\r\n".encode() + body + b"\r\n")
        self.wfile.flush()
        self.server.more.wait(10)
        self.close_connection = True

    def __getattr__(self, name: str) -> Any:
        if name.startswith("do_"):
            raise AssertionError(f"{name[3:]} is no reading call")
        raise AttributeError(name)

    def address_string(self) -> str:
        return "unix"

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class names it
        pass


class Server(socketserver.ThreadingMixIn, socketserver.UnixStreamServer):
    """The engine that is none."""

    daemon_threads = True

    def __init__(self, path: str) -> None:
        self.answers: dict[str, Any] = {
            "/version": VERSION,
            "/info": {"DockerRootDir": "/srv/docker"},
            "/containers/json": [{"Id": ID}],
            f"/containers/{ID}/json": {"Id": ID, "Name": "/web"},
            "/volumes": {"Volumes": [{"Name": "data"}], "Warnings": None},
        }
        self.events: list[Any] = []
        self.events_status = 200
        self.endless_events: Endless | None = None
        self.delay_events = False
        self.asked: list[str] = []
        self.more = threading.Event()
        super().__init__(path, Handler)

    def handle_error(self, request: Any, client_address: Any) -> None:
        pass  # a client that leaves is what some tests are about


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    with Server(str(tmp_path / "engine.sock")) as made:
        thread = threading.Thread(target=made.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield made
        finally:
            made.more.set()
            made.shutdown()
            thread.join()


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"unix://{tmp_path}/engine.sock"


@contextlib.asynccontextmanager
async def connected(url: str, timeout_s: int = 5) -> AsyncIterator[DockerEngine]:
    engine = await DockerEngine.connect(url, timeout_s)
    try:
        yield engine
    finally:
        engine.close()


async def test_the_calls(server: Server, url: str) -> None:
    async with connected(url) as engine:
        assert await engine.about() == About("/srv/docker", True, True)
        assert await engine.containers() == [{"Id": ID}]
        assert await engine.inspect(ID) == {"Id": ID, "Name": "/web"}
        assert await engine.inspect("cd" * 32) is None
        assert await engine.volumes() == [{"Name": "data"}]
        await engine.probe()
    assert "GET /containers/json?limit=-1&all=1&size=0&trunc_cmd=0" in server.asked
    assert "GET /containers/json?limit=1&all=0&size=0&trunc_cmd=0" in server.asked
    assert all(line.startswith("GET ") for line in server.asked)


@pytest.mark.parametrize(
    ("version", "trusted", "in_files"),
    [
        ({"ApiVersion": "1.41", "Components": [{"Name": "Engine"}]}, False, True),
        ({"ApiVersion": "1.41"}, False, True),
        ({"ApiVersion": "1.41", "Components": [5, {"Name": None}]}, False, True),
        ({"ApiVersion": "1.42", "Components": None}, True, True),
        ({"ApiVersion": "1.41", "Components": [{"Name": "Podman Engine"}]}, True, False),
    ],
)
async def test_which_engines_know_when_a_volume_was_made_and_keep_options_in_files(
    server: Server, url: str, version: object, trusted: bool, in_files: bool
) -> None:
    server.answers["/version"] = version
    server.answers["/info"] = []
    async with connected(url) as engine:
        assert await engine.about() == About(None, trusted, in_files)


async def test_empty_lists_are_null(server: Server, url: str) -> None:
    server.answers["/volumes"] = {"Volumes": None}
    server.answers["/containers/json"] = b"null"
    async with connected(url) as engine:
        assert await engine.volumes() == []
        assert await engine.containers() == []


async def test_an_error_without_a_text(server: Server, url: str) -> None:
    server.answers["/containers/json"] = (500, {})
    async with connected(url) as engine:
        with pytest.raises(EngineError, match=r"the engine at unix:///.*"):
            await engine.containers()


@pytest.mark.parametrize("answer", [{"a": 1}, b"<html>", 5.5])
async def test_unusable_lists(server: Server, url: str, answer: object) -> None:
    server.answers["/containers/json"] = answer
    async with connected(url) as engine:
        with pytest.raises(EngineError, match=r"the engine at unix:///.*"):
            await engine.containers()


async def test_no_list_of_volumes(server: Server, url: str) -> None:
    server.answers["/volumes"] = {"message": "later"}
    async with connected(url) as engine:
        with pytest.raises(EngineError, match=r"unusable answer: no list"):
            await engine.volumes()


async def test_a_refused_call(server: Server, url: str) -> None:
    server.answers[f"/containers/{ID}/json"] = 500
    async with connected(url) as engine:
        with pytest.raises(AnswerError, match=r"refused: computer says\[?1?[^\n\x1b]* no$"):
            await engine.inspect(ID)


async def test_no_socket(url: str) -> None:
    with pytest.raises(EngineError, match=rf"^the engine at {url} does not answer: No such file or directory$"):
        await DockerEngine.connect(url, 5)


async def test_a_socket_nobody_listens_on(tmp_path: Path, url: str) -> None:
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(str(tmp_path / "engine.sock"))
    with pytest.raises(EngineError, match=r"does not answer: Connection refused$"):
        await DockerEngine.connect(url, 5)


async def test_a_socket_of_others(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    with pytest.raises(EngineError, match=r"does not answer: Permission denied; is this process in the group"):
        await DockerEngine.connect(url, 5)


async def test_another_service(server: Server, url: str) -> None:
    server.answers["/version"] = {"hello": "world"}
    with pytest.raises(EngineError, match="ApiVersion"):
        await DockerEngine.connect(url, 5)


@pytest.mark.parametrize("status", [200, 500])
async def test_an_answer_without_an_end(server: Server, url: str, status: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(docker_engine, "ANSWER_MAX", 2 * 2**20)
    server.answers["/containers/json"] = Endless(b"[" * 65536, status=status)
    async with connected(url) as engine:
        with pytest.raises(AnswerError, match=r"gave an unusable answer: it is longer than 2 MiB$"):
            await engine.containers()
        assert await engine.inspect(ID) == {"Id": ID, "Name": "/web"}
    server.answers["/version"] = Endless(b"[" * 65536)
    with pytest.raises(AnswerError, match=r"longer than 2 MiB$"):
        await DockerEngine.connect(url, 5)


async def test_an_answer_that_trickles(server: Server, url: str) -> None:
    """Each part of it comes soon after the one before."""
    server.answers["/containers/json"] = Endless(b"[", pause_s=0.1)
    async with connected(url, timeout_s=1) as engine:
        start = trio.current_time()
        with pytest.raises(AnswerError, match=r"does not answer: nothing whole within 1 s$"):
            await engine.containers()
        assert trio.current_time() - start < 3


async def test_an_answer_that_points_elsewhere(server: Server, url: str) -> None:
    server.answers["/containers/json"] = Endless(b"x", status=302, location="/v1.45/volumes")
    async with connected(url) as engine:
        with pytest.raises(AnswerError, match=r"unusable answer: it points elsewhere$"):
            await engine.containers()
    assert not any("volumes" in line for line in server.asked)


async def test_events_refused_without_an_end(server: Server, url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(docker_engine, "ANSWER_MAX", 2 * 2**20)
    async with connected(url, timeout_s=1) as engine:
        server.endless_events = Endless(b"[" * 65536, status=500)
        with pytest.raises(EngineError, match=r"longer than 2 MiB$"):
            await engine.events(ignore, lambda: None)
        server.endless_events = Endless(b"x" * 65536)
        with pytest.raises(EngineError, match=r"stream of events broke: an event is longer than 1 MiB$"):
            await engine.events(ignore, lambda: None)


async def test_very_many_events_may_be_too_few(server: Server, url: str) -> None:
    """The engine drops what a reader does not take in time."""
    event = json.dumps({"Type": "container", "Action": "exec_start", "Actor": {"ID": ID}}).encode() + b"\n"
    server.events = [event * 100] * 13 + [b'{"Type": "container", "Action": "die", "Act', b'or": {"ID": "cd"}}\n']
    server.more.set()
    async with connected(url) as engine:
        seen: list[Event] = []
        with pytest.raises(EngineError):
            await engine.events(seen.append, lambda: None)
    assert seen == [Event("", ""), Event("", ""), Event("container", "cd")]


async def test_a_call_that_takes_too_long(server: Server, url: str) -> None:
    server.answers[f"/containers/{ID}/json"] = lambda: time.sleep(1.5)
    async with connected(url, timeout_s=1) as engine:
        with pytest.raises(AnswerError, match=r"does not answer: nothing within 1 s$"):
            await engine.inspect(ID)
    server.answers["/version"] = lambda: time.sleep(1.5)
    with pytest.raises(EngineError, match=r"does not answer: nothing within 1 s$"):
        await DockerEngine.connect(url, 1)


async def test_a_cancelled_call_returns_at_once(server: Server, url: str) -> None:
    release = threading.Event()

    def answer() -> object:
        release.wait(10)
        return {}

    server.answers[f"/containers/{ID}/json"] = answer
    async with connected(url) as engine:
        start = trio.current_time()
        with trio.move_on_after(0.2) as scope:
            await engine.inspect(ID)
        assert scope.cancelled_caught
        assert trio.current_time() - start < 2
        release.set()
        # The thread is left to itself: give it the time to let go of its connection before the next test looks.
        await until(lambda: trio.to_thread.current_default_thread_limiter().borrowed_tokens == 0)


def ignore(event: Event) -> None:
    pass


async def until(true: Callable[[], bool]) -> None:
    with trio.fail_after(10):
        while not true():
            await trio.sleep(0.01)


async def test_events(server: Server, url: str, nursery: trio.Nursery) -> None:
    server.events = [
        {"Type": "container", "Action": "start", "Actor": {"ID": ID, "Attributes": {}}, "id": ID, "status": "start"},
        {"Type": "container", "Action": "exec_create: sh", "Actor": {"ID": ID}},
        {"Type": "container", "Action": "health_status: healthy", "Actor": {"ID": ID}},
        {"Type": "volume", "Action": "mount", "Actor": {"ID": "data"}},
        {"Type": "volume", "Action": "destroy", "Actor": {"ID": "data"}},
        {"Type": "container", "status": "die", "id": ID},
        {"Type": "container", "Action": "die"},
        ["odd"],
    ]
    async with connected(url) as engine:
        seen: list[Event] = []
        opened: list[bool] = []

        async def listen() -> None:
            await engine.events(seen.append, lambda: opened.append(True))

        nursery.start_soon(listen)
        await until(lambda: len(seen) == 5)
        assert seen == [
            Event("container", ID),
            Event("volume", "data"),
            Event("container", ID),
            Event("", ""),
            Event("", ""),
        ]
        assert opened == [True]
        assert "GET /events?filters=%7B%22type%22%3A+%5B%22container%22%2C+%22volume%22%5D%7D" in server.asked
        start = trio.current_time()
        nursery.cancel_scope.cancel()
        with trio.CancelScope(shield=True):
            # The stream's thread ends as well, since its connection was shut down under it.
            await until(lambda: trio.to_thread.current_default_thread_limiter().borrowed_tokens == 0)
        assert trio.current_time() - start < 2


@pytest.mark.parametrize(
    ("events", "words"),
    [
        ([], "ended the stream|events broke"),
        ([b"{not json\n" * 3], "events broke"),
        ([b"\xff\xfe"], "ended the stream|events broke"),
        ([b"\xff\xfe\n"], "events broke"),
        ([b"<html>\n"], "events broke"),
    ],
)
async def test_the_end_of_the_stream(server: Server, url: str, events: list[Any], words: str) -> None:
    server.events = events
    server.more.set()
    async with connected(url) as engine:
        with pytest.raises(EngineError, match=words):
            await engine.events(ignore, lambda: None)


async def test_events_refused(server: Server, url: str) -> None:
    server.events_status = 403
    async with connected(url) as engine:
        with pytest.raises(EngineError, match=r"gave an unusable answer: no events, but 403 Forbidden$"):
            await engine.events(ignore, lambda: None)


async def test_events_that_never_begin(server: Server, url: str) -> None:
    async with connected(url, timeout_s=1) as engine:
        server.delay_events = True
        with pytest.raises(EngineError, match=r"no events within 1 s$"):
            await engine.events(ignore, lambda: None)
        server.more.set()
        await until(lambda: trio.to_thread.current_default_thread_limiter().borrowed_tokens == 0)
