"""What a session has moved, in the record of its end: see `tables`. Of those recorded before it is not known."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"


def upgrade() -> None:
    """Add columns."""
    with op.batch_alter_table("events", recreate="always", table_kwargs={"sqlite_autoincrement": True}) as batch:
        batch.add_column(sa.Column("read", sa.BigInteger(), nullable=True))
        batch.add_column(sa.Column("written", sa.BigInteger(), nullable=True))
