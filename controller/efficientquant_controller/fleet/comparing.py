"""Results for clients, each row with its comparison to FP32."""

from collections.abc import Mapping, Sequence
from typing import Any

from efficientquant_controller.analysis.twins import place, with_comparisons
from efficientquant_controller.errors import NotFoundError
from efficientquant_controller.model import TWIN_RECIPE, RunState
from efficientquant_controller.store.base import Store


def compared_results(store: Store, campaign_id: str | None) -> list[dict[str, Any]]:
    """Return the results of one campaign, or of all.

    `campaign_id` may be "latest". Raises NotFoundError when the campaign does not exist.
    """
    rows, stored = store.results(campaign_id), store.comparisons(campaign_id)
    return with_comparisons(rows, _repeats_to_compare(store, rows, stored), _checks(store, rows), stored)


def _repeats_to_compare(
    store: Store, rows: Sequence[Mapping[str, Any]], stored: Mapping[str, Any]
) -> list[Mapping[str, Any]]:
    """Read the succeeded repeats of pairs whose comparison is not stored."""
    twins = {place(row): row["job_id"] for row in rows if row["recipe"] == TWIN_RECIPE}
    uncompared = [
        row for row in rows if row["recipe"] != TWIN_RECIPE and place(row) in twins and row["job_id"] not in stored
    ]
    job_ids = {job_id for row in uncompared for job_id in (row["job_id"], twins[place(row)])}
    runs = [run for campaign_id in {row["campaign_id"] for row in uncompared} for run in store.run_rows(campaign_id)]
    return [run for run in runs if run["job_id"] in job_ids and run["state"] == RunState.SUCCEEDED]


def _checks(store: Store, rows: Sequence[Mapping[str, Any]]) -> dict[str, Mapping[str, Any]]:
    """Return the check of each checked artifact, by SHA-256."""
    checks: dict[str, Mapping[str, Any]] = {}
    for sha256 in {row["artifact_sha256"] for row in rows} - {""}:
        try:
            check = store.artifact(sha256).provenance.get("check")
        except NotFoundError:  # a later build of the same request made another file
            continue
        if isinstance(check, Mapping):
            checks[sha256] = check
    return checks
