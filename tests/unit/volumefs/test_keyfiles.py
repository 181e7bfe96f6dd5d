"""Public keys from a directory the container makes what it likes of."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from hatchway.volumefs import keyfiles
from hatchway.volumefs.keyfiles import FILE_MAX, PUB_MAX, SKIPPED_MAX, TOTAL_MAX
from hatchway.wire.host import KeyFile, KeyFiles, Skip, Skipped
from hatchway.wire.task import ANSWER_MAX
from hatchway.wire.worker import pack


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    made = tmp_path / "ssh"
    made.mkdir(mode=0o700)
    return made


@pytest.fixture
def read(directory: Path) -> Iterator[Callable[..., KeyFiles]]:
    root = os.open(directory, os.O_PATH | os.O_DIRECTORY)
    proc = os.open("/proc/self/fd", os.O_PATH | os.O_DIRECTORY)

    def call(token: bytes = b"") -> KeyFiles:
        return keyfiles.read_keys(root, proc, token)

    yield call
    os.close(root)
    os.close(proc)


def put(path: Path, data: bytes = b"key\n", mode: int = 0o600) -> Path:
    path.write_bytes(data)
    path.chmod(mode)
    return path


def names(found: KeyFiles) -> list[bytes]:
    return [file.name for file in found.files]


def test_what_counts_and_in_which_order(directory: Path, read: Callable[..., KeyFiles]) -> None:
    for name in (
        "z.pub",
        "authorized_keys",
        "a.pub",
        "id_rsa",
        "known_hosts",
        ".hidden.pub",
        "pub",
        "B.pub",
        "x.pub.bak",
    ):
        put(directory / name, name.encode())
    found = read()
    assert found.files == tuple(KeyFile(name, name) for name in (b"authorized_keys", b"B.pub", b"a.pub", b"z.pub"))
    assert (found.skipped, found.more, found.unchanged) == ((), 0, False)


def test_an_empty_directory(read: Callable[..., KeyFiles]) -> None:
    found = read()
    assert (found.files, found.skipped) == ((), ())
    assert len(found.token) == 32
    assert read(found.token).unchanged


def test_names_are_bytes(directory: Path, read: Callable[..., KeyFiles]) -> None:
    odd = b"a\n\xff\x1b[2J.pub"
    fd = os.open(os.fsencode(directory) + b"/" + odd, os.O_CREAT | os.O_WRONLY, 0o600)
    os.close(fd)
    found = read()
    assert found.files == (KeyFile(odd, b""),)
    pack(found)


@pytest.mark.parametrize("name", ["authorized_keys", "a.pub"])
def test_what_is_no_regular_file_is_not_opened(directory: Path, read: Callable[..., KeyFiles], name: str) -> None:
    place = directory / name
    (directory / "real").write_text("secret")
    outside = directory.parent / "outside"
    outside.write_text("secret")
    for target in ("real", str(outside), "/etc/shadow", "missing", name):
        place.symlink_to(target)
        assert read().skipped == (Skipped(name.encode(), Skip.SYMLINK),)
        place.unlink()
    os.mkfifo(place, 0o600)
    began = time.monotonic()
    assert read().skipped == (Skipped(name.encode(), Skip.KIND),)
    assert time.monotonic() - began < 1
    # Whoever waits for a reader goes on waiting.
    with pytest.raises(OSError, match="No such device"):
        os.open(place, os.O_WRONLY | os.O_NONBLOCK)
    place.unlink()
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(place))
        place.chmod(0o600)
        assert read().skipped == (Skipped(name.encode(), Skip.KIND),)
    place.unlink()
    place.mkdir()
    assert read().skipped == (Skipped(name.encode(), Skip.KIND),)
    assert read().files == ()


@pytest.mark.parametrize("mode", [0o620, 0o602, 0o666])
def test_a_file_that_others_may_write_says_nothing(directory: Path, read: Callable[..., KeyFiles], mode: int) -> None:
    put(directory / "authorized_keys", mode=mode)
    put(directory / "a.pub", mode=0o644)
    found = read()
    assert names(found) == [b"a.pub"]
    assert found.skipped == (Skipped(b"authorized_keys", Skip.WRITABLE),)


@pytest.mark.parametrize("mode", [0o770, 0o707, 0o1777])
def test_nor_a_directory(directory: Path, read: Callable[..., KeyFiles], mode: int) -> None:
    put(directory / "authorized_keys")
    token = read().token
    directory.chmod(mode)
    found = read(token)
    assert (found.files, found.skipped, found.unchanged) == ((), (Skipped(b"", Skip.WRITABLE),), False)


def test_sizes(directory: Path, read: Callable[..., KeyFiles]) -> None:
    put(directory / "authorized_keys", b"x" * FILE_MAX)
    put(directory / "a.pub", b"x" * (FILE_MAX + 1))
    for name in "bcd":
        put(directory / f"{name}.pub", b"x" * FILE_MAX)
    put(directory / "e.pub", b"x")
    found = read()
    assert names(found) == [b"authorized_keys", b"b.pub", b"c.pub", b"d.pub"]
    assert found.skipped == (Skipped(b"a.pub", Skip.SIZE), Skipped(b"e.pub", Skip.TOGETHER))
    assert sum(len(file.data) for file in found.files) == TOTAL_MAX


def test_many_files_and_the_longest_answer(directory: Path, read: Callable[..., KeyFiles]) -> None:
    total = PUB_MAX + 1000
    for number in range(total):
        put(directory / (f"{number:04}".ljust(251, "n") + ".pub"), b"x" * (TOTAL_MAX // (PUB_MAX + 1)))
    put(directory / "authorized_keys", b"x" * (TOTAL_MAX // (PUB_MAX + 1)))
    found = read()
    assert len(found.files) == PUB_MAX + 1
    assert names(found)[1:] == sorted(names(found)[1:])
    assert names(found)[-1].startswith(b"0049")
    assert {skipped.reason for skipped in found.skipped} == {Skip.MANY}
    assert (len(found.skipped), found.more) == (SKIPPED_MAX, total - PUB_MAX - SKIPPED_MAX)
    assert len(pack(found)) < ANSWER_MAX


def test_a_crowded_directory(directory: Path, read: Callable[..., KeyFiles], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keyfiles, "ENTRIES_MAX", 10)
    put(directory / "authorized_keys")
    for number in range(9):
        put(directory / f"{number}.pub")
    assert len(read().files) == 10
    token = read().token
    put(directory / "one-more")
    found = read(token)
    assert names(found) == [b"authorized_keys"]
    assert found.skipped == (Skipped(b"", Skip.CROWDED),)


def settled(monkeypatch: pytest.MonkeyPatch) -> None:
    """From here on, what was made before has been so for long."""
    monkeypatch.setattr(keyfiles, "SETTLED_S", 0.0)
    time.sleep(0.02)  # more than the kernel's clock for files takes for a step


def test_nothing_is_read_when_nothing_changed(
    directory: Path, read: Callable[..., KeyFiles], monkeypatch: pytest.MonkeyPatch
) -> None:
    put(directory / "authorized_keys", b"one")
    put(directory / "a.pub")
    (directory / "b.pub").symlink_to("a.pub")
    settled(monkeypatch)
    token = read().token
    assert len(token) == 32
    assert read(b"x" * 32).files, "another token"
    # Not even opened.
    monkeypatch.setattr(keyfiles, "_Reading", None)
    assert read(token) == KeyFiles(token=token, unchanged=True)


@pytest.mark.parametrize(
    "change",
    [
        lambda at: put(at / "authorized_keys", b"two"),
        lambda at: put(at / "authorized_keys", b"one", mode=0o400),
        lambda at: (at / "authorized_keys").unlink(),
        lambda at: put(at / "b.pub"),
        lambda at: (at / "a.pub").rename(at / "c.pub"),
        lambda at: put(at / "new").rename(at / "authorized_keys"),
        lambda at: os.utime(at / "a.pub", ns=(1, 1)),
    ],
)
def test_each_change_shows(
    directory: Path, read: Callable[..., KeyFiles], monkeypatch: pytest.MonkeyPatch, change: Callable[[Path], object]
) -> None:
    put(directory / "authorized_keys", b"one")
    put(directory / "a.pub")
    settled(monkeypatch)
    token = read().token
    assert read(token).unchanged
    time.sleep(0.02)
    change(directory)
    assert not read(token).unchanged


def test_what_has_just_changed_may_change_unseen(directory: Path, read: Callable[..., KeyFiles]) -> None:
    """A second change within the same tick of the file system's clock, to as many bytes, leaves all times the same."""
    put(directory / "authorized_keys", b"one")
    found = read()
    assert names(found) == [b"authorized_keys"]
    assert found.token == b""


def test_a_file_that_grows_while_it_is_read(
    directory: Path, read: Callable[..., KeyFiles], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = put(directory / "authorized_keys", b"one")
    real, grows = keyfiles.read_all, [b"two", b"three"]

    def growing(fd: int, most: int) -> bytes:
        data = real(fd, most)
        if grows:
            time.sleep(0.02)
            with path.open("ab") as file:
                file.write(grows.pop())
        return data

    monkeypatch.setattr(keyfiles, "read_all", growing)
    found = read()
    assert found.files == (KeyFile(b"authorized_keys", b"onethreetwo"),), "it was read again"
    grows += [b"x"] * 10
    found = read()
    assert (found.files, found.token) == ((), b"")
    assert found.skipped == (Skipped(b"authorized_keys", Skip.CHANGING),)


def test_a_file_swapped_for_another_after_it_was_looked_at(
    directory: Path, read: Callable[..., KeyFiles], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither a FIFO, which could be waited for, nor a file that others may write, nor a symlink to one."""
    path = put(directory / "authorized_keys", b"good")
    writable = put(directory / "writable", b"evil", mode=0o666)
    real = keyfiles._look_at
    for swap in (
        lambda: os.mkfifo(path),
        lambda: os.link(writable, path),
        lambda: path.symlink_to("writable"),
        lambda: None,
    ):

        def looked(fd: int, swap: Callable[[], None] = swap) -> keyfiles._State:
            if path.exists():
                path.unlink()
            put(path, b"good")
            state = real(fd)
            path.unlink()
            swap()
            return state

        monkeypatch.setattr(keyfiles, "_look_at", looked)
        found = read()
        assert (found.files, found.token) == ((), b"")
        assert found.skipped == (Skipped(b"authorized_keys", Skip.CHANGING),)


def test_a_hard_link_is_a_file(directory: Path, read: Callable[..., KeyFiles]) -> None:
    os.link(put(directory / "other", b"mine"), directory / "authorized_keys")
    assert read().files == (KeyFile(b"authorized_keys", b"mine"),)
