"""Schema 6: the clock's offset, and times and agents in every view."""

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"

# What `views_sha256` returns for the views of this schema.
VIEWS_SHA256 = "329afcc98a7c5e634ea21d12e27ffbe46ba9ec71f855b0e5a126a99808396698"


def upgrade() -> None:
    """Add the column.

    The store makes the views.
    """
    op.add_column("runs", sa.Column("clock_offset_s", sa.Double(), nullable=True))
