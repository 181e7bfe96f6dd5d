"""`hatchway show`."""

from __future__ import annotations

import datetime
from typing import TYPE_CHECKING, Any

import pytest

from hatchway.wire.admin import (
    Access,
    Show,
)
from hatchway.wire.entry import Hindrance, PasswordKind

if TYPE_CHECKING:
    from tests.unit.cli.conftest import Cli, FakeDaemon


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
  Protocol      SFTP (SSH File Transfer Protocol)
  Host          sftp.example.org
  Port          2022
  User name     shop-web-1
  Password      hatchway password show shop-web-1  # shows it
  Key file      id_container-shop-web-1  SHA256:{"k" * 43}
                hatchway key export shop-web-1  # writes it
                chmod 600 id_container-shop-web-1  # where it is copied to, for OpenSSH
                hatchway key export shop-web-1 --ppk  # for WinSCP and PuTTY's tools

Host key, to compare with what the program shows at the first connection
  ssh-ed25519  SHA256:{"h" * 43}

Volumes
  rw   /home/work   work
  off  /var/lib/db  db
      hatchway enable shop/web/1 /var/lib/db  # shares it
  Starts in     /home/work

Programs
  OpenSSH       sftp -P 2022 -o IdentitiesOnly=yes -i id_container-shop-web-1 shop-web-1@sftp.example.org
                sftp -P 2022 -o PubkeyAuthentication=no shop-web-1@sftp.example.org
  Link          sftp://shop-web-1@sftp.example.org:2022/home/work/
  FileZilla     hatchway export filezilla shop-web-1 -o shop-web-1.xml
  Others        hatchway export --help
"""
    )


def test_show_secrets(run: Cli, daemon: FakeDaemon, make: Any) -> None:
    daemon.answers[Show] = lambda request: make.connection(password="se/same" if request.secrets else None)
    out = run("show", "shop/web/1", "--secrets").stdout
    assert "  Password      se/same\n" in out
    assert "  Link          sftp://shop-web-1:se%2Fsame@sftp.example.org:2022/home/work/\n" in out
    document = run.json("show", "shop/web/1", "--secrets")
    assert document["password"] == "se/same"
    assert document["directions"]["url"] == "sftp://shop-web-1:se%2Fsame@sftp.example.org:2022/home/work/"
    assert document["host_keys"][0]["fingerprint"] == "SHA256:" + "h" * 43
    assert run.json("show", "shop/web/1")["password"] is None


def test_show_what_is_missing(run: Cli, daemon: FakeDaemon, make: Any) -> None:
    daemon.answers[Show] = make.connection(
        instance=make.instance(login="shop-web-1"),
        password_kind=PasswordKind.NONE,
        key_fingerprint=None,
        problems=(Hindrance("sshd's host keys cannot be read"), Hindrance("no volume", "hatchway enable 'a b' /x")),
    )
    out = run("show", "shop/web/1").stdout
    assert "  sshd's host keys cannot be read\n  no volume\n      hatchway enable 'a b' /x\n" in out
    assert (
        "  Password      none: this login takes keys only\n"
        "                hatchway password reset shop-web-1  # makes one\n"
        "  Key file      none\n"
        "                hatchway key renew shop-web-1  # makes one\n"
    ) in out
    assert "Volumes\n  none\n" in out
    assert "chmod" not in out


def test_show_a_hashed_password(run: Cli, daemon: FakeDaemon, make: Any) -> None:
    daemon.answers[Show] = make.connection(password_kind=PasswordKind.HASHED)
    assert (
        "  Password      kept as a hash; type the password itself, not the hash\n"
        "                hatchway password reset shop-web-1  # makes a new one and shows it\n"
    ) in run("show", "x").stdout


@pytest.mark.parametrize(
    ("kind", "rehash", "told"),
    [
        ("argon2id", False, "kept as argon2id; type the password itself"),
        ("sha512", True, "kept as sha512, from the next login by it on as argon2id; type"),
        ("argon2id", True, "kept as argon2id of other parameters, from the next login by it on as argon2id; type"),
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
  From          10.0.0.0/8, ::1/128
  Expires       2099-01-31 23:59:59, in"""
        in out
    )
    assert "  At most       1 session\n\nHost key" in out
    assert "Locked" not in out
    assert run.json("show", "x")["conditions"]["allowed_from"] == ["10.0.0.0/8", "::1/128"]


def test_show_a_login_that_is_locked_or_has_expired(run: Cli, daemon: FakeDaemon, make: Any) -> None:
    locked = make.conditions(locked_at=1e9, locked_why="\x1b[2J\nFrom anywhere", expires_at=1e9)
    daemon.answers[Show] = make.connection(conditions=locked, problems=(Hindrance("nobody can enter: it is locked"),))
    out = run("show", "x").stdout
    assert out.startswith("shop/web/1  running  login shop-web-1\n  nobody can enter: it is locked\n\nConnection\n")
    assert "\n  Locked        since 2001-09-" in out
    assert ": \\x1b[2J\\x0aFrom anywhere\n" in out
    assert "\n  Expired       2001-09-" in out


def test_show_says_why_a_volume_is_off(run: Cli, daemon: FakeDaemon, make: Any) -> None:
    volumes = (
        make.volume("/a b'c"),
        make.volume("/run", refusal="a tmpfs lives in memory, and only while the container runs"),
        make.volume("/waits", held_back="another volume than before"),
    )
    daemon.answers[Show] = make.connection(instance=make.instance(*volumes, login="shop-web-1"))
    out = run("show", "x").stdout
    assert (
        """\
  off  /a b'c  work
      hatchway enable shop/web/1 '/a b'"'"'c'  # shares it
  off  /run    work
      cannot be shared: a tmpfs lives in memory, and only while the container runs
  off  /waits  work
      waits for 'hatchway confirm': another volume than before
  none is shared
"""
        in out
    )
    assert "Starts in" not in out


def test_what_a_container_is_called_does_nothing_to_the_terminal(run: Cli, daemon: FakeDaemon, make: Any) -> None:
    volumes = (make.volume("/\x1b[2J\u202e", Access.READ_WRITE, session_path="/\x1b[2J\u202e"), make.volume("/\n/x"))
    found = make.connection(
        instance=make.instance(*volumes, login="shop-web-1"),
        start_directory="/\x1b[2J\u202e",
        problems=(Hindrance("in the way: \x1b", "hatchway enable \x1b"),),
    )
    daemon.answers[Show] = found
    out = run("show", "x").stdout
    assert all(line.isprintable() for line in out.splitlines())
    assert "  Starts in     /\\x1b[2J\\u202e\n" in out
