"""Names: logins, instance keys, paths, and where volumes stand in a session."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hatchway.errors import UsageError
from hatchway.model import (
    LOGIN_MAX,
    InstanceKey,
    VolumeInfo,
    VolumeKind,
    login_candidates,
    parse_instance_key,
    session_paths,
    valid_login,
    valid_volume_path,
)

names = st.text(min_size=1, max_size=60)
keys = st.builds(InstanceKey, names, names, st.integers(min_value=0, max_value=10**9))


def test_a_plain_key_gives_the_readable_login() -> None:
    assert login_candidates(InstanceKey("shop", "web", 1))[0] == "shop-web-1"


@given(keys)
def test_every_candidate_fits_the_grammar(key: InstanceKey) -> None:
    for candidate in login_candidates(key):
        assert valid_login(candidate), candidate
        assert len(candidate) <= LOGIN_MAX


@given(keys, keys)
def test_two_instances_never_share_the_hashed_login(one: InstanceKey, other: InstanceKey) -> None:
    if one != other:
        assert login_candidates(one)[1] != login_candidates(other)[1]


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (InstanceKey("Shop", "web", 1), InstanceKey("shop", "web", 1)),
        (InstanceKey("a.b", "web", 1), InstanceKey("a_b", "web", 1)),
        (InstanceKey("a", "b" * 40, 1), InstanceKey("a", "b" * 41, 1)),
        (InstanceKey("ä", "web", 1), InstanceKey("ö", "web", 1)),
    ],
)
def test_names_that_only_differ_where_a_login_cannot_get_different_logins(one: InstanceKey, other: InstanceKey) -> None:
    assert login_candidates(one)[0] != login_candidates(other)[0]


@pytest.mark.parametrize("name", ["", "root!", "Root", "1a", "-a", "a" * 32, "a b", "a/b", "..", "a\n", "ä", "a$"])
def test_what_is_no_login(name: str) -> None:
    assert not valid_login(name)


@pytest.mark.parametrize("text", ["", "a", "a/b", "a/b/", "/b/1", "a//1", "a/b/x", "a/b/²"])
def test_what_is_no_instance(text: str) -> None:
    with pytest.raises(UsageError, match="ENVIRONMENT/CONTAINER/NUMBER"):
        parse_instance_key(text)


def test_an_instance_key_survives_text() -> None:
    key = InstanceKey("shop", "web", 12)
    assert parse_instance_key(str(key)) == key


@pytest.mark.parametrize("path", ["", "/", "a", "/a/", "/a//b", "/a/../b", "/a/.", "//a", "/a\0b", "/" + "x" * 256])
def test_what_is_no_volume_path(path: str) -> None:
    assert not valid_volume_path(path)


def test_volumes_stand_where_the_container_has_them() -> None:
    volumes = {"/home/work": "w", "/var/lib/mysql": "db"}
    assert session_paths(volumes) == {path: path for path in volumes}


@pytest.mark.parametrize(
    "path", ["/etc/app", "/usr/share/x", "/lib64/x", "/dev/shm", "/run/x", "/proc/x", "/volumes/x"]
)
def test_reserved_directories_are_shown_elsewhere(path: str) -> None:
    assert session_paths({path: "conf"}) == {path: "/volumes/conf"}


def test_what_only_begins_like_a_reserved_directory_is_not_reserved() -> None:
    assert session_paths({"/etcetera": "x", "/library/a": "y"}) == {
        "/etcetera": "/etcetera",
        "/library/a": "/library/a",
    }


def test_a_nested_volume_stands_in_the_outer_one() -> None:
    assert session_paths({"/data": "d", "/data/sub": "s"}) == {"/data": "/data", "/data/sub": "/data/sub"}


def test_a_place_never_becomes_another_volumes() -> None:
    before = session_paths({"/etc/app": "conf"})["/etc/app"]
    after = session_paths({"/etc/app": "conf", "/etc/a": "conf"})
    assert before not in (set(after.values()) - {after["/etc/app"]})
    assert after["/etc/a"] != after["/etc/app"]


@given(st.dictionaries(st.sampled_from(["/etc/a", "/etc/b", "/a", "/a/b", "/a/b/c", "/c"]), st.text(max_size=300)))
def test_places_are_unique_usable_and_nested_only_as_in_the_container(volumes: dict[str, str]) -> None:
    places = session_paths(volumes)
    assert len(places) == len(volumes) == len(set(places.values()))
    for path, place in places.items():
        assert valid_volume_path(place), place
        for other_path, other in places.items():
            if other != place and other.startswith(place + "/"):
                assert other_path.startswith(path + "/")


def test_a_volume_is_another_when_it_was_made_again() -> None:
    def volume(created: str) -> VolumeInfo:
        return VolumeInfo(path="/data", kind=VolumeKind.VOLUME, name="data", driver="local", created=created)

    assert volume("2026-01-01").identity != volume("2026-01-02").identity
