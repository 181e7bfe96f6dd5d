"""The squash view: what is shown and what may be set."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.unit.volumefs.harness import refused

from hatchway.volumefs.ownership import SquashView

VIEW = SquashView(1001, 1002)


@pytest.mark.parametrize("kind", [stat.S_IFREG, stat.S_IFDIR, stat.S_IFLNK])
@given(bits=st.integers(0, 0o7777))
def test_modes_are_real(kind: int, bits: int) -> None:
    assert VIEW.mode(kind | bits) == kind | bits


@pytest.mark.parametrize("kind", [stat.S_IFIFO, stat.S_IFSOCK, stat.S_IFBLK, stat.S_IFCHR])
@given(bits=st.integers(0, 0o7777))
def test_special_files_have_no_permissions(kind: int, bits: int) -> None:
    assert VIEW.mode(kind | bits) == kind


@given(wanted=st.integers(0, 0o7777))
def test_no_suid_sgid_or_sticky_on_files(wanted: int) -> None:
    assert VIEW.file_bits(wanted) == wanted & 0o777


@given(wanted=st.integers(0, 0o7777), current=st.integers(0, 0o7777))
def test_directories_keep_their_sgid(wanted: int, current: int) -> None:
    result = VIEW.directory_bits(wanted, stat.S_IFDIR | current)
    assert result & 0o1777 == wanted & 0o1777
    assert result & stat.S_ISGID == current & stat.S_ISGID
    assert not result & stat.S_ISUID


@pytest.mark.parametrize("ids", [(None, None), (1001, None), (None, 1002), (1001, 1002)])
def test_chown_to_what_is_shown(ids: tuple[int | None, int | None]) -> None:
    VIEW.check_chown(*ids)


@pytest.mark.parametrize("ids", [(0, None), (None, 0), (1001, 1001), (1002, 1002), (1001, 0)])
def test_chown_to_anybody_else(ids: tuple[int | None, int | None]) -> None:
    with refused(errno.EPERM):
        VIEW.check_chown(*ids)


def test_what_is_new_belongs_to_whom_the_directory_belongs(tmp_path: Path) -> None:
    parent = tmp_path.stat()
    assert VIEW.owner_of_new(os.stat(tmp_path)) == (parent.st_uid, parent.st_gid)
