"""Connection information in the forms clients take."""

from __future__ import annotations

import shlex
from urllib.parse import unquote, urlsplit

import msgspec
import pytest

from hatchway.connect import info as connect
from hatchway.model import InstanceKey, InstanceState
from hatchway.wire.admin import (
    ConnectionInfo,
    HostKey,
    InstanceStatus,
)
from hatchway.wire.entry import ConditionsStatus, PasswordKind

INFO = ConnectionInfo(
    instance=InstanceStatus(
        key=InstanceKey("shop", "web", 1),
        state=InstanceState.RUNNING,
        runtime_name="shop-web-1",
        image="nginx",
        user="",
        present=True,
        login="shop-web-1",
        volumes=(),
    ),
    host="sftp.example.org",
    port=2022,
    login="shop-web-1",
    start_directory="/home/work",
    password_kind=PasswordKind.RAW,
    password=None,
    key_fingerprint="SHA256:abc",
    key_public="ssh-ed25519 AAAA",
    host_keys=(HostKey("ssh-ed25519", "SHA256:def", "ssh-ed25519 AAAA"),),
    conditions=ConditionsStatus(
        login="shop-web-1",
        allowed_from=(),
        expires_at=None,
        sessions_max=None,
        sessions_default=32,
        locked_at=None,
        locked_why="",
    ),
)


def test_url_without_a_password() -> None:
    assert connect.url(INFO) == "sftp://shop-web-1@sftp.example.org:2022/"


@pytest.mark.parametrize("password", ["sesame", "a:b@c/d?e#f%20 g", "päß", "+&=;,'\"\\"])
def test_url_with_a_password_is_read_as_it_was_meant(password: str) -> None:
    parts = urlsplit(connect.url(msgspec.structs.replace(INFO, password=password)))
    assert (parts.scheme, parts.hostname, parts.port, parts.path) == ("sftp", "sftp.example.org", 2022, "/")
    assert parts.username == "shop-web-1"
    assert parts.password is not None
    assert unquote(parts.password) == password
    assert (parts.query, parts.fragment) == ("", "")


@pytest.mark.parametrize(
    ("host", "in_url", "target"),
    [
        ("192.0.2.1", "192.0.2.1", "shop-web-1@192.0.2.1"),
        ("2001:db8::1", "[2001:db8::1]", "shop-web-1@[2001:db8::1]"),
        ("fe80::1%eth0", "[fe80::1%25eth0]", "shop-web-1@[fe80::1%eth0]"),
    ],
)
def test_addresses(host: str, in_url: str, target: str) -> None:
    info = msgspec.structs.replace(INFO, host=host)
    assert connect.url(info) == f"sftp://shop-web-1@{in_url}:2022/"
    for command in (connect.sftp_with_key(info), connect.sftp_with_password(info)):
        assert command is not None
        assert shlex.split(command)[-1] == target
    assert connect.filezilla(info)[0].host == host


def test_commands() -> None:
    assert connect.sftp_with_key(INFO) == (
        "sftp -P 2022 -o IdentitiesOnly=yes -i id_container-shop-web-1 shop-web-1@sftp.example.org"
    )
    assert connect.sftp_with_password(INFO) == ("sftp -P 2022 -o PubkeyAuthentication=no shop-web-1@sftp.example.org")


def test_brackets_are_safe_from_the_shell() -> None:
    command = connect.sftp_with_key(msgspec.structs.replace(INFO, host="::1"))
    assert command is not None
    assert command.endswith(" 'shop-web-1@[::1]'")


def test_what_a_login_lacks_is_left_out() -> None:
    key_only = msgspec.structs.replace(INFO, password_kind=PasswordKind.NONE)
    assert connect.sftp_with_password(key_only) is None
    assert [site.logon_type for site in connect.filezilla(key_only)] == ["Key file"]
    password_only = msgspec.structs.replace(INFO, key_fingerprint=None, key_public=None)
    assert connect.sftp_with_key(password_only) is None
    ways = connect.directions(password_only)
    assert ways.key_file is None
    assert [site.logon_type for site in ways.filezilla] == ["Ask for password"]


def test_filezilla_values() -> None:
    key, password = connect.filezilla(msgspec.structs.replace(INFO, password="sesame"))
    assert msgspec.structs.asdict(key) == {
        "protocol": "SFTP - SSH File Transfer Protocol",
        "host": "sftp.example.org",
        "port": 2022,
        "logon_type": "Key file",
        "user": "shop-web-1",
        "password": None,
        "key_file": "id_container-shop-web-1",
    }
    assert (password.logon_type, password.password, password.key_file) == ("Normal", "sesame", None)


def test_a_hidden_password_is_nowhere() -> None:
    ways = connect.directions(INFO)
    assert "sesame" not in repr(ways)
    assert ways.url == "sftp://shop-web-1@sftp.example.org:2022/"
