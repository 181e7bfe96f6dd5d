"""The views: what is shown and what may be set."""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.unit.volumefs.harness import refused

from hatchway.volumefs.ownership import FIFO, REGULAR, SOCKET, Owner, RealView, SquashView

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
    assert VIEW.chowned(*ids) is None


@pytest.mark.parametrize("ids", [(0, None), (None, 0), (1001, 1001), (1002, 1002), (1001, 0)])
def test_chown_to_anybody_else(ids: tuple[int | None, int | None]) -> None:
    with refused(errno.EPERM):
        VIEW.chowned(*ids)


def test_what_is_new_belongs_to_whom_the_directory_belongs(tmp_path: Path) -> None:
    parent = tmp_path.stat()
    assert VIEW.owner_of_new(os.stat(tmp_path), Owner(5, 5)) == (parent.st_uid, parent.st_gid)


@pytest.mark.parametrize(("mode", "owner"), [(0o755, Owner(1000, 50)), (0o2755, None)])
def test_what_is_new_belongs_to_whom_the_grant_names(tmp_path: Path, mode: int, owner: Owner | None) -> None:
    os.chown(tmp_path, 999, 998)
    tmp_path.chmod(mode)
    # A directory with sgid gives its group to what is made in it.
    expected = owner or Owner(1000, 998)
    assert SquashView(1, 2, new=Owner(1000, 50)).owner_of_new(tmp_path.stat(), Owner(5, 5)) == expected


def test_squashed_is_everybody(tmp_path: Path) -> None:
    os.chown(tmp_path, 999, 998)
    assert VIEW.owner(tmp_path.stat()) == (1001, 1002)
    assert VIEW.makes == {REGULAR}
    for kind in (FIFO, SOCKET):
        with refused(errno.EACCES):
            VIEW.check_changes(kind)
    VIEW.check_opens(0o100400, stat.S_IRUSR)
    with refused(errno.EACCES):
        VIEW.check_opens(0o100400, stat.S_IRUSR | stat.S_IWUSR)


REAL = RealView(0o022)


@given(mode=st.integers(0, 0o177777), current=st.integers(0, 0o7777))
def test_real_is_what_is_on_disk_but_nothing_gets_suid(mode: int, current: int) -> None:
    assert REAL.mode(mode) == mode
    assert REAL.file_bits(mode) == mode & 0o777
    assert REAL.directory_bits(mode, current) == mode & 0o1777 | current & stat.S_ISGID


@pytest.mark.parametrize(("uid", "may"), [(999, True), (0, True), (1001, False)])
def test_real_modes_and_owners_are_the_owners_to_change(tmp_path: Path, uid: int, may: bool) -> None:
    os.chown(tmp_path, 999, 998)
    with contextlib.nullcontext() if may else refused(errno.EPERM):
        REAL.check_owner(tmp_path.stat(), Owner(uid, 998))
    VIEW.check_owner(tmp_path.stat(), Owner(uid, 998))


@pytest.mark.parametrize(
    ("ids", "given_on"),
    [((None, None), None), ((0, None), (0, -1)), ((None, 7), (-1, 7)), ((3, 4), (3, 4))],
)
def test_real_chown(ids: tuple[int | None, int | None], given_on: tuple[int, int] | None) -> None:
    assert REAL.chowned(*ids) == given_on


@pytest.mark.parametrize(("mode", "owner"), [(0o755, (5, 6)), (0o2755, (5, 998))])
def test_real_new_files_are_their_makers(tmp_path: Path, mode: int, owner: tuple[int, int]) -> None:
    os.chown(tmp_path, 999, 998)
    tmp_path.chmod(mode)
    assert REAL.owner(tmp_path.stat()) == (999, 998)
    assert REAL.owner_of_new(tmp_path.stat(), Owner(5, 6)) == owner


def test_real_leaves_the_kernel_to_decide() -> None:
    assert REAL.makes == {REGULAR, FIFO, SOCKET}
    REAL.check_changes(FIFO)
    with refused(errno.ESTALE):
        REAL.check_opens(0o100777, stat.S_IRUSR)
