"""State changes of unfinished campaigns, in the store first, then in memory.

The caller holds the coordinator's lock.
"""

import asyncio
import logging
import time
from collections.abc import Callable, Sequence
from typing import TypeVar

from efficientquant_controller.errors import FleetError, NotFoundError
from efficientquant_controller.fleet.campaigns import ENDED_JOB, ENDED_RUN, TrackedCampaign
from efficientquant_controller.fleet.scheduling import settled_state
from efficientquant_controller.model import (
    Artifact,
    Build,
    BuildState,
    Campaign,
    CampaignState,
    Device,
    Event,
    Job,
    JobState,
    Run,
    RunResult,
    RunState,
)
from efficientquant_controller.store.base import Store

LOG = logging.getLogger(__name__)
Answer = TypeVar("Answer")


class Ledger:
    """The unfinished campaigns and every change of their state.

    Calls `stop_run(device_id, run_id)` for each run that a device should stop.
    """

    def __init__(self, store: Store, stop_run: Callable[[str, str], None]) -> None:
        self._store = store
        self._stop_run = stop_run
        self._active: dict[str, TrackedCampaign] = {}
        self._artifacts: dict[str, Artifact] = {}

    # queries

    def active(self) -> tuple[TrackedCampaign, ...]:
        """Return the unfinished campaigns, oldest first."""
        return tuple(self._active.values())

    def leased_on(self, device_id: str) -> tuple[TrackedCampaign, Run] | None:
        """Return the run leased to a device and its campaign, or None."""
        for tracked in self._active.values():
            if run := tracked.leased_on(device_id):
                return tracked, run
        return None

    def devices_with_runs(self) -> set[str]:
        """Return the devices that have a leased run."""
        return {device_id for tracked in self._active.values() for device_id in tracked.leased_devices()}

    async def campaign(self, campaign_id: str) -> TrackedCampaign:
        """Return a campaign in its current state, ended or not.

        Raises NotFoundError when it does not exist.
        """
        campaign = await self.db(self._store.campaign, campaign_id)
        return self._active.get(campaign.campaign_id) or await self._load(campaign)

    async def artifact(self, tracked: TrackedCampaign, job: Job) -> Artifact:
        """Return the artifact of a job.

        Raises FleetError when its build has none.
        """
        build = tracked.builds[job.model, job.recipe, job.target]
        if build.artifact_sha256 is None:
            raise FleetError(f"job {job.job_id} is queued without an artifact")
        name = build.build_key or build.artifact_sha256
        if name not in self._artifacts:
            # Two requests may make the same file with different reference inputs.
            artifact = await self.db(self._store.find_artifact, build.build_key) if build.build_key else None
            if artifact is None or artifact.sha256 != build.artifact_sha256:
                artifact = await self.db(self._store.artifact, build.artifact_sha256)
            self._artifacts[name] = artifact
        return self._artifacts[name]

    async def db(self, call: Callable[..., Answer], *arguments: object) -> Answer:
        """Run a store call off the event loop.

        Otherwise an fsync would delay heartbeats.
        """
        return await asyncio.to_thread(call, *arguments)

    # changes

    async def recover(self) -> None:
        """Load every unfinished campaign and finish its interrupted state changes."""
        for campaign in reversed(await self.db(self._store.campaigns)):
            if not campaign.state.ended:
                tracked = self._active[campaign.campaign_id] = await self._load(campaign)
                await self._finish_interrupted_changes(tracked)

    async def add(self, tracked: TrackedCampaign) -> None:
        """Record a new campaign with all its builds, jobs and runs."""
        parts = list(tracked.builds.values()), list(tracked.jobs.values()), list(tracked.runs.values())
        await self.db(self._store.create_campaign, tracked.campaign, *parts)
        self._active[tracked.campaign_id] = tracked

    async def move_build(self, tracked: TrackedCampaign, build: Build) -> None:
        """Record a build's state and move its jobs accordingly."""
        if tracked.campaign_id not in self._active:
            return
        key = (tracked.campaign_id, build.model, build.recipe, build.target)
        outcome = (build.state, build.message, build.artifact_sha256, build.build_key)
        await self.db(self._store.set_build_state, *key, *outcome)
        tracked.builds[build.model, build.recipe, build.target] = build
        for job in [job for job in tracked.jobs_of_build(build) if job.state is JobState.PENDING]:
            if build.state is BuildState.READY:
                await self._move_job(tracked, job, JobState.QUEUED)
            elif build.state is BuildState.FAILED:
                await self._fail_job(tracked, job, "quantization_failed", build.message)

    async def begin_running(self, tracked: TrackedCampaign) -> None:
        """Mark a campaign as running after its last build has ended."""
        if tracked.campaign_id in self._active:
            await self._move_campaign(tracked, CampaignState.RUNNING)
            await self._settle_campaign(tracked)

    async def cancel(self, campaign_id: str) -> Campaign:
        """Cancel a campaign.

        An ended campaign stays as it is. Raises NotFoundError when the campaign does not exist.
        """
        campaign = await self.db(self._store.campaign, campaign_id)
        tracked = self._active.get(campaign.campaign_id)
        if tracked is None:
            return campaign
        for run in [run for run in tracked.runs.values() if run.state not in ENDED_RUN]:
            await self._cancel_run(tracked, run)
        for job in [job for job in tracked.jobs.values() if job.state not in ENDED_JOB]:
            await self._move_job(tracked, job, JobState.CANCELLED)
        await self._move_campaign(tracked, CampaignState.CANCELLED)
        return tracked.campaign

    async def lease(self, tracked: TrackedCampaign, run: Run) -> Run:
        """Lease a run to its device."""
        leased = await self.db(self._store.lease_run, run.run_id, time.time())
        tracked.runs[run.run_id] = leased
        tracked.move_job(run.job_id, JobState.LEASED)
        return leased

    async def release(self, tracked: TrackedCampaign, run: Run, device: Device, why: str) -> None:
        """Requeue a run that its device will not finish."""
        await self.db(self._store.release_run, run.run_id)
        tracked.move_run(run, RunState.PLANNED)
        tracked.move_job(run.job_id, JobState.QUEUED)
        await self.note(tracked, "run_released", f"{device.name} {why}", device)

    async def give_up(self, tracked: TrackedCampaign, job: Job, run: Run) -> None:
        """Fail a run whose device was lost too often."""
        failure, message = _lost_failure(run)
        await self.db(self._store.end_run, run.run_id, RunState.FAILED, failure, message)
        tracked.move_run(run, RunState.FAILED)
        await self._fail_job(tracked, job, failure, message)

    async def follow_result(self, tracked: TrackedCampaign, run: Run, result: RunResult) -> None:
        """Update the run and its job after a result was committed."""
        if run.state in ENDED_RUN:
            return
        tracked.move_run(run, RunState.FAILED if result.failure_type else RunState.SUCCEEDED)
        job = tracked.jobs[run.job_id]
        if result.failure_type:
            await self._fail_job(tracked, job, result.failure_type, result.failure_message)
            return
        if result.attempt < run.attempt:  # a late result of an earlier attempt: stop the new one
            self._stop_run(job.device_id, run.run_id)
        await self._move_job(tracked, job, settled_state(tracked.runs_of(job.job_id)) or JobState.QUEUED)
        await self._settle_campaign(tracked)

    async def note(self, tracked: TrackedCampaign, kind: str, message: str, device: Device | None) -> None:
        """Record and log an event of a campaign."""
        LOG.info("campaign %s: %s", tracked.campaign_id, message)
        event = Event(time.time(), tracked.campaign_id, device.device_id if device else None, kind, message)
        await self.db(self._store.add_event, event)
        tracked.events.append(event)

    # consequences

    async def _fail_job(self, tracked: TrackedCampaign, job: Job, failure_type: str, message: str) -> None:
        """Fail a job and cancel its remaining runs.

        Those would fail in the same way and cost hours.
        """
        for run in tracked.runs_of(job.job_id):
            if run.state not in ENDED_RUN:
                await self._cancel_run(tracked, run)
        await self._move_job(tracked, job, JobState.FAILED, failure_type, message)
        await self.note(tracked, "job_failed", f"{job.model} under {job.recipe}: {failure_type}: {message}", None)
        await self._settle_campaign(tracked)

    async def _cancel_run(self, tracked: TrackedCampaign, run: Run) -> None:
        if run.state is RunState.LEASED:
            self._stop_run(tracked.jobs[run.job_id].device_id, run.run_id)
        await self.db(self._store.end_run, run.run_id, RunState.CANCELLED)
        tracked.move_run(run, RunState.CANCELLED)

    async def _move_job(
        self, tracked: TrackedCampaign, job: Job, state: JobState, failure_type: str = "", message: str = ""
    ) -> None:
        await self.db(self._store.set_job_state, job.job_id, state, failure_type, message)
        tracked.move_job(job.job_id, state, failure_type, message)

    async def _settle_campaign(self, tracked: TrackedCampaign) -> None:
        final = tracked.final_state()
        if final is not None and tracked.campaign.state is CampaignState.RUNNING:
            await self._move_campaign(tracked, final)

    async def _move_campaign(self, tracked: TrackedCampaign, state: CampaignState) -> None:
        now_s = time.time()
        await self.db(self._store.set_campaign_state, tracked.campaign_id, state, now_s)
        tracked.move_campaign(state, now_s if state.ended else None)
        if state.ended:
            self._active.pop(tracked.campaign_id, None)

    async def _finish_interrupted_changes(self, tracked: TrackedCampaign) -> None:
        for job in [job for job in tracked.jobs.values() if job.state in (JobState.LEASED, JobState.QUEUED)]:
            runs = tracked.runs_of(job.job_id)
            failed = next((run for run in runs if run.state is RunState.FAILED), None)
            if failed is not None:
                await self._fail_job(tracked, job, *await self._failure_of(failed))
            elif state := settled_state(runs):
                await self._move_job(tracked, job, state)
            elif job.state is JobState.LEASED and all(run.state is not RunState.LEASED for run in runs):
                await self._move_job(tracked, job, JobState.QUEUED)
        await self._settle_campaign(tracked)

    async def _failure_of(self, run: Run) -> tuple[str, str]:
        try:
            result = await self.db(self._store.raw_result, run.run_id)
        except NotFoundError:  # the controller gave up on the run before any result came
            return _lost_failure(run)
        # A result without a failure came after the controller had given up on the run.
        return (result.failure_type, result.failure_message) if result.failure_type else _lost_failure(run)

    async def _load(self, campaign: Campaign) -> TrackedCampaign:
        parts: list[Sequence[object]] = [
            await self.db(read, campaign.campaign_id)
            for read in (self._store.builds, self._store.jobs, self._store.runs, self._store.events)
        ]
        return TrackedCampaign(campaign, *parts)  # type: ignore[arg-type]


def _lost_failure(run: Run) -> tuple[str, str]:
    return "device_lost", f"the device was lost {run.attempt} times in the middle of this run; it is not tried again"
