"""What sftp-server does, done through the kernel as the session's own uid, on a worker confined as in production."""

from __future__ import annotations

import ctypes
import errno
import os
import stat
import time

import pytest
from tests.mount.actor import LARGEST
from tests.mount.served import OWNER_GID, OWNER_UID, Served, get, put, refused, served

from hatchway.kernel.files import RENAME_EXCHANGE, RENAME_NOREPLACE, renameat2

AT_FDCWD = -100


def owners(volume: Served, name: str) -> tuple[int, int]:
    """Owner and group on disk."""
    st = os.lstat(volume.backing / name)
    return st.st_uid, st.st_gid


def test_put_and_get(volume: Served) -> None:
    data = os.urandom(3_000_001)

    def session() -> os.stat_result:
        put(b"file", data)
        assert get(b"file") == data
        return os.stat(b"file")

    st = volume.as_session(session)
    assert (st.st_uid, st.st_gid) == (volume.uid, volume.uid)
    assert stat.S_IMODE(st.st_mode) == 0o644
    assert (volume.backing / "file").read_bytes() == data
    assert owners(volume, "file") == (OWNER_UID, OWNER_GID)


@pytest.mark.parametrize("size", [1, 511, 4095, 4096, 4097, 32768, 261120, 1_048_575, 1_048_577])
def test_sizes_and_offsets(volume: Served, size: int) -> None:
    def session() -> None:
        fd = os.open(b"file", os.O_RDWR | os.O_CREAT, 0o600)
        data = os.urandom(size)
        assert os.pwrite(fd, data, 3) == size
        assert os.pread(fd, size + 10, 0) == b"\0\0\0" + data
        assert os.pread(fd, 10, size + 3) == b""
        assert os.pread(fd, 5, size) == data[-3:].rjust(min(3, size + 3), b"\0")[-3:]
        os.close(fd)

    volume.as_session(session)


def test_modes(volume: Served) -> None:
    def session() -> None:
        for mode in (0o644, 0o600, 0o400, 0o755, 0o000):
            fd = os.open(b"file", os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
            assert stat.S_IMODE(os.fstat(fd).st_mode) == mode & ~0o022
            os.write(fd, b"written whatever the mode says")
            os.fchmod(fd, 0o640)
            assert stat.S_IMODE(os.fstat(fd).st_mode) == 0o640
            os.chmod(b"file", 0o4751)
            assert stat.S_IMODE(os.stat(b"file").st_mode) == 0o751
            os.close(fd)
            os.unlink(b"file")

    volume.as_session(session)


def test_open_flags(volume: Served) -> None:
    def session() -> None:
        put(b"file", b"content")
        with refused(errno.EEXIST):
            os.open(b"file", os.O_WRONLY | os.O_CREAT | os.O_EXCL)
        with refused(errno.ENOENT):
            os.open(b"none", os.O_RDONLY)
        os.close(os.open(b"file", os.O_WRONLY | os.O_TRUNC))
        assert os.stat(b"file").st_size == 0
        for flags in (os.O_SYNC, os.O_DSYNC, os.O_DIRECT, os.O_NONBLOCK, os.O_NOFOLLOW, os.O_CLOEXEC):
            os.close(os.open(b"file", os.O_RDWR | flags))
        with refused(errno.ENOTDIR):
            os.open(b"file/x", os.O_RDONLY)
        with refused(errno.EISDIR):
            os.open(b".", os.O_WRONLY)

    volume.as_session(session)


def test_append(volume: Served) -> None:
    def session() -> None:
        put(b"file", b"one")
        fd = os.open(b"file", os.O_WRONLY | os.O_APPEND)
        os.write(fd, b"two")
        os.write(fd, b"three")
        os.close(fd)
        assert get(b"file") == b"onetwothree"

    volume.as_session(session)


def test_append_with_the_container_appending_too(volume: Served) -> None:
    volume.as_session(put, b"file", b"one")
    go_on, wait = os.pipe()

    def session() -> None:
        fd = os.open(b"file", os.O_WRONLY | os.O_APPEND)
        os.write(fd, b"two")
        os.read(go_on, 1)
        os.write(fd, b"four")
        os.close(fd)

    pid = os.fork()
    if pid == 0:
        deadline = time.monotonic() + 10
        while (volume.backing / "file").stat().st_size < 6 and time.monotonic() < deadline:
            time.sleep(0.005)
        with (volume.backing / "file").open("ab") as file:
            file.write(b"three")
        os.write(wait, b"x")
        os._exit(0)
    try:
        volume.as_session(session)
    finally:
        os.waitpid(pid, 0)
        os.close(go_on)
        os.close(wait)
    assert (volume.backing / "file").read_bytes() == b"onetwothreefour"


def test_truncate_by_path_and_by_handle(volume: Served) -> None:
    def session() -> None:
        put(b"file", b"0123456789")
        os.truncate(b"file", 4)
        assert get(b"file") == b"0123"
        fd = os.open(b"file", os.O_RDWR)
        os.ftruncate(fd, 8)
        assert os.pread(fd, 100, 0) == b"0123\0\0\0\0"
        os.ftruncate(fd, 0)
        assert os.fstat(fd).st_size == 0
        os.close(fd)
        with refused(errno.EISDIR):
            os.truncate(b".", 0)

    volume.as_session(session)


def test_sparse(volume: Served) -> None:
    def session() -> int:
        fd = os.open(b"sparse", os.O_RDWR | os.O_CREAT, 0o600)
        os.pwrite(fd, b"end", 5 * 2**30)
        assert os.pread(fd, 3, 5 * 2**30) == b"end"
        assert os.pread(fd, 4096, 2**30) == bytes(4096)
        os.close(fd)
        return os.stat(b"sparse").st_blocks

    assert volume.as_session(session) * 512 < 2**20
    assert (volume.backing / "sparse").stat().st_size == 5 * 2**30 + 3


@pytest.mark.parametrize("ns", [0, 1, -5_000_000_001, 1_700_000_000_123_456_789, 2**33 * 10**9 + 5])
def test_times_to_the_nanosecond(volume: Served, ns: int) -> None:
    def session() -> None:
        put(b"file", b"x")
        os.mkdir(b"dir")
        os.symlink(b"nowhere", b"link")
        for name in (b"file", b"dir", b"link"):
            os.utime(name, ns=(ns, ns + 1), follow_symlinks=False)
            st = os.lstat(name)
            assert (st.st_atime_ns, st.st_mtime_ns) == (ns, ns + 1)
        fd = os.open(b"file", os.O_WRONLY)
        os.utime(fd, ns=(ns + 2, ns + 3))
        assert os.fstat(fd).st_mtime_ns == ns + 3
        os.close(fd)

    volume.as_session(session)
    assert (volume.backing / "file").stat().st_mtime_ns == ns + 3
    assert (volume.backing / "link").lstat().st_mtime_ns == ns + 1


def test_times_now_and_omitted(volume: Served) -> None:
    def session() -> None:
        put(b"file", b"x")
        os.utime(b"file", ns=(5, 6))
        now, omit = (1 << 30) - 1, (1 << 30) - 2
        libc = ctypes.CDLL(None, use_errno=True)
        times = (ctypes.c_long * 4)(0, omit, 0, now)
        assert libc.utimensat(AT_FDCWD, b"file", times, 0) == 0
        st = os.stat(b"file")
        assert st.st_atime_ns == 5
        assert abs(st.st_mtime - time.time()) < 10
        os.utime(b"file")
        assert abs(os.stat(b"file").st_atime - time.time()) < 10

    volume.as_session(session)


def test_reading_moves_the_access_time_unless_told_not_to(volume: Served) -> None:
    """As backup programs read (open(2), O_NOATIME), so that the container still sees what it has used itself."""

    def session() -> None:
        put(b"file", b"x")
        os.utime(b"file", ns=(5, 6))
        fd = os.open(b"file", os.O_RDONLY | os.O_NOATIME)
        assert os.read(fd, 10) == b"x"
        os.close(fd)
        assert os.stat(b"file").st_atime_ns == 5
        assert get(b"file") == b"x"
        assert os.stat(b"file").st_atime_ns > 5

    volume.as_session(session)


def test_reading_nothing_is_no_access() -> None:
    """On tmpfs read(2) of no bytes is one: but the kernel asks nobody for no bytes."""
    with served(on="/dev/shm") as volume:

        def session() -> None:
            put(b"file", b"data")
            fd = os.open(b"file", os.O_RDWR)
            os.utime(fd, ns=(10**18, 2 * 10**18))
            assert os.read(fd, 0) == os.pread(fd, 0, 2) == b""
            assert os.fstat(fd).st_atime_ns == 10**18
            os.read(fd, 1)
            assert os.fstat(fd).st_atime_ns > 10**18
            os.close(fd)

        volume.as_session(session)


def test_times_of_a_file_without_a_name(volume: Served) -> None:
    """They are the file's, whichever descriptor sets them, also when the kernel's second is over (CACHE_S)."""

    def session() -> None:
        put(b"file", b"data")
        first, second = os.open(b"file", os.O_RDWR), os.open(b"file", os.O_RDONLY)
        put(b"other", b"")
        os.rename(b"other", b"file")
        for by, ns in ((first, (10**18 + 1, 10**18 + 2)), (second, (10**18 + 3, 10**18 + 4))):
            os.utime(by, ns=ns)
            for pause in (0, 1.05):
                time.sleep(pause)
                for fd in (first, second):
                    st = os.fstat(fd)
                    assert (st.st_nlink, st.st_atime_ns, st.st_mtime_ns) == (0, *ns)
        os.close(first)
        os.close(second)

    volume.as_session(session)


def test_writing_beyond_the_largest_file(volume: Served) -> None:
    """The first write is cut short by it, which is not as if there were no room; FUSE itself has no such limit."""
    with (volume.backing / "file").open("wb") as file:
        try:
            file.seek(LARGEST + 1)
        except OSError:
            pass
        else:
            pytest.skip("this file system has larger files than ext4")
        os.chown(file.fileno(), OWNER_UID, OWNER_GID)

    def session() -> None:
        fd = os.open(b"file", os.O_WRONLY)
        assert os.pwrite(fd, b"end", LARGEST - 1) == 1
        for offset in (LARGEST, LARGEST + 1, 1 << 62):
            with refused(errno.EFBIG):
                os.pwrite(fd, b"beyond", offset)
        assert os.pwrite(fd, b"within", LARGEST - 9) == 6
        os.close(fd)

    volume.as_session(session)


def test_directories(volume: Served) -> None:
    def session() -> None:
        os.mkdir(b"a", 0o777)
        assert stat.S_IMODE(os.stat(b"a").st_mode) == 0o755
        os.makedirs(b"a/b/c")
        put(b"a/b/c/file", b"x")
        with refused(errno.ENOTEMPTY):
            os.rmdir(b"a/b/c")
        with refused(errno.EEXIST):
            os.mkdir(b"a")
        os.unlink(b"a/b/c/file")
        os.removedirs(b"a/b/c")
        assert os.listdir() == []
        os.mkdir(b"sticky", 0o1777)
        os.chmod(b"sticky", 0o1770)
        assert stat.S_IMODE(os.stat(b"sticky").st_mode) == 0o1770

    volume.as_session(session)
    assert owners(volume, "sticky") == (OWNER_UID, OWNER_GID)


def test_rename(volume: Served) -> None:
    def session() -> None:
        put(b"a", b"A")
        put(b"b", b"B")
        fd = os.open(b"b", os.O_RDONLY)
        os.rename(b"a", b"b")
        assert get(b"b") == b"A"
        assert os.pread(fd, 10, 0) == b"B"
        assert os.fstat(fd).st_nlink == 0
        os.close(fd)
        os.makedirs(b"d/e")
        put(b"d/e/file", b"deep")
        inside = os.open(b"d/e", os.O_RDONLY)
        os.rename(b"d", b"z")
        assert get(b"z/e/file") == b"deep"
        assert os.listdir(inside) == ["file"]
        put(b"z/e/other", b"x")
        os.close(inside)
        with refused(errno.EINVAL):
            os.rename(b"z", b"z/e/inside")
        with refused(errno.ENOTEMPTY):
            os.mkdir(b"full")
            put(b"full/file", b"x")
            os.rename(b"z", b"full")
        os.mkdir(b"empty")
        os.rename(b"z", b"empty")
        assert get(b"empty/e/file") == b"deep"
        with refused(errno.EISDIR, errno.EEXIST):
            os.rename(b"b", b"empty")
        with refused(errno.ENOTDIR):
            os.rename(b"empty", b"b")

    volume.as_session(session)


def test_rename_as_sftp_server_does_it(volume: Served) -> None:
    """SSH2_FXP_RENAME of a file is link, then unlink (sftp-server.c, process_rename)."""

    def session() -> None:
        put(b"old", b"content")
        os.link(b"old", b"new")
        os.unlink(b"old")
        assert get(b"new") == b"content"
        assert os.stat(b"new").st_nlink == 1
        put(b"third", b"x")
        with refused(errno.EEXIST):
            os.link(b"new", b"third")

    volume.as_session(session)


def test_rename_flags(volume: Served) -> None:
    def session() -> None:
        put(b"a", b"A")
        put(b"b", b"B")
        with refused(errno.EEXIST):
            renameat2(AT_FDCWD, b"a", AT_FDCWD, b"b", RENAME_NOREPLACE)
        renameat2(AT_FDCWD, b"a", AT_FDCWD, b"b", RENAME_EXCHANGE)
        assert (get(b"a"), get(b"b")) == (b"B", b"A")
        renameat2(AT_FDCWD, b"a", AT_FDCWD, b"c", RENAME_NOREPLACE)
        assert get(b"c") == b"B"
        with refused(errno.EINVAL):
            renameat2(AT_FDCWD, b"c", AT_FDCWD, b"d", 4)
        os.chmod(b"c", 0o600)

    volume.as_session(session)


def test_hard_links(volume: Served) -> None:
    def session() -> None:
        put(b"a", b"content")
        os.mkdir(b"d")
        os.link(b"a", b"d/b")
        assert os.stat(b"a").st_nlink == 2
        assert os.stat(b"a").st_ino == os.stat(b"d/b").st_ino
        os.unlink(b"a")
        os.chmod(b"d/b", 0o600)
        assert get(b"d/b") == b"content"
        with refused(errno.EPERM):
            os.link(b"d", b"e")
        os.symlink(b"nowhere", b"s")
        os.link(b"s", b"s2", follow_symlinks=False)
        assert os.readlink(b"s2") == b"nowhere"

    volume.as_session(session)


def test_symlinks_are_text(volume: Served) -> None:
    """The kernel resolves them in the session's own root; the worker only says what they contain."""

    def session() -> None:
        os.symlink(b"/etc/shadow", b"shadow")
        os.symlink(b"../../../../../../etc/hostname", b"up")
        os.symlink(b"file", b"inside")
        put(b"file", b"content")
        assert os.readlink(b"shadow") == b"/etc/shadow"
        assert get(b"inside") == b"content"
        for name in (b"a" * 4095, b"\xff\xfe"):
            os.symlink(name, b"strange")
            assert os.readlink(b"strange") == name
            os.unlink(b"strange")
        os.symlink(b"loop", b"loop")
        with refused(errno.ELOOP):
            os.stat(b"loop")
        assert stat.S_ISLNK(os.lstat(b"loop").st_mode)
        os.unlink(b"shadow")

    volume.as_session(session)
    assert owners(volume, "up") == (OWNER_UID, OWNER_GID)


def test_open_unlinked(volume: Served) -> None:
    def session() -> None:
        fd = os.open(b"file", os.O_RDWR | os.O_CREAT, 0o644)
        os.unlink(b"file")
        os.write(fd, b"still here")
        assert os.pread(fd, 100, 0) == b"still here"
        assert os.fstat(fd).st_nlink == 0
        os.ftruncate(fd, 5)
        assert os.fstat(fd).st_size == 5
        os.fchmod(fd, 0o600)
        os.utime(fd, ns=(7, 8))
        assert os.fstat(fd).st_mtime_ns == 8
        os.fsync(fd)
        os.close(fd)
        put(b"file", b"a new one")
        assert get(b"file") == b"a new one"

    volume.as_session(session)
    assert volume.tell("s")["handles"] == 0


def test_open_unlinked_underneath(volume: Served) -> None:
    volume.as_session(put, b"file", b"0123456789")

    def session() -> None:
        fd = os.open(b"file", os.O_RDWR)
        os.close(os.open("ready", os.O_CREAT | os.O_WRONLY, 0o600))
        deadline = time.monotonic() + 10
        while os.path.exists("ready") and time.monotonic() < deadline:
            time.sleep(0.01)
        time.sleep(1.1)
        assert os.fstat(fd).st_nlink == 0
        assert os.pread(fd, 3, 0) == b"012"
        os.ftruncate(fd, 2)
        assert os.fstat(fd).st_size == 2
        os.close(fd)

    pid = os.fork()
    if pid == 0:
        deadline = time.monotonic() + 10
        while not (volume.backing / "ready").exists() and time.monotonic() < deadline:
            time.sleep(0.005)
        (volume.backing / "file").unlink()
        (volume.backing / "ready").unlink()
        os._exit(0)
    try:
        volume.as_session(session)
    finally:
        os.waitpid(pid, 0)


@pytest.mark.parametrize(
    "name", [b"n" * 255, b"\xff\xfe\xfd", "grüße".encode(), b" ", b"a\nb", b"-rf", b"...", b"\x7f"]
)
def test_names(volume: Served, name: bytes) -> None:
    def session() -> None:
        put(name, b"x")
        assert get(name) == b"x"
        assert os.listdir(b".") == [name]
        os.rename(name, b"other")
        os.mkdir(name)
        put(name + b"/" + name, b"y")
        assert os.listdir(name) == [name]
        os.unlink(name + b"/" + name)
        os.rmdir(name)

    volume.as_session(session)
    assert os.listdir(volume.backing) == ["other"]


def test_names_that_are_too_long(volume: Served) -> None:
    def session() -> None:
        with refused(errno.ENAMETOOLONG):
            put(b"n" * 256, b"x")
        with refused(errno.ENAMETOOLONG):
            os.stat(b"n" * 256)

    volume.as_session(session)


def test_a_large_directory(volume: Served) -> None:
    names = [f"{number:05}-{'x' * 30}" for number in range(5000)]
    for name in names:
        (volume.backing / name).touch()

    def session() -> None:
        assert sorted(os.listdir()) == names
        with os.scandir() as entries:
            assert all(entry.stat(follow_symlinks=False).st_uid == volume.uid for entry in entries)
        for name in names[::97]:
            assert os.stat(name).st_size == 0
        for name in names[::2]:
            os.unlink(name)
        assert sorted(os.listdir()) == names[1::2]

    volume.as_session(session)
    # Every entry became a node; none is a descriptor.
    state = volume.tell("s")
    assert state["nodes"] > 2000
    assert state["descriptors"] < 40


def test_listing_while_names_come_and_go(volume: Served) -> None:
    stays = [f"stays-{number:04}" for number in range(2000)]
    for name in stays:
        (volume.backing / name).touch()

    def session() -> None:
        for turn in range(5):
            seen = []
            with os.scandir() as entries:
                for count, entry in enumerate(entries):
                    seen.append(entry.name)
                    if count % 50 == 0:
                        os.close(os.open(f"comes-{turn}-{count}", os.O_CREAT | os.O_WRONLY, 0o600))
                        if count:
                            os.unlink(f"comes-{turn}-{count - 50}")
            kept = [name for name in seen if name.startswith("stays")]
            assert len(kept) == len(set(kept))
            assert sorted(kept) == stays

    volume.as_session(session)


def test_space(volume: Served) -> None:
    space = volume.as_session(os.statvfs, b".")
    real = os.statvfs(volume.backing)
    assert (space.f_blocks, space.f_frsize) == (real.f_blocks, real.f_frsize)
    assert abs(space.f_bfree - real.f_bfree) < 100_000
    assert abs(space.f_bavail - real.f_bavail) < 100_000
    assert space.f_namemax == 255


def test_two_writers_at_once(volume: Served) -> None:
    """Each has its half of the file; nothing of either is lost."""
    block, count = 8192, 300

    def writer(first: int) -> None:
        fd = os.open(b"file", os.O_WRONLY | os.O_CREAT, 0o644)
        for number in range(first, 2 * count, 2):
            assert os.pwrite(fd, number.to_bytes(4, "big") * (block // 4), number * block) == block
        os.close(fd)

    pid = os.fork()
    if pid == 0:
        try:
            volume.as_session(writer, 0)
            os._exit(0)
        finally:
            os._exit(1)
    volume.as_session(writer, 1)
    assert os.waitpid(pid, 0)[1] == 0
    data = (volume.backing / "file").read_bytes()
    assert data == b"".join(number.to_bytes(4, "big") * (block // 4) for number in range(2 * count))


def test_two_appenders_at_once(volume: Served) -> None:
    def appender(letter: bytes) -> None:
        fd = os.open(b"log", os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
        for _ in range(300):
            os.write(fd, letter * 99 + b"\n")
        os.close(fd)

    pid = os.fork()
    if pid == 0:
        try:
            volume.as_session(appender, b"a")
            os._exit(0)
        finally:
            os._exit(1)
    volume.as_session(appender, b"b")
    assert os.waitpid(pid, 0)[1] == 0
    lines = (volume.backing / "log").read_bytes().splitlines()
    assert sorted(lines) == [b"a" * 99] * 300 + [b"b" * 99] * 300


def test_synchronising(volume: Served) -> None:
    def session() -> None:
        fd = os.open(b"file", os.O_WRONLY | os.O_CREAT, 0o644)
        os.write(fd, b"x")
        os.fsync(fd)
        os.fdatasync(fd)
        os.close(fd)
        fd = os.open(b".", os.O_RDONLY)
        os.fsync(fd)
        os.close(fd)

    volume.as_session(session)


def test_deep_paths(volume: Served) -> None:
    """Deeper in all than PATH_MAX, step by step."""

    def session() -> None:
        fd = os.open(b".", os.O_RDONLY)
        for _ in range(60):
            os.mkdir(b"d" * 100, dir_fd=fd)
            below = os.open(b"d" * 100, os.O_RDONLY, dir_fd=fd)
            os.close(fd)
            fd = below
        out = os.open(b"bottom", os.O_WRONLY | os.O_CREAT, 0o644, dir_fd=fd)
        os.write(out, b"deep")
        os.close(out)
        assert os.stat(b"bottom", dir_fd=fd).st_size == 4
        os.close(fd)

    volume.as_session(session)


def test_no_extended_attributes(volume: Served) -> None:
    def session() -> None:
        put(b"file", b"x")
        with refused(errno.EOPNOTSUPP):
            os.setxattr(b"file", b"user.x", b"y")
        with refused(errno.EOPNOTSUPP):
            os.getxattr(b"file", b"user.x")
        with refused(errno.EOPNOTSUPP):
            os.listxattr(b"file")

    volume.as_session(session)
