"""The part of the SQL store that records and reads results."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import RowMapping, bindparam, insert, select, text, update

from efficientquant_controller.errors import NotFoundError, UnstorableError, UserError
from efficientquant_controller.model import DeviceSnapshot, Measurement, RunResult, StageTiming
from efficientquant_controller.store import records, run_records, tables
from efficientquant_controller.store.base import Report, Store
from efficientquant_controller.store.comparisons import stored_comparisons
from efficientquant_controller.store.series import RawSamples, pack_series, unpack_series
from efficientquant_controller.store.transactions import Transaction, Transactions

LOG = logging.getLogger(__name__)


class SqlResults(Store):
    """The part of the SQL store for results."""

    def __init__(self, transactions: Transactions) -> None:
        self._transactions = transactions
        self.known_snapshots: set[str] = set()  # in the database for certain, which spares a query per report

    def prepare(self, reports: Sequence[Report], now_s: float) -> list["PreparedReport | UserError"]:
        """Compute what each report stores, before any transaction.

        The answer is an UnstorableError for a result that the database can never hold, and a NotFoundError for an
        unknown run.
        """
        with self._transactions.read() as sql:
            measurements = {report.result.run_id: _measurement(sql, report.result.run_id) for report in reports}
        return [_prepare(report.result, measurements[report.result.run_id], now_s) for report in reports]

    def add_snapshots(self, sql: Transaction, prepared: Sequence["PreparedReport | UserError"]) -> set[str]:
        """Record the snapshots of a batch.

        Returns the hashes of those that may be new. The caller adds them to `known_snapshots` after the commit.
        """
        rows = [report.snapshot for report in prepared if isinstance(report, PreparedReport)]
        new = {row["snapshot_sha256"]: row for row in rows if row["snapshot_sha256"] not in self.known_snapshots}
        for digest, row in new.items():
            sql.insert_new(tables.device_snapshots, {"snapshot_sha256": digest}, row)
        return set(new)

    def write_result(
        self, sql: Transaction, report: Report, row: Mapping[str, Any], prepared: "PreparedReport"
    ) -> None:
        """Write a result into its run, with its samples, stages and engine.

        Its snapshot is already in the database.
        """
        run_id = report.result.run_id
        facts = {"report_sha256": report.sha256 or None, "key": run_id}
        sql.execute(_UPDATE_RUN, {**row, **facts, "snapshot_sha256": prepared.snapshot["snapshot_sha256"]})
        sql.execute(_INSERT_SERIES, {"run_id": run_id, "samples": prepared.samples})
        sql.insert_all(tables.stages, prepared.stages)
        sql.insert_all(tables.engines, [prepared.engine] if prepared.engine else [])

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
                campaign_id = self.campaign_row(sql, campaign_id)["campaign_id"]
                by_campaign = text("SELECT * FROM run_results WHERE campaign_id = :campaign_id")
                query = by_campaign.bindparams(campaign_id=campaign_id)
            return records.typed(sql.rows(query))

    def comparisons(self, campaign_id: str | None = None) -> Mapping[str, Mapping[str, Any]]:
        """Return the guard's answers on variants and their fp32 twins, by job."""
        with self._transactions.read() as sql:
            if campaign_id is not None:
                campaign_id = self.campaign_row(sql, campaign_id)["campaign_id"]
            return stored_comparisons(sql, campaign_id)

    @staticmethod
    def campaign_row(sql: Transaction, campaign_id: str) -> RowMapping:
        """Return the row of a campaign, also of the "latest".

        Raises NotFoundError when it does not exist.
        """
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
    def _add_snapshot(sql: Transaction, snapshot: DeviceSnapshot, now_s: float) -> str:
        """Record a snapshot and return its SHA-256.

        The backends of a snapshot that is already recorded become the new ones.
        """
        row = records.snapshot_to_row(snapshot, now_s)
        digest: str = row.pop("snapshot_sha256")
        table = tables.device_snapshots
        sql.insert_new(table, {"snapshot_sha256": digest}, row)
        sql.update(update(table).where(table.c.snapshot_sha256 == digest).values(backends=row["backends"]))
        return digest

    @staticmethod
    def _run_row(sql: Transaction, run_id: str) -> RowMapping:
        return sql.one(select(tables.runs).where(tables.runs.c.run_id == run_id), f"run {run_id!r}")


_LISTED_CAMPAIGNS = 5
_UPDATE_RUN = update(tables.runs).where(tables.runs.c.run_id == bindparam("key"))
_INSERT_SERIES = insert(tables.series)
_MEASUREMENT = (
    select(tables.campaigns.c.measurement)
    .join(tables.jobs, tables.jobs.c.campaign_id == tables.campaigns.c.campaign_id)
    .join(tables.runs, tables.runs.c.job_id == tables.jobs.c.job_id)
    .where(tables.runs.c.run_id == bindparam("run_id"))
)


@dataclass(frozen=True)
class PreparedReport:
    """The values that a report stores, table by table."""

    row: Mapping[str, Any]
    samples: bytes
    stages: Sequence[Mapping[str, Any]]
    engine: Mapping[str, Any] | None
    snapshot: Mapping[str, Any]


def _measurement(sql: Transaction, run_id: str) -> Measurement | None:
    """Return the measurement of a run's campaign, or None."""
    measurements = sql.scalars(_MEASUREMENT, {"run_id": run_id})
    return Measurement(**measurements[0]) if measurements else None


def _prepare(result: RunResult, measurement: Measurement | None, now_s: float) -> PreparedReport | UserError:
    if measurement is None:
        return NotFoundError(f"there is no run {result.run_id!r}")
    samples = RawSamples(
        result.latency_s, result.warmup_latency_s, result.series, result.device_latency_s, result.windows
    )
    try:
        records.require_storable(result)
        return PreparedReport(
            run_records.result_to_row(result, measurement, now_s),
            pack_series(samples),
            _stage_rows(result),
            run_records.engine_to_row(result),
            records.snapshot_to_row(result.device, now_s),
        )
    except (ValueError, OverflowError, RecursionError) as error:
        return UnstorableError(f"the result of run {result.run_id} cannot be stored: {error}")
    except (ArithmeticError, AttributeError, LookupError, TypeError) as error:  # one result must not stop the others
        LOG.exception("bug in the analysis of run %s, please report it", result.run_id)
        return UnstorableError(f"the result of run {result.run_id} cannot be analysed: {error!r}")


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
