"""Sealed values open only here, only for what they were sealed for; the key file is ours alone and made once."""

from __future__ import annotations

import contextlib
import copy
import os
import pickle
import socket
import stat
import subprocess
import sys
import traceback
from pathlib import Path
from typing import Any

import pytest

from hatchway.credentials import sealing
from hatchway.credentials.sealing import SealingKey
from hatchway.credentials.secret import DamagedSecretError, Secret
from hatchway.errors import ConfigError, HatchwayError

SECRET = Secret("correct horse battery staple")
CONTEXT = "password:shop-web-1"


@pytest.fixture
def key() -> SealingKey:
    return SealingKey(bytes(range(32)))


@pytest.mark.parametrize("text", ["", "x", "correct horse", "Grüße\0\n", "k" * 5000])
def test_what_was_sealed_comes_back(key: SealingKey, text: str) -> None:
    assert key.unseal(key.seal(Secret(text), CONTEXT), CONTEXT).reveal() == text


def test_a_sealed_value_shows_nothing(key: SealingKey) -> None:
    first, second = key.seal(SECRET, CONTEXT), key.seal(SECRET, CONTEXT)
    assert first != second
    assert b"horse" not in first
    assert b"shop-web-1" not in first


def _complete(error: BaseException) -> str:
    return "".join(traceback.format_exception(error)) + repr(error)


@pytest.mark.parametrize("context", ["password:shop-web-2", "key:shop-web-1", "", CONTEXT + "\0", CONTEXT.upper()])
def test_another_context_does_not_open_it(key: SealingKey, context: str) -> None:
    sealed = key.seal(SECRET, CONTEXT)
    with pytest.raises(DamagedSecretError) as caught:
        key.unseal(sealed, context)
    assert "horse" not in _complete(caught.value)


def test_another_key_does_not_open_it(key: SealingKey) -> None:
    sealed = key.seal(SECRET, CONTEXT)
    with pytest.raises(DamagedSecretError, match=r"password:shop-web-1: .*another key") as caught:
        SealingKey(bytes(32)).unseal(sealed, CONTEXT)
    assert isinstance(caught.value, HatchwayError)
    assert "horse" not in _complete(caught.value)


def test_no_changed_byte_opens(key: SealingKey) -> None:
    sealed = key.seal(Secret("short"), CONTEXT)
    for position in range(len(sealed)):
        changed = bytearray(sealed)
        changed[position] ^= 1
        with pytest.raises(DamagedSecretError):
            key.unseal(bytes(changed), CONTEXT)


def test_no_shortened_value_opens(key: SealingKey) -> None:
    sealed = key.seal(Secret("short"), CONTEXT)
    for length in range(len(sealed)):
        with pytest.raises(DamagedSecretError):
            key.unseal(sealed[:length], CONTEXT)
    with pytest.raises(DamagedSecretError):
        key.unseal(sealed + b"\0", CONTEXT)


def test_the_key_is_not_shown_pickled_or_copied(key: SealingKey) -> None:
    assert bytes(range(32)).hex() not in repr(key) + str(key)
    for encode in (pickle.dumps, copy.copy, copy.deepcopy):
        taker: Any = encode
        with pytest.raises(TypeError):
            taker(key)


def test_a_key_of_another_size_is_refused() -> None:
    with pytest.raises(ValueError, match="32"):
        SealingKey(b"short")


def test_the_file_is_made_private_whatever_the_umask(tmp_path: Path) -> None:
    for mask in (0o000, 0o777):
        path = tmp_path / f"key-{mask:o}"
        before = os.umask(mask)
        try:
            SealingKey.load_or_create(str(path))
        finally:
            os.umask(before)
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        assert path.stat().st_size == 32
        assert path.stat().st_nlink == 1
    assert len(list(tmp_path.iterdir())) == 2


def test_the_same_file_gives_the_same_key_and_another_file_another(tmp_path: Path) -> None:
    path = str(tmp_path / "sealing.key")
    sealed = SealingKey.load_or_create(path).seal(SECRET, CONTEXT)
    assert SealingKey.load_or_create(path).unseal(sealed, CONTEXT) == SECRET
    with pytest.raises(DamagedSecretError):
        SealingKey.load_or_create(str(tmp_path / "other.key")).unseal(sealed, CONTEXT)


_STARTER = """
import sys
from hatchway.credentials.sealing import SealingKey
from hatchway.credentials.secret import Secret
print("ready", flush=True)
for line in sys.stdin:
    print(SealingKey.load_or_create(line.strip()).seal(Secret("shared"), "race").hex(), flush=True)
"""


def test_processes_that_start_at_once_get_the_same_key(tmp_path: Path) -> None:
    rounds = 100
    with contextlib.ExitStack() as stack:
        starters = [
            stack.enter_context(
                subprocess.Popen(
                    [sys.executable, "-c", _STARTER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
                )
            )
            for _ in range(2)
        ]
        pipes = [(starter.stdin, starter.stdout) for starter in starters]
        for _, output in pipes:
            assert output is not None
            assert output.readline() == "ready\n"
        for number in range(rounds):
            path = str(tmp_path / f"key-{number}")
            for given, _ in pipes:
                assert given is not None
                given.write(path + "\n")
            for given, _ in pipes:
                assert given is not None
                given.flush()
            for _, output in pipes:
                assert output is not None
                sealed = bytes.fromhex(output.readline())
                assert SealingKey.load_or_create(path).unseal(sealed, "race").reveal() == "shared"
    assert [starter.returncode for starter in starters] == [0, 0]
    assert len(list(tmp_path.iterdir())) == rounds, "temporary files were left"


def test_who_comes_second_takes_the_first_ones_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # The race above, forced: another process finishes between our look and our making.
    path = str(tmp_path / "sealing.key")
    first: list[SealingKey] = []
    create = sealing._create

    def late(place: str) -> None:
        monkeypatch.setattr(sealing, "_create", create)
        first.append(SealingKey.load_or_create(place))
        create(place)

    monkeypatch.setattr(sealing, "_create", late)
    second = SealingKey.load_or_create(path)
    assert second.unseal(first[0].seal(SECRET, CONTEXT), CONTEXT) == SECRET
    assert os.listdir(tmp_path) == ["sealing.key"]


def _refused(path: Path, match: str) -> None:
    with pytest.raises(ConfigError, match=match) as caught:
        SealingKey.load_or_create(str(path))
    assert str(path) in str(caught.value)
    assert "\\xaa\\xaa" not in _complete(caught.value)


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660, 0o610, 0o602, 0o644])
def test_a_file_others_may_use_is_refused_and_left_alone(tmp_path: Path, mode: int) -> None:
    path = tmp_path / "sealing.key"
    path.write_bytes(b"\xaa" * 32)
    path.chmod(mode)
    _refused(path, f"mode {mode:04o}.*chmod 600")
    assert stat.S_IMODE(path.stat().st_mode) == mode


@pytest.mark.parametrize("size", [0, 31, 33, 4096])
def test_a_file_of_another_size_is_refused_and_left_alone(tmp_path: Path, size: int) -> None:
    path = tmp_path / "sealing.key"
    path.write_bytes(b"\xaa" * size)
    path.chmod(0o600)
    _refused(path, f"has {size} bytes")
    assert path.stat().st_size == size


def test_another_users_file_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "sealing.key"
    SealingKey.load_or_create(str(path))
    other = os.geteuid() + 1
    monkeypatch.setattr(os, "geteuid", lambda: other)
    _refused(path, f"belongs to uid .*chown {other}")


def test_what_is_no_regular_file_is_refused(tmp_path: Path) -> None:
    directory, fifo, link, dangling = (tmp_path / name for name in ("directory", "fifo", "link", "dangling"))
    directory.mkdir(0o700)
    os.mkfifo(fifo, 0o600)
    SealingKey.load_or_create(str(tmp_path / "real.key"))
    link.symlink_to(tmp_path / "real.key")
    dangling.symlink_to(tmp_path / "nowhere")
    _refused(directory, "not a regular file")
    _refused(fifo, "not a regular file")
    _refused(link, "symbolic link")
    _refused(dangling, "symbolic link")
    assert not (tmp_path / "nowhere").exists()
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "socket"))
        _refused(tmp_path / "socket", "cannot be read")


def test_a_missing_directory_is_an_error_of_the_configuration(tmp_path: Path) -> None:
    _refused(tmp_path / "missing" / "sealing.key", "No such file or directory")


def test_a_failed_write_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        _refused(tmp_path / "sealing.key", "No space left")
    assert os.listdir(tmp_path) == []
