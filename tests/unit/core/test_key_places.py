"""Where people must not write, and what they must not read, by all the names a directory has."""

from __future__ import annotations

import pytest

from hatchway.admin.key_places import KeyPlaces, Place
from hatchway.model import Directory, Login
from hatchway.registry.records import Delivery

SSH = Directory("/srv/home/.ssh", "inode:7:1.0")
ELSEWHERE = Directory("/mnt/other", "inode:99:5.0")


def delivery(volume: Directory, directory: str = "") -> Delivery:
    return Delivery(Login("shop-web-1"), "/data", directory, volume)


@pytest.mark.parametrize(
    ("place", "lets_in"),
    [
        (Place(SSH), True),
        (Place(SSH, "sub/folder"), True),
        (Place(Directory("/srv/home", "inode:6:1.0")), True),
        (Place(Directory("/srv", "inode:5:1.0"), "home"), True),
        (Place(Directory("/srv", "inode:5:1.0"), "home/.ssh"), True),
        (Place(Directory("/srv", "inode:5:1.0"), "home/.sshd"), False),
        (Place(Directory("/srv", "inode:5:1.0"), "hom"), False),
        (Place(Directory("/srv/home/.ssh2", "inode:8:1.0")), False),
        (Place(ELSEWHERE), False),
        # The same directory by another path: it is the same one, or lies in the same one.
        (Place(Directory("/mnt/other", SSH.birth)), True),
        (Place(Directory("/mnt/other", SSH.birth), "x"), True),
        (Place(Directory("/mnt/other", f"volume:v1+{SSH.birth}")), True),
        # Nothing is known of which it is: that is no name.
        (Place(Directory("/mnt/other", "")), False),
    ],
)
def test_what_lets_in(place: Place, lets_in: bool) -> None:
    assert KeyPlaces([SSH]).lets_in(place) is lets_in


@pytest.mark.parametrize(
    ("where", "within", "lets_in"),
    [
        ("8:1:/home/.ssh", "", True),
        ("8:1:/home/.ssh/a", "", True),
        ("8:1:/home", "", True),
        ("8:1:/", "", True),
        ("8:1:/", "home", True),
        ("8:1:/", "home2", False),
        ("8:1:/home2", "", False),
        ("8:2:/home/.ssh", "", False),
        ("", "", False),
    ],
)
def test_where_on_its_file_system_a_directory_is_counts_whatever_its_path(
    where: str, within: str, lets_in: bool
) -> None:
    keys = KeyPlaces([SSH], (), {SSH.source: "8:1:/home/.ssh", ELSEWHERE.source: where})
    assert keys.lets_in(Place(ELSEWHERE, within)) is lets_in


def test_a_private_key_is_shown_by_what_holds_it_only() -> None:
    volume = Directory("/srv/data", "inode:3:1.0")
    lies = delivery(volume, "keys/mine")
    keys = KeyPlaces((), [lies], {volume.source: "8:1:/data", ELSEWHERE.source: "8:1:/"})
    for place in (
        Place(volume),
        Place(volume, "keys"),
        Place(volume, "keys/mine"),
        Place(ELSEWHERE),
        Place(ELSEWHERE, "data"),
        Place(Directory("/", "inode:2:1.0")),
        Place(Directory("/renamed", volume.birth), "keys"),
    ):
        assert keys.shown(place) is lies, place
    for place in (
        Place(volume, "other"),
        Place(volume, "keys/mine/below"),
        Place(ELSEWHERE, "data2"),
        Place(Directory("/srv/data2", "inode:4:1.0")),
    ):
        assert keys.shown(place) is None, place
    # A place of a private key is not one where keys let in.
    assert not keys.lets_in(Place(volume))


def test_of_nothing_nothing_is_said() -> None:
    assert not KeyPlaces().lets_in(Place(SSH))
    assert KeyPlaces().shown(Place(SSH)) is None
