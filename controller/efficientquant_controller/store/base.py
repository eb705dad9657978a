"""The contract that every implementation of the store is tested against."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any

from efficientquant_controller.model import (
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
    RunResult,
    RunState,
)


class Store(ABC):
    """The store of every measured number and every campaign's state.

    Every method is one transaction. When it returns, its writes are on disk (SQLite: synchronous FULL). When it raises,
    nothing was written. Any thread of one process may call methods. They raise NotFoundError for an id that does not
    exist, and StoreError when the database refuses. Times are seconds since 1970 (UTC).
    """

    @abstractmethod
    def close(self) -> None:
        """Release the database.

        A second call MUST be harmless.
        """

    # devices

    @abstractmethod
    def register_device(
        self, device_id: str, name: str, agent_version: str, session_epoch: int, snapshot: DeviceSnapshot, now_s: float
    ) -> Device:
        """Record a device's hello, and its snapshot if that changed.

        MUST raise NameTakenError when `name` belongs to another device, and StaleSessionError when a session with the
        same or a newer epoch is recorded. A device that changed its name keeps its id and history.
        """

    @abstractmethod
    def touch_device(self, device_id: str, now_s: float) -> None:
        """Record when the device was last heard from."""

    @abstractmethod
    def forget_device(self, name: str) -> Device:
        """Free a device's name and return the device as it was.

        Its history stays.
        """

    @abstractmethod
    def devices(self) -> Sequence[Device]:
        """Return every device that has a name, ordered by name."""

    @abstractmethod
    def device(self, device_id: str) -> Device:
        """Return a device, even a forgotten one."""

    # artifacts

    @abstractmethod
    def add_artifact(self, artifact: Artifact, build_key: str) -> None:
        """Record an artifact and the key of its build.

        MUST accept the same artifact again.
        """

    @abstractmethod
    def find_artifact(self, build_key: str) -> Artifact | None:
        """Return the artifact of an earlier build with this key, or None."""

    @abstractmethod
    def artifact(self, sha256: str) -> Artifact:
        """Return an artifact."""

    # campaigns

    @abstractmethod
    def create_campaign(
        self, campaign: Campaign, builds: Sequence[Build], jobs: Sequence[Job], runs: Sequence[Run]
    ) -> None:
        """Record a campaign with all its parts, or nothing of it."""

    @abstractmethod
    def campaign(self, campaign_id: str) -> Campaign:
        """Return a campaign.

        The id "latest" means the campaign that was created last.
        """

    @abstractmethod
    def campaigns(self) -> Sequence[Campaign]:
        """Return all campaigns, newest first."""

    @abstractmethod
    def builds(self, campaign_id: str) -> Sequence[Build]:
        """Return a campaign's builds, in the order they were recorded."""

    @abstractmethod
    def jobs(self, campaign_id: str) -> Sequence[Job]:
        """Return a campaign's jobs, in the order they were recorded."""

    @abstractmethod
    def runs(self, campaign_id: str) -> Sequence[Run]:
        """Return a campaign's runs, ordered by position."""

    @abstractmethod
    def job(self, job_id: str) -> Job:
        """Return a job."""

    @abstractmethod
    def run(self, run_id: str) -> Run:
        """Return a run."""

    @abstractmethod
    def set_campaign_state(self, campaign_id: str, state: CampaignState, now_s: float) -> None:
        """Set a campaign's state.

        A final state also records the time. SQLite: after a final state, and after `close`, the main file alone MUST be
        complete unless another program reads the database at that moment. A reader MUST neither delay the call nor make
        it fail.
        """

    @abstractmethod
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

    @abstractmethod
    def set_job_state(self, job_id: str, state: JobState, failure_type: str = "", failure_message: str = "") -> None:
        """Set a job's state.

        MUST raise ValueError for a move that JOB_TRANSITIONS does not list, except to the same state.
        """

    @abstractmethod
    def lease_run(self, run_id: str, now_s: float) -> Run:
        """Lease a planned run and its job, and return the run.

        The lease counts as one more attempt. MUST raise ValueError for a run that is not planned.
        """

    @abstractmethod
    def release_run(self, run_id: str) -> None:
        """Move a leased run back to planned and its job to queued.

        A run that has ended stays as it is.
        """

    @abstractmethod
    def end_run(self, run_id: str, state: RunState, failure_type: str = "", failure_message: str = "") -> None:
        """End a run for which no result will come.

        The run was cancelled or given up. MUST raise ValueError for a state other than failed and cancelled.
        """

    # results

    @abstractmethod
    def record_result(self, result: RunResult, now_s: float) -> bool:
        """Commit a reported run in one transaction.

        This covers its metrics, raw series and new state. Returns False when the run already has a result, which is
        kept, and True otherwise. A result for a cancelled or given-up run MUST still be
        recorded, without changing its state.
        """

    @abstractmethod
    def results(self, campaign_id: str | None = None) -> Sequence[Mapping[str, Any]]:
        """Return the rows of the view `results`, one for each job.

        `campaign_id` selects one campaign, None selects all.
        """

    @abstractmethod
    def comparisons(self, campaign_id: str | None = None) -> Mapping[str, Mapping[str, Any]]:
        """Return the guard's answers on variants and their fp32 twins, by job.

        MUST contain every ended pair that was compared by the current rules. An answer is written in the transaction
        that ends the pair's second job. A database of older rules that is opened read-only has no answers.
        """

    @abstractmethod
    def run_rows(self, campaign_id: str | None = None) -> Sequence[Mapping[str, Any]]:
        """Return the rows of the view `run_results`.

        `campaign_id` selects one campaign, None selects all. JSON columns and booleans are decoded.
        """

    @abstractmethod
    def raw_result(self, run_id: str) -> RunResult:
        """Return the whole report of a run, including its raw samples."""

    # events

    @abstractmethod
    def add_event(self, event: Event) -> None:
        """Record an event."""

    @abstractmethod
    def events(self, campaign_id: str) -> Sequence[Event]:
        """Return a campaign's events, oldest first."""
