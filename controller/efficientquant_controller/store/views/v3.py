"""The views of schema 3, as they were released."""

from efficientquant_controller.store.views.sql import (
    LAST,
    WEIGHTS,
    WORST,
    median,
    of_last_report,
    of_one_run,
    over_succeeded,
    ratio,
)

_JOINS = """FROM jobs
JOIN campaigns ON campaigns.campaign_id = jobs.campaign_id
JOIN devices ON devices.device_id = jobs.device_id
LEFT JOIN builds ON builds.campaign_id = jobs.campaign_id AND builds.model = jobs.model \
AND builds.recipe = jobs.recipe AND builds.target = jobs.target
LEFT JOIN artifacts ON artifacts.artifact_sha256 = builds.artifact_sha256"""
_AGREEMENT = "min(CAST(runs.output_argmax_matches AS DOUBLE PRECISION) / NULLIF(runs.output_count, 0))"

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
{median("board_memory_delta_bytes", integer=True)} AS board_memory_delta_bytes,
{of_one_run("verdict", WORST)} AS verdict,
{of_one_run("verdict_reasons", WORST)} AS verdict_reasons,
{median("latency_p90_bound_s")} AS latency_p90_bound_s,
{median("latency_p99_bound_s")} AS latency_p99_bound_s,
{median("device_latency_p50_s")} AS device_latency_p50_s,
{median("energy_per_inference_j")} AS energy_per_inference_j,
{median("net_energy_per_inference_j")} AS net_energy_per_inference_j,
{median("mean_power_w")} AS mean_power_w,
{median("idle_power_w")} AS idle_power_w,
{of_one_run("rail_set", LAST)} AS rail_set,
{over_succeeded("max(runs.max_temperature_c)")} AS max_temperature_c,
{over_succeeded("min(runs.gpu_clock_min_hz)")} AS gpu_clock_min_hz,
{over_succeeded("max(runs.gpu_clock_max_hz)")} AS gpu_clock_max_hz,
{over_succeeded("avg(runs.paper_load_s)")} AS paper_load_s,
{over_succeeded("CAST(round(avg(runs.paper_memory_bytes)) AS BIGINT)")} AS paper_memory_bytes,
{of_one_run("paper_memory_kind", LAST)} AS paper_memory_kind,
{median("gpu_process_peak_bytes", integer=True)} AS gpu_process_peak_bytes,
{over_succeeded("max(runs.output_max_abs)")} AS output_max_abs,
{over_succeeded("min(runs.output_cosine)")} AS output_cosine,
{over_succeeded(_AGREEMENT)} AS output_argmax_agreement,
jobs.target,
{of_one_run("realised_precision", LAST)} AS realised_precision,
{of_one_run("conditions", LAST)} AS conditions,
{over_succeeded("sum(runs.latency_mean_s * runs.latency_count) / sum(runs.latency_count)")} AS paper_latency_s,
campaigns.paper,
{median("engine_bytes", integer=True)} AS engine_bytes,
{median("build_s")} AS build_s,
{median("warm_load_s")} AS warm_load_s
{_JOINS}
ORDER BY campaigns.number DESC, jobs.ordinal"""  # noqa: S608

_RUN_COLUMNS = (
    *("reported_unix_s", "reported_attempt", "reported_failure_type", "reported_failure_message"),
    *("started_unix_s", "started_monotonic_s", "duration_s", "agent_version", "protocol_version"),
    *("latency_count", "latency_min_s", "latency_p50_s", "latency_p90_s", "latency_p95_s", "latency_p99_s"),
    *("latency_max_s", "latency_mean_s", "latency_standard_deviation_s", "latency_cov", "latency_mad_s"),
    *("warmup_count", "warmup_converged", "transfer_s", "transfer_bytes", "read_s", "session_create_s"),
    *("first_inference_s", "load_s", "load_cold", "peak_pss_bytes", "board_available_before_bytes"),
    *("board_available_min_bytes", "board_memory_delta_bytes", "swap_used_before_bytes"),
    *("swap_used_max_bytes", "swap_delta_bytes", "backend", "providers", "runtime_version"),
    *("library_versions", "session_options", "sampler_cpu_s", "sampler_core_share", "sampler_wakeups"),
    *("snapshot_sha256", "verdict", "verdict_reasons", "statistics_version", "conditions", "findings"),
    *("latency_p90_bound_s", "latency_p99_bound_s", "latency_drift", "device_latency_p50_s"),
    *("device_latency_p99_s", "parse_s", "build_s", "deserialize_s", "create_context_s", "warm_load_s"),
    *("paper_load_s", "paper_memory_bytes", "paper_memory_kind", "device_memory_bytes"),
    *("gpu_process_peak_bytes", "energy_per_inference_j", "net_energy_per_inference_j", "mean_power_w"),
    *("idle_power_w", "rail_set", "max_temperature_c", "gpu_clock_min_hz", "gpu_clock_max_hz", "throttled"),
    *("output_max_abs", "output_cosine", "output_argmax_matches", "output_count", "engine_sha256"),
    *("engine_bytes", "realised_precision"),
)

RUN_RESULTS = f"""CREATE VIEW run_results AS
SELECT jobs.campaign_id, jobs.job_id, runs.run_id, devices.latest_name AS device, jobs.device_id, jobs.model,
jobs.recipe, {WEIGHTS} AS weights, campaigns.tier, runs.repeat_index, runs.position, runs.state, runs.attempt,
runs.failure_type, runs.failure_message, coalesce(builds.artifact_sha256, '') AS artifact_sha256,
artifacts.size_bytes AS artifact_bytes,
{", ".join(f"runs.{column}" for column in _RUN_COLUMNS)}, jobs.target
{_JOINS}
JOIN runs ON runs.job_id = jobs.job_id"""

COMPARISONS = f"""CREATE VIEW comparisons AS
SELECT own.campaign_id, own.job_id, fp32.job_id AS fp32_job_id, own.device, own.model, own.recipe, own.weights,
own.tier, own.runs_done, fp32.runs_done AS fp32_runs_done,
{ratio("artifact_bytes")} AS size_ratio,
{ratio("latency_p50_s")} AS latency_ratio,
{ratio("latency_p50_min_s", "latency_p50_max_s")} AS latency_ratio_min,
{ratio("latency_p50_max_s", "latency_p50_min_s")} AS latency_ratio_max,
{ratio("load_s")} AS load_ratio,
{ratio("peak_pss_bytes")} AS peak_pss_ratio
FROM results AS own
JOIN results AS fp32 ON fp32.campaign_id = own.campaign_id AND fp32.device = own.device AND fp32.model = own.model
WHERE fp32.recipe = 'fp32' AND own.recipe <> 'fp32'"""  # noqa: S608
