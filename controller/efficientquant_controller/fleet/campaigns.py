"""A campaign in memory, on which the coordinator decides.

Every change is written to the store first.
"""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace

from efficientquant_controller.model import (
    Build,
    Campaign,
    CampaignState,
    Event,
    Job,
    JobState,
    Run,
    RunState,
)

ENDED_JOB = frozenset({JobState.SUCCEEDED, JobState.FAILED, JobState.CANCELLED})
ENDED_RUN = frozenset({RunState.SUCCEEDED, RunState.FAILED, RunState.CANCELLED})


@dataclass(frozen=True)
class DeviceTally:
    """One device's progress in a campaign, in runs."""

    device_id: str
    total: int
    done: int
    failed: int
    leased: Run | None


class TrackedCampaign:
    """A campaign with its builds, jobs, runs and events."""

    def __init__(
        self,
        campaign: Campaign,
        builds: Sequence[Build],
        jobs: Sequence[Job],
        runs: Sequence[Run],
        events: Sequence[Event] = (),
    ) -> None:
        self.campaign = campaign
        self.builds = {(build.model, build.recipe, build.target): build for build in builds}
        self.jobs = {job.job_id: job for job in jobs}
        self.runs = {run.run_id: run for run in runs}
        self.events = list(events)
        self._by_device: dict[str, list[str]] = defaultdict(list)
        self._by_job: dict[str, list[str]] = defaultdict(list)
        for run in sorted(runs, key=lambda run: run.position):
            self._by_device[self.jobs[run.job_id].device_id].append(run.run_id)
            self._by_job[run.job_id].append(run.run_id)

    @property
    def campaign_id(self) -> str:
        """The campaign's id."""
        return self.campaign.campaign_id

    def runs_on(self, device_id: str) -> list[Run]:
        """Return a device's runs, by position."""
        return [self.runs[run_id] for run_id in self._by_device[device_id]]

    def runs_of(self, job_id: str) -> list[Run]:
        """Return a job's runs, by position."""
        return [self.runs[run_id] for run_id in self._by_job[job_id]]

    def leased_on(self, device_id: str) -> Run | None:
        """Return the run that is leased to the device, or None."""
        return next((run for run in self.runs_on(device_id) if run.state is RunState.LEASED), None)

    def leased_devices(self) -> set[str]:
        """Return the devices that have a leased run."""
        return {self.jobs[run.job_id].device_id for run in self.runs.values() if run.state is RunState.LEASED}

    def jobs_of_build(self, build: Build) -> list[Job]:
        """Return the jobs of an artifact, one per device of its target."""
        wanted = (build.model, build.recipe, build.target)
        return [job for job in self.jobs.values() if (job.model, job.recipe, job.target) == wanted]

    def tallies(self) -> list[DeviceTally]:
        """Return each device's progress."""
        return [self._tally(device_id) for device_id in self.campaign.devices]

    def final_state(self) -> CampaignState | None:
        """Return the campaign's final state, or None while a job is open."""
        states = {job.state for job in self.jobs.values()}
        if not states <= ENDED_JOB:
            return None
        return CampaignState.FAILED if JobState.FAILED in states else CampaignState.SUCCEEDED

    def move_campaign(self, state: CampaignState, ended_unix_s: float | None = None) -> None:
        """Change the campaign's state."""
        self.campaign = replace(self.campaign, state=state, ended_unix_s=ended_unix_s)

    def move_job(self, job_id: str, state: JobState, failure_type: str = "", failure_message: str = "") -> None:
        """Change a job's state."""
        self.jobs[job_id] = replace(
            self.jobs[job_id], state=state, failure_type=failure_type, failure_message=failure_message
        )

    def move_run(self, run: Run, state: RunState) -> None:
        """Change a run's state."""
        self.runs[run.run_id] = replace(run, state=state)

    def _tally(self, device_id: str) -> DeviceTally:
        runs = self.runs_on(device_id)
        return DeviceTally(
            device_id,
            total=len(runs),
            done=sum(run.state in ENDED_RUN for run in runs),
            failed=sum(run.state is RunState.FAILED for run in runs),
            leased=self.leased_on(device_id),
        )
