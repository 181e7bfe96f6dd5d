"""Where keys lie is known of instances that were never shared, too: see `tables.key_sources`.

It was forgotten while they were away, and somebody could write there meanwhile.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0013"
down_revision = "0012"


def upgrade() -> None:
    """Make the table anew, with what is in it."""
    op.create_table(
        "new_key_sources",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("environment", sa.Text(), nullable=False),
        sa.Column("container", sa.Text(), nullable=False),
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column("source", sa.Text(), nullable=False),
        sa.Column("birth", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_key_sources"),
        sa.UniqueConstraint(
            "environment",
            "container",
            "number",
            "source",
            "birth",
            name="uq_key_sources_environment_container_number_source_birth",
        ),
    )
    op.execute(
        "INSERT INTO new_key_sources (environment, container, number, source, birth) "
        "SELECT instances.environment, instances.container, instances.number, key_sources.source, key_sources.birth "
        "FROM key_sources JOIN instances ON instances.id = key_sources.instance_id ORDER BY key_sources.id"
    )
    op.drop_table("key_sources")
    op.rename_table("new_key_sources", "key_sources")
