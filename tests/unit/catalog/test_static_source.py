"""The static file: its form, its errors, its changes, and the directories it names."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import trio

from hatchway.catalog import static_source
from hatchway.catalog.static_source import StaticSource, refusal
from hatchway.config import Config, Host, Static
from hatchway.errors import ConfigError
from hatchway.model import IdPair, InstanceInfo, InstanceKey, InstanceState, VolumeInfo, VolumeKind
from hatchway.staticfile import parse

from .conftest import Heard

GOOD = """
[[instance]]
environment = "backup"
container = "nas"
number = 2
user = "1000:1000"
[[instance.volume]]
path = "/pool"
directory = "/srv/pool"
name = "pool"
read_only = true
[[instance.volume]]
path = "/archive"
directory = "/srv/archive"

[[instance]]
environment = "a"
container = "b"
"""


def test_a_good_file() -> None:
    first, second = parse(GOOD, "f")
    assert first.key == InstanceKey("a", "b", 1)
    assert second == InstanceInfo(
        key=InstanceKey("backup", "nas", 2),
        runtime_id="static:backup/nas/2",
        runtime_name="nas",
        state=InstanceState.STATIC,
        user="1000:1000",
        owner=IdPair(1000, 1000),
        volumes=(
            VolumeInfo(path="/archive", kind=VolumeKind.DIRECTORY, source="/srv/archive"),
            VolumeInfo(path="/pool", kind=VolumeKind.DIRECTORY, name="pool", source="/srv/pool", read_only=True),
        ),
    )


def test_an_empty_file_lists_nothing() -> None:
    assert parse("", "f") == ()


def entry(**values: str) -> str:
    lines = {"environment": '"e"', "container": '"c"'} | values
    return "[[instance]]\n" + "\n".join(f"{key} = {value}" for key, value in lines.items() if value) + "\n"


def volume(path: str = "/data", directory: str = "/srv/x") -> str:
    return f'[[instance.volume]]\npath = "{path}"\ndirectory = "{directory}"\n'


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[[instance", "f: "),
        ("instance = 5", "f: instance = 5 is not allowed"),
        ("[[instances]]", "f: unknown key 'instances'; did you mean 'instance'?"),
        (entry(container=""), "f: instance[0].container is missing"),
        (entry(container='""'), "f: instance[0].container = '' is not allowed: expected a text"),
        (entry(container='"a/b"'), "f: instance[0].container = 'a/b' is not allowed"),
        (entry(environment='"a\\nb"'), "f: instance[0].environment = 'a\\nb' is not allowed"),
        (entry(environment=f'"{"x" * 256}"'), "at most 255 characters"),
        (entry(number="0"), "f: instance[0].number = 0 is not allowed: expected a number from 1 to"),
        (entry(number="-1"), "f: instance[0].number = -1 is not allowed"),
        (entry(number=str(2**63)), "f: instance[0].number = 9223372036854775808 is not allowed"),
        (entry(number='"1"'), "f: instance[0].number = '1' is not allowed: expected a whole number"),
        (entry(user="1000"), "f: instance[0].user = 1000 is not allowed: expected a text in quotes"),
        (entry(users='"x"'), "f: unknown key 'instance[0].users'; did you mean 'user'?"),
        (entry() + entry(), "f: instance[1] = 'e/c/1' is not allowed: it is listed twice"),
        (entry() + volume(path="data"), "f: instance[0].volume[0].path = 'data' is not allowed"),
        (entry() + volume(path="/"), "f: instance[0].volume[0].path = '/' is not allowed"),
        (entry() + volume(path="/a/"), "f: instance[0].volume[0].path = '/a/' is not allowed"),
        (entry() + volume() + volume(), "f: instance[0].volume[1].path = '/data' is not allowed: it is listed twice"),
        (entry() + volume(directory="x"), "f: instance[0].volume[0].directory = 'x' is not allowed"),
        (entry() + volume(directory="/x/../y"), "f: instance[0].volume[0].directory = '/x/../y' is not allowed"),
        (entry() + '[[instance.volume]]\npath = "/d"', "f: instance[0].volume[0].directory is missing"),
        (entry() + volume() + "readonly = true", "unknown key 'instance[0].volume[0].readonly'; did you mean"),
    ],
)
def test_errors_name_key_value_and_what_is_allowed(text: str, words: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse(text, "f")
    assert words in str(caught.value)


def test_refusals(tmp_path: Path) -> None:
    root = str(tmp_path.resolve())
    (tmp_path / "dir").mkdir()
    (tmp_path / "file").touch()
    (tmp_path / "link").symlink_to(tmp_path / "dir")
    (tmp_path / "dir" / "below").mkdir()
    prefixes = ("/nowhere", root)
    assert refusal(f"{root}/dir", prefixes) is None
    assert refusal(root, prefixes) is None
    assert "No such file or directory" in (refusal(f"{root}/gone", prefixes) or "")
    assert "is not a directory" in (refusal(f"{root}/file", prefixes) or "")
    assert "symbolic link" in (refusal(f"{root}/link", prefixes) or "")
    assert "symbolic link" in (refusal(f"{root}/link/below", prefixes) or "")
    assert 'bind_prefixes = ["/nowhere", "/srv/other"]' in (refusal("/srv/other", ("/nowhere",)) or "")
    assert 'bind_prefixes = ["/srv/other"]' in (refusal("/srv/other", ()) or "")


def test_the_prefix_itself_may_be_behind_a_link(tmp_path: Path) -> None:
    (tmp_path / "real" / "dir").mkdir(parents=True)
    (tmp_path / "link").symlink_to(tmp_path / "real")
    assert refusal(f"{tmp_path}/link/dir", (f"{tmp_path}/link",)) is None


class World:
    """A static file, its directory, and the source that follows it."""

    def __init__(self, directory: Path, heard: Heard) -> None:
        self.file = directory / "instances.toml"
        self.data = directory / "data"
        self.data.mkdir()
        self.time = 1000.0
        config = Config(static=Static(file=str(self.file)), host=Host(bind_prefixes=(str(directory),)))
        self.source = StaticSource(config, heard, now=lambda: self.time)
        self.heard = heard

    def write(self, *names: str, extra: str = "") -> None:
        text = "".join(entry(container=f'"{name}"') + volume(directory=str(self.data)) for name in names) + extra
        scratch = self.file.with_suffix(".new")
        scratch.write_text(text)
        scratch.chmod(0o644)
        scratch.rename(self.file)

    async def becomes(self, *names: str, problem: str | None = None) -> None:
        with trio.fail_after(10):
            while True:
                if self.heard.snapshots:
                    last = self.heard.last()
                    found = [info.key.container for info in last.instances]
                    fits = last.problem is None if problem is None else problem in (last.problem or "")
                    if found == list(names) and fits:
                        return
                await trio.sleep(0.01)


@pytest.fixture
def world(tmp_path: Path, heard: Heard, monkeypatch: pytest.MonkeyPatch) -> World:
    monkeypatch.setattr(static_source, "POLL_EVERY_S", 0.02)
    return World(tmp_path.resolve(), heard)


async def test_changes_are_followed(world: World, heard: Heard, nursery: trio.Nursery) -> None:
    world.write("one")
    nursery.start_soon(world.source.follow)
    await world.becomes("one")
    assert heard.last().source == "static"
    assert heard.last().taken_at == 1000.0
    assert heard.last().instances[0].volumes[0].refusal is None
    world.write("one", "two")
    await world.becomes("one", "two")
    before = len(heard.snapshots)
    await trio.sleep(0.2)
    assert len(heard.snapshots) == before
    assert heard.signs.count("static") > before


async def test_a_broken_file_keeps_the_last_good_one(world: World, heard: Heard, nursery: trio.Nursery) -> None:
    world.write("one")
    nursery.start_soon(world.source.follow)
    await world.becomes("one")
    world.time = 2000.0
    world.write("two", extra="numbre = 5\n")
    await world.becomes("one", problem="unknown key 'instance[0].volume[0].numbre'")
    signs = len(heard.signs)
    await trio.sleep(0.2)
    assert len(heard.signs) == signs
    world.write("two")
    await world.becomes("two")
    assert heard.last().taken_at == 2000.0


async def test_a_file_that_goes_and_comes(world: World, heard: Heard, nursery: trio.Nursery) -> None:
    nursery.start_soon(world.source.follow)
    await world.becomes(problem="No such file or directory")
    assert heard.last().taken_at == 0.0
    world.write("one")
    await world.becomes("one")
    away = world.file.with_suffix(".away")
    world.file.rename(away)
    await world.becomes("one", problem="No such file or directory")
    away.rename(world.file)
    await world.becomes("one")


async def test_what_is_no_text_and_what_anybody_may_write(world: World, nursery: trio.Nursery) -> None:
    world.write("one")
    nursery.start_soon(world.source.follow)
    await world.becomes("one")
    world.file.write_bytes(b"\xff\xfe")
    await world.becomes("one", problem="utf-8")
    world.write("two")
    world.file.chmod(0o666)
    await world.becomes("one", problem="chmod o-w")
    world.file.chmod(0o644)
    await world.becomes("two")


def test_half_a_file_is_not_read(world: World) -> None:
    world.write("one", "two")
    assert len(world.source._look().instances) == 2
    with world.file.open("r+") as file:
        file.truncate(0)
        assert len(world.source._look().instances) == 2
        file.write(entry(container='"one"'))
        file.flush()
        assert len(world.source._look().instances) == 2
        file.write(entry(container='"two"'))
        file.flush()
        assert len(world.source._look().instances) == 2
        file.write(entry(container='"three"'))
    world.source._look()
    assert len(world.source._look().instances) == 3


async def test_directories_that_go_and_come(world: World, heard: Heard, nursery: trio.Nursery) -> None:
    world.write("one")
    nursery.start_soon(world.source.follow)
    await world.becomes("one")
    world.data.rmdir()

    async def refused(expected: bool) -> None:
        with trio.fail_after(10):
            while (heard.last().instances[0].volumes[0].refusal is not None) is not expected:
                await trio.sleep(0.01)

    await refused(True)
    assert heard.last().problem is None
    world.data.mkdir()
    await refused(False)


@pytest.mark.skipif(os.geteuid() != 0, reason="not root: cannot become somebody who may not look")
def test_a_directory_behind_a_closed_one_is_left_to_the_privileged_half(tmp_path: Path) -> None:
    closed = tmp_path.resolve() / "closed"
    (closed / "dir").mkdir(parents=True)
    for parent in [closed, *closed.parents][:-1]:
        if parent.stat().st_uid == 0 and str(parent) != "/tmp":
            parent.chmod(0o755)
    closed.chmod(0o700)
    pid = os.fork()
    if pid == 0:
        os.setresuid(65534, 65534, 65534)
        os._exit(0 if refusal(f"{closed}/dir", (str(closed.parent),)) is None else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
