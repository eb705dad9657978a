"""The view that schema 2 added, as it was released."""

from efficientquant_controller.store.views.sql import ratio

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
