"""The part of the SQL store that records and reads results."""

from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import RowMapping, bindparam, insert, select, text, update

from efficientquant_controller.errors import NotFoundError, UserError
from efficientquant_controller.model import DeviceSnapshot, Measurement, RunResult, RunState, StageTiming
from efficientquant_controller.store import records, run_records, tables
from efficientquant_controller.store.base import Store
from efficientquant_controller.store.comparisons import stored_comparisons
from efficientquant_controller.store.rows import typed
from efficientquant_controller.store.series import RawSamples, pack_series, unpack_series
from efficientquant_controller.store.transactions import Transaction, Transactions


class SqlResults(Store):
    """The part of the SQL store for results."""

    def __init__(self, transactions: Transactions) -> None:
        self._transactions = transactions

    def record_result(self, result: RunResult, now_s: float) -> bool:
        """Commit a reported run.

        Raises ValueError for a success without latencies, or with a latency that is not finite.
        """
        row = run_records.result_to_row(result, self._measurement(result.run_id), now_s)
        engine = run_records.engine_to_row(result)
        samples = pack_series(
            RawSamples(
                result.latency_s, result.warmup_latency_s, result.series, result.device_latency_s, result.windows
            )
        )
        with self._transactions.write() as sql:
            run = self._run_row(sql, result.run_id)
            if run["reported_unix_s"] is not None:
                return False
            devices = tables.devices.c.device_id
            sql.one(select(devices).where(devices == result.device_id), f"device {result.device_id!r}")
            snapshot = self._add_snapshot(sql, result.device, now_s)
            facts = {**row, **_outcome(run, result), "snapshot_sha256": snapshot}
            self._update_run(sql, result.run_id, **facts)
            sql.execute(insert(tables.series), {"run_id": result.run_id, "samples": samples})
            sql.insert_all(tables.stages, _stage_rows(result))
            sql.insert_all(tables.engines, [engine] if engine else [])
            return True

    def _measurement(self, run_id: str) -> Measurement:
        """Return the measurement of a run's campaign."""
        campaigns, jobs, runs = tables.campaigns, tables.jobs, tables.runs
        query = (
            select(campaigns.c.measurement)
            .join(jobs, jobs.c.campaign_id == campaigns.c.campaign_id)
            .join(runs, runs.c.job_id == jobs.c.job_id)
            .where(runs.c.run_id == run_id)
        )
        with self._transactions.read() as sql:
            return Measurement(**sql.one(query, f"run {run_id!r}")["measurement"])

    def raw_result(self, run_id: str) -> RunResult:
        """Return the whole report of a run.

        Raises NotFoundError without a result or its samples, and UserError when the samples cannot be read.
        """
        table = tables.stages
        with self._transactions.read() as sql:
            row = self._run_row(sql, run_id)
            if row["reported_unix_s"] is None:
                raise NotFoundError(f"there is no result of run {run_id!r} (it is {row['state']})")
            blob = sql.scalar(select(tables.series.c.samples).where(tables.series.c.run_id == run_id))
            if blob is None:
                raise NotFoundError(f"the samples of run {run_id!r} are gone from the database; measure it again")
            stage_rows = sql.rows(select(table).where(table.c.run_id == run_id).order_by(table.c.ordinal))
            snapshots = tables.device_snapshots
            query = select(snapshots).where(snapshots.c.snapshot_sha256 == row["snapshot_sha256"])
            device = records.snapshot_from_row(sql.one(query, "snapshot"))
            engines = sql.rows(select(tables.engines).where(tables.engines.c.run_id == run_id))
        stages = tuple(
            StageTiming(stage["stage"], stage["duration_s"], stage["size_bytes"], stage["cold"]) for stage in stage_rows
        )
        try:
            samples = unpack_series(blob)
        except ValueError as error:
            raise UserError(f"the samples of run {run_id!r} cannot be read: {error}") from error
        engine = run_records.engine_from_row(engines[0]) if engines else None
        return run_records.result_from_row(row, stages, samples, device, engine)

    def run_rows(self, campaign_id: str | None = None) -> Sequence[Mapping[str, Any]]:
        """Return the rows of the view `run_results`."""
        with self._transactions.read() as sql:
            query = text("SELECT * FROM run_results")
            if campaign_id is not None:
                campaign_id = self._campaign_row(sql, campaign_id)["campaign_id"]
                by_campaign = text("SELECT * FROM run_results WHERE campaign_id = :campaign_id")
                query = by_campaign.bindparams(campaign_id=campaign_id)
            return typed(sql.rows(query))

    def comparisons(self, campaign_id: str | None = None) -> Mapping[str, Mapping[str, Any]]:
        """Return the guard's answers on variants and their fp32 twins, by job."""
        with self._transactions.read() as sql:
            if campaign_id is not None:
                campaign_id = self._campaign_row(sql, campaign_id)["campaign_id"]
            return stored_comparisons(sql, campaign_id)

    @staticmethod
    def _campaign_row(sql: Transaction, campaign_id: str) -> RowMapping:
        table = tables.campaigns
        if campaign_id == "latest":
            return sql.one(select(table).order_by(table.c.number.desc()).limit(1), "campaign (none was submitted yet)")
        rows = sql.rows(select(table).where(table.c.campaign_id == campaign_id))
        if not rows:
            newest = select(table.c.campaign_id).order_by(table.c.number.desc()).limit(_LISTED_CAMPAIGNS)
            listed = ", ".join(sql.scalars(newest))
            existing = f"the newest are: {listed}" if listed else "none was submitted yet"
            raise NotFoundError(f"there is no campaign {campaign_id!r}; {existing}")
        return rows[0]

    @staticmethod
    def _add_snapshot(sql: Transaction, snapshot: DeviceSnapshot, now_s: float, is_newest: bool = False) -> str:
        """Record a snapshot and return its SHA-256.

        `is_newest` also updates the backends of a snapshot that is already recorded.
        """
        row = records.snapshot_to_row(snapshot, now_s)
        digest: str = row.pop("snapshot_sha256")
        table = tables.device_snapshots
        sql.insert_new(table, {"snapshot_sha256": digest}, row)
        if is_newest:
            sql.update(update(table).where(table.c.snapshot_sha256 == digest).values(backends=row["backends"]))
        return digest

    @staticmethod
    def _run_row(sql: Transaction, run_id: str) -> RowMapping:
        return sql.one(select(tables.runs).where(tables.runs.c.run_id == run_id), f"run {run_id!r}")

    @staticmethod
    def _update_run(sql: Transaction, run_id: str, **facts: Any) -> None:
        sql.execute(update(tables.runs).where(tables.runs.c.run_id == bindparam("key")), {**facts, "key": run_id})


_LISTED_CAMPAIGNS = 5


def _outcome(run: RowMapping, result: RunResult) -> dict[str, Any]:
    """Return the columns of the run's reported state.

    The result is empty for a run that was cancelled or given up before.
    """
    if run["state"] in (RunState.CANCELLED, RunState.FAILED):
        return {}
    message = records.storable(result.failure_message)
    state = {"": RunState.SUCCEEDED, "cancelled": RunState.CANCELLED}.get(result.failure_type, RunState.FAILED)
    return {"state": state, "failure_type": result.failure_type, "failure_message": message}


def _stage_rows(result: RunResult) -> list[dict[str, Any]]:
    return [
        {
            "run_id": result.run_id,
            "ordinal": ordinal,
            "stage": stage.stage,
            "duration_s": stage.duration_s,
            "size_bytes": stage.size_bytes,
            "cold": stage.cold,
        }
        for ordinal, stage in enumerate(result.stages)
    ]
