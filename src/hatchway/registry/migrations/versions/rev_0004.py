"""What grants and rules say of owners and modes: see `tables`. Those stored before say nothing."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"


def upgrade() -> None:
    """Add columns."""
    with op.batch_alter_table("grants", recreate="always") as batch:
        batch.add_column(sa.Column("owner", sa.Text(), nullable=True))
        batch.add_column(sa.Column("umask", sa.Integer(), nullable=True))
        batch.add_column(sa.Column("owner_uid", sa.BigInteger(), nullable=True))
        batch.add_column(sa.Column("owner_gid", sa.BigInteger(), nullable=True))
    with op.batch_alter_table("rules", recreate="always") as batch:
        batch.add_column(sa.Column("owner", sa.Text(), nullable=True))
        batch.add_column(sa.Column("umask", sa.Integer(), nullable=True))
