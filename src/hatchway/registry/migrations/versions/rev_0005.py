"""Limits of grants and rules, of which there were none; what was counted in volumes: see `tables`."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"


def upgrade() -> None:
    """Add columns and the table."""
    for table in ("grants", "rules"):
        with op.batch_alter_table(table, recreate="always") as batch:
            batch.add_column(sa.Column("size", sa.BigInteger(), nullable=True))
            batch.add_column(sa.Column("files", sa.BigInteger(), nullable=True))
    op.create_table(
        "sizes",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("source", sa.Text(), nullable=False),
        sa.Column("birth", sa.Text(), nullable=False),
        sa.Column("size", sa.BigInteger(), nullable=False),
        sa.Column("files", sa.BigInteger(), nullable=False),
        sa.Column("measured_at", sa.Float(), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_sizes"),
        sa.UniqueConstraint("source", "birth", name="uq_sizes_source_birth"),
    )
