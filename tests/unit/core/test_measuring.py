"""Sizes of volumes: which hostd is asked for, when, what is remembered of its answers, and that nothing needs them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import structlog
import trio
from msgspec import structs
from tests.unit.core.stage import WEB, Stage, snapshot, staged, volume
from trio.testing import MockClock

from hatchway.admin import measuring
from hatchway.admin.core import Core
from hatchway.admin.hostlink import HostLink
from hatchway.admin.inventory import Inventory
from hatchway.admin.measuring import Measuring
from hatchway.config import Config, Paths
from hatchway.errors import NotRunningError
from hatchway.model import Directory, InstanceKey, Limits, NewLimits
from hatchway.registry.store import Registry
from hatchway.sshd import hostkeys
from hatchway.wire.admin import DaemonStatus, Disable, Enable, ListInstances, Show, VolumeStatus
from hatchway.wire.frames import Channel, encode
from hatchway.wire.host import Measure, SharedVolume, Sizes, Usage, VolumeSize

DATA, LOGS = (Directory(f"/var/lib/docker/volumes/{name}/_data", "inode:2:1.0") for name in ("data", "logs"))
COUNTED = Usage(1234, 5, 999.0)


def shared(directory: Directory, **more: object) -> SharedVolume:
    return SharedVolume(source=directory.source, birth=directory.birth, **more)  # type: ignore[arg-type]


async def volumes(stage: Stage) -> dict[str, VolumeStatus]:
    (listed,) = [one for one in (await stage.do(ListInstances())).instances if one.key == WEB]
    return {one.path: one for one in listed.volumes}


async def test_a_volume_of_two_instances_is_one(tmp_path: Path) -> None:
    async with staged(tmp_path) as stage:
        first = snapshot(volume("/data"))
        second = structs.replace(first.instances[0], key=InstanceKey("shop", "web", 2), runtime_id="9")
        await stage.core.feed(structs.replace(first, instances=(*first.instances, second)))
        await stage.do(Enable(instance="shop/web/1", volumes=("/data",)))
        await stage.do(Enable(instance="shop/web/2", volumes=("/data",), limits=NewLimits(files=9)))
        await stage.measuring.sizes()
        assert stage.host.measured[-1] == (shared(DATA, limits=Limits(files=9)),)


async def test_sizes_are_shown_of_what_is_shared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hostkeys, "read", lambda _directory: ())
    async with staged(tmp_path) as stage:
        stage.host.sizes = {one.source: VolumeSize(used=7, counted=COUNTED) for one in (DATA, LOGS)}
        assert (await volumes(stage))["/data"].size is None
        await stage.do(Enable(instance="shop/web/1", volumes=("/data",)))
        found = await volumes(stage)
        assert (found["/data"].size, found["/logs"].size) == (VolumeSize(used=7, counted=COUNTED), None)
        info = await stage.do(Show(instance="shop/web/1"))
        assert [one.size for one in info.instance.volumes if one.path == "/data"] == [found["/data"].size]
        # Another directory, of which hostd says nothing.
        stage.host.born[DATA.source] = "inode:9:9.0"
        await stage.core.feed(snapshot(volume("/data")))
        assert (await volumes(stage))["/data"].size is None


@pytest.mark.parametrize("problem", ["hostd hung up", None])
async def test_without_sizes_everything_else_works(
    tmp_path: Path, problem: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hostkeys, "read", lambda _directory: ())
    async with staged(tmp_path) as stage:
        await stage.do(Enable(instance="shop/web/1", volumes=("/data",)))
        stage.host.unmeasurable = NotRunningError("hostd.sock hung up without an answer")
        stage.host.problem = problem
        asked = len(stage.host.measured)
        with structlog.testing.capture_logs() as logged:
            for _ in range(3):
                assert (await volumes(stage))["/data"].size is None
                await stage.do(Show(instance="shop/web/1"))
        assert len(stage.host.measured) == asked
        warned = [one for one in logged if one["log_level"] == "warning"]
        # Once, and not at all when it is known that hostd is away.
        assert len(warned) == (1 if problem is None else 0)
        away, stage.host.problem, stage.host.unmeasurable = stage.host.unmeasurable, None, None
        assert (await volumes(stage))["/data"].size is not None
        # The next time is another one.
        stage.host.unmeasurable = away
        with structlog.testing.capture_logs() as logged:
            assert (await volumes(stage))["/data"].size is None
        assert [one["log_level"] for one in logged] == ["warning"]


async def test_an_answer_of_another_length_counts_as_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def measure(_volumes: object) -> Sizes:
        return Sizes(())

    async with staged(tmp_path) as stage:
        await stage.do(Enable(instance="shop/web/1", volumes=("/data",)))
        monkeypatch.setattr(stage.host, "measure", measure)
        assert (await volumes(stage))["/data"].size is None


async def test_hostd_is_not_asked_before_it_is_known_what_is_shared(tmp_path: Path) -> None:
    """It would forget what it has counted."""
    async with staged(tmp_path) as stage:
        await stage.do(Enable(instance="shop/web/1", volumes=("/data",)))
        asked, old = len(stage.host.measured), stage.core
        successor = Core(old.config, old.registry, old.sealing, Inventory(), stage.host)
        assert await Measuring(successor).sizes() == {}
        assert len(stage.host.measured) == asked
        await successor.sync()
        assert list(await Measuring(successor).sizes()) == [DATA]


async def until(condition: Callable[[], bool]) -> None:
    with trio.fail_after(10):
        while not condition():
            await trio.sleep(0.01)


async def test_what_is_shared_is_asked_for_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measuring, "TOGETHER_S", 0.01)
    async with staged(tmp_path) as stage, trio.open_nursery() as nursery:
        nursery.start_soon(stage.measuring.run)
        asked = stage.host.measured
        await stage.do(Enable(instance="shop/web/1", volumes=("/data",)))
        await until(lambda: asked[-1:] == [(shared(DATA),)])
        limited = shared(DATA, limits=Limits(1 << 30))
        await stage.do(Enable(instance="shop/web/1", volumes=("/data",), limits=NewLimits(1 << 30)))
        await until(lambda: asked[-1:] == [(limited,)])
        await stage.do(Enable(instance="shop/web/1", volumes=("/logs",)))
        await until(lambda: asked[-1:] == [(limited, shared(LOGS))])
        await stage.do(Disable(instance="shop/web/1", every=True))
        await until(lambda: asked[-1:] == [()])
        # A hostd that has just been reached knows nothing.
        count = len(asked)
        stage.core.tell_sharing()
        await until(lambda: len(asked) == count + 1)
        nursery.cancel_scope.cancel()


async def test_hostd_is_asked_again_and_again_whatever_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("the disk is full")

    monkeypatch.setattr(measuring, "TOGETHER_S", 0.01)
    monkeypatch.setattr(measuring, "MEASURE_EVERY_S", 0.01)
    async with staged(tmp_path) as stage, trio.open_nursery() as nursery:
        await stage.do(Enable(instance="shop/web/1", volumes=("/data",)))
        stage.host.sizes[DATA.source] = VolumeSize(counted=COUNTED)
        keep = Registry.keep_sizes
        monkeypatch.setattr(Registry, "keep_sizes", fail)
        with structlog.testing.capture_logs() as logged:
            nursery.start_soon(stage.measuring.run)
            await until(lambda: len(stage.host.measured) > 3)
        assert "sizes of volumes not known or not kept" in {one["event"] for one in logged}
        monkeypatch.setattr(Registry, "keep_sizes", keep)
        await until(lambda: stage.core.registry.sizes() == {DATA: COUNTED})
        nursery.cancel_scope.cancel()


async def test_what_was_counted_is_remembered_for_the_next_start(tmp_path: Path) -> None:
    async with staged(tmp_path) as stage:
        await stage.do(Enable(instance="shop/web/1", volumes=("/data",)))
        stage.host.sizes[DATA.source] = VolumeSize(used=7, counted=COUNTED)
        await stage.measuring.step()
        assert stage.host.measured[-1] == (shared(DATA),)
        assert stage.core.registry.sizes() == {DATA: COUNTED}
        old = stage.core
        successor = Core(old.config, old.registry, old.sealing, stage.inventory, stage.host)
        await successor.sync()
        stage.host.sizes.clear()
        await Measuring(successor).sizes()
        assert stage.host.measured[-1] == (shared(DATA, known=COUNTED),)


async def test_counts_are_written_when_they_change_and_not_too_often(
    tmp_path: Path, mock_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept, keep = list[Usage](), Registry.keep_sizes

    def keeping(self: Registry, counted: dict[Directory, Usage], of: set[Directory]) -> None:
        kept.append(counted[DATA])
        keep(self, counted, of)

    monkeypatch.setattr(Registry, "keep_sizes", keeping)
    async with staged(tmp_path) as stage:
        await stage.do(Enable(instance="shop/web/1", volumes=("/data",)))
        for _ in range(5):
            await stage.measuring.step()
            mock_clock.jump(measuring.MEASURE_EVERY_S)
        assert kept == []
        for number in range(100):
            stage.host.sizes[DATA.source] = VolumeSize(counted=Usage(number, 1, number))
            await stage.measuring.step()
            mock_clock.jump(measuring.MEASURE_EVERY_S / 10)
        assert [one.size for one in kept] == list(range(0, 100, 10))
        for _ in range(5):
            await stage.measuring.step()
            mock_clock.jump(measuring.MEASURE_EVERY_S)
        assert [one.size for one in kept[10:]] == [99]
        assert stage.core.registry.sizes() == {DATA: Usage(99, 1, 99)}


async def test_counts_of_what_nobody_shares_any_more_are_forgotten(tmp_path: Path, mock_clock: MockClock) -> None:
    async with staged(tmp_path) as stage:
        stage.host.sizes = {one.source: VolumeSize(counted=COUNTED) for one in (DATA, LOGS)}
        await stage.do(Enable(instance="shop/web/1", every=True))
        await stage.measuring.step()
        assert stage.core.registry.sizes() == {DATA: COUNTED, LOGS: COUNTED}
        # An instance that is gone may be back.
        await stage.core.feed(structs.replace(snapshot(), instances=()))
        mock_clock.jump(measuring.MEASURE_EVERY_S)
        await stage.measuring.step()
        assert set(stage.core.registry.sizes()) == {DATA, LOGS}
        await stage.do(Disable(instance="shop/web/1", volumes=("/logs",)))
        mock_clock.jump(measuring.MEASURE_EVERY_S)
        await stage.measuring.step()
        assert set(stage.core.registry.sizes()) == {DATA}


FULL = VolumeSize(used=100 << 20, usable=100 << 20, nominal=108 << 20, available=0, limits=Limits(108 << 20))


@pytest.mark.parametrize(
    ("size", "problem"),
    [
        (FULL, "nothing can be uploaded to /data: it is full"),
        (structs.replace(FULL, used=101 << 20), "nothing can be uploaded to /data: it is over its limit"),
        (VolumeSize(used=7, available=0), "nothing can be uploaded to /data: the disk it is on is full"),
        (VolumeSize(files_used=7, files_usable=7), "no file can be added to /data: it has as many as there may be"),
        (VolumeSize(files_used=8, files_usable=7), "no file can be added to /data: it has more than its limit allows"),
        (VolumeSize(used=7, available=1 << 20), None),
        (VolumeSize(), None),
    ],
)
async def test_a_full_volume_is_a_problem_where_it_could_be_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, size: VolumeSize, problem: str | None
) -> None:
    monkeypatch.setattr(hostkeys, "read", lambda _directory: ())
    async with staged(tmp_path) as stage:
        stage.host.sizes[DATA.source] = size
        await stage.do(Enable(instance="shop/web/1", volumes=("/data",)))
        shown = (await stage.do(Show(instance="shop/web/1"))).problems
        assert [one.text for one in shown] == ([] if problem is None else [problem])
        # What this instance's own grant does not limit is not mended by another limit.
        assert [one.mend for one in shown] == [""] * len(shown)
        assert (await stage.do(DaemonStatus())).full == (() if problem is None else ("shop/web/1 /data",))
        await stage.do(Enable(instance="shop/web/1", volumes=("/data",), read_only=True))
        assert (await stage.do(Show(instance="shop/web/1"))).problems == ()
        assert (await stage.do(DaemonStatus())).full == ()


@pytest.mark.parametrize(
    ("size", "given", "option"),
    [
        (FULL, NewLimits(size=108 << 20), "--size"),
        (structs.replace(FULL, used=101 << 20), NewLimits(size=108 << 20), "--size"),
        (VolumeSize(files_used=7, files_usable=7, limits=Limits(None, 7)), NewLimits(files=7), "--files"),
    ],
)
async def test_a_limit_is_mended_where_it_was_given(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, size: VolumeSize, given: NewLimits, option: str
) -> None:
    monkeypatch.setattr(hostkeys, "read", lambda _directory: ())
    async with staged(tmp_path) as stage:
        stage.host.sizes[DATA.source] = size
        await stage.do(Enable(instance="shop/web/1", volumes=("/data",), limits=given))
        (shown,) = (await stage.do(Show(instance="shop/web/1"))).problems
        assert shown.mend == f"hatchway enable shop/web/1 /data {option} LIMIT"
        # Another's limit, which is stricter, holds now: one here would change nothing.
        stage.host.sizes[DATA.source] = structs.replace(size, limits=Limits(1 << 20, 3))
        (shown,) = (await stage.do(Show(instance="shop/web/1"))).problems
        assert shown.mend == ""


@pytest.mark.parametrize("knows", [True, False])
async def test_the_link_asks_and_hears_sizes(tmp_path: Path, knows: bool) -> None:
    config = Config(paths=Paths(run_dir=str(tmp_path)))
    listener = trio.socket.socket(trio.socket.AF_UNIX)
    await listener.bind(config.hostd_socket)
    listener.listen()
    volumes = (shared(DATA, limits=Limits(1 << 30), known=COUNTED), shared(LOGS))
    answer = Sizes((VolumeSize(used=7, counted=COUNTED), VolumeSize(own=True)))
    heard = list[Measure]()

    async def serve() -> None:
        server, _ = await listener.accept()
        async with trio.SocketStream(server) as stream:
            heard.append(await Channel(stream).receive(Measure))
            if knows:
                await stream.send_all(encode(answer))

    with listener:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(serve)
            with trio.fail_after(5):
                if knows:
                    assert await HostLink(config).measure(volumes) == answer
                else:
                    # As one that does not know the question: it hangs up.
                    with pytest.raises(NotRunningError, match="hung up"):
                        await HostLink(config).measure(volumes)
    assert heard == [Measure(volumes)]
