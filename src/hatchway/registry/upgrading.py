"""Making the tables, or bringing old ones up to date, by the versions in `migrations`."""

from __future__ import annotations

import os

import alembic.command
import alembic.config
import alembic.script
from alembic.migration import MigrationContext
from sqlalchemy import Connection, inspect

from hatchway.errors import ConfigError
from hatchway.registry import migrations


def upgrade(connection: Connection, path: str) -> None:
    """Bring the tables up to date in the transaction that `connection` is in. Raises ConfigError."""
    config = alembic.config.Config(attributes={"connection": connection})
    place = os.path.dirname(os.path.abspath(migrations.__file__))
    config.set_main_option("script_location", place.replace("%", "%%"))
    config.set_main_option("path_separator", "os")
    current = MigrationContext.configure(connection).get_current_revision()
    script = alembic.script.ScriptDirectory.from_config(config)
    if current is None and inspect(connection).get_table_names():
        raise ConfigError(f"{path}: a database, but no registry of Hatchway; move it away, or name another path")
    known = {revision.revision for revision in script.walk_revisions()}
    if current is not None and current not in known:
        raise ConfigError(
            f"{path}: written by a newer Hatchway (version {current} of the tables, this one knows "
            f"{script.get_current_head()}); install that one again, or restore the registry from before"
        )
    alembic.command.upgrade(config, "head")
