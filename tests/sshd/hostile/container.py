"""A real container whose only program races: see racer.c."""

from __future__ import annotations

import contextlib
import io
import subprocess
import tarfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from docker.errors import NotFound
from docker.models.containers import Container
from tests.sshd.dockerd import Workshop
from tests.sshd.running import wait_until

SLOTS = 96
POOL = 64
SOURCE = Path(__file__).with_name("racer.c")


def compiled(directory: Path) -> Path:
    """The racer as a static program."""
    program = directory / "racer"
    if not program.exists():
        command = ["gcc", "-O2", "-Wall", "-Wextra", "-Werror", "-static", "-o", str(program), str(SOURCE)]
        subprocess.run(command, check=True, capture_output=True, timeout=120)
    return program


class Racer:
    """The container, which has its volume at /data."""

    def __init__(self, container: Container) -> None:
        self.container = container

    def output(self) -> str:
        """What the racer printed."""
        return bytes(self.container.logs()).decode()

    def stop(self) -> dict[str, int]:
        """End the race. Returns what the racer counted."""
        self.container.kill("SIGTERM")
        status = self.container.wait(timeout=60)["StatusCode"]
        out = self.output()
        assert status == 0, f"the racer ended with {status}: {out}"
        return {word: int(number) for word, number in (line.split() for line in out.splitlines())}


@contextmanager
def racing(
    shop: Workshop,
    name: str,
    program: Path,
    source: str,
    *,
    device: str,
    directories: Sequence[str],
    files: Sequence[str],
    seed: int = 1,
) -> Iterator[Racer]:
    """A container that races in `source` (a volume, or a directory of the host) until the end of the block.

    `device` is the canary device as "major:minor"; `directories` and `files` are where its symlinks lead.
    """
    targets = [*(f"d{path}" for path in directories), *(f"f{path}" for path in files)]
    command = ["/racer", "/data", str(SLOTS), str(POOL), device, str(seed), *targets]
    volumes: dict[str, Any] = {source: {"bind": "/data", "mode": "rw"}}
    container = shop.container(name, command, start=False, volumes=volumes)
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode="w") as tar:
        info = tarfile.TarInfo("racer")
        info.mode, info.size = 0o755, program.stat().st_size
        with program.open("rb") as file:
            tar.addfile(info, file)
    assert container.put_archive("/", data.getvalue())
    container.start()
    racer = Racer(container)

    def ready() -> bool:
        container.reload()
        assert container.status == "running", racer.output()
        return "ready 1" in racer.output()

    wait_until(ready, "the racer begins")
    try:
        yield racer
    finally:
        with contextlib.suppress(NotFound):
            container.remove(force=True)
