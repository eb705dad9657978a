"""Schema 4: clock targets as numbers, and a table of comparisons."""

from math import isfinite
from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"

# What `views_sha256` returns for the views of this schema.
VIEWS_SHA256 = "89b1b623b007857a6a4133d01cb8c5b163d4cb7b0226be6a0138536651e1258e"
_TARGETS = tuple(f"clock_{domain}_target_hz" for domain in ("gpu", "emc", "cpu"))
_COMPARED = ("latency", "load", "peak_pss")


def upgrade() -> None:
    """Add the columns and the table.

    The store makes the views.
    """
    for name in _TARGETS:
        op.add_column("runs", sa.Column(name, sa.Double(), nullable=True))
    op.create_index("ix_jobs_place", "jobs", ["campaign_id", "device_id", "model", "recipe"])
    op.add_column("runs", sa.Column("other_readings", sa.JSON(), nullable=True))
    _move_targets(op.get_bind())
    ratios = [f"{prefix}_{name}" for prefix in _COMPARED for name in ("ratio", "ratio_low", "ratio_high")]
    op.create_table(
        "job_comparisons",
        sa.Column("job_id", sa.String(), nullable=False),
        sa.Column("fp32_job_id", sa.String(), nullable=False),
        sa.Column("rules_version", sa.Integer(), nullable=False),
        *(sa.Column(name, sa.Double(), nullable=True) for name in ratios),
        *(sa.Column(f"{prefix}_answer", sa.String(), nullable=True) for prefix in _COMPARED),
        sa.Column("not_compared", sa.Text(), nullable=True),
        sa.Column("comparison_notes", sa.JSON(), nullable=True),
        sa.ForeignKeyConstraint(["job_id"], ["jobs.job_id"], name=op.f("fk_job_comparisons_job_id")),
        sa.ForeignKeyConstraint(["fp32_job_id"], ["jobs.job_id"], name=op.f("fk_job_comparisons_fp32_job_id")),
        sa.PrimaryKeyConstraint("job_id", name=op.f("pk_job_comparisons")),
    )


def _move_targets(connection: sa.Connection) -> None:
    """Move targets from the text of `conditions` to their columns."""
    columns: list[sa.ColumnClause[Any]] = [sa.column("run_id", sa.String()), sa.column("conditions", sa.JSON())]
    runs = sa.table("runs", *columns, *(sa.column(name, sa.Double()) for name in _TARGETS))
    has_targets = sa.cast(runs.c.conditions, sa.Text()).like("%_target_hz%")  # a large database has few such rows
    rows = connection.execute(sa.select(runs.c.run_id, runs.c.conditions).where(has_targets))
    for run_id, conditions in rows.all():
        targets = {name: number for name in _TARGETS if (number := _number(conditions.get(name))) is not None}
        if targets:
            kept = {name: value for name, value in conditions.items() if name not in targets}
            connection.execute(runs.update().where(runs.c.run_id == run_id).values(**targets, conditions=kept))


def _number(text: str | None) -> float | None:
    try:
        value = float(text or "")
    except ValueError:
        return None
    return value if isfinite(value) else None
