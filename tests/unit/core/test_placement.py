"""Which volume stands in which."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from hatchway.host.placement import placements, with_nested
from hatchway.wire.host import View


def view(path: str) -> View:
    return View(path, f"/srv{path}", False)


def test_each_stands_in_the_nearest_and_names_its_own_places_only() -> None:
    paths = ["/a/b/c/d", "/a", "/ab", "/a/b/c", "/c"]
    found = placements(view(path) for path in paths)
    assert list(found) == ["/a", "/a/b/c", "/a/b/c/d", "/ab", "/c"]
    assert {path: one.inside for path, one in found.items()} == {
        "/a": None, "/a/b/c": "/a", "/a/b/c/d": "/a/b/c", "/ab": None, "/c": None,
    }  # fmt: skip
    assert found["/a"].places == ("b/c",)
    assert found["/a/b/c"].places == ("d",)
    assert found["/a/b/c/d"].places == found["/ab"].places == ()


def test_what_stands_in_another_goes_first() -> None:
    mounted = ["/a", "/a/b", "/a/b/c", "/ab", "/c"]
    assert with_nested(["/a/b"], mounted) == ["/a/b/c", "/a/b"]
    assert with_nested(["/a", "/c", "/gone"], mounted) == ["/a/b/c", "/a/b", "/a", "/c"]
    assert with_nested([], mounted) == []


_PARTS = st.lists(st.text("ab", min_size=1, max_size=2), min_size=1, max_size=4)
_PATHS = _PARTS.map(lambda parts: "/" + "/".join(parts))


@given(st.sets(_PATHS))
def test_outer_before_inner_and_every_place_named_once(paths: set[str]) -> None:
    found = placements(view(path) for path in paths)
    assert set(found) == paths
    seen: set[str] = set()
    for path, one in found.items():
        assert one.inside is None or one.inside in seen
        seen.add(path)
    named = {f"{path}/{place}" for path, one in found.items() for place in one.places}
    assert named == {path for path, one in found.items() if one.inside is not None}
