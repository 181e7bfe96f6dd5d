"""Following an engine: events, lists, losses, stuck containers; with a fake engine and the autojump clock."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NoReturn

import pytest
import trio
from trio.testing import MockClock

from hatchway.catalog import docker_source
from hatchway.catalog.docker_engine import About, AnswerError, Event
from hatchway.catalog.docker_instances import Namespaces
from hatchway.catalog.docker_source import DockerSource
from hatchway.catalog.feeder import Sink
from hatchway.config import Engine as EngineConfig
from hatchway.errors import EngineError
from hatchway.model import IdPair, IdRange, InstanceState, Snapshot

from .conftest import Heard


def ident(number: int) -> str:
    return f"{number:064x}"


class FakeEngine:
    """An engine in memory, and all connections to it."""

    def __init__(self) -> None:
        self.up = True
        self.hangs = False
        self.creation_times = True
        self.options_in_files = True
        self.containers_: dict[str, dict[str, Any]] = {}
        self.volumes_: dict[str, dict[str, Any]] = {}
        self.calls: list[str] = []
        self.stuck: dict[str, float] = {}
        """By id, seconds until an inspect fails."""
        self.files: dict[tuple[str, str], str] = {}
        self.locked: set[str] = set()
        """Containers that cannot be looked into."""
        self._hear: Callable[[Event], None] | None = None
        self._down = trio.Event()
        self.open = 0

    def add(self, number: int, name: str, *, state: str = "running", volume: str = "") -> str:
        mounts = [{"Type": "volume", "Name": volume, "Destination": "/data", "RW": True}] if volume else []
        self.containers_[ident(number)] = {
            "Id": ident(number),
            "Name": f"/{name}",
            "Created": f"2026-01-01T00:00:{number % 60:02}Z",
            "State": {"Status": state},
            "Config": {"Labels": {}},
            "HostConfig": {},
            "Mounts": mounts,
        }
        if volume:
            self.volumes_[volume] = {
                "Name": volume, "Driver": "local", "Mountpoint": f"/v/{volume}/_data", "CreatedAt": "then",
            }  # fmt: skip
        return ident(number)

    async def file(self, container_id: str, path: str) -> str:
        await self._answer(f"file {container_id} {path}")
        if container_id in self.locked:
            raise AnswerError("the engine at fake does not answer: nothing within 2 s")
        return self.files.get((container_id, path), "")

    def happens(self, kind: str, id_: str) -> None:
        if self._hear is not None:
            self._hear(Event(kind, id_))

    def goes(self) -> None:
        self.up = False
        self._down.set()

    def comes(self) -> None:
        self.up = True
        self._down = trio.Event()

    async def _answer(self, call: str) -> None:
        self.calls.append(call)
        await trio.lowlevel.checkpoint()
        if self.hangs:
            await trio.sleep(20)
            raise AnswerError("the engine at fake does not answer: nothing within 20 s")
        if not self.up:
            raise EngineError("the engine at fake does not answer: No such file or directory")

    # The Engine protocol.

    async def connect(self, url: str, timeout_s: int) -> FakeEngine:
        await self._answer("connect")
        self.open += 1
        return self

    async def about(self) -> About:
        await self._answer("about")
        return About("/var/lib/docker", self.creation_times, self.options_in_files)

    async def probe(self) -> None:
        await self._answer("probe")

    async def containers(self) -> list[Any]:
        await self._answer("list")
        return [
            {"Id": raw["Id"], "State": raw["State"]["Status"], "Names": [raw["Name"]]} if "Id" in raw else raw
            for raw in self.containers_.values()
        ]

    async def inspect(self, container_id: str) -> object | None:
        await self._answer(f"inspect {int(container_id, 16)}")
        if container_id in self.stuck:
            await trio.sleep(self.stuck[container_id])
            raise AnswerError("the engine at fake refused: something is wrong with it")
        raw = self.containers_.get(container_id)
        return None if raw is None else dict(raw)

    async def volumes(self) -> list[Any]:
        await self._answer("volumes")
        return list(self.volumes_.values())

    async def events(self, seen: Callable[[Event], None], opened: Callable[[], None]) -> NoReturn:
        await self._answer("events")
        self._hear = seen
        opened()
        await self._down.wait()
        self._hear = None
        raise EngineError("the engine at fake does not answer: it ended the stream of events")

    def close(self) -> None:
        self.open -= 1


@pytest.fixture
def engine() -> FakeEngine:
    return FakeEngine()


def source(engine: FakeEngine, sink: Sink, *, users: bool = False) -> DockerSource:
    config = EngineConfig(url="unix:///fake", container_users=users)
    return DockerSource(config, sink, now=trio.current_time, connect=engine.connect)


async def test_the_first_list(
    autojump_clock: MockClock, nursery: trio.Nursery, engine: FakeEngine, heard: Heard
) -> None:
    engine.add(1, "web", volume="data")
    engine.add(2, "db", state="exited")
    nursery.start_soon(source(engine, heard).follow)
    await trio.sleep(1)
    assert heard.keys() == ["default/db/1", "default/web/1"]
    assert heard.last().source == "docker"
    assert heard.last().problem is None
    assert heard.last().data_root == "/var/lib/docker"
    (volume,) = heard.last().instances[1].volumes
    assert (volume.created, volume.refusal) == ("then", None)
    assert engine.calls.index("events") < engine.calls.index("list")
    assert heard.signs


async def test_nothing_is_published_twice_but_there_are_signs_of_life(
    autojump_clock: MockClock, nursery: trio.Nursery, engine: FakeEngine, heard: Heard
) -> None:
    engine.add(1, "web")
    nursery.start_soon(source(engine, heard).follow)
    await trio.sleep(200)
    assert len(heard.snapshots) == 1
    assert len(heard.signs) >= 200 / 5
    # A list a minute inspects only what changed.
    assert engine.calls.count("list") == 4
    assert engine.calls.count("inspect 1") == 1


async def test_an_event_has_one_container_looked_at(
    autojump_clock: MockClock, nursery: trio.Nursery, engine: FakeEngine, heard: Heard
) -> None:
    engine.add(1, "web")
    engine.add(2, "db")
    nursery.start_soon(source(engine, heard).follow)
    await trio.sleep(1)
    engine.calls.clear()
    engine.add(1, "web", state="paused")
    engine.happens("container", ident(1))
    await trio.sleep(0.3)
    assert heard.last().instances[1].state is InstanceState.PAUSED
    assert engine.calls == ["inspect 1"]
    del engine.containers_[ident(2)]
    engine.happens("container", ident(2))
    await trio.sleep(0.3)
    assert heard.keys() == ["default/web/1"]


async def test_a_new_container_brings_its_volume(
    autojump_clock: MockClock, nursery: trio.Nursery, engine: FakeEngine, heard: Heard
) -> None:
    nursery.start_soon(source(engine, heard).follow)
    await trio.sleep(1)
    assert heard.keys() == []
    engine.add(1, "web", volume="data")
    engine.happens("container", ident(1))
    await trio.sleep(0.3)
    assert heard.last().instances[0].volumes[0].refusal is None
    engine.calls.clear()
    del engine.volumes_["data"]
    engine.happens("volume", "data")
    await trio.sleep(0.3)
    assert heard.last().instances[0].volumes[0].refusal is not None
    assert engine.calls == ["volumes"]


@pytest.mark.parametrize("event", [Event("", ""), Event("daemon", "x"), Event("container", "../../info")])
async def test_an_event_of_another_form_has_everything_listed(
    event: Event, autojump_clock: MockClock, nursery: trio.Nursery, engine: FakeEngine, heard: Heard
) -> None:
    nursery.start_soon(source(engine, heard).follow)
    await trio.sleep(1)
    engine.add(1, "web")
    engine.happens(*event)
    await trio.sleep(0.3)
    assert heard.keys() == ["default/web/1"]


async def test_a_burst_is_answered_together_and_in_time(
    autojump_clock: MockClock, nursery: trio.Nursery, engine: FakeEngine, heard: Heard
) -> None:
    engine.add(1, "web")
    nursery.start_soon(source(engine, heard).follow)
    await trio.sleep(1)
    engine.calls.clear()
    for _ in range(50):  # five seconds without a pause of 200 ms
        engine.happens("container", ident(1))
        await trio.sleep(0.1)
    assert 4 <= engine.calls.count("inspect 1") <= 6
    engine.add(1, "web", state="dead")
    engine.happens("container", ident(1))
    await trio.sleep(1.1)
    assert heard.last().instances[0].state is InstanceState.DEAD


async def test_very_many_events_become_one_list(
    autojump_clock: MockClock, nursery: trio.Nursery, engine: FakeEngine, heard: Heard
) -> None:
    nursery.start_soon(source(engine, heard).follow)
    await trio.sleep(1)
    for number in range(1, 3 * docker_source.MANY):
        engine.add(number, f"c{number}")
        engine.happens("container", ident(number))
    await trio.sleep(2)
    assert len(heard.last().instances) == 3 * docker_source.MANY - 1
    assert len(heard.snapshots) == 2


async def test_a_thousand_renamed_are_not_inspected_one_by_one(
    autojump_clock: MockClock, nursery: trio.Nursery, engine: FakeEngine, heard: Heard
) -> None:
    for number in range(1, 1001):
        engine.add(number, f"c{number}")
    nursery.start_soon(source(engine, heard).follow)
    await trio.sleep(1)
    engine.calls.clear()
    for number in range(1, 1001):
        engine.add(number, f"r{number}", state="paused")
        engine.happens("container", ident(number))
    await trio.sleep(0.5)
    assert {info.runtime_name for info in heard.last().instances} == {f"r{number}" for number in range(1, 1001)}
    assert {info.state for info in heard.last().instances} == {InstanceState.PAUSED}
    assert len(engine.calls) <= docker_source.MANY + 2


async def test_what_no_event_told_is_found_within_a_minute(
    autojump_clock: MockClock, nursery: trio.Nursery, engine: FakeEngine, heard: Heard
) -> None:
    engine.add(1, "web")
    nursery.start_soon(source(engine, heard).follow)
    await trio.sleep(1)
    engine.add(1, "renamed")
    engine.add(2, "new")
    await trio.sleep(docker_source.RESYNC_EVERY_S + 5)
    assert heard.keys() == ["default/new/1", "default/renamed/1"]


async def test_loss_and_return(
    autojump_clock: MockClock, nursery: trio.Nursery, engine: FakeEngine, heard: Heard
) -> None:
    engine.add(1, "web")
    nursery.start_soon(source(engine, heard).follow)
    await trio.sleep(31)
    taken_at = trio.current_time()
    engine.goes()
    await trio.sleep(0.1)
    assert heard.last().problem == "the engine at fake does not answer: it ended the stream of events"
    assert heard.keys() == ["default/web/1"]
    assert taken_at - 4 <= heard.last().taken_at <= taken_at
    signs = len(heard.signs)
    await trio.sleep(100)
    assert heard.last().problem == "the engine at fake does not answer: No such file or directory"
    assert len(heard.signs) == signs
    assert engine.open == 0
    assert 90 <= engine.calls.count("connect") <= 110
    engine.comes()
    engine.containers_.clear()
    engine.add(2, "db")
    await trio.sleep(1.5)
    assert heard.last().problem is None
    assert heard.keys() == ["default/db/1"]
    assert heard.last().taken_at > taken_at + 90


async def test_an_engine_that_answers_nonsense_is_not_asked_for_everything_every_second(
    autojump_clock: MockClock,
    nursery: trio.Nursery,
    engine: FakeEngine,
    heard: Heard,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def nonsense() -> list[Any]:
        await engine._answer("list")
        raise AnswerError("the engine at fake gave an unusable answer: no list")

    monkeypatch.setattr(engine, "containers", nonsense)
    nursery.start_soon(source(engine, heard).follow)
    await trio.sleep(100)
    # after 0.5, 1, 2, 4, then every 5 s
    assert 18 <= engine.calls.count("list") <= 24
    assert heard.last().problem == "the engine at fake gave an unusable answer: no list"


async def test_no_engine_at_start(
    autojump_clock: MockClock, nursery: trio.Nursery, engine: FakeEngine, heard: Heard
) -> None:
    engine.goes()
    nursery.start_soon(source(engine, heard).follow)
    await trio.sleep(5)
    assert heard.snapshots == [
        Snapshot(source="docker", taken_at=0.0, problem="the engine at fake does not answer: No such file or directory")
    ]


async def test_an_engine_that_hangs(
    autojump_clock: MockClock, nursery: trio.Nursery, engine: FakeEngine, heard: Heard
) -> None:
    engine.add(1, "web")
    nursery.start_soon(source(engine, heard).follow)
    await trio.sleep(1)
    engine.hangs = True
    await trio.sleep(docker_source.PROBE_EVERY_S + 21)
    assert heard.last().problem == "the engine at fake does not answer: nothing within 20 s"
    assert heard.keys() == ["default/web/1"]
    engine.hangs = False
    await trio.sleep(60)
    assert heard.last().problem is None


async def test_garbage_is_left_out_and_told(
    autojump_clock: MockClock, nursery: trio.Nursery, engine: FakeEngine, heard: Heard
) -> None:
    engine.add(1, "web")
    engine.add(2, "odd")
    engine.containers_[ident(2)]["Mounts"] = "none"
    engine.containers_["no id"] = {"Names": ["/x"]}
    engine.containers_["other"] = {}
    nursery.start_soon(source(engine, heard).follow)
    await trio.sleep(1)
    assert heard.keys() == ["default/web/1"]
    problem = heard.last().problem or ""
    assert "1 containers cannot be read and are left out: 000000000000" in problem
    assert "2 containers in the engine's list have no usable id" in problem
    assert heard.last().partly
    signs = len(heard.signs)
    await trio.sleep(10)
    assert len(heard.signs) > signs


async def test_what_cannot_be_read_any_more_is_shown_as_it_was(
    autojump_clock: MockClock,
    nursery: trio.Nursery,
    engine: FakeEngine,
    heard: Heard,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """An engine that begins to talk nonsense does not end the sessions of everybody."""
    engine.add(1, "web", volume="data")
    engine.add(2, "db", volume="rows")
    nursery.start_soon(source(engine, heard).follow)
    await trio.sleep(1)
    before = heard.last().instances

    async def odd() -> list[Any]:
        return [5, "x", None, {"Names": []}]

    with monkeypatch.context() as patch:
        patch.setattr(engine, "containers", odd)
        patch.setattr(engine, "volumes", odd)
        engine.containers_[ident(1)]["Mounts"] = 5
        engine.happens("container", ident(1))
        engine.happens("", "")
        await trio.sleep(1)
        assert heard.last().instances == before
        assert heard.last().problem == (
            "4 containers in the engine's list have no usable id and are left out; "
            "4 volumes in the engine's list cannot be read and are left out; "
            "1 containers cannot be read now, shown as they were last: 000000000000"
        )
    engine.add(1, "renamed", volume="data")
    del engine.containers_[ident(2)]
    await trio.sleep(docker_source.RESYNC_EVERY_S + 5)
    assert heard.last().problem is None
    assert heard.keys() == ["default/renamed/1"]


async def test_a_stuck_container_holds_up_nobody_for_long(
    autojump_clock: MockClock, nursery: trio.Nursery, engine: FakeEngine, heard: Heard
) -> None:
    engine.add(1, "web")
    engine.add(2, "stuck")
    nursery.start_soon(source(engine, heard).follow)
    await trio.sleep(1)
    engine.stuck[ident(2)] = 20
    engine.happens("container", ident(2))
    await trio.sleep(30)
    assert heard.keys() == ["default/stuck/1", "default/web/1"]
    assert heard.last().problem == "1 containers cannot be read now, shown as they were last: 000000000000"
    engine.calls.clear()
    await trio.sleep(300)
    assert "inspect 2" not in engine.calls
    del engine.stuck[ident(2)]
    await trio.sleep(400)
    assert heard.last().problem is None


async def test_an_answer_that_fails_at_once_is_asked_for_again_soon(
    autojump_clock: MockClock, nursery: trio.Nursery, engine: FakeEngine, heard: Heard
) -> None:
    engine.add(1, "web")
    engine.stuck[ident(1)] = 0
    nursery.start_soon(source(engine, heard).follow)
    await trio.sleep(1)
    assert heard.keys() == []
    assert heard.last().problem is not None
    engine.stuck.clear()
    await trio.sleep(docker_source.RESYNC_EVERY_S + 5)
    assert heard.keys() == ["default/web/1"]
    assert heard.last().problem is None


async def test_creation_times_that_mean_nothing_are_left_out(
    autojump_clock: MockClock, nursery: trio.Nursery, engine: FakeEngine, heard: Heard
) -> None:
    engine.creation_times = False
    engine.add(1, "web", volume="data")
    nursery.start_soon(source(engine, heard).follow)
    await trio.sleep(1)
    (volume,) = heard.last().instances[0].volumes
    assert (volume.created, volume.refusal) == ("", None)


@pytest.mark.parametrize(
    ("in_files", "words"), [(True, None), (False, "options type, device, o are not supported yet")]
)
async def test_options_that_hostd_can_read_itself_are_left_to_it(
    autojump_clock: MockClock,
    nursery: trio.Nursery,
    engine: FakeEngine,
    heard: Heard,
    in_files: bool,
    words: str | None,
) -> None:
    engine.options_in_files = in_files
    engine.add(1, "web", volume="data")
    engine.volumes_["data"]["Options"] = {"type": "cifs", "device": "//h/s", "o": "password=s3cret"}
    nursery.start_soon(source(engine, heard).follow)
    await trio.sleep(1)
    (volume,) = heard.last().instances[0].volumes
    assert volume.source == ("/v/data/_data" if in_files else None)
    assert (volume.refusal or "").startswith(f"volumes with the {words}" if words else "")
    assert (volume.refusal is None) == in_files
    assert "s3cret" not in repr(heard.last())


async def test_a_fault_of_ours_is_a_problem_and_not_the_end(
    autojump_clock: MockClock,
    nursery: trio.Nursery,
    engine: FakeEngine,
    heard: Heard,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    engine.add(1, "web")
    nursery.start_soon(source(engine, heard).follow)
    await trio.sleep(1)
    with monkeypatch.context() as patch:
        patch.setattr(engine, "inspect", None)
        engine.happens("container", ident(1))
        await trio.sleep(1)
        assert "the log has the details" in (heard.last().problem or "")
        assert heard.keys() == ["default/web/1"]
    await trio.sleep(20)
    assert heard.last().problem is None


async def test_cancellation_ends_it_at_once(autojump_clock: MockClock, engine: FakeEngine, heard: Heard) -> None:
    engine.add(1, "web")
    start = trio.current_time()
    with trio.move_on_after(10):
        await source(engine, heard).follow()
    assert trio.current_time() - start == pytest.approx(10)
    assert engine.open == 0


async def test_users_with_names_are_looked_up_once_and_only_if_the_operator_says_so(
    autojump_clock: MockClock, nursery: trio.Nursery, engine: FakeEngine, heard: Heard
) -> None:
    for number, user in enumerate(("", "app", "7:8", "nobody"), 1):
        engine.add(number, f"c{number}")
        engine.containers_[ident(number)]["Config"]["User"] = user
    engine.files = {(ident(2), "/etc/passwd"): "app:x:1000:50::/:"}
    async with trio.open_nursery() as other:
        other.start_soon(source(engine, heard).follow)
        await trio.sleep(100)
        other.cancel_scope.cancel()
    assert [one.owner for one in heard.last().instances] == [IdPair(0, 0), None, IdPair(7, 8), None]
    assert "engine.container_users" in heard.last().instances[1].owner_problem
    assert not [call for call in engine.calls if call.startswith("file")]

    engine.comes()
    nursery.start_soon(source(engine, heard, users=True).follow)
    await trio.sleep(1)
    assert [one.owner for one in heard.last().instances] == [IdPair(0, 0), IdPair(1000, 50), IdPair(7, 8), None]
    assert heard.last().instances[3].owner_problem == "the container has no user 'nobody'"
    await trio.sleep(200)
    asked = [call for call in engine.calls if call.startswith("file")]
    assert asked == [f"file {ident(n)} {path}" for n in (2, 4) for path in ("/etc/passwd", "/etc/group")]
    # Made again: another container.
    del engine.containers_[ident(2)]
    engine.happens("container", ident(2))
    engine.add(5, "c2")
    engine.containers_[ident(5)]["Config"]["User"] = "app"
    engine.happens("container", ident(5))
    engine.files = {(ident(5), "/etc/passwd"): "app:x:2000:0::/:"}
    await trio.sleep(1)
    assert {one.runtime_name: one.owner for one in heard.last().instances}["c2"] == IdPair(2000, 0)


async def test_a_container_that_cannot_be_looked_into_is_tried_again_later(
    autojump_clock: MockClock, nursery: trio.Nursery, engine: FakeEngine, heard: Heard
) -> None:
    engine.add(1, "web")
    engine.containers_[ident(1)]["Config"]["User"] = "app"
    engine.files = {(ident(1), "/etc/passwd"): "app:x:1000:50::/:"}
    engine.locked.add(ident(1))
    nursery.start_soon(source(engine, heard, users=True).follow)
    await trio.sleep(60)
    assert len([call for call in engine.calls if call.startswith("file")]) == 1
    assert heard.last().instances[0].owner is None
    engine.locked.clear()
    engine.happens("container", ident(1))
    await trio.sleep(1)
    assert heard.last().instances[0].owner == IdPair(1000, 50)


def test_which_ids_an_engines_are() -> None:
    assert docker_source._namespaces(About("/var/lib/docker", True, True)) == Namespaces()
    assert "rootless" in docker_source._namespaces(About("/r", True, True, rootless=True)).problem
    assert "does not tell" in docker_source._namespaces(About("/var/lib/docker", True, True, remapped=True)).problem
    found = docker_source._namespaces(About("/var/lib/docker/4000000000.4100000000", True, True, remapped=True))
    assert found == Namespaces((IdRange(0, 4000000000, 65536),), (IdRange(0, 4100000000, 65536),))
