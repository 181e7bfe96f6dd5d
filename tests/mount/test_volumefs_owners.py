"""Whom new files belong to on disk, by what a grant says; and the real view. As the session's uid, not root."""

from __future__ import annotations

import errno
import multiprocessing
import os
import socket
import stat
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.mount.served import OWNER_GID, OWNER_UID, SESSION_UID, Served, put, refused, served

from hatchway.volumefs.ownership import Owner, RealView, SquashView

OTHER = Owner(70_001, 70_002)


def owner(path: Path) -> tuple[int, int]:
    st = path.lstat()
    return st.st_uid, st.st_gid


def bits(path: Path) -> int:
    return stat.S_IMODE(path.lstat().st_mode)


@pytest.fixture
def named() -> Iterator[Served]:
    """A volume whose grant names an owner and a umask."""
    with served(view=SquashView(SESSION_UID, SESSION_UID, new=OTHER, umask=0o027)) as volume:
        yield volume


def make_some() -> None:
    os.umask(0)
    put(b"file", b"x")
    os.mkdir(b"directory")
    os.mkdir(b"directory/below")
    os.symlink(b"anywhere", b"link")
    os.mknod(b"node", 0o666)
    for name in (b"file", b"directory", b"link", b"node"):
        st = os.lstat(name)
        assert (st.st_uid, st.st_gid) == (SESSION_UID, SESSION_UID)


def test_what_is_new_belongs_to_whom_the_grant_names(named: Served) -> None:
    named.as_session(make_some)
    for name in ("file", "directory", "directory/below", "link", "node"):
        assert owner(named.backing / name) == OTHER, name
    assert owner(named.backing.resolve()) == (OWNER_UID, OWNER_GID)


def test_the_grants_umask(named: Served) -> None:
    named.as_session(make_some)
    assert [bits(named.backing / name) for name in ("file", "directory", "node")] == [0o640, 0o750, 0o640]

    def chmod() -> None:
        # As everywhere, a mode that is asked for afterwards is the client's affair.
        os.chmod(b"file", 0o666)

    named.as_session(chmod)
    assert bits(named.backing / "file") == 0o666


def test_a_directory_with_sgid_gives_its_group(named: Served) -> None:
    shared = named.backing / "shared"
    shared.mkdir()
    os.chown(shared, 5, 6)
    shared.chmod(0o2775)

    def session() -> None:
        put(b"shared/file", b"x")
        os.mkdir(b"shared/below")

    named.as_session(session)
    assert owner(shared / "file") == (OTHER.uid, 6)
    assert owner(shared / "below") == (OTHER.uid, 6)
    assert bits(shared / "below") & stat.S_ISGID


def test_others_files_keep_their_owner_whatever_is_done_with_them(named: Served) -> None:
    (named.backing / "theirs").write_bytes(b"old")
    os.chown(named.backing / "theirs", 33, 34)

    def session() -> None:
        with open("theirs", "r+b") as file:
            file.write(b"new")
        os.truncate(b"theirs", 1)
        os.rename(b"theirs", b"renamed")
        os.link(b"renamed", b"linked")

    named.as_session(session)
    assert owner(named.backing / "linked") == (33, 34)


@pytest.fixture
def real() -> Iterator[Served]:
    """A volume shown as it is on disk."""
    with served(view=RealView(0o022)) as volume:
        volume.backing.chmod(0o777)
        yield volume


def test_real_is_as_on_disk(real: Served) -> None:
    (real.backing / "theirs").write_bytes(b"secret")
    os.chown(real.backing / "theirs", 33, 34)
    (real.backing / "theirs").chmod(0o640)
    os.mkfifo(real.backing / "fifo")
    (real.backing / "fifo").chmod(0o622)

    def session() -> None:
        st = os.lstat(b"theirs")
        assert (st.st_uid, st.st_gid, stat.S_IMODE(st.st_mode)) == (33, 34, 0o640)
        assert stat.S_IMODE(os.lstat(b"fifo").st_mode) == 0o622
        with refused(errno.EACCES):
            os.open(b"theirs", os.O_RDONLY)
        with refused(errno.EPERM):
            os.chmod(b"theirs", 0o666)
        with refused(errno.EPERM):
            os.chown(b"theirs", SESSION_UID, -1)
        put(b"mine", b"x")
        os.chmod(b"mine", 0o6750)
        with refused(errno.EPERM):
            os.chown(b"mine", 0, -1)
        os.mkfifo(b"pipe")
        with socket.socket(socket.AF_UNIX) as sock:
            sock.bind("socket")

    real.as_session(session)
    for name in ("mine", "pipe", "socket"):
        assert owner(real.backing / name) == (SESSION_UID, SESSION_UID), name
    assert bits(real.backing / "mine") == 0o750, "suid and sgid cannot be set"
    assert stat.S_ISFIFO((real.backing / "pipe").lstat().st_mode)
    assert stat.S_ISSOCK((real.backing / "socket").lstat().st_mode)


def test_real_directories_inherit_sgid(real: Served) -> None:
    shared = real.backing / "shared"
    shared.mkdir()
    os.chown(shared, 5, 6)
    shared.chmod(0o2777)

    def session() -> None:
        os.mkdir(b"shared/below")
        put(b"shared/file", b"x")

    real.as_session(session)
    assert bits(shared / "below") & stat.S_ISGID
    assert [owner(shared / name) for name in ("below", "file")] == [(SESSION_UID, 6)] * 2


def test_real_chown_is_roots(real: Served) -> None:
    (real.backing / "file").write_bytes(b"x")
    (real.backing / "file").chmod(0o6755)
    os.chown(real.path / "file", 33, 34)
    assert owner(real.backing / "file") == (33, 34)
    # chown(2) takes suid and sgid away.
    assert bits(real.backing / "file") == 0o755
    os.chown(real.path / "file", -1, 35)
    assert owner(real.backing / "file") == (33, 35)


def test_real_suid_goes_when_a_file_is_written(real: Served) -> None:
    (real.backing / "file").write_bytes(b"x")
    os.chown(real.backing / "file", SESSION_UID, SESSION_UID)
    (real.backing / "file").chmod(0o6755)

    def session() -> None:
        with open("file", "r+b") as file:
            file.write(b"y")
        assert stat.S_IMODE(os.lstat(b"file").st_mode) == 0o755

    real.as_session(session)
    assert bits(real.backing / "file") == 0o755


def test_real_does_not_believe_what_the_kernel_believes_of_an_owner(real: Served) -> None:
    """fuse_setattr() checks by attributes that it does not ask for anew."""
    disk = str(real.backing.resolve())

    def session() -> None:
        with open("mine", "wb") as file:
            ready.set()
            assert given.wait(10)
            with refused(errno.EPERM):
                os.fchmod(file.fileno(), 0o777)

    ready, given = multiprocessing.Event(), multiprocessing.Event()

    def give_away() -> None:
        assert ready.wait(10)
        os.chown(f"{disk}/mine", 0, 0)
        given.set()

    thread = threading.Thread(target=give_away)
    thread.start()
    real.as_session(session)
    thread.join()
    assert bits(real.backing / "mine") == 0o644


def test_no_view_makes_devices(real: Served, named: Served) -> None:
    for volume in (real, named):
        for kind in (stat.S_IFCHR, stat.S_IFBLK):
            with refused(errno.EPERM):
                os.mknod(volume.path / "device", kind | 0o666, os.makedev(1, 3))
        # The one device the kernel lets anybody make, an overlay's whiteout.
        with refused(errno.EPERM):
            os.mknod(volume.path / "device", stat.S_IFCHR | 0o666, os.makedev(0, 0))
        assert list(volume.backing.iterdir()) == []
