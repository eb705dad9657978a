"""Schema 8: the integer dot products of a device's CPU."""

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"

# What `views_sha256` returns for the views of this schema.
VIEWS_SHA256 = "63d0706f29de7da6b5a43acd3eefee507c3dc5fcfd5dba1a4a0dfc9223786851"


def upgrade() -> None:
    """Add the column.

    Devices of earlier schemas have reported none.
    """
    op.add_column("device_snapshots", sa.Column("cpu_dot_products", sa.JSON(), nullable=False, server_default="[]"))
