"""Access by rules in files, by labels, and to anonymous volumes that are made again."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.sshd.bench import Bench, benched
from tests.sshd.running import wait_until

pytestmark = pytest.mark.engine

LABEL = "hatchway.volumes"


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    with benched(tmp_path_factory.mktemp("e") / "d", labels=True) as made:
        made.hatchway.access_dir.mkdir()
        yield made


def access(bench: Bench, instance: str, path: str = "/data") -> str:
    return str(bench.volume(instance, path)["access"])


def login_of(bench: Bench, instance: str) -> str:
    """The login an instance got by itself, with its key fetched."""
    login = str(bench.hatchway.command("show", instance)["login"])
    bench.hatchway.command("key", "export", instance, "-o", str(bench.hatchway.keys / login), "--force")
    return login


def test_rules_in_files(bench: Bench) -> None:
    first = bench.replica("ruled", "web", 1)
    other = bench.replica("ruled", "db", 1)
    rules = bench.hatchway.access_dir / "10-ruled.toml"
    rules.write_text(f'[[access]]\nproject = "ruled{bench.shop.tag}"\nservice = "web"\nvolumes = ["/data"]\n')
    shown = bench.hatchway.cli("apply", "--dry-run").stdout
    assert "1 change would be made" in shown
    assert f"{first}\n  give  rw  /data  {rules}, rule 1\n" in shown
    assert access(bench, first) == "off"
    assert "1 change made" in bench.hatchway.cli("apply").stdout
    assert (access(bench, first), access(bench, other)) == ("rw", "off")
    login = login_of(bench, first)
    bench.hatchway.sftp(login, "mkdir by-a-rule\n")
    assert f"given by {rules}, rule 1: rw" in bench.hatchway.cli("show", first).stdout
    # The next replica gets access by itself, a login of its own, and nothing of the first.
    second = bench.replica("ruled", "web", 2)
    wait_until(lambda: access(bench, second) == "rw", "the rule gives access to the new replica")
    two = login_of(bench, second)
    assert two != login
    assert bench.hatchway.sftp(two, "ls -1\n").stdout.split("\n")[1:] == [""]
    assert not bench.works(two, key=login)
    # By command beside it: each is taken away where it was given.
    bench.hatchway.command("enable", first, "/data", "--read-only")
    assert access(bench, first) == "rw"
    grants = bench.volume(first, "/data")["grants"]
    assert [(one["origin"], one["mode"]) for one in grants] == [("command", "ro"), ("file", "rw")]
    session = bench.hatchway.open_sftp(two)
    wait_until(lambda: bench.hatchway.sessions() == 1, "a session")
    rules.write_text("# no rule any more\n")
    assert (access(bench, first), access(bench, second)) == ("rw", "rw")
    assert "2 changes made" in bench.hatchway.cli("apply").stdout
    wait_until(lambda: bench.hatchway.sessions() == 0, "the session is over")
    session.communicate("ls\n", timeout=30)
    assert session.returncode != 0
    assert (access(bench, first), access(bench, second)) == ("ro", "off")
    assert not bench.works(two)
    assert bench.works(login)
    assert "Permission denied" in bench.hatchway.sftp(login, "-mkdir more\n").stderr
    bench.hatchway.command("disable", first, "/data")
    assert not bench.works(login)


def test_a_rule_does_not_give_a_reused_name_to_whoever_had_it(bench: Bench) -> None:
    instance = bench.replica("reused", "web", 1)
    rules = bench.hatchway.access_dir / "20-reused.toml"
    rules.write_text(f'[[access]]\nproject = "reused{bench.shop.tag}"\nservice = "*"\nvolumes = ["*"]\n')
    bench.hatchway.command("apply")
    login = login_of(bench, instance)
    assert bench.works(login)
    bench.remove("reused-web-1")
    bench.shop.client.volumes.get(bench.shop.name("reused-web-1")).remove()
    wait_until(lambda: not bench.is_there(instance), "the catalog sees that it is gone")
    assert bench.replica("reused", "web", 1) == instance
    wait_until(lambda: access(bench, instance) == "suspended", "the grant is suspended")
    bench.hatchway.command("apply")
    assert access(bench, instance) == "suspended"
    assert not bench.works(login)
    waiting = bench.hatchway.cli("apply", "--dry-run").stdout
    assert f"then 'hatchway confirm INSTANCE'\n  {instance} /data: another volume stands there" in waiting
    bench.hatchway.command("confirm", instance)
    assert access(bench, instance) == "rw"
    assert bench.works(login)
    rules.unlink()
    bench.hatchway.command("apply")


def test_labels(bench: Bench) -> None:
    labels = {LABEL: "/data:ro, /etc/shadow"}
    instance = bench.replica("labelled", "web", 1, labels)
    wait_until(lambda: access(bench, instance) == "ro", "the label gives access")
    login = login_of(bench, instance)
    assert bench.works(login)
    assert f"given by label {LABEL}: ro" in bench.hatchway.cli("show", instance).stdout
    done = bench.hatchway.cli("disable", instance, "--all")
    assert done.returncode != 0
    assert "comes from the container's label" in " ".join(done.stderr.split())
    # Made again as it was: the same login. Then without the label.
    bench.remove("labelled-web-1")
    wait_until(lambda: not bench.is_there(instance), "the catalog sees that it is gone")
    assert bench.replica("labelled", "web", 1, labels) == instance
    assert bench.works(login)
    bench.remove("labelled-web-1")
    wait_until(lambda: not bench.is_there(instance), "the catalog sees that it is gone")
    bench.replica("labelled", "web", 1)
    wait_until(lambda: access(bench, instance) == "off", "without the label there is no access")
    assert not bench.works(login)


@pytest.mark.parametrize("follow", [True, False])
def test_an_anonymous_volume_that_is_made_again(bench: Bench, tmp_path: Path, follow: bool) -> None:
    name = f"anonymous-{follow}".lower()
    (tmp_path / "new").write_text("x")

    def make() -> str:
        bench.shop.container(name, volumes=["/data"], start=False)
        instance = f"default/{bench.shop.name(name)}/1"
        wait_until(lambda: bench.is_there(instance), f"the catalog sees {instance}")
        return instance

    instance = make()
    options = ["--follow"] if follow else []
    bench.hatchway.command("enable", instance, "/data", *options)
    login = login_of(bench, instance)
    bench.hatchway.sftp(login, f"put {tmp_path}/new old\n")
    bench.remove(name)
    wait_until(lambda: not bench.is_there(instance), "the catalog sees that it is gone")
    assert make() == instance
    if follow:
        wait_until(lambda: access(bench, instance) == "rw", "access goes over to the new volume")
        assert "old" not in bench.hatchway.sftp(login, f"put {tmp_path}/new\nls -1\n").stdout.split()
    else:
        wait_until(lambda: access(bench, instance) == "suspended", "the grant is suspended")
        assert not bench.works(login)
