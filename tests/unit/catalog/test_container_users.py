"""Who a container's user is, by what the container says and by the engine's map of ids."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hatchway.catalog.container_users import UnknownUserError, numeric, remapped, resolve
from hatchway.model import ID_MAX, IdPair, IdRange, outside

FILES = {
    "/etc/passwd": "root:x:0:0:root:/root:/bin/sh\n# app:x:7:7::/:\n\nbroken\napp:x:1000:50::/home/app:/bin/sh\n"
    "odd:x:many:50::/:\n4242:x:5:6::/:\nhundred:x:100:9::/:\n"
    # Only a line's end ends a line.
    "me:x:55:55:I\x0bfake:x:0:0::/:\x85fake:x:0:0::\u2028fake:x:0:0:::/home/me:\n",
    "/etc/group": "root:x:0:\nstaff:x:50:\nweb:x:33:app\nodd:x:?:\n",
}
NOTHING = dict.fromkeys(FILES, "")


@pytest.mark.parametrize(
    ("user", "expected"),
    [
        ("", (0, 0)),
        ("0:0", (0, 0)),
        ("1000:33", (1000, 33)),
        ("app", (1000, 50)),
        ("1000", (1000, 50)),
        ("app:web", (1000, 33)),
        ("app:7", (1000, 7)),
        ("7:web", (7, 33)),
        ("7", (7, 0)),
        # What is a number is never a name (libcontainer/user).
        ("4242", (4242, 0)),
        (":web", (0, 33)),
        ("0100", (100, 9)),
        ("root", (0, 0)),
    ],
)
def test_by_the_containers_files(user: str, expected: tuple[int, int]) -> None:
    assert resolve(user, FILES.__getitem__) == IdPair(*expected)


@pytest.mark.parametrize(("user", "expected"), [("7", (7, 0)), ("7:8", (7, 8)), ("", (0, 0))])
def test_numbers_need_no_files(user: str, expected: tuple[int, int]) -> None:
    assert resolve(user, NOTHING.__getitem__) == IdPair(*expected)


@pytest.mark.parametrize(
    ("user", "words"),
    [
        ("nobody", "no user 'nobody'"),
        ("odd", "no user 'odd'"),
        ("fake", "no user 'fake'"),
        ("app:nogroup", "no group 'nogroup'"),
        ("app:odd", "no group 'odd'"),
        (f"{ID_MAX + 1}", "no user"),
        ("7\u0662", "no user"),
    ],
)
def test_who_is_not_known(user: str, words: str) -> None:
    with pytest.raises(UnknownUserError, match=words):
        resolve(user, FILES.__getitem__)


@given(user=st.text(), passwd=st.text(), group=st.text())
def test_whatever_a_container_says(user: str, passwd: str, group: str) -> None:
    files = {"/etc/passwd": passwd, "/etc/group": group}
    try:
        found = resolve(user, files.__getitem__)
    except UnknownUserError:
        return
    assert 0 <= found.uid <= ID_MAX
    assert 0 <= found.gid <= ID_MAX


def test_only_numbers_need_no_look() -> None:
    assert numeric("1000") is None
    assert numeric("app:1") is None
    assert numeric("1:") is None
    assert numeric("1:2") == IdPair(1, 2)


SUBUID = "lxd:1000000:65536\ndockremap:300000:1000\nother:5:1\ndockremap:700000:2000\n"


def test_the_map_of_a_remapped_engine() -> None:
    ranges = remapped("/var/lib/docker/300000.400000", SUBUID, 0)
    assert ranges == (IdRange(0, 300000, 1000), IdRange(1000, 700000, 2000))
    assert [outside(number, ranges) for number in (0, 999, 1000, 2999, 3000)] == [300000, 300999, 700000, 701999, None]
    # Nothing of it in the file: what is usual.
    assert remapped("/var/lib/docker/300000.400000", SUBUID, 1) == (IdRange(0, 400000, 65536),)
    assert remapped("/var/lib/docker", SUBUID, 0) == ()
    assert remapped(None, SUBUID, 0) == ()
    assert outside(7, ()) == 7
    # Older engines sort the ranges.
    unsorted = "dockremap:300000:10\ndockremap:100000:20\n"
    assert remapped("/d/100000.100000", unsorted, 0) == (IdRange(0, 100000, 20), IdRange(20, 300000, 10))
    # The root's id in the middle: nobody knows how that came about.
    assert remapped("/d/300000.0", "dockremap:400000:10\ndockremap:300000:0\ndockremap:100000:1\n", 0) == ()
