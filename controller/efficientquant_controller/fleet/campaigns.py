"""One campaign in memory: what the coordinator decides from, always written to the store first."""

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
    """How far one device is with a campaign, in runs."""

    device_id: str
    total: int
    done: int
    failed: int
    leased: Run | None


class TrackedCampaign:
    """A campaign with everything that belongs to it."""

    def __init__(
        self,
        campaign: Campaign,
        builds: Sequence[Build],
        jobs: Sequence[Job],
        runs: Sequence[Run],
        events: Sequence[Event] = (),
    ) -> None:
        self.campaign = campaign
        self.builds = {(one.model, one.recipe, one.target): one for one in builds}
        self.jobs = {one.job_id: one for one in jobs}
        self.runs = {one.run_id: one for one in runs}
        self.events = list(events)
        self._by_device: dict[str, list[str]] = defaultdict(list)
        self._by_job: dict[str, list[str]] = defaultdict(list)
        for run in sorted(runs, key=lambda one: one.position):
            self._by_device[self.jobs[run.job_id].device_id].append(run.run_id)
            self._by_job[run.job_id].append(run.run_id)

    @property
    def campaign_id(self) -> str:
        """The campaign's id."""
        return self.campaign.campaign_id

    def runs_on(self, device_id: str) -> list[Run]:
        """A device's runs, by position."""
        return [self.runs[one] for one in self._by_device[device_id]]

    def runs_of(self, job_id: str) -> list[Run]:
        """A job's runs, by position."""
        return [self.runs[one] for one in self._by_job[job_id]]

    def leased_on(self, device_id: str) -> Run | None:
        """The run that is on the device now."""
        return next((one for one in self.runs_on(device_id) if one.state is RunState.LEASED), None)

    def leased_devices(self) -> set[str]:
        """The devices that have one of its runs on them."""
        return {self.jobs[one.job_id].device_id for one in self.runs.values() if one.state is RunState.LEASED}

    def jobs_of_build(self, build: Build) -> list[Job]:
        """The jobs that wait for an artifact, one for each device of its target."""
        wanted = (build.model, build.recipe, build.target)
        return [one for one in self.jobs.values() if (one.model, one.recipe, one.target) == wanted]

    def tallies(self) -> list[DeviceTally]:
        """How far each device is."""
        return [self._tally(device_id) for device_id in self.campaign.devices]

    def final_state(self) -> CampaignState | None:
        """The state the campaign ends in once all its jobs have ended, or None while one has not."""
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
            done=sum(one.state in ENDED_RUN for one in runs),
            failed=sum(one.state is RunState.FAILED for one in runs),
            leased=self.leased_on(device_id),
        )
