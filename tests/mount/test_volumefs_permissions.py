"""Who may do what: the checks of the kernel on what is shown, and ownership on disk. As the session's uid, not root."""

from __future__ import annotations

import errno
import os
import socket
import stat
import time

import pytest
from tests.mount.served import OWNER_GID, OWNER_UID, WORKER_UID, Served, get, put, refused, served

SPECIAL = ["fifo", "socket", "character", "block"]


def make_special(volume: Served, kind: str) -> None:
    """Put something on disk that must never be opened."""
    path = volume.backing / kind
    if kind == "fifo":
        os.mkfifo(path, 0o666)
    elif kind == "socket":
        with socket.socket(socket.AF_UNIX) as sock:
            sock.bind(str(path))
    else:
        # 1:3 is the null device as a character device; there is no block device 1:3 to be hurt.
        os.mknod(path, (stat.S_IFBLK if kind == "block" else stat.S_IFCHR) | 0o666, os.makedev(1, 3))
    os.chmod(path, 0o666)


def test_everything_is_the_sessions(volume: Served) -> None:
    (volume.backing / "root").write_bytes(b"x")
    (volume.backing / "theirs").write_bytes(b"y")
    os.chown(volume.backing / "theirs", 33, 33)
    (volume.backing / "private").mkdir(mode=0o700)
    (volume.backing / "private" / "file").write_bytes(b"z")
    (volume.backing / "root").chmod(0o600)

    def session() -> None:
        for name in (".", "root", "theirs", "private", "private/file"):
            st = os.lstat(name)
            assert (st.st_uid, st.st_gid) == (volume.uid, volume.uid), name
        assert get(b"root") == b"x"
        assert get(b"private/file") == b"z"
        put(b"private/new", b"n")
        os.chmod(b"theirs", 0o604)
        os.utime(b"root", ns=(1, 2))
        os.unlink(b"private/file")

    volume.as_session(session)
    st = (volume.backing / "theirs").stat()
    assert (st.st_uid, st.st_gid, stat.S_IMODE(st.st_mode)) == (33, 33, 0o604)
    st = (volume.backing / "private" / "new").stat()
    assert (st.st_uid, st.st_gid) == (0, 0)


def test_the_owner_bits_are_in_force(volume: Served) -> None:
    def session() -> None:
        put(b"file", b"x")
        os.chmod(b"file", 0o077)
        with refused(errno.EACCES):
            os.open(b"file", os.O_RDONLY)
        with refused(errno.EACCES):
            os.open(b"file", os.O_WRONLY)
        with refused(errno.EACCES):
            os.truncate(b"file", 0)
        os.chmod(b"file", 0o400)
        assert get(b"file") == b"x"
        os.mkdir(b"dir")
        put(b"dir/file", b"y")
        os.chmod(b"dir", 0o500)
        with refused(errno.EACCES):
            put(b"dir/new", b"z")
        with refused(errno.EACCES):
            os.unlink(b"dir/file")
        with refused(errno.EACCES):
            os.rename(b"dir/file", b"file2")
        os.chmod(b"dir", 0o600)
        with refused(errno.EACCES):
            os.stat(b"dir/file")
        os.chmod(b"dir", 0o700)

    volume.as_session(session)


def test_nobody_else_may_more_than_others(volume: Served) -> None:
    volume.as_session(put, b"file", b"x")
    (volume.backing / "file").chmod(0o640)
    time.sleep(1.1)
    volume.uid += 1
    with refused(errno.EACCES):
        volume.as_session(get, b"file")
    with refused(errno.EPERM):
        volume.as_session(os.chmod, b"file", 0o777)


@pytest.mark.parametrize("kind", SPECIAL)
def test_special_files_are_listed_but_not_opened(volume: Served, kind: str) -> None:
    make_special(volume, kind)
    before = os.lstat(volume.backing / kind)

    def session() -> None:
        assert os.listdir() == [kind]
        st = os.lstat(kind)
        assert stat.S_IMODE(st.st_mode) == 0
        assert stat.S_IFMT(st.st_mode) == stat.S_IFMT(before.st_mode)
        began = time.monotonic()
        for flags in (os.O_RDONLY, os.O_WRONLY, os.O_RDWR, os.O_RDONLY | os.O_NONBLOCK, os.O_WRONLY | os.O_CREAT):
            with refused(errno.EACCES, errno.ENXIO):
                os.open(kind, flags)
        assert time.monotonic() - began < 1
        with refused(errno.EACCES):
            os.chmod(kind, 0o666)
        with refused(errno.EACCES):
            os.utime(kind, ns=(1, 2))

    volume.as_session(session)
    after = os.lstat(volume.backing / kind)
    assert (after.st_mode, after.st_mtime_ns, after.st_uid) == (before.st_mode, before.st_mtime_ns, before.st_uid)

    def remove() -> None:
        os.rename(kind, "renamed")
        os.unlink("renamed")

    volume.as_session(remove)


def test_a_fifo_is_refused_to_root_too_where_it_would_hang(volume: Served) -> None:
    """A reader waiting in the container must not be woken by anybody who only looks."""
    os.mkfifo(volume.backing / "fifo")
    reader = os.open(volume.backing / "fifo", os.O_RDONLY | os.O_NONBLOCK)

    def session() -> None:
        for _ in range(20):
            os.listdir()
            os.lstat("fifo")
            with refused(errno.EACCES):
                os.open("fifo", os.O_WRONLY | os.O_NONBLOCK)

    volume.as_session(session)
    assert os.read(reader, 1) == b""
    os.close(reader)


@pytest.mark.parametrize("kind", [stat.S_IFIFO, stat.S_IFSOCK, stat.S_IFCHR])
def test_none_are_made(volume: Served, kind: int) -> None:
    def session() -> None:
        with refused(errno.EPERM):
            os.mknod("new", kind | 0o666, os.makedev(1, 3))
        os.mknod("file", stat.S_IFREG | 0o600)

    volume.as_session(session)
    assert os.listdir(volume.backing) == ["file"]


def test_chown(volume: Served) -> None:
    def session() -> None:
        put(b"file", b"x")
        os.symlink(b"file", b"link")
        uid = volume.uid
        for ids in ((uid, uid), (-1, uid), (uid, -1), (-1, -1)):
            os.chown(b"file", *ids)
            os.lchown(b"link", *ids)
        for ids in ((0, -1), (-1, 0), (OWNER_UID, OWNER_GID)):
            with refused(errno.EPERM):
                os.chown(b"file", *ids)

    volume.as_session(session)
    # Root itself gets no further: the worker decides.
    with refused(errno.EPERM):
        os.chown(volume.path / "file", 0, 0)
    st = (volume.backing / "file").stat()
    assert (st.st_uid, st.st_gid) == (OWNER_UID, OWNER_GID)


def test_nothing_ever_belongs_to_the_worker(volume: Served) -> None:
    """Watched from below while files, directories and symlinks are made."""
    stop, wait = os.pipe()
    found_r, found_w = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.set_blocking(stop, False)
        bad = set()
        while True:
            try:
                if os.read(stop, 1):
                    break
            except BlockingIOError:
                pass
            with os.scandir(volume.backing) as entries:
                for entry in entries:
                    try:
                        st = entry.stat(follow_symlinks=False)
                    except FileNotFoundError:
                        continue
                    # A directory cannot be made without a name (open(2), O_TMPFILE): it is of no use until given away.
                    harmless = stat.S_ISLNK(st.st_mode) or (stat.S_ISDIR(st.st_mode) and not stat.S_IMODE(st.st_mode))
                    if st.st_uid == WORKER_UID and not harmless:
                        bad.add(entry.name)
        os.write(found_w, repr(sorted(bad)).encode())
        os._exit(0)

    def session() -> None:
        for number in range(300):
            put(b"file-%d" % number, b"x")
            os.mkdir(b"dir-%d" % number)
            os.symlink(b"target", b"link-%d" % number)
            os.unlink(b"file-%d" % number)

    volume.as_session(session)
    os.write(wait, b"x")
    assert os.read(found_r, 65536) == b"[]"
    assert os.waitpid(pid, 0)[1] == 0
    for fd in (stop, wait, found_r, found_w):
        os.close(fd)
    for path in volume.backing.iterdir():
        assert path.lstat().st_uid == OWNER_UID, path


def test_suid_and_sgid_cannot_be_set(volume: Served) -> None:
    def session() -> None:
        fd = os.open(b"file", os.O_WRONLY | os.O_CREAT, 0o6755)
        os.fchmod(fd, 0o6755)
        os.close(fd)
        os.chmod(b"file", 0o6755)
        os.mkdir(b"dir", 0o6755)
        os.chmod(b"dir", 0o6755)

    volume.as_session(session)
    assert stat.S_IMODE((volume.backing / "file").stat().st_mode) == 0o755
    assert stat.S_IMODE((volume.backing / "dir").stat().st_mode) == 0o755


@pytest.mark.parametrize("change", ["write", "truncate", "ftruncate", "open", "chmod", "append"])
def test_suid_and_sgid_are_lost_when_a_file_is_changed(volume: Served, change: str) -> None:
    path = volume.backing / "tool"
    path.write_bytes(b"#!/bin/sh\n")
    path.chmod(0o6755)

    def session() -> None:
        if change == "truncate":
            os.truncate(b"tool", 3)
        elif change == "chmod":
            os.chmod(b"tool", 0o755)
        else:
            extra = {"open": os.O_TRUNC, "append": os.O_APPEND}.get(change, 0)
            fd = os.open(b"tool", os.O_WRONLY | extra)
            if change == "ftruncate":
                os.ftruncate(fd, 3)
            else:
                os.write(fd, b"evil")
            os.close(fd)

    volume.as_session(session)
    assert stat.S_IMODE(path.stat().st_mode) == 0o755
    assert path.stat().st_uid == 0


def test_reading_keeps_suid(volume: Served) -> None:
    path = volume.backing / "tool"
    path.write_bytes(b"x")
    path.chmod(0o4755)
    assert volume.as_session(get, b"tool") == b"x"
    volume.as_session(os.utime, b"tool")
    volume.as_session(os.rename, b"tool", b"moved")
    assert stat.S_IMODE((volume.backing / "moved").stat().st_mode) == 0o4755


def test_sgid_directories(volume: Served) -> None:
    (volume.backing / "shared").mkdir()
    os.chown(volume.backing / "shared", 44, 55)
    (volume.backing / "shared").chmod(0o2775)

    def session() -> None:
        os.mkdir(b"shared/dir", 0o750)
        put(b"shared/file", b"x")
        os.chmod(b"shared", 0o700)
        os.chmod(b"shared/dir", 0o711)

    volume.as_session(session)
    for name, mode in (("shared", 0o2700), ("shared/dir", 0o2711), ("shared/file", 0o644)):
        st = (volume.backing / name).stat()
        assert (st.st_uid, st.st_gid) == (44, 55), name
        assert stat.S_IMODE(st.st_mode) == mode, name


def test_sticky_directories_hinder_nobody(volume: Served) -> None:
    (volume.backing / "tmp").mkdir()
    (volume.backing / "tmp").chmod(0o1777)
    (volume.backing / "tmp" / "theirs").write_bytes(b"x")
    os.chown(volume.backing / "tmp" / "theirs", 33, 33)

    def session() -> None:
        put(b"tmp/theirs", b"written")
        os.rename(b"tmp/theirs", b"tmp/moved")
        os.link(b"tmp/moved", b"tmp/second")
        os.unlink(b"tmp/moved")
        fd = os.open(b"tmp/second", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.close(fd)

    volume.as_session(session)


def test_nothing_is_executed_and_no_device_works(volume: Served) -> None:
    path = volume.backing / "tool"
    path.write_bytes(b"#!/bin/true\n")
    path.chmod(0o755)

    def session() -> None:
        with refused(errno.EACCES):
            os.execv("./tool", ["./tool"])

    volume.as_session(session)


def test_a_read_only_volume() -> None:
    with served(read_only=True) as volume:
        (volume.backing / "file").write_bytes(b"content")
        (volume.backing / "dir").mkdir()

        def session() -> None:
            assert get(b"file") == b"content"
            assert sorted(os.listdir()) == ["dir", "file"]
            attempts = (
                lambda: put(b"new", b"x"),
                lambda: put(b"file", b"x"),
                lambda: os.open(b"file", os.O_RDWR),
                lambda: os.open(b"file", os.O_RDONLY | os.O_TRUNC),
                lambda: os.truncate(b"file", 0),
                lambda: os.chmod(b"file", 0o600),
                lambda: os.utime(b"file"),
                lambda: os.unlink(b"file"),
                lambda: os.rmdir(b"dir"),
                lambda: os.mkdir(b"new"),
                lambda: os.symlink(b"x", b"new"),
                lambda: os.link(b"file", b"new"),
                lambda: os.rename(b"file", b"new"),
                lambda: os.mknod(b"new", stat.S_IFREG | 0o600),
            )
            for attempt in attempts:
                # EACCES, not EROFS: sshd passes it on as "Permission denied".
                with refused(errno.EACCES):
                    attempt()

        volume.as_session(session)
        assert sorted(os.listdir(volume.backing)) == ["dir", "file"]
        assert (volume.backing / "file").read_bytes() == b"content"
