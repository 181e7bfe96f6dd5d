"""Migrations give exactly the tables, upgrade what older versions left, and happen whole or not at all."""

from __future__ import annotations

import os
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from types import SimpleNamespace

import alembic.autogenerate
import pytest
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy.dialects import postgresql
from sqlalchemy.schema import CreateTable

from hatchway.errors import ConfigError
from hatchway.model import InstanceKey, Login, Mode, Uid, VolumeInfo, VolumeKind
from hatchway.registry import migrations, opening, upgrading
from hatchway.registry.records import CredentialKind, CredentialRecord, GrantRecord, NewLogin, SessionRecord
from hatchway.registry.store import Registry
from hatchway.registry.tables import metadata

DUMPS = Path(__file__).parent / "dumps"


def test_migrations_give_exactly_the_tables(registry: Registry) -> None:
    with registry._read() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True, "compare_server_default": True})
        assert alembic.autogenerate.compare_metadata(context, metadata) == []


def test_every_constraint_has_the_name_of_the_convention(registry: Registry, path: str, tmp_path: Path) -> None:
    # compare_metadata overlooks names and what happens on delete; the text of the tables does not.
    direct = str(tmp_path / "direct.sqlite")
    engine = opening._engine(direct, foreign_keys=True)
    metadata.create_all(engine)
    engine.dispose()
    assert _schema(path) == _schema(direct)


def _schema(path: str) -> dict[str, list[str]]:
    with closing(sqlite3.connect(path)) as connection:
        found = connection.execute("SELECT name, sql FROM sqlite_master WHERE sql IS NOT NULL").fetchall()
    # A table that was rebuilt is called by its name in quotes.
    found = [(name, sql.replace(f'TABLE "{name}"', f"TABLE {name}", 1)) for name, sql in found if sql is not None]
    return {
        name: sorted(line.strip().rstrip(",").replace(" )", ")") for line in sql.splitlines())
        for name, sql in found
        if name != "alembic_version"
    }


def test_postgresql_could_make_the_tables() -> None:
    dialect = postgresql.dialect()  # type: ignore[no-untyped-call] # SQLAlchemy does not annotate it
    for table in metadata.sorted_tables:
        assert "CREATE TABLE" in str(CreateTable(table).compile(dialect=dialect))


def test_opening_again_changes_nothing(registry: Registry, path: str) -> None:
    before = _schema(path)
    registry.close()
    Registry.open(path).close()
    assert _schema(path) == before


def _restore(dump: str, path: str) -> None:
    Path(path).touch(mode=0o600)
    with closing(sqlite3.connect(path)) as connection:
        connection.executescript((DUMPS / dump).read_text(encoding="utf-8"))


def test_version_0001_still_answers(path: str) -> None:
    _restore("0001.sql", path)
    with closing(Registry.open(path)) as registry:
        db, web = registry.instances()
        assert (db.key, db.login, db.uid, db.created_at) == (
            InstanceKey("shop", "db", 1), Login("shop-db-1"), Uid(1900100001), 1700000500.0,
        )  # fmt: skip
        with closing(sqlite3.connect(path)) as connection:
            changed = dict(connection.execute("SELECT container, changed_at FROM instances").fetchall())
        assert {record.key.container: record.seen_at for record in (db, web)} == changed
        assert db.grants == ()
        assert web.grants == (
            GrantRecord(
                path="/data",
                name="shop_data",
                kind=VolumeKind.VOLUME,
                driver="local",
                created="2024-01-01T00:00:00Z",
                source="/var/lib/docker/volumes/shop_data/_data",
                mode=Mode.READ_WRITE,
                identity="volume:local:shop_data:2024-01-01T00:00:00Z",
                granted_at=1700000000.25,
                granted_by="root",
            ),
            GrantRecord(
                path="/tmp/it's",
                name="",
                kind=VolumeKind.TMPFS,
                driver="",
                created="",
                source=None,
                mode=Mode.READ_ONLY,
                identity="tmpfs:None",
                granted_at=1700000100.0,
                granted_by="uid 1000",
            ),
        )
        assert registry.by_login("shop-web-1") == web
        key, password = registry.credentials("shop-web-1")
        assert key == CredentialRecord(
            2,
            CredentialKind.KEY,
            "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA shop-web-1",
            b"\x01\x00private",
            "SHA256:example",
            1700000000.25,
        )
        assert password.public.startswith("$argon2id$")
        assert password.sealed is None
        assert registry.login_taken("gone-web-1")
        assert registry.next_uid(1900100000, 1900999999) == 1900100003
        assert registry.open_sessions() == (
            SessionRecord("s-2", Login("shop-web-1"), 1700000300.0, "2001:db8::1", "password", None, password.id),
        )
        # and it can still be changed
        volume = VolumeInfo(path="/var/lib/db", kind=VolumeKind.BIND, source="/srv/db")
        assert len(registry.enable(db.key, [(volume, Mode.READ_ONLY)], by="root", now=1.0, new=None).grants) == 1
    with closing(sqlite3.connect(path)) as connection:
        # Those that have ended are forgotten.
        assert connection.execute("SELECT id FROM sessions").fetchall() == [("s-2",)]
        assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        assert connection.execute("PRAGMA foreign_key_check").fetchall() == []


Upgrade = Callable[[str], None]


@pytest.fixture
def with_next(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Upgrade:
    """Makes a version that follows the newest, whose upgrade is the statements given."""
    newest = opening._newest_version()

    def make(statements: str) -> None:
        place = tmp_path / "migrations"
        shutil.copytree(os.path.dirname(migrations.__file__), place, ignore=shutil.ignore_patterns("__pycache__"))
        body = "\n".join(f"    {line}" for line in statements.strip().splitlines())
        (place / "versions" / "rev_9999.py").write_text(
            'import sqlalchemy as sa\nfrom alembic import op\nrevision = "9999"\n'
            f"down_revision = {newest!r}\n\ndef upgrade():\n{body}\n"
        )
        for module in (opening, upgrading):
            monkeypatch.setattr(module, "migrations", SimpleNamespace(__file__=str(place / "__init__.py")))

    return make


def test_a_rebuilt_table_keeps_what_refers_to_it(path: str, with_next: Upgrade) -> None:
    _restore("0001.sql", path)
    with_next(
        """
with op.batch_alter_table("instances") as batch:
    batch.alter_column("changed_at", nullable=True)
with op.batch_alter_table("volumes") as batch:
    batch.add_column(sa.Column("quota", sa.BigInteger(), nullable=True))
"""
    )
    with closing(Registry.open(path)) as registry:
        _, web = registry.instances()
        assert [grant.path for grant in web.grants] == ["/data", "/tmp/it's"]
        assert len(registry.credentials("shop-web-1")) == 2
    with closing(sqlite3.connect(path)) as connection:
        assert connection.execute("SELECT version_num FROM alembic_version").fetchone() == ("9999",)
        assert connection.execute("SELECT quota FROM volumes").fetchall() == [(None,), (None,)]


@pytest.mark.parametrize(
    ("last", "error"),
    [
        ("raise RuntimeError('broken migration')", RuntimeError),
        ("op.execute('SELECT * FROM nowhere')", ConfigError),
        ("op.execute('DELETE FROM instances')", ConfigError),
    ],
)
def test_a_failed_upgrade_leaves_the_old_version_whole(
    path: str, with_next: Upgrade, last: str, error: type[Exception]
) -> None:
    _restore("0001.sql", path)
    with closing(sqlite3.connect(path)) as connection:
        before = list(connection.iterdump())
    first = 'op.create_table("strangers", sa.Column("name", sa.Text()))\nop.execute("DELETE FROM sessions")'
    with_next("\n".join([first, last]))
    with pytest.raises(error):
        Registry.open(path)
    with closing(sqlite3.connect(path)) as connection:
        assert list(connection.iterdump()) == before


def test_a_new_registry_goes_through_every_version(path: str, with_next: Upgrade) -> None:
    with_next('op.add_column("volumes", sa.Column("quota", sa.BigInteger(), nullable=True))')
    with closing(Registry.open(path)) as registry:
        volume = VolumeInfo(path="/data", kind=VolumeKind.BIND, source="/srv/data")
        new = NewLogin(Login("shop-web-1"), Uid(70000))
        key = InstanceKey("shop", "web", 1)
        assert registry.enable(key, [(volume, Mode.READ_ONLY)], by="root", now=1.0, new=new).login == "shop-web-1"


def test_the_newest_version_is_known_without_alembic(path: str, registry: Registry) -> None:
    script = ScriptDirectory(os.path.dirname(migrations.__file__))
    assert opening._newest_version() == script.get_current_head()
    with registry._read() as connection:
        assert opening._version(connection) == script.get_current_head()


def test_a_registry_of_this_version_needs_no_alembic(path: str, registry: Registry) -> None:
    registry.close()
    code = f"""
import sys
from hatchway.registry.store import Registry
Registry.open({path!r}).close()
sys.exit("alembic" in sys.modules)
"""
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
