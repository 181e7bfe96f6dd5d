"""Conditions of logins, several keys of a login, what happened: see `tables`.

Logins had no conditions. Each had one key and one password at most, whose rows were kept when they were replaced. Which
of them a session had used was not written down but for a key's fingerprint.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"


def upgrade() -> None:
    """Add columns and the table, and take the limit of one key away."""
    with op.batch_alter_table("logins", recreate="always") as batch:
        batch.add_column(sa.Column("expires_at", sa.Float(), nullable=True))
        batch.add_column(sa.Column("allowed_from", sa.Text(), nullable=False, server_default=""))
        batch.add_column(sa.Column("locked_at", sa.Float(), nullable=True))
        batch.add_column(sa.Column("locked_why", sa.Text(), nullable=False, server_default=""))
        batch.add_column(sa.Column("sessions_max", sa.Integer(), nullable=True))
        batch.add_column(sa.Column("volume_keys", sa.Boolean(), nullable=False, server_default=sa.false()))
    with op.batch_alter_table("logins", recreate="always") as batch:
        for column, kind in (("allowed_from", sa.Text()), ("locked_why", sa.Text()), ("volume_keys", sa.Boolean())):
            batch.alter_column(column, existing_type=kind, existing_nullable=False, server_default=None)
    autoincrement = {"sqlite_autoincrement": True}
    with op.batch_alter_table("credentials", recreate="always", table_kwargs=autoincrement) as batch:
        batch.add_column(sa.Column("sources", sa.Text(), nullable=False, server_default=""))
        batch.add_column(sa.Column("expires_at", sa.Float(), nullable=True))
        batch.add_column(sa.Column("verify_required", sa.Boolean(), nullable=False, server_default=sa.false()))
        batch.drop_constraint("uq_credentials_login_id_kind", type_="unique")
        batch.create_unique_constraint("uq_credentials_login_id_fingerprint", ["login_id", "fingerprint"])
    with op.batch_alter_table("credentials", recreate="always", table_kwargs=autoincrement) as batch:
        for column, kind in (("sources", sa.Text()), ("verify_required", sa.Boolean())):
            batch.alter_column(column, existing_type=kind, existing_nullable=False, server_default=None)
    with op.batch_alter_table("sessions", recreate="always") as batch:
        batch.add_column(sa.Column("credential_id", sa.Integer(), nullable=True))
    # What sessions that go on came in with is known: with the login's key or its password, unless that is newer.
    op.execute(
        "UPDATE sessions SET credential_id = (SELECT credentials.id FROM credentials "
        "WHERE credentials.login_id = sessions.login_id AND credentials.created_at <= sessions.opened_at "
        "AND (credentials.fingerprint = sessions.credential OR (credentials.kind = 'password' "
        "AND sessions.method = 'password'))) WHERE closed_at IS NULL"
    )
    op.create_table(
        "events",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("at", sa.Float(), nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("instance", sa.Text(), nullable=False),
        sa.Column("login", sa.Text(), nullable=False),
        sa.Column("address", sa.Text(), nullable=False),
        sa.Column("who", sa.Text(), nullable=False),
        sa.Column("what", sa.Text(), nullable=False),
        sa.Column("done", sa.Boolean(), nullable=False),
        sa.Column("times", sa.Integer(), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_events"),
        sqlite_autoincrement=True,
    )
