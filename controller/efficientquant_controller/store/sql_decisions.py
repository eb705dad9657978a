"""The part of the SQL store that decides on campaigns and runs."""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from typing import Any

from sqlalchemy import select, update

from efficientquant_controller.errors import UnstorableError, UserError
from efficientquant_controller.model import Build, BuildState, CampaignState, Job, JobState, Run, RunState
from efficientquant_controller.store import records, tables
from efficientquant_controller.store.base import MAX_ATTEMPTS, PASSING_FAILURES, Changes, Committed, Lease, Report
from efficientquant_controller.store.decisions import OPEN_RUNS, Decision, Place, Places, settled_state
from efficientquant_controller.store.sql_results import PreparedReport, SqlResults
from efficientquant_controller.store.transactions import Transaction

_ENDED_CAMPAIGNS = [state for state in CampaignState if state.ended]
_ENDED_JOBS = [state for state in JobState if state.ended]
_ENDED_RUNS = [state for state in RunState if state not in OPEN_RUNS]


class SqlDecisions(SqlResults):
    """The part of the SQL store that decides."""

    def move_build(self, build: Build, now_s: float) -> Changes:
        """Record a build's new state, and move its pending jobs."""
        with self._transactions.write() as sql:
            decision = Decision(sql, build.campaign_id, now_s)
            _write_build(sql, build)
            decision.add_build(build)
            for job in decision.jobs():
                is_its = (job.model, job.recipe, job.target) == (build.model, build.recipe, build.target)
                if is_its and job.state is JobState.PENDING:
                    if build.state is BuildState.READY:
                        decision.move_job(job, JobState.QUEUED)
                    elif build.state is BuildState.FAILED:
                        decision.fail_job(job, "quantization_failed", build.message)
            decision.settle_campaign()
        return self._finished(decision.changes())

    def begin_running(self, campaign_id: str, now_s: float) -> Changes:
        """Move a building campaign to running, or to its end."""
        with self._transactions.write() as sql:
            decision = self._decision(sql, campaign_id, now_s)
            if decision.campaign().state is CampaignState.BUILDING:
                decision.move_campaign(CampaignState.RUNNING)
            decision.settle_campaign()
        return self._finished(decision.changes())

    def cancel_campaign(self, campaign_id: str, now_s: float) -> Changes:
        """Cancel a campaign with its open jobs and runs."""
        with self._transactions.write() as sql:
            decision = self._decision(sql, campaign_id, now_s)
            if not decision.campaign().state.ended:
                for job in decision.jobs():
                    if not job.state.ended:
                        decision.cancel_runs(job)
                        decision.move_job(job, JobState.CANCELLED)
                decision.move_campaign(CampaignState.CANCELLED)
        return self._finished(decision.changes())

    def set_aside(self, campaign_id: str, reason: str, now_s: float) -> None:
        """Fail a campaign that cannot be handled."""
        facts = {"failure_type": "campaign_failed", "failure_message": records.storable(reason)}
        jobs, runs, campaigns = tables.jobs, tables.runs, tables.campaigns
        open_jobs = jobs.c.campaign_id == campaign_id, jobs.c.state.not_in(_ENDED_JOBS)
        own_jobs = select(jobs.c.job_id).where(jobs.c.campaign_id == campaign_id)
        open_runs = runs.c.job_id.in_(own_jobs), runs.c.state.not_in(_ENDED_RUNS)
        with self._transactions.write() as sql:
            known = select(campaigns.c.campaign_id).where(campaigns.c.campaign_id == campaign_id)
            sql.one(known, f"campaign {campaign_id!r}")
            sql.execute(update(runs).where(*open_runs).values(state=RunState.CANCELLED))
            sql.execute(update(jobs).where(*open_jobs).values(state=JobState.FAILED, **facts))
            Decision(sql, campaign_id, now_s).note("campaign_failed", f"the campaign was set aside: {reason}")
            ended = {"state": CampaignState.FAILED, "ended_unix_s": now_s}
            open_campaign = campaigns.c.campaign_id == campaign_id, campaigns.c.state.not_in(_ENDED_CAMPAIGNS)
            sql.execute(update(campaigns).where(*open_campaign).values(**ended))
        self._transactions.checkpoint()

    def settle(self, campaign_id: str, now_s: float) -> Changes:
        """Finish the state changes that an older release left half done."""
        with self._transactions.write() as sql:
            decision = self._decision(sql, campaign_id, now_s)
            for job in decision.jobs():
                if job.state in (JobState.LEASED, JobState.QUEUED):
                    self._settle(sql, decision, job)
            decision.settle_campaign()
        return self._finished(decision.changes())

    def _settle(self, sql: Transaction, decision: Decision, job: Job) -> None:
        runs = decision.runs_of(job.job_id)
        if not runs:
            decision.fail_job(job, "campaign_failed", "its runs are missing from the database")
            return
        failed = next((run for run in runs if run.state is RunState.FAILED), None)
        if failed is not None:
            row = self._run_row(sql, failed.run_id)
            failure = (row["failure_type"], row["failure_message"])
            decision.fail_job(job, *(failure if failure[0] else _lost_failure(failed)))
        elif settled_state({run.state for run in runs}):
            decision.settle_job(job)
        elif job.state is JobState.LEASED and all(run.state is not RunState.LEASED for run in runs):
            decision.move_job(job, JobState.QUEUED)

    def lease_runs(self, leases: Sequence[Lease], now_s: float) -> Sequence[Changes]:
        """Lease planned runs and their jobs."""
        answers = []
        with self._transactions.write() as sql:
            places = Places(sql, [lease.run_id for lease in leases])
            for lease in leases:
                place = places.of(lease.run_id)
                decision = _about(sql, place, now_s)
                can_begin = lease.lease_id or place.run.attempt  # a resumed run had a lease
                if can_begin and place.run.state is RunState.PLANNED and place.job.state is JobState.QUEUED:
                    _lease(decision, place, lease, now_s)
                answers.append(decision.changes())
                places.follow(answers[-1])
        return answers

    def release_run(self, run_id: str, why: str, now_s: float) -> Changes:
        """Move a leased run back to planned and its job to queued."""
        with self._transactions.write() as sql:
            place = Places(sql, [run_id]).of(run_id)
            decision = _about(sql, place, now_s)
            if place.run.state is RunState.LEASED:
                _release(decision, place, why)
        return decision.changes()

    def give_up(self, run_id: str, now_s: float) -> Changes:
        """Fail a planned run whose device was lost too often."""
        with self._transactions.write() as sql:
            place = Places(sql, [run_id]).of(run_id)
            decision = _about(sql, place, now_s)
            if place.run.state is RunState.PLANNED:
                failure, message = _lost_failure(place.run)
                decision.move_run(place.run, RunState.FAILED, failure_type=failure, failure_message=message)
                decision.fail_job(place.job, failure, message)
                decision.settle_campaign()
        return self._finished(decision.changes())

    def commit_reports(self, reports: Sequence[Report], now_s: float) -> Sequence[Committed | UserError]:
        """Commit reported runs with all that follows from them.

        A savepoint for each report costs time, so only a batch that fails as a whole has them.
        """
        work = list(zip(reports, self.prepare(reports, now_s), strict=True))
        with self._transactions.write() as sql:
            snapshots = self.add_snapshots(sql, [prepared for _, prepared in work])
            try:
                with sql.part():
                    answers = self._commit_all(sql, work, now_s, nullcontext)
            except UnstorableError:
                answers = self._commit_all(sql, work, now_s, sql.part)
        self.known_snapshots |= snapshots
        for answer in answers:
            if isinstance(answer, Committed):
                self._finished(answer.changes)
        return answers

    def _commit_all(
        self,
        sql: Transaction,
        work: Sequence[tuple[Report, PreparedReport | UserError]],
        now_s: float,
        part: Callable[[], AbstractContextManager[None]],
    ) -> list[Committed | UserError]:
        """Commit each report in its own `part` of the transaction."""
        places = Places(sql, [report.result.run_id for report, _ in work])
        answers: list[Committed | UserError] = []
        for report, prepared in work:
            try:
                with part():
                    committed = self._commit(sql, places.of(report.result.run_id), report, prepared, now_s)
            except UserError as error:  # raised before anything was written
                answers.append(error)
                continue
            answers.append(committed)
            places.follow(committed.changes, report.result.run_id if committed.new else "")
        return answers

    def _commit(
        self, sql: Transaction, place: Place, report: Report, prepared: PreparedReport | UserError, now_s: float
    ) -> Committed:
        is_current = place.require_lease(report)
        decision, failure = _about(sql, place, now_s), report.result.failure_type
        is_open = place.run.state in OPEN_RUNS
        if place.is_reported or (failure in PASSING_FAILURES and is_open and not is_current):
            return Committed(False, is_current, decision.changes())
        if failure in PASSING_FAILURES and is_open and place.run.attempt < MAX_ATTEMPTS:
            _release(decision, place, f"{failure}: {report.result.failure_message}; it is run again")
            return Committed(False, is_current, decision.changes())
        if isinstance(prepared, UnstorableError) and is_current:
            return Committed(False, is_current, _refuse(decision, place, prepared), prepared)
        if isinstance(prepared, UserError):
            raise prepared
        outcome = _outcome(report) if is_open else {}  # a run that was cancelled or given up stays so
        self.write_result(sql, report, {**prepared.row, **outcome}, prepared)
        if outcome:
            decision.add_run(replace(place.run, state=outcome["state"]))
            _follow(decision, place.job, report)
        return Committed(True, is_current, decision.changes())

    def _decision(self, sql: Transaction, campaign_id: str, now_s: float) -> Decision:
        return Decision(sql, self.campaign_row(sql, campaign_id)["campaign_id"], now_s)

    def _finished(self, changes: Changes) -> Changes:
        if changes.campaign is not None and changes.campaign.state.ended:
            self._transactions.checkpoint()
        return changes


def _about(sql: Transaction, place: Place, now_s: float) -> Decision:
    """Begin a decision on one run."""
    decision = Decision(sql, place.job.campaign_id, now_s)
    decision.show(place.job, place.run)
    return decision


def _lease(decision: Decision, place: Place, lease: Lease, now_s: float) -> None:
    if lease.lease_id:
        facts = {"lease_ids": [*place.lease_ids, lease.lease_id], "leased_unix_s": now_s}
        decision.move_run(place.run, RunState.LEASED, place.run.attempt + 1, **facts)
    else:
        decision.move_run(place.run, RunState.LEASED)
    decision.move_job(place.job, JobState.LEASED)


def _outcome(report: Report) -> dict[str, Any]:
    """Return the columns of the reported state."""
    failure, message = report.result.failure_type, records.storable(report.result.failure_message)
    state = {"": RunState.SUCCEEDED, "cancelled": RunState.CANCELLED}.get(failure, RunState.FAILED)
    return {"state": state, "failure_type": failure, "failure_message": message}


def _follow(decision: Decision, job: Job, report: Report) -> None:
    """Move the job and its campaign after a recorded result."""
    if report.result.failure_type:
        decision.fail_job(job, report.result.failure_type, records.storable(report.result.failure_message))
        decision.settle_campaign()
    elif decision.settle_job(job).state.ended:
        decision.settle_campaign()


def _refuse(decision: Decision, place: Place, refusal: UnstorableError) -> Changes:
    """Try a run with an unstorable result again, or fail it."""
    if place.run.attempt < MAX_ATTEMPTS:
        _release(decision, place, f"{refusal}; the run is run again")
    else:
        failure, message = "result_refused", records.storable(str(refusal))
        decision.move_run(place.run, RunState.FAILED, failure_type=failure, failure_message=message)
        decision.fail_job(place.job, failure, message)
        decision.settle_campaign()
    return decision.changes()


def _release(decision: Decision, place: Place, why: str) -> None:
    decision.move_run(place.run, RunState.PLANNED)
    if place.job.state is JobState.LEASED:
        decision.move_job(place.job, JobState.QUEUED)
    decision.note("run_released", why, place.job.device_id)


def _write_build(sql: Transaction, build: Build) -> None:
    table = tables.builds
    key = {name: getattr(build, name) for name in ("campaign_id", "model", "recipe", "target")}
    facts = {name: getattr(build, name) for name in ("state", "artifact_sha256", "build_key")}
    statement = update(table).where(*(table.c[name] == value for name, value in key.items()))
    what = f"build of {build.model} × {build.recipe} for {build.target!r} in {build.campaign_id!r}"
    sql.update_one(statement.values(**facts, message=records.storable(build.message)), what)


def _lost_failure(run: Run) -> tuple[str, str]:
    return "device_lost", f"the device was lost {run.attempt} times in the middle of this run; it is not tried again"
