"""Sealed values open only here, only for what they were sealed for; the key file is ours alone and made once."""

from __future__ import annotations

import contextlib
import copy
import functools
import json
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


def test_one_that_is_needed_is_never_made(tmp_path: Path) -> None:
    """A registry that was put back without it must not go on with another: what is sealed then nobody could open."""
    path = str(tmp_path / "sealing.key")
    for load in (SealingKey.load_or_create, functools.partial(SealingKey.load, credentials_directory=None)):
        lost = load(path, needed=True)
        assert (lost.lost, lost.rotating) == (True, False)
        for act in (lambda key=lost: key.seal(SECRET, CONTEXT), lost.begin_rotation):
            with pytest.raises(ConfigError, match=r"sealing.key: missing, while the registry beside it has"):
                act()
        with pytest.raises(DamagedSecretError):
            lost.unseal(SealingKey(bytes(32)).seal(SECRET, CONTEXT), CONTEXT)
        assert list(tmp_path.iterdir()) == []
    sealed = SealingKey.load_or_create(path).seal(SECRET, CONTEXT)
    found = SealingKey.load_or_create(path, needed=True)
    assert (found.lost, found.unseal(sealed, CONTEXT)) == (False, SECRET)


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


def _rotating(key: SealingKey) -> bool:
    # mypy takes a property for what it was when it was last looked at.
    return key.rotating


def _key_file(path: Path, byte: int) -> bytes:
    path.write_bytes(bytes([byte]) * 32)
    path.chmod(0o600)
    return path.read_bytes()


def test_rotating_ends_with_another_key_that_opens_everything(tmp_path: Path) -> None:
    path = tmp_path / "sealing.key"
    key = SealingKey.load_or_create(str(path))
    before = path.read_bytes()
    sealed = key.seal(SECRET, CONTEXT)
    assert not _rotating(key)
    key.begin_rotation()
    assert _rotating(key)
    assert path.read_bytes() == before
    new = (tmp_path / "sealing.key.new").read_bytes()
    assert new != before
    assert stat.S_IMODE((tmp_path / "sealing.key.new").stat().st_mode) == 0o600
    key.begin_rotation()
    assert (tmp_path / "sealing.key.new").read_bytes() == new
    assert key.unseal(sealed, CONTEXT) == SECRET
    again = key.reseal(sealed, CONTEXT)
    assert SealingKey(new).unseal(again, CONTEXT) == SECRET
    meanwhile = key.seal(Secret("meanwhile"), CONTEXT)
    key.finish()
    assert not _rotating(key)
    assert path.read_bytes() == new
    assert os.listdir(tmp_path) == ["sealing.key"]
    assert key.unseal(again, CONTEXT) == SECRET
    assert key.unseal(meanwhile, CONTEXT).reveal() == "meanwhile"
    with pytest.raises(DamagedSecretError):
        key.unseal(sealed, CONTEXT)
    key.finish()
    assert SealingKey.load_or_create(str(path)).unseal(again, CONTEXT) == SECRET


def test_while_rotating_another_context_does_not_open_it_either(tmp_path: Path) -> None:
    key = SealingKey.load_or_create(str(tmp_path / "sealing.key"))
    key.begin_rotation()
    with pytest.raises(DamagedSecretError):
        key.reseal(key.seal(SECRET, CONTEXT), "password:shop-web-2")


def test_whoever_starts_in_the_middle_goes_on(tmp_path: Path) -> None:
    path = str(tmp_path / "sealing.key")
    first = SealingKey.load_or_create(path)
    old = first.seal(SECRET, CONTEXT)
    first.begin_rotation()
    new = first.reseal(old, CONTEXT)
    second = SealingKey.load_or_create(path)
    assert _rotating(second)
    assert second.unseal(old, CONTEXT) == second.unseal(new, CONTEXT) == SECRET
    resealed = second.reseal(old, CONTEXT)
    second.finish()
    assert SealingKey.load_or_create(path).unseal(resealed, CONTEXT) == SECRET
    assert SealingKey.load_or_create(path).unseal(new, CONTEXT) == SECRET


# Dies, as by a power cut, at the call of the given number. The store is written as a transaction is: whole or not.
_ROTATOR = """
import json, os, sys
from hatchway.credentials.sealing import SealingKey
from hatchway.credentials.secret import Secret
path, store, at = sys.argv[1], sys.argv[2], int(sys.argv[3])
calls = 0
replace = os.replace
def dying(call):
    def called(*arguments, **named):
        global calls
        calls += 1
        if calls == at:
            os._exit(9)
        done = call(*arguments, **named)
        calls += 1
        if calls == at:
            os._exit(9)
        return done
    return called
for name in ("open", "fsync", "fchmod", "link", "unlink", "rename", "replace"):
    setattr(os, name, dying(getattr(os, name)))
key = SealingKey.load_or_create(path)
key.begin_rotation()
sealed = {context: bytes.fromhex(text) for context, text in json.load(open(store)).items()}
sealed = {context: key.reseal(value, context) for context, value in sealed.items()}
with open(store + ".tmp", "w") as file:
    json.dump({context: value.hex() for context, value in sealed.items()}, file)
os.replace(store + ".tmp", store)
key.finish()
"""


def test_dying_at_any_step_loses_nothing(tmp_path: Path) -> None:
    contexts = ("password:a", "key:a", "password:b")
    for at in range(1, 200):
        place = tmp_path / str(at)
        place.mkdir()
        path, store = str(place / "sealing.key"), place / "store"
        key = SealingKey.load_or_create(path)
        store.write_text(json.dumps({context: key.seal(Secret(context), context).hex() for context in contexts}))
        done = subprocess.run(
            [sys.executable, "-c", _ROTATOR, path, str(store), str(at)], capture_output=True, text=True
        )
        assert done.returncode in (0, 9), done.stderr
        after = SealingKey.load_or_create(path)
        sealed = {context: bytes.fromhex(text) for context, text in json.loads(store.read_text()).items()}
        for context in contexts:
            assert after.unseal(sealed[context], context).reveal() == context, at
        sealed = {context: after.reseal(value, context) for context, value in sealed.items()}
        after.finish()
        last = SealingKey.load_or_create(path)
        assert not _rotating(last)
        for context in contexts:
            assert last.unseal(sealed[context], context).reveal() == context, at
        if done.returncode == 0:
            break
    assert done.returncode == 0
    assert at > 15, "the steps were not met"


def test_a_new_key_alone_is_not_taken_for_the_key(tmp_path: Path) -> None:
    _key_file(tmp_path / "sealing.key.new", 1)
    _refused(tmp_path / "sealing.key", "missing, while")
    assert os.listdir(tmp_path) == ["sealing.key.new"]


@pytest.mark.parametrize("mode", [0o640, 0o644])
def test_a_new_key_others_may_read_is_refused(tmp_path: Path, mode: int) -> None:
    SealingKey.load_or_create(str(tmp_path / "sealing.key"))
    _key_file(tmp_path / "sealing.key.new", 1)
    (tmp_path / "sealing.key.new").chmod(mode)
    _refused(tmp_path / "sealing.key", "sealing.key.new: open to other users")


def test_another_file_does_not_become_the_key(tmp_path: Path) -> None:
    path = tmp_path / "sealing.key"
    key = SealingKey.load_or_create(str(path))
    before = path.read_bytes()
    key.begin_rotation()
    sealed = key.seal(SECRET, CONTEXT)
    mine = (tmp_path / "sealing.key.new").read_bytes()
    for spoil in (lambda new: new.unlink(), lambda new: _key_file(new, 2)):
        spoil(tmp_path / "sealing.key.new")
        with pytest.raises(ConfigError, match="not the key"):
            key.finish()
        assert path.read_bytes() == before
        assert _rotating(key)
    (tmp_path / "sealing.key.new").write_bytes(mine)
    key.finish()
    assert SealingKey.load_or_create(str(path)).unseal(sealed, CONTEXT) == SECRET


def test_a_full_disk_leaves_the_old_key_in_use(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    key = SealingKey.load_or_create(str(tmp_path / "sealing.key"))
    sealed = key.seal(SECRET, CONTEXT)

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(ConfigError, match="No space left"):
            key.begin_rotation()
    assert not _rotating(key)
    assert os.listdir(tmp_path) == ["sealing.key"]
    assert key.unseal(sealed, CONTEXT) == SECRET


def test_a_key_in_no_file_is_not_rotated(key: SealingKey) -> None:
    with pytest.raises(ValueError, match="in no file"):
        key.begin_rotation()


@pytest.fixture
def credentials(tmp_path: Path) -> Path:
    """What systemd makes: read-only, root's or with an access list, so that group bits are set."""
    directory = tmp_path / "credentials"
    directory.mkdir()
    _key_file(directory / sealing.CREDENTIAL, 3)
    (directory / sealing.CREDENTIAL).chmod(0o440)
    return directory


def test_a_credential_is_the_key_and_no_file_is_made(tmp_path: Path, credentials: Path) -> None:
    key = SealingKey.load(str(tmp_path / "sealing.key"), str(credentials))
    assert SealingKey(b"\3" * 32).unseal(key.seal(SECRET, CONTEXT), CONTEXT) == SECRET
    assert not (tmp_path / "sealing.key").exists()
    with pytest.raises(ConfigError, match=r"only you can change.*hatchway-sealing-key\.new, restart"):
        key.begin_rotation()
    assert os.listdir(credentials) == [sealing.CREDENTIAL]


@pytest.mark.parametrize("directory", [None, "empty", "missing"])
def test_without_a_credential_it_is_the_file(tmp_path: Path, directory: str | None) -> None:
    (tmp_path / "empty").mkdir()
    given = None if directory is None else str(tmp_path / directory)
    key = SealingKey.load(str(tmp_path / "sealing.key"), given)
    key.begin_rotation()
    key.finish()
    assert SealingKey.load_or_create(str(tmp_path / "sealing.key")).seal(SECRET, CONTEXT)


def test_a_second_credential_is_the_way_to_another_key(tmp_path: Path, credentials: Path) -> None:
    path = str(tmp_path / "sealing.key")
    sealed = SealingKey.load(path, str(credentials)).seal(SECRET, CONTEXT)
    new = credentials / f"{sealing.CREDENTIAL}.new"
    _key_file(new, 4)
    key = SealingKey.load(path, str(credentials))
    assert _rotating(key)
    resealed = key.reseal(sealed, CONTEXT)
    key.finish()
    assert not _rotating(key)
    assert sorted(os.listdir(credentials)) == [sealing.CREDENTIAL, new.name]
    # The operator makes the second one the first.
    new.replace(credentials / sealing.CREDENTIAL)
    assert SealingKey.load(path, str(credentials)).unseal(resealed, CONTEXT) == SECRET


def test_a_file_of_the_same_key_may_stay_and_another_is_an_error(tmp_path: Path, credentials: Path) -> None:
    path = tmp_path / "sealing.key"
    _key_file(path, 3)
    assert not _rotating(SealingKey.load(str(path), str(credentials)))
    _key_file(path, 5)
    with pytest.raises(ConfigError, match="two sealing keys"):
        SealingKey.load(str(path), str(credentials))


def test_a_credential_that_is_no_key_is_refused(tmp_path: Path, credentials: Path) -> None:
    file = credentials / sealing.CREDENTIAL
    file.chmod(0o600)
    file.write_bytes(b"short")
    with pytest.raises(ConfigError, match="has 5 bytes"):
        SealingKey.load(str(tmp_path / "sealing.key"), str(credentials))
    file.unlink()
    os.mkfifo(file)
    with pytest.raises(ConfigError, match="not a regular file"):
        SealingKey.load(str(tmp_path / "sealing.key"), str(credentials))
