"""People: several on one instance with different rights, one on many instances, and what each may not."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.figures import note
from tests.sshd.entering import Credential, Verdict, attempt
from tests.sshd.persons import Person, aliases
from tests.sshd.place import Place
from tests.sshd.running import Hatchway, running, wait_until
from tests.sshd.speaking import CREATE, NO_SUCH_FILE, PERMISSION_DENIED, READ, WRITE, Client, ClosedError, status


@pytest.fixture(scope="module")
def hatchway() -> Iterator[Hatchway]:
    with running() as made:
        yield made


@pytest.fixture
def place(hatchway: Hatchway) -> Place:
    made = Place(hatchway)
    (made.data / "file").write_text("content of /data")
    (made.data / "photos" / "2026").mkdir(parents=True)
    (made.data / "photos" / "picture").write_text("a picture")
    (made.data / "secret").write_text("not for everybody")
    return made


@pytest.fixture(scope="module")
def idle(hatchway: Hatchway) -> tuple[Place, Person]:
    """A person with whom nothing is shared, and an instance."""
    return Place(hatchway), Person(hatchway)


def test_two_people_and_the_own_login_at_once(hatchway: Hatchway, place: Place) -> None:
    reads = Person(hatchway, (place.instance, "/data", "--read-only"), (place.instance, "/logs"))
    one_folder = Person(hatchway, (place.instance, "/data", "--folder", "photos"))
    data = f"/{place.login}/data"
    with Client(hatchway, place.login) as own, reads.client() as reader, one_folder.client() as part:
        # Each sees what is theirs, and no more.
        assert own.list("/") == ["data", "logs"]
        assert reader.list(f"/{place.login}") == ["data", "logs"]
        assert part.list("/") == [place.login]
        assert part.list(f"/{place.login}") == ["data"]
        assert part.list(data) == ["photos"]
        assert part.list(f"{data}/photos") == ["2026", "picture"]
        # The folder's way is no way to the volume.
        for path in (f"{data}/secret", f"{data}/file", f"{data}/photos/../secret", f"/{place.login}/logs/of-logs"):
            with status(NO_SUCH_FILE):
                part.open(path, READ)
        # Who reads changes nothing, but where they may.
        for path in (f"{data}/file", f"{data}/new"):
            with status(PERMISSION_DENIED):
                reader.open(path, WRITE | CREATE)
        reader.write(reader.open(f"/{place.login}/logs/by-reader", WRITE | CREATE), 0, b"x")
        part.write(part.open(f"{data}/photos/new", WRITE | CREATE), 0, b"by part")
        own.write(own.open("/data/photos/own", WRITE | CREATE), 0, b"by own")
        assert (place.data / "photos" / "new").read_bytes() == b"by part"
        assert part.list(f"{data}/photos") == ["2026", "new", "own", "picture"]
        assert reader.read(reader.open(f"{data}/photos/new", READ), 0, 100) == b"by part"
        sessions = {one["login"] for one in hatchway.command("sessions")["sessions"]}
        assert {place.login, reads.login, one_folder.login} <= sessions


def test_a_folder_stays_what_it_was_whatever_the_container_does(hatchway: Hatchway, place: Place) -> None:
    person = Person(hatchway, (place.instance, "/data", "--folder", "photos"))
    photos = f"/{place.login}/data/photos"
    with person.client() as client:
        assert client.list(photos) == ["2026", "picture"]
        (place.data / "photos").rename(place.data / "elsewhere")
        (place.data / "photos").symlink_to("/etc")
        wait_until(lambda: client.list(photos) == ["2026", "picture"], "the folder is the same", 3)
        with status(NO_SUCH_FILE):
            client.open(f"{photos}/passwd", READ)
        client.write(client.open(f"{photos}/new", WRITE | CREATE), 0, b"x")
        assert (place.data / "elsewhere" / "new").exists()
        assert not Path("/etc/new").exists()
        # A new session meanwhile has the same; the root is shared.
        with person.client() as second:
            assert second.list(photos) == ["2026", "new", "picture"]


@pytest.mark.parametrize("there", ["/etc", ".", "../..", None, "file"])
def test_a_folder_that_is_none_locks_nobody_out(hatchway: Hatchway, place: Place, there: str | None) -> None:
    other = Place(hatchway)
    (other.data / "file").write_text("of another")
    person = Person(hatchway, (place.instance, "/data", "--folder", "photos"), (other.instance, "/data"))
    shutil.rmtree(place.data / "photos")
    if there == "file":
        (place.data / "photos").write_text("a file")
    elif there is not None:
        (place.data / "photos").symlink_to(there)
    with person.client() as client:
        assert client.list("/") == sorted([place.login, other.login])
        assert client.list(f"/{other.login}/data") == ["file"]
        # An error, and no empty directory: a client that mirrors would delete what it has.
        with status(PERMISSION_DENIED):
            client.opendir(f"/{place.login}/data/photos")
        assert client.list(f"/{place.login}/data") == ["photos"]
    found = hatchway.command("person", "ls", place.instance)["people"]
    [listed] = [one for one in found if one["login"] == person.login]
    words = {None: "there is no folder photos in it now", "file": "photos is no folder in it now"}
    link = "a link stands in the way of the folder photos in it"
    assert {one["refused"] for one in listed["volumes"]} == {"", words.get(there, link)}


def test_one_person_on_many_instances(hatchway: Hatchway) -> None:
    places = [Place(hatchway) for _ in range(6)]
    person = Person(hatchway, *((place.instance, "--all") for place in places))
    started = time.monotonic()
    with person.client() as client:
        note(f"a person's login with {2 * len(places)} volumes: {time.monotonic() - started:.2f} s")
        assert client.list("/") == sorted(place.login for place in places)
        for place in places:
            assert client.list(f"/{place.login}") == ["data", "logs"]
            content = client.read(client.open(f"/{place.login}/logs/of-logs", READ), 0, 100)
            assert content == b"content of /logs"


def test_what_is_granted_and_revoked_shows_in_an_open_session(hatchway: Hatchway, place: Place) -> None:
    person = Person(hatchway, (place.instance, "/logs"))
    root = f"/{place.login}"
    with person.client() as client:
        assert client.list(root) == ["logs"]
        person.grant(place.instance, "/data")
        assert client.list(root) == ["data", "logs"]
        writer = client.open(f"{root}/data/new", WRITE | CREATE)
        client.write(writer, 0, b"x")
        person.grant(place.instance, "/data", "--read-only")
        with status(PERMISSION_DENIED):
            client.write(writer, 1, b"y")
        person.revoke(place.instance, "/data")
        assert client.list(root) == ["logs"]
        # The own login has lost nothing by all that.
        assert "file" in place.sftp("ls -1 /data")
    assert hatchway.cli("person", "revoke", person.login, place.instance, "/data").returncode != 0


def test_removing_a_person_ends_everything_at_once(hatchway: Hatchway, place: Place) -> None:
    other = Place(hatchway)
    person = Person(hatchway, (place.instance, "--all"), (other.instance, "--all"))
    with person.client() as first, person.client() as second, Client(hatchway, place.login) as own:
        assert first.list("/") == second.list("/") == sorted([place.login, other.login])
        started = time.monotonic()
        hatchway.command("person", "remove", person.login)
        for client in (first, second):
            with pytest.raises(ClosedError):
                client.list("/")
        took = time.monotonic() - started
        assert own.list("/") == ["data", "logs"]
    note(f"a person removed: both their sessions over {took:.2f} s after the command was started")
    done = attempt(hatchway, person.login, Credential(person.login))
    assert done is not Verdict.IN
    assert person.login not in {one["login"] for one in hatchway.command("person", "ls")["people"]}
    # Their name is nobody's again.
    again = hatchway.cli("person", "add", person.login)
    assert again.returncode != 0
    assert "nobody else gets it" in again.stderr
    entries = hatchway.command("log", "-n", "1000")["entries"]
    told = [one["what"] for one in entries if one["login"] == person.login]
    assert any(what.startswith("person removed") for what in told)
    assert any("session ended" in what for what in told)


def test_their_own_password_key_lock_and_addresses(hatchway: Hatchway, place: Place) -> None:
    person = Person(hatchway, (place.instance, "/data"))
    login = person.login
    password = str(hatchway.command("password", "show", login)["password"])
    assert "file" in hatchway.sftp(login, f"ls -1 /{place.login}/data", password=password).stdout
    # Nobody's key or password is anybody else's.
    assert attempt(hatchway, login, Credential(place.login)) is Verdict.DENIED
    assert attempt(hatchway, place.login, Credential(login)) is Verdict.DENIED
    hatchway.command("lock", login, "--reason", "away")
    assert attempt(hatchway, login, Credential(login)) is not Verdict.IN
    assert attempt(hatchway, place.login, Credential(place.login)) is Verdict.IN
    hatchway.command("unlock", login)
    hatchway.command("access", "set", login, "--from", "10.0.0.0/8")
    assert attempt(hatchway, login, Credential(login)) is not Verdict.IN
    hatchway.command("access", "set", login, "--from-anywhere")
    hatchway.command("key", "renew", login)
    assert attempt(hatchway, login, Credential(login)) is Verdict.DENIED
    hatchway.command("key", "export", login, "-o", str(hatchway.keys / login), "--force")
    assert attempt(hatchway, login, Credential(login)) is Verdict.IN
    info = hatchway.command("show", login)
    assert info["person"]["login"] == info["login"] == login
    assert info["instance"] is None


def test_a_person_writes_no_volume_of_keys(hatchway: Hatchway) -> None:
    ssh = "/home/u/.ssh"
    place = Place(hatchway, paths=("/data", ssh))
    directory = place.directories[ssh]
    (directory / "authorized_keys").write_text("")
    # Another instance has the same directory by another name, and one that holds it.
    paths = {"/same": directory, "/holds": directory.parent, "/part": directory / "part"}
    (directory / "part").mkdir()
    with aliases(hatchway, paths) as other:
        person = Person(hatchway, (place.instance, "--all"), *((other, path) for path in paths))
        with person.client() as client:
            root = f"/{place.login}{ssh}"
            outer = f"/{next(name for name in client.list('/') if name != place.login)}"
            assert "authorized_keys" in client.list(root)
            assert "authorized_keys" in client.list(f"{outer}/same")
            places = [root, *(f"{outer}{path}" for path in paths), f"{outer}/holds/{directory.name}"]
            for path in (f"{where}/{name}" for where in places for name in ("authorized_keys", "new.pub")):
                with status(PERMISSION_DENIED):
                    client.open(path, WRITE | CREATE)
            client.write(client.open(f"/{place.login}/data/new", WRITE | CREATE), 0, b"x")
        assert "read-only, since keys may lie there" in hatchway.cli("show", person.login).stdout
    assert sorted(path.name for path in directory.iterdir()) == ["authorized_keys", "of-home-u-.ssh", "part"]
    # They may see all other volumes again, should the other instance come back: no key could be put into one.
    hatchway.command("person", "remove", person.login)


def test_a_private_key_is_put_where_no_person_reads_it(hatchway: Hatchway, place: Place) -> None:
    person = Person(hatchway, (place.instance, "/data", "--folder", "photos", "--read-only"))
    refused = hatchway.cli("key", "deliver", place.instance, "/data", "--dir", "photos")
    assert refused.returncode != 0
    assert f"people could read the private key there: {person.login} (by /" in refused.stderr
    assert not (place.data / "photos" / "id_container").exists()
    # Elsewhere in the volume they cannot read it, and then get no more of the volume.
    hatchway.command("key", "deliver", place.instance, "/data")
    assert (place.data / "id_container").exists()
    refused = hatchway.cli("person", "grant", person.login, place.instance, "/data")
    assert refused.returncode != 0
    assert f"the private key of {place.login} lies in /data" in refused.stderr
    hatchway.command("key", "take-back", place.instance)
    person.grant(place.instance, "/data")


def test_a_person_alone_has_what_the_instance_shares_with_nobody_else(hatchway: Hatchway, place: Place) -> None:
    person = Person(hatchway, (place.instance, "/data"))
    disabled = hatchway.cli("disable", place.instance, "/data")
    assert f"still shared with {person.login}" in disabled.stdout + disabled.stderr
    with person.client() as client, Client(hatchway, place.login) as own:
        assert "file" in client.list(f"/{place.login}/data")
        assert own.list("/") == ["logs"]
    hatchway.command("forget", place.instance)
    assert attempt(hatchway, person.login, Credential(person.login)) is not Verdict.IN
    (found,) = [one for one in hatchway.command("person", "ls")["people"] if one["login"] == person.login]
    assert found["volumes"] == []


def test_another_directory_at_the_path_is_not_theirs(hatchway: Hatchway, place: Place) -> None:
    person = Person(hatchway, (place.instance, "/data"), (place.instance, "/logs"))
    place.data.rename(f"{place.data}.before")
    place.data.mkdir()
    (place.data / "of-somebody-else").touch()
    assert "of-somebody-else" not in person.said(f"-ls -1 /{place.login}/data")

    def suspended() -> bool:
        (found,) = [one for one in hatchway.told("person", "ls")["people"] if one["login"] == person.login]
        return [volume["access"] for volume in found["volumes"]] == ["suspended", "rw"]

    # The core looks now and then (see test_refused_sessions), and when there is news.
    with aliases(hatchway, {"/news": place.logs}):
        wait_until(suspended, "it is noticed")
    assert "another volume stands there" in hatchway.cli("show", person.login).stdout
    person.grant(place.instance, "/data")
    assert "of-somebody-else" in person.said(f"ls -1 /{place.login}/data")


@pytest.mark.parametrize(
    ("words", "why"),
    [
        (("add", "Anna"), "cannot be a login"),
        (("add", "root"), "this host has an account"),
        (("add", "anna; rm"), "cannot be a login"),
        (("add", "berta", "--name", "B\x1b[2J"), "plainly visible"),
        (("grant", "nobody-there", "*", "/data"), "there is no person"),
        (("grant", "%", "*"), "which volume"),
        (("grant", "%", "*", "/nowhere"), "has no volume"),
        (("grant", "%", "*", "/data", "--folder", "../logs"), "is no folder"),
        (("grant", "%", "*", "/data", "--folder", "a//b"), "is no folder"),
        (("grant", "%", "*", "--all", "--folder", "photos"), "one volume's"),
        (("revoke", "%", "*", "--all"), "nothing of"),
        (("remove", "nobody-there"), "there is no person"),
    ],
)
def test_what_cannot_be(hatchway: Hatchway, idle: tuple[Place, Person], words: tuple[str, ...], why: str) -> None:
    place, person = idle
    names = {"*": place.instance, "%": person.login}
    done = hatchway.cli("person", *(names.get(word, word) for word in words))
    assert done.returncode != 0
    assert why in done.stderr
    assert "Traceback" not in done.stderr
