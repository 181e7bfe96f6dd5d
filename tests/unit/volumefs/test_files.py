"""The raw calls: constraints hold, errno arrives, times and owners reach symlinks, directories can be resumed."""

from __future__ import annotations

import ctypes
import errno
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests import leftovers
from tests.unit.volumefs.harness import refused

from hatchway.kernel import files

BENEATH = files.RESOLVE_BENEATH | files.RESOLVE_NO_SYMLINKS | files.RESOLVE_NO_MAGICLINKS


@pytest.fixture
def dirfd(tmp_path: Path) -> int:
    """Descriptor of `tmp_path`, as hostd and workers hold one."""
    return os.open(tmp_path, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)


@pytest.fixture(autouse=True)
def _close_what_was_opened() -> Iterator[None]:
    before = leftovers.descriptors()
    yield
    for fd in set(leftovers.descriptors()) - set(before):
        os.close(fd)


def test_openat2_stays_beneath_and_follows_no_symlink(tmp_path: Path, dirfd: int) -> None:
    (tmp_path / "a" / "b").mkdir(parents=True)
    (tmp_path / "a" / "link").symlink_to("b")
    (tmp_path / "a" / "out").symlink_to("/")
    fd = files.openat2(dirfd, b"a/b", os.O_PATH | os.O_CLOEXEC, 0, BENEATH)
    assert os.fstat(fd).st_ino == (tmp_path / "a" / "b").stat().st_ino
    assert not os.get_inheritable(fd)
    with refused(errno.ELOOP):
        files.openat2(dirfd, b"a/link", os.O_PATH, 0, BENEATH)
    with refused(errno.ELOOP):
        files.openat2(dirfd, b"a/out/etc", os.O_PATH, 0, BENEATH)
    with refused(errno.EXDEV):
        files.openat2(dirfd, b"a/../..", os.O_PATH, 0, BENEATH)
    with refused(errno.EXDEV):
        files.openat2(dirfd, b"/etc", os.O_PATH, 0, BENEATH)
    with refused(errno.ENOENT):
        files.openat2(dirfd, b"a/none", os.O_PATH, 0, BENEATH)


def test_openat2_creates_with_the_mode(tmp_path: Path, dirfd: int) -> None:
    files.openat2(dirfd, b"new", os.O_CREAT | os.O_WRONLY | os.O_EXCL | os.O_CLOEXEC, 0o600, BENEATH)
    assert (tmp_path / "new").stat().st_mode & 0o777 == 0o600


def test_renameat2_flags(tmp_path: Path, dirfd: int) -> None:
    (tmp_path / "a").write_bytes(b"a")
    (tmp_path / "b").write_bytes(b"b")
    with refused(errno.EEXIST):
        files.renameat2(dirfd, b"a", dirfd, b"b", files.RENAME_NOREPLACE)
    files.renameat2(dirfd, b"a", dirfd, b"b", files.RENAME_EXCHANGE)
    assert (tmp_path / "a").read_bytes() == b"b"
    with refused(errno.EINVAL):
        files.renameat2(dirfd, b"a", dirfd, b"b", 0x80)


@pytest.mark.parametrize("ns", [0, 1, -1, -5_000_000_001, 999_999_999, 2**33 * 10**9 + 7, 1_700_000_000_123_456_789])
def test_times_reach_a_file_and_a_symlink(tmp_path: Path, dirfd: int, ns: int) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "link").symlink_to("file")
    before = (tmp_path / "file").stat()
    fd = os.open(b"link", os.O_PATH | os.O_NOFOLLOW, dir_fd=dirfd)
    files.set_times(fd, ns, None)
    files.set_times(fd, None, ns + 1)
    st = (tmp_path / "link").lstat()
    assert (st.st_atime_ns, st.st_mtime_ns) == (ns, ns + 1)
    assert (tmp_path / "file").stat().st_mtime_ns == before.st_mtime_ns
    # A descriptor that is more than O_PATH works the same way.
    files.set_times(os.open(tmp_path / "file", os.O_RDONLY), ns, ns)
    assert (tmp_path / "file").stat().st_mtime_ns == ns


def test_chown_of_a_symlink_leaves_its_target(tmp_path: Path, dirfd: int) -> None:
    if os.geteuid() != 0:
        pytest.skip("giving files away needs root")
    (tmp_path / "file").touch()
    (tmp_path / "link").symlink_to("file")
    files.chown(os.open(b"link", os.O_PATH | os.O_NOFOLLOW, dir_fd=dirfd), 1234, 5678)
    st = (tmp_path / "link").lstat()
    assert (st.st_uid, st.st_gid) == (1234, 5678)
    assert (tmp_path / "file").stat().st_uid == 0


def test_by_magic_link(tmp_path: Path, dirfd: int) -> None:
    (tmp_path / "file").write_bytes(b"content")
    (tmp_path / "link").symlink_to("nowhere")
    proc = os.open("/proc/self/fd", os.O_PATH | os.O_DIRECTORY)
    path = os.open(b"file", os.O_PATH | os.O_NOFOLLOW, dir_fd=dirfd)
    (tmp_path / "file").rename(tmp_path / "moved")
    (tmp_path / "file").write_bytes(b"another")
    assert os.read(files.reopen(proc, path, os.O_RDONLY | os.O_CLOEXEC), 100) == b"content"
    files.chmod(proc, path, 0o604)
    assert (tmp_path / "moved").stat().st_mode & 0o777 == 0o604
    files.link(proc, path, dirfd, b"second")
    assert (tmp_path / "second").read_bytes() == b"content"
    with refused(errno.EEXIST):
        files.link(proc, path, dirfd, b"moved")
    files.link(proc, os.open(b"link", os.O_PATH | os.O_NOFOLLOW, dir_fd=dirfd), dirfd, b"link2")
    assert os.readlink(tmp_path / "link2") == "nowhere"


def test_a_call_is_made_again_after_a_signal() -> None:
    answers = [errno.EINTR, errno.EINTR, 0]

    def call() -> int:
        number = answers.pop(0)
        ctypes.set_errno(number)
        return -1 if number else 42

    assert files._call(call) == 42
    with refused(errno.EIO):
        files._call(lambda: ctypes.set_errno(errno.EIO) or -1)


def test_which_file_systems_report_at_close(tmp_path: Path) -> None:
    assert not files.reports_errors_at_close(os.open(tmp_path, os.O_PATH))
    assert files.reports_errors_at_close(os.open("/proc", os.O_PATH))


def _all(reader: files.DirectoryReader) -> list[files.DirectoryEntry]:
    found = []
    while (entry := reader.read()) is not None:
        found.append(entry)
    return found


@pytest.mark.parametrize("count", [0, 1, 3000])
def test_a_directory_is_read_whole(tmp_path: Path, count: int) -> None:
    names = {b"%d-" % number + b"x" * (number % 200) for number in range(count)} | ({b"\xff\xfe"} if count else set())
    for name in names:
        os.close(os.open(os.path.join(os.fsencode(tmp_path), name), os.O_CREAT | os.O_WRONLY, 0o600))
    reader = files.DirectoryReader(os.open(tmp_path, os.O_RDONLY | os.O_DIRECTORY))
    entries = _all(reader)
    assert {entry.name for entry in entries} == names
    assert len(entries) == len(names)
    assert reader.read() is None
    if count:
        assert all(entry.kind == 8 for entry in entries)
        inode = os.stat(os.path.join(os.fsencode(tmp_path), entries[0].name)).st_ino
        assert entries[0].inode == inode


def test_a_directory_can_be_resumed_at_every_entry(tmp_path: Path) -> None:
    for number in range(1500):
        (tmp_path / f"{number:04}-{'y' * 40}").touch()
    reader = files.DirectoryReader(os.open(tmp_path, os.O_RDONLY | os.O_DIRECTORY))
    entries = _all(reader)
    names = [entry.name for entry in entries]
    for index in range(0, len(entries), 97):
        reader.seek(entries[index].offset)
        assert [entry.name for entry in _all(reader)] == names[index + 1 :]
    reader.seek(0)
    assert [entry.name for entry in _all(reader)] == names


@pytest.mark.parametrize("count", [0, 1, 300, 3000])
def test_a_directory_that_was_checked_is_read_whole_and_from_any_place(tmp_path: Path, count: int) -> None:
    for number in range(count):
        (tmp_path / f"{number:04}-{'y' * 40}").touch()
    plain = files.DirectoryReader(os.open(tmp_path, os.O_RDONLY | os.O_DIRECTORY))
    expected = _all(plain)
    assert len(expected) == count
    reader = files.DirectoryReader(os.open(tmp_path, os.O_RDONLY | os.O_DIRECTORY))
    reader.check()
    for _ in range(2):
        reader.seek(0)
        assert _all(reader) == expected
    for index in range(0, count, 97):
        again = files.DirectoryReader(os.open(tmp_path, os.O_RDONLY | os.O_DIRECTORY))
        again.check()
        again.seek(expected[index].offset)
        assert _all(again) == expected[index + 1 :]


def test_a_checked_directory_read_from_the_beginning_again_sees_what_is_new(tmp_path: Path) -> None:
    (tmp_path / "a").touch()
    reader = files.DirectoryReader(os.open(tmp_path, os.O_RDONLY | os.O_DIRECTORY))
    reader.check()
    reader.seek(0)
    assert len(_all(reader)) == 1
    (tmp_path / "b").touch()
    reader.seek(0)
    assert {entry.name for entry in _all(reader)} == {b"a", b"b"}


@pytest.mark.parametrize("fails_at", [1, 2, 4])
def test_what_cannot_be_read_is_known_before_anything_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fails_at: int
) -> None:
    for number in range(3000):
        (tmp_path / f"{number:04}-{'y' * 40}").touch()
    real, calls = files._getdents64, []

    def getdents(*args: object) -> int:
        calls.append(args)
        if len(calls) == fails_at:
            ctypes.set_errno(errno.EIO)
            return -1
        return int(real(*args))

    reader = files.DirectoryReader(os.open(tmp_path, os.O_RDONLY | os.O_DIRECTORY))
    monkeypatch.setattr(files, "_getdents64", getdents)
    with pytest.raises(OSError) as caught:
        reader.check()
    assert caught.value.errno == errno.EIO


def test_a_directory_that_takes_too_long_is_not_checked_to_its_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(3000):
        (tmp_path / f"{number:04}-{'y' * 40}").touch()
    monkeypatch.setattr(files, "CHECK_S", 0)
    reader = files.DirectoryReader(os.open(tmp_path, os.O_RDONLY | os.O_DIRECTORY))
    reader.check()
    reader.seek(0)
    assert len(_all(reader)) == 3000


def test_an_entry_can_be_given_back(tmp_path: Path) -> None:
    for number in range(1200):
        (tmp_path / f"{number:04}-{'z' * 60}").touch()
    reader = files.DirectoryReader(os.open(tmp_path, os.O_RDONLY | os.O_DIRECTORY))
    expected = [entry.name for entry in _all(reader)]
    reader.seek(0)
    got = []
    offset = 0
    while (entry := reader.read()) is not None:
        reader.unread()
        # As FUSE does: the next call names the last offset it was given.
        reader.seek(offset)
        again = reader.read()
        assert again == entry
        got.append(entry.name)
        offset = entry.offset
    assert got == expected


def test_reading_from_the_beginning_sees_what_is_new(tmp_path: Path) -> None:
    (tmp_path / "a").touch()
    reader = files.DirectoryReader(os.open(tmp_path, os.O_RDONLY | os.O_DIRECTORY))
    assert len(_all(reader)) == 1
    (tmp_path / "b").touch()
    reader.seek(0)
    assert {entry.name for entry in _all(reader)} == {b"a", b"b"}
