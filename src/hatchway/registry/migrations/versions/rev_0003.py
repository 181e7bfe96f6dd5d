"""Several grants at a path, each with its origin; grants that follow; the rules of access files: see `tables`.

All grants that were stored before had been given by command, each for the volume of its row.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    """Add columns and the table."""
    with op.batch_alter_table("instances") as batch:
        batch.add_column(sa.Column("runtime_id", sa.Text(), nullable=True))
    op.execute("UPDATE instances SET runtime_id = ''")
    with op.batch_alter_table("instances") as batch:
        batch.alter_column("runtime_id", existing_type=sa.Text(), nullable=False)
    with op.batch_alter_table("volumes") as batch:
        batch.add_column(sa.Column("identity", sa.Text(), nullable=True))
    op.execute("UPDATE volumes SET identity = (SELECT identity FROM grants WHERE grants.volume_id = volumes.id)")
    with op.batch_alter_table("volumes") as batch:
        batch.alter_column("identity", existing_type=sa.Text(), nullable=False)
        batch.drop_constraint("uq_volumes_instance_id_path", type_="unique")
        batch.create_unique_constraint("uq_volumes_instance_id_path_identity", ["instance_id", "path", "identity"])
    with op.batch_alter_table("grants") as batch:
        batch.add_column(sa.Column("origin", sa.Text(), nullable=True))
        batch.add_column(sa.Column("follows", sa.Boolean(), nullable=True))
    op.execute(sa.text("UPDATE grants SET origin = 'command', follows = :no").bindparams(no=False))
    with op.batch_alter_table("grants") as batch:
        batch.alter_column("origin", existing_type=sa.Text(), nullable=False)
        batch.alter_column("follows", existing_type=sa.Boolean(), nullable=False)
        batch.drop_column("identity")
        batch.drop_constraint("uq_grants_volume_id", type_="unique")
        batch.create_unique_constraint("uq_grants_volume_id_origin", ["volume_id", "origin"])
    op.create_table(
        "rules",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("place", sa.Text(), nullable=False),
        sa.Column("project", sa.Text(), nullable=False),
        sa.Column("service", sa.Text(), nullable=False),
        sa.Column("replica", sa.Integer(), nullable=True),
        sa.Column("volumes", sa.Text(), nullable=False),
        sa.Column("read_only", sa.Boolean(), nullable=False),
        sa.Column("follow", sa.Boolean(), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_rules"),
    )
