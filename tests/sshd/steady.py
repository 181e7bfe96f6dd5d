"""Transfers that go on while something else happens, and must arrive whole."""

from __future__ import annotations

import hashlib
import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.figures import note
from tests.sshd.running import Hatchway, wait_until
from tests.sshd.speaking import CREATE, WRITE, Client

BLOCK = 32768
PAUSE_S = 0.01
LONGEST_S = 5.0
"""The longest that one block may take. The machine may be busy with other tests."""


class Upload:
    """What was sent so far, with `pause_s` between two blocks. `longest_s` is the longest time one block took."""

    def __init__(self, client: Client, name: str, pause_s: float = PAUSE_S) -> None:
        self.blocks = 0
        self.longest_s = 0.0
        self.digest = hashlib.sha256()
        self.failure: BaseException | None = None
        self.end = threading.Event()
        self._client = client
        self._name = name
        self._pause_s = pause_s

    def run(self) -> None:
        """Send blocks, each when the one before has been acknowledged, until `end`."""
        try:
            handle = self._client.open(self._name, WRITE | CREATE)
            while not self.end.wait(self._pause_s):
                block = os.urandom(BLOCK)
                began = time.monotonic()
                self._client.write(handle, self.blocks * BLOCK, block)
                self.longest_s = max(self.longest_s, time.monotonic() - began)
                self.digest.update(block)
                self.blocks += 1
            self._client.release(handle)
        except BaseException as exc:
            self.failure = exc


@contextmanager
def steady_upload(hatchway: Hatchway, login: str, directory: Path, path: str) -> Iterator[None]:
    """Upload to the volume at `path` of `login`, which is `directory` on disk, for as long as the block takes.

    No block may take long, and what has arrived must be what was sent.
    """
    with Client(hatchway, login) as client:
        upload = Upload(client, f"{path}/uploaded")
        thread = threading.Thread(target=upload.run)
        thread.start()
        try:
            wait_until(lambda: upload.blocks > 5 or upload.failure, "the upload's begin")
            yield
            before = upload.blocks
            wait_until(lambda: upload.blocks > before + 5 or upload.failure, "the upload goes on")
        finally:
            upload.end.set()
            thread.join()
    assert upload.failure is None, f"the transfer of {login} to {path}: {upload.failure!r}"
    remote = directory / "uploaded"
    assert remote.stat().st_size == upload.blocks * BLOCK
    with remote.open("rb") as file:
        assert hashlib.file_digest(file, "sha256").digest() == upload.digest.digest()
    remote.unlink()
    assert upload.longest_s < LONGEST_S
    note(
        f"{login} went on to upload to {path}: {upload.blocks} blocks, the longest took {upload.longest_s * 1e3:.0f} ms"
    )
