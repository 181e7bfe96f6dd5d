"""The main job: into the volumes of real containers that nobody prepared, whatever the containers do."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import docker
import pytest
from docker.models.containers import Container
from tests.sshd.dockerd import Workshop, client_of, running_engine, workshop
from tests.sshd.running import Hatchway, running, wait_until

pytestmark = pytest.mark.engine

APP = "1000:1000"


class Scene:
    """Two Compose replicas and a plain container, each with a volume, and a Hatchway that sees them."""

    def __init__(self, hatchway: Hatchway, shop: Workshop) -> None:
        self.hatchway = hatchway
        self.shop = shop
        self.project = f"p{shop.tag}"

    def make(self) -> None:
        """Make the containers."""
        for number in (1, 2):
            data, cache = self.shop.volume(f"data{number}"), self.shop.volume(f"cache{number}")
            labels = {
                "com.docker.compose.project": self.project,
                "com.docker.compose.service": "web",
                "com.docker.compose.container-number": str(number),
                "com.docker.compose.oneoff": "False",
            }
            volumes = {data.name: {"bind": "/home/work", "mode": "rw"}, cache.name: {"bind": "/cache", "mode": "rw"}}
            container = self.shop.container(f"web-{number}", labels=labels, volumes=volumes, user=APP)
            prepare(container, "/home/work", APP)
        mysql = {self.shop.volume("plain").name: {"bind": "/var/lib/mysql", "mode": "rw"}}
        prepare(self.shop.container("plain", volumes=mysql), "/var/lib/mysql", "999:998")

    @property
    def one(self) -> Container:
        return self.get("web-1")

    @property
    def two(self) -> Container:
        return self.get("web-2")

    @property
    def plain(self) -> Container:
        return self.get("plain")

    def get(self, name: str) -> Container:
        return self.shop.client.containers.get(self.shop.name(name))

    def instance(self, number: int) -> str:
        return f"{self.project}/web/{number}"

    @property
    def plain_instance(self) -> str:
        return f"default/{self.shop.name('plain')}/1"


def prepare(container: Container, path: str, owner: str) -> None:
    """What an image does at its first start: give the volume to its user."""
    assert container.exec_run(["chown", owner, path], user="0").exit_code == 0


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with running_engine(tmp_path_factory.mktemp("e") / "d") as url:
        yield url


@pytest.fixture(scope="module")
def stage(engine: str) -> Iterator[Scene]:
    with client_of(engine) as client:
        root = f"{client.info()['DockerRootDir']}/volumes"
        with workshop(client) as shop, running(engine_url=engine, volume_root=root) as hatchway:
            made = Scene(hatchway, shop)
            made.make()
            wait_until(lambda: len(known(made)) == 3, "the catalog sees all containers")
            yield made


@pytest.fixture
def scene(stage: Scene, engine: str) -> Iterator[Scene]:
    # A client of its own per test: docker-py keeps connections open as long as the client is.
    with client_of(engine) as client:
        stage.shop.client, kept = client, stage.shop.client
        yield stage
        stage.shop.client = kept


def known(scene: Scene) -> list[str]:
    keys = [info["key"] for info in scene.hatchway.told("ls")["instances"]]
    names = [f"{key['environment']}/{key['container']}/{key['number']}" for key in keys]
    return [name for name in names if scene.shop.tag in name]


def unchanging(container: Container) -> dict[str, Any]:
    """All of `docker inspect` that says what a container is, and `docker diff`."""
    container.reload()
    keep = ("Id", "Created", "Path", "Args", "Image", "Name", "Config", "HostConfig", "Mounts", "RestartCount")
    found = {key: container.attrs[key] for key in keep}
    found["StartedAt"] = container.attrs["State"]["StartedAt"]
    found["Mounts"] = sorted(found["Mounts"], key=lambda mount: str(mount["Destination"]))
    found["diff"] = sorted(container.diff() or [], key=str)
    return found


def read(container: Container, command: list[str]) -> str:
    done = container.exec_run(command, user="0")
    assert done.exit_code == 0, done.output
    assert isinstance(done.output, bytes)
    return done.output.decode()


def test_put_over_sftp_is_in_the_container_with_the_right_owner(scene: Scene, tmp_path: Path) -> None:
    before = [unchanging(container) for container in (scene.one, scene.two, scene.plain)]
    (tmp_path / "file").write_text("from the user")
    logins = {
        scene.instance(1): (scene.one, "/home/work", "1000 1000"),
        scene.instance(2): (scene.two, "/home/work", "1000 1000"),
        scene.plain_instance: (scene.plain, "/var/lib/mysql", "999 998"),
    }
    seen = set()
    for instance, (container, path, owner) in logins.items():
        login = scene.hatchway.enable(instance, path)
        seen.add(login)
        for name, password in (("by-key", None), ("by-password", scene.hatchway.password(instance))):
            batch = f"put {tmp_path}/file {path}/{name}\nmkdir {path}/{name}-dir\n"
            scene.hatchway.sftp(login, batch, password=password)
            assert read(container, ["cat", f"{path}/{name}"]) == "from the user"
            for entry in (name, f"{name}-dir"):
                assert read(container, ["stat", "-c", "%u %g", f"{path}/{entry}"]).strip() == owner
    assert len(seen) == 3
    after = [unchanging(container) for container in (scene.one, scene.two, scene.plain)]
    for now, then in zip(after, before, strict=True):
        for key, value in then.items():
            assert now[key] == value, key


def test_what_the_container_writes_is_seen_within_two_seconds(scene: Scene) -> None:
    login = scene.hatchway.enable(scene.instance(1), "/home/work")
    session = scene.hatchway.open_sftp(login)
    assert session.stdin is not None
    session.stdin.write("ls -l\n")
    session.stdin.flush()
    wait_until(lambda: scene.hatchway.sessions() >= 1, "the session")
    read(scene.one, ["sh", "-c", "echo one > /home/work/grows; echo new > /home/work/appears"])
    time.sleep(1)
    read(scene.one, ["sh", "-c", "echo more >> /home/work/grows"])
    time.sleep(2)
    output, _ = session.communicate("ls -l\nget grows /dev/stdout\nbye\n", timeout=30)
    last = output[output.rindex("ls -l") :]
    assert "appears" in last
    assert " 9 " in next(line for line in last.splitlines() if line.endswith("grows"))


def test_only_what_was_enabled_is_there(scene: Scene) -> None:
    login = scene.hatchway.enable(scene.instance(1), "/home/work")
    done = scene.hatchway.sftp(login, "ls -1 /\nls -1 /home\n-ls /cache\n-cd /cache\n")
    assert "cache" not in done.stdout.replace("ls /cache", "").replace("cd /cache", "")
    assert done.stderr.count("No such file") + done.stderr.count("not found") == 2, done.stderr


@pytest.mark.parametrize("state", ["paused", "stopped", "restarting", "no network"])
def test_whatever_the_container_does(scene: Scene, tmp_path: Path, state: str) -> None:
    volume = scene.shop.volume(state.replace(" ", "-"))
    volumes = {volume.name: {"bind": "/data", "mode": "rw"}}
    name = f"state-{state.replace(' ', '-')}"
    looping = state == "restarting"
    container = scene.shop.container(
        name,
        ["sh", "-c", "echo again >> /data/log; exit 1"] if looping else ("sleep", "1000000"),
        volumes=volumes,
        restart_policy={"Name": "always"} if looping else {},
    )
    if state == "paused":
        container.pause()
    elif state == "stopped":
        container.kill()
        container.wait()
    elif state == "restarting":
        wait_until(lambda: restarts(container) >= 2, "two restarts")
    instance = f"default/{scene.shop.name(name)}/1"
    wait_until(lambda: instance in known(scene), "the catalog sees it")
    mountpoint = Path(volume.attrs["Mountpoint"])
    (tmp_path / "file").write_text(state)
    try:
        before = None if looping else unchanging(container)
        login = scene.hatchway.enable(instance)
        for password in (None, scene.hatchway.password(instance)):
            scene.hatchway.sftp(login, f"put {tmp_path}/file\nls\nget file {tmp_path}/got\n", password=password)
            assert (tmp_path / "got").read_text() == (mountpoint / "file").read_text() == state
        if before is not None:
            assert unchanging(container) == before
        if state == "paused":
            container.unpause()
            assert read(container, ["cat", "/data/file"]) == state
    finally:
        scene.hatchway.cli("disable", instance, "--all")
        container.remove(force=True)


def restarts(container: Container) -> int:
    container.reload()
    return int(container.attrs["RestartCount"])


def test_a_link_planted_by_the_container_leads_nowhere(scene: Scene, tmp_path: Path) -> None:
    read(
        scene.one,
        ["sh", "-c", "cd /home/work && ln -sf /etc/shadow shadow && ln -sfn / host && ln -sfn ../../../.. up"],
    )
    login = scene.hatchway.enable(scene.instance(1), "/home/work")
    batch = "".join(f"-get {name} {tmp_path}/x\n" for name in ("shadow", "host/etc/shadow", "up/etc/shadow"))
    scene.hatchway.sftp(login, batch)
    assert not (tmp_path / "x").exists()


def test_a_container_that_is_recreated_keeps_login_key_and_grant(scene: Scene, engine: str) -> None:
    volume = scene.shop.volume("again")
    volumes = {volume.name: {"bind": "/data", "mode": "rw"}}
    container = scene.shop.container("again", volumes=volumes)
    instance = f"default/{scene.shop.name('again')}/1"
    wait_until(lambda: instance in known(scene), "the catalog sees it")
    login = scene.hatchway.enable(instance)
    scene.hatchway.sftp(login, "mkdir kept\n")
    container.remove(force=True)
    wait_until(lambda: not present(scene, instance), "the catalog sees that it is gone")
    assert scene.hatchway.sftp(login, "ls\n", check=False).returncode == 255
    scene.shop.container("again", volumes=volumes)
    wait_until(lambda: present(scene, instance), "the catalog sees it again")
    assert "kept" in scene.hatchway.sftp(login, "ls\n").stdout


def test_another_volume_of_the_same_name_is_not_handed_over(scene: Scene, engine: str) -> None:
    volume = scene.shop.volume("reused")
    volumes = {volume.name: {"bind": "/data", "mode": "rw"}}
    container = scene.shop.container("reused", volumes=volumes)
    instance = f"default/{scene.shop.name('reused')}/1"
    wait_until(lambda: instance in known(scene), "the catalog sees it")
    login = scene.hatchway.enable(instance)
    scene.hatchway.sftp(login, "ls\n")
    container.remove(force=True)
    volume.remove()
    time.sleep(1.1)  # the engine tells creation times in seconds
    scene.shop.volume("reused")
    scene.shop.container("reused", volumes=volumes)
    wait_until(lambda: access(scene, instance) == "suspended", "the grant is suspended")
    assert scene.hatchway.sftp(login, "ls\n", check=False).returncode == 255


def present(scene: Scene, instance: str) -> bool:
    return any(
        info["present"]
        and f"{info['key']['environment']}/{info['key']['container']}/{info['key']['number']}" == instance
        for info in scene.hatchway.told("ls")["instances"]
    )


def access(scene: Scene, instance: str) -> str:
    for info in scene.hatchway.told("ls")["instances"]:
        key = info["key"]
        if f"{key['environment']}/{key['container']}/{key['number']}" == instance:
            return str(info["volumes"][0]["access"])
    return ""


def test_the_engine_is_asked_to_change_nothing(scene: Scene) -> None:
    """The client library can do anything; the engine's own log of events shows that we only read."""
    assert isinstance(scene.shop.client, docker.DockerClient)
    begin = int(time.time())
    login = scene.hatchway.enable(scene.instance(2), "/home/work")
    scene.hatchway.sftp(login, "ls\n")
    scene.hatchway.command("disable", scene.instance(2), "--all")
    events = list(scene.shop.client.events(since=begin, until=int(time.time()) + 1, decode=True))
    ours = {scene.one.id, scene.two.id, scene.plain.id}
    assert [event for event in events if event.get("id") in ours] == []
