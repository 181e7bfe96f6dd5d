"""Any key gets through a path and back, and nothing else is taken for one."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.web.sample import HOSTILE

from hatchway.errors import NotFoundError
from hatchway.model import InstanceKey
from hatchway.web import paths

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=60)


@given(TEXT, TEXT, st.integers(0, 10**17))
def test_round_trip(environment: str, container: str, number: int) -> None:
    path = paths.instance(InstanceKey(environment, container, number))
    assert re.fullmatch(r"(/[A-Za-z0-9._~-]+){4}", path)
    _, _, *parts = path.split("/")
    assert not {".", ".."} & set(parts)
    assert paths.instance_key(*parts) == InstanceKey(environment, container, number)
    assert paths.local(path) == path


@pytest.mark.parametrize("name", [*HOSTILE, "", "/", "//", "~", "\0"])
def test_hostile_names(name: str) -> None:
    assert paths.decoded(paths.coded(name)) == name


@given(TEXT)
def test_only_one_spelling(part: str) -> None:
    try:
        text = paths.decoded(part)
    except NotFoundError:
        return
    assert paths.coded(text) == part


@pytest.mark.parametrize(
    "part", ["", ".", "..", "~2e", "~41", "%41", "~FF", "~C0~AF", "a/b", "a~", "~~", "ü", "a" * 20000]
)
def test_refused(part: str) -> None:
    with pytest.raises(NotFoundError):
        paths.decoded(part)


@pytest.mark.parametrize("number", ["", "-1", "+1", "01", "1.0", "1" * 30, "\u00b9", "\u0661"])
def test_numbers_have_one_spelling(number: str) -> None:
    with pytest.raises(NotFoundError):
        paths.instance_key("a", "b", number)


@pytest.mark.parametrize(
    "there",
    ["//evil.example", "/\\evil.example", "https://evil.example", "javascript:alert(1)", "", "x", "/a b", "/\r\nx"],
)
def test_nobody_is_led_elsewhere(there: str) -> None:
    assert paths.local(there) == "/"


def test_led_to_pages_with_parameters() -> None:
    for there in ("/log?kind=login&instance=shop%2Fweb%2F1", "/?q=shop+web&state="):
        assert paths.local(there) == there
