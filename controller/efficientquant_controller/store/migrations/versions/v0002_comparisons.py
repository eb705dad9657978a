"""Schema 2: the view `comparisons`, each variant beside its FP32 twin."""

from alembic import op

from efficientquant_controller.store.comparison_view import COMPARISONS

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    """Add the view."""
    op.execute(COMPARISONS)
