"""The views of schema 1, as they were released."""

from efficientquant_controller.store.views.sql import WEIGHTS, median, of_last_report, over_succeeded

_JOINS = """FROM jobs
JOIN campaigns ON campaigns.campaign_id = jobs.campaign_id
JOIN devices ON devices.device_id = jobs.device_id
LEFT JOIN builds ON builds.campaign_id = jobs.campaign_id AND builds.model = jobs.model AND builds.recipe = jobs.recipe
LEFT JOIN artifacts ON artifacts.artifact_sha256 = builds.artifact_sha256"""

RESULTS = f"""CREATE VIEW results AS
SELECT jobs.campaign_id, jobs.job_id, devices.latest_name AS device, jobs.model, jobs.recipe, {WEIGHTS} AS weights,
campaigns.tier, jobs.state, jobs.failure_type, jobs.failure_message,
(SELECT count(*) FROM runs WHERE runs.job_id = jobs.job_id) AS runs_planned,
{over_succeeded("count(*)")} AS runs_done,
coalesce(builds.artifact_sha256, '') AS artifact_sha256,
artifacts.size_bytes AS artifact_bytes,
{of_last_report("backend")} AS backend,
{of_last_report("providers")} AS providers,
{of_last_report("runtime_version")} AS runtime_version,
{over_succeeded("CAST(sum(runs.latency_count) AS BIGINT)")} AS latency_count,
{median("latency_p50_s")} AS latency_p50_s,
{over_succeeded("min(runs.latency_p50_s)")} AS latency_p50_min_s,
{over_succeeded("max(runs.latency_p50_s)")} AS latency_p50_max_s,
{median("latency_p90_s")} AS latency_p90_s,
{median("latency_p99_s")} AS latency_p99_s,
{median("transfer_s")} AS transfer_s,
{median("load_s")} AS load_s,
{median("read_s")} AS read_s,
{median("session_create_s")} AS session_create_s,
{median("first_inference_s")} AS first_inference_s,
{median("peak_pss_bytes", integer=True)} AS peak_pss_bytes,
{median("board_memory_delta_bytes", integer=True)} AS board_memory_delta_bytes
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
jobs.recipe, {WEIGHTS} AS weights, campaigns.tier, runs.repeat_index, runs.position, runs.state, runs.attempt,
runs.failure_type, runs.failure_message, coalesce(builds.artifact_sha256, '') AS artifact_sha256,
artifacts.size_bytes AS artifact_bytes,
{", ".join(f"runs.{column}" for column in _RUN_COLUMNS)}
{_JOINS}
JOIN runs ON runs.job_id = jobs.job_id"""
