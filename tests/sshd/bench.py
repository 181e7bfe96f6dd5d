"""A Hatchway that sees a real engine, and what tests make in it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from docker.types import Mount
from tests.sshd.dockerd import Workshop, client_of, running_engine, workshop
from tests.sshd.running import Hatchway, running, wait_until

from hatchway.kernel import mounts


class Bench:
    """A Hatchway that sees an engine, and what is made in it. `binds` lies beneath host.bind_prefixes."""

    def __init__(self, hatchway: Hatchway, shop: Workshop) -> None:
        self.hatchway = hatchway
        self.shop = shop
        self.binds = hatchway.volumes

    def container(self, name: str, *mounts: Mount, **options: Any) -> str:
        """A stopped container; returns its instance when the catalog sees it."""
        options.setdefault("start", False)
        self.shop.container(name, mounts=list(mounts), **options)
        instance = f"default/{self.shop.name(name)}/1"
        wait_until(lambda: self.status(instance) is not None, f"the catalog sees {instance}")
        return instance

    def status(self, instance: str) -> dict[str, Any] | None:
        """What `hatchway ls` says of an instance."""
        for info in self.hatchway.told("ls")["instances"]:
            key = info["key"]
            if f"{key['environment']}/{key['container']}/{key['number']}" == instance:
                return dict(info)
        return None

    def volume(self, instance: str, path: str) -> dict[str, Any]:
        """What `hatchway ls` says of one volume."""
        status = self.status(instance)
        assert status is not None
        (found,) = [volume for volume in status["volumes"] if volume["path"] == path]
        return dict(found)

    def replica(self, project: str, service: str, number: int, labels: dict[str, str] | None = None) -> str:
        """Make a stopped replica as Compose does, with a volume of its own at /data.

        Returns its instance when the catalog sees it.
        """
        name = f"{project}-{service}-{number}"
        compose = {
            "com.docker.compose.project": f"{project}{self.shop.tag}",
            "com.docker.compose.service": service,
            "com.docker.compose.container-number": str(number),
            "com.docker.compose.oneoff": "False",
        }
        volume = self.shop.volume(name)
        mount = Mount("/data", volume.name)
        self.shop.container(name, labels=compose | (labels or {}), mounts=[mount], start=False)
        instance = f"{project}{self.shop.tag}/{service}/{number}"
        wait_until(lambda: self.is_there(instance), f"the catalog sees {instance}")
        return instance

    def is_there(self, instance: str) -> bool:
        """Whether the catalog has it now."""
        status = self.status(instance)
        return status is not None and bool(status["present"])

    def remove(self, name: str) -> None:
        """Remove a container, and its anonymous volumes, as `docker rm -fv` does."""
        self.shop.client.containers.get(self.shop.name(name)).remove(force=True, v=True)

    def works(self, login: str, *, key: str | None = None) -> bool:
        """Whether a session can list something."""
        return self.hatchway.sftp(login, "ls\n", key=key, check=False).returncode == 0

    def mounted(self, login: str) -> list[str]:
        """Where something is mounted in a login's root."""
        prefix = f"{self.hatchway.run_dir}/mnt/{login}/"
        return [entry.target for entry in mounts.mount_table() if entry.target.startswith(prefix)]

    def directory(self, name: str) -> Path:
        """A directory that may be bind-mounted."""
        path = self.binds / name
        path.mkdir()
        return path


@contextmanager
def benched(directory: Path, **options: Any) -> Iterator[Bench]:
    """A Bench; its engine, if it needs one of its own, lives in `directory`. `options` as of Hatchway."""
    with running_engine(directory) as url, client_of(url) as client, workshop(client) as shop:
        root = f"{client.info()['DockerRootDir']}/volumes"
        with running(engine_url=url, volume_root=root, **options) as hatchway:
            yield Bench(hatchway, shop)
