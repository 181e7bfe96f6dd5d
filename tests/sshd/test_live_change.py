"""What is shared changes while sessions are open: they follow at once, and what did not change is not touched."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from docker.types import Mount
from tests.figures import note
from tests.sshd.bench import Bench, benched
from tests.sshd.place import Place, kernel_read_only, mount_ids, worker_of
from tests.sshd.running import Hatchway, wait_until
from tests.sshd.speaking import (
    CREATE,
    NO_SUCH_FILE,
    PERMISSION_DENIED,
    READ,
    WRITE,
    Client,
    ClosedError,
    StatusError,
    status,
)
from tests.sshd.steady import steady_upload
from tests.sshd.test_lifecycle import restart

pytestmark = pytest.mark.engine

PATHS = ("/data", "/logs", "/site")


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    with benched(tmp_path_factory.mktemp("e") / "d") as made:
        yield made


@pytest.fixture
def hatchway(bench: Bench) -> Hatchway:
    return bench.hatchway


@pytest.fixture
def place(hatchway: Hatchway) -> Place:
    made = Place(hatchway, paths=PATHS)
    (made.data / "file").write_text("content of /data")
    return made


def test_disabling_one_of_several(hatchway: Hatchway, place: Place) -> None:
    with Client(hatchway, place.login) as client, steady_upload(hatchway, place.login, place.logs, "/logs"):
        reader = client.open("/data/file", READ)
        writer = client.open("/data/new", WRITE | CREATE)
        other = client.open("/logs/of-logs", READ)
        client.write(writer, 0, b"before")
        before = place.standing("/logs", "/site")
        sessions = hatchway.sessions()
        hatchway.command("disable", place.instance, "/data")
        for attempt in (lambda: client.read(reader, 0, 10), lambda: client.write(writer, 6, b"after")):
            with status(PERMISSION_DENIED):
                attempt()
        wait_until(lambda: fails(client, reader), "fstat fails when what the kernel knew of it is a second old", 1.5)
        with status(NO_SUCH_FILE):
            client.opendir("/data")
        assert client.list("/") == ["logs", "site"]
        assert client.read(other, 0, 100) == b"content of /logs"
        client.write(client.open("/site/new", WRITE | CREATE), 0, b"x")
        assert place.standing("/logs", "/site") == before
        assert hatchway.sessions() == sessions
    assert (place.data / "new").read_bytes() == b"before"
    assert "/data" not in place.mount_ids()


def fails(client: Client, handle: bytes) -> bool:
    try:
        client.fstat(handle)
    except StatusError as exc:
        return exc.code == PERMISSION_DENIED
    return False


def test_a_session_that_lists_what_is_disabled_ends_and_others_go_on(hatchway: Hatchway, place: Place) -> None:
    """sftp-server would tell a listing that is refused as one that has ended."""
    for number in range(3000):
        (place.data / f"{number:04}-{'x' * 100}").touch()
    with (
        Client(hatchway, place.login) as lists,
        Client(hatchway, place.login) as other,
        steady_upload(hatchway, place.login, place.logs, "/logs"),
    ):
        handle = lists.opendir("/data")
        seen = lists.readdir(handle)
        before = place.standing("/logs", "/site")
        hatchway.command("disable", place.instance, "/data")
        with pytest.raises(ClosedError):
            while True:
                seen += lists.readdir(handle)
        assert len(seen) < 3000
        assert other.list("/") == ["logs", "site"]
        assert place.standing("/logs", "/site") == before


def test_what_is_enabled_appears_in_open_sessions(hatchway: Hatchway, place: Place) -> None:
    hatchway.command("disable", place.instance, "/data")
    with Client(hatchway, place.login) as client, steady_upload(hatchway, place.login, place.logs, "/logs"):
        root = client.opendir("/")
        assert client.list("/") == ["logs", "site"]
        before = place.standing("/logs", "/site")
        hatchway.enable(place.instance, "/data")
        assert client.list("/") == ["data", "logs", "site"]
        assert client.list("/data") == ["file"]
        handle = client.open("/data/file", READ | WRITE)
        assert client.read(handle, 0, 100) == b"content of /data"
        client.write(handle, 0, b"CONTENT")
        client.release(root)
        assert place.standing("/logs", "/site") == before


def test_read_only_and_back(hatchway: Hatchway, place: Place) -> None:
    data = place.data
    with Client(hatchway, place.login) as client, steady_upload(hatchway, place.login, place.logs, "/logs"):
        reader = client.open("/data/file", READ)
        writer = client.open("/data/new", READ | WRITE | CREATE)
        client.write(writer, 0, b"before")
        before = place.standing(*PATHS)
        assert not kernel_read_only(before["/data"][1])
        hatchway.enable(place.instance, "/data", read_only=True)
        with status(PERMISSION_DENIED):
            client.write(writer, 6, b"after")
        with status(PERMISSION_DENIED):
            client.open("/data/another", WRITE | CREATE)
        assert client.read(reader, 0, 100) == b"content of /data"
        assert client.read(writer, 0, 100) == b"before"
        assert client.list("/data") == ["file", "new"]
        assert kernel_read_only(before["/data"][1])
        # A volume may be made writable again, in the same session.
        hatchway.enable(place.instance, "/data")
        client.write(client.open("/data/file", WRITE), 0, b"CONTENT")
        assert not kernel_read_only(before["/data"][1])
        assert place.standing(*PATHS) == before
    assert (data / "file").read_bytes() == b"CONTENT of /data"
    assert (data / "new").read_bytes() == b"before"
    assert sorted(path.name for path in data.iterdir()) == ["file", "new"]


def test_what_the_next_hostd_took_over_can_be_changed(hatchway: Hatchway, place: Place) -> None:
    with Client(hatchway, place.login) as client:
        writer = client.open("/data/new", WRITE | CREATE)
        before = place.standing(*PATHS)
        restart(hatchway)
        hatchway.enable(place.instance, "/data", read_only=True)
        with status(PERMISSION_DENIED):
            client.write(writer, 0, b"x")
        assert kernel_read_only(before["/data"][1])
        restart(hatchway)
        hatchway.enable(place.instance, "/data")
        client.write(client.open("/data/new", WRITE), 0, b"x")
        hatchway.command("disable", place.instance, "/site")
        assert client.list("/") == ["data", "logs"]
        assert place.standing("/data", "/logs") == {path: before[path] for path in ("/data", "/logs")}
    # Workers whose zygote is gone are nobody's children.
    hatchway.command("disable", place.instance, "--all")


def test_a_container_made_again_with_other_volumes(bench: Bench) -> None:
    hatchway = bench.hatchway
    kept, gone, new = (bench.shop.volume(name) for name in ("kept", "gone", "new"))
    instance = bench.container("web", Mount("/data", kept.name), Mount("/logs", gone.name))
    login = hatchway.enable(instance)
    root = Path(bench.shop.client.info()["DockerRootDir"]) / "volumes"
    (root / gone.name / "_data" / "of-gone").touch()
    (root / new.name / "_data" / "of-new").touch()
    with Client(hatchway, login) as client:
        writer = client.open("/data/file", WRITE | CREATE)
        lost = client.open("/logs/of-gone", READ)
        before = mount_ids(hatchway, login)["/data"], worker_of(hatchway, login, "/data")
        bench.remove("web")
        client.write(writer, 0, b"while it is gone")
        began = time.monotonic()
        bench.shop.container("web", mounts=[Mount("/data", kept.name), Mount("/logs", new.name)], start=False)
        wait_until(lambda: client.list("/") == ["data"], "the session follows")
        note(f"a container made again with another volume: its session followed {time.monotonic() - began:.2f} s after")
        with status(PERMISSION_DENIED):
            client.read(lost, 0, 1)
        client.write(writer, 16, b" and after")
        assert (mount_ids(hatchway, login)["/data"], worker_of(hatchway, login, "/data")) == before
        # The other volume is nobody's until the operator says so; then the session has it.
        hatchway.command("confirm", instance, "/logs")
        assert client.list("/logs") == ["of-new"]
        assert (mount_ids(hatchway, login)["/data"], worker_of(hatchway, login, "/data")) == before
    assert (root / kept.name / "_data" / "file").read_bytes() == b"while it is gone and after"
