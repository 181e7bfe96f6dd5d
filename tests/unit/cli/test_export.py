"""`hatchway export`: which logins, in which form, and where to."""

from __future__ import annotations

import os
import re
import stat
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any
from xml.etree import ElementTree

import pytest

from hatchway.errors import NotFoundError
from hatchway.model import InstanceKey
from hatchway.wire.admin import Access, HostKey, Listing, ListInstances, Server, Show, ShowServer
from hatchway.wire.entry import Hindrance, PasswordKind

if TYPE_CHECKING:
    from tests.unit.cli.conftest import Cli, FakeDaemon

KEY = HostKey("ssh-ed25519", "SHA256:" + "h" * 43, "ssh-ed25519 AAAA")
SOURCE = Path(__file__).parents[3] / "src"
FORMS = ("filezilla", "ssh-config", "rclone", "winscp-url")
"""Those that are of instances."""


@pytest.fixture
def shop(daemon: FakeDaemon, make: Any) -> FakeDaemon:
    """A daemon that knows shop/web/1, whose password can be shown, and shop/web/2, of which nothing is shared."""
    on = make.volume(access=Access.READ_WRITE, session_path="/home/work")
    second = make.instance(make.volume(), key=InstanceKey("shop", "web", 2), login="shop-web-2")
    daemon.answers |= {
        Show: lambda request: make.connection(password="se/same" if request.secrets else None),
        ListInstances: Listing(instances=(make.instance(on, login="shop-web-1"), second), sources=()),
        ShowServer: Server("sftp.example.org", 2022, (KEY,)),
    }
    return daemon


def test_filezilla(run: Cli, shop: FakeDaemon) -> None:
    done = run("export", "filezilla", "shop/web/1")
    assert done.exit_code == 0
    assert "<Logontype>2</Logontype>" in done.stdout
    assert done.stderr == "In FileZilla: File > Import, choose the file; 'Site Manager entries' is ticked.\n"
    assert shop.requests == [Show(instance="shop/web/1")]
    assert "<Pass" in run("export", "filezilla", "shop/web/1", "--secrets").stdout
    key = run("export", "filezilla", "shop/web/1", "--key-dir", r"C:\Users\anna")
    assert r"<Keyfile>C:\Users\anna\id_container-shop-web-1</Keyfile>" in key.stdout
    # As it is copied, not as it would be escaped for a terminal.
    assert r"writes as C:\Users\anna\id_container-shop-web-1, readable by its owner only." in key.stderr


def test_filezilla_is_told_where_the_key_is(run: Cli, shop: FakeDaemon, make: Any) -> None:
    done = run("export", "filezilla", "shop/web/1", "--logon", "key")
    assert "<Keyfile>" not in done.stdout
    assert "Where the key is, FileZilla does not know" in done.stderr
    assert run("export", "filezilla", "shop/web/1", "--key-dir", "keys").exit_code == 2


def test_ssh_config(run: Cli, shop: FakeDaemon) -> None:
    done = run("export", "ssh-config", "shop-web-1")
    assert 'IdentityFile "~/.ssh/id_container-shop-web-1"' in done.stdout
    assert "hatchway export known-hosts" in done.stderr
    assert "'hatchway key export shop-web-1' writes as ~/.ssh/id_container-shop-web-1," in done.stderr
    assert "above all else" in done.stderr
    asked = run("export", "ssh-config", "shop-web-1", "--logon", "ask")
    assert "IdentityFile" not in asked.stdout
    assert "key export" not in asked.stderr
    assert 'IdentityFile "/k/id_container' in run("export", "ssh-config", "shop-web-1", "--key-dir", "/k").stdout


def test_rclone(run: Cli, shop: FakeDaemon) -> None:
    done = run("export", "rclone", "shop-web-1")
    assert "key_file = ~/.ssh/id_container-shop-web-1\nknown_hosts_file = ~/.ssh/known_hosts\n" in done.stdout
    assert "pass = " in run("export", "rclone", "shop-web-1", "--secrets").stdout
    assert "ask_password = true" in run("export", "rclone", "shop-web-1", "--logon", "ask").stdout


def test_winscp_url(run: Cli, shop: FakeDaemon) -> None:
    done = run("export", "winscp-url", "shop-web-1")
    assert (done.stdout, done.stderr) == (
        f"sftp://shop-web-1;fingerprint=ssh-ed25519-{'h' * 43}@sftp.example.org:2022/home/work/\n",
        "",
    )
    assert "sftp://shop-web-1:se%2Fsame;" in run("export", "winscp-url", "shop-web-1", "--secrets").stdout
    key = run("export", "winscp-url", "shop-web-1", "--key-dir", "D:/k")
    assert ";x-publickeyfile=D%3A%2Fk%2Fid_container-shop-web-1.ppk@" in key.stdout
    assert "'hatchway key export shop-web-1 --ppk' writes as D:/k/id_container-shop-web-1.ppk," in key.stderr
    assert run("export", "winscp-url", "shop-web-1", "--key-dir", "~/keys").exit_code == 2


def test_what_is_the_hosts(run: Cli, daemon: FakeDaemon) -> None:
    daemon.answers[ShowServer] = Server("sftp.example.org", 2022, (KEY,))
    assert run("export", "known-hosts").stdout == "[sftp.example.org]:2022 ssh-ed25519 AAAA\n"
    assert run("export", "sshfp").stdout.startswith("sftp.example.org. IN SSHFP 4 2 ")
    daemon.answers[ShowServer] = Server("192.0.2.1", 2022, (KEY,))
    assert run("export", "sshfp").exit_code == 2


@pytest.mark.parametrize("form", FORMS)
def test_all_that_is_shared(run: Cli, shop: FakeDaemon, form: str) -> None:
    assert run("export", form, "--all").exit_code == 0
    assert shop.requests == [ListInstances(), Show(instance="shop/web/1")]
    shop.answers[ListInstances] = Listing(instances=(), sources=())
    done = run("export", form, "--all")
    assert (done.exit_code, done.stdout) == (5, "")


@pytest.mark.parametrize("form", FORMS)
def test_some_must_be_named(run: Cli, shop: FakeDaemon, form: str) -> None:
    assert run("export", form).exit_code == 2
    assert run("export", form, "x", "--all").exit_code == 2
    assert shop.requests == []


@pytest.fixture
def mixed(daemon: FakeDaemon, make: Any) -> FakeDaemon:
    """Logins that have a password only, the generated key only, added keys only, and a hash."""
    on = make.volume(access=Access.READ_WRITE, session_path="/home/work")
    kinds: dict[str, dict[str, Any]] = {
        "password": {"key_fingerprint": None},
        "key": {"password_kind": PasswordKind.NONE},
        "own": {"password_kind": PasswordKind.NONE, "key_fingerprint": None, "keys": 1},
        "hashed": {"password_kind": PasswordKind.HASHED},
    }

    def instance(name: str) -> Any:
        return make.instance(on, key=InstanceKey("shop", name, 1), login=name)

    def answer(request: Show) -> Any:
        name = request.instance.split("/")[1]
        password = "se/same" if request.secrets and name == "password" else None
        return make.connection(instance=instance(name), login=name, **{"password": password, **kinds[name]})

    daemon.answers |= {
        Show: answer,
        ListInstances: Listing(instances=tuple(map(instance, kinds)), sources=()),
    }
    return daemon


def test_each_as_it_can(run: Cli, mixed: FakeDaemon) -> None:
    found = run("export", "filezilla", "--all", "--secrets")
    assert found.exit_code == 0
    ways = re.findall("<Logontype>(.)</Logontype>.*?<Name>(.*?)</Name>", found.stdout, re.DOTALL)
    assert ways == [("2", "hashed"), ("5", "key"), ("5", "own"), ("1", "password")]
    asked = "so it is in no file; it is asked for. Type the password itself, not the hash."
    assert f"hashed: the password is kept as a hash, {asked}" in found.stderr
    for form, more in (("rclone", ()), ("filezilla", ("--key-dir", "/k"))):
        by_key = run("export", form, "shop/hashed/1", "--secrets", *more)
        assert "so it is in no file; the key is used." in by_key.stderr
        assert "asked for" not in by_key.stderr
    blocks = run("export", "ssh-config", "--all")
    kept = {block.split()[3]: block for block in blocks.stdout.split("\n\n")}
    assert {name: "IdentityFile" in block for name, block in kept.items()} == {
        "password": False, "key": True, "own": False, "hashed": True
    }  # fmt: skip
    assert "PubkeyAuthentication no" in kept["password"]
    assert "Authentication" not in kept["own"]
    assert "hatchway key export key" in blocks.stderr, "not of the first, which has none"


def test_those_that_cannot_are_left_out_of_all_and_named(run: Cli, mixed: FakeDaemon) -> None:
    found = run("export", "filezilla", "--all", "--logon", "ask")
    assert found.exit_code == 0
    assert re.findall("<Name>(.*?)</Name>", found.stdout) == ["hashed", "/home/work", "password", "/home/work"]
    assert found.stderr.count("Left out: ") == 2
    assert "Left out: key has no password" in found.stderr
    # Who is named must be in it.
    done = run("export", "filezilla", "shop/password/1", "shop/key/1", "--logon", "ask")
    assert (done.exit_code, done.stdout) == (6, "")
    # Nobody's own key lets into a login to which none was added.
    done = run("export", "filezilla", "shop/key/1", "--logon", "own-key")
    assert (done.exit_code, done.stdout) == (6, "")
    assert "hatchway key add key FILE" in done.stderr
    own = run("export", "filezilla", "--all", "--logon", "own-key")
    assert re.findall("<Name>(.*?)</Name>", own.stdout) == ["own", "/home/work"]
    assert "Browse" in own.stderr


def test_no_secret_is_asked_for_that_is_not_used(run: Cli, shop: FakeDaemon) -> None:
    for way in ("key", "ask", "own-key"):
        assert run("export", "filezilla", "shop/web/1", "--secrets", "--logon", way).exit_code == 2
    assert shop.requests == []


def test_what_stands_in_the_way_is_said(run: Cli, daemon: FakeDaemon, make: Any) -> None:
    locked = Hindrance("nobody can enter: shop-web-1 is locked", "hatchway unlock shop-web-1")
    daemon.answers[Show] = make.connection(problems=(locked,), host="web01")
    done = run("export", "rclone", "shop/web/1")
    assert "shop-web-1:\n  nobody can enter: shop-web-1 is locked\n      hatchway unlock shop-web-1\n" in done.stderr
    assert "'web01' has no domain" in done.stderr
    assert "locked" not in done.stdout
    assert run.json("export", "rclone", "shop/web/1")["problems"] == {
        "shop-web-1": [{"text": locked.text, "mend": locked.mend}]
    }


def test_an_address_needs_no_domain(run: Cli, daemon: FakeDaemon) -> None:
    daemon.answers[ShowServer] = Server("2001:db8::1", 2022, (KEY,))
    done = run("export", "known-hosts")
    assert done.stdout == "[2001:db8::1]:2022 ssh-ed25519 AAAA\n"
    assert "domain" not in done.stderr


def test_what_is_not_ascii_arrives_in_every_encoding(run: Cli, daemon: FakeDaemon, make: Any, tmp_path: Path) -> None:
    there = make.volume("/d\xe4ta", Access.READ_WRITE, session_path="/d\xe4ta")
    daemon.answers[Show] = make.connection(instance=make.instance(there, key=InstanceKey("s\xe4", "w", 1), login="l"))
    done = subprocess.run(
        [sys.executable, "-m", "hatchway.cli.main", "--config", str(run.config), "export", "filezilla", "x"],
        capture_output=True,
        env={"PATH": os.environ["PATH"], "PYTHONPATH": str(SOURCE), "PYTHONIOENCODING": "latin-1"},
        check=True,
    )
    assert done.stdout.isascii()
    root = ElementTree.fromstring(done.stdout)  # noqa: S314 - it is ours
    assert [one.text for one in root.iter("RemoteDir")] == ["1 0 4 d\xe4ta"]
    done = subprocess.run([*done.args[:-2], "rclone", "x"], capture_output=True, env={"PATH": os.environ["PATH"],
        "PYTHONPATH": str(SOURCE), "PYTHONIOENCODING": "latin-1"}, check=True)  # fmt: skip
    assert done.stdout.decode().startswith("# s\xe4/w/1\n")


def test_what_a_container_is_called_does_nothing_to_the_terminal(run: Cli, daemon: FakeDaemon, make: Any) -> None:
    evil = "/d\x9b2J\x9b1;1H\x1b]0;t\x07\u202e\nrun this: \ufffe"
    there = make.volume(evil, Access.READ_WRITE, session_path=evil)
    key = InstanceKey(f"e{evil[1:]}", f"c{evil[1:]}", 1)
    daemon.answers[Show] = make.connection(instance=make.instance(there, key=key, login="l"), start_directory=evil)
    for form in FORMS:
        done = run("export", form, "x")
        assert all(line.isprintable() for line in (done.stdout + done.stderr).split("\n")), form
        assert "\nrun this" not in done.stdout
    ElementTree.fromstring(run("export", "filezilla", "x").stdout)  # noqa: S314 - it is ours


def test_a_dash_is_standard_output(run: Cli, shop: FakeDaemon, here: Path) -> None:
    for form in FORMS:
        assert run("export", form, "x", "-o", "-").stdout.startswith(run("export", form, "x").stdout[:20])
    assert run("export", "rclone", "x", "-o", "-", "--force").exit_code == 2
    assert os.listdir(here) == []


def test_nobody_twice(run: Cli, shop: FakeDaemon) -> None:
    assert run("export", "filezilla", "shop/web/1", "shop-web-1").stdout.count("<Server>") == 1


def test_one_that_is_not_there(run: Cli, daemon: FakeDaemon, here: Path) -> None:
    daemon.answers[Show] = NotFoundError("there is no instance 'x'")
    assert run("export", "filezilla", "x", "-o", "file").exit_code == 5
    assert os.listdir(here) == []


def test_what_a_login_does_not_have(run: Cli, daemon: FakeDaemon, make: Any, here: Path) -> None:
    daemon.answers[Show] = make.connection(password_kind=PasswordKind.HASHED)
    done = run("export", "filezilla", "x", "--logon", "password", "--secrets", "-o", "file")
    assert done.exit_code == 6
    assert "type the password itself, not the hash" in done.stderr
    daemon.answers[Show] = make.connection(key_fingerprint=None)
    assert run("export", "ssh-config", "x", "--logon", "key", "-o", "file").exit_code == 6
    assert os.listdir(here) == []


@pytest.mark.parametrize("form", [*FORMS, "known-hosts", "sshfp"])
def test_a_file_is_its_owners_alone_and_nobody_elses_before(run: Cli, shop: FakeDaemon, here: Path, form: str) -> None:
    named = ["shop/web/1"] if form in FORMS else []
    text = run("export", form, *named).stdout
    done = run("export", form, *named, "-o", "file")
    assert done.stdout.startswith("file  ")
    assert (here / "file").read_text() == text
    assert stat.S_IMODE((here / "file").stat().st_mode) == (0o600 if form in FORMS else 0o644)
    count = len(shop.requests)
    assert run("export", form, *named, "-o", "file").exit_code == 6
    assert len(shop.requests) == count
    assert run("export", form, *named, "-o", "file", "--force").exit_code == 0
    assert run("export", form, *named, "--force").exit_code == 2
    assert os.listdir(here) == ["file"]


def test_json(run: Cli, shop: FakeDaemon, here: Path) -> None:
    text = run("export", "rclone", "shop/web/1").stdout
    assert run.json("export", "rclone", "shop/web/1") == {
        "form": "rclone",
        "logins": ["shop-web-1"],
        "text": text,
        "problems": {},
    }
    assert run.json("export", "rclone", "shop/web/1", "-o", "file") == {
        "form": "rclone",
        "logins": ["shop-web-1"],
        "file": "file",
        "problems": {},
    }


@pytest.mark.parametrize("form", ["filezilla", "ssh-config", "rclone", "winscp-url"])
def test_a_directory_that_cannot_be_written_down(run: Cli, shop: FakeDaemon, form: str) -> None:
    assert run("export", form, "shop/web/1", "--key-dir", '/a"b').exit_code == 2
    assert run("export", form, "shop/web/1", "--key-dir", "/a\nHost *").exit_code == 2
    assert shop.requests == []


@pytest.mark.parametrize("form", ["filezilla", "ssh-config", "rclone", "winscp-url"])
@pytest.mark.parametrize("directory", ["keys", "", "k\\mine", "C:k"])
def test_a_directory_that_is_another_one_in_each(run: Cli, shop: FakeDaemon, form: str, directory: str) -> None:
    assert run("export", form, "shop/web/1", "--key-dir", directory).exit_code == 2
    assert shop.requests == []


def test_a_directory_of_a_key_that_is_not_used(run: Cli, shop: FakeDaemon) -> None:
    assert run("export", "filezilla", "shop/web/1", "--key-dir", "/k", "--logon", "ask").exit_code == 2
    assert shop.requests == []


def test_a_login_with_nothing_at_all(run: Cli, daemon: FakeDaemon, make: Any) -> None:
    daemon.answers[Show] = make.connection(password_kind=PasswordKind.NONE, key_fingerprint=None)
    done = run("export", "ssh-config", "x")
    assert (done.exit_code, done.stdout) == (6, "")
    assert "hatchway key add shop-web-1 FILE" in done.stderr


@pytest.mark.parametrize("form", ["filezilla", "ssh-config", "rclone"])
def test_the_help_tells_of_the_ways_there_are_and_no_others(run: Cli, form: str) -> None:
    text = " ".join(run("export", form, "--help").stdout.split()).replace("own- key", "own-key")
    offered = set(re.findall(r"--logon \[(.*?)\]", text)[0].split("|"))
    assert {way for way in ("key", "password", "ask", "own-key") if f"'{way}': by" in text} == offered
