"""SQL of the views of schema 1. A released text never changes: a changed view is a new text and a new migration."""


def _median(column: str, integer: bool = False) -> str:
    """Median of a column over a job's succeeded runs: the mean of the one or two middle values, NULL without any."""
    value = "CAST(round(avg(value)) AS BIGINT)" if integer else "avg(value)"
    return (
        f"(SELECT {value} FROM (SELECT runs.{column} AS value, row_number() OVER (ORDER BY runs.{column}) AS place, "  # noqa: S608
        "count(*) OVER () AS n FROM runs "
        f"WHERE runs.job_id = jobs.job_id AND runs.state = 'succeeded' AND runs.{column} IS NOT NULL) AS ranked "
        "WHERE place IN ((n + 1) / 2, (n + 2) / 2))"
    )


def _over_succeeded(expression: str) -> str:
    return f"(SELECT {expression} FROM runs WHERE runs.job_id = jobs.job_id AND runs.state = 'succeeded')"  # noqa: S608


def _of_last_report(column: str) -> str:
    """A column of the job's last reported repeat, a succeeded one before any other; empty before there is one."""
    return (
        f"coalesce((SELECT runs.{column} FROM runs "  # noqa: S608
        "WHERE runs.job_id = jobs.job_id AND runs.reported_unix_s IS NOT NULL "
        "ORDER BY CASE runs.state WHEN 'succeeded' THEN 0 ELSE 1 END, runs.repeat_index DESC LIMIT 1), '')"
    )


_WEIGHTS = (
    "CASE campaigns.weights_kind WHEN 'checkpoint' THEN 'checkpoint:' || campaigns.weights_filename "
    "ELSE campaigns.weights_kind END"
)
_JOINS = """FROM jobs
JOIN campaigns ON campaigns.campaign_id = jobs.campaign_id
JOIN devices ON devices.device_id = jobs.device_id
LEFT JOIN builds ON builds.campaign_id = jobs.campaign_id AND builds.model = jobs.model AND builds.recipe = jobs.recipe
LEFT JOIN artifacts ON artifacts.artifact_sha256 = builds.artifact_sha256"""

RESULTS = f"""CREATE VIEW results AS
SELECT jobs.campaign_id, jobs.job_id, devices.latest_name AS device, jobs.model, jobs.recipe, {_WEIGHTS} AS weights,
campaigns.tier, jobs.state, jobs.failure_type, jobs.failure_message,
(SELECT count(*) FROM runs WHERE runs.job_id = jobs.job_id) AS runs_planned,
{_over_succeeded("count(*)")} AS runs_done,
coalesce(builds.artifact_sha256, '') AS artifact_sha256,
artifacts.size_bytes AS artifact_bytes,
{_of_last_report("backend")} AS backend,
{_of_last_report("providers")} AS providers,
{_of_last_report("runtime_version")} AS runtime_version,
{_over_succeeded("CAST(sum(runs.latency_count) AS BIGINT)")} AS latency_count,
{_median("latency_p50_s")} AS latency_p50_s,
{_over_succeeded("min(runs.latency_p50_s)")} AS latency_p50_min_s,
{_over_succeeded("max(runs.latency_p50_s)")} AS latency_p50_max_s,
{_median("latency_p90_s")} AS latency_p90_s,
{_median("latency_p99_s")} AS latency_p99_s,
{_median("transfer_s")} AS transfer_s,
{_median("load_s")} AS load_s,
{_median("read_s")} AS read_s,
{_median("session_create_s")} AS session_create_s,
{_median("first_inference_s")} AS first_inference_s,
{_median("peak_pss_bytes", integer=True)} AS peak_pss_bytes,
{_median("board_memory_delta_bytes", integer=True)} AS board_memory_delta_bytes
{_JOINS}
ORDER BY campaigns.number DESC, jobs.ordinal"""  # noqa: S608

_RUN_COLUMNS = [
    "reported_unix_s",
    "reported_attempt",
    "reported_failure_type",
    "reported_failure_message",
    "started_unix_s",
    "started_monotonic_s",
    "duration_s",
    "agent_version",
    "protocol_version",
    "latency_count",
    "latency_min_s",
    "latency_p50_s",
    "latency_p90_s",
    "latency_p95_s",
    "latency_p99_s",
    "latency_max_s",
    "latency_mean_s",
    "latency_standard_deviation_s",
    "latency_cov",
    "latency_mad_s",
    "warmup_count",
    "warmup_converged",
    "transfer_s",
    "transfer_bytes",
    "read_s",
    "session_create_s",
    "first_inference_s",
    "load_s",
    "load_cold",
    "peak_pss_bytes",
    "board_available_before_bytes",
    "board_available_min_bytes",
    "board_memory_delta_bytes",
    "swap_used_before_bytes",
    "swap_used_max_bytes",
    "swap_delta_bytes",
    "backend",
    "providers",
    "runtime_version",
    "library_versions",
    "session_options",
    "sampler_cpu_s",
    "sampler_core_share",
    "sampler_wakeups",
    "snapshot_sha256",
]

RUN_RESULTS = f"""CREATE VIEW run_results AS
SELECT jobs.campaign_id, jobs.job_id, runs.run_id, devices.latest_name AS device, jobs.device_id, jobs.model,
jobs.recipe, {_WEIGHTS} AS weights, campaigns.tier, runs.repeat_index, runs.position, runs.state, runs.attempt,
runs.failure_type, runs.failure_message, coalesce(builds.artifact_sha256, '') AS artifact_sha256,
artifacts.size_bytes AS artifact_bytes,
{", ".join(f"runs.{column}" for column in _RUN_COLUMNS)}
{_JOINS}
JOIN runs ON runs.job_id = jobs.job_id"""
