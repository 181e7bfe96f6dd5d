"""Finding nodes again: moved, swapped and removed ones, deep trees, few descriptors."""

from __future__ import annotations

import errno
import os
import subprocess

import pytest
from tests import leftovers
from tests.unit.volumefs.harness import Volume, refused

from hatchway.volumefs.nodes import ROOT_ID
from hatchway.volumefs.tree import KEPT_DIRECTORIES


def test_descriptors_are_bounded_and_nodes_are_found_again(volume: Volume) -> None:
    before = len(leftovers.descriptors())
    count = KEPT_DIRECTORIES * 3
    ids = []
    for number in range(count):
        directory = volume.tree.mkdir(ROOT_ID, b"%d" % number, 0o755).node.id
        handle, entry = volume.tree.create(directory, b"file", 0o644, os.O_WRONLY)
        volume.tree.write(handle, 0, b"%d" % number)
        volume.tree.release(handle)
        ids.append(entry.node.id)
    assert len(leftovers.descriptors()) - before == KEPT_DIRECTORIES
    for number, node_id in enumerate(ids):
        handle = volume.tree.open(node_id, os.O_RDONLY)
        assert volume.tree.read(handle, 0, 100) == b"%d" % number
        volume.tree.release(handle)
    assert len(leftovers.descriptors()) - before == KEPT_DIRECTORIES


def test_forgetting_closes_what_is_kept(volume: Volume) -> None:
    before = len(leftovers.descriptors())
    ids = [volume.tree.mkdir(ROOT_ID, b"%d" % number, 0o755).node.id for number in range(50)]
    for node_id in ids:
        with refused(errno.ENOENT):
            volume.tree.lookup(node_id, b"none")
    assert len(leftovers.descriptors()) == before + 50
    for node_id in ids:
        volume.tree.forget(node_id, 1)
    assert len(leftovers.descriptors()) == before
    assert volume.tree.live_nodes == 1


def test_deeper_than_path_max_and_than_the_stack(volume: Volume) -> None:
    node_id = ROOT_ID
    try:
        for _level in range(2500):
            node_id = volume.tree.mkdir(node_id, b"d" * 100, 0o755).node.id
        handle, entry = volume.tree.create(node_id, b"bottom", 0o644, os.O_WRONLY)
        volume.tree.release(handle)
        volume.let_go()
        before = len(leftovers.descriptors())
        assert volume.tree.getattr(entry.node.id).stat.st_nlink == 1
        assert len(leftovers.descriptors()) <= before + 1
    finally:
        # pytest's own clean-up, by recursion, fails on this tree.
        subprocess.run(["rm", "-rf", volume.backing / ("d" * 100)], check=True)


def test_a_directory_renamed_underneath(volume: Volume) -> None:
    volume.put(b"x", b"")
    directory = volume.tree.mkdir(ROOT_ID, b"before", 0o755).node.id
    volume.put(b"before/file", b"content")
    file = volume.id(b"before/file")
    (volume.backing / "before").rename(volume.backing / "after")
    # Held: it is the same directory, whatever it is called.
    assert volume.tree.lookup(directory, b"file").node.id == file
    assert volume.id(b"after") == directory
    volume.let_go()
    assert volume.tree.lookup(directory, b"file").node.id == file


def test_a_directory_renamed_underneath_and_not_held_is_stale(volume: Volume) -> None:
    directory = volume.tree.mkdir(ROOT_ID, b"before", 0o755).node.id
    volume.put(b"before/file", b"content")
    file = volume.id(b"before/file")
    volume.let_go()
    (volume.backing / "before").rename(volume.backing / "after")
    with refused(errno.ESTALE):
        volume.tree.lookup(directory, b"file")
    with refused(errno.ESTALE):
        volume.tree.getattr(file)
    # The kernel looks the path up again, and all is well.
    assert volume.get(b"after/file") == b"content"


def test_another_name_is_tried(volume: Volume) -> None:
    volume.put(b"a", b"content")
    node_id = volume.id(b"a")
    volume.tree.mkdir(ROOT_ID, b"d", 0o755)
    volume.tree.link(node_id, *volume.place(b"d/b"))
    assert volume.id(b"a") == node_id
    (volume.backing / "a").unlink()
    assert volume.tree.getattr(node_id).stat.st_nlink == 1
    handle = volume.tree.open(node_id, os.O_RDONLY)
    assert volume.tree.read(handle, 0, 100) == b"content"
    volume.tree.release(handle)
    (volume.backing / "d" / "b").unlink()
    with refused(errno.ESTALE):
        volume.tree.getattr(node_id)


def test_a_removed_and_remade_file_is_not_the_old_one(volume: Volume) -> None:
    volume.put(b"a", b"old")
    node_id = volume.id(b"a")
    keep = os.open(volume.backing / "a", os.O_RDONLY)  # so that the new one has another inode number
    try:
        (volume.backing / "a").unlink()
        (volume.backing / "a").write_bytes(b"new")
        with refused(errno.ESTALE):
            volume.tree.open(node_id, os.O_RDONLY)
        assert volume.id(b"a") != node_id
    finally:
        os.close(keep)


def test_parents_in_a_circle(volume: Volume) -> None:
    a = volume.tree.mkdir(ROOT_ID, b"a", 0o755).node.id
    b = volume.tree.mkdir(a, b"b", 0o755).node.id
    c = volume.tree.mkdir(b, b"c", 0o755).node.id
    # Underneath: a/b moves to the top, then a moves into it, which the tree sees through what it still holds.
    (volume.backing / "a" / "b").rename(volume.backing / "b")
    (volume.backing / "a").rename(volume.backing / "b" / "a")
    assert volume.tree.lookup(b, b"a").node.id == a
    volume.let_go()
    for node_id in (a, b, c):
        with refused(errno.ESTALE):
            volume.tree.opendir(node_id)


@pytest.mark.parametrize("what", ["file", "symlink", "fifo", "directory"])
def test_a_directory_swapped_for_something_else(volume: Volume, what: str) -> None:
    directory = volume.tree.mkdir(ROOT_ID, b"d", 0o755).node.id
    volume.put(b"d/file", b"content")
    volume.let_go()
    path = volume.backing / "d"
    path.rename(volume.backing / "elsewhere")
    if what == "file":
        path.touch()
    elif what == "symlink":
        path.symlink_to("elsewhere")
    elif what == "fifo":
        os.mkfifo(path)
    else:
        path.mkdir()
        (path / "file").write_bytes(b"another")
    with refused(errno.ESTALE):
        volume.tree.lookup(directory, b"file")


def test_a_file_is_no_directory(volume: Volume) -> None:
    volume.put(b"file")
    with refused(errno.ENOTDIR):
        volume.tree.lookup(volume.id(b"file"), b"x")
    with refused(errno.ENOTDIR):
        volume.tree.opendir(volume.id(b"file"))
