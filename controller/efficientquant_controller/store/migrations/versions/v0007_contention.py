"""Schema 7: contention, RSS and USS, comparisons of RSS and energy, labels."""

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"

# What `views_sha256` returns for the views of this schema.
VIEWS_SHA256 = "63d0706f29de7da6b5a43acd3eefee507c3dc5fcfd5dba1a4a0dfc9223786851"


def upgrade() -> None:
    """Add the columns.

    The store makes the views.
    """
    for name in ("cpu_wait_share", "other_cpu_share"):
        op.add_column("runs", sa.Column(name, sa.Double(), nullable=True))
    for name in ("peak_rss_bytes", "uss_bytes"):
        op.add_column("runs", sa.Column(name, sa.BigInteger(), nullable=True))
    for prefix in ("peak_rss", "energy"):
        for name in ("ratio", "ratio_low", "ratio_high"):
            op.add_column("job_comparisons", sa.Column(f"{prefix}_{name}", sa.Double(), nullable=True))
        op.add_column("job_comparisons", sa.Column(f"{prefix}_answer", sa.String(), nullable=True))
    op.add_column("campaigns", sa.Column("label", sa.Text(), nullable=False, server_default=""))
