"""${message}"""

import sqlalchemy as sa
from alembic import op

revision = ${repr(up_revision)}
down_revision = ${repr(down_revision)}

# What `store.views.views_sha256()` says of the views that this schema has.
VIEWS_SHA256 = ""


def upgrade() -> None:
    """Say what changes, and why."""
    ${upgrades if upgrades else "pass"}
