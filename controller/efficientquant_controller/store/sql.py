"""The store on SQLAlchemy: SQLite by default, PostgreSQL by URL."""

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from sqlalchemy import insert, select, text, update

from efficientquant_controller.errors import NameTakenError, NotFoundError, StaleSessionError
from efficientquant_controller.model import (
    JOB_TRANSITIONS,
    Artifact,
    Build,
    BuildState,
    Campaign,
    CampaignState,
    Device,
    DeviceSnapshot,
    Event,
    Job,
    JobState,
    Run,
    RunState,
)
from efficientquant_controller.store import records, tables
from efficientquant_controller.store.comparisons import compare_again, compare_with_twin
from efficientquant_controller.store.opening import open_engine
from efficientquant_controller.store.rows import typed
from efficientquant_controller.store.sql_results import SqlResults
from efficientquant_controller.store.transactions import Transaction, Transactions


def open_store(target: str | Path, read_only: bool = False) -> "SqlStore":
    """Open a results database by path or SQLAlchemy URL.

    The database is created or migrated unless `read_only`. Raises StoreError when it cannot be used, and
    StoreVersionError when another version wrote it.
    """
    transactions = Transactions(open_engine(target, read_only), read_only)
    with ExitStack() as undo:
        undo.callback(transactions.close)
        if not read_only:
            compare_again(transactions)
        undo.pop_all()
    return SqlStore(transactions)


class SqlStore(SqlResults):
    """The store in SQL.

    `Store` describes what each method must do.
    """

    def close(self) -> None:
        """Release the database."""
        self._transactions.close()

    # devices

    def register_device(
        self, device_id: str, name: str, agent_version: str, session_epoch: int, snapshot: DeviceSnapshot, now_s: float
    ) -> Device:
        """Record a device's hello."""
        with self._transactions.write() as sql:
            self._check_hello(sql, device_id, name, session_epoch)
            facts = {
                "name": name,
                "latest_name": name,
                "agent_version": agent_version,
                "session_epoch": session_epoch,
                "last_seen_unix_s": now_s,
                "snapshot_sha256": self._add_snapshot(sql, snapshot, now_s, is_newest=True),
            }
            table = tables.devices
            if not sql.update(update(table).where(table.c.device_id == device_id).values(facts)):
                sql.execute(insert(table).values(device_id=device_id, first_seen_unix_s=now_s, **facts))
            return self._device(sql, device_id)

    @staticmethod
    def _check_hello(sql: Transaction, device_id: str, name: str, session_epoch: int) -> None:
        table = tables.devices.c
        owner = sql.scalar(select(table.device_id).where(table.name == name))
        if owner is not None and owner != device_id:
            raise NameTakenError(
                f"the device name {name!r} belongs to another device ({owner}); start the agent with another --name, "
                f"or free it with `efficientquant devices --forget {name}`"
            )
        recorded = sql.scalar(select(table.session_epoch).where(table.device_id == device_id))
        if recorded is not None and recorded >= session_epoch:
            raise StaleSessionError(f"device {device_id} has session {recorded}; session {session_epoch} is not newer")

    def touch_device(self, device_id: str, now_s: float) -> None:
        """Record when the device was last heard from."""
        table = tables.devices
        statement = update(table).where(table.c.device_id == device_id).values(last_seen_unix_s=now_s)
        with self._transactions.write() as sql:
            sql.update_one(statement, f"device {device_id!r}")

    def forget_device(self, name: str) -> Device:
        """Free a device's name."""
        table = tables.devices
        with self._transactions.write() as sql:
            device_id = sql.scalar(select(table.c.device_id).where(table.c.name == name))
            if device_id is None:
                names = ", ".join(sql.scalars(select(table.c.name).where(table.c.name.is_not(None)).order_by("name")))
                raise NotFoundError(f"no device is named {name!r} (known: {names or 'none'})")
            device = self._device(sql, device_id)
            sql.execute(update(table).where(table.c.device_id == device_id).values(name=None))
            return device

    def devices(self) -> Sequence[Device]:
        """Return every device that has a name."""
        table = tables.devices
        query = select(table, tables.device_snapshots).join(tables.device_snapshots).where(table.c.name.is_not(None))
        with self._transactions.read() as sql:
            return sorted(map(records.device_from_row, sql.rows(query)), key=lambda device: device.name or "")

    def device(self, device_id: str) -> Device:
        """Return a device."""
        with self._transactions.read() as sql:
            return self._device(sql, device_id)

    @staticmethod
    def _device(sql: Transaction, device_id: str) -> Device:
        table = tables.devices
        query = select(table, tables.device_snapshots).join(tables.device_snapshots)
        return records.device_from_row(sql.one(query.where(table.c.device_id == device_id), f"device {device_id!r}"))

    # artifacts

    def add_artifact(self, artifact: Artifact, build_key: str) -> None:
        """Record an artifact and the key of its build.

        A rebuild with the same key replaces the build's artifact.
        """
        version = artifact.recipe_version
        facts = {
            "artifact_sha256": artifact.sha256,
            "model": artifact.model,
            "recipe": artifact.recipe,
            "recipe_version": version,
            "weights": artifact.weights,
            "parity_max_abs": artifact.parity_max_abs,
            "notes": list(artifact.notes),
            "provenance": dict(artifact.provenance),
            "manifest": dict(artifact.manifest),
            "target": artifact.target,
            "builder_flags": list(artifact.builder_flags),
            "reference_sha256": artifact.reference_sha256,
            "reference_bytes": artifact.reference_bytes,
        }
        content = artifact.provenance.get("recipe", {})
        table = tables.artifact_builds
        with self._transactions.write() as sql:
            sql.insert_new(tables.artifacts, {"artifact_sha256": artifact.sha256}, {"size_bytes": artifact.size_bytes})
            sql.insert_new(tables.recipes, {"name": artifact.recipe, "version": version}, {"content": content})
            if not sql.update(update(table).where(table.c.build_key == build_key).values(facts)):
                sql.execute(insert(table).values(build_key=build_key, **facts))

    def find_artifact(self, build_key: str) -> Artifact | None:
        """Return the artifact of an earlier build with this key, or None."""
        query = select(tables.artifact_builds, tables.artifacts.c.size_bytes).join(tables.artifacts)
        with self._transactions.read() as sql:
            rows = sql.rows(query.where(tables.artifact_builds.c.build_key == build_key))
        return records.artifact_from_row(rows[0]) if rows else None

    def artifact(self, sha256: str) -> Artifact:
        """Return an artifact, as described by its latest build."""
        table = tables.artifact_builds
        query = select(table, tables.artifacts.c.size_bytes).join(tables.artifacts)
        query = query.where(table.c.artifact_sha256 == sha256).order_by(table.c.number.desc()).limit(1)
        with self._transactions.read() as sql:
            return records.artifact_from_row(sql.one(query, f"artifact {sha256!r}"))

    # campaigns

    def create_campaign(
        self, campaign: Campaign, builds: Sequence[Build], jobs: Sequence[Job], runs: Sequence[Run]
    ) -> None:
        """Record a campaign with all its parts."""
        with self._transactions.write() as sql:
            sql.execute(insert(tables.campaigns).values(records.campaign_to_row(campaign)))
            sql.insert_all(tables.builds, [{**vars(build), "ordinal": place} for place, build in enumerate(builds)])
            sql.insert_all(tables.jobs, [{**vars(job), "ordinal": place} for place, job in enumerate(jobs)])
            sql.insert_all(tables.runs, [{**vars(run), "failure_type": "", "failure_message": ""} for run in runs])

    def campaign(self, campaign_id: str) -> Campaign:
        """Return a campaign."""
        with self._transactions.read() as sql:
            return records.campaign_from_row(self._campaign_row(sql, campaign_id))

    def campaigns(self) -> Sequence[Campaign]:
        """Return all campaigns, newest first."""
        table = tables.campaigns
        with self._transactions.read() as sql:
            return list(map(records.campaign_from_row, sql.rows(select(table).order_by(table.c.number.desc()))))

    def builds(self, campaign_id: str) -> Sequence[Build]:
        """Return a campaign's builds."""
        table = tables.builds
        query = select(table).order_by(table.c.ordinal)
        with self._transactions.read() as sql:
            campaign_id = self._campaign_row(sql, campaign_id)["campaign_id"]
            return list(map(records.build_from_row, sql.rows(query.where(table.c.campaign_id == campaign_id))))

    def jobs(self, campaign_id: str) -> Sequence[Job]:
        """Return a campaign's jobs."""
        table = tables.jobs
        query = select(table).order_by(table.c.ordinal)
        with self._transactions.read() as sql:
            campaign_id = self._campaign_row(sql, campaign_id)["campaign_id"]
            return list(map(records.job_from_row, sql.rows(query.where(table.c.campaign_id == campaign_id))))

    def runs(self, campaign_id: str) -> Sequence[Run]:
        """Return a campaign's runs, ordered by position."""
        table = tables.runs
        query = select(table).join(tables.jobs, tables.jobs.c.job_id == table.c.job_id)
        query = query.order_by(table.c.position, tables.jobs.c.ordinal, table.c.repeat_index)
        with self._transactions.read() as sql:
            campaign_id = self._campaign_row(sql, campaign_id)["campaign_id"]
            return list(map(records.run_from_row, sql.rows(query.where(tables.jobs.c.campaign_id == campaign_id))))

    def job(self, job_id: str) -> Job:
        """Return a job."""
        with self._transactions.read() as sql:
            return self._job(sql, job_id)

    def run(self, run_id: str) -> Run:
        """Return a run."""
        with self._transactions.read() as sql:
            return records.run_from_row(self._run_row(sql, run_id))

    def set_campaign_state(self, campaign_id: str, state: CampaignState, now_s: float) -> None:
        """Set a campaign's state."""
        table = tables.campaigns
        facts = {"state": state, "ended_unix_s": now_s if state.ended else None}
        with self._transactions.write() as sql:
            campaign_id = self._campaign_row(sql, campaign_id)["campaign_id"]
            sql.execute(update(table).where(table.c.campaign_id == campaign_id).values(facts))
        if state.ended:
            self._transactions.checkpoint()

    def set_build_state(
        self,
        campaign_id: str,
        model: str,
        recipe: str,
        target: str,
        state: BuildState,
        message: str,
        artifact_sha256: str | None,
        build_key: str = "",
    ) -> None:
        """Set a build's state."""
        table = tables.builds
        named = {"campaign_id": campaign_id, "model": model, "recipe": recipe, "target": target}
        key = [table.c[name] == value for name, value in named.items()]
        facts = {"state": state, "message": records.storable(message), "artifact_sha256": artifact_sha256}
        facts["build_key"] = build_key
        with self._transactions.write() as sql:
            sql.update_one(update(table).where(*key).values(facts), f"build of {model} × {recipe} in {campaign_id!r}")

    def set_job_state(self, job_id: str, state: JobState, failure_type: str = "", failure_message: str = "") -> None:
        """Set a job's state.

        Raises ValueError for a move that JOB_TRANSITIONS does not list.
        """
        facts = {"failure_type": failure_type, "failure_message": records.storable(failure_message)}
        with self._transactions.write() as sql:
            self._move_job(sql, self._job(sql, job_id), state, facts)

    def lease_run(self, run_id: str, now_s: float) -> Run:
        """Lease a planned run and its job.

        Raises ValueError when the run is not planned.
        """
        with self._transactions.write() as sql:
            run = records.run_from_row(self._run_row(sql, run_id))
            if run.state is not RunState.PLANNED:
                raise ValueError(f"run {run_id!r} is {run.state} and cannot be leased")
            self._move_job(sql, self._job(sql, run.job_id), JobState.LEASED)
            self._update_run(sql, run_id, state=RunState.LEASED, attempt=run.attempt + 1, leased_unix_s=now_s)
            return records.run_from_row(self._run_row(sql, run_id))

    def release_run(self, run_id: str) -> None:
        """Move a leased run back to planned and its job to queued."""
        with self._transactions.write() as sql:
            run = records.run_from_row(self._run_row(sql, run_id))
            if run.state is not RunState.LEASED:
                return
            self._update_run(sql, run_id, state=RunState.PLANNED)
            job = self._job(sql, run.job_id)
            if job.state is JobState.LEASED:
                self._move_job(sql, job, JobState.QUEUED)

    def end_run(self, run_id: str, state: RunState, failure_type: str = "", failure_message: str = "") -> None:
        """End a run for which no result will come.

        A run that has ended stays as it is. Raises ValueError for a state other than failed and cancelled.
        """
        if state not in (RunState.FAILED, RunState.CANCELLED):
            raise ValueError(f"a run without a result ends as failed or cancelled, not as {state}")
        message = records.storable(failure_message)
        with self._transactions.write() as sql:
            run = records.run_from_row(self._run_row(sql, run_id))
            if run.state in (RunState.PLANNED, RunState.LEASED):
                self._update_run(sql, run_id, state=state, failure_type=failure_type, failure_message=message)

    @staticmethod
    def _job(sql: Transaction, job_id: str) -> Job:
        return records.job_from_row(
            sql.one(select(tables.jobs).where(tables.jobs.c.job_id == job_id), f"job {job_id!r}")
        )

    @staticmethod
    def _move_job(sql: Transaction, job: Job, state: JobState, facts: Mapping[str, str] | None = None) -> None:
        if state is not job.state and state not in JOB_TRANSITIONS[job.state]:
            raise ValueError(f"job {job.job_id!r} is {job.state} and cannot become {state}")
        table = tables.jobs
        sql.execute(update(table).where(table.c.job_id == job.job_id).values(state=state, **(facts or {})))
        if state.ended and not job.state.ended:
            compare_with_twin(sql, job)

    # results

    def results(self, campaign_id: str | None = None) -> Sequence[Mapping[str, Any]]:
        """Return the rows of the view `results`."""
        with self._transactions.read() as sql:
            if campaign_id is None:
                return typed(sql.rows(text("SELECT * FROM results")))
            campaign_id = self._campaign_row(sql, campaign_id)["campaign_id"]
            query = text("SELECT * FROM results WHERE campaign_id = :campaign_id").bindparams(campaign_id=campaign_id)
            return typed(sql.rows(query))

    # events

    def add_event(self, event: Event) -> None:
        """Record an event."""
        with self._transactions.write() as sql:
            facts = {**vars(event), "message": records.storable(event.message)}
            sql.execute(insert(tables.events).values(facts))

    def events(self, campaign_id: str) -> Sequence[Event]:
        """Return a campaign's events, oldest first."""
        table = tables.events
        query = select(table).order_by(table.c.time_unix_s, table.c.number)
        with self._transactions.read() as sql:
            campaign_id = self._campaign_row(sql, campaign_id)["campaign_id"]
            return list(map(records.event_from_row, sql.rows(query.where(table.c.campaign_id == campaign_id))))
