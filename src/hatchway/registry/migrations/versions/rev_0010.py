"""People, with logins of their own and grants: see `tables`. There were instances only."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0010"
down_revision = "0009"


def upgrade() -> None:
    """Make their tables, and let a login be a person's."""
    op.create_table(
        "people",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("full_name", sa.Text(), nullable=False),
        sa.Column("created_at", sa.Float(), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_people"),
    )
    with op.batch_alter_table("logins", recreate="always") as batch:
        batch.add_column(sa.Column("person_id", sa.Integer(), nullable=True))
        batch.create_foreign_key("fk_logins_person_id_people", "people", ["person_id"], ["id"], ondelete="SET NULL")
        batch.create_unique_constraint("uq_logins_person_id", ["person_id"])
    op.create_table(
        "person_grants",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("person_id", sa.Integer(), nullable=False),
        sa.Column("volume_id", sa.Integer(), nullable=False),
        sa.Column("folder", sa.Text(), nullable=False),
        sa.Column("mode", sa.Text(), nullable=False),
        sa.Column("owner", sa.Text(), nullable=True),
        sa.Column("umask", sa.Integer(), nullable=True),
        sa.Column("owner_uid", sa.BigInteger(), nullable=True),
        sa.Column("owner_gid", sa.BigInteger(), nullable=True),
        sa.Column("granted_at", sa.Float(), nullable=False),
        sa.Column("granted_by", sa.Text(), nullable=False),
        sa.ForeignKeyConstraint(
            ["person_id"], ["people.id"], name="fk_person_grants_person_id_people", ondelete="CASCADE"
        ),
        sa.ForeignKeyConstraint(
            ["volume_id"], ["volumes.id"], name="fk_person_grants_volume_id_volumes", ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("id", name="pk_person_grants"),
        sa.UniqueConstraint("person_id", "volume_id", name="uq_person_grants_person_id_volume_id"),
    )
