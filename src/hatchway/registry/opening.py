"""Opening the database: the file's protection, what is SQLite's alone, and bringing old tables up to date.

Reads and writes no row of ours. The file is private before SQLite touches it, because SQLite makes its -wal and -shm
files with the database's mode (os_unix.c, findCreateFileMode), and they hold the same contents.
"""

from __future__ import annotations

import contextlib
import os
import re
import sqlite3
import time
from typing import Any

from sqlalchemy import URL, Connection, Engine, create_engine, event, inspect
from sqlalchemy.exc import DBAPIError
from sqlalchemy.pool import QueuePool

from hatchway.credentials.private_file import require_private
from hatchway.errors import ConfigError
from hatchway.registry import migrations

BUSY_TIMEOUT_S = 10
"""Seconds to wait for another process that writes, such as a second daemon started by mistake or a backup."""

WRITES = "hatchway_writes"
"""Execution option, true: the transaction is going to write. See `_begin`."""


def open_database(path: str) -> Engine:
    """An engine for the database in the file `path`, made if there is none, with all tables of this version.

    It has one connection, which any thread may use, one at a time. Raises ConfigError when the file cannot be made,
    is open to others, is no registry or was written by a newer Hatchway.
    """
    _protect(path)
    # Unchecked, because rebuilding a table (migrations) drops it, which with foreign keys on would empty those below.
    engine = _engine(path, foreign_keys=False)
    try:
        with engine.execution_options(**{WRITES: True}).begin() as connection:
            _bring_up_to_date(connection, path)
        engine.dispose()
        engine = _engine(path, foreign_keys=True)
        with engine.begin() as connection:
            # Its connection stays. So what SQLite needs room for to open it is there from now on.
            _version(connection)
    except DBAPIError as exc:
        engine.dispose()
        raise ConfigError(f"{path}: cannot be used as the registry: {exc.orig}") from exc
    except BaseException:
        engine.dispose()
        raise
    return engine


def checkpoint(engine: Engine) -> None:
    """Bring what is in -wal into the database, as far as there is room, so that -wal is written from its beginning."""
    connection = engine.raw_connection()
    try:
        with contextlib.suppress(sqlite3.Error):
            connection.cursor().execute("PRAGMA wal_checkpoint")
    finally:
        connection.close()


def _protect(path: str) -> None:
    """Make the file, or check that it and SQLite's files beside it are ours alone. Raises ConfigError."""
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    except FileExistsError:
        pass
    except OSError as exc:
        raise ConfigError(f"{path}: the registry cannot be made: {exc.strerror}") from exc
    else:
        try:
            os.fchmod(descriptor, 0o600)  # the umask may have taken our own bits
        finally:
            os.close(descriptor)
    for name in (path, f"{path}-wal", f"{path}-shm", f"{path}-journal"):
        try:
            # Never opened: closing any descriptor of a database drops this process's locks on it (sqlite.org,
            # "How To Corrupt An SQLite Database File", 2.2).
            status = os.lstat(name)
        except FileNotFoundError:
            continue
        except OSError as exc:
            raise ConfigError(f"{name}: {exc.strerror}") from exc
        require_private(name, status)


def _engine(path: str, *, foreign_keys: bool) -> Engine:
    engine = create_engine(
        URL.create("sqlite", database=path),
        poolclass=QueuePool,
        pool_size=1,
        max_overflow=0,
        connect_args={"timeout": BUSY_TIMEOUT_S, "check_same_thread": False},
        hide_parameters=True,  # exceptions would otherwise show hashes and sealed secrets
    )

    def connect(connection: sqlite3.Connection, _record: object) -> None:
        # sqlite3 then begins no transaction of its own; `_begin` does, before CREATE TABLE and SELECT too.
        connection.isolation_level = None
        _use_wal(connection)
        # A uid that was given must not be forgotten in a power cut: NORMAL may lose the last commits in WAL mode.
        connection.execute("PRAGMA synchronous = FULL")
        # What is sorted must not need a disk that may be full.
        connection.execute("PRAGMA temp_store = MEMORY")
        connection.execute(f"PRAGMA foreign_keys = {'ON' if foreign_keys else 'OFF'}")

    event.listen(engine, "connect", connect)
    event.listen(engine, "begin", _begin)
    return engine


def _use_wal(connection: sqlite3.Connection) -> None:
    deadline = time.monotonic() + BUSY_TIMEOUT_S
    while True:
        try:
            connection.execute("PRAGMA journal_mode = WAL")
            return
        except sqlite3.OperationalError as exc:
            # Only a new file is switched, and then SQLite does not wait if another process is about to write to it.
            if exc.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY or time.monotonic() > deadline:
                raise
        time.sleep(0.01)


def _begin(connection: Connection) -> None:
    # A transaction that reads first and writes later fails at once (SQLITE_BUSY_SNAPSHOT, busy timeout or not) if
    # somebody wrote in between; IMMEDIATE waits at the beginning instead.
    writes = connection.get_execution_options().get(WRITES, False)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")


def _bring_up_to_date(connection: Connection, path: str) -> None:
    """Bring the tables up to date in the transaction that `connection` is in. Raises ConfigError."""
    if _version(connection) != _newest_version():
        # Here, not above: it takes a quarter of the core's start, and nobody can log in meanwhile.
        from hatchway.registry.upgrading import upgrade

        upgrade(connection, path)
    dangling: Any = connection.exec_driver_sql("PRAGMA foreign_key_check").first()
    if dangling is not None:
        raise ConfigError(f"{path}: a row of {dangling[0]} refers to a row of {dangling[2]} that does not exist")


def _version(connection: Connection) -> str | None:
    """The version of the tables (Alembic's record of it), None when there are none or it is not known."""
    if "alembic_version" not in inspect(connection).get_table_names():
        return None
    found = connection.exec_driver_sql("SELECT version_num FROM alembic_version").scalars().all()
    return str(found[0]) if len(found) == 1 else None


def _newest_version() -> str:
    """The version this Hatchway knows: `versions/rev_<version>.py`, counted up."""
    versions = os.listdir(os.path.join(os.path.dirname(os.path.abspath(migrations.__file__)), "versions"))
    return max(found[1] for name in versions if (found := re.fullmatch(r"rev_([0-9]{4})\.py", name)))
