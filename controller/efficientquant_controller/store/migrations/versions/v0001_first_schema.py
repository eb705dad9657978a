"""Schema 1: every table, and the views `results` and `run_results`.

It is of product version 0.1.0.
"""

import sqlalchemy as sa
from alembic import op

from efficientquant_controller.store.views.v1 import RESULTS, RUN_RESULTS

revision = "0001"
down_revision = None


def upgrade() -> None:
    """Create the tables and views."""
    op.create_table(
        "artifacts",
        sa.Column("artifact_sha256", sa.String(), nullable=False),
        sa.Column("size_bytes", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("artifact_sha256", name=op.f("pk_artifacts")),
    )
    op.create_table(
        "campaigns",
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column("campaign_id", sa.String(), nullable=False),
        sa.Column("state", sa.String(), nullable=False),
        sa.Column("created_unix_s", sa.Double(), nullable=False),
        sa.Column("ended_unix_s", sa.Double(), nullable=True),
        sa.Column("models", sa.JSON(), nullable=False),
        sa.Column("recipes", sa.JSON(), nullable=False),
        sa.Column("devices", sa.JSON(), nullable=False),
        sa.Column("weights_kind", sa.String(), nullable=False),
        sa.Column("weights_sha256", sa.String(), nullable=False),
        sa.Column("weights_filename", sa.Text(), nullable=False),
        sa.Column("tier", sa.String(), nullable=False),
        sa.Column("measurement", sa.JSON(), nullable=False),
        sa.Column("repeats", sa.Integer(), nullable=False),
        sa.Column("seed", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("number", name=op.f("pk_campaigns")),
        sa.UniqueConstraint("campaign_id", name=op.f("uq_campaigns_campaign_id")),
    )
    op.create_table(
        "device_snapshots",
        sa.Column("snapshot_sha256", sa.String(), nullable=False),
        sa.Column("board_id", sa.Text(), nullable=False),
        sa.Column("board", sa.Text(), nullable=False),
        sa.Column("os", sa.Text(), nullable=False),
        sa.Column("kernel", sa.Text(), nullable=False),
        sa.Column("architecture", sa.Text(), nullable=False),
        sa.Column("cpu_model", sa.Text(), nullable=False),
        sa.Column("cpu_count", sa.Integer(), nullable=False),
        sa.Column("memory_total_bytes", sa.BigInteger(), nullable=False),
        sa.Column("swap_total_bytes", sa.BigInteger(), nullable=False),
        sa.Column("l4t", sa.Text(), nullable=False),
        sa.Column("library_versions", sa.JSON(), nullable=False),
        sa.Column("backends", sa.JSON(), nullable=False),
        sa.Column("first_seen_unix_s", sa.Double(), nullable=False),
        sa.PrimaryKeyConstraint("snapshot_sha256", name=op.f("pk_device_snapshots")),
    )
    op.create_table(
        "meta",
        sa.Column("key", sa.String(), nullable=False),
        sa.Column("value", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("key", name=op.f("pk_meta")),
    )
    op.create_table(
        "recipes",
        sa.Column("name", sa.String(), nullable=False),
        sa.Column("version", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("content", sa.JSON(), nullable=False),
        sa.PrimaryKeyConstraint("name", "version", name=op.f("pk_recipes")),
    )
    op.create_table(
        "artifact_builds",
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column("build_key", sa.String(), nullable=False),
        sa.Column("artifact_sha256", sa.String(), nullable=False),
        sa.Column("model", sa.String(), nullable=False),
        sa.Column("recipe", sa.String(), nullable=False),
        sa.Column("recipe_version", sa.Integer(), nullable=False),
        sa.Column("weights", sa.String(), nullable=False),
        sa.Column("parity_max_abs", sa.Double(), nullable=True),
        sa.Column("notes", sa.JSON(), nullable=False),
        sa.Column("provenance", sa.JSON(), nullable=False),
        sa.Column("manifest", sa.JSON(), nullable=False),
        sa.ForeignKeyConstraint(
            ["artifact_sha256"], ["artifacts.artifact_sha256"], name=op.f("fk_artifact_builds_artifact_sha256")
        ),
        sa.ForeignKeyConstraint(
            ["recipe", "recipe_version"], ["recipes.name", "recipes.version"], name=op.f("fk_artifact_builds_recipe")
        ),
        sa.PrimaryKeyConstraint("number", name=op.f("pk_artifact_builds")),
        sa.UniqueConstraint("build_key", name=op.f("uq_artifact_builds_build_key")),
    )
    op.create_index(op.f("ix_artifact_builds_artifact_sha256"), "artifact_builds", ["artifact_sha256"], unique=False)
    op.create_table(
        "builds",
        sa.Column("campaign_id", sa.String(), nullable=False),
        sa.Column("model", sa.String(), nullable=False),
        sa.Column("recipe", sa.String(), nullable=False),
        sa.Column("ordinal", sa.Integer(), nullable=False),
        sa.Column("state", sa.String(), nullable=False),
        sa.Column("message", sa.Text(), nullable=False),
        sa.Column("artifact_sha256", sa.String(), nullable=True),
        sa.ForeignKeyConstraint(
            ["artifact_sha256"], ["artifacts.artifact_sha256"], name=op.f("fk_builds_artifact_sha256")
        ),
        sa.ForeignKeyConstraint(["campaign_id"], ["campaigns.campaign_id"], name=op.f("fk_builds_campaign_id")),
        sa.PrimaryKeyConstraint("campaign_id", "model", "recipe", name=op.f("pk_builds")),
    )
    op.create_table(
        "devices",
        sa.Column("device_id", sa.String(), nullable=False),
        sa.Column("name", sa.String(), nullable=True),
        sa.Column("latest_name", sa.String(), nullable=False),
        sa.Column("agent_version", sa.String(), nullable=False),
        sa.Column("session_epoch", sa.BigInteger(), nullable=False),
        sa.Column("first_seen_unix_s", sa.Double(), nullable=False),
        sa.Column("last_seen_unix_s", sa.Double(), nullable=False),
        sa.Column("snapshot_sha256", sa.String(), nullable=False),
        sa.ForeignKeyConstraint(
            ["snapshot_sha256"], ["device_snapshots.snapshot_sha256"], name=op.f("fk_devices_snapshot_sha256")
        ),
        sa.PrimaryKeyConstraint("device_id", name=op.f("pk_devices")),
        sa.UniqueConstraint("name", name=op.f("uq_devices_name")),
    )
    op.create_table(
        "events",
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column("time_unix_s", sa.Double(), nullable=False),
        sa.Column("campaign_id", sa.String(), nullable=True),
        sa.Column("device_id", sa.String(), nullable=True),
        sa.Column("kind", sa.String(), nullable=False),
        sa.Column("message", sa.Text(), nullable=False),
        sa.ForeignKeyConstraint(["campaign_id"], ["campaigns.campaign_id"], name=op.f("fk_events_campaign_id")),
        sa.ForeignKeyConstraint(["device_id"], ["devices.device_id"], name=op.f("fk_events_device_id")),
        sa.PrimaryKeyConstraint("number", name=op.f("pk_events")),
    )
    op.create_index(op.f("ix_events_campaign_id"), "events", ["campaign_id"], unique=False)
    op.create_table(
        "jobs",
        sa.Column("job_id", sa.String(), nullable=False),
        sa.Column("campaign_id", sa.String(), nullable=False),
        sa.Column("device_id", sa.String(), nullable=False),
        sa.Column("model", sa.String(), nullable=False),
        sa.Column("recipe", sa.String(), nullable=False),
        sa.Column("ordinal", sa.Integer(), nullable=False),
        sa.Column("state", sa.String(), nullable=False),
        sa.Column("failure_type", sa.String(), nullable=False),
        sa.Column("failure_message", sa.Text(), nullable=False),
        sa.ForeignKeyConstraint(["campaign_id"], ["campaigns.campaign_id"], name=op.f("fk_jobs_campaign_id")),
        sa.ForeignKeyConstraint(["device_id"], ["devices.device_id"], name=op.f("fk_jobs_device_id")),
        sa.PrimaryKeyConstraint("job_id", name=op.f("pk_jobs")),
    )
    op.create_index(op.f("ix_jobs_campaign_id"), "jobs", ["campaign_id"], unique=False)
    op.create_index("ix_jobs_device_id_model", "jobs", ["device_id", "model"], unique=False)
    op.create_table(
        "runs",
        sa.Column("run_id", sa.String(), nullable=False),
        sa.Column("job_id", sa.String(), nullable=False),
        sa.Column("repeat_index", sa.Integer(), nullable=False),
        sa.Column("position", sa.Integer(), nullable=False),
        sa.Column("state", sa.String(), nullable=False),
        sa.Column("attempt", sa.Integer(), nullable=False),
        sa.Column("leased_unix_s", sa.Double(), nullable=True),
        sa.Column("failure_type", sa.String(), nullable=False),
        sa.Column("failure_message", sa.Text(), nullable=False),
        sa.Column("reported_unix_s", sa.Double(), nullable=True),
        sa.Column("device_id", sa.String(), nullable=True),
        sa.Column("reported_attempt", sa.Integer(), nullable=True),
        sa.Column("reported_failure_type", sa.String(), nullable=True),
        sa.Column("reported_failure_message", sa.Text(), nullable=True),
        sa.Column("log_tail", sa.JSON(), nullable=True),
        sa.Column("started_unix_s", sa.Double(), nullable=True),
        sa.Column("started_monotonic_s", sa.Double(), nullable=True),
        sa.Column("duration_s", sa.Double(), nullable=True),
        sa.Column("agent_version", sa.String(), nullable=True),
        sa.Column("protocol_version", sa.Integer(), nullable=True),
        sa.Column("latency_count", sa.Integer(), nullable=True),
        sa.Column("latency_min_s", sa.Double(), nullable=True),
        sa.Column("latency_p50_s", sa.Double(), nullable=True),
        sa.Column("latency_p90_s", sa.Double(), nullable=True),
        sa.Column("latency_p95_s", sa.Double(), nullable=True),
        sa.Column("latency_p99_s", sa.Double(), nullable=True),
        sa.Column("latency_max_s", sa.Double(), nullable=True),
        sa.Column("latency_mean_s", sa.Double(), nullable=True),
        sa.Column("latency_standard_deviation_s", sa.Double(), nullable=True),
        sa.Column("latency_cov", sa.Double(), nullable=True),
        sa.Column("latency_mad_s", sa.Double(), nullable=True),
        sa.Column("warmup_count", sa.Integer(), nullable=True),
        sa.Column("warmup_converged", sa.Boolean(), nullable=True),
        sa.Column("transfer_s", sa.Double(), nullable=True),
        sa.Column("transfer_bytes", sa.BigInteger(), nullable=True),
        sa.Column("read_s", sa.Double(), nullable=True),
        sa.Column("session_create_s", sa.Double(), nullable=True),
        sa.Column("first_inference_s", sa.Double(), nullable=True),
        sa.Column("load_s", sa.Double(), nullable=True),
        sa.Column("load_cold", sa.Boolean(), nullable=True),
        sa.Column("peak_pss_bytes", sa.BigInteger(), nullable=True),
        sa.Column("board_available_before_bytes", sa.BigInteger(), nullable=True),
        sa.Column("board_available_min_bytes", sa.BigInteger(), nullable=True),
        sa.Column("board_memory_delta_bytes", sa.BigInteger(), nullable=True),
        sa.Column("swap_used_before_bytes", sa.BigInteger(), nullable=True),
        sa.Column("swap_used_max_bytes", sa.BigInteger(), nullable=True),
        sa.Column("swap_delta_bytes", sa.BigInteger(), nullable=True),
        sa.Column("backend", sa.String(), nullable=True),
        sa.Column("providers", sa.Text(), nullable=True),
        sa.Column("runtime_version", sa.String(), nullable=True),
        sa.Column("library_versions", sa.JSON(), nullable=True),
        sa.Column("session_options", sa.JSON(), nullable=True),
        sa.Column("sampler_cpu_s", sa.Double(), nullable=True),
        sa.Column("sampler_core_share", sa.Double(), nullable=True),
        sa.Column("sampler_wakeups", sa.Integer(), nullable=True),
        sa.Column("snapshot_sha256", sa.String(), nullable=True),
        sa.ForeignKeyConstraint(["device_id"], ["devices.device_id"], name=op.f("fk_runs_device_id")),
        sa.ForeignKeyConstraint(["job_id"], ["jobs.job_id"], name=op.f("fk_runs_job_id")),
        sa.ForeignKeyConstraint(
            ["snapshot_sha256"], ["device_snapshots.snapshot_sha256"], name=op.f("fk_runs_snapshot_sha256")
        ),
        sa.PrimaryKeyConstraint("run_id", name=op.f("pk_runs")),
        sa.UniqueConstraint("job_id", "repeat_index", name=op.f("uq_runs_job_id")),
    )
    op.create_table(
        "series",
        sa.Column("run_id", sa.String(), nullable=False),
        sa.Column("samples", sa.LargeBinary(), nullable=False),
        sa.ForeignKeyConstraint(["run_id"], ["runs.run_id"], name=op.f("fk_series_run_id")),
        sa.PrimaryKeyConstraint("run_id", name=op.f("pk_series")),
    )
    op.create_table(
        "stages",
        sa.Column("run_id", sa.String(), nullable=False),
        sa.Column("ordinal", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("stage", sa.String(), nullable=False),
        sa.Column("duration_s", sa.Double(), nullable=False),
        sa.Column("size_bytes", sa.BigInteger(), nullable=True),
        sa.Column("cold", sa.Boolean(), nullable=False),
        sa.ForeignKeyConstraint(["run_id"], ["runs.run_id"], name=op.f("fk_stages_run_id")),
        sa.PrimaryKeyConstraint("run_id", "ordinal", name=op.f("pk_stages")),
    )
    op.execute(RESULTS)
    op.execute(RUN_RESULTS)
