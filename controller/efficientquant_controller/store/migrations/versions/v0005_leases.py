"""Schema 5: the lease of the controller, and the leases of runs."""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"

# What `views_sha256` returns for the views of this schema.
VIEWS_SHA256 = "89b1b623b007857a6a4133d01cb8c5b163d4cb7b0226be6a0138536651e1258e"
_OPEN = sa.text("state IN ('pending', 'queued', 'leased')")


def upgrade() -> None:
    """Add the columns, the index and the table."""
    op.add_column("runs", sa.Column("lease_ids", sa.JSON(), nullable=True))
    op.add_column("runs", sa.Column("report_sha256", sa.String(), nullable=True))
    op.create_index("ix_jobs_open", "jobs", ["campaign_id"], sqlite_where=_OPEN, postgresql_where=_OPEN)
    op.create_table(
        "controller_lease",
        sa.Column("number", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("holder", sa.Text(), nullable=False),
        sa.Column("token", sa.String(), nullable=False),
        sa.Column("process", sa.Text(), nullable=False),
        sa.Column("file", sa.Text(), nullable=False),
        sa.Column("epoch", sa.BigInteger(), nullable=False),
        sa.Column("expires_unix_s", sa.Double(), nullable=False),
        sa.PrimaryKeyConstraint("number", name=op.f("pk_controller_lease")),
    )
