"""Who is who: logins stay with the instance an operator means, and never become another's."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from docker.types import Mount
from tests.sshd.dockerd import client_of, running_engine, workshop
from tests.sshd.running import running, wait_until
from tests.sshd.test_kinds_of_mount import Bench

pytestmark = pytest.mark.engine


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    directory = tmp_path_factory.mktemp("e") / "d"
    with running_engine(directory) as url, client_of(url) as client, workshop(client) as shop:
        root = f"{client.info()['DockerRootDir']}/volumes"
        with running(engine_url=url, volume_root=root) as hatchway:
            yield Bench(hatchway, shop)


def replica(bench: Bench, project: str, service: str, number: int) -> str:
    """Make a stopped replica as Compose does, with a volume of its own; its instance when the catalog sees it."""
    name = f"{project}-{service}-{number}"
    labels = {
        "com.docker.compose.project": f"{project}{bench.shop.tag}",
        "com.docker.compose.service": service,
        "com.docker.compose.container-number": str(number),
        "com.docker.compose.oneoff": "False",
    }
    volume = bench.shop.volume(name)
    bench.shop.container(name, labels=labels, mounts=[Mount("/data", volume.name)], start=False)
    instance = f"{project}{bench.shop.tag}/{service}/{number}"
    wait_until(lambda: is_there(bench, instance), f"the catalog sees {instance}")
    return instance


def is_there(bench: Bench, instance: str) -> bool:
    status = bench.status(instance)
    return status is not None and bool(status["present"])


def remove(bench: Bench, name: str) -> None:
    bench.shop.client.containers.get(bench.shop.name(name)).remove(force=True)


def works(bench: Bench, login: str, *, key: str | None = None) -> bool:
    return bench.hatchway.sftp(login, "ls\n", key=key, check=False).returncode == 0


def test_a_replica_scaled_away_and_back_keeps_its_login_and_the_others_go_on(bench: Bench) -> None:
    first, second = replica(bench, "scale", "web", 1), replica(bench, "scale", "web", 2)
    one, two = bench.hatchway.enable(first, "/data"), bench.hatchway.enable(second, "/data")
    bench.hatchway.sftp(two, "mkdir mine\n")
    session = bench.hatchway.open_sftp(one)
    wait_until(lambda: bench.hatchway.sessions() == 1, "a session")
    remove(bench, "scale-web-2")
    wait_until(lambda: not is_there(bench, second), "the catalog sees that it is gone")
    assert not works(bench, two)
    assert replica(bench, "scale", "web", 2) == second
    assert "mine" in bench.hatchway.sftp(two, "ls -1\n").stdout
    output, _ = session.communicate("pwd\nbye\n", timeout=30)
    assert session.returncode == 0, output


def test_the_same_service_in_two_projects(bench: Bench) -> None:
    ours, theirs = replica(bench, "ours", "web", 1), replica(bench, "theirs", "web", 1)
    login, other = bench.hatchway.enable(ours, "/data"), bench.hatchway.enable(theirs, "/data")
    assert login != other
    bench.hatchway.sftp(login, "mkdir of-ours\n")
    assert "of-ours" not in bench.hatchway.sftp(other, "ls -1\n").stdout
    assert not works(bench, other, key=login)
    assert not works(bench, login, key=other)


def test_a_renamed_container_is_another_instance_until_it_has_its_name_again(bench: Bench) -> None:
    volume = bench.shop.volume("renamed")
    instance = bench.container("before", Mount("/data", volume.name))
    login = bench.hatchway.enable(instance, "/data")
    bench.hatchway.sftp(login, "mkdir kept\n")
    container = bench.shop.client.containers.get(bench.shop.name("before"))
    container.rename(bench.shop.name("after"))
    renamed = f"default/{bench.shop.name('after')}/1"
    wait_until(lambda: is_there(bench, renamed) and not is_there(bench, instance), "the catalog sees the new name")
    assert not works(bench, login)
    assert bench.volume(renamed, "/data")["access"] == "off"
    # Somebody else takes the old name, with a volume of his own at the same path.
    other = bench.container("before", Mount("/data", bench.shop.volume("of-somebody-else").name))
    assert other == instance
    wait_until(lambda: bench.volume(instance, "/data")["access"] == "suspended", "the grant is suspended")
    assert not works(bench, login)
    remove(bench, "before")
    container.rename(bench.shop.name("before"))
    wait_until(lambda: bench.volume(instance, "/data")["access"] == "rw", "it is there again")
    assert "kept" in bench.hatchway.sftp(login, "ls -1\n").stdout


def test_names_that_differ_only_in_what_a_login_cannot_have(bench: Bench) -> None:
    names = ("dots.and.dots", "dots-and-dots", "Dots-and-Dots", "dots_and_dots")
    logins = [
        bench.hatchway.enable(bench.container(name, Mount("/data", bench.shop.volume(name).name)), "/data")
        for name in names
    ]
    assert len(set(logins)) == len(names)
    for name, login in zip(names, logins, strict=True):
        bench.hatchway.sftp(login, f"mkdir of-{name}\n")
    for name, login in zip(names, logins, strict=True):
        assert bench.hatchway.sftp(login, "ls -1\n").stdout.split()[-1] == f"of-{name}"


def test_forgotten_and_made_again_by_somebody_else(bench: Bench) -> None:
    """Container and volume are removed, and both made again under their names."""
    instance = bench.container("again", Mount("/data", bench.shop.volume("again").name))
    login = bench.hatchway.enable(instance, "/data")
    password = bench.hatchway.password(instance)
    assert works(bench, login)
    remove(bench, "again")
    bench.shop.client.volumes.get(bench.shop.name("again")).remove()
    wait_until(lambda: not is_there(bench, instance), "the catalog sees that it is gone")
    bench.container("again", Mount("/data", bench.shop.volume("again").name))
    wait_until(lambda: bench.volume(instance, "/data")["access"] == "suspended", "the grant is suspended")
    assert not works(bench, login)
    assert bench.hatchway.command("forget", instance)["login"] == login
    assert bench.volume(instance, "/data")["access"] == "off"
    new = bench.hatchway.enable(instance, "/data")
    assert new != login
    assert works(bench, new)
    assert not works(bench, login)
    assert not works(bench, new, key=login)
    assert bench.hatchway.sftp(new, "ls\n", password=password, check=False).returncode != 0
