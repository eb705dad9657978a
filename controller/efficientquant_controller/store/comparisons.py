"""The guard's answers in the table `job_comparisons`, for readers of SQL."""

import logging
import time
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from sqlalchemy import ColumnElement, RowMapping, and_, bindparam, delete, or_, select, text

from efficientquant_controller.analysis.guard import RULES_VERSION
from efficientquant_controller.analysis.twins import place, twin_columns
from efficientquant_controller.columns import OF_GUARD
from efficientquant_controller.model import TWIN_RECIPE, Job, JobState, RunState
from efficientquant_controller.store import tables
from efficientquant_controller.store.records import storable, typed
from efficientquant_controller.store.transactions import Transaction, Transactions

LOG = logging.getLogger(__name__)
# Comparing many campaigns again logs its progress this often.
PROGRESS_INTERVAL_S = 2.0
_ENDED = [state for state in JobState if state.ended]
_GUARD = [column.name for column in OF_GUARD]
_REPEATS = text(
    "SELECT * FROM run_results WHERE job_id IN :job_ids AND state = :state ORDER BY job_id, repeat_index"
).bindparams(bindparam("job_ids", expanding=True))


def compare_with_twin(sql: Transaction, job: Job) -> None:
    """Record the comparisons that the end of a job completes.

    For an fp32 job they are those of the variants that ended before it, otherwise only its own.
    """
    own = tables.jobs.c
    condition = and_(own.campaign_id == job.campaign_id, own.device_id == job.device_id, own.model == job.model)
    if job.recipe != TWIN_RECIPE:
        condition = and_(condition, own.recipe.in_((TWIN_RECIPE, job.recipe)))
    _record(sql, condition)


def stored_comparisons(sql: Transaction, campaign_id: str | None) -> dict[str, dict[str, Any]]:
    """Return the answers of the current rules, by job."""
    table, jobs = tables.job_comparisons, tables.jobs
    query = select(table.c.job_id, *(table.c[name] for name in _GUARD)).where(table.c.rules_version == RULES_VERSION)
    if campaign_id is not None:
        query = query.join(jobs, jobs.c.job_id == table.c.job_id).where(jobs.c.campaign_id == campaign_id)
    return {row["job_id"]: {name: row[name] for name in _GUARD} for row in sql.rows(query)}


def compare_again(transactions: Transactions, clock: Callable[[], float] = time.monotonic) -> None:
    """Compare every ended pair without an answer by the current rules.

    Each campaign is one transaction.
    """
    with transactions.read() as sql:
        campaign_ids = sql.scalars(_campaigns_to_compare())
    logged_s = clock()
    for done, campaign_id in enumerate(campaign_ids):
        if clock() - logged_s >= PROGRESS_INTERVAL_S:
            LOG.info("comparing variants with fp32 by newer rules: %d of %d campaigns", done, len(campaign_ids))
            logged_s = clock()
        with transactions.write() as sql:
            _record(sql, tables.jobs.c.campaign_id == campaign_id)


def _campaigns_to_compare() -> Any:
    own, twin, stored = tables.jobs.alias("own"), tables.jobs.alias("twin"), tables.job_comparisons
    same = [own.c[name] == twin.c[name] for name in ("campaign_id", "device_id", "model")]
    return (
        select(own.c.campaign_id)
        .join(twin, and_(*same, twin.c.recipe == TWIN_RECIPE))
        .outerjoin(stored, stored.c.job_id == own.c.job_id)
        .where(own.c.recipe != TWIN_RECIPE, own.c.state.in_(_ENDED), twin.c.state.in_(_ENDED))
        .where(or_(stored.c.rules_version.is_(None), stored.c.rules_version != RULES_VERSION))
        .distinct()
    )


def _record(sql: Transaction, condition: ColumnElement[bool]) -> None:
    """Compare the ended variants that meet a condition with their twins."""
    ended = select(tables.jobs).where(condition, tables.jobs.c.state.in_(_ENDED))
    jobs = [dict(row) for row in sql.rows(ended)]
    twins = {place(job): job["job_id"] for job in jobs if job["recipe"] == TWIN_RECIPE}
    variants = [job for job in jobs if job["recipe"] != TWIN_RECIPE and place(job) in twins]
    if not variants:
        return
    job_ids = [job["job_id"] for job in variants]
    repeats: dict[str, list[RowMapping]] = defaultdict(list)
    for row in sql.rows(_REPEATS, {"job_ids": [*job_ids, *twins.values()], "state": RunState.SUCCEEDED}):
        repeats[row["job_id"]].append(row)
    rows = [_compared(job, twins[place(job)], repeats) for job in variants]
    table = tables.job_comparisons
    sql.execute(delete(table).where(table.c.job_id.in_(job_ids)))
    sql.insert_all(table, [row for row in rows if row is not None])


def _compared(
    job: Mapping[str, Any], twin_id: str, repeats: Mapping[str, Sequence[RowMapping]]
) -> dict[str, Any] | None:
    """Return the guard's answer, or None for damaged rows.

    A damaged row is logged. An answer can be computed later, so a failure must not keep a job from ending or a database
    from opening.
    """
    try:
        columns = twin_columns(typed(repeats[twin_id]), typed(repeats[job["job_id"]]), job["recipe"])
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
        LOG.warning("job %s was not compared with fp32, for a damaged row (%s)", job["job_id"], error)
        return None
    columns["not_compared"] = storable(columns["not_compared"])
    return {"job_id": job["job_id"], "fp32_job_id": twin_id, "rules_version": RULES_VERSION, **columns}
