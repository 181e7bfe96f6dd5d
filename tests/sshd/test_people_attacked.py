"""What an attacker who read this code got by being a person: each was done once, and cannot be any more."""

from __future__ import annotations

import contextlib
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.sshd.entering import Credential, Verdict, attempt
from tests.sshd.persons import Person, aliases, away, is_there, writes
from tests.sshd.place import Place
from tests.sshd.running import Hatchway, running, wait_until
from tests.sshd.speaking import CREATE, READ, WRITE, ClosedError, StatusError
from tests.sshd.test_lifecycle import restart

SSH = "/home/u/.ssh"


@pytest.fixture(scope="module")
def hatchway() -> Iterator[Hatchway]:
    with running() as made:
        yield made


def reads(person: Person, path: str) -> bytes:
    """What they read there, nothing when they cannot."""
    with person.client() as client, contextlib.suppress(StatusError):
        return client.read(client.open(path, READ), 0, 60)
    return b""


def test_keys_written_where_a_session_goes_on(hatchway: Hatchway) -> None:
    """Its instance is away, and what it sees is another's .ssh from now on."""
    place = Place(hatchway)
    person = Person(hatchway, (place.instance, "/data"))
    with person.client() as client:
        root = f"/{place.login}/data"
        assert writes(client, f"{root}/one")
        hatchway.take_instance("shop", "web", place.number)
        hatchway.add_volume(SSH, container="late", number=place.number, directory=place.data)
        hatchway.write_instances()
        late = f"shop/late/{place.number}"
        wait_until(lambda: is_there(hatchway, late) and not is_there(hatchway, place.instance), "they have changed")
        hatchway.enable(late)
        time.sleep(1.5)
        assert not writes(client, f"{root}/authorized_keys")


def test_a_key_put_where_a_grant_is_not_in_force_now(hatchway: Hatchway) -> None:
    place = Place(hatchway)
    with aliases(hatchway, {"/same": place.data}) as other:
        person = Person(hatchway, (other, "/same"))
        with away(hatchway, other):
            refused = hatchway.cli("key", "deliver", place.instance, "/data")
        assert f"people could read the private key there: {person.login} (by /" in refused.stderr
        assert not (place.data / "id_container").exists()


def test_a_key_that_comes_to_lie_where_somebody_reads(hatchway: Hatchway) -> None:
    """A grant and a delivery that knew nothing of each other: the same directory has another name later."""
    place = Place(hatchway)
    hatchway.command("key", "deliver", place.instance, "/data")
    other = Place(hatchway)
    person = Person(hatchway, (other.instance, "/data"), (other.instance, "/logs"))
    assert (place.data / "id_container").exists()
    with person.client() as client:
        assert client.list(f"/{other.login}") == ["data", "logs"]
    # Now the directory of the other instance's volume holds that of this one's.
    (other.data / "in").mkdir()
    shutil.copytree(other.data, hatchway.volumes / "moved", dirs_exist_ok=True)
    hatchway.command("key", "take-back", place.instance)
    moved = hatchway.take_instance("shop", "web", place.number)
    inner = other.data / "in"
    hatchway.give_instance("shop", "web", place.number, [{**one, "directory": str(inner)} for one in moved[:1]])
    hatchway.write_instances()
    wait_until(lambda: place.volumes().get("/data") == "suspended", "it is noticed")
    hatchway.command("confirm", place.instance, "/data")
    refused = hatchway.cli("key", "deliver", place.instance, "/data")
    assert f"people could read the private key there: {person.login} (by /" in refused.stderr
    assert b"PRIVATE" not in reads(person, f"/{other.login}/data/in/id_container")


def test_two_grants_at_one_place(hatchway: Hatchway) -> None:
    place, other = Place(hatchway, paths=("/data", "/data/x")), Place(hatchway)
    (place.data / "x" / "y").mkdir(parents=True, exist_ok=True)
    (place.directories["/data/x"] / "y").mkdir()
    person = Person(hatchway, (other.instance, "/data"), (place.instance, "/data", "--folder", "x/y"))
    with person.client() as client:
        refused = hatchway.cli("person", "grant", person.login, place.instance, "/data/x", "--folder", "y")
        assert refused.returncode != 0
        assert "stands at that very place" in refused.stderr
        assert client.list("/") == sorted([place.login, other.login])
    assert attempt(hatchway, person.login, Credential(person.login)) is Verdict.IN


@pytest.mark.parametrize("length", [3900, 4050, 4070])
def test_a_path_that_is_too_long(hatchway: Hatchway, length: int) -> None:
    place, directory = Place(hatchway), hatchway.volumes / f"long{length}"
    path = f"/{'a' * 200}" * (length // 201)
    path += f"/{'b' * (length - len(path) - 1)}" if length > len(path) + 1 else ""
    directory.mkdir()
    person = Person(hatchway, (place.instance, "/data"))
    with aliases(hatchway, {path: directory}) as other, person.client() as client:
        done = hatchway.cli("person", "grant", person.login, other, "--all")
        assert done.returncode == 0 or "too long" in done.stderr
        assert place.login in client.list("/")
        assert attempt(hatchway, person.login, Credential(person.login)) is Verdict.IN


def test_a_directory_only_people_have_is_replaced(hatchway: Hatchway) -> None:
    place = Place(hatchway)
    person = Person(hatchway, (place.instance, "/data"), (place.instance, "/logs"))
    hatchway.command("disable", place.instance, "--all")
    place.data.rename(f"{place.data}.before")
    place.data.mkdir()
    (place.data / "new").touch()
    assert "new" not in person.said(f"-ls -1 /{place.login}/data")
    person.grant(place.instance, "/data")
    assert "new" in person.said(f"ls -1 /{place.login}/data")
    assert person.accesses() == ["rw", "rw"]


def fills(person: Person, path: str, size: int) -> bool:
    """Whether somebody can write `size` bytes there. The file is removed."""
    with person.client() as client:
        handle = client.open(path, WRITE | CREATE)
        try:
            for offset in range(0, size, 32768):
                client.write(handle, offset, b"x" * 32768)
        except StatusError:
            return False
        finally:
            client.release(handle)
            client.remove(path)
    return True


def test_a_limit_stays_when_the_instance_has_the_volume_no_more(hatchway: Hatchway) -> None:
    place = Place(hatchway)
    hatchway.command("enable", place.instance, "/data", "--size", "2M")
    person = Person(hatchway, (place.instance, "/data"))
    big = f"/{place.login}/data/big"
    assert fills(person, big, 1 << 20)
    assert not fills(person, big, 6 << 20)
    hatchway.command("disable", place.instance, "/data")
    assert place.volumes()["/data"] == "off"
    assert not fills(person, big, 6 << 20)
    # It is theirs now.
    person.grant(place.instance, "/data", "--size", "none")
    assert fills(person, big, 6 << 20)
    person.grant(place.instance, "/data", "--size", "4M")
    assert fills(person, big, 3 << 20)
    assert not fills(person, big, 6 << 20)


def test_what_stands_for_a_volume_stays_when_hostd_is_started_again(hatchway: Hatchway) -> None:
    place, other = Place(hatchway), Place(hatchway)
    (place.data / "photos").mkdir()
    person = Person(hatchway, (place.instance, "/data", "--folder", "photos"), (other.instance, "/data"))
    shutil.rmtree(place.data / "photos")
    with person.client() as client:
        before = client.list("/")
        assert before == sorted([place.login, other.login])
        restart(hatchway)
        end = time.monotonic() + 4
        while time.monotonic() < end:
            assert client.list("/") == before


def test_names_that_people_and_containers_share(hatchway: Hatchway) -> None:
    place = Place(hatchway)
    hatchway.command("person", "add", "zed")
    hatchway.command("person", "add", f"shop-zed-{place.number}")
    hatchway.add_volume("/data", container="zed", number=place.number)
    hatchway.write_instances()
    instance = f"shop/zed/{place.number}"
    wait_until(lambda: is_there(hatchway, instance), "the catalog sees it")
    hatchway.enable(instance)
    for name in ("zed", f"shop-zed-{place.number}"):
        for words in (("disable", "--all"), ("enable", "/data"), ("forget",)):
            refused = hatchway.cli(words[0], name, *words[1:])
            assert refused.returncode != 0
            assert f"{name} is a person, and this is asked of an instance: the instance is {instance}" in refused.stderr
        hatchway.command("lock", name)
        assert [one["locked"] for one in hatchway.command("person", "ls")["people"] if one["login"] == name] == [True]
        hatchway.command("unlock", f"person:{name}")
    (found,) = [one for one in hatchway.command("ls")["instances"] if one["key"]["container"] == "zed"]
    assert not found["locked"]
    assert [volume["access"] for volume in found["volumes"]] == ["rw"]
    # And nobody is made a person by the name that an instance has.
    refused = hatchway.cli("person", "add", place.login)
    assert refused.returncode != 0


def test_the_record_names_who_was_meant(hatchway: Hatchway) -> None:
    place = Place(hatchway)
    person = Person(hatchway)
    hatchway.cli("person", "grant", person.login, place.instance, "/nowhere")
    hatchway.cli("person", "revoke", f"person:{person.login}", place.instance, "--all")
    hatchway.command("person", "remove", f"person:{person.login}")

    def told() -> list[tuple[str, str, str]]:
        entries = hatchway.command("log", "-n", "1000")["entries"]
        return [(one["instance"], one["login"].removeprefix("person:"), one["what"]) for one in entries]

    wait_until(lambda: any(what.startswith("person removed") for *_, what in told()), "it is written")
    about = [one for one in told() if one[1] == person.login]
    assert any(key == place.instance and "/nowhere shared" in what for key, _, what in about)
    assert any(key == place.instance and "no longer shared" in what for key, _, what in about)
    assert not any(login == place.login and "shared with" in what for _, login, what in told())
    whats = [one["what"] for one in hatchway.command("log", person.login)["entries"]]
    assert any(what.startswith("person removed") for what in whats)


def test_a_volume_that_a_person_loses_with_its_instance(hatchway: Hatchway, tmp_path: Path) -> None:
    place = Place(hatchway)
    person = Person(hatchway, (place.instance, "/data"))
    with person.client() as client:
        assert client.list("/") == [place.login]
        hatchway.command("forget", place.instance)
        with pytest.raises((ClosedError, StatusError)):
            client.list(f"/{place.login}/data")
    assert person.accesses() == []
