"""Something between the catalog and an engine that can begin to talk nonsense: a unix socket that passes HTTP on.

Each connection carries one request, a GET. Both ends are told so, by `Connection: close`.
"""

from __future__ import annotations

import contextlib
import re
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

Answer = Callable[[socket.socket, str], bool]
"""Answers the request for a path, without API version and query; False to have it passed on."""


class Proxy:
    """Listens at `path` for the engine at the socket `engine`. Every user may connect."""

    def __init__(self, path: Path, engine: str) -> None:
        self._engine = engine
        self._answer: Answer | None = None
        self._lock = threading.Lock()
        self._open: set[socket.socket] = set()
        self._threads: list[threading.Thread] = []
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(path))
        path.chmod(0o666)
        self._listener.listen(64)
        self._accepting = threading.Thread(target=self._accept)
        self._accepting.start()

    def flick(self, answer: Answer | None) -> None:
        """From now on answer by `answer`, or (None) pass everything on. What is under way is cut off."""
        with self._lock:
            self._answer = answer
            self._cut()

    def close(self) -> None:
        """Cut everything off and stop."""
        self._listener.shutdown(socket.SHUT_RDWR)
        self._accepting.join(10)
        self._listener.close()
        with self._lock:
            self._cut()
        for thread in self._threads:
            thread.join(10)

    def _cut(self) -> None:
        for sock in self._open:
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            thread = threading.Thread(target=self._serve, args=(client,))
            self._threads = [*(one for one in self._threads if one.is_alive()), thread]
            thread.start()

    @contextlib.contextmanager
    def _held(self, sock: socket.socket) -> Iterator[None]:
        with sock:
            with self._lock:
                self._open.add(sock)
            try:
                yield
            finally:
                with self._lock:
                    self._open.discard(sock)

    def _serve(self, client: socket.socket) -> None:
        with self._held(client), contextlib.suppress(OSError):
            request = b""
            while b"\r\n\r\n" not in request:
                if not (part := client.recv(65536)):
                    return
                request += part
            path = request.split(b" ", 2)[1].decode().partition("?")[0]
            with self._lock:
                answer = self._answer
            if answer is not None and answer(client, re.sub(r"^/v[0-9.]+", "", path)):
                return
            self._pass_on(client, request)

    def _pass_on(self, client: socket.socket, request: bytes) -> None:
        lines = [line for line in request.split(b"\r\n") if line and not line.lower().startswith(b"connection:")]
        with socket.socket(socket.AF_UNIX) as engine, self._held(engine):
            engine.connect(self._engine)
            engine.sendall(b"\r\n".join([*lines, b"Connection: close", b"", b""]))
            while part := engine.recv(65536):
                client.sendall(part)
