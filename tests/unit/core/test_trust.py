"""Paths that others can change are found, and the bad component is named."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from hatchway import trust
from hatchway.errors import HostError


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
    return trust.flaw(str(path), executable=executable, owners=(os.geteuid(),), below=str(tmp_path))


def test_a_good_path(helper: Path, tmp_path: Path) -> None:
    assert flaw(helper, tmp_path) is None


@pytest.mark.parametrize("mode", [0o775, 0o757, 0o1777])
@pytest.mark.parametrize("component", ["usr", "usr/libexec", "usr/libexec/helper"])
def test_a_writable_component(helper: Path, tmp_path: Path, component: str, mode: int) -> None:
    (tmp_path / component).chmod(mode)
    assert flaw(helper, tmp_path) == f"{tmp_path / component} can be written by group or others (mode {mode:04o})"


def test_somebody_elses_component(helper: Path, tmp_path: Path) -> None:
    other = os.geteuid() + 1
    found = trust.flaw(str(helper), owners=(other,), below=str(tmp_path))
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


def test_what_a_chain_of_links_leads_through_counts(helper: Path, tmp_path: Path) -> None:
    # Where the first leads decides whoever can change the second.
    (tmp_path / "open").mkdir()
    (tmp_path / "open" / "second").symlink_to(helper.parent)
    (tmp_path / "first").symlink_to("open/second")
    (tmp_path / "open").chmod(0o755)
    assert flaw(tmp_path / "first" / "helper", tmp_path) is None
    assert flaw(tmp_path / "first" / ".." / "libexec" / "helper", tmp_path) is None
    (tmp_path / "open").chmod(0o777)
    assert flaw(tmp_path / "first" / "helper", tmp_path) == (
        f"{tmp_path / 'open'} can be written by group or others (mode 0777)"
    )


def test_links_in_a_circle(tmp_path: Path) -> None:
    (tmp_path / "a").symlink_to("b")
    (tmp_path / "b").symlink_to("a")
    assert (flaw(tmp_path / "a", tmp_path) or "").endswith(": Too many levels of symbolic links")


def test_a_sticky_directory_where_that_will_do(helper: Path, tmp_path: Path) -> None:
    (tmp_path / "usr").chmod(0o1777)

    def found() -> str | None:
        return trust.flaw(str(helper), owners=(os.geteuid(),), below=str(tmp_path), sticky=True)

    assert found() is None
    helper.chmod(0o1666)
    assert found() == f"{helper} can be written by group or others (mode 1666)"
    (tmp_path / "usr").chmod(0o777)
    assert found() == f"{tmp_path / 'usr'} can be written by group or others (mode 0777)"


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
