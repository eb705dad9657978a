"""SQL of the views of schema 3. A released text never changes: a changed view is a new text and a new migration."""

from efficientquant_controller.store.comparison_view import COMPARISONS
from efficientquant_controller.store.views import RESULTS, RUN_RESULTS, _median, _over_succeeded


def _of_runs(column: str, order: str) -> str:
    """A column of one of the job's succeeded runs, as text; empty before there is one."""
    return (
        f"coalesce((SELECT CAST(runs.{column} AS TEXT) FROM runs "  # noqa: S608
        "WHERE runs.job_id = jobs.job_id AND runs.state = 'succeeded' "
        f"ORDER BY {order} LIMIT 1), '')"
    )


_LAST = "runs.repeat_index DESC"
_WORST = "CASE runs.verdict WHEN 'INVALID' THEN 0 WHEN 'B' THEN 1 WHEN 'A' THEN 2 ELSE 3 END, runs.repeat_index"
_AGREEMENT = "min(CAST(runs.output_argmax_matches AS DOUBLE PRECISION) / NULLIF(runs.output_count, 0))"
_TRUST = f""",
{_of_runs("verdict", _WORST)} AS verdict,
{_of_runs("verdict_reasons", _WORST)} AS verdict_reasons,
{_median("latency_p90_bound_s")} AS latency_p90_bound_s,
{_median("latency_p99_bound_s")} AS latency_p99_bound_s,
{_median("device_latency_p50_s")} AS device_latency_p50_s,
{_median("energy_per_inference_j")} AS energy_per_inference_j,
{_median("net_energy_per_inference_j")} AS net_energy_per_inference_j,
{_median("mean_power_w")} AS mean_power_w,
{_median("idle_power_w")} AS idle_power_w,
{_of_runs("rail_set", _LAST)} AS rail_set,
{_over_succeeded("max(runs.max_temperature_c)")} AS max_temperature_c,
{_over_succeeded("min(runs.gpu_clock_min_hz)")} AS gpu_clock_min_hz,
{_over_succeeded("max(runs.gpu_clock_max_hz)")} AS gpu_clock_max_hz,
{_over_succeeded("avg(runs.paper_load_s)")} AS paper_load_s,
{_over_succeeded("CAST(round(avg(runs.paper_memory_bytes)) AS BIGINT)")} AS paper_memory_bytes,
{_of_runs("paper_memory_kind", _LAST)} AS paper_memory_kind,
{_median("gpu_process_peak_bytes", integer=True)} AS gpu_process_peak_bytes,
{_over_succeeded("max(runs.output_max_abs)")} AS output_max_abs,
{_over_succeeded("min(runs.output_cosine)")} AS output_cosine,
{_over_succeeded(_AGREEMENT)} AS output_argmax_agreement,
jobs.target,
{_of_runs("realised_precision", _LAST)} AS realised_precision,
{_of_runs("conditions", _LAST)} AS conditions,
{_over_succeeded("sum(runs.latency_mean_s * runs.latency_count) / sum(runs.latency_count)")} AS paper_latency_s,
campaigns.paper,
{_median("engine_bytes", integer=True)} AS engine_bytes,
{_median("build_s")} AS build_s,
{_median("warm_load_s")} AS warm_load_s
FROM jobs
"""
_BY_TARGET = "AND builds.recipe = jobs.recipe AND builds.target = jobs.target\n"
_RUN_COLUMNS = (
    *("verdict", "verdict_reasons", "statistics_version", "conditions", "findings", "latency_p90_bound_s"),
    *("latency_p99_bound_s", "latency_drift", "device_latency_p50_s", "device_latency_p99_s", "parse_s", "build_s"),
    *("deserialize_s", "create_context_s", "warm_load_s", "paper_load_s", "paper_memory_bytes", "paper_memory_kind"),
    *("device_memory_bytes", "gpu_process_peak_bytes", "energy_per_inference_j", "net_energy_per_inference_j"),
    *("mean_power_w", "idle_power_w", "rail_set", "max_temperature_c", "gpu_clock_min_hz", "gpu_clock_max_hz"),
    *("throttled", "output_max_abs", "output_cosine", "output_argmax_matches", "output_count", "engine_sha256"),
    *("engine_bytes", "realised_precision"),
)

RESULTS_3 = RESULTS.replace("AND builds.recipe = jobs.recipe\n", _BY_TARGET).replace("\nFROM jobs\n", _TRUST, 1)
RUN_RESULTS_3 = RUN_RESULTS.replace("AND builds.recipe = jobs.recipe\n", _BY_TARGET).replace(
    "\nFROM jobs\n", ", " + ", ".join(f"runs.{name}" for name in _RUN_COLUMNS) + ", jobs.target\nFROM jobs\n", 1
)
COMPARISONS_3 = COMPARISONS
