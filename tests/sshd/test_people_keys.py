"""Keys that somebody has, and where people could write them: each with a Hatchway of its own."""

from __future__ import annotations

import contextlib
import json
import time

from tests.sshd.entering import Credential, Verdict, attempt, make_key
from tests.sshd.persons import Person, add_alias, aliases, away, is_there, writes
from tests.sshd.place import Place
from tests.sshd.running import Hatchway, running, wait_until
from tests.sshd.speaking import ClosedError

SSH = "/home/u/.ssh"


def key_instance(hatchway: Hatchway) -> Place:
    """An instance whose own keys count."""
    place = Place(hatchway, paths=("/data", SSH))
    place.directories[SSH].chmod(0o755)
    hatchway.command("key", "volumes", place.instance, "--allow")
    return place


def enters(hatchway: Hatchway, place: Place, key: str) -> bool:
    """Whether that key lets in as the instance, when it has been looked at anew."""
    time.sleep(1.5)
    return attempt(hatchway, place.login, Credential(key)) is Verdict.IN


def test_keys_written_while_their_instance_is_away() -> None:
    with running() as hatchway:
        place = key_instance(hatchway)
        evil = make_key(hatchway, f"evil{place.number}").encode()
        with aliases(hatchway, {"/same": place.directories[SSH]}) as other:
            person = Person(hatchway, (other, "/same"))
            with person.client() as client:
                (root,) = client.list("/")
                file = f"/{root}/same/authorized_keys"
                assert not writes(client, file, evil)
                with away(hatchway, place.instance):
                    time.sleep(1)
                    assert not writes(client, file, evil)
                    with person.client() as second:
                        assert not writes(second, file, evil)
            assert not (place.directories[SSH] / "authorized_keys").exists()
            assert not enters(hatchway, place, f"evil{place.number}")
            # What was there is not forgotten with the process that knew of it.
            with away(hatchway, place.instance):
                hatchway.stop()
                hatchway.start()
                with person.client() as client:
                    assert not writes(client, file, evil)
            # Only with the instance: whom it let in, nobody can let in any more.
            with away(hatchway, place.instance):
                hatchway.command("forget", place.instance)
                with person.client() as client:
                    assert writes(client, f"/{root}/same/other")


def test_keys_of_an_instance_that_nobody_has_shared_yet() -> None:
    """It is away, and Hatchway was started anew meanwhile: it may be shared later, and let in whoever wrote there."""
    with running() as hatchway:
        place = Place(hatchway)
        ssh = place.data / "ssh"
        ssh.mkdir()
        hatchway.add_volume(SSH, container="never", number=7, directory=ssh)
        hatchway.write_instances()
        wait_until(lambda: is_there(hatchway, "shop/never/7"), "it is there")
        person = Person(hatchway, (place.instance, "/data"))
        file = f"/{place.login}/data/ssh/authorized_keys"
        with person.client() as client:
            assert "ssh" in client.list(f"/{place.login}/data")
            assert not writes(client, file)
        with away(hatchway, "shop/never/7"):
            with person.client() as client:
                assert not writes(client, file)
            hatchway.stop()
            hatchway.start()
            with person.client() as client:
                assert not writes(client, file)
        assert not (ssh / "authorized_keys").exists()


def test_keys_written_while_nothing_is_known_of_instances() -> None:
    with running() as hatchway:
        place = key_instance(hatchway)
        person = Person(hatchway, (place.instance, "--all"))
        with aliases(hatchway, {"/same": place.directories[SSH]}) as other:
            person.grant(other, "/same")
            make_key(hatchway, "evil")
            hatchway.stop()
            good = hatchway.instances_path.read_text()
            hatchway.break_instances()
            with contextlib.suppress(ClosedError), person.client() as client:
                for where in (f"/{place.login}{SSH}", *(f"/{root}/same" for root in client.list("/"))):
                    assert not writes(client, f"{where}/authorized_keys")
            hatchway.instances_path.write_text(good)
        assert not (place.directories[SSH] / "authorized_keys").exists()


def test_keys_in_a_directory_that_has_another_name() -> None:
    """By the options of a volume, and mounted elsewhere: paths do not tell, nor by which volume one came there."""
    with running() as hatchway:
        place = key_instance(hatchway)
        root = hatchway.volumes / "engine"
        hatchway.stop()
        hatchway.volume_root = str(root)
        for name, device in (("v1", place.directories[SSH]), ("v2", place.directories[SSH].parent)):
            (root / name / "_data").mkdir(parents=True)
            options = {"MountType": "none", "MountOpts": "bind", "MountDevice": str(device)}
            (root / name / "opts.json").write_text(json.dumps(options))
            (root / name / "opts.json").chmod(0o600)
        hatchway.start()
        evil = make_key(hatchway, "evil").encode()
        add_alias(hatchway, {"/same": root / "v1" / "_data"}, 1)
        person = Person(hatchway, ("shop/alias/1", "/same"))
        with person.client() as client:
            assert client.list("/shop-alias-1/same")
            assert not writes(client, "/shop-alias-1/same/authorized_keys", evil)
        assert not enters(hatchway, place, "evil")
        refused = hatchway.cli("key", "deliver", place.instance, SSH)
        assert f"people could read the private key there: {person.login} (by /" in refused.stderr
