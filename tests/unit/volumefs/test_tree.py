"""Every operation of the tree, over a plain directory."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import signal
import socket
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.unit.volumefs.harness import SHOWN_GID, SHOWN_UID, Volume, bits, refused

from hatchway.kernel.files import RENAME_EXCHANGE, RENAME_NOREPLACE
from hatchway.volumefs.nodes import ROOT_ID
from hatchway.volumefs.ownership import SquashView
from hatchway.volumefs.tree import VolumeTree

STRANGE_NAMES = [b"\xff\xfe\xfd", "grüße".encode(), b"n" * 255, b" ", b"a\nb", b"...", b"-rf", b"\x01"]
FAR_TIMES = [-5_000_000_001, -1, 0, 1, 2**32 * 10**9 + 123, 1_700_000_000_123_456_789]

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="owners other than ourselves need root")


def special(volume: Volume, kind: str) -> bytes:
    """Make something that must never be opened; its name."""
    name = kind.encode()
    if kind == "fifo":
        os.mkfifo(volume.disk(name), 0o666)
    elif kind == "socket":
        with socket.socket(socket.AF_UNIX) as sock, contextlib.chdir(volume.backing):
            sock.bind(kind)
    else:
        if os.geteuid() != 0:
            pytest.skip("device nodes need root")
        file_type = stat.S_IFBLK if kind == "block" else stat.S_IFCHR
        try:
            os.mknod(volume.disk(name), file_type | 0o666, os.makedev(1, 3))
        except PermissionError:
            pytest.skip("no device nodes here")
    return name


SPECIAL = ["fifo", "socket", "character", "block"]


class TestLooking:
    def test_lookup_shows_what_is_there(self, volume: Volume) -> None:
        (volume.backing / "file").write_bytes(b"12345")
        (volume.backing / "file").chmod(0o640)
        entry = volume.entry(b"file")
        assert entry.stat.st_size == 5
        assert entry.mode == stat.S_IFREG | 0o640
        assert entry.node.lookups == 1
        assert volume.entry(b"file").node.lookups == 2

    def test_lookup_of_nothing(self, volume: Volume) -> None:
        with refused(errno.ENOENT):
            volume.entry(b"none")
        assert volume.tree.live_nodes == 1

    @pytest.mark.parametrize("name", [b"", b".", b"..", b"../x", b"a/b"])
    def test_lookup_of_what_is_no_name(self, volume: Volume, name: bytes) -> None:
        with refused(errno.EINVAL):
            volume.tree.lookup(ROOT_ID, name)

    def test_the_root(self, volume: Volume) -> None:
        entry = volume.tree.getattr(ROOT_ID)
        assert entry.node.id == ROOT_ID
        assert stat.S_ISDIR(entry.mode)

    def test_getattr_is_fresh(self, volume: Volume) -> None:
        volume.put(b"file", b"1")
        node_id = volume.id(b"file")
        (volume.backing / "file").write_bytes(b"from the container")
        assert volume.tree.getattr(node_id).stat.st_size == 18

    def test_getattr_of_what_is_gone(self, volume: Volume) -> None:
        volume.put(b"file")
        node_id = volume.id(b"file")
        (volume.backing / "file").unlink()
        with refused(errno.ESTALE):
            volume.tree.getattr(node_id)
        with refused(errno.ESTALE):
            volume.tree.getattr(9999)

    @pytest.mark.parametrize("kind", SPECIAL)
    def test_special_files_are_shown_without_permissions(self, volume: Volume, kind: str) -> None:
        name = special(volume, kind)
        entry = volume.entry(name)
        assert bits(entry) == 0
        assert stat.S_IFMT(entry.mode) == stat.S_IFMT(os.lstat(volume.disk(name)).st_mode)
        assert volume.listing()[name].mode == entry.mode

    def test_readlink_gives_the_target_as_it_is(self, volume: Volume) -> None:
        for number, target in enumerate([b"/etc/shadow", b"../../x", b"\xff\xfe", b"t" * 4000, b"loop"]):
            name = b"%d" % number
            os.symlink(target, volume.disk(name))
            assert volume.tree.readlink(volume.id(name)) == target

    def test_readlink_of_anything_else(self, volume: Volume) -> None:
        volume.put(b"file")
        with refused(errno.EINVAL):
            volume.tree.readlink(volume.id(b"file"))

    def test_statfs_counts_the_reserve_as_used(self, volume: Volume) -> None:
        space = volume.tree.statfs()
        real = os.statvfs(volume.backing)
        assert space.blocks == real.f_blocks
        assert space.available <= real.f_bavail + 10_000
        assert space.available <= space.blocks
        assert space.fragment_size == real.f_frsize
        assert space.name_max == 255

    def test_a_file_larger_than_a_float_counts(self) -> None:
        # ext4 ends at 16 TiB; tmpfs goes as far as off_t.
        with tempfile.TemporaryDirectory(dir="/dev/shm") as where:
            volume = Volume(Path(where), keep_sgid=contextlib.nullcontext)
            size = 2**53 + 4097
            volume.put(b"big")
            entry = volume.tree.setattr(volume.id(b"big"), size=size)
            assert entry.stat.st_size == size
            handle = volume.tree.open(volume.id(b"big"), os.O_RDWR)
            assert volume.tree.write(handle, size - 1, b"x") == 1
            assert volume.tree.read(handle, size - 2, 10) == b"\0x"
            volume.tree.release(handle)
            assert volume.tree.getattr(volume.id(b"big")).stat.st_blocks < 100
            volume.close()


class TestCreating:
    @pytest.mark.parametrize("access", [os.O_RDONLY, os.O_WRONLY, os.O_RDWR])
    @pytest.mark.parametrize("mode", [0o644, 0o600, 0o400, 0o000, 0o666])
    def test_create(self, volume: Volume, access: int, mode: int) -> None:
        handle, entry = volume.create(b"new", mode=mode, flags=access | os.O_EXCL)
        assert bits(entry) == mode
        assert entry.stat.st_nlink == 1
        if access != os.O_RDONLY:
            assert volume.tree.write(handle, 0, b"data") == 4
            assert (volume.backing / "new").stat().st_size == 4
        volume.tree.release(handle)
        assert volume.id(b"new") == entry.node.id

    def test_no_suid_sgid_or_sticky(self, volume: Volume) -> None:
        handle, entry = volume.create(b"new", mode=0o7755)
        volume.tree.release(handle)
        assert bits(entry) == 0o755
        assert bits(volume.tree.mkdir(ROOT_ID, b"dir", 0o7755)) == 0o1755
        assert bits(volume.tree.mknod(ROOT_ID, b"node", stat.S_IFREG | 0o7755)) == 0o755

    def test_exclusive(self, volume: Volume) -> None:
        volume.put(b"there", b"content")
        with refused(errno.EEXIST):
            volume.create(b"there", flags=os.O_WRONLY | os.O_EXCL)
        assert volume.get(b"there") == b"content"

    def test_one_that_has_appeared_meanwhile_is_opened(self, volume: Volume) -> None:
        (volume.backing / "there").write_bytes(b"content")
        (volume.backing / "there").chmod(0o644)
        handle, entry = volume.create(b"there", mode=0o777)
        assert volume.tree.read(handle, 0, 100) == b"content"
        assert bits(entry) == 0o644
        volume.tree.release(handle)
        handle, entry = volume.create(b"there", flags=os.O_WRONLY | os.O_TRUNC)
        assert entry.stat.st_size == 0
        volume.tree.release(handle)

    @pytest.mark.parametrize(
        ("mode", "flags"),
        [(0o444, os.O_WRONLY), (0o444, os.O_RDWR), (0o200, os.O_RDONLY), (0o400, os.O_RDONLY | os.O_TRUNC)],
    )
    def test_one_that_has_appeared_meanwhile_has_its_own_mode(self, volume: Volume, mode: int, flags: int) -> None:
        (volume.backing / "there").write_bytes(b"content")
        (volume.backing / "there").chmod(mode)
        with refused(errno.EACCES):
            volume.create(b"there", flags=flags)
        assert (volume.backing / "there").stat().st_size == 7

    @pytest.mark.parametrize("kind", [*SPECIAL, "directory", "symlink"])
    def test_something_else_has_appeared_meanwhile(self, volume: Volume, kind: str) -> None:
        if kind == "directory":
            (volume.backing / kind).mkdir()
        elif kind == "symlink":
            (volume.backing / kind).symlink_to("nowhere")
        else:
            special(volume, kind)
        with refused(errno.ESTALE):
            volume.create(kind.encode(), flags=os.O_WRONLY)
        with refused(errno.EEXIST):
            volume.create(kind.encode(), flags=os.O_WRONLY | os.O_EXCL)
        assert os.listdir(volume.backing) == [kind]

    def test_mkdir(self, volume: Volume) -> None:
        entry = volume.tree.mkdir(ROOT_ID, b"dir", 0o750)
        assert entry.mode == stat.S_IFDIR | 0o750
        assert volume.id(b"dir") == entry.node.id
        with refused(errno.EEXIST):
            volume.tree.mkdir(ROOT_ID, b"dir", 0o755)

    def test_symlink(self, volume: Volume) -> None:
        entry = volume.tree.symlink(ROOT_ID, b"link", b"/etc/passwd")
        assert stat.S_ISLNK(entry.mode)
        assert os.readlink(volume.backing / "link") == "/etc/passwd"
        with refused(errno.EEXIST):
            volume.tree.symlink(ROOT_ID, b"link", b"x")

    def test_mknod_makes_files_only(self, volume: Volume) -> None:
        entry = volume.tree.mknod(ROOT_ID, b"file", stat.S_IFREG | 0o640)
        assert bits(entry) == 0o640
        assert volume.tree.open_handles == 0
        for kind in (stat.S_IFIFO, stat.S_IFSOCK, stat.S_IFBLK, stat.S_IFCHR):
            with refused(errno.EPERM):
                volume.tree.mknod(ROOT_ID, b"other", kind | 0o666)
        assert os.listdir(volume.backing) == ["file"]

    def test_link(self, volume: Volume) -> None:
        volume.put(b"a", b"content")
        volume.tree.mkdir(ROOT_ID, b"d", 0o755)
        entry = volume.tree.link(volume.id(b"a"), *volume.place(b"d/b"))
        assert entry.stat.st_nlink == 2
        assert volume.id(b"a") == volume.id(b"d/b") == entry.node.id
        with refused(errno.EEXIST):
            volume.tree.link(volume.id(b"a"), ROOT_ID, b"d")

    def test_link_to_a_symlink_is_one(self, volume: Volume) -> None:
        volume.tree.symlink(ROOT_ID, b"a", b"target")
        entry = volume.tree.link(volume.id(b"a"), ROOT_ID, b"b")
        assert stat.S_ISLNK(entry.mode)
        assert os.readlink(volume.backing / "b") == "target"

    def test_link_to_a_directory(self, volume: Volume) -> None:
        with refused(errno.EPERM):
            volume.tree.link(volume.tree.mkdir(ROOT_ID, b"d", 0o755).node.id, ROOT_ID, b"e")

    @pytest.mark.parametrize("name", STRANGE_NAMES)
    def test_strange_names(self, volume: Volume, name: bytes) -> None:
        volume.put(name, b"content")
        assert volume.get(name) == b"content"
        assert name in volume.listing()
        volume.tree.rename(ROOT_ID, name, ROOT_ID, b"x")
        volume.tree.rename(ROOT_ID, b"x", ROOT_ID, name)
        volume.tree.unlink(ROOT_ID, name)
        volume.tree.mkdir(ROOT_ID, name, 0o755)
        volume.put(name + b"/" + name)
        volume.tree.unlink(*volume.place(name + b"/" + name))
        volume.tree.rmdir(ROOT_ID, name)
        volume.tree.symlink(ROOT_ID, name, name)
        assert volume.tree.readlink(volume.id(name)) == name

    @pytest.mark.parametrize("name", [b"", b".", b"..", b"a/b", b"/etc/x", b"a\0b"])
    def test_nothing_is_made_under_what_is_no_name(self, volume: Volume, name: bytes) -> None:
        volume.put(b"file")
        file = volume.id(b"file")
        tree = volume.tree
        with refused(errno.EINVAL):
            tree.create(ROOT_ID, name, 0o644, os.O_WRONLY)
        with refused(errno.EINVAL):
            tree.mkdir(ROOT_ID, name, 0o755)
        with refused(errno.EINVAL):
            tree.mknod(ROOT_ID, name, stat.S_IFREG)
        with refused(errno.EINVAL):
            tree.symlink(ROOT_ID, name, b"target")
        with refused(errno.EINVAL):
            tree.link(file, ROOT_ID, name)
        with refused(errno.EINVAL):
            tree.rename(ROOT_ID, b"file", ROOT_ID, name)
        with refused(errno.EINVAL):
            tree.rename(ROOT_ID, name, ROOT_ID, b"x")
        with refused(errno.EINVAL):
            tree.unlink(ROOT_ID, name)
        with refused(errno.EINVAL):
            tree.rmdir(ROOT_ID, name)
        assert os.listdir(volume.backing) == ["file"]

    def test_in_a_directory_that_is_gone(self, volume: Volume) -> None:
        directory = volume.tree.mkdir(ROOT_ID, b"d", 0o755).node.id
        with refused(errno.ENOENT):
            volume.tree.lookup(directory, b"x")
        (volume.backing / "d").rmdir()
        with refused(errno.ENOENT, errno.ESTALE):
            volume.tree.create(directory, b"x", 0o644, os.O_WRONLY)
        with refused(errno.ENOENT, errno.ESTALE):
            volume.tree.mkdir(directory, b"x", 0o755)
        assert volume.tree.open_handles == 0


@pytest.fixture
def without_tmpfile(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a file system that has no O_TMPFILE: NFS, vfat."""
    real = os.open

    def open_(path: object, flags: int, *args: object, **kwargs: object) -> int:
        if flags & os.O_TMPFILE == os.O_TMPFILE:
            raise OSError(errno.EOPNOTSUPP, "")
        return real(path, flags, *args, **kwargs)  # type: ignore[arg-type] # passed on as it came

    monkeypatch.setattr(os, "open", open_)


class TestCreatingWithoutTmpfile:
    pytestmark = pytest.mark.usefixtures("without_tmpfile")

    def test_create(self, volume: Volume) -> None:
        handle, entry = volume.create(b"new", mode=0o640, flags=os.O_WRONLY | os.O_EXCL)
        assert bits(entry) == 0o640
        volume.tree.write(handle, 0, b"x")
        volume.tree.release(handle)
        with refused(errno.EEXIST):
            volume.create(b"new", flags=os.O_WRONLY | os.O_EXCL)
        (volume.backing / "there").write_bytes(b"content")
        handle, _entry = volume.create(b"there", flags=os.O_RDONLY)
        assert volume.tree.read(handle, 0, 10) == b"content"
        volume.tree.release(handle)

    def test_nothing_is_left_of_what_failed(self, volume: Volume, monkeypatch: pytest.MonkeyPatch) -> None:
        def chmod(*_args: object, **_named: object) -> None:
            raise OSError(errno.EIO, "")

        monkeypatch.setattr(os, "chmod", chmod)
        with refused(errno.EIO):
            volume.create(b"new")
        assert os.listdir(volume.backing) == []
        assert volume.tree.open_handles == 0


@needs_root
class TestOwners:
    @pytest.fixture(params=["tmpfile", "no tmpfile"])
    def shared(self, volume: Volume, request: pytest.FixtureRequest) -> Iterator[bytes]:
        """A directory of somebody else's."""
        if request.param == "no tmpfile":
            request.getfixturevalue("without_tmpfile")
        (volume.backing / "theirs").mkdir(mode=0o755)
        os.chown(volume.backing / "theirs", 999, 998)
        yield b"theirs/"

    def test_what_is_new_is_theirs(self, volume: Volume, shared: bytes) -> None:
        volume.put(shared + b"file", b"x", mode=0o600)
        volume.tree.mkdir(*volume.place(shared + b"dir"), 0o700)
        volume.tree.symlink(*volume.place(shared + b"link"), b"target")
        volume.tree.mknod(*volume.place(shared + b"node"), stat.S_IFREG | 0o600)
        for name in (b"file", b"dir", b"link", b"node"):
            st = os.lstat(volume.disk(shared + name))
            assert (st.st_uid, st.st_gid) == (999, 998), name
        volume.put(shared + b"dir/below", b"x")
        assert os.lstat(volume.disk(shared + b"dir/below")).st_uid == 999

    def test_never_seen_with_another_owner(
        self, volume: Volume, shared: bytes, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        seen = []
        real = os.link

        def link(*args: object, **kwargs: object) -> None:
            seen.append(os.listdir(volume.disk(shared)))
            real(*args, **kwargs)  # type: ignore[arg-type] # passed on as it came

        monkeypatch.setattr(os, "link", link)
        volume.put(shared + b"file", b"x")
        assert seen in ([[]], [])
        assert os.listdir(volume.disk(shared)) == [b"file"]

    def test_existing_owners_stay(self, volume: Volume, shared: bytes) -> None:
        (volume.backing / "theirs" / "file").write_bytes(b"old")
        os.chown(volume.backing / "theirs" / "file", 55, 56)
        volume.put(shared + b"file", b"new")
        entry = volume.tree.setattr(volume.id(shared + b"file"), mode=0o600, mtime_ns=5)
        assert (entry.stat.st_uid, entry.stat.st_gid) == (55, 56)
        volume.tree.link(entry.node.id, *volume.place(shared + b"second"))
        volume.tree.rename(*volume.place(shared + b"second"), ROOT_ID, b"moved")
        assert (volume.backing / "moved").stat().st_uid == 55

    def test_sgid_directories_pass_on(self, volume: Volume, shared: bytes) -> None:
        (volume.backing / "theirs").chmod(0o2775)
        entered = []

        @contextlib.contextmanager
        def keep_sgid() -> Iterator[None]:
            entered.append(True)
            yield

        volume.tree._maker._keep_sgid = keep_sgid
        entry = volume.tree.mkdir(*volume.place(shared + b"dir"), 0o755)
        assert bits(entry) == 0o2755
        assert (entry.stat.st_uid, entry.stat.st_gid) == (999, 998)
        assert entered == [True]
        handle, file = volume.create(shared + b"dir/file", mode=0o2755)
        volume.tree.release(handle)
        assert bits(file) == 0o755
        assert file.stat.st_gid == 998
        assert bits(volume.tree.setattr(entry.node.id, mode=0o700)) == 0o2700
        assert entered == [True, True]

    def test_a_directory_made_half_way_is_removed(self, volume: Volume, shared: bytes) -> None:
        (volume.backing / "theirs").chmod(0o2775)

        def keep_sgid() -> contextlib.AbstractContextManager[None]:
            raise OSError(errno.EPERM, "")

        volume.tree._maker._keep_sgid = keep_sgid
        with refused(errno.EPERM):
            volume.tree.mkdir(*volume.place(shared + b"dir"), 0o755)
        assert os.listdir(volume.disk(shared)) == []

    @pytest.mark.parametrize("make", ["mkdir", "symlink", "create"])
    def test_what_cannot_be_given_is_not_left(
        self, volume: Volume, shared: bytes, make: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def chown(_fd: int, _uid: int, _gid: int) -> None:
            raise OSError(errno.EDQUOT, "")

        monkeypatch.setattr("hatchway.kernel.files.chown", chown)
        parent, _name = volume.place(shared + b"x")
        with refused(errno.EDQUOT):
            if make == "mkdir":
                volume.tree.mkdir(parent, b"x", 0o755)
            elif make == "symlink":
                volume.tree.symlink(parent, b"x", b"target")
            else:
                volume.tree.create(parent, b"x", 0o644, os.O_WRONLY)
        assert os.listdir(volume.disk(shared)) == []
        assert volume.tree.open_handles == 0

    def test_a_file_system_without_owners(self, volume: Volume, monkeypatch: pytest.MonkeyPatch) -> None:
        def chown(_fd: int, _uid: int, _gid: int) -> None:
            raise OSError(errno.EPERM, "")

        monkeypatch.setattr("hatchway.kernel.files.chown", chown)
        volume.put(b"file", b"x")  # the directory is ours already, so nothing is lost
        assert volume.get(b"file") == b"x"


class TestNames:
    def test_unlink(self, volume: Volume) -> None:
        volume.put(b"file")
        volume.tree.unlink(ROOT_ID, b"file")
        assert os.listdir(volume.backing) == []
        with refused(errno.ENOENT):
            volume.tree.unlink(ROOT_ID, b"file")
        volume.tree.mkdir(ROOT_ID, b"dir", 0o755)
        with refused(errno.EISDIR):
            volume.tree.unlink(ROOT_ID, b"dir")

    def test_rmdir(self, volume: Volume) -> None:
        volume.tree.mkdir(ROOT_ID, b"dir", 0o755)
        volume.put(b"dir/file")
        with refused(errno.ENOTEMPTY):
            volume.tree.rmdir(ROOT_ID, b"dir")
        with refused(errno.ENOTDIR):
            volume.tree.rmdir(*volume.place(b"dir/file"))
        volume.tree.unlink(*volume.place(b"dir/file"))
        volume.tree.rmdir(ROOT_ID, b"dir")
        assert os.listdir(volume.backing) == []

    @pytest.mark.parametrize("kind", SPECIAL)
    def test_special_files_can_be_renamed_linked_and_removed(self, volume: Volume, kind: str) -> None:
        name = special(volume, kind)
        node_id = volume.id(name)
        volume.tree.rename(ROOT_ID, name, ROOT_ID, b"renamed")
        assert volume.tree.getattr(node_id).node.id == node_id
        volume.tree.link(node_id, ROOT_ID, b"second")
        volume.tree.unlink(ROOT_ID, b"renamed")
        volume.tree.unlink(ROOT_ID, b"second")
        assert os.listdir(volume.backing) == []

    def test_rename_keeps_the_node(self, volume: Volume) -> None:
        volume.put(b"a", b"content")
        volume.tree.mkdir(ROOT_ID, b"d", 0o755)
        node_id = volume.id(b"a")
        volume.tree.rename(ROOT_ID, b"a", *volume.place(b"d/b"))
        assert volume.tree.getattr(node_id).stat.st_size == 7
        assert volume.id(b"d/b") == node_id
        with refused(errno.ENOENT):
            volume.entry(b"a")

    def test_rename_over_another(self, volume: Volume) -> None:
        volume.put(b"a", b"winner")
        volume.put(b"b", b"replaced")
        a, b = volume.id(b"a"), volume.id(b"b")
        handle = volume.tree.open(b, os.O_RDONLY)
        volume.tree.rename(ROOT_ID, b"a", ROOT_ID, b"b")
        assert volume.id(b"b") == a
        assert volume.get(b"b") == b"winner"
        # The replaced one lives on where it is open.
        assert volume.tree.read(handle, 0, 100) == b"replaced"
        assert volume.tree.getattr(b).stat.st_nlink == 0
        volume.tree.release(handle)
        with refused(errno.ESTALE):
            volume.tree.getattr(b)

    def test_rename_of_a_directory_moves_what_is_below(self, volume: Volume) -> None:
        volume.tree.mkdir(ROOT_ID, b"a", 0o755)
        volume.tree.mkdir(*volume.place(b"a/b"), 0o755)
        volume.put(b"a/b/file", b"content")
        file = volume.id(b"a/b/file")
        volume.let_go()
        volume.tree.rename(ROOT_ID, b"a", ROOT_ID, b"z")
        assert volume.tree.getattr(file).stat.st_size == 7
        assert volume.id(b"z/b/file") == file
        with refused(errno.EINVAL):
            volume.tree.rename(ROOT_ID, b"z", *volume.place(b"z/b/inside"))
        with refused(errno.ENOTEMPTY):
            volume.tree.rename(ROOT_ID, b"other", *volume.place(b"z/b"))

    def test_noreplace_and_exchange(self, volume: Volume) -> None:
        volume.put(b"a", b"A")
        volume.put(b"b", b"B")
        a, b = volume.id(b"a"), volume.id(b"b")
        with refused(errno.EEXIST):
            volume.tree.rename(ROOT_ID, b"a", ROOT_ID, b"b", RENAME_NOREPLACE)
        volume.tree.rename(ROOT_ID, b"a", ROOT_ID, b"b", RENAME_EXCHANGE)
        assert (volume.id(b"a"), volume.id(b"b")) == (b, a)
        assert volume.get(b"a") == b"B"
        assert volume.tree.getattr(a).node.names() == [(ROOT_ID, b"b")]
        volume.tree.rename(ROOT_ID, b"a", ROOT_ID, b"c", RENAME_NOREPLACE)
        assert volume.id(b"c") == b
        with refused(errno.EINVAL):
            volume.tree.rename(ROOT_ID, b"c", ROOT_ID, b"d", 4)


class TestAttributes:
    def test_chmod(self, volume: Volume) -> None:
        volume.put(b"file")
        entry = volume.tree.setattr(volume.id(b"file"), mode=0o7604)
        assert bits(entry) == 0o604
        assert (volume.backing / "file").stat().st_mode & 0o7777 == 0o604
        volume.tree.mkdir(ROOT_ID, b"dir", 0o755)
        assert bits(volume.tree.setattr(volume.id(b"dir"), mode=0o7711)) == 0o1711
        assert bits(volume.tree.setattr(ROOT_ID, mode=0o700)) == 0o700

    @pytest.mark.parametrize("ns", FAR_TIMES)
    def test_times(self, volume: Volume, ns: int) -> None:
        volume.put(b"file")
        volume.tree.mkdir(ROOT_ID, b"dir", 0o755)
        volume.tree.symlink(ROOT_ID, b"link", b"file")
        for name in (b"file", b"dir", b"link"):
            entry = volume.tree.setattr(volume.id(name), atime_ns=ns, mtime_ns=ns + 1)
            # ext4 with 256-byte inodes reaches from 1901 to 2446.
            assert (entry.stat.st_atime_ns, entry.stat.st_mtime_ns) == (ns, ns + 1)
            entry = volume.tree.setattr(entry.node.id, mtime_ns=7)
            assert (entry.stat.st_atime_ns, entry.stat.st_mtime_ns) == (ns, 7)
        assert (volume.backing / "file").stat().st_mtime_ns == 7

    def test_truncate_by_name_and_by_handle(self, volume: Volume) -> None:
        volume.put(b"file", b"0123456789")
        node_id = volume.id(b"file")
        assert volume.tree.setattr(node_id, size=4).stat.st_size == 4
        handle = volume.tree.open(node_id, os.O_RDWR)
        assert volume.tree.setattr(node_id, size=8, handle=handle).stat.st_size == 8
        assert volume.tree.read(handle, 0, 100) == b"0123\0\0\0\0"
        volume.tree.release(handle)
        assert volume.tree.open_handles == 0

    def test_truncate_of_what_is_no_file(self, volume: Volume) -> None:
        volume.tree.mkdir(ROOT_ID, b"dir", 0o755)
        volume.tree.symlink(ROOT_ID, b"link", b"dir")
        with refused(errno.EISDIR):
            volume.tree.setattr(volume.id(b"dir"), size=0)
        with refused(errno.EINVAL):
            volume.tree.setattr(volume.id(b"link"), size=0)

    def test_size_mode_and_times_at_once(self, volume: Volume) -> None:
        volume.put(b"file", b"0123456789")
        entry = volume.tree.setattr(volume.id(b"file"), size=2, mode=0o400, atime_ns=3, mtime_ns=4)
        assert entry.stat.st_size == 2
        assert bits(entry) == 0o400
        assert entry.stat.st_mtime_ns == 4

    def test_chown(self, volume: Volume) -> None:
        volume.put(b"file")
        before = (volume.backing / "file").stat()
        ours: list[dict[str, Any]] = [{"uid": SHOWN_UID}, {"gid": SHOWN_GID}, {"uid": SHOWN_UID, "gid": SHOWN_GID}]
        others: list[dict[str, Any]] = [{"uid": 0}, {"gid": 0}, {"uid": SHOWN_UID, "gid": 0}]
        for ids in ours:
            volume.tree.setattr(volume.id(b"file"), **ids)
        for ids in others:
            with refused(errno.EPERM):
                volume.tree.setattr(volume.id(b"file"), mode=0o777, **ids)
        after = (volume.backing / "file").stat()
        assert (before.st_uid, before.st_gid, before.st_mode) == (after.st_uid, after.st_gid, after.st_mode)

    @pytest.mark.parametrize("kind", SPECIAL)
    def test_special_files_cannot_be_changed(self, volume: Volume, kind: str) -> None:
        node_id = volume.id(special(volume, kind))
        before = os.lstat(volume.disk(kind.encode()))
        changes: list[dict[str, Any]] = [{"mode": 0o777}, {"size": 0}, {"mtime_ns": 5}, {"uid": SHOWN_UID}]
        for change in changes:
            with refused(errno.EACCES):
                volume.tree.setattr(node_id, **change)
        assert os.lstat(volume.disk(kind.encode())) == before

    def test_mode_of_a_symlink(self, volume: Volume) -> None:
        volume.tree.symlink(ROOT_ID, b"link", b"x")
        with refused(errno.EOPNOTSUPP):
            volume.tree.setattr(volume.id(b"link"), mode=0o600)
        assert stat.S_ISLNK(volume.tree.setattr(volume.id(b"link"), uid=SHOWN_UID).mode)

    def test_of_an_open_file_without_a_name(self, volume: Volume) -> None:
        handle, entry = volume.create(b"file", flags=os.O_RDWR)
        node_id = entry.node.id
        volume.tree.write(handle, 0, b"0123456789")
        volume.tree.unlink(ROOT_ID, b"file")
        assert volume.tree.getattr(node_id).stat.st_nlink == 0
        assert volume.tree.setattr(node_id, size=5).stat.st_size == 5
        assert bits(volume.tree.setattr(node_id, mode=0o600)) == 0o600
        assert volume.tree.setattr(node_id, mtime_ns=9).stat.st_mtime_ns == 9
        assert bits(volume.tree.setattr(node_id, mode=0o640, handle=handle)) == 0o640
        second = volume.tree.open(node_id, os.O_RDONLY)
        assert volume.tree.read(second, 0, 100) == b"01234"
        volume.tree.release(second)
        volume.tree.release(handle)
        with refused(errno.ESTALE):
            volume.tree.getattr(node_id)


class TestFiles:
    def test_read_and_write(self, volume: Volume) -> None:
        handle, entry = volume.create(b"file")
        assert volume.tree.write(handle, 5, b"hello") == 5
        assert volume.tree.read(handle, 0, 100) == b"\0\0\0\0\0hello"
        assert volume.tree.read(handle, 7, 2) == b"ll"
        assert volume.tree.read(handle, 100, 10) == b""
        volume.tree.fsync(handle, True)
        volume.tree.fsync(handle, False)
        volume.tree.flush(handle)
        assert volume.tree.open_handles == 1
        volume.tree.release(handle)
        assert volume.tree.open_handles == 0
        assert entry.node.handles is None

    def test_append_goes_to_the_end_whoever_moved_it(self, volume: Volume) -> None:
        volume.put(b"file", b"one")
        handle = volume.tree.open(volume.id(b"file"), os.O_WRONLY | os.O_APPEND)
        with (volume.backing / "file").open("ab") as file:
            file.write(b"two")
        volume.tree.write(handle, 3, b"three")
        volume.tree.release(handle)
        assert (volume.backing / "file").read_bytes() == b"onetwothree"
        handle, _entry = volume.create(b"new", flags=os.O_WRONLY | os.O_APPEND)
        (volume.backing / "new").write_bytes(b"first")
        volume.tree.write(handle, 0, b"second")
        volume.tree.release(handle)
        assert (volume.backing / "new").read_bytes() == b"firstsecond"

    def test_truncating_open(self, volume: Volume) -> None:
        volume.put(b"file", b"content")
        volume.tree.release(volume.tree.open(volume.id(b"file"), os.O_WRONLY | os.O_TRUNC))
        assert (volume.backing / "file").stat().st_size == 0

    def test_flags_that_are_not_passed_on(self, volume: Volume) -> None:
        volume.put(b"file", b"content")
        flags = os.O_RDONLY | os.O_DIRECT | os.O_CREAT | os.O_DIRECTORY | os.O_PATH | os.O_NOATIME | os.O_ASYNC
        handle = volume.tree.open(volume.id(b"file"), flags)
        assert volume.tree.read(handle, 0, 3) == b"con"
        assert not fcntl.fcntl(handle, fcntl.F_GETFL) & (os.O_DIRECT | os.O_ASYNC)
        assert not os.get_inheritable(handle)
        volume.tree.release(handle)

    @pytest.mark.parametrize("kind", SPECIAL)
    @pytest.mark.parametrize("access", [os.O_RDONLY, os.O_WRONLY, os.O_RDWR, os.O_RDONLY | os.O_TRUNC])
    def test_special_files_are_not_opened(self, volume: Volume, kind: str, access: int) -> None:
        node_id = volume.id(special(volume, kind))
        with refused(errno.EACCES):
            volume.tree.open(node_id, access)

    def test_directories_and_symlinks_are_not_opened(self, volume: Volume) -> None:
        volume.tree.mkdir(ROOT_ID, b"dir", 0o755)
        volume.tree.symlink(ROOT_ID, b"link", b"dir")
        with refused(errno.EISDIR):
            volume.tree.open(volume.id(b"dir"), os.O_RDONLY)
        with refused(errno.EACCES):
            volume.tree.open(volume.id(b"link"), os.O_RDONLY)

    def test_a_fifo_that_took_a_files_place_wakes_nobody(self, volume: Volume) -> None:
        volume.put(b"x")
        node_id = volume.id(b"x")
        (volume.backing / "x").unlink()
        os.mkfifo(volume.backing / "x")
        # A reader in the container would be woken, and a writer be let through, if anybody opened it.
        reader = os.open(volume.backing / "x", os.O_RDONLY | os.O_NONBLOCK)
        try:
            for flags in (os.O_RDONLY, os.O_WRONLY, os.O_RDWR):
                with refused(errno.ESTALE):
                    volume.tree.open(node_id, flags)
                with refused(errno.ESTALE):
                    volume.create(b"x", flags=flags)
            assert os.read(reader, 1) == b""
        finally:
            os.close(reader)

    def test_a_leased_file_is_asked_for_and_had_when_given_up(self, volume: Volume) -> None:
        volume.put(b"file", b"content")
        node_id = volume.id(b"file")
        # A lease is refused while anybody has the file open, and breaking one signals its holder.
        before = signal.signal(signal.SIGIO, signal.SIG_IGN)
        leased = os.open(volume.backing / "file", os.O_RDONLY)
        try:
            fcntl.fcntl(leased, fcntl.F_SETLEASE, fcntl.F_RDLCK)
            with refused(errno.EAGAIN):
                volume.tree.open(node_id, os.O_WRONLY)
            with refused(errno.EAGAIN):
                volume.tree.setattr(node_id, size=0)
            fcntl.fcntl(leased, fcntl.F_SETLEASE, fcntl.F_UNLCK)
            volume.tree.release(volume.tree.open(node_id, os.O_WRONLY))
        finally:
            os.close(leased)
            signal.signal(signal.SIGIO, before)

    def test_unknown_handles(self, volume: Volume) -> None:
        tree = volume.tree
        for number in (0, 1, 2, 500, 1 << 40):
            with refused(errno.EBADF):
                tree.read(number, 0, 1)
            with refused(errno.EBADF):
                tree.write(number, 0, b"x")
            with refused(errno.EBADF):
                tree.fsync(number, False)
            with refused(errno.EBADF):
                tree.readdir(number, 0, lambda *_: True)
            with refused(errno.EBADF):
                tree.release(number)
            with refused(errno.EBADF):
                tree.setattr(ROOT_ID, mode=0o755, handle=number)

    def test_handles_are_bounded(self, volume: Volume) -> None:
        volume.put(b"file")
        node_id = volume.id(b"file")
        handles = [volume.tree.open(node_id, os.O_RDONLY) for _ in range(99)] + [volume.tree.opendir(ROOT_ID)]
        for attempt in (
            lambda: volume.tree.open(node_id, os.O_RDONLY),
            lambda: volume.tree.opendir(ROOT_ID),
            lambda: volume.tree.create(ROOT_ID, b"one more", 0o644, os.O_WRONLY),
        ):
            with refused(errno.ENFILE):
                attempt()
        assert os.listdir(volume.backing) == ["file"]
        volume.tree.release(handles.pop())
        volume.tree.release(volume.tree.open(node_id, os.O_RDONLY))
        for handle in handles:
            volume.tree.release(handle)


class TestDirectories:
    @pytest.mark.parametrize("at_once", [1, 2, 50, 10_000])
    def test_everything_once(self, volume: Volume, at_once: int) -> None:
        names = {b"%d" % number for number in range(300)} | {b"\xff\xfe", b"n" * 255}
        for name in names:
            os.close(os.open(volume.disk(name), os.O_CREAT | os.O_WRONLY, 0o600))
        found = volume.listing(at_once=at_once)
        assert set(found) == names
        for name, entry in found.items():
            assert entry.stat.st_ino == os.lstat(volume.disk(name)).st_ino
            assert entry.node.lookups == 1
            assert volume.id(name) == entry.node.id

    def test_what_was_not_taken_is_not_remembered(self, volume: Volume) -> None:
        for number in range(10):
            (volume.backing / str(number)).touch()
        handle = volume.tree.opendir(ROOT_ID)
        taken: list[bytes] = []

        def show(name: bytes, _entry: object, _offset: int) -> bool:
            if len(taken) == 4:
                return False
            taken.append(name)
            return True

        volume.tree.readdir(handle, 0, show)
        volume.tree.release(handle)
        assert volume.tree.live_nodes == 5

    def test_vanishing_entries_are_left_out(self, volume: Volume) -> None:
        for number in range(100):
            (volume.backing / f"{number:03}").touch()
        handle = volume.tree.opendir(ROOT_ID)
        seen: list[bytes] = []

        def show(name: bytes, _entry: object, _offset: int) -> bool:
            seen.append(name)
            if len(seen) == 1:
                for other in range(100):
                    if b"%03d" % other != name and other % 2:
                        (volume.backing / f"{other:03}").unlink()
            return True

        volume.tree.readdir(handle, 0, show)
        volume.tree.release(handle)
        assert len(seen) in (50, 51)
        assert len(set(seen)) == len(seen)

    def test_stable_while_names_come_and_go(self, volume: Volume) -> None:
        stays = {b"stays-%d" % number for number in range(500)}
        for name in stays:
            os.close(os.open(volume.disk(name), os.O_CREAT | os.O_WRONLY, 0o600))
        handle = volume.tree.opendir(ROOT_ID)
        seen: list[bytes] = []
        offset = 0
        turn = 0
        while True:
            batch: list[tuple[bytes, int]] = []

            def show(name: bytes, _entry: object, after: int, batch: list[tuple[bytes, int]] = batch) -> bool:
                batch.append((name, after))
                return len(batch) < 20

            volume.tree.readdir(handle, offset, show)
            # The last one shown was refused.
            batch = batch[:19] if len(batch) == 20 else batch
            if not batch:
                break
            offset = batch[-1][1]
            seen += [name for name, _after in batch]
            turn += 1
            (volume.backing / f"comes-{turn}").touch()
            if turn > 3:
                (volume.backing / f"comes-{turn - 3}").unlink()
        volume.tree.release(handle)
        kept = [name for name in seen if name.startswith(b"stays")]
        assert sorted(kept) == sorted(stays)

    def test_one_that_cannot_be_looked_at_spoils_nothing(self, volume: Volume, monkeypatch: pytest.MonkeyPatch) -> None:
        (volume.backing / "good").touch()
        (volume.backing / "bad").mkdir()
        real = os.stat

        def broken(path: object, **kwargs: object) -> os.stat_result:
            if path == b"bad":
                raise OSError(errno.EIO, "")
            return real(path, **kwargs)  # type: ignore[arg-type] # passed on as it came

        monkeypatch.setattr(os, "stat", broken)
        found = volume.listing()
        assert set(found) == {b"good", b"bad"}
        assert found[b"bad"].mode == stat.S_IFDIR
        assert found[b"bad"].stat.st_mtime_ns == 0

    def test_a_files_handle_is_no_directory(self, volume: Volume) -> None:
        handle, _entry = volume.create(b"file")
        with refused(errno.ENOTDIR):
            volume.tree.readdir(handle, 0, lambda *_: True)
        volume.tree.release(handle)

    def test_a_removed_directory(self, volume: Volume) -> None:
        volume.tree.mkdir(ROOT_ID, b"d", 0o755)
        handle = volume.tree.opendir(volume.id(b"d"))
        volume.tree.rmdir(ROOT_ID, b"d")
        volume.tree.readdir(handle, 0, lambda *_: pytest.fail("an entry"))
        volume.tree.release(handle)

    def test_a_removed_root_is_no_empty_directory(self, volume: Volume) -> None:
        handle = volume.tree.opendir(ROOT_ID)
        volume.backing.rmdir()
        with refused(errno.ENOENT):
            volume.tree.opendir(ROOT_ID)
        with refused(errno.ENOENT):
            volume.tree.readdir(handle, 0, lambda *_: pytest.fail("an entry"))
        volume.tree.release(handle)

    def test_no_holes_where_there_was_no_room(self, volume: Volume, monkeypatch: pytest.MonkeyPatch) -> None:
        """What was sent behind a block that did not fit fails like that one, even if there is room for it."""
        room = [10]
        real = os.pwrite

        def pwrite(fd: int, data: bytes, offset: int) -> int:
            if not room[0]:
                raise OSError(errno.EDQUOT, "quota")
            written = real(fd, data[: room[0]], offset)
            room[0] -= written
            return written

        monkeypatch.setattr(os, "pwrite", pwrite)
        handle, _ = volume.create(b"file")
        assert volume.tree.write(handle, 0, b"12345678") == 8
        assert volume.tree.write(handle, 8, b"9abc") == 2, "as much as fits"
        room[0] = 100
        for offset in (12, 16):
            with refused(errno.ENOSPC):
                volume.tree.write(handle, offset, b"behind")
        assert volume.tree.write(handle, 10, b"bc") == 2, "what is missing can be written"
        assert volume.tree.write(handle, 12, b"def") == 3
        room[0] = 0
        with refused(errno.EDQUOT):
            volume.tree.write(handle, 15, b"g")
        room[0] = 100
        with refused(errno.EDQUOT):
            volume.tree.write(handle, 16, b"h")
        assert volume.tree.write(handle, 0, b"1") == 1, "before it, as always"
        with refused(errno.EDQUOT):
            volume.tree.write(handle, 16, b"h")
        assert volume.tree.write(handle, 15, b"g") == 1
        assert volume.tree.write(handle, 20, b"x") == 1, "a hole that the client wants"
        volume.tree.release(handle)
        assert volume.get(b"file") == b"123456789abcdefg\0\0\0\0x"

    def test_too_far_where_there_was_no_room(self, volume: Volume, monkeypatch: pytest.MonkeyPatch) -> None:
        """What no file can hold is told as such, also behind a write that was short."""
        handle, _ = volume.create(b"file")
        end = _largest(volume.backing / "file")
        monkeypatch.setattr(os, "pwrite", lambda _fd, data, _offset: len(data) - 1)
        assert volume.tree.write(handle, 0, b"12") == 1
        with refused(errno.ENOSPC):
            volume.tree.write(handle, 2, b"3")
        with refused(errno.ENOSPC):
            volume.tree.write(handle, end - 1, b"3")
        with refused(errno.EFBIG):
            volume.tree.write(handle, end, b"3")
        volume.tree.release(handle)

    def test_synchronising(self, volume: Volume) -> None:
        handle = volume.tree.opendir(ROOT_ID)
        volume.tree.fsync(handle, True)
        volume.tree.fsync(handle, False)
        volume.tree.release(handle)


def _largest(path: Path) -> int:
    """Bytes of the largest file on the file system of the file `path`."""
    with path.open("rb") as file:
        good, bad = 0, 1 << 63
        while good + 1 < bad:
            middle = (good + bad) // 2
            try:
                os.lseek(file.fileno(), middle, os.SEEK_SET)
            except OSError:
                bad = middle
            else:
                good = middle
    return good


def _attempts(volume: Volume) -> dict[str, tuple[bool, object]]:
    """Every operation: whether it changes something, and a call of it."""
    tree = volume.tree
    volume.put(b"file", b"content")
    volume.put(b"gone")
    tree.mkdir(ROOT_ID, b"dir", 0o755)
    tree.mkdir(ROOT_ID, b"empty", 0o755)
    tree.symlink(ROOT_ID, b"link", b"file")
    file, link = volume.id(b"file"), volume.id(b"link")
    reading = tree.open(file, os.O_RDONLY)
    writing = tree.open(file, os.O_RDWR)
    listing = tree.opendir(ROOT_ID)
    return {
        "lookup": (False, lambda: tree.lookup(ROOT_ID, b"file")),
        "getattr": (False, lambda: tree.getattr(file)),
        "readlink": (False, lambda: tree.readlink(link)),
        "statfs": (False, tree.statfs),
        "open": (False, lambda: tree.release(tree.open(file, os.O_RDONLY))),
        "read": (False, lambda: tree.read(reading, 0, 1)),
        "opendir": (False, lambda: tree.release(tree.opendir(ROOT_ID))),
        "readdir": (False, lambda: tree.readdir(listing, 0, lambda *_: False)),
        "fsync": (False, lambda: tree.fsync(writing, False)),
        "flush": (False, lambda: tree.flush(writing)),
        "write": (True, lambda: tree.write(writing, 0, b"x")),
        "open for writing": (True, lambda: tree.open(file, os.O_WRONLY)),
        "open for both": (True, lambda: tree.open(file, os.O_RDWR)),
        "truncating open": (True, lambda: tree.open(file, os.O_RDONLY | os.O_TRUNC)),
        "create": (True, lambda: tree.create(ROOT_ID, b"new", 0o644, os.O_RDONLY)),
        "mknod": (True, lambda: tree.mknod(ROOT_ID, b"new", stat.S_IFREG | 0o644)),
        "mkdir": (True, lambda: tree.mkdir(ROOT_ID, b"new", 0o755)),
        "symlink": (True, lambda: tree.symlink(ROOT_ID, b"new", b"x")),
        "link": (True, lambda: tree.link(file, ROOT_ID, b"new")),
        "rename": (True, lambda: tree.rename(ROOT_ID, b"file", ROOT_ID, b"new")),
        "unlink": (True, lambda: tree.unlink(ROOT_ID, b"gone")),
        "rmdir": (True, lambda: tree.rmdir(ROOT_ID, b"empty")),
        "chmod": (True, lambda: tree.setattr(file, mode=0o600)),
        "times": (True, lambda: tree.setattr(file, mtime_ns=1)),
        "truncate": (True, lambda: tree.setattr(file, size=0)),
        "truncate by handle": (True, lambda: tree.setattr(file, size=0, handle=writing)),
        "chown": (True, lambda: tree.setattr(file, uid=SHOWN_UID)),
    }


def _state(where: Path) -> list[tuple[object, ...]]:
    paths = sorted(where.rglob("*"))
    return [(path, (st := path.lstat()).st_mode, st.st_size, st.st_mtime_ns, st.st_ctime_ns) for path in paths]


class TestRestrictions:
    def test_refused(self, volume: Volume) -> None:
        attempts = _attempts(volume)
        before = _state(volume.backing)
        handles = volume.tree.open_handles
        volume.tree.restrict(refuse=True, read_only=False)
        assert volume.tree.refused
        for name, (_changes, attempt) in attempts.items():
            with refused(errno.EACCES):
                attempt()  # type: ignore[operator] # a call of no arguments
                pytest.fail(name)
        assert _state(volume.backing) == before
        assert volume.tree.open_handles == handles

    def test_refused_handles_can_be_released_and_nodes_forgotten(self, volume: Volume) -> None:
        handle, entry = volume.create(b"file")
        volume.tree.restrict(refuse=True, read_only=True)
        volume.tree.release(handle)
        volume.tree.forget(entry.node.id, 1)
        assert volume.tree.live_nodes == 1

    def test_read_only(self, volume: Volume) -> None:
        attempts = _attempts(volume)
        before = _state(volume.backing)
        volume.tree.restrict(refuse=False, read_only=True)
        assert volume.tree.read_only
        for name, (changes, attempt) in attempts.items():
            if changes:
                with refused(errno.EACCES):
                    attempt()  # type: ignore[operator] # a call of no arguments
                    pytest.fail(name)
            else:
                attempt()  # type: ignore[operator] # a call of no arguments
        assert _state(volume.backing) == before
        volume.tree.restrict(refuse=False, read_only=False)
        assert volume.tree.setattr(volume.id(b"file"), size=0).stat.st_size == 0

    def test_nothing_is_open_for_writing_after_read_only(self, volume: Volume) -> None:
        volume.put(b"file", b"content")
        handles = [volume.tree.open(volume.id(b"file"), how) for how in (os.O_RDONLY, os.O_RDWR, os.O_WRONLY)]
        gone, _ = volume.create(b"gone")
        volume.tree.write(gone, 0, b"unlinked")
        volume.tree.unlink(ROOT_ID, b"gone")
        volume.tree.restrict(refuse=False, read_only=True)
        for handle in (*handles, gone):
            flags = fcntl.fcntl(handle, fcntl.F_GETFL)
            assert flags & os.O_ACCMODE == os.O_RDONLY
            assert volume.tree.read(handle, 0, 100) == (b"unlinked" if handle == gone else b"content")
        volume.tree.restrict(refuse=False, read_only=False)
        for handle in (*handles[1:], gone):
            with refused(errno.EACCES):
                volume.tree.write(handle, 0, b"x")
            volume.tree.release(handle)
        # By the file, which may be changed again, where the handle is of no use any more.
        volume.tree.release(handles[0])
        volume.put(b"file", b"new")

    def test_read_only_from_the_start(self, volume: Volume) -> None:
        tree = VolumeTree(
            root_fd=volume.tree._root_fd,
            proc_fd_dir=volume.tree._proc_fd_dir,
            view=SquashView(1, 1),
            keep_sgid=contextlib.nullcontext,
            read_only=True,
        )
        with refused(errno.EACCES):
            tree.mkdir(ROOT_ID, b"new", 0o755)
        tree.close()

    def test_activity_is_counted(self, volume: Volume) -> None:
        before = volume.tree.activity
        volume.put(b"file", b"x")
        volume.get(b"file")
        assert volume.tree.activity > before + 4
        still = volume.tree.activity
        assert volume.tree.open_handles == 0
        assert volume.tree.activity == still
