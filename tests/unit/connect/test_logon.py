"""By what a program is to log in, and where a key is."""

from __future__ import annotations

import pytest
from msgspec import structs
from tests.unit.connect.infos import HASHED, HIDDEN, KEY_ONLY, NEITHER, PASSWORD_ONLY, SHOWN

from hatchway.connect import keyfiles
from hatchway.connect.logon import Logon, logon
from hatchway.errors import ConflictError, UsageError
from hatchway.wire.admin import ConnectionInfo


@pytest.mark.parametrize(
    ("info", "without", "with_key"),
    [
        (HIDDEN, Logon.ASK, Logon.KEY),
        (SHOWN, Logon.PASSWORD, Logon.PASSWORD),
        (HASHED, Logon.ASK, Logon.KEY),
        (KEY_ONLY, Logon.KEY, Logon.KEY),
        (PASSWORD_ONLY, Logon.ASK, Logon.ASK),
        (NEITHER, Logon.OWN_KEY, Logon.OWN_KEY),
    ],
    ids=["hidden", "shown", "hashed", "key only", "password only", "neither"],
)
def test_what_nobody_has_said(info: ConnectionInfo, without: Logon, with_key: Logon) -> None:
    assert logon(info, None, key_known=False) is without
    assert logon(info, None, key_known=True) is with_key


@pytest.mark.parametrize(
    ("info", "wanted", "why"),
    [
        (PASSWORD_ONLY, Logon.KEY, "hatchway key renew shop-web-1"),
        (KEY_ONLY, Logon.ASK, "hatchway password reset shop-web-1"),
        (KEY_ONLY, Logon.PASSWORD, "hatchway password reset shop-web-1"),
        (HIDDEN, Logon.PASSWORD, "with --secrets only"),
        (HASHED, Logon.PASSWORD, "type the password itself, not the hash"),
        (HIDDEN, Logon.OWN_KEY, "hatchway key add shop-web-1 FILE"),
    ],
)
def test_what_cannot_be(info: ConnectionInfo, wanted: Logon, why: str) -> None:
    with pytest.raises(ConflictError, match=why):
        logon(info, wanted, key_known=True)


@pytest.mark.parametrize("wanted", Logon)
def test_what_is_wanted(wanted: Logon) -> None:
    assert logon(structs.replace(SHOWN, keys=1), wanted, key_known=False) is wanted


def test_keys_in_its_volumes_are_its_own() -> None:
    assert logon(structs.replace(HIDDEN, volume_keys=1), Logon.OWN_KEY, key_known=False) is Logon.OWN_KEY
    with pytest.raises(ConflictError):
        logon(structs.replace(HIDDEN, volume_keys=0), Logon.OWN_KEY, key_known=False)


@pytest.mark.parametrize(
    ("directory", "anchored"),
    [
        ("~", True),
        ("~/.ssh", True),
        ("/k", True),
        ("C:/k", True),
        ("keys", False),
        ("~anna/.ssh", False),
        ("C:k", False),
    ],
)
def test_places_that_are_the_same_wherever_one_is(directory: str, anchored: bool) -> None:
    assert keyfiles.is_anchored(directory) is anchored


@pytest.mark.parametrize(
    ("directory", "absolute", "path"),
    [
        ("/home/anna", True, "/home/anna/k"),
        ("/home/anna/", True, "/home/anna/k"),
        ("~/.ssh", False, "~/.ssh/k"),
        ("keys", False, "keys/k"),
        (r"C:\keys", True, r"C:\keys\k"),
        ("C:/keys/", True, "C:/keys/k"),
        ("C:/keys", True, "C:/keys/k"),
        (r"\\server\share", True, "\\\\server\\share\\k"),
        (r"\\server\share\keys", True, "\\\\server\\share\\keys\\k"),
        (r"keys\mine", False, "keys\\mine\\k"),
        ("C:", False, "C:k"),
    ],
)
def test_directories_of_other_computers(directory: str, absolute: bool, path: str) -> None:
    keyfiles.check_directory(directory)
    assert keyfiles.is_absolute(directory) is absolute
    assert keyfiles.in_directory(directory, "k") == path


@pytest.mark.parametrize("directory", ["", 'a"b', "a\nb", "a\x1bb", "\u202e", "\ud800"])
def test_directories_that_cannot_be_written_down(directory: str) -> None:
    with pytest.raises(UsageError):
        keyfiles.check_directory(directory)
