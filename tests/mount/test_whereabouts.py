"""Where a directory is on its file system, told from real mounts."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from hatchway.host.whereabouts import Whereabouts, of_device
from hatchway.kernel import mounts


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of its own, that is mounted at "disk" and in part at "bound" and, read-only, at "again"."""
    made = []
    for name in ("disk", "bound", "again"):
        (tmp_path / name).mkdir()
    try:
        for arguments in (
            ("-t", "tmpfs", "tmpfs", "disk"),
            ("--bind", "disk/home", "bound"),
            ("--bind", "-o", "ro", "bound/u", "again"),
        ):
            if arguments[-1] == "bound":
                (tmp_path / "disk" / "home" / "u" / ".ssh").mkdir(parents=True)
            subprocess.run(("mount", *arguments), cwd=tmp_path, check=True)
            made.append(str(tmp_path / arguments[-1]))
        yield tmp_path
    finally:
        for target in reversed(made):
            mounts.unmount(target)


def where(path: Path) -> str:
    """Where it is."""
    opened = os.open(path, os.O_PATH | os.O_DIRECTORY)
    try:
        return Whereabouts().of(opened)
    finally:
        os.close(opened)


def test_it_is_the_same_by_whatever_mount_one_comes(disk: Path) -> None:
    device = os.stat(disk / "disk").st_dev
    root = of_device(device, "")
    assert where(disk / "disk") == root
    assert where(disk / "disk" / "home") == where(disk / "bound") == f"{root}home"
    assert (
        where(disk / "disk" / "home" / "u") == where(disk / "bound" / "u") == where(disk / "again") == f"{root}home/u"
    )
    assert {where(disk / part / ".ssh") for part in ("disk/home/u", "bound/u", "again")} == {f"{root}home/u/.ssh"}
    # The directories that are covered are others.
    assert where(disk) != root


def test_a_directory_that_was_moved_is_elsewhere(disk: Path) -> None:
    (disk / "disk" / "home" / "u").rename(disk / "disk" / "home" / "v")
    assert where(disk / "again") == where(disk / "bound" / "v")


def test_nothing_is_said_of_what_is_mounted_nowhere(disk: Path) -> None:
    opened = os.open(disk / "bound", os.O_PATH)
    detached = mounts.clone_tree(opened)
    os.close(opened)
    try:
        assert Whereabouts().of(detached) == ""
    finally:
        os.close(detached)


def test_a_mount_that_came_after_the_first_look_is_not_known(disk: Path) -> None:
    looking = Whereabouts()
    opened = os.open(disk / "disk", os.O_PATH)
    assert looking.of(opened) != ""
    os.close(opened)
    (disk / "later").mkdir()
    subprocess.run(("mount", "--bind", "bound", "later"), cwd=disk, check=True)
    try:
        opened = os.open(disk / "later", os.O_PATH)
        assert looking.of(opened) == ""
        os.close(opened)
    finally:
        mounts.unmount(str(disk / "later"))
