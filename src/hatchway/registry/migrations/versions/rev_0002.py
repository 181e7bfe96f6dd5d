"""When an instance was last there: see `tables`. Of one that was stored before, its last change stands for that."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    """Add the column."""
    with op.batch_alter_table("instances") as batch:
        batch.add_column(sa.Column("seen_at", sa.Float(), nullable=True))
    op.execute("UPDATE instances SET seen_at = changed_at")
    with op.batch_alter_table("instances") as batch:
        batch.alter_column("seen_at", existing_type=sa.Float(), nullable=False)
