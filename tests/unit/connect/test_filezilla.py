"""FileZilla's fields, and the file it imports. `tests/long/test_filezilla.py` has it read by FileZilla itself."""

from __future__ import annotations

import base64
from xml.etree import ElementTree

import msgspec
import pytest
from tests.unit.connect.infos import ED25519, HIDDEN, HOSTILE, KEY_ONLY, NEITHER, PASSWORD_ONLY, SHOWN, info

from hatchway.connect import filezilla
from hatchway.connect.filezilla import ChosenSite
from hatchway.connect.logon import Logon
from hatchway.model import InstanceKey


def visible(name: str) -> str:
    """What of a name is seen."""
    return "".join(char for char in name if char.isprintable())


def read(*sites: ChosenSite) -> ElementTree.Element:
    """The element with the folders."""
    text = filezilla.sitemanager(sites)
    assert text.startswith('<?xml version="1.0" encoding="UTF-8"?>\n<FileZilla3>')
    assert text.isascii(), "whatever it goes through, it arrives"
    servers = ElementTree.fromstring(text.encode()).find("Servers")  # noqa: S314 - it is ours
    assert servers is not None
    return servers


def server_of(site: ChosenSite) -> dict[str, str]:
    """What stands in the element of a site, but for its bookmarks."""
    found = read(site).find("Folder/Server")
    assert found is not None
    return {child.tag: child.text or "" for child in found if child.tag != "Bookmark"}


def test_a_site_that_asks() -> None:
    assert server_of(ChosenSite(info=HIDDEN, logon=Logon.ASK)) == {
        "Host": "sftp.example.org",
        "Port": "2022",
        "Protocol": "1",
        "Type": "0",
        "User": "shop-web-1",
        "Logontype": "2",
        "EncodingType": "UTF-8",
        "BypassProxy": "0",
        "Name": "shop-web-1",
        "Comments": f"shop/web/1\nssh-ed25519 {ED25519.fingerprint}",
    }


def test_a_site_with_its_password() -> None:
    server = server_of(ChosenSite(info=SHOWN, logon=Logon.PASSWORD))
    assert server["Logontype"] == "1"
    assert base64.b64decode(server["Pass"]).decode() == "se/same"
    assert "Pass" not in server_of(ChosenSite(info=SHOWN, logon=Logon.ASK))


@pytest.mark.parametrize(
    ("directory", "path"),
    [
        ("/home/anna", "/home/anna/id_container-shop-web-1"),
        (r"C:\Users\anna", r"C:\Users\anna\id_container-shop-web-1"),
    ],
)
def test_a_site_with_a_key(directory: str, path: str) -> None:
    server = server_of(ChosenSite(info=KEY_ONLY, logon=Logon.KEY, key_dir=directory))
    assert (server["Logontype"], server["Keyfile"]) == ("5", path)


def test_a_key_of_which_nobody_knows_where_it_is() -> None:
    server = server_of(ChosenSite(info=KEY_ONLY, logon=Logon.KEY))
    assert server["Logontype"] == "5"
    assert "Keyfile" not in server
    assert "choose id_container-shop-web-1 where you have saved it" in server["Comments"]


def test_a_key_of_ones_own() -> None:
    server = server_of(ChosenSite(info=NEITHER, logon=Logon.OWN_KEY, key_dir="/home/anna"))
    assert server["Logontype"] == "5"
    assert "Keyfile" not in server
    assert server["Comments"].endswith("\nKey file: choose your own")


def test_folders_are_environments() -> None:
    logins = [("shop", "web", 2), ("blog", "db", 1), ("shop", "web", 1)]
    servers = read(
        *(
            ChosenSite(info=info(key=InstanceKey(*key), login="-".join(map(str, key))), logon=Logon.ASK)
            for key in logins
        )
    )
    assert [((folder.text or "").strip(), [one.text for one in folder.iter("Name")]) for folder in servers] == [
        ("blog", ["blog-db-1"]),
        ("shop", ["shop-web-1", "shop-web-2"]),
    ]


def test_bookmarks_are_volumes() -> None:
    servers = read(ChosenSite(info=info("/home/work", "/päth with blank"), logon=Logon.ASK))
    assert [(one.findtext("Name"), one.findtext("RemoteDir")) for one in servers.iter("Bookmark")] == [
        ("/home/work", "1 0 4 home 4 work"),
        ("/päth with blank", "1 0 15 päth with blank"),
    ]


@pytest.mark.parametrize(
    "path", ["/", "/a\rb", "/a\nb", "/a\x00", "/\x9b", "/\u202e", "/\ufffe", "/\N{PILE OF POO}", "/\ud800"]
)
def test_paths_that_cannot_be_said(path: str) -> None:
    assert filezilla.remote_path(path) is None


@pytest.mark.parametrize("name", HOSTILE)
def test_no_name_is_more_than_a_name(name: str) -> None:
    hostile = info(f"/{name}", key=InstanceKey(name, name, 1), start_directory=f"/{name}")
    (folder,) = read(ChosenSite(info=hostile, logon=Logon.ASK))
    # Blanks at its end are the indentation's.
    assert (folder.text or "").rstrip() == visible(name).rstrip()
    (server,) = folder
    usual = server_of(ChosenSite(info=HIDDEN, logon=Logon.ASK))
    found = {child.tag: child.text or "" for child in server if child.tag != "Bookmark"}
    assert list(found) == list(usual)
    assert {**found, "Comments": ""} == {**usual, "Comments": ""}
    assert found["Comments"].splitlines()[0] == visible(f"{name}/{name}/1")
    marks = list(server.iter("Bookmark"))
    # It has one, but for what is not visible, or counted otherwise on Windows.
    assert len(marks) == (1 if name.isprintable() and "\N{PILE OF POO}" not in name else 0)
    for mark in marks:
        kind, _, rest = (mark.findtext("RemoteDir") or "").partition(" 0 ")
        length, _, segment = rest.partition(" ")
        assert (kind, int(length), segment) == ("1", len(name), name)


def test_fields() -> None:
    key, password = filezilla.fields(SHOWN)
    assert msgspec.structs.asdict(key) == {
        "protocol": "SFTP - SSH File Transfer Protocol",
        "host": "sftp.example.org",
        "port": 2022,
        "logon_type": "Key file",
        "user": "shop-web-1",
        "password": None,
        "key_file": "id_container-shop-web-1",
    }
    assert (password.logon_type, password.password, password.key_file) == ("Normal", "se/same", None)
    assert [site.logon_type for site in filezilla.fields(KEY_ONLY)] == ["Key file"]
    assert [site.logon_type for site in filezilla.fields(PASSWORD_ONLY)] == ["Ask for password"]
