"""A container engine for tests, and what tests make in it.

The engine is the one HATCHWAY_TEST_DOCKER names, else a private one that scripts/private-dockerd starts and takes
away again. Everything made carries a label and is removed, also after a failure: the engine may be shared.
"""

from __future__ import annotations

import os
import secrets
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import docker
import pytest
from docker.errors import APIError, NotFound
from docker.models.containers import Container
from docker.models.volumes import Volume

SCRIPT = Path(__file__).parents[2] / "scripts" / "private-dockerd"
IMAGE = "hatchway-test:latest"
"""busybox with the users root and app (1000); `private-dockerd image` makes it."""
LABEL = "hatchway-test"


def missing() -> str | None:
    """Why no private engine can be started here, None when it can."""
    if os.geteuid() != 0:
        return "a private engine needs root"
    absent = [name for name in ("dockerd", "containerd", "runc", "docker") if shutil.which(name) is None]
    if absent:
        return f"not installed: {', '.join(absent)}"
    if not os.access("/bin/busybox", os.X_OK):
        return "no /bin/busybox (package busybox-static)"
    return None


def need_private() -> None:
    """Skip the test, or fail it where nothing may be skipped, unless a private engine can be started here."""
    if (reason := missing()) is None:
        return
    if os.environ.get("HATCHWAY_REQUIRE_ALL") == "1":
        pytest.fail(f"this run must not skip, but: {reason}", pytrace=False)
    pytest.skip(reason)


class PrivateDockerd:
    """An engine of our own in `directory`, a path of at most 70 characters. It can be started again after a stop.

    `options` are dockerd's, in addition to those of the script.
    """

    def __init__(self, directory: Path, *options: str) -> None:
        self.directory = directory
        self.url = f"unix://{directory}/docker.sock"
        self._options = options
        self._command: list[bytes] = []
        self._again: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it, without an image, unless it runs. Raises AssertionError with the end of the engine's log."""
        _script("start", str(self.directory), *self._options)

    def stop(self) -> None:
        """End it with all its containers, and remove all it had."""
        _script("stop", str(self.directory))
        if self._again is not None:
            self._again.wait(30)

    def halt(self, how: signal.Signals) -> None:
        """End the process that answers, by the signal `how`. Its data stay."""
        pid = self.pid
        self._command = Path(f"/proc/{pid}/cmdline").read_bytes().rstrip(b"\0").split(b"\0")
        os.kill(pid, how)
        deadline = time.monotonic() + 60
        while Path(f"/proc/{pid}").exists() and "Z" not in Path(f"/proc/{pid}/stat").read_text().split()[2]:
            assert time.monotonic() < deadline, "the engine does not end"
            time.sleep(0.05)
        if self._again is not None:
            self._again.wait(30)
        (self.directory / "engine.pid").unlink(missing_ok=True)

    def resume(self) -> None:
        """Start it again after `halt`, with the same data, and wait until it answers."""
        with (self.directory / "log" / "dockerd").open("ab") as log:
            again = subprocess.Popen(
                self._command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
            )
        (self.directory / "dockerd.pid").write_text(f"{again.pid}\n")
        deadline = time.monotonic() + 60
        while subprocess.run(["docker", "-H", self.url, "version"], capture_output=True, check=False).returncode:
            assert time.monotonic() < deadline, "the engine does not come back"
            time.sleep(0.2)
        self._again = again

    def kill(self) -> None:
        """Kill the process that answers, and start it again with the same data."""
        self.halt(signal.SIGKILL)
        self.resume()

    @property
    def pid(self) -> int:
        """The process that answers."""
        return int((self.directory / "dockerd.pid").read_text())


def make_image(url: str) -> None:
    """Make IMAGE in the engine at `url`."""
    _script("image", url)


def _script(*arguments: str) -> None:
    done = subprocess.run([SCRIPT, *arguments], capture_output=True, text=True, check=False, timeout=300)
    if done.returncode != 0:
        raise AssertionError(f"private-dockerd {' '.join(arguments)}: {done.stderr}")


@contextmanager
def client_of(url: str) -> Iterator[docker.DockerClient]:
    """A client of the engine at `url`. It keeps some two dozen connections open, so close it in the same test."""
    client = docker.DockerClient(base_url=url, timeout=60)
    try:
        yield client
    finally:
        client.close()


@contextmanager
def running_engine(directory: Path) -> Iterator[str]:
    """The URL of the engine HATCHWAY_TEST_DOCKER names, else of a private one in `directory`. It has IMAGE."""
    if url := os.environ.get("HATCHWAY_TEST_DOCKER"):
        with client_of(url) as client:
            images = client.images.list(IMAGE)
        if not images:
            make_image(url)
        yield url
        return
    need_private()
    engine = PrivateDockerd(directory)
    try:
        engine.start()
        make_image(engine.url)
        yield engine.url
    finally:
        engine.stop()


@contextmanager
def private_engine(directory: Path) -> Iterator[docker.DockerClient]:
    """A client of `running_engine(directory)`."""
    with running_engine(directory) as url, client_of(url) as client:
        yield client


class Workshop:
    """Makes containers and volumes that carry this workshop's `tag` in their names and as a label."""

    def __init__(self, client: docker.DockerClient) -> None:
        self.client = client
        self.tag = secrets.token_hex(4)
        self.label = {LABEL: self.tag}

    def name(self, name: str) -> str:
        """What a thing called `name` here is called in the engine."""
        return f"hwt-{self.tag}-{name}"

    def container(
        self,
        name: str,
        command: Sequence[str] = ("sleep", "1000000"),
        *,
        labels: dict[str, str] | None = None,
        start: bool = True,
        **options: Any,
    ) -> Container:
        """Make a container, by default a running one without a network. `options` as of docker-py's create."""
        options.setdefault("network_mode", "none")
        made = self.client.containers.create(
            IMAGE, list(command), name=self.name(name), labels=self.label | (labels or {}), **options
        )
        if start:
            made.start()
        return made

    def volume(self, name: str, **options: Any) -> Volume:
        """Make a volume."""
        return self.client.volumes.create(self.name(name), labels=self.label, **options)

    def clear(self) -> None:
        """Remove all that was made."""
        mine: dict[str, str | list[str] | bool] = {"label": f"{LABEL}={self.tag}"}
        for container in self.client.containers.list(all=True, filters=mine, ignore_removed=True):
            try:
                container.remove(v=True, force=True)
            except NotFound:
                pass
            except APIError as exc:
                if exc.status_code != 409:  # it is being removed already
                    raise
        for volume in self.client.volumes.list(filters=mine):
            volume.remove(force=True)


@contextmanager
def workshop(client: docker.DockerClient) -> Iterator[Workshop]:
    """A Workshop that is cleared at the end."""
    made = Workshop(client)
    try:
        yield made
    finally:
        made.clear()
