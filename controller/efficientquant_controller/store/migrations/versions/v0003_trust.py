"""Schema 3: variants by target, telemetry, verdicts and engines.

The views say how far a row can be trusted.
"""

from typing import Any

import sqlalchemy as sa
from alembic import op

from efficientquant_controller.store.views.v3 import COMPARISONS, RESULTS, RUN_RESULTS

revision = "0003"
down_revision = "0002"

# Columns that are NULL in the runs of an earlier schema.
_RUN_COLUMNS: dict[type[sa.types.TypeEngine[Any]], tuple[str, ...]] = {
    sa.String: (*("verdict", "paper_memory_kind", "rail_set", "engine_sha256"),),
    sa.JSON: (*("verdict_reasons", "conditions", "findings", "realised_precision"),),
    sa.Integer: (*("statistics_version", "output_argmax_matches", "output_count"),),
    sa.Double: (
        *("latency_p90_bound_s", "latency_p99_bound_s", "latency_drift", "device_latency_p50_s"),
        *("device_latency_p99_s", "parse_s", "build_s", "deserialize_s", "create_context_s", "warm_load_s"),
        *("paper_load_s", "energy_per_inference_j", "net_energy_per_inference_j", "mean_power_w"),
        *("idle_power_w", "max_temperature_c", "gpu_clock_min_hz", "gpu_clock_max_hz", "output_max_abs"),
        "output_cosine",
    ),
    sa.BigInteger: (*("paper_memory_bytes", "device_memory_bytes", "gpu_process_peak_bytes", "engine_bytes"),),
    sa.Boolean: ("throttled",),
}
# Columns with their value in the rows of an earlier schema.
_FILLED: dict[str, dict[str, tuple[sa.types.TypeEngine[Any], str]]] = {
    "device_snapshots": {
        **{name: (sa.Text(), "") for name in ("jetpack", "cuda_version", "power_mode", "clock_control")},
        "gpus": (sa.JSON(), "[]"),
    },
    "artifact_builds": {
        "target": (sa.String(), ""),
        "builder_flags": (sa.JSON(), "[]"),
        "reference_sha256": (sa.String(), ""),
        "reference_bytes": (sa.BigInteger(), "0"),
    },
    "jobs": {"target": (sa.String(), ""), "backend": (sa.String(), "")},
    "builds": {"target": (sa.String(), ""), "build_key": (sa.String(), "")},
}


def upgrade() -> None:
    """Drop the views, change the tables, and create the views again."""
    for view in ("comparisons", "results", "run_results"):
        op.execute(f"DROP VIEW {view}")
    for table, columns in _FILLED.items():
        for name, (kind, default) in columns.items():
            op.add_column(table, sa.Column(name, kind, nullable=False, server_default=default))
    op.add_column("campaigns", sa.Column("paper", sa.Boolean(), nullable=False, server_default=sa.false()))
    for of_runs, names in _RUN_COLUMNS.items():
        for name in names:
            op.add_column("runs", sa.Column(name, of_runs(), nullable=True))
    with op.batch_alter_table("builds") as builds:
        builds.drop_constraint("pk_builds", type_="primary")
        builds.create_primary_key("pk_builds", ["campaign_id", "model", "recipe", "target"])
    op.create_table(
        "engines",
        sa.Column("run_id", sa.String(), nullable=False),
        sa.Column("engine_sha256", sa.String(), nullable=False),
        sa.Column("size_bytes", sa.BigInteger(), nullable=False),
        sa.Column("from_cache", sa.Boolean(), nullable=False),
        sa.Column("workspace_bytes", sa.BigInteger(), nullable=False),
        sa.Column("notes", sa.JSON(), nullable=False),
        sa.Column("settings", sa.JSON(), nullable=False),
        sa.Column("realised_precision", sa.JSON(), nullable=False),
        sa.Column("layers", sa.JSON(), nullable=False),
        sa.ForeignKeyConstraint(["run_id"], ["runs.run_id"], name=op.f("fk_engines_run_id")),
        sa.PrimaryKeyConstraint("run_id", name=op.f("pk_engines")),
    )
    for text in (RESULTS, RUN_RESULTS, COMPARISONS):
        op.execute(text)
