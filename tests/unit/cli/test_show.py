"""`hatchway show` and `hatchway key export`."""

from __future__ import annotations

import datetime
import os
import stat
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from hatchway.errors import NotFoundError
from hatchway.wire.admin import (
    Access,
    Show,
)
from hatchway.wire.entry import ExportKey, KeyExport, PasswordKind, ShowConditions

if TYPE_CHECKING:
    from tests.unit.cli.conftest import Cli, FakeDaemon

EXPORT = KeyExport(
    login="shop-web-1",
    private="-----BEGIN OPENSSH PRIVATE KEY-----\nAAAA\n-----END OPENSSH PRIVATE KEY-----\n",
    public="ssh-ed25519 AAAA shop-web-1",
    fingerprint="SHA256:" + "k" * 43,
)


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current directory, without sudo's variables."""
    directory = tmp_path / "here"
    directory.mkdir()
    monkeypatch.chdir(directory)
    monkeypatch.delenv("SUDO_UID", raising=False)
    monkeypatch.delenv("SUDO_GID", raising=False)
    return directory


def test_show(run: Cli, daemon: FakeDaemon, make: Any) -> None:
    daemon.answers[Show] = make.connection()
    done = run("show", "shop/web/1")
    assert done.exit_code == 0
    assert daemon.requests == [Show(instance="shop/web/1", secrets=False)]
    assert (
        done.stdout
        == f"""\
shop/web/1  running  login shop-web-1

Connection
  Host          sftp.example.org
  Port          2022
  User name     shop-web-1
  Password      hidden; see hatchway password show shop-web-1
  Private key   hatchway key export shop-web-1
                SHA256:{"k" * 43}
  Starts in     /home/work

Volumes
  rw  /home/work  work

Host keys, to compare at the first connection
  ssh-ed25519  SHA256:{"h" * 43}

OpenSSH
  sftp -P 2022 -o IdentitiesOnly=yes -i id_container-shop-web-1 shop-web-1@sftp.example.org
  sftp -P 2022 -o PubkeyAuthentication=no shop-web-1@sftp.example.org

Link
  sftp://shop-web-1@sftp.example.org:2022/

FileZilla: File > Site Manager > New site (key file)
  Protocol      SFTP - SSH File Transfer Protocol
  Host          sftp.example.org
  Port          2022
  Logon type    Key file
  User          shop-web-1
  Key file      id_container-shop-web-1

FileZilla: File > Site Manager > New site (ask for password)
  Protocol      SFTP - SSH File Transfer Protocol
  Host          sftp.example.org
  Port          2022
  Logon type    Ask for password
  User          shop-web-1
"""
    )


def test_show_secrets(run: Cli, daemon: FakeDaemon, make: Any) -> None:
    daemon.answers[Show] = lambda request: make.connection(password="se/same" if request.secrets else None)
    out = run("show", "shop/web/1", "--secrets").stdout
    assert "  Password      se/same\n" in out
    assert "  sftp://shop-web-1:se%2Fsame@sftp.example.org:2022/\n" in out
    assert "  Logon type    Normal\n" in out
    document = run.json("show", "shop/web/1", "--secrets")
    assert document["password"] == "se/same"
    assert document["directions"]["url"] == "sftp://shop-web-1:se%2Fsame@sftp.example.org:2022/"
    assert document["host_keys"][0]["fingerprint"] == "SHA256:" + "h" * 43
    assert run.json("show", "shop/web/1")["password"] is None


def test_show_what_is_missing(run: Cli, daemon: FakeDaemon, make: Any) -> None:
    daemon.answers[Show] = make.connection(
        instance=make.instance(login="shop-web-1"),
        password_kind=PasswordKind.NONE,
        key_fingerprint=None,
        host_keys=(),
        problems=("sshd's host keys cannot be read",),
    )
    out = run("show", "shop/web/1").stdout
    assert "  sshd's host keys cannot be read\n" in out
    assert "  none: this login takes keys only\n" in out.replace("Password    ", "")
    assert "Volumes\n  none is enabled\n" in out
    assert "Private key" not in out


def test_show_a_hashed_password(run: Cli, daemon: FakeDaemon, make: Any) -> None:
    daemon.answers[Show] = make.connection(password_kind=PasswordKind.HASHED)
    assert "kept as a hash; make a new one with hatchway password reset shop-web-1" in run("show", "x").stdout


@pytest.mark.parametrize(
    ("kind", "rehash", "told"),
    [
        ("argon2id", False, "kept as argon2id; make a new one with "),
        ("sha512", True, "kept as sha512, from the next login by it on as argon2id; make"),
        ("argon2id", True, "kept as argon2id of other parameters, from the next login by it on as argon2id; make"),
    ],
)
def test_show_how_a_password_is_kept(
    run: Cli, daemon: FakeDaemon, make: Any, kind: str, rehash: bool, told: str
) -> None:
    answer = make.connection(password_kind=PasswordKind.HASHED, password_hash=kind, password_rehash=rehash)
    daemon.answers[Show] = answer
    assert f"  Password      {told}" in run("show", "x").stdout
    document = run.json("show", "x")
    assert (document["password_hash"], document["password_rehash"]) == (kind, rehash)


def test_show_where_a_volume_stands(run: Cli, daemon: FakeDaemon, make: Any) -> None:
    found = make.instance(make.volume("/etc/app", Access.READ_ONLY, session_path="/volumes/conf"), login="l")
    daemon.answers[Show] = make.connection(instance=found)
    assert "  ro  /etc/app  work\n      in a session at /volumes/conf\n" in run("show", "x").stdout


def test_show_says_which_conditions_there_are(run: Cli, daemon: FakeDaemon, make: Any) -> None:
    until = datetime.datetime(2099, 1, 31, 23, 59, 59).timestamp()
    conditions = make.conditions(allowed_from=("10.0.0.0/8", "::1/128"), expires_at=until, sessions_max=1)
    daemon.answers[Show] = make.connection(conditions=conditions, keys=2, volume_keys=1)
    out = run("show", "x").stdout
    assert (
        """\
  Added keys    2; see hatchway key list shop-web-1
  Own keys      1 in its volumes; see hatchway key list shop-web-1
  Starts in     /home/work
  From          10.0.0.0/8, ::1/128
  Expires       2099-01-31 23:59:59, in"""
        in out
    )
    assert "  At most       1 session\n\nVolumes" in out
    assert "Locked" not in out
    assert run.json("show", "x")["conditions"]["allowed_from"] == ["10.0.0.0/8", "::1/128"]


def test_show_a_login_that_is_locked_or_has_expired(run: Cli, daemon: FakeDaemon, make: Any) -> None:
    locked = make.conditions(locked_at=1e9, locked_why="\x1b[2J\nFrom anywhere", expires_at=1e9)
    daemon.answers[Show] = make.connection(conditions=locked, problems=("nobody can enter: it is locked",))
    out = run("show", "x").stdout
    assert out.startswith("shop/web/1  running  login shop-web-1\n  nobody can enter: it is locked\n\nConnection\n")
    assert "\n  Locked        since 2001-09-" in out
    assert ": \\x1b[2J\\x0aFrom anywhere\n" in out
    assert "\n  Expired       2001-09-" in out


def test_export(run: Cli, daemon: FakeDaemon, make: Any, here: Path) -> None:
    daemon.answers |= {ExportKey: EXPORT, ShowConditions: make.conditions()}
    done = run("key", "export", "shop/web/1")
    assert (done.exit_code, done.stderr) == (0, "")
    assert done.stdout == f"id_container-shop-web-1  SHA256:{'k' * 43}\n"
    file = here / "id_container-shop-web-1"
    assert file.read_text() == EXPORT.private
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert os.listdir(here) == [file.name]
    assert "PRIVATE" not in done.stdout


def test_export_never_overwrites_unless_told(run: Cli, daemon: FakeDaemon, make: Any, here: Path) -> None:
    daemon.answers |= {ExportKey: EXPORT, ShowConditions: make.conditions()}
    (here / "mine").write_text("precious")
    (here / "mine").chmod(0o644)
    refused = run("key", "export", "shop/web/1", "-o", "mine")
    assert refused.exit_code == 6
    assert "--force" in refused.stderr
    assert (here / "mine").read_text() == "precious"
    assert daemon.requests == []
    assert run("key", "export", "shop/web/1", "-o", "mine", "--force").exit_code == 0
    assert (here / "mine").read_text() == EXPORT.private
    assert stat.S_IMODE((here / "mine").stat().st_mode) == 0o600
    assert os.listdir(here) == ["mine"]


def test_a_key_that_could_not_be_written_is_not_asked_for(run: Cli, daemon: FakeDaemon, make: Any, here: Path) -> None:
    daemon.answers |= {ExportKey: EXPORT, ShowConditions: make.conditions()}
    (here / "id_container-shop-web-1").write_text("precious")
    assert run("key", "export", "shop/web/1").exit_code == 6
    assert daemon.requests == [ShowConditions("shop/web/1")]


@pytest.mark.parametrize("force", [[], ["--force"]])
def test_export_follows_no_link(run: Cli, daemon: FakeDaemon, make: Any, here: Path, force: list[str]) -> None:
    daemon.answers |= {ExportKey: EXPORT, ShowConditions: make.conditions()}
    (here / "link").symlink_to(here / "target")
    done = run("key", "export", "shop/web/1", "-o", "link", *force)
    assert done.exit_code == (0 if force else 6)
    assert not (here / "target").exists()


def test_export_to_standard_output(run: Cli, daemon: FakeDaemon, make: Any, here: Path) -> None:
    daemon.answers |= {ExportKey: EXPORT, ShowConditions: make.conditions()}
    assert run("key", "export", "shop/web/1", "-o", "-").stdout == EXPORT.private
    assert run.json("key", "export", "shop/web/1", "-o", "-")["private"] == EXPORT.private
    assert os.listdir(here) == []


def test_export_json_names_the_file(run: Cli, daemon: FakeDaemon, make: Any, here: Path) -> None:
    daemon.answers |= {ExportKey: EXPORT, ShowConditions: make.conditions()}
    assert run.json("key", "export", "shop/web/1") == {
        "login": "shop-web-1",
        "file": "id_container-shop-web-1",
        "fingerprint": EXPORT.fingerprint,
        "public": EXPORT.public,
    }


def test_export_to_a_bad_place(run: Cli, daemon: FakeDaemon, make: Any, here: Path) -> None:
    daemon.answers |= {ExportKey: EXPORT, ShowConditions: make.conditions()}
    assert run("key", "export", "shop/web/1", "-o", ".").exit_code == 2
    assert run("key", "export", "shop/web/1", "-o", "none/key").exit_code == 8


def test_export_of_nobody(run: Cli, daemon: FakeDaemon, make: Any, here: Path) -> None:
    daemon.answers[ShowConditions] = NotFoundError("no instance 'x'")
    done = run("key", "export", "x")
    assert done.exit_code == 5
    assert os.listdir(here) == []


@pytest.mark.skipif(os.geteuid() != 0, reason="not root: sudo's caller cannot be given a file")
def test_export_under_sudo_is_the_callers(run: Cli, daemon: FakeDaemon, make: Any, here: Path) -> None:
    daemon.answers |= {ExportKey: EXPORT, ShowConditions: make.conditions()}
    assert run("key", "export", "shop/web/1", env={"SUDO_UID": "12345", "SUDO_GID": "12346"}).exit_code == 0
    found = (here / "id_container-shop-web-1").stat()
    assert (found.st_uid, found.st_gid) == (12345, 12346)
