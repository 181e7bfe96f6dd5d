"""SFTP spoken by hand, one request at a time, so that a test decides what happens between two of them.

Source: draft-ietf-secsh-filexfer-02, which is version 3, the one OpenSSH speaks.
"""

from __future__ import annotations

import contextlib
import os
import select
import struct
import subprocess
import time
from collections.abc import Iterator
from typing import Self

from tests.sshd.running import Hatchway

OK, EOF, NO_SUCH_FILE, PERMISSION_DENIED, FAILURE = range(5)
"""Codes of SSH_FXP_STATUS."""

READ, WRITE, CREATE = 1, 2, 8
"""Flags of SSH_FXP_OPEN."""

PATIENCE_S = 30.0

_INIT, _OPEN, _CLOSE, _READ, _WRITE, _LSTAT, _FSTAT, _OPENDIR, _READDIR, _REMOVE = 1, 3, 4, 5, 6, 7, 8, 11, 12, 13
_STATUS, _HANDLE, _DATA, _NAME, _ATTRS = 101, 102, 103, 104, 105


class StatusError(Exception):
    """The server answered with an error. `code` is one of the above."""

    def __init__(self, code: int) -> None:
        super().__init__(f"status {code}")
        self.code = code


class ClosedError(Exception):
    """The session has ended."""


@contextlib.contextmanager
def status(code: int) -> Iterator[None]:
    """The block is answered with the error `code`."""
    try:
        yield
    except StatusError as exc:
        assert exc.code == code, f"status {exc.code}, not {code}"
    else:
        raise AssertionError(f"no status {code}")


def _string(data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + data


class Client:
    """One session of `login`, by its own key unless `key` or `password` say otherwise; `options` are ssh's.

    Every method raises StatusError, or ClosedError when the session has ended.
    """

    def __init__(
        self,
        hatchway: Hatchway,
        login: str,
        *,
        key: str | None = None,
        password: str | None = None,
        options: tuple[str, ...] = (),
    ) -> None:
        with hatchway.credentials(key or login, password) as (credentials, environment):
            command = ["ssh", *hatchway.options(), *credentials, *options, "-s", f"{login}@127.0.0.1", "sftp"]
            self._process = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, bufsize=0,
                env=environment,
            )  # fmt: skip
            self._number = 0
            try:
                self._send(struct.pack(">BI", _INIT, 3))
                self._receive(PATIENCE_S)
            except BaseException:
                self.close()
                raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End the session."""
        self._process.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            assert pipe is not None
            with contextlib.suppress(OSError):
                pipe.close()

    def _send(self, packet: bytes) -> None:
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(_string(packet))
        except OSError:
            raise ClosedError from None

    def _exactly(self, count: int, end: float) -> bytes:
        assert self._process.stdout is not None
        data = b""
        while len(data) < count:
            ready, _, _ = select.select([self._process.stdout], [], [], max(0.0, end - time.monotonic()))
            if not ready:
                raise TimeoutError("no answer")
            part = os.read(self._process.stdout.fileno(), count - len(data))
            if not part:
                raise ClosedError
            data += part
        return data

    def _receive(self, timeout_s: float) -> bytes:
        end = time.monotonic() + timeout_s
        (length,) = struct.unpack(">I", self._exactly(4, end))
        return self._exactly(length, end)

    def ask(self, kind: int, payload: bytes) -> None:
        """Send a request and do not wait for its answer: see `answer`."""
        self._number += 1
        self._send(struct.pack(">BI", kind, self._number) + payload)

    def answer(self, timeout_s: float = PATIENCE_S) -> tuple[int, bytes]:
        """Kind and contents of the next answer, as long as it is no error. Raises TimeoutError."""
        packet = self._receive(timeout_s)
        kind, _number = struct.unpack(">BI", packet[:5])
        if kind == _STATUS:
            (code,) = struct.unpack(">I", packet[5:9])
            if code != OK:
                raise StatusError(code)
        return kind, packet[5:]

    def _call(self, kind: int, payload: bytes) -> bytes:
        self.ask(kind, payload)
        return self.answer()[1]

    def _handle(self, kind: int, payload: bytes) -> bytes:
        body = self._call(kind, payload)
        return body[4 : 4 + struct.unpack(">I", body[:4])[0]]

    def open(self, path: str, flags: int) -> bytes:
        """A handle of a file."""
        return self._handle(_OPEN, _string(path.encode()) + struct.pack(">II", flags, 0))

    def release(self, handle: bytes) -> None:
        """Close a handle."""
        self._call(_CLOSE, _string(handle))

    def read(self, handle: bytes, offset: int, count: int) -> bytes:
        """Some bytes of a file."""
        body = self._call(_READ, _string(handle) + struct.pack(">QI", offset, count))
        return body[4:]

    def write(self, handle: bytes, offset: int, data: bytes) -> None:
        """Write to a file."""
        self._call(_WRITE, _string(handle) + struct.pack(">Q", offset) + _string(data))

    def fstat(self, handle: bytes) -> None:
        """Ask for a file's attributes."""
        self._call(_FSTAT, _string(handle))

    def lstat(self, path: str) -> None:
        """Ask for attributes by name."""
        self._call(_LSTAT, _string(path.encode()))

    def opendir(self, path: str) -> bytes:
        """A handle of a directory."""
        return self._handle(_OPENDIR, _string(path.encode()))

    def readdir(self, handle: bytes) -> list[str]:
        """The next names of a directory. StatusError EOF at its end."""
        return self._names(self._call(_READDIR, _string(handle)))

    def ask_readdir(self, handle: bytes) -> None:
        """As `readdir`, without waiting for the answer."""
        self.ask(_READDIR, _string(handle))

    def remove(self, path: str) -> None:
        """Remove a file."""
        self._call(_REMOVE, _string(path.encode()))

    @staticmethod
    def _names(body: bytes) -> list[str]:
        (count,) = struct.unpack(">I", body[:4])
        names, at = [], 4
        for _ in range(count):
            for _part in range(2):
                (length,) = struct.unpack(">I", body[at : at + 4])
                word = body[at + 4 : at + 4 + length]
                at += 4 + length
                if _part == 0:
                    names.append(word.decode())
            (flags,) = struct.unpack(">I", body[at : at + 4])
            at += 4 + sum(size for bit, size in ((1, 8), (2, 8), (4, 4), (8, 8)) if flags & bit)
        return names

    def list(self, path: str) -> list[str]:
        """All names of a directory but "." and ".."."""
        handle = self.opendir(path)
        found: list[str] = []
        while True:
            try:
                found += self.readdir(handle)
            except StatusError as exc:
                assert exc.code == EOF
                break
        self.release(handle)
        return sorted(name for name in found if name not in (".", ".."))
