"""What docs/posix.md says cannot be done, and the model does not try: so that the page is right."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import mmap
import os
import time

from tests.mount.served import Served, get, put, refused

FS_IOC_GETFLAGS = 0x80086601
FICLONE = 0x40049409
_NAME_AT = 19  # of struct dirent (include/bits/dirent.h)


def test_append_set_or_cleared_after_open(volume: Served) -> None:
    def session() -> None:
        put(b"file", b"one")
        fd = os.open(b"file", os.O_WRONLY)
        fcntl.fcntl(fd, fcntl.F_SETFL, os.O_APPEND)
        os.pwrite(fd, b" two", 0)
        os.close(fd)
        assert get(b"file") == b"one two"
        fd = os.open(b"file", os.O_WRONLY | os.O_APPEND)
        fcntl.fcntl(fd, fcntl.F_SETFL, 0)
        os.pwrite(fd, b" three", 0)
        os.close(fd)
        assert get(b"file") == b"one two three"

    volume.as_session(session)


def test_a_large_write_goes_in_parts_of_a_mebibyte(volume: Served) -> None:
    def session() -> None:
        fd = os.open(b"file", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        # A request has 256 pages, so what does not begin with one makes one request more.
        with mmap.mmap(-1, 4 << 20) as pages, memoryview(pages) as data:
            os.write(fd, b"x")
            for size, parts in ((1 << 20, 1), (4 << 20, 4)):
                before = requests()
                assert os.write(fd, data[:size]) == size
                assert requests() - before == parts
        os.close(fd)

    def requests() -> int:
        activity = volume.tell("s")["activity"]
        assert isinstance(activity, int)
        return activity

    volume.as_session(session)


def test_no_dot_entries(volume: Served) -> None:
    def session() -> list[bytes]:
        os.mkdir(b"dir")
        libc = ctypes.CDLL(None, use_errno=True)
        libc.opendir.restype = libc.readdir.restype = ctypes.c_void_p
        libc.readdir.argtypes = libc.closedir.argtypes = (ctypes.c_void_p,)
        stream = libc.opendir(b".")
        names = []
        while entry := libc.readdir(stream):
            names.append(ctypes.string_at(entry + _NAME_AT))
        libc.closedir(stream)
        os.stat(b"./dir/..")
        return names

    assert volume.as_session(session) == [b"dir"]


def test_a_removed_directory_is_not_opened(volume: Served) -> None:
    def session() -> None:
        os.mkdir(b"dir")
        os.chdir(b"dir")
        fd = os.open(b".", os.O_RDONLY | os.O_DIRECTORY)
        os.rmdir(b"../dir")
        assert os.listdir(fd) == []
        for again in (b".", b"/proc/self/fd/%d" % fd):
            with refused(errno.ENOENT):
                os.open(again, os.O_RDONLY | os.O_DIRECTORY)
        with refused(errno.ENOENT):
            os.listdir(b".")
        assert os.stat(b".").st_nlink == 0
        os.close(fd)

    volume.as_session(session)


def test_a_file_without_a_name_that_is_held_by_o_path_only(volume: Served) -> None:
    def session() -> None:
        for name in (b"file", b"open"):
            put(name, b"x")
        held, opened = os.open(b"file", os.O_PATH), os.open(b"open", os.O_PATH)
        fd = os.open(b"open", os.O_RDONLY)
        os.unlink(b"file")
        os.unlink(b"open")
        with refused(errno.ESTALE):
            os.fstat(held)
        assert os.fstat(opened).st_nlink == os.fstat(fd).st_nlink == 0
        for number in (held, opened, fd):
            os.close(number)

    volume.as_session(session)


def test_no_ioctl_reflink_fallocate_or_shared_mapping(volume: Served) -> None:
    def session() -> None:
        put(b"file", bytes(8192))
        fd = os.open(b"file", os.O_RDWR)
        other = os.open(b"other", os.O_RDWR | os.O_CREAT)
        with refused(errno.ENOTTY):
            fcntl.ioctl(fd, FS_IOC_GETFLAGS, bytes(8))
        with refused(errno.EOPNOTSUPP):
            fcntl.ioctl(other, FICLONE, fd)
        libc = ctypes.CDLL(None, use_errno=True)
        assert libc.fallocate(fd, 0, ctypes.c_int64(0), ctypes.c_int64(100_000)) == -1
        assert ctypes.get_errno() == errno.EOPNOTSUPP
        # glibc does it by writing.
        os.posix_fallocate(fd, 0, 100_000)
        assert os.fstat(fd).st_size == 100_000
        with refused(errno.ENODEV):
            mmap.mmap(fd, 4096)
        with contextlib.closing(mmap.mmap(fd, 4096, flags=mmap.MAP_PRIVATE)) as private:
            private[0] = 1
        assert get(b"file")[0] == 0

    volume.as_session(session)


def test_inode_numbers_are_good_while_they_are_in_use(volume: Served) -> None:
    """Names of one file have the same one; none is the disk's, and none is used twice."""

    def session() -> None:
        put(b"file", b"x")
        os.link(b"file", b"second")
        assert os.stat(b"file").st_ino == os.stat(b"second").st_ino
        first = os.stat(b"file").st_ino
        os.unlink(b"file")
        os.unlink(b"second")
        put(b"file", b"x")
        assert os.stat(b"file").st_ino > first

    volume.as_session(session)
    on_disk = (volume.backing / "file").stat().st_ino
    assert volume.as_session(lambda: os.stat(b"file").st_ino) != on_disk


def test_the_container_s_change_of_a_known_attribute_is_seen_within_its_second(volume: Served) -> None:
    (volume.backing / "file").write_bytes(b"before")

    def session() -> None:
        assert os.stat(b"file").st_size == 6
        os.write(tell, b"x")
        assert os.read(go_on, 1) == b"x"
        assert get(b"file") == b"changed underneath"  # contents at once
        time.sleep(1.05)
        assert os.stat(b"file").st_size == 18

    told, tell = os.pipe()
    go_on, wait = os.pipe()
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            volume.as_session(session)
            status = 0
        finally:
            os._exit(status)
    try:
        assert os.read(told, 1) == b"x"
        (volume.backing / "file").write_bytes(b"changed underneath")
        os.write(wait, b"x")
    finally:
        assert os.waitpid(pid, 0)[1] == 0
        for fd in (told, tell, go_on, wait):
            os.close(fd)
