"""The catalog against a real engine: every state, every kind of mount, events, and the engine's end and return."""

from __future__ import annotations

import functools
import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

import docker
import pytest
import trio
from tests.sshd.dockerd import PrivateDockerd, Workshop, client_of, make_image, need_private, running_engine, workshop

from hatchway.catalog import docker_source
from hatchway.catalog.docker_source import DockerSource
from hatchway.config import Engine as EngineConfig
from hatchway.model import InstanceInfo, InstanceState, Snapshot, VolumeInfo, VolumeKind

T = TypeVar("T")

CONVERGED_S = 2.0
"""How soon after the last event the feed is right."""
RECOVERED_S = docker_source.BACKOFF_MAX_S + 10


class Followed:
    """What a source published, and waiting for it."""

    def __init__(self) -> None:
        self.snapshot: Snapshot | None = None
        self.signs = 0
        self._changed = trio.Event()

    def publish(self, snapshot: Snapshot) -> None:
        self.snapshot = snapshot
        self._changed.set()
        self._changed = trio.Event()

    def alive(self, source: str) -> None:
        assert source == "docker"
        self.signs += 1

    async def until(self, true: Callable[[Snapshot], bool], within_s: float = CONVERGED_S) -> Snapshot:
        """The first snapshot of which `true` holds; fails when there is none `within_s` seconds from now."""
        with trio.move_on_after(within_s):
            while True:
                changed = self._changed
                if self.snapshot is not None and true(self.snapshot):
                    return self.snapshot
                await changed.wait()
        pytest.fail(f"not within {within_s} s; last: {self.snapshot}")

    def state(self, name: str) -> InstanceState | None:
        assert self.snapshot is not None
        return state(self.snapshot, name)


def instance(snapshot: Snapshot, name: str) -> InstanceInfo | None:
    return next((info for info in snapshot.instances if info.runtime_name == name), None)


def state(snapshot: Snapshot, name: str) -> InstanceState | None:
    info = instance(snapshot, name)
    return None if info is None else info.state


def anything(snapshot: Snapshot) -> bool:
    return True


async def blocking(call: Callable[..., T], *arguments: object, **options: object) -> T:
    """`call` in a thread: the source must go on meanwhile."""
    return await trio.to_thread.run_sync(functools.partial(call, *arguments, **options))


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with running_engine(tmp_path_factory.mktemp("e") / "d") as url:
        yield url


@pytest.fixture
def shop(engine: str) -> Iterator[Workshop]:
    with client_of(engine) as client, workshop(client) as made:
        yield made


@pytest.fixture
def own_engine(tmp_path: Path) -> Iterator[PrivateDockerd]:
    """An engine that the test may end as it likes, not started yet."""
    need_private()
    made = PrivateDockerd(tmp_path / "d")
    try:
        yield made
    finally:
        made.stop()


def follow(nursery: trio.Nursery, url: str, timeout_s: int = 20) -> Followed:
    followed = Followed()
    nursery.start_soon(DockerSource(EngineConfig(url=url, timeout_s=timeout_s), followed).follow)
    return followed


async def test_every_state(engine: str, shop: Workshop, nursery: trio.Nursery) -> None:
    shop.container("running")
    shop.container("paused").pause()
    shop.container("stopped").kill()
    shop.container("created", start=False)
    shop.container("crashed", ["sh", "-c", "exit 3"]).wait()
    shop.container("looping", ["false"], restart_policy={"Name": "always"})
    shop.container("isolated", network_mode="none", user="app:app")
    followed = follow(nursery, engine)
    first = await followed.until(anything, within_s=30)
    assert first.problem is None
    assert first.data_root == shop.client.info()["DockerRootDir"]
    assert {
        name: state(first, shop.name(name))
        for name in ("running", "paused", "stopped", "created", "crashed", "isolated")
    } == {
        "running": InstanceState.RUNNING,
        "paused": InstanceState.PAUSED,
        "stopped": InstanceState.EXITED,
        "created": InstanceState.CREATED,
        "crashed": InstanceState.EXITED,
        "isolated": InstanceState.RUNNING,
    }
    isolated = instance(first, shop.name("isolated"))
    assert isolated is not None
    assert str(isolated.key) == f"default/{shop.name('isolated')}/1"
    assert isolated.user == "app:app"
    assert isolated.image == "hatchway-test:latest"
    # Its state is one of several at any moment; the engine waits longer after each crash.
    await followed.until(lambda snapshot: state(snapshot, shop.name("looping")) is InstanceState.RESTARTING, 20)
    nursery.cancel_scope.cancel()


async def test_every_kind_of_mount(engine: str, shop: Workshop, nursery: trio.Nursery, tmp_path: Path) -> None:
    volume = shop.volume("data")
    shop.volume("ondemand", driver_opts={"type": "tmpfs", "device": "tmpfs", "o": "size=1m"})
    api = tuple(int(part) for part in shop.client.version()["ApiVersion"].split("."))
    mount = docker.types.Mount
    mounts = [
        mount("/data", volume.name),
        mount("/readonly", volume.name, read_only=True),
        mount("/anonymous", None),
        mount("/ondemand", shop.name("ondemand")),
        mount("/bind", str(tmp_path), type="bind"),
        mount("/run/docker.sock", engine.removeprefix("unix://"), type="bind"),
        mount("/tmpfs", None, type="tmpfs"),
    ]
    if api >= (1, 45):  # Engine 26.0
        # The engine cleans the path where it says what is mounted, not where it says what was asked for.
        mounts.append(mount("//subpath", volume.name, subpath="inside"))
    shop.container("web", start=False, mounts=mounts, tmpfs={"/cache": ""})
    followed = follow(nursery, engine)
    snapshot = await followed.until(anything, within_s=30)
    info = instance(snapshot, shop.name("web"))
    assert info is not None
    found = {item.path: item for item in info.volumes}
    mountpoint = f"{snapshot.data_root}/volumes/{volume.name}/_data"
    assert found["/data"] == VolumeInfo(
        path="/data",
        kind=VolumeKind.VOLUME,
        name=shop.name("data"),
        driver="local",
        created=volume.attrs["CreatedAt"] if api >= (1, 42) else "",
        source=mountpoint,
    )
    assert found["/readonly"].read_only
    assert found["/readonly"].refusal is None
    anonymous = found["/anonymous"]
    assert anonymous.name.startswith("anonymous-")
    assert anonymous.refusal is None
    assert anonymous.source is not None
    assert os.path.isdir(anonymous.source)
    refusals = {path: item.refusal or "" for path, item in found.items() if item.refusal is not None}
    if api >= (1, 45):
        assert found["/subpath"].source == f"{mountpoint}/inside"
    assert found["/bind"] == VolumeInfo(path="/bind", kind=VolumeKind.BIND, source=str(tmp_path))
    # What a volume's options are hostd finds out, and takes nobody's word for.
    assert refusals.keys() == {"/run/docker.sock", "/tmpfs", "/cache"}
    assert "never shared" in refusals["/run/docker.sock"]
    assert refusals["/tmpfs"] == refusals["/cache"] == "a tmpfs has no contents on the host"
    nursery.cancel_scope.cancel()


async def test_a_volume_stays_the_same_whatever_happens_in_it(
    engine: str, shop: Workshop, nursery: trio.Nursery
) -> None:
    # Engines before 23.0 give the time of the last change as that of the creation.
    container = shop.container("web", volumes=[f"{shop.volume('data').name}:/data"])
    followed = follow(nursery, engine)
    before = instance(await followed.until(anything, within_s=30), shop.name("web"))
    assert before is not None
    await trio.sleep(1.1)  # CreatedAt has seconds
    await blocking(container.exec_run, ["sh", "-c", "touch /data/new && chmod 700 /data"])
    await blocking(container.stop, timeout=0)
    snapshot = await followed.until(lambda snapshot: state(snapshot, shop.name("web")) is InstanceState.EXITED)
    after = instance(snapshot, shop.name("web"))
    assert after is not None
    assert after.volumes[0].identity == before.volumes[0].identity
    nursery.cancel_scope.cancel()


async def test_compose_replicas(engine: str, shop: Workshop, nursery: trio.Nursery) -> None:
    def labels(number: int, one_off: bool = False) -> dict[str, str]:
        return {
            "com.docker.compose.project": f"p{shop.tag}",
            "com.docker.compose.service": "web",
            "com.docker.compose.container-number": str(number),
            "com.docker.compose.oneoff": str(one_off),
        }

    followed = follow(nursery, engine)
    await followed.until(anything, within_s=30)
    for number in (1, 2, 3):
        await blocking(shop.container, f"web-{number}", labels=labels(number))
    await blocking(shop.container, "run", labels=labels(1, one_off=True))
    # While Compose recreates a container, there are two of the same labels.
    twin = await blocking(shop.container, "twin", labels=labels(2), start=False)
    expected = {f"p{shop.tag}/web/{number}": shop.name(f"web-{number}") for number in (1, 2, 3)}
    expected |= {f"default/{shop.name(name)}/1": shop.name(name) for name in ("run", "twin")}

    def keys(snapshot: Snapshot) -> dict[str, str]:
        return {str(info.key): info.runtime_name for info in snapshot.instances if shop.tag in info.runtime_name}

    await followed.until(lambda snapshot: keys(snapshot) == expected)
    await blocking(shop.client.containers.get(shop.name("web-2")).remove, force=True)
    await blocking(twin.rename, shop.name("web-2"))
    del expected[f"default/{shop.name('twin')}/1"]
    await followed.until(lambda snapshot: keys(snapshot) == expected)
    nursery.cancel_scope.cancel()


async def test_each_event_arrives_in_time(engine: str, shop: Workshop, nursery: trio.Nursery) -> None:
    followed = follow(nursery, engine)
    await followed.until(anything, within_s=30)
    name = shop.name("web")
    volume = await blocking(shop.volume, "data")
    container = await blocking(shop.container, "web", start=False, volumes=[f"{volume.name}:/data"])

    async def shows(expected: InstanceState | None) -> None:
        await followed.until(lambda snapshot: state(snapshot, name) is expected)

    await shows(InstanceState.CREATED)
    await blocking(container.start)
    await shows(InstanceState.RUNNING)
    await blocking(container.pause)
    await shows(InstanceState.PAUSED)
    await blocking(container.unpause)
    await shows(InstanceState.RUNNING)
    await blocking(container.kill)
    await shows(InstanceState.EXITED)
    await blocking(container.rename, name + "-old")
    await shows(None)
    await followed.until(lambda snapshot: state(snapshot, name + "-old") is InstanceState.EXITED)
    await blocking(container.remove)
    await followed.until(lambda snapshot: state(snapshot, name + "-old") is None)
    nursery.cancel_scope.cancel()


async def test_a_burst_of_events(engine: str, shop: Workshop, nursery: trio.Nursery) -> None:
    followed = follow(nursery, engine)
    await followed.until(anything, within_s=30)

    def burst() -> None:
        for number in range(20):
            shop.container(f"c{number}", start=False)
        for number in range(0, 20, 2):
            shop.client.containers.get(shop.name(f"c{number}")).remove()

    await blocking(burst)
    expected = {shop.name(f"c{number}") for number in range(1, 20, 2)}
    await followed.until(
        lambda snapshot: {info.runtime_name for info in snapshot.instances if shop.tag in info.runtime_name} == expected
    )
    nursery.cancel_scope.cancel()


async def test_the_engine_ends_and_returns(own_engine: PrivateDockerd, nursery: trio.Nursery) -> None:
    engine = own_engine
    followed = follow(nursery, engine.url)
    absent = await followed.until(anything)
    assert absent.problem == f"the engine at {engine.url} does not answer: No such file or directory"
    assert (absent.instances, absent.taken_at) == ((), 0.0)
    await blocking(engine.start)
    await blocking(make_image, engine.url)
    with client_of(engine.url) as client:
        await blocking(Workshop(client).container, "one")
    there = await followed.until(lambda snapshot: len(snapshot.instances) == 1, RECOVERED_S)
    assert there.problem is None
    await blocking(engine.stop)
    gone = await followed.until(lambda snapshot: snapshot.problem is not None)
    assert f"the engine at {engine.url} does not answer" in (gone.problem or "")
    assert [info.key for info in gone.instances] == [info.key for info in there.instances]
    assert gone.taken_at >= there.taken_at
    signs = followed.signs
    await trio.sleep(docker_source.PROBE_EVERY_S + 1)
    assert followed.signs == signs
    await blocking(engine.start)
    await blocking(make_image, engine.url)
    back = await followed.until(lambda snapshot: snapshot.problem is None, RECOVERED_S)
    assert back.instances == ()
    with client_of(engine.url) as client:
        await blocking(Workshop(client).container, "two", start=False)
    await followed.until(lambda snapshot: [info.state for info in snapshot.instances] == [InstanceState.CREATED])
    nursery.cancel_scope.cancel()


async def test_an_engine_that_stops_answering(own_engine: PrivateDockerd, nursery: trio.Nursery) -> None:
    engine = own_engine
    await blocking(engine.start)
    followed = follow(nursery, engine.url, timeout_s=1)
    await followed.until(lambda snapshot: snapshot.problem is None)
    os.kill(engine.pid, signal.SIGSTOP)
    try:
        stopped = await followed.until(lambda snapshot: snapshot.problem is not None, 10)
        assert stopped.problem == f"the engine at {engine.url} does not answer: nothing within 1 s"
    finally:
        os.kill(engine.pid, signal.SIGCONT)
    await followed.until(lambda snapshot: snapshot.problem is None, RECOVERED_S)
    nursery.cancel_scope.cancel()
