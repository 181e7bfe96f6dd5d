"""What people must not write is remembered, and their grants have limits: see `tables`.

Which volumes keys may lie in was known of instances only that were there.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0011"
down_revision = "0010"


def upgrade() -> None:
    """Make the table, and add the columns."""
    op.create_table(
        "key_sources",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("instance_id", sa.Integer(), nullable=False),
        sa.Column("source", sa.Text(), nullable=False),
        sa.Column("birth", sa.Text(), nullable=False),
        sa.ForeignKeyConstraint(
            ["instance_id"], ["instances.id"], name="fk_key_sources_instance_id_instances", ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("id", name="pk_key_sources"),
        sa.UniqueConstraint("instance_id", "source", "birth", name="uq_key_sources_instance_id_source_birth"),
    )
    with op.batch_alter_table("person_grants", recreate="always") as batch:
        batch.add_column(sa.Column("size", sa.BigInteger(), nullable=True))
        batch.add_column(sa.Column("files", sa.BigInteger(), nullable=True))
