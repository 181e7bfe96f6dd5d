"""Alembic runs this file for every command. The connection comes from `opening`, in a transaction of its own."""

from __future__ import annotations

from alembic import context

from hatchway.registry.tables import metadata

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=metadata,
    render_as_batch=True,
)
with context.begin_transaction():
    context.run_migrations()
