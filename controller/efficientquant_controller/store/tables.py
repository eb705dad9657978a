"""The tables of the results database; what each column means stands in docs/database.md."""

from sqlalchemy import (
    JSON,
    BigInteger,
    Boolean,
    Column,
    Dialect,
    Double,
    ForeignKey,
    ForeignKeyConstraint,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
    Text,
    TypeDecorator,
    UniqueConstraint,
)

metadata = MetaData(
    naming_convention={
        "pk": "pk_%(table_name)s",
        "fk": "fk_%(table_name)s_%(column_0_name)s",
        "uq": "uq_%(table_name)s_%(column_0_name)s",
        "ix": "ix_%(table_name)s_%(column_0_name)s",
    }
)


class UnsignedBigInteger(TypeDecorator[int]):
    """The wire's uint64 in SQL's signed 64 bits: numbers from 2**63 on are stored as value - 2**64."""

    impl = BigInteger
    cache_ok = True

    def process_bind_param(self, value: int | None, dialect: Dialect) -> int | None:
        """Wrap on the way in."""
        del dialect
        return value - 2**64 if value is not None and value >= 2**63 else value

    def process_result_value(self, value: int | None, dialect: Dialect) -> int | None:
        """Unwrap on the way out."""
        del dialect
        return value + 2**64 if value is not None and value < 0 else value


meta = Table(
    "meta",
    metadata,
    Column("key", String, primary_key=True),
    Column("value", Text, nullable=False),
)

device_snapshots = Table(
    "device_snapshots",
    metadata,
    Column("snapshot_sha256", String, primary_key=True),
    Column("board_id", Text, nullable=False),
    Column("board", Text, nullable=False),
    Column("os", Text, nullable=False),
    Column("kernel", Text, nullable=False),
    Column("architecture", Text, nullable=False),
    Column("cpu_model", Text, nullable=False),
    Column("cpu_count", Integer, nullable=False),
    Column("memory_total_bytes", BigInteger, nullable=False),
    Column("swap_total_bytes", BigInteger, nullable=False),
    Column("l4t", Text, nullable=False),
    Column("library_versions", JSON, nullable=False),
    Column("backends", JSON, nullable=False),
    Column("jetpack", Text, nullable=False),
    Column("cuda_version", Text, nullable=False),
    Column("power_mode", Text, nullable=False),
    Column("clock_control", Text, nullable=False),
    Column("gpus", JSON, nullable=False),
    Column("first_seen_unix_s", Double, nullable=False),
)

devices = Table(
    "devices",
    metadata,
    Column("device_id", String, primary_key=True),
    Column("name", String, unique=True),
    Column("latest_name", String, nullable=False),
    Column("agent_version", String, nullable=False),
    Column("session_epoch", UnsignedBigInteger, nullable=False),
    Column("first_seen_unix_s", Double, nullable=False),
    Column("last_seen_unix_s", Double, nullable=False),
    Column("snapshot_sha256", ForeignKey(device_snapshots.c.snapshot_sha256), nullable=False),
)

recipes = Table(
    "recipes",
    metadata,
    Column("name", String, primary_key=True),
    Column("version", Integer, primary_key=True, autoincrement=False),
    Column("content", JSON, nullable=False),
)

artifacts = Table(
    "artifacts",
    metadata,
    Column("artifact_sha256", String, primary_key=True),
    Column("size_bytes", BigInteger, nullable=False),
)

# Two builds may make the same bytes: what belongs to the build is kept for each of them.
artifact_builds = Table(
    "artifact_builds",
    metadata,
    Column("number", Integer, primary_key=True),
    Column("build_key", String, nullable=False, unique=True),
    Column("artifact_sha256", ForeignKey(artifacts.c.artifact_sha256), nullable=False, index=True),
    Column("model", String, nullable=False),
    Column("recipe", String, nullable=False),
    Column("recipe_version", Integer, nullable=False),
    Column("weights", String, nullable=False),
    Column("parity_max_abs", Double),
    Column("notes", JSON, nullable=False),
    Column("provenance", JSON, nullable=False),
    Column("manifest", JSON, nullable=False),
    Column("target", String, nullable=False),
    Column("builder_flags", JSON, nullable=False),
    Column("reference_sha256", String, nullable=False),
    Column("reference_bytes", BigInteger, nullable=False),
    ForeignKeyConstraint(["recipe", "recipe_version"], [recipes.c.name, recipes.c.version]),
)

campaigns = Table(
    "campaigns",
    metadata,
    Column("number", Integer, primary_key=True),
    Column("campaign_id", String, nullable=False, unique=True),
    Column("state", String, nullable=False),
    Column("created_unix_s", Double, nullable=False),
    Column("ended_unix_s", Double),
    Column("models", JSON, nullable=False),
    Column("recipes", JSON, nullable=False),
    Column("devices", JSON, nullable=False),
    Column("weights_kind", String, nullable=False),
    Column("weights_sha256", String, nullable=False),
    Column("weights_filename", Text, nullable=False),
    Column("tier", String, nullable=False),
    Column("measurement", JSON, nullable=False),
    Column("repeats", Integer, nullable=False),
    Column("seed", UnsignedBigInteger, nullable=False),
    Column("calibration_sha256", String),
    Column("calibration_filename", Text),
    Column("paper", Boolean, nullable=False),
)

builds = Table(
    "builds",
    metadata,
    Column("campaign_id", ForeignKey(campaigns.c.campaign_id), primary_key=True),
    Column("model", String, primary_key=True),
    Column("recipe", String, primary_key=True),
    Column("target", String, primary_key=True),
    Column("build_key", String, nullable=False),
    Column("ordinal", Integer, nullable=False),
    Column("state", String, nullable=False),
    Column("message", Text, nullable=False),
    Column("artifact_sha256", ForeignKey(artifacts.c.artifact_sha256)),
)

jobs = Table(
    "jobs",
    metadata,
    Column("job_id", String, primary_key=True),
    Column("campaign_id", ForeignKey(campaigns.c.campaign_id), nullable=False, index=True),
    Column("device_id", ForeignKey(devices.c.device_id), nullable=False),
    Column("model", String, nullable=False),
    Column("recipe", String, nullable=False),
    Column("ordinal", Integer, nullable=False),
    Column("state", String, nullable=False),
    Column("failure_type", String, nullable=False),
    Column("failure_message", Text, nullable=False),
    Column("target", String, nullable=False),
    Column("backend", String, nullable=False),
    Index("ix_jobs_device_id_model", "device_id", "model"),
)

runs = Table(
    "runs",
    metadata,
    Column("run_id", String, primary_key=True),
    Column("job_id", ForeignKey(jobs.c.job_id), nullable=False),
    Column("repeat_index", Integer, nullable=False),
    Column("position", Integer, nullable=False),
    Column("state", String, nullable=False),
    Column("attempt", Integer, nullable=False),
    Column("leased_unix_s", Double),
    Column("failure_type", String, nullable=False),
    Column("failure_message", Text, nullable=False),
    # Everything below comes with the report and is NULL before it.
    Column("reported_unix_s", Double),
    Column("device_id", ForeignKey(devices.c.device_id)),
    Column("reported_attempt", Integer),
    Column("reported_failure_type", String),
    Column("reported_failure_message", Text),
    Column("log_tail", JSON),
    Column("started_unix_s", Double),
    Column("started_monotonic_s", Double),
    Column("duration_s", Double),
    Column("agent_version", String),
    Column("protocol_version", Integer),
    Column("latency_count", Integer),
    Column("latency_min_s", Double),
    Column("latency_p50_s", Double),
    Column("latency_p90_s", Double),
    Column("latency_p95_s", Double),
    Column("latency_p99_s", Double),
    Column("latency_max_s", Double),
    Column("latency_mean_s", Double),
    Column("latency_standard_deviation_s", Double),
    Column("latency_cov", Double),
    Column("latency_mad_s", Double),
    Column("warmup_count", Integer),
    Column("warmup_converged", Boolean),
    Column("transfer_s", Double),
    Column("transfer_bytes", BigInteger),
    Column("read_s", Double),
    Column("session_create_s", Double),
    Column("first_inference_s", Double),
    Column("load_s", Double),
    Column("load_cold", Boolean),
    Column("peak_pss_bytes", BigInteger),
    Column("board_available_before_bytes", BigInteger),
    Column("board_available_min_bytes", BigInteger),
    Column("board_memory_delta_bytes", BigInteger),
    Column("swap_used_before_bytes", BigInteger),
    Column("swap_used_max_bytes", BigInteger),
    Column("swap_delta_bytes", BigInteger),
    Column("backend", String),
    Column("providers", Text),
    Column("runtime_version", String),
    Column("library_versions", JSON),
    Column("session_options", JSON),
    Column("sampler_cpu_s", Double),
    Column("sampler_core_share", Double),
    Column("sampler_wakeups", Integer),
    Column("snapshot_sha256", ForeignKey(device_snapshots.c.snapshot_sha256)),
    # How far it can be trusted, by the rules of `statistics_version`.
    Column("verdict", String),
    Column("verdict_reasons", JSON),
    Column("statistics_version", Integer),
    Column("conditions", JSON),
    Column("findings", JSON),
    Column("latency_p90_bound_s", Double),
    Column("latency_p99_bound_s", Double),
    Column("latency_drift", Double),
    Column("device_latency_p50_s", Double),
    Column("device_latency_p99_s", Double),
    Column("parse_s", Double),
    Column("build_s", Double),
    Column("deserialize_s", Double),
    Column("create_context_s", Double),
    Column("warm_load_s", Double),
    Column("paper_load_s", Double),
    Column("paper_memory_bytes", BigInteger),
    Column("paper_memory_kind", String),
    Column("device_memory_bytes", BigInteger),
    Column("gpu_process_peak_bytes", BigInteger),
    Column("energy_per_inference_j", Double),
    Column("net_energy_per_inference_j", Double),
    Column("mean_power_w", Double),
    Column("idle_power_w", Double),
    Column("rail_set", String),
    Column("max_temperature_c", Double),
    Column("gpu_clock_min_hz", Double),
    Column("gpu_clock_max_hz", Double),
    Column("throttled", Boolean),
    Column("output_max_abs", Double),
    Column("output_cosine", Double),
    Column("output_argmax_matches", Integer),
    Column("output_count", Integer),
    Column("engine_sha256", String),
    Column("engine_bytes", BigInteger),
    Column("realised_precision", JSON),
    UniqueConstraint("job_id", "repeat_index"),
)

# The engine that a run used, and every layer of it.
engines = Table(
    "engines",
    metadata,
    Column("run_id", ForeignKey(runs.c.run_id), primary_key=True),
    Column("engine_sha256", String, nullable=False),
    Column("size_bytes", BigInteger, nullable=False),
    Column("from_cache", Boolean, nullable=False),
    Column("workspace_bytes", BigInteger, nullable=False),
    Column("notes", JSON, nullable=False),
    Column("settings", JSON, nullable=False),
    Column("realised_precision", JSON, nullable=False),
    Column("layers", JSON, nullable=False),
)

# A table of its own, so that queries over runs never read the blobs' pages.
series = Table(
    "series",
    metadata,
    Column("run_id", ForeignKey(runs.c.run_id), primary_key=True),
    Column("samples", LargeBinary, nullable=False),
)

stages = Table(
    "stages",
    metadata,
    Column("run_id", ForeignKey(runs.c.run_id), primary_key=True),
    Column("ordinal", Integer, primary_key=True, autoincrement=False),
    Column("stage", String, nullable=False),
    Column("duration_s", Double, nullable=False),
    Column("size_bytes", BigInteger),
    Column("cold", Boolean, nullable=False),
)

events = Table(
    "events",
    metadata,
    Column("number", Integer, primary_key=True),
    Column("time_unix_s", Double, nullable=False),
    Column("campaign_id", ForeignKey(campaigns.c.campaign_id), index=True),
    Column("device_id", ForeignKey(devices.c.device_id)),
    Column("kind", String, nullable=False),
    Column("message", Text, nullable=False),
)
