"""Links: the plain one, and WinSCP's."""

from __future__ import annotations

from urllib.parse import unquote, urlsplit

import msgspec
import pytest
from tests.unit.connect.infos import ED25519, HIDDEN, HOSTILE, PASSWORD_ONLY, SHOWN, info

from hatchway.connect import links
from hatchway.connect.directions import directions
from hatchway.wire.admin import HostKey


def test_without_a_password() -> None:
    assert links.url(HIDDEN) == "sftp://shop-web-1@sftp.example.org:2022/home/work/"


@pytest.mark.parametrize("password", ["sesame", "a:b@c/d?e#f%20 g", "päß", "+&=;,'\"\\"])
def test_a_password_is_read_as_it_was_meant(password: str) -> None:
    for link in (links.url(info(password=password)), links.winscp_url(info(password=password))):
        parts = urlsplit(link)
        assert (parts.scheme, parts.hostname, parts.port) == ("sftp", "sftp.example.org", 2022)
        assert (parts.username, parts.path) == ("shop-web-1", "/home/work/")
        assert unquote((parts.password or "").partition(";")[0]) == password
        assert (parts.query, parts.fragment) == ("", "")


@pytest.mark.parametrize(
    ("host", "in_url"),
    [("192.0.2.1", "192.0.2.1"), ("2001:db8::1", "[2001:db8::1]")],
)
def test_addresses(host: str, in_url: str) -> None:
    assert links.url(info(host=host)) == f"sftp://shop-web-1@{in_url}:2022/home/work/"


@pytest.mark.parametrize(
    ("start", "path"),
    [
        ("/", "/"),
        ("/data", "/data/"),
        ("/srv/a.b_c-d", "/srv/a.b_c-d/"),
        ("/~/x", "/"),
        ("/a b", "/"),
        ("/ü", "/"),
        ("//", "/"),
    ],
)
def test_a_start_directory_that_every_program_reads(start: str, path: str) -> None:
    assert links.url(info(start_directory=start)) == f"sftp://shop-web-1@sftp.example.org:2022{path}"


@pytest.mark.parametrize("name", HOSTILE)
def test_nothing_is_injected(name: str) -> None:
    made = info(f"/{name}", start_directory=f"/{name}")
    parts = urlsplit(links.url(made))
    plain = name == "x" * 200
    assert (parts.netloc, parts.path) == ("shop-web-1@sftp.example.org:2022", f"/{name}/" if plain else "/")
    assert links.winscp_url(made).isascii()
    assert links.winscp_url(made).isprintable()


def test_winscp() -> None:
    fingerprint = "ssh-ed25519-Gi3KuK9EVU_2nIhz1XD3oXUs3MH_zqKSaJbMD39pVeA"
    assert links.winscp_url(HIDDEN) == f"sftp://shop-web-1;fingerprint={fingerprint}@sftp.example.org:2022/home/work/"
    assert links.winscp_url(SHOWN, r"C:\Users\anna b") == (
        f"sftp://shop-web-1:se%2Fsame;fingerprint={fingerprint}"
        ";x-publickeyfile=C%3A%5CUsers%5Canna%20b%5Cid_container-shop-web-1.ppk@sftp.example.org:2022/home/work/"
    )


def test_winscp_is_told_of_the_key_that_it_will_be_shown() -> None:
    rsa = HostKey("ssh-rsa", "SHA256:rrr", "ssh-rsa AAAA")
    assert ";fingerprint=ssh-ed25519-" in links.winscp_url(info(host_keys=(rsa, ED25519)))
    assert ";fingerprint=ssh-rsa-rrr@" in links.winscp_url(info(host_keys=(rsa,)))


def test_winscp_is_told_of_no_key_that_is_not_there() -> None:
    assert "publickey" not in links.winscp_url(PASSWORD_ONLY, "/keys")


def test_a_hidden_password_is_nowhere() -> None:
    ways = directions(SHOWN)
    assert "se%2Fsame" in ways.url
    assert "same" not in repr(ways) + repr(ways.filezilla) + repr([ways])
    assert "same" not in str(msgspec.to_builtins(directions(HIDDEN)))
