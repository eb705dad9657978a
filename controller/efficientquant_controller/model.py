"""The controller's records, and the table of the states a job may pass through."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

# What every other recipe is compared with, on the same device and model in the same campaign.
TWIN_RECIPE = "fp32"


class JobState(StrEnum):
    """Where a job (one variant on one device) stands."""

    PENDING = "pending"  # its artifact is not built yet
    QUEUED = "queued"  # runs remain and none is on the device
    LEASED = "leased"  # one of its runs is on the device
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"

    @property
    def ended(self) -> bool:
        """True when nothing of it will run any more."""
        return self in (JobState.SUCCEEDED, JobState.FAILED, JobState.CANCELLED)


JOB_TRANSITIONS: Mapping[JobState, frozenset[JobState]] = {
    JobState.PENDING: frozenset({JobState.QUEUED, JobState.FAILED, JobState.CANCELLED}),
    JobState.QUEUED: frozenset({JobState.LEASED, JobState.SUCCEEDED, JobState.FAILED, JobState.CANCELLED}),
    JobState.LEASED: frozenset({JobState.QUEUED, JobState.SUCCEEDED, JobState.FAILED, JobState.CANCELLED}),
    JobState.SUCCEEDED: frozenset(),
    JobState.FAILED: frozenset(),
    JobState.CANCELLED: frozenset(),
}


class RunState(StrEnum):
    """Where a run (one repeat of a job) stands."""

    PLANNED = "planned"
    LEASED = "leased"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"


class CampaignState(StrEnum):
    """Where a campaign (models × recipes × devices × repeats) stands."""

    BUILDING = "building"
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"  # ended, and at least one job failed
    CANCELLED = "cancelled"

    @property
    def ended(self) -> bool:
        """True when nothing of it will run any more."""
        return self in (CampaignState.SUCCEEDED, CampaignState.FAILED, CampaignState.CANCELLED)


class BuildState(StrEnum):
    """Where the making of one artifact (model × recipe × weights) stands."""

    QUEUED = "queued"
    BUILDING = "building"
    READY = "ready"
    FAILED = "failed"


@dataclass(frozen=True)
class Backend:
    """A runtime that a device can run an artifact with.

    The defaults are for snapshots of agents that did not say more.
    """

    name: str
    version: str
    providers: tuple[str, ...] = ()
    preference: int = 99  # the lowest runs the jobs where nothing else is asked for
    uses_gpu: bool = False
    builds_engines: bool = False
    form: str = ""  # the family of ONNX files that it builds from
    opset: int = 0
    precision_flags: tuple[str, ...] = ()
    options: tuple[str, ...] = ()

    @classmethod
    def from_plain(cls, values: Mapping[str, Any]) -> "Backend":
        """Read one from JSON or a message, where tuples are lists."""
        fields: dict[str, Any] = {name: tuple(one) if isinstance(one, list) else one for name, one in values.items()}
        return cls(**fields)


@dataclass(frozen=True)
class Gpu:
    """A device's GPU; `compute_capability` is 53 for SM 5.3, 0 when it is not known."""

    name: str
    uuid: str = ""
    compute_capability: int = 0
    memory_total_bytes: int | None = None
    integrated: bool = False
    fp16: bool = False
    int8: bool = False
    tf32: bool = False
    driver_version: str = ""


@dataclass(frozen=True)
class DeviceSnapshot:
    """What a board is and can do; an empty string or zero means that the probe found nothing."""

    board_id: str = ""
    board: str = ""
    os: str = ""
    kernel: str = ""
    architecture: str = ""
    cpu_model: str = ""
    cpu_count: int = 0
    memory_total_bytes: int = 0
    swap_total_bytes: int = 0
    l4t: str = ""
    library_versions: Mapping[str, str] = field(default_factory=dict)
    backends: tuple[Backend, ...] = ()
    jetpack: str = ""
    cuda_version: str = ""
    power_mode: str = ""
    clock_control: str = ""  # "root", "helper" or "none": what may change clocks
    gpus: tuple[Gpu, ...] = ()

    @property
    def computing_gpu(self) -> Gpu | None:
        """The GPU that runtimes compute on, which is CUDA's first."""
        return self.gpus[0] if self.gpus else None

    def backend(self, name: str = "") -> Backend | None:
        """The backend of this name, or the preferred one; None without it."""
        found = [one for one in self.backends if name in ("", one.name)]
        return min(found, key=lambda one: one.preference, default=None)


@dataclass(frozen=True)
class Device:
    """A board that has connected at least once; `name` is None once it was forgotten."""

    device_id: str
    name: str | None
    agent_version: str
    session_epoch: int
    last_seen_unix_s: float
    snapshot: DeviceSnapshot


@dataclass(frozen=True)
class Artifact:
    """An ONNX file, named by its SHA-256, with the evidence that came with it."""

    sha256: str
    size_bytes: int
    model: str
    recipe: str
    recipe_version: int
    weights: str
    parity_max_abs: float | None
    notes: tuple[str, ...]
    provenance: Mapping[str, object]  # recipe, calibration, library versions: as JSON
    manifest: Mapping[str, object]  # every parameter and softmax, as JSON
    target: str = ""  # what it is lowered for, e.g. "jetson-nano"
    builder_flags: tuple[str, ...] = ()  # what an engine is built with: "fp16", "int8"
    reference_sha256: str = ""  # inputs and the outputs they must give
    reference_bytes: int = 0


@dataclass(frozen=True)
class Weights:
    """Where a campaign's weights come from: kind is "pretrained", "random" or "checkpoint"."""

    kind: str
    sha256: str = ""
    filename: str = ""

    @property
    def label(self) -> str:
        """How a person reads it, e.g. `checkpoint:mine.safetensors`."""
        return f"checkpoint:{self.filename}" if self.kind == "checkpoint" else self.kind


@dataclass(frozen=True)
class Calibration:
    """Images that a user uploaded to calibrate on, by their hash; `filename` ends in .zip (image files) or .npz."""

    sha256: str
    filename: str


@dataclass(frozen=True)
class Measurement:
    """How one run measures: what the tier says, with everything that changes the numbers."""

    tier: str
    min_time_s: float
    min_count: int
    warmup_min_time_s: float = 0.2
    warmup_min_count: int = 10
    warmup_max_time_s: float = 30.0
    input_count: int = 8
    input_seed: int = 0
    intra_op_threads: int = 0
    sampling_interval_s: float = 0.1
    cuda_graph: bool = False
    sync_mode: str = "spin"
    memory_kind: str = "auto"
    profile_layers: bool = False
    idle_s: float = 0.0
    max_start_temperature_c: float = 60.0
    gate_timeout_s: float = 300.0
    lock_clocks: bool = False
    power_mode: str = ""


@dataclass(frozen=True)
class Campaign:
    """What a user asked for, and where it stands."""

    campaign_id: str
    state: CampaignState
    created_unix_s: float
    models: tuple[str, ...]
    recipes: tuple[str, ...]
    devices: tuple[str, ...]
    weights: Weights
    measurement: Measurement
    repeats: int
    seed: int
    ended_unix_s: float | None = None
    calibration: Calibration | None = None  # None: synthetic images
    paper: bool = False  # ten repeats averaged, as the paper has them


@dataclass(frozen=True)
class Build:
    """The artifact that one model × recipe of a campaign needs on all devices of one target."""

    campaign_id: str
    model: str
    recipe: str
    state: BuildState = BuildState.QUEUED
    message: str = ""
    artifact_sha256: str | None = None
    target: str = ""
    build_key: str = ""  # of the request that made it: one file may have been made with other reference inputs too


@dataclass(frozen=True)
class Job:
    """One variant on one device."""

    job_id: str
    campaign_id: str
    device_id: str
    model: str
    recipe: str
    state: JobState = JobState.PENDING
    failure_type: str = ""
    failure_message: str = ""
    target: str = ""
    backend: str = ""


@dataclass(frozen=True)
class Run:
    """One repeat of a job. `position` is its place in the device's seeded, interleaved order."""

    run_id: str
    job_id: str
    repeat_index: int
    position: int
    state: RunState = RunState.PLANNED
    attempt: int = 0


@dataclass(frozen=True)
class StageTiming:
    """One stage of loading, timed alone."""

    stage: str
    duration_s: float
    size_bytes: int | None = None
    cold: bool = False


@dataclass(frozen=True)
class Series:
    """Samples of one quantity; times in seconds since the run's start."""

    name: str
    time_s: tuple[float, ...]
    value: tuple[float, ...]


@dataclass(frozen=True)
class Window:
    """A named part of a run, e.g. "measure"; in seconds since its start."""

    name: str
    start_s: float
    end_s: float


@dataclass(frozen=True)
class Finding:
    """Something that bears on how far a result can be trusted; severity "info", "soft" or "invalid"."""

    check: str
    severity: str
    message: str


@dataclass(frozen=True)
class Agreement:
    """A device's outputs beside the reference outputs; `argmax_matches` of `count` inputs have the same answer."""

    max_abs: float
    cosine: float
    argmax_matches: int
    count: int


@dataclass(frozen=True)
class Engine:
    """What a device built from an artifact; `layers_json` is a list of layers as JSON."""

    sha256: str
    size_bytes: int
    from_cache: bool
    workspace_bytes: int
    notes: tuple[str, ...]
    settings: Mapping[str, str]
    realised_precision: Mapping[str, int]
    layers_json: str


@dataclass(frozen=True)
class RunResult:
    """Everything an agent reports of one run; `failure_type` is empty when it succeeded."""

    run_id: str
    device_id: str
    attempt: int
    failure_type: str
    failure_message: str
    log_tail: tuple[str, ...]
    started_unix_s: float
    started_monotonic_s: float
    duration_s: float
    agent_version: str
    protocol_version: int
    stages: tuple[StageTiming, ...]
    warmup_converged: bool
    warmup_latency_s: tuple[float, ...]
    latency_s: tuple[float, ...]
    series: tuple[Series, ...]
    backend: str
    providers: tuple[str, ...]
    library_versions: Mapping[str, str]
    session_options: Mapping[str, str]
    device: DeviceSnapshot
    device_latency_s: tuple[float, ...] = ()
    windows: tuple[Window, ...] = ()
    conditions: Mapping[str, str] = field(default_factory=dict)
    findings: tuple[Finding, ...] = ()
    agreement: Agreement | None = None
    engine: Engine | None = None
    measured: Mapping[str, float] = field(default_factory=dict)  # single readings, in the unit of their name


@dataclass(frozen=True)
class Event:
    """Something a person may want to know of later: a lost session, a repeated attempt, a refused result."""

    time_unix_s: float
    campaign_id: str | None
    device_id: str | None
    kind: str
    message: str
