"""The decisions on campaigns, each in one transaction.

A decision reads the rows it depends on, writes what follows and returns the new rows. So memory copies them, and a
controller that is killed in between has nothing to repair.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from sqlalchemy import bindparam, insert, select, update

from efficientquant_controller.errors import NotFoundError, UserError
from efficientquant_controller.model import (
    JOB_TRANSITIONS,
    Build,
    Campaign,
    CampaignState,
    Event,
    Job,
    JobState,
    Run,
    RunState,
)
from efficientquant_controller.store import records, tables
from efficientquant_controller.store.base import Changes, Report
from efficientquant_controller.store.comparisons import compare_with_twin
from efficientquant_controller.store.sql_results import SqlResults
from efficientquant_controller.store.transactions import Transaction

OPEN_RUNS = (RunState.PLANNED, RunState.LEASED)

_RUNS, _JOBS = tables.runs, tables.jobs
_RUN_FACTS = ("run_id", "job_id", "repeat_index", "position", "attempt")
_PLACE = (*_RUN_FACTS, "state", "lease_ids", "reported_unix_s")
_SELECT_RUN = select(*(_RUNS.c[name] for name in _PLACE))
_RUNS_OF_JOB = _SELECT_RUN.where(_RUNS.c.job_id == bindparam("job_id")).order_by(_RUNS.c.position)
_RUN_STATES = select(_RUNS.c.state).where(_RUNS.c.job_id == bindparam("job_id")).distinct()
_PLACES = (
    select(*(_RUNS.c[name].label(f"run.{name}") for name in _PLACE), _JOBS)
    .join(_JOBS, _JOBS.c.job_id == _RUNS.c.job_id)
    .where(_RUNS.c.run_id.in_(bindparam("run_ids", expanding=True)))
)
_JOBS_OF_CAMPAIGN = select(_JOBS).where(_JOBS.c.campaign_id == bindparam("campaign_id")).order_by(_JOBS.c.ordinal)
_OPEN_JOB = select(_JOBS.c.job_id).where(_JOBS.c.campaign_id == bindparam("campaign_id"), tables.IS_OPEN).limit(1)
_FAILED_JOB = (
    select(_JOBS.c.job_id)
    .where(_JOBS.c.campaign_id == bindparam("campaign_id"), _JOBS.c.state == JobState.FAILED)
    .limit(1)
)
_MOVE_JOB = update(_JOBS).where(_JOBS.c.job_id == bindparam("key"))
_MOVE_RUN = update(_RUNS).where(_RUNS.c.run_id == bindparam("key"))


class Decision:
    """The rows that one decision writes, within a transaction."""

    def __init__(self, sql: Transaction, campaign_id: str, now_s: float) -> None:
        self._sql = sql
        self.campaign_id = campaign_id
        self._now_s = now_s
        self._campaign: Campaign | None = None
        self._builds: list[Build] = []
        self._jobs: dict[str, Job] = {}
        self._runs: dict[str, Run] = {}
        self._events: list[Event] = []

    def changes(self) -> Changes:
        """Return the rows as they are now."""
        rows = tuple(self._builds), tuple(self._jobs.values()), tuple(self._runs.values()), tuple(self._events)
        return Changes(self.campaign_id, self._campaign, *rows)

    def show(self, job: Job, run: Run) -> None:
        """Return these rows too, unless they change."""
        self._jobs.setdefault(job.job_id, job)
        self._runs.setdefault(run.run_id, run)

    def note(self, kind: str, message: str, device_id: str | None = None) -> None:
        """Record an event of the campaign."""
        event = Event(self._now_s, self.campaign_id, device_id, kind, records.storable(message))
        self._sql.execute(_ADD_EVENT, vars(event))
        self._events.append(event)

    def add_build(self, build: Build) -> None:
        """Return a build that was written."""
        self._builds.append(build)

    def move_run(self, run: Run, state: RunState, attempt: int | None = None, **facts: Any) -> None:
        """Change a run's state, and other columns with it."""
        attempt = run.attempt if attempt is None else attempt
        self._sql.execute(_MOVE_RUN, {"key": run.run_id, "state": state, "attempt": attempt, **facts})
        self.add_run(replace(run, state=state, attempt=attempt))

    def add_run(self, run: Run) -> None:
        """Return a run that was written."""
        self._runs[run.run_id] = run

    def move_job(self, job: Job, state: JobState, failure_type: str = "", message: str = "") -> Job:
        """Change a job's state, and compare an ended job with its twin.

        Raises ValueError for a move that JOB_TRANSITIONS does not list, except to the same state.
        """
        if state is not job.state and state not in JOB_TRANSITIONS[job.state]:
            raise ValueError(f"job {job.job_id!r} is {job.state} and cannot become {state}")
        facts = {"failure_type": failure_type, "failure_message": records.storable(message)}
        self._sql.execute(_MOVE_JOB, {"key": job.job_id, "state": state, **facts})
        if state.ended and not job.state.ended:
            compare_with_twin(self._sql, job)
        moved = replace(job, state=state, **facts)
        self._jobs[job.job_id] = moved
        return moved

    def cancel_runs(self, job: Job) -> None:
        """Cancel the open runs of a job."""
        for run in self.runs_of(job.job_id):
            if run.state in OPEN_RUNS:
                self.move_run(run, RunState.CANCELLED)

    def fail_job(self, job: Job, failure_type: str, message: str) -> None:
        """Fail a job and cancel its remaining runs.

        Those would fail in the same way and cost hours.
        """
        self.cancel_runs(job)
        self.move_job(job, JobState.FAILED, failure_type, message)
        self.note("job_failed", f"{job.model} under {job.recipe}: {failure_type}: {message}")

    def settle_job(self, job: Job) -> Job:
        """End a job after its last run.

        Otherwise it is queued again, or stays leased while another run is on the device.
        """
        states = {RunState(state) for state in self._sql.scalars(_RUN_STATES, {"job_id": job.job_id})}
        waiting = JobState.LEASED if RunState.LEASED in states else JobState.QUEUED
        return self.move_job(job, settled_state(states) or waiting)

    def settle_campaign(self) -> None:
        """End a running campaign after its last job."""
        if self._sql.rows(_OPEN_JOB, {"campaign_id": self.campaign_id}):
            return
        campaign = self.campaign()
        if campaign.state is CampaignState.RUNNING:
            self.jobs()  # raises for a state that is none, whose job is not open
            failed = self._sql.rows(_FAILED_JOB, {"campaign_id": self.campaign_id})
            self.move_campaign(CampaignState.FAILED if failed else CampaignState.SUCCEEDED)

    def move_campaign(self, state: CampaignState) -> None:
        """Change the campaign's state, and record the time of its end."""
        ended_unix_s = self._now_s if state.ended else None
        table = tables.campaigns
        statement = update(table).where(table.c.campaign_id == self.campaign_id)
        self._sql.execute(statement.values(state=state, ended_unix_s=ended_unix_s))
        self._campaign = replace(self.campaign(), state=state, ended_unix_s=ended_unix_s)

    def campaign(self) -> Campaign:
        """Return the campaign."""
        if self._campaign is None:
            self._campaign = records.campaign_from_row(SqlResults.campaign_row(self._sql, self.campaign_id))
        return self._campaign

    def jobs(self) -> list[Job]:
        """Return all jobs of the campaign."""
        rows = self._sql.rows(_JOBS_OF_CAMPAIGN, {"campaign_id": self.campaign_id})
        return [records.job_from_row(row) for row in rows]

    def runs_of(self, job_id: str) -> list[Run]:
        """Return the runs of a job, by position."""
        return [records.run_from_row(row) for row in self._sql.rows(_RUNS_OF_JOB, {"job_id": job_id})]


_ADD_EVENT = insert(tables.events)


@dataclass(frozen=True)
class Place:
    """A run with its job and its leases."""

    run: Run
    job: Job
    lease_ids: Sequence[str]
    is_reported: bool

    def require_lease(self, report: Report) -> bool:
        """Tell whether a report belongs to the run's current lease.

        Raises UserError when the run was never leased, or not to this device or by this lease.
        """
        result, run, device_id = report.result, self.run, self.job.device_id
        if device_id != result.device_id:
            raise UserError(f"run {run.run_id} belongs to device {device_id}, not to {result.device_id!r}")
        if not run.attempt:
            raise UserError(f"run {run.run_id} was never assigned, so it cannot have a result")
        if result.attempt > run.attempt:
            raise UserError(f"run {run.run_id} was assigned {run.attempt} times, so it has no attempt {result.attempt}")
        if report.lease_id and report.lease_id not in self.lease_ids:
            raise UserError(f"run {run.run_id} was never assigned under the lease {report.lease_id!r}")
        if not report.lease_id and result.failure_type != "agent_error" and len(self.lease_ids) >= run.attempt:
            # A device may have lost the id with a damaged file, which gives no numbers.
            raise UserError(f"run {run.run_id} was assigned under a lease, and this result names none")
        if run.state is not RunState.LEASED:
            return False
        if report.lease_id:
            return report.lease_id == self.lease_ids[-1]
        return result.attempt in (0, run.attempt)


class Places:
    """The runs of a batch, as they are now in the transaction."""

    def __init__(self, sql: Transaction, run_ids: Sequence[str]) -> None:
        self._places: dict[str, Place] = {}
        for row in sql.rows(_PLACES, {"run_ids": run_ids}):
            facts = {name: row[f"run.{name}"] for name in _RUN_FACTS}
            run = Run(**facts, state=RunState(row["run.state"]))
            lease_ids, is_reported = row["run.lease_ids"] or (), row["run.reported_unix_s"] is not None
            self._places[run.run_id] = Place(run, records.job_from_row(row), lease_ids, is_reported)

    def of(self, run_id: str) -> Place:
        """Return the place of a run.

        Raises NotFoundError for an unknown run.
        """
        if run_id not in self._places:
            raise NotFoundError(f"there is no run {run_id!r}")
        return self._places[run_id]

    def follow(self, changes: Changes, reported_id: str = "") -> None:
        """Take over what a decision wrote, for the rest of the batch.

        `reported_id` is the run that has a result now.
        """
        runs = {run.run_id: run for run in changes.runs}
        jobs = {job.job_id: job for job in changes.jobs}
        for run_id, place in self._places.items():
            if run_id in runs or place.job.job_id in jobs:
                run, job = runs.get(run_id, place.run), jobs.get(place.job.job_id, place.job)
                is_reported = place.is_reported or run_id == reported_id
                self._places[run_id] = replace(place, run=run, job=job, is_reported=is_reported)


def settled_state(states: set[RunState]) -> JobState | None:
    """Return a job's final state, or None while a run is open."""
    if states & set(OPEN_RUNS):
        return None
    if RunState.FAILED in states:
        return JobState.FAILED
    return JobState.CANCELLED if RunState.CANCELLED in states else JobState.SUCCEEDED
