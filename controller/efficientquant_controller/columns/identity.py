"""The columns that identify jobs, runs, devices and reports."""

from efficientquant_controller.columns.entry import Cell, Column, Kind, Origin, Over

_OF_JOB = "FROM runs WHERE runs.job_id = jobs.job_id"
_SUCCEEDED = f"{_OF_JOB} AND runs.state = 'succeeded'"
_WEIGHTS = (
    "CASE campaigns.weights_kind WHEN 'checkpoint' THEN 'checkpoint:' || campaigns.weights_filename "
    "ELSE campaigns.weights_kind END"
)


def _fact(name: str, meaning: str, sql: str, run_sql: str | None = None, kind: Kind = Kind.STRING) -> Column:
    """Make an entry of both views.

    `run_sql` is the expression in `run_results` where it differs from `sql`. It is empty for a column that only
    `results` has.
    """
    return Column(name, kind, Origin.JOB, meaning, job_sql=sql, run_sql=sql if run_sql is None else run_sql)


def _planned(name: str, meaning: str, kind: Kind = Kind.INTEGER) -> Column:
    return Column(name, kind, Origin.RUN, meaning, run_sql=f"runs.{name}")


def _device(name: str, meaning: str, kind: Kind = Kind.TEXT) -> Column:
    return Column(name, kind, Origin.SNAPSHOT, meaning, run_sql=f"device_snapshots.{name}")


IDENTITY = (
    _fact("campaign_id", "the campaign that the job belongs to", "jobs.campaign_id"),
    _fact("job_id", "the job's own id", "jobs.job_id"),
    Column("run_id", Kind.STRING, Origin.RUN, "the run's own id", run_sql="runs.run_id"),
    _fact("device", "the device's latest name", "devices.latest_name"),
    _fact("device_id", "the id that the device's agent keeps", "jobs.device_id"),
    _fact("model", "the model", "jobs.model"),
    _fact(
        "recipe",
        "how it was quantized, with the options that differ from their defaults, sorted, e.g. "
        "`efficientquant:scope=conv+linear:weight_bits=4`",
        "jobs.recipe",
    ),
    _fact("weights", "`pretrained`, `random` or `checkpoint:FILE`", _WEIGHTS),
    Column(
        "weights_sha256", Kind.STRING, Origin.RUN, "the checkpoint, by its SHA-256; empty for other weights",
        run_sql="campaigns.weights_sha256",
    ),
    _fact("tier", "how long each run measures: `smoke`, `quick`, `standard`, …", "campaigns.tier"),
    _fact("label", "the campaign's label, from `bench --label`; empty without one", "campaigns.label", kind=Kind.TEXT),
    _planned("repeat_index", "the number of the repeat, from 0"),
    _planned("position", "the run's place in the device's shuffled order"),
    _fact(
        "state",
        "`pending`, `queued`, `leased`, `succeeded`, `failed` or `cancelled`; a run is `planned` first",
        "jobs.state",
        "runs.state",
    ),
    _planned("attempt", "how often the run was assigned to the device"),
    _fact("failure_type", "the kind of failure; empty otherwise", "jobs.failure_type", "runs.failure_type"),
    _fact(
        "failure_message", "the failure in a sentence; empty otherwise", "jobs.failure_message", "runs.failure_message"
    ),
    _fact(
        "runs_planned",
        "requested repeats",
        "(SELECT count(*) FROM runs WHERE runs.job_id = jobs.job_id)",
        "",
        Kind.INTEGER,
    ),
    _fact("runs_done", "repeats that succeeded", f"(SELECT count(*) {_SUCCEEDED})", "", Kind.INTEGER),
    _fact(
        "artifact_sha256",
        "the ONNX file, by its SHA-256; empty before it was built",
        "coalesce(builds.artifact_sha256, '')",
    ),
    Column(
        "artifact_bytes", Kind.BIGINT, Origin.JOB, "the size of the ONNX file",
        job_sql="artifacts.size_bytes", run_sql="artifacts.size_bytes", cell=Cell("memory", "artifact", "MiB"),
    ),
)  # fmt: skip

# The device as it was during the run, in the view `run_results`.
SNAPSHOT = (
    _device("board", "the board, as it names itself"),
    _device("os", "its operating system"),
    _device("kernel", "its kernel"),
    _device("l4t", "its release of Jetson Linux; empty elsewhere"),
    _device("jetpack", "its JetPack; empty elsewhere"),
    _device("cuda_version", "its version of CUDA; empty without CUDA"),
    _device("gpus", "its GPUs with their names, compute capabilities and drivers", Kind.JSON),
)
REPORT = (
    Column(
        "reported_unix_s", Kind.DOUBLE, Origin.RECORDED,
        "when the result was committed, by the controller's clock; of a job, its last result",
        job_sql=f"(SELECT max(runs.reported_unix_s) {_OF_JOB})",
    ),
    Column("reported_attempt", Kind.INTEGER, Origin.RECORDED, "the attempt that gave the result"),
    Column(
        "reported_failure_type", Kind.STRING, Origin.RECORDED,
        "the failure type that the agent reported; a late result of a run that was given up leaves `state` as it is",
    ),
    Column("reported_failure_message", Kind.TEXT, Origin.RECORDED, "the failure in the agent's sentence"),
    Column(
        "started_unix_s", Kind.DOUBLE, Origin.REPORTED,
        "when the run started, by the device's clock; of a job, its first run, failed ones included",
        job_sql=f"(SELECT min(NULLIF(runs.started_unix_s, 0)) {_OF_JOB})",
    ),
    Column(
        "clock_offset_s", Kind.DOUBLE, Origin.MEASURED,
        "how far the device's clock was ahead of the controller's when the run started, negative when behind; "
        "`started_unix_s - clock_offset_s` is by the controller's clock; NULL when the agent did not know",
        Over.MEDIAN,
    ),
    Column(
        "started_monotonic_s", Kind.DOUBLE, Origin.REPORTED,
        "the device's monotonic clock when the child process started",
    ),
    Column("duration_s", Kind.DOUBLE, Origin.REPORTED, "how long the child process ran"),
    Column(
        "agent_version", Kind.STRING, Origin.REPORTED, "the version of the agent that measured", Over.LAST_REPORTED
    ),
    Column("protocol_version", Kind.INTEGER, Origin.REPORTED, "the protocol that the agent spoke"),
    Column("library_versions", Kind.JSON, Origin.RECORDED, "versions of the libraries that were loaded, by name"),
    Column("session_options", Kind.JSON, Origin.RECORDED, "the options that the runtime ran with, by name"),
    Column("snapshot_sha256", Kind.STRING, Origin.RECORDED, "the device as it was then (table `device_snapshots`)"),
)  # fmt: skip
RUNTIME = (
    Column(
        "backend", Kind.STRING, Origin.REPORTED, "the backend that ran it, e.g. `ort-cpu`",
        Over.LAST_REPORTED,
    ),
    Column(
        "providers", Kind.TEXT, Origin.RECORDED, "the runtime's providers in order, separated by commas",
        Over.LAST_REPORTED,
    ),
    Column("runtime_version", Kind.STRING, Origin.RECORDED, "the version of the runtime", Over.LAST_REPORTED),
)  # fmt: skip
