"""Who is who: logins stay with the instance an operator means, and never become another's."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from docker.types import Mount
from tests.sshd.bench import Bench, benched
from tests.sshd.running import wait_until

pytestmark = pytest.mark.engine


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    with benched(tmp_path_factory.mktemp("e") / "d") as made:
        yield made


def test_a_replica_scaled_away_and_back_keeps_its_login_and_the_others_go_on(bench: Bench) -> None:
    first, second = bench.replica("scale", "web", 1), bench.replica("scale", "web", 2)
    one, two = bench.hatchway.enable(first, "/data"), bench.hatchway.enable(second, "/data")
    bench.hatchway.sftp(two, "mkdir mine\n")
    session = bench.hatchway.open_sftp(one)
    wait_until(lambda: bench.hatchway.sessions() == 1, "a session")
    bench.remove("scale-web-2")
    wait_until(lambda: not bench.is_there(second), "the catalog sees that it is gone")
    assert not bench.works(two)
    assert bench.replica("scale", "web", 2) == second
    assert "mine" in bench.hatchway.sftp(two, "ls -1\n").stdout
    output, _ = session.communicate("pwd\nbye\n", timeout=30)
    assert session.returncode == 0, output


def test_the_same_service_in_two_projects(bench: Bench) -> None:
    ours, theirs = bench.replica("ours", "web", 1), bench.replica("theirs", "web", 1)
    login, other = bench.hatchway.enable(ours, "/data"), bench.hatchway.enable(theirs, "/data")
    assert login != other
    bench.hatchway.sftp(login, "mkdir of-ours\n")
    assert "of-ours" not in bench.hatchway.sftp(other, "ls -1\n").stdout
    assert not bench.works(other, key=login)
    assert not bench.works(login, key=other)


def test_a_renamed_container_is_another_instance_until_it_has_its_name_again(bench: Bench) -> None:
    volume = bench.shop.volume("renamed")
    instance = bench.container("before", Mount("/data", volume.name))
    login = bench.hatchway.enable(instance, "/data")
    bench.hatchway.sftp(login, "mkdir kept\n")
    container = bench.shop.client.containers.get(bench.shop.name("before"))
    container.rename(bench.shop.name("after"))
    renamed = f"default/{bench.shop.name('after')}/1"
    wait_until(lambda: bench.is_there(renamed) and not bench.is_there(instance), "the catalog sees the new name")
    assert not bench.works(login)
    assert bench.volume(renamed, "/data")["access"] == "off"
    # Somebody else takes the old name, with a volume of his own at the same path.
    other = bench.container("before", Mount("/data", bench.shop.volume("of-somebody-else").name))
    assert other == instance
    wait_until(lambda: bench.volume(instance, "/data")["access"] == "suspended", "the grant is suspended")
    assert not bench.works(login)
    bench.remove("before")
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
    assert bench.works(login)
    bench.remove("again")
    bench.shop.client.volumes.get(bench.shop.name("again")).remove()
    wait_until(lambda: not bench.is_there(instance), "the catalog sees that it is gone")
    bench.container("again", Mount("/data", bench.shop.volume("again").name))
    wait_until(lambda: bench.volume(instance, "/data")["access"] == "suspended", "the grant is suspended")
    assert not bench.works(login)
    assert bench.hatchway.command("forget", instance)["login"] == login
    assert bench.volume(instance, "/data")["access"] == "off"
    new = bench.hatchway.enable(instance, "/data")
    assert new != login
    assert bench.works(new)
    assert not bench.works(login)
    assert not bench.works(new, key=login)
    assert bench.hatchway.sftp(new, "ls\n", password=password, check=False).returncode != 0
