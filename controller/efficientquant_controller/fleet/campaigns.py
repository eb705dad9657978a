"""A campaign in memory, on which the coordinator decides.

It is a copy of the store. Every lookup takes the same time, however many devices and runs there are.
"""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field

from efficientquant_controller.model import (
    Build,
    Campaign,
    Event,
    Job,
    JobState,
    Run,
    RunState,
)
from efficientquant_controller.store.base import Changes

ENDED_RUN = frozenset({RunState.SUCCEEDED, RunState.FAILED, RunState.CANCELLED})


@dataclass(frozen=True)
class DeviceTally:
    """One device's progress in a campaign, in runs."""

    device_id: str
    total: int
    done: int
    failed: int
    leased: Run | None


@dataclass
class _DeviceRuns:
    """One device's runs by position, and their counts.

    No run before `next_index` is planned.
    """

    run_ids: list[str] = field(default_factory=list)
    next_index: int = 0
    done: int = 0
    failed: int = 0
    leased_id: str = ""


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
        self._devices: dict[str, _DeviceRuns] = defaultdict(_DeviceRuns)
        self._index: dict[str, int] = {}
        for run in sorted(runs, key=lambda run: run.position):
            entry = self._devices[self.device_of(run)]
            self._index[run.run_id] = len(entry.run_ids)
            entry.run_ids.append(run.run_id)
            self._count(entry, run, 1)

    def become(self, other: "TrackedCampaign") -> None:
        """Take over everything from what was read again."""
        vars(self).update(vars(other))

    @property
    def campaign_id(self) -> str:
        """The campaign's id."""
        return self.campaign.campaign_id

    def device_of(self, run: Run) -> str:
        """Return the id of a run's device."""
        return self.jobs[run.job_id].device_id

    def leased_on(self, device_id: str) -> Run | None:
        """Return the run that is leased to the device, or None."""
        entry = self._devices.get(device_id)
        return self.runs[entry.leased_id] if entry and entry.leased_id else None

    def leased_devices(self) -> set[str]:
        """Return the devices that have a leased run."""
        return {device_id for device_id, entry in self._devices.items() if entry.leased_id}

    def next_run(self, device_id: str) -> Run | None:
        """Return the device's first planned run whose job is queued, or None."""
        entry = self._devices.get(device_id)
        if entry is None:
            return None
        while entry.next_index < len(entry.run_ids):
            if self.runs[entry.run_ids[entry.next_index]].state is RunState.PLANNED:
                break
            entry.next_index += 1
        # It ends at once, unless the job of that run is not queued.
        for index in range(entry.next_index, len(entry.run_ids)):
            run = self.runs[entry.run_ids[index]]
            if run.state is RunState.PLANNED and self.jobs[run.job_id].state is JobState.QUEUED:
                return run
        return None

    def tallies(self) -> list[DeviceTally]:
        """Return each device's progress."""
        return [self._tally(device_id) for device_id in self.campaign.devices]

    def copy(self, changes: Changes) -> list[Run]:
        """Copy the rows that a transaction returned.

        Returns the runs that were leased before and are not any more.
        """
        self.campaign = changes.campaign or self.campaign
        self.builds |= {(build.model, build.recipe, build.target): build for build in changes.builds}
        self.jobs |= {job.job_id: job for job in changes.jobs}
        self.events += changes.events
        return [run for run in changes.runs if self._put(run)]

    def _put(self, run: Run) -> bool:
        before, entry = self.runs[run.run_id], self._devices[self.device_of(run)]
        self._count(entry, before, -1)
        self.runs[run.run_id] = run
        self._count(entry, run, 1)
        if run.state is RunState.PLANNED:
            entry.next_index = min(entry.next_index, self._index[run.run_id])
        return before.state is RunState.LEASED and run.state is not RunState.LEASED

    @staticmethod
    def _count(entry: _DeviceRuns, run: Run, sign: int) -> None:
        entry.done += sign * (run.state in ENDED_RUN)
        entry.failed += sign * (run.state is RunState.FAILED)
        if run.state is RunState.LEASED:
            entry.leased_id = run.run_id if sign > 0 else ""

    def _tally(self, device_id: str) -> DeviceTally:
        entry = self._devices[device_id]
        return DeviceTally(device_id, len(entry.run_ids), entry.done, entry.failed, self.leased_on(device_id))
