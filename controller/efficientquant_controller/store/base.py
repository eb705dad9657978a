"""The contract that every implementation of the store is tested against."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from efficientquant_controller.errors import UnstorableError, UserError
from efficientquant_controller.model import (
    Artifact,
    Build,
    Campaign,
    Device,
    DeviceSnapshot,
    Event,
    Job,
    Run,
    RunResult,
)

# A run during which its board was lost this often is not tried again, since the run may be the cause.
MAX_ATTEMPTS = 3
# Failures that say nothing about the artifact. The run is tried again, up to MAX_ATTEMPTS.
PASSING_FAILURES = frozenset({"artifact_unavailable", "artifact_corrupt", "agent_error", "cancelled"})


@dataclass(frozen=True)
class Changes:
    """Rows of one campaign as they are after a transaction.

    They are those that the transaction wrote or decided on. `campaign` is None where it did neither.
    """

    campaign_id: str
    campaign: Campaign | None = None
    builds: tuple[Build, ...] = ()
    jobs: tuple[Job, ...] = ()
    runs: tuple[Run, ...] = ()
    events: tuple[Event, ...] = ()


@dataclass(frozen=True)
class Lease:
    """A lease of a run, which its result must name.

    An empty `lease_id` resumes the run under its last lease, without another attempt.
    """

    run_id: str
    lease_id: str


@dataclass(frozen=True)
class Report:
    """A result as a device sent it.

    `lease_id` is empty from agents before protocol 4, and so is `sha256`, the hash of the sent bytes.
    """

    result: RunResult
    lease_id: str = ""
    sha256: str = ""


@dataclass(frozen=True)
class Committed:
    """A report that was handled.

    `new` is false when the run already has a result, or waits for another attempt. `is_current` is false when the run
    was leased again after the report's own lease. `refusal` is set for a result that can never be stored, whose run is
    tried again or fails.
    """

    new: bool
    is_current: bool
    changes: Changes
    refusal: UnstorableError | None = None


class Store(ABC):
    """The store of every measured number and every campaign's state.

    Every method is one transaction, and every decision one method. When it returns, its writes are on disk (SQLite:
    synchronous FULL). When it raises, nothing was written, except that a commit may have succeeded when the connection
    or the file was lost during it. Any thread of one process may call methods. They raise NotFoundError for an id that
    does not exist, and StoreError when the database refuses. Times are seconds since 1970 (UTC).
    """

    @abstractmethod
    def renew(self) -> None:
        """Prove that the database can be written.

        MUST raise StoreError when it cannot, and LeaseLostError when another controller has taken over. It extends the
        lease of the controller that opened the store with one.
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
    def touch_devices(self, device_ids: Sequence[str], now_s: float) -> None:
        """Record when devices were last heard from."""

    @abstractmethod
    def forget_device(self, name: str) -> Device:
        """Free a device's name and return the device as it was.

        Its history stays.
        """

    @abstractmethod
    def device_names(self) -> Mapping[str, str]:
        """Return the name of every device that has one, by id."""

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
    def unfinished(self) -> Sequence[str]:
        """Return the ids of the campaigns without a final state, oldest first.

        MUST succeed for rows that cannot be read.
        """

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

    # decisions

    @abstractmethod
    def move_build(self, build: Build, now_s: float) -> Changes:
        """Record a build's new state.

        Its pending jobs are queued when it is ready, and fail when it has failed.
        """

    @abstractmethod
    def begin_running(self, campaign_id: str, now_s: float) -> Changes:
        """Move a building campaign to running, or to its end.

        It ends when no job is open.

        SQLite: after every end of a campaign, and after `close`, the main file alone MUST be complete unless another
        program reads the database at that moment. A reader MUST neither delay the call nor make it fail.
        """

    @abstractmethod
    def cancel_campaign(self, campaign_id: str, now_s: float) -> Changes:
        """Cancel a campaign with its open jobs and runs.

        An ended campaign stays as it is.
        """

    @abstractmethod
    def set_aside(self, campaign_id: str, reason: str, now_s: float) -> None:
        """Fail a campaign that cannot be handled, with its open jobs.

        MUST succeed for rows that cannot be read. MUST raise NotFoundError when the campaign does not exist.
        """

    @abstractmethod
    def settle(self, campaign_id: str, now_s: float) -> Changes:
        """Finish the state changes that an older release left half done."""

    @abstractmethod
    def lease_runs(self, leases: Sequence[Lease], now_s: float) -> Sequence[Changes]:
        """Lease planned runs and their jobs, and return one answer for each.

        A lease counts as one more attempt. A run that is not planned, or whose job is not queued, MUST stay as it is.
        So MUST a run that is resumed and never had a lease.
        """

    @abstractmethod
    def release_run(self, run_id: str, why: str, now_s: float) -> Changes:
        """Move a leased run back to planned and its job to queued.

        `why` becomes an event. A run that is not leased MUST stay as it is.
        """

    @abstractmethod
    def give_up(self, run_id: str, now_s: float) -> Changes:
        """Fail a planned run and its job after too many losses."""

    @abstractmethod
    def commit_reports(self, reports: Sequence[Report], now_s: float) -> Sequence[Committed | UserError]:
        """Commit reported runs with all that follows from them.

        The answers are in the order of the reports. A result has its metrics, raw series and new state. Its job and
        campaign may end with it.

        - A run keeps its first result.
        - A result of a run that was cancelled or given up MUST be recorded, without a change of its state.
        - A passing failure puts the run back in the queue while attempts are left, and is not recorded.
        - A run whose result can never be stored is tried again while attempts are left, and then fails.
        - NotFoundError is the answer for an unknown run. UserError is the answer for a run that was never leased, or
          not to this device or by this lease. UnstorableError is the answer for a result that the database can never
          hold. None of these affects another report.
        """

    # results

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
