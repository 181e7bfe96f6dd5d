"""Only open sessions are kept, and the record is found by whose it is: see `tables`.

Rows of sessions that had ended stayed for 90 days, so that one login's holder could fill the disk with them.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0009"
down_revision = "0008"


def upgrade() -> None:
    """Forget the sessions that have ended, and make the index."""
    op.execute(sa.text("DELETE FROM sessions WHERE closed_at IS NOT NULL"))
    op.drop_index("ix_sessions_closed_at", "sessions")
    with op.batch_alter_table("sessions", recreate="always") as batch:
        batch.drop_column("closed_at")
    op.create_index("ix_events_kind_instance_id", "events", ["kind", "instance", "id"])
