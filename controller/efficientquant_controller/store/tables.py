"""The tables of the results database.

docs/database.md says what each column means.
"""

from collections.abc import Mapping
from typing import Any

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
    literal_column,
)
from sqlalchemy.types import TypeEngine

from efficientquant_controller.columns import OF_GUARD, OF_REPORTS, Kind
from efficientquant_controller.columns import Column as Entry
from efficientquant_controller.model import JobState

metadata = MetaData(
    naming_convention={
        "pk": "pk_%(table_name)s",
        "fk": "fk_%(table_name)s_%(column_0_name)s",
        "uq": "uq_%(table_name)s_%(column_0_name)s",
        "ix": "ix_%(table_name)s_%(column_0_name)s",
    }
)


class UnsignedBigInteger(TypeDecorator[int]):
    """The wire's uint64 in SQL's signed 64 bits.

    Numbers from 2**63 on are stored as value - 2**64.
    """

    impl = BigInteger
    cache_ok = True

    def process_bind_param(self, value: int | None, dialect: Dialect) -> int | None:
        """Wrap a value before it is stored."""
        del dialect
        return value - 2**64 if value is not None and value >= 2**63 else value

    def process_result_value(self, value: int | None, dialect: Dialect) -> int | None:
        """Unwrap a stored value."""
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
    Column("cpu_dot_products", JSON, nullable=False),
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

# Two builds may make the same bytes, so each build has its own row.
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
    Column("label", Text, nullable=False),
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
    Index("ix_jobs_place", "campaign_id", "device_id", "model", "recipe"),  # finds a variant's twin
)
# The partial index answers at once whether a campaign has an open job. Both need the same literals.
IS_OPEN = jobs.c.state.in_([literal_column(f"'{state}'") for state in JobState if not state.ended])
Index("ix_jobs_open", jobs.c.campaign_id, sqlite_where=IS_OPEN, postgresql_where=IS_OPEN)

_TYPES: Mapping[Kind, type[TypeEngine[Any]]] = {
    Kind.STRING: String,
    Kind.TEXT: Text,
    Kind.INTEGER: Integer,
    Kind.BIGINT: BigInteger,
    Kind.DOUBLE: Double,
    Kind.BOOLEAN: Boolean,
    Kind.JSON: JSON,
}


def _column(entry: Entry) -> Column[Any]:
    """Make a column of a table from its entry in the registry."""
    if entry.name == "snapshot_sha256":
        return Column(entry.name, ForeignKey(device_snapshots.c.snapshot_sha256))
    return Column(entry.name, _TYPES[entry.kind])


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
    Column("lease_ids", JSON),  # one for each attempt, oldest first
    Column("report_sha256", String),  # of the report's bytes, as the device computed it
    # The report fills the columns below, which are NULL before. Most of them come from the registry of columns.
    Column("device_id", ForeignKey(devices.c.device_id)),
    Column("log_tail", JSON),
    *map(_column, OF_REPORTS),
    UniqueConstraint("job_id", "repeat_index"),
)

# The controller that serves this database. It has at most one row.
controller_lease = Table(
    "controller_lease",
    metadata,
    Column("number", Integer, primary_key=True, autoincrement=False),
    Column("holder", Text, nullable=False),
    Column("token", String, nullable=False),
    Column("process", Text, nullable=False),
    Column("file", Text, nullable=False),
    Column("epoch", BigInteger, nullable=False),
    Column("expires_unix_s", Double, nullable=False),
)

# The guard's answer on a variant and its fp32 twin after both have ended, by the rules of `rules_version`.
job_comparisons = Table(
    "job_comparisons",
    metadata,
    Column("job_id", ForeignKey(jobs.c.job_id), primary_key=True),
    Column("fp32_job_id", ForeignKey(jobs.c.job_id), nullable=False),
    Column("rules_version", Integer, nullable=False),
    *map(_column, OF_GUARD),
)

# The engine that a run used, with every layer.
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

# This is a separate table, so that queries over runs never read the blobs' pages.
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
