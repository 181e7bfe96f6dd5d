"""The registry's file: ours alone, refused when it is not, never half upgraded."""

from __future__ import annotations

import os
import sqlite3
import stat
import subprocess
import sys
import threading
from contextlib import closing
from pathlib import Path

import pytest

from hatchway.errors import ConfigError
from hatchway.model import InstanceKey, Login, Mode, Uid, VolumeInfo, VolumeKind
from hatchway.registry import opening
from hatchway.registry.records import NewLogin
from hatchway.registry.store import Registry

KEY = InstanceKey("shop", "web", 1)
VOLUME = VolumeInfo(path="/data", kind=VolumeKind.BIND, source="/srv/data")


def _write_something(registry: Registry) -> None:
    new = NewLogin(Login("shop-web-1"), Uid(70000))
    registry.enable(KEY, [(VOLUME, Mode.READ_ONLY)], by="root", now=1.0, new=new)


@pytest.mark.parametrize("mask", [0o000, 0o022, 0o777])
def test_the_file_and_those_beside_it_are_private(tmp_path: Path, mask: int) -> None:
    before = os.umask(mask)
    try:
        with closing(Registry.open(str(tmp_path / "registry.sqlite"))) as registry:
            _write_something(registry)
            modes = {name: stat.S_IMODE((tmp_path / name).stat().st_mode) for name in os.listdir(tmp_path)}
    finally:
        os.umask(before)
    assert modes == {"registry.sqlite": 0o600, "registry.sqlite-wal": 0o600, "registry.sqlite-shm": 0o600}


def test_the_database_is_set_up_as_promised(registry: Registry) -> None:
    with registry._read() as connection:
        pragmas = {
            name: connection.exec_driver_sql(f"PRAGMA {name}").scalar()
            for name in ("journal_mode", "foreign_keys", "busy_timeout", "synchronous")
        }
    assert pragmas == {"journal_mode": "wal", "foreign_keys": 1, "busy_timeout": 10_000, "synchronous": 2}


def _refused(path: str, match: str) -> None:
    with pytest.raises(ConfigError, match=match) as caught:
        Registry.open(path)
    assert str(caught.value).startswith(path)


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660, 0o602])
@pytest.mark.parametrize("suffix", ["", "-wal", "-shm", "-journal"])
def test_a_file_others_may_use_is_refused_and_left_alone(path: str, mode: int, suffix: str) -> None:
    Registry.open(path).close()
    Path(path + suffix).touch(mode=0o600)
    os.chmod(path + suffix, mode)
    _refused(path, f"mode {mode:04o}.*chmod 600")
    assert stat.S_IMODE(os.stat(path + suffix).st_mode) == mode


def test_another_users_file_is_refused(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    Registry.open(path).close()
    other = os.geteuid() + 1
    monkeypatch.setattr(os, "geteuid", lambda: other)
    _refused(path, f"belongs to uid .*chown {other}")


def test_what_is_no_regular_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "directory").mkdir(0o700)
    os.mkfifo(tmp_path / "fifo", 0o600)
    Registry.open(str(tmp_path / "real")).close()
    (tmp_path / "link").symlink_to(tmp_path / "real")
    (tmp_path / "dangling").symlink_to(tmp_path / "nowhere")
    for name in ("directory", "fifo", "link", "dangling"):
        _refused(str(tmp_path / name), "not a regular file")
    assert not (tmp_path / "nowhere").exists()


def test_a_missing_directory_is_named(tmp_path: Path) -> None:
    _refused(str(tmp_path / "missing" / "registry.sqlite"), "No such file or directory")


def test_a_path_with_odd_characters_is_only_a_path(tmp_path: Path) -> None:
    directory = tmp_path / "100% ?mode=memory#:odd"
    directory.mkdir()
    Registry.open(str(directory / "reg:istry?.sqlite")).close()
    assert os.listdir(directory) == ["reg:istry?.sqlite"]


def test_a_file_that_is_no_database_is_refused_and_left_alone(path: str) -> None:
    text = b"these are somebody's notes\n" * 100
    Path(path).write_bytes(text)
    os.chmod(path, 0o600)
    _refused(path, "not a database")
    assert Path(path).read_bytes() == text


def test_a_database_of_something_else_is_refused_and_left_alone(path: str) -> None:
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("CREATE TABLE songs (title)")
    os.chmod(path, 0o600)
    _refused(path, "no registry of Hatchway")
    with closing(sqlite3.connect(path)) as connection:
        assert connection.execute("SELECT name FROM sqlite_master").fetchall() == [("songs",)]


def test_a_newer_registry_is_refused_and_left_alone(path: str) -> None:
    with closing(Registry.open(path)) as registry:
        _write_something(registry)
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("UPDATE alembic_version SET version_num = '9999'")
        before = list(connection.iterdump())
    _refused(path, r"newer Hatchway \(version 9999")
    with closing(sqlite3.connect(path)) as connection:
        assert list(connection.iterdump()) == before


def test_making_a_registry_waits_for_another_process_that_makes_it(path: str) -> None:
    Path(path).touch(mode=0o600)
    other = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
    other.execute("BEGIN IMMEDIATE")
    timer = threading.Timer(0.3, lambda: other.execute("COMMIT"))
    timer.start()
    try:
        Registry.open(path).close()
    finally:
        timer.join()
        other.close()


def test_who_waits_in_vain_is_told(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(opening, "BUSY_TIMEOUT_S", 0.1)
    Path(path).touch(mode=0o600)
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        _refused(path, "database is locked")


def test_two_processes_may_open_a_new_registry_at_once(tmp_path: Path) -> None:
    """Ten times; tests/long has more."""
    opened_at_once(tmp_path, 10)


def opened_at_once(directory: Path, times: int) -> None:
    script = (
        "import sys\n"
        "from hatchway.registry.store import Registry\n"
        "print('ready', flush=True)\n"
        "for line in sys.stdin:\n"
        "    registry = Registry.open(line.strip())\n"
        "    print(registry.instances(), flush=True)\n"
        "    registry.close()\n"
    )
    openers = [
        subprocess.Popen([sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    for opener in openers:
        assert opener.stdout is not None
        assert opener.stdout.readline() == "ready\n"
    for number in range(times):
        for opener in openers:
            assert opener.stdin is not None
            opener.stdin.write(f"{directory}/{number}.sqlite\n")
            opener.stdin.flush()
        for opener in openers:
            assert opener.stdout is not None
            assert opener.stdout.readline() == "()\n"
    for opener in openers:
        opener.communicate(timeout=30)
        assert opener.returncode == 0


def test_opening_prints_nothing_and_leaves_logging_alone(path: str) -> None:
    script = (
        "import logging, sys\n"
        "mine = logging.getLogger('mine')\n"
        "from hatchway.registry.store import Registry\n"
        "Registry.open(sys.argv[1]).close()\n"
        "assert logging.root.handlers == [], logging.root.handlers\n"
        "assert logging.root.level == logging.WARNING\n"
        "assert not mine.disabled and logging.root.manager.disable == 0\n"
        "named = [logging.getLogger(name) for name in logging.root.manager.loggerDict]\n"
        "handlers = [handler for logger in named for handler in logger.handlers]\n"
        "assert all(type(handler) is logging.NullHandler for handler in handlers), handlers\n"
    )
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", script, path], capture_output=True, text=True, timeout=60
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
