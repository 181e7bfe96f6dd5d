"""Paths that others can change are found, and the bad component is named."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from hatchway.errors import HostError
from hatchway.sshd import trust


@pytest.fixture
def helper(tmp_path: Path) -> Path:
    directory = tmp_path / "usr" / "libexec"
    directory.mkdir(parents=True)
    for path in (tmp_path / "usr", directory):
        path.chmod(0o755)
    program = directory / "helper"
    program.write_text("#!/bin/true\n")
    program.chmod(0o755)
    return program


def flaw(path: Path, tmp_path: Path, executable: bool = True) -> str | None:
    return trust.flaw(str(path), executable=executable, owner=os.geteuid(), below=str(tmp_path))


def test_a_good_path(helper: Path, tmp_path: Path) -> None:
    assert flaw(helper, tmp_path) is None


@pytest.mark.parametrize("mode", [0o775, 0o757, 0o1777])
@pytest.mark.parametrize("component", ["usr", "usr/libexec", "usr/libexec/helper"])
def test_a_writable_component(helper: Path, tmp_path: Path, component: str, mode: int) -> None:
    (tmp_path / component).chmod(mode)
    assert flaw(helper, tmp_path) == f"{tmp_path / component} can be written by group or others (mode {mode:04o})"


def test_somebody_elses_component(helper: Path, tmp_path: Path) -> None:
    other = os.geteuid() + 1
    found = trust.flaw(str(helper), owner=other, below=str(tmp_path))
    assert found == f"{tmp_path / 'usr'} belongs to uid {os.geteuid()}, not to {other}"


def test_the_whole_path_counts(helper: Path) -> None:
    # Below a temporary directory, which everybody can write to.
    assert trust.flaw(str(helper)) is not None


def test_what_a_link_leads_to_counts(helper: Path, tmp_path: Path) -> None:
    (tmp_path / "real").mkdir(mode=0o755)
    (tmp_path / "real").chmod(0o755)
    (tmp_path / "link").symlink_to(tmp_path / "real")
    (tmp_path / "real" / "program").write_text("")
    (tmp_path / "real" / "program").chmod(0o755)
    assert flaw(tmp_path / "link" / "program", tmp_path) is None
    (tmp_path / "real").chmod(0o777)
    assert flaw(tmp_path / "link" / "program", tmp_path) == (
        f"{tmp_path / 'real'} can be written by group or others (mode 0777)"
    )


def test_what_is_not_there(tmp_path: Path) -> None:
    assert flaw(tmp_path / "none", tmp_path) == f"{tmp_path / 'none'}: No such file or directory"


def test_what_cannot_be_run(helper: Path, tmp_path: Path) -> None:
    helper.chmod(0o744)
    assert flaw(helper, tmp_path) == f"{helper} is not executable by all (mode 0744)"
    assert flaw(helper, tmp_path, executable=False) is None
    assert flaw(helper.parent, tmp_path) == f"{helper.parent} is not a regular file"


def test_require_names_path_and_component(tmp_path: Path) -> None:
    with pytest.raises(HostError, match=r"/none cannot be trusted: .*must be root's alone"):
        trust.require(f"{tmp_path}/none")


def test_the_root_directory_is_looked_at() -> None:
    trust.require("/")
