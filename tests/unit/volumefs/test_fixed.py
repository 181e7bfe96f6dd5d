"""Places of other volumes in a volume: whatever the container does on disk, they stay, and lead nowhere else."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from tests import leftovers
from tests.unit.volumefs.harness import Canary, Volume, refused

from hatchway.volumefs.nodes import ROOT_ID

PLACES = (b"sub", b"a/b/c", b"a/other")


@pytest.fixture
def outer(tmp_path: Path) -> Iterator[Volume]:
    backing = tmp_path / "outer"
    backing.mkdir()
    umask = os.umask(0)
    before = leftovers.descriptors()
    volume = Volume(backing, places=PLACES)
    try:
        yield volume
    finally:
        volume.close()
        os.umask(umask)
        assert leftovers.descriptors() == before


def missing(_backing: Path, _outside: Path) -> None:
    """The container never made them."""


def there(backing: Path, _outside: Path) -> None:
    (backing / "sub").mkdir()
    (backing / "a" / "b" / "c").mkdir(parents=True)


def files(backing: Path, _outside: Path) -> None:
    (backing / "sub").write_text("a file")
    (backing / "a").write_text("a file")


def links(backing: Path, outside: Path) -> None:
    (backing / "sub").symlink_to(outside)
    (backing / "a").symlink_to(outside)


def deep_links(backing: Path, outside: Path) -> None:
    (backing / "sub").symlink_to("/")
    (backing / "a").mkdir()
    (backing / "a" / "b").symlink_to(outside)


def remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


@pytest.mark.parametrize("prepare", [missing, there, files, links, deep_links])
def test_they_are_there_whatever_is_on_disk(
    outer: Volume, canary: Canary, prepare: Callable[[Path, Path], None]
) -> None:
    prepare(outer.backing, canary.path)
    (outer.backing / "file").touch()
    ids = {path: outer.id(path) for path in (b"sub", b"a", b"a/b", b"a/b/c", b"a/other")}
    assert len(set(ids.values())) == 5
    assert sorted(outer.listing()) == [b"a", b"file", b"sub"]
    assert sorted(outer.listing(at_once=1)) == [b"a", b"file", b"sub"]
    assert {b"b", b"other"} <= set(outer.listing(b"a"))
    assert set(outer.listing(b"a/b")) == {b"c"}
    for path, node_id in ids.items():
        entry = outer.entry(path)
        assert entry.node.id == node_id
        assert entry.mode >> 12 == 4
        assert outer.tree.getattr(node_id).mode >> 12 == 4


def test_they_stay_the_same_nodes_while_the_disk_changes(outer: Volume, canary: Canary) -> None:
    node = outer.id(b"a")
    for step in (there, None, links, None, files, None, deep_links, None, there):
        for name in ("a", "sub"):
            remove(outer.backing / name)
        if step is not None:
            step(outer.backing, canary.path)
        assert outer.id(b"a") == node
        assert {b"b", b"other"} <= set(outer.listing(b"a"))
        outer.tree.forget(node, 100)
        assert outer.tree.getattr(node).node.id == node


def test_a_directory_on_the_way_shows_what_is_on_disk_now(outer: Volume) -> None:
    (outer.backing / "a").mkdir()
    outer.put(b"a/file", b"one")
    assert (outer.backing / "a" / "file").read_text() == "one"
    kept = outer.id(b"a/file")
    # The container puts another directory there.
    (outer.backing / "a").rename(outer.backing / "old")
    (outer.backing / "a").mkdir()
    (outer.backing / "a" / "new").touch()
    assert set(outer.listing(b"a")) == {b"b", b"other", b"new"}
    with refused(errno.ENOENT):
        outer.id(b"a/file")
    with refused(errno.ESTALE):
        outer.tree.open(kept, os.O_RDONLY)
    outer.put(b"a/file", b"two")
    assert (outer.backing / "a" / "file").read_text() == "two"
    assert (outer.backing / "old" / "file").read_text() == "one"


def test_where_the_disk_has_no_directory_nothing_can_be_made(outer: Volume, canary: Canary) -> None:
    for prepare in (missing, links):
        prepare(outer.backing, canary.path)
        above = outer.id(b"a")
        with refused(errno.ENOENT):
            outer.tree.mkdir(above, b"x", 0o755)
        with refused(errno.ENOENT):
            outer.tree.create(above, b"x", 0o644, os.O_WRONLY)
        with refused(errno.ENOENT):
            outer.tree.symlink(above, b"x", b"target")
        with refused(errno.ENOENT):
            outer.tree.lookup(above, b"x")


def test_their_names_cannot_be_taken_or_removed(outer: Volume) -> None:
    there(outer.backing, outer.backing)
    outer.put(b"file")
    file, tree = outer.id(b"file"), outer.tree
    tree.mkdir(ROOT_ID, b"dir", 0o755)
    for path in (b"sub", b"a", b"a/b", b"a/b/c", b"a/other"):
        place = outer.place(path)
        making: list[tuple[Callable[..., object], tuple[object, ...]]] = [
            (tree.mkdir, (*place, 0o755)),
            (tree.create, (*place, 0o644, os.O_WRONLY)),
            (tree.symlink, (*place, b"/")),
            (tree.mknod, (*place, 0o100644)),
            (tree.link, (file, *place)),
        ]
        for operation, arguments in making:
            with refused(errno.EEXIST):
                operation(*arguments)
        taking: list[tuple[Callable[..., object], tuple[object, ...]]] = [
            (tree.unlink, place),
            (tree.rmdir, place),
            (tree.rename, (*place, ROOT_ID, b"moved")),
            (tree.rename, (ROOT_ID, b"dir", *place)),
            (tree.rename, (ROOT_ID, b"dir", *place, 2)),
        ]
        for operation, arguments in taking:
            with refused(errno.EBUSY):
                operation(*arguments)
    assert (outer.backing / "a" / "b" / "c").is_dir()
    assert (outer.backing / "dir").is_dir()


def test_a_place_shows_an_error_and_nothing_of_the_disk(outer: Volume) -> None:
    there(outer.backing, outer.backing)
    (outer.backing / "sub" / "hidden").touch()
    place = outer.id(b"sub")
    with refused(errno.EACCES):
        outer.tree.opendir(place)
    with refused(errno.EACCES):
        outer.tree.lookup(place, b"hidden")
    with refused(errno.EACCES):
        outer.tree.create(place, b"x", 0o644, os.O_WRONLY)
    with refused(errno.EACCES):
        outer.tree.setattr(place, mode=0o700)
    assert sorted(os.listdir(outer.backing / "sub")) == ["hidden"]


def test_deep_below_a_fixed_directory(outer: Volume) -> None:
    (outer.backing / "a" / "x" / "y").mkdir(parents=True)
    outer.put(b"a/x/y/file", b"data")
    outer.let_go()
    assert outer.get(b"a/x/y/file") == b"data"
    outer.tree.rename(*outer.place(b"a/x"), outer.id(b"a"), b"z")
    assert outer.get(b"a/z/y/file") == b"data"


def test_the_way_to_a_place_stays_open_when_everything_else_is_refused(outer: Volume) -> None:
    """Else what stands there could not be unmounted. Nothing of the disk is told."""
    there(outer.backing, outer.backing)
    (outer.backing / "a").chmod(0o700)
    outer.put(b"a/file")
    ids = {path: outer.id(path) for path in (b"", b"a", b"a/b", b"a/b/c", b"sub")}
    file = outer.id(b"a/file")
    outer.tree.restrict(refuse=True, read_only=True)
    for path, node_id in ids.items():
        assert outer.tree.getattr(node_id).mode == 0o40755
        if path:
            parent, _, name = path.rpartition(b"/")
            assert outer.tree.lookup(ids[parent], name).node.id == node_id
    for attempt in (
        lambda: outer.tree.getattr(file),
        lambda: outer.tree.lookup(ids[b"a"], b"file"),
        lambda: outer.tree.opendir(ids[b"a"]),
        lambda: outer.tree.opendir(ROOT_ID),
    ):
        with refused(errno.EACCES):
            attempt()


@pytest.mark.parametrize("at_once", [1, 2, 3, 7, 50, 1000])
def test_a_listing_has_every_entry_once_wherever_it_is_cut(outer: Volume, at_once: int) -> None:
    """ext4 gives a directory's last entry the largest cookie there is."""
    for number in range(40):
        (outer.backing / f"file-{number}").touch()
        names = {b"file-%d" % each for each in range(number + 1)}
        assert set(outer.listing(at_once=at_once)) == names | {b"a", b"sub"}
