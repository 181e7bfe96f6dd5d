"""Text from an engine, made fit for keys."""

from __future__ import annotations

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hatchway.model import InstanceKey, parse_instance_key
from hatchway.names import KEY_PART_MAX, encodable, key_part, printable


@pytest.mark.parametrize("text", ["shop", "Größe 2", "a.b_c-d", "", "x" * KEY_PART_MAX])
def test_what_can_stay_as_it_is_does(text: str) -> None:
    assert key_part(text) == text


@pytest.mark.parametrize(
    ("text", "stem"),
    [
        ("a/b/../c", "a_b_.._c"),
        ("two\nlines\r\n", "twolines"),
        ("\x1b[31mred\x07", "[31mred"),
        ("\u202eexe.txt\u200f", "exe.txt"),
        ("a\u2028b\u2029c", "abc"),
        ("zero\u200bwidth\ufeff", "zerowidth"),
        ("\ud800lone", "lone"),
        (" blanks ", "blanks"),
    ],
)
def test_what_has_to_be_changed_is_never_taken_for_what_it_looks_like(text: str, stem: str) -> None:
    assert re.fullmatch(rf"{re.escape(stem)}-[0-9a-f]{{16}}", key_part(text))
    assert key_part(stem) == stem


@pytest.mark.parametrize("text", ["\n\u200f ", "\u200b"])
def test_what_has_nothing_to_show_is_nothing(text: str) -> None:
    assert key_part(text) == ""


def test_long_parts_are_cut_but_stay_different() -> None:
    one, two = key_part("x" * 300), key_part("x" * 299 + "y")
    assert len(one) == len(two) == KEY_PART_MAX
    assert one != two
    assert key_part("x" * KEY_PART_MAX) == "x" * KEY_PART_MAX


def test_printable_leaves_slashes_and_blanks() -> None:
    assert printable("docker.io/library/nginx:1 \t") == "docker.io/library/nginx:1 "


@settings(deadline=None)
@given(st.text(alphabet=st.characters(exclude_categories=())))
def test_every_key_survives_being_written(text: str) -> None:
    part = key_part(text)
    assert key_part(part) == part
    part.encode()
    encodable(text).encode()
    printable(text).encode()
    if part:
        key = InstanceKey(part, part, 1)
        assert parse_instance_key(str(key)) == key
