"""Whom new files belong to, with real containers: as their users see it, running or not."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from docker.types import Mount
from tests.sshd.bench import Bench, benched
from tests.sshd.running import wait_until

pytestmark = pytest.mark.engine


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    with benched(tmp_path_factory.mktemp("e") / "d", container_users=True) as made:
        yield made


@pytest.fixture
def new(tmp_path: Path) -> Path:
    """A file to put."""
    path = tmp_path / "new"
    path.write_text("from the user")
    path.chmod(0o666)
    return path


def on_disk(bench: Bench, name: str) -> Path:
    return Path(bench.shop.client.volumes.get(bench.shop.name(name)).attrs["Mountpoint"])


def owner(path: Path) -> tuple[int, int]:
    return path.stat().st_uid, path.stat().st_gid


def known_user(bench: Bench, instance: str) -> bool:
    """Whether it has been looked up who the container's user is: that comes a moment after the container."""
    refused = bench.hatchway.cli("enable", instance, "/data", "--owner", "container")
    return refused.returncode == 0


@pytest.mark.parametrize(
    ("user", "expected"),
    [("app", (1000, 1000)), ("1000", (1000, 1000)), ("app:root", (1000, 0)), ("7:8", (7, 8)), ("", (0, 0))],
)
def test_new_files_are_the_containers_users(
    bench: Bench, new: Path, user: str, expected: tuple[int, int], request: pytest.FixtureRequest
) -> None:
    # The volume's root belongs to root: what its user makes there must all the same be its user's.
    name = f"user{request.node.callspec.indices['user']}"
    volume = bench.shop.volume(name)
    instance = bench.container(name, Mount("/data", volume.name), user=user)
    wait_until(lambda: known_user(bench, instance), "the container's user is known")
    login = bench.hatchway.enable(instance, "/data")
    assert owner_after_put(bench, login, new, name) == (0, 0)
    bench.hatchway.command("enable", instance, "/data", "--owner", "container", "--umask", "007")
    assert owner_after_put(bench, login, new, name) == expected
    assert (on_disk(bench, name) / "new").stat().st_mode & 0o777 == 0o660
    assert "new files belong to the container's user" in bench.hatchway.cli("show", instance).stdout
    container = bench.shop.client.containers.get(bench.shop.name(name))
    container.start()
    told = container.exec_run(["stat", "-c", "%u:%g", "/data/new"]).output
    assert told == f"{expected[0]}:{expected[1]}\n".encode()


def owner_after_put(bench: Bench, login: str, new: Path, name: str) -> tuple[int, int]:
    bench.hatchway.sftp(login, f"-rm new\nput {new} new\nls -l\n")
    return owner(on_disk(bench, name) / "new")


def test_a_user_the_container_does_not_have(bench: Bench) -> None:
    volume = bench.shop.volume("stranger")
    instance = bench.container("stranger", Mount("/data", volume.name), user="nobody-here")
    wait_until(
        lambda: "has no user" in bench.hatchway.cli("enable", instance, "/data", "--owner", "container").stderr,
        "it is said that there is no such user",
    )
    refused = bench.hatchway.cli("enable", instance, "/data", "--owner", "container")
    assert "the container has no user 'nobody-here'" in " ".join(refused.stderr.split())
    assert bench.volume(instance, "/data")["access"] == "off"


def test_ids_by_number_and_what_is_no_owner(bench: Bench, new: Path) -> None:
    volume = bench.shop.volume("ids")
    instance = bench.container("ids", Mount("/data", volume.name))
    login = bench.hatchway.enable(instance, "/data")
    bench.hatchway.command("enable", instance, "/data", "--owner", "12345:678")
    assert owner_after_put(bench, login, new, "ids") == (12345, 678)
    # What goes over from one directory to the other keeps its owner; what is made in between does not differ.
    bench.hatchway.sftp(login, "mkdir sub\nrename new sub/new\n")
    assert owner(on_disk(bench, "ids") / "sub") == (12345, 678)
    for wrong in ("app", "-1:5", "4294967295:0"):
        refused = bench.hatchway.cli("enable", instance, "/data", f"--owner={wrong}")
        assert (refused.returncode, "expected inherit, container, real or UID:GID" in refused.stderr) == (2, True)


def test_real_is_the_logins_own(bench: Bench, new: Path) -> None:
    volume = bench.shop.volume("real")
    root = on_disk(bench, "real")
    (root / "roots").write_text("secret")
    (root / "roots").chmod(0o600)
    root.chmod(0o777)
    instance = bench.container("real", Mount("/data", volume.name))
    login = bench.hatchway.enable(instance, "/data")
    bench.hatchway.command("enable", instance, "/data", "--owner", "real")
    assert "owners and modes are as on disk" in bench.hatchway.cli("ls").stdout
    told = bench.hatchway.sftp(login, f"put {new} mine\nls -ln\n-get roots {new}.got\n")
    uid, _ = owner(root / "mine")
    assert uid >= 1_910_100_000
    assert f"{uid}" in told.stdout
    assert "Permission denied" in told.stdout + told.stderr
    assert not Path(f"{new}.got").exists()
