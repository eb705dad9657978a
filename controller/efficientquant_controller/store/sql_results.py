"""Recording what agents report of a run, and reading it back whole."""

from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import RowMapping, bindparam, insert, select, update

from efficientquant_controller.errors import NotFoundError
from efficientquant_controller.model import DeviceSnapshot, RunResult, RunState, StageTiming, Weights
from efficientquant_controller.store import records, tables
from efficientquant_controller.store.base import Store
from efficientquant_controller.store.series import RawSamples, pack_series, unpack_series
from efficientquant_controller.store.transactions import Transaction, Transactions


class SqlResults(Store):
    """The results' half of the SQL store."""

    def __init__(self, transactions: Transactions) -> None:
        self._transactions = transactions

    def record_result(self, result: RunResult, now_s: float) -> bool:
        """Commit a reported run; raises ValueError for a success without latencies or with one that is not finite."""
        row = records.result_to_row(result, now_s)
        samples = pack_series(RawSamples(result.latency_s, result.warmup_latency_s, result.series))
        with self._transactions.write() as sql:
            found = self._run_row(sql, result.run_id)
            if found["reported_unix_s"] is not None:
                return False
            devices = tables.devices.c.device_id
            sql.one(select(devices).where(devices == result.device_id), f"device {result.device_id!r}")
            snapshot = self._add_snapshot(sql, result.device, now_s)
            self._update_run(sql, result.run_id, **row, **_outcome(found, result), snapshot_sha256=snapshot)
            sql.execute(insert(tables.series), {"run_id": result.run_id, "samples": samples})
            sql.insert_all(tables.stages, _stage_rows(result))
            return True

    def raw_result(self, run_id: str) -> RunResult:
        """Everything that was reported of a run."""
        table = tables.stages
        with self._transactions.read() as sql:
            row = self._run_row(sql, run_id)
            if row["reported_unix_s"] is None:
                raise NotFoundError(f"there is no result of run {run_id!r} (it is {row['state']})")
            blob = sql.scalar(select(tables.series.c.samples).where(tables.series.c.run_id == run_id))
            stage_rows = sql.rows(select(table).where(table.c.run_id == run_id).order_by(table.c.ordinal))
            snapshots = tables.device_snapshots
            query = select(snapshots).where(snapshots.c.snapshot_sha256 == row["snapshot_sha256"])
            device = records.snapshot_from_row(sql.one(query, "snapshot"))
        stages = tuple(
            StageTiming(one["stage"], one["duration_s"], one["size_bytes"], one["cold"]) for one in stage_rows
        )
        return records.result_from_row(row, stages, unpack_series(blob), device)

    def repeats(self, campaign_id: str | None = None) -> Sequence[Mapping[str, Any]]:
        """The succeeded runs, by job and repeat."""
        runs, jobs, campaigns = tables.runs, tables.jobs, tables.campaigns
        weights = [campaigns.c.weights_kind, campaigns.c.weights_sha256, campaigns.c.weights_filename]
        query = (
            select(*(runs.c[name] for name in _REPEAT_COLUMNS), campaigns.c.tier, *weights)
            .join(jobs, jobs.c.job_id == runs.c.job_id)
            .join(campaigns, campaigns.c.campaign_id == jobs.c.campaign_id)
            .where(runs.c.state == RunState.SUCCEEDED)
            .order_by(campaigns.c.number, jobs.c.ordinal, runs.c.repeat_index)
        )
        with self._transactions.read() as sql:
            if campaign_id is not None:
                query = query.where(campaigns.c.campaign_id == self._campaign_row(sql, campaign_id)["campaign_id"])
            return [_repeat(row) for row in sql.rows(query)]

    @staticmethod
    def _campaign_row(sql: Transaction, campaign_id: str) -> RowMapping:
        table = tables.campaigns
        if campaign_id == "latest":
            return sql.one(select(table).order_by(table.c.number.desc()).limit(1), "campaign (none was submitted yet)")
        return sql.one(select(table).where(table.c.campaign_id == campaign_id), f"campaign {campaign_id!r}")

    @staticmethod
    def _add_snapshot(sql: Transaction, snapshot: DeviceSnapshot, now_s: float) -> str:
        row = records.snapshot_to_row(snapshot, now_s)
        digest: str = row.pop("snapshot_sha256")
        sql.insert_new(tables.device_snapshots, {"snapshot_sha256": digest}, row)
        return digest

    @staticmethod
    def _run_row(sql: Transaction, run_id: str) -> RowMapping:
        return sql.one(select(tables.runs).where(tables.runs.c.run_id == run_id), f"run {run_id!r}")

    @staticmethod
    def _update_run(sql: Transaction, run_id: str, **facts: Any) -> None:
        sql.execute(update(tables.runs).where(tables.runs.c.run_id == bindparam("key")), {**facts, "key": run_id})


_REPEAT_COLUMNS = (
    *("job_id", "repeat_index", "latency_p50_s", "load_s", "load_cold", "peak_pss_bytes", "backend", "providers"),
    *("runtime_version", "session_options", "agent_version", "snapshot_sha256"),
)


def _repeat(row: RowMapping) -> dict[str, Any]:
    values = dict(row)
    weights = Weights(*(values.pop(f"weights_{name}") for name in ("kind", "sha256", "filename")))
    return {**values, "weights": weights.label}


def _outcome(found: RowMapping, result: RunResult) -> dict[str, Any]:
    """The run's new state: what was reported, unless the run was cancelled or given up before."""
    if found["state"] in (RunState.CANCELLED, RunState.FAILED):
        return {}
    message = records.storable(result.failure_message)
    state = {"": RunState.SUCCEEDED, "cancelled": RunState.CANCELLED}.get(result.failure_type, RunState.FAILED)
    return {"state": state, "failure_type": result.failure_type, "failure_message": message}


def _stage_rows(result: RunResult) -> list[dict[str, Any]]:
    return [
        {
            "run_id": result.run_id,
            "ordinal": ordinal,
            "stage": one.stage,
            "duration_s": one.duration_s,
            "size_bytes": one.size_bytes,
            "cold": one.cold,
        }
        for ordinal, one in enumerate(result.stages)
    ]
