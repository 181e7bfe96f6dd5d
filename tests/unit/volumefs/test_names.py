"""Only exactly one component passes."""

from __future__ import annotations

import errno

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.unit.volumefs.harness import refused

from hatchway.volumefs.names import component


@pytest.mark.parametrize("name", [b"", b".", b"..", b"/", b"a/b", b"/a", b"a/", b"../a", b"a\0b", b"\0", b"./a"])
def test_what_is_no_name(name: bytes) -> None:
    with refused(errno.EINVAL):
        component(name)


@pytest.mark.parametrize("name", [b"a", b"...", b"..a", b" ", b"\n", b"\xff\xfe", b"n" * 255, b"-rf", b"*"])
def test_what_is_one(name: bytes) -> None:
    assert component(name) == name


def test_too_long() -> None:
    with refused(errno.ENAMETOOLONG):
        component(b"n" * 256)


@given(st.binary(max_size=300))
def test_a_name_stays_in_its_directory(name: bytes) -> None:
    try:
        component(name)
    except OSError:
        return
    assert name
    assert b"/" not in name
    assert b"\0" not in name
    assert name.strip(b".") or len(name) > 2
    assert len(name) <= 255
