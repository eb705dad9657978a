"""What a store must do: the contract that every implementation is tested against."""

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
    """Every number the product measured, and the state of every campaign.

    Every method is one transaction: when it returns, what it wrote is on disk (SQLite: synchronous FULL); when it
    raises, nothing was written. Methods are called from one process, from any thread. `NotFoundError` is raised for an
    id that does not exist, `StoreError` when the database refuses. Times are seconds since 1970 (UTC).
    """

    @abstractmethod
    def close(self) -> None:
        """Release the database; MUST be harmless when called twice."""

    # devices

    @abstractmethod
    def register_device(
        self, device_id: str, name: str, agent_version: str, session_epoch: int, snapshot: DeviceSnapshot, now_s: float
    ) -> Device:
        """Record a device that says hello, and its snapshot when that differs from the last one.

        MUST raise NameTakenError when `name` belongs to another device, and StaleSessionError when a session with the
        same or a newer epoch is recorded. A device that changed its name keeps its id and history.
        """

    @abstractmethod
    def touch_device(self, device_id: str, now_s: float) -> None:
        """Record that the device was heard of."""

    @abstractmethod
    def forget_device(self, name: str) -> Device:
        """Free a device's name; its history stays. Returns the device as it was."""

    @abstractmethod
    def devices(self) -> Sequence[Device]:
        """Every device that has a name, by name."""

    @abstractmethod
    def device(self, device_id: str) -> Device:
        """One device, forgotten ones included."""

    # artifacts

    @abstractmethod
    def add_artifact(self, artifact: Artifact, build_key: str) -> None:
        """Record an artifact and the key of the build that made it; MUST accept the same one again."""

    @abstractmethod
    def find_artifact(self, build_key: str) -> Artifact | None:
        """The artifact an equal build made before, or None."""

    @abstractmethod
    def artifact(self, sha256: str) -> Artifact:
        """One artifact."""

    # campaigns

    @abstractmethod
    def create_campaign(
        self, campaign: Campaign, builds: Sequence[Build], jobs: Sequence[Job], runs: Sequence[Run]
    ) -> None:
        """Record a campaign whole, or not at all."""

    @abstractmethod
    def campaign(self, campaign_id: str) -> Campaign:
        """One campaign; the id "latest" means the one created last."""

    @abstractmethod
    def campaigns(self) -> Sequence[Campaign]:
        """All, newest first."""

    @abstractmethod
    def builds(self, campaign_id: str) -> Sequence[Build]:
        """A campaign's builds, in the order they were recorded."""

    @abstractmethod
    def jobs(self, campaign_id: str) -> Sequence[Job]:
        """A campaign's jobs, in the order they were recorded."""

    @abstractmethod
    def runs(self, campaign_id: str) -> Sequence[Run]:
        """A campaign's runs, by position."""

    @abstractmethod
    def job(self, job_id: str) -> Job:
        """One job."""

    @abstractmethod
    def run(self, run_id: str) -> Run:
        """One run."""

    @abstractmethod
    def set_campaign_state(self, campaign_id: str, state: CampaignState, now_s: float) -> None:
        """Move a campaign; an ended state records when.

        SQLite: after an ended state, and after `close`, the main file alone MUST be complete unless another program
        reads the database just then; a reader MUST neither delay the call nor make it fail.
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
        """Move a build."""

    @abstractmethod
    def set_job_state(self, job_id: str, state: JobState, failure_type: str = "", failure_message: str = "") -> None:
        """Move a job; MUST raise ValueError for a move that JOB_TRANSITIONS does not list, except to the same state."""

    @abstractmethod
    def lease_run(self, run_id: str, now_s: float) -> Run:
        """Move a run and its job to leased, one attempt further; returns the run as it is now."""

    @abstractmethod
    def release_run(self, run_id: str) -> None:
        """Move a leased run back to planned and its job back to queued; a run that has ended stays as it is."""

    @abstractmethod
    def end_run(self, run_id: str, state: RunState, failure_type: str = "", failure_message: str = "") -> None:
        """End a run that no result will come for (cancelled, or given up)."""

    # results

    @abstractmethod
    def record_result(self, result: RunResult, now_s: float) -> bool:
        """Commit a reported run: metrics, raw series, and the run's new state, in one transaction.

        Returns True when it was recorded and False when a result for this run was recorded before: the first one
        stands. A result that comes for a cancelled or given-up run MUST still be recorded, without changing its state.
        """

    @abstractmethod
    def results(self, campaign_id: str | None = None) -> Sequence[Mapping[str, Any]]:
        """The rows of the view `results`, one for each job, of one campaign or of all."""

    @abstractmethod
    def comparisons(self, campaign_id: str | None = None) -> Mapping[str, Mapping[str, Any]]:
        """Return the guard's answers for variants beside their fp32 twins, by job.

        MUST have every pair whose jobs have both ended and that was compared by the rules of today. An answer is
        written in the transaction in which the second job ends. A database of older rules that is only read has none.
        """

    @abstractmethod
    def run_rows(self, campaign_id: str | None = None) -> Sequence[Mapping[str, Any]]:
        """The rows of the view `run_results` of one campaign or of all, JSON columns and truths as what they say."""

    @abstractmethod
    def raw_result(self, run_id: str) -> RunResult:
        """Everything that was reported of a run, raw samples included."""

    # events

    @abstractmethod
    def add_event(self, event: Event) -> None:
        """Record something a person may want to know of later."""

    @abstractmethod
    def events(self, campaign_id: str) -> Sequence[Event]:
        """A campaign's events, oldest first."""
