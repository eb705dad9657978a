"""Results as every client gets them: the rows of the view, with what each recipe bought beside FP32."""

from collections.abc import Mapping, Sequence
from typing import Any

from efficientquant_controller.analysis.twins import with_comparisons
from efficientquant_controller.errors import NotFoundError
from efficientquant_controller.model import RunState
from efficientquant_controller.store.base import Store


def compared_results(store: Store, campaign_id: str | None) -> list[dict[str, Any]]:
    """The results of one campaign (an id or "latest"), or of all; raises NotFoundError for one that does not exist."""
    rows = store.results(campaign_id)
    repeats = [run for run in store.run_rows(campaign_id) if run["state"] == RunState.SUCCEEDED]
    return with_comparisons(rows, repeats, _checks(store, rows))


def _checks(store: Store, rows: Sequence[Mapping[str, Any]]) -> dict[str, Mapping[str, Any]]:
    """What the check of each artifact found; those that were not checked are left out."""
    found: dict[str, Mapping[str, Any]] = {}
    for sha256 in {row["artifact_sha256"] for row in rows} - {""}:
        try:
            check = store.artifact(sha256).provenance.get("check")
        except NotFoundError:  # a later build of the same request made another file
            continue
        if isinstance(check, Mapping):
            found[sha256] = check
    return found
