"""Schema 2: the view `comparisons` and a campaign's calibration images.

The view compares each variant with its FP32 twin.
"""

import sqlalchemy as sa
from alembic import op

from efficientquant_controller.store.views.v2 import COMPARISONS

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    """Add the columns, then the view."""
    op.add_column("campaigns", sa.Column("calibration_sha256", sa.String(), nullable=True))
    op.add_column("campaigns", sa.Column("calibration_filename", sa.Text(), nullable=True))
    op.execute(COMPARISONS)
