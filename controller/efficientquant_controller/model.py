"""The controller's records and the states that they pass through."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

# Every other recipe is compared with this one, on the same device and model in the same campaign.
TWIN_RECIPE = "fp32"


class JobState(StrEnum):
    """The states of a job (one variant on one device)."""

    PENDING = "pending"  # its artifact is not built yet
    QUEUED = "queued"  # runs remain and none is on the device
    LEASED = "leased"  # one of its runs is on the device
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"

    @property
    def ended(self) -> bool:
        """Whether this state is final, so that nothing runs any more."""
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
    """The states of a run (one repeat of a job)."""

    PLANNED = "planned"
    LEASED = "leased"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"


class CampaignState(StrEnum):
    """The states of a campaign (models × recipes × devices × repeats)."""

    BUILDING = "building"
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"  # ended, and at least one job failed
    CANCELLED = "cancelled"

    @property
    def ended(self) -> bool:
        """Whether this state is final, so that nothing runs any more."""
        return self in (CampaignState.SUCCEEDED, CampaignState.FAILED, CampaignState.CANCELLED)


class BuildState(StrEnum):
    """The states of an artifact's build (model × recipe × weights)."""

    QUEUED = "queued"
    BUILDING = "building"
    READY = "ready"
    FAILED = "failed"


@dataclass(frozen=True)
class Backend:
    """A runtime that a device can run an artifact with.

    Snapshots of older agents lack the fields that have defaults.
    """

    name: str
    version: str
    providers: tuple[str, ...] = ()
    preference: int = 99  # jobs without a named backend run on the lowest
    uses_gpu: bool = False
    builds_engines: bool = False
    form: str = ""  # the family of ONNX files that it builds from
    opset: int = 0
    precision_flags: tuple[str, ...] = ()
    options: tuple[str, ...] = ()

    @classmethod
    def from_plain(cls, values: Mapping[str, Any]) -> "Backend":
        """Read a backend from JSON or a message, where tuples are lists."""
        tuples = {name: tuple(value) for name, value in values.items() if isinstance(value, list)}
        return cls(**{**values, **tuples})


@dataclass(frozen=True)
class Gpu:
    """The GPU of a device."""

    name: str
    uuid: str = ""
    compute_capability: int = 0  # 53 for SM 5.3, 0 when it is unknown
    memory_total_bytes: int | None = None
    integrated: bool = False
    fp16: bool = False
    int8: bool = False
    tf32: bool = False
    driver_version: str = ""


@dataclass(frozen=True)
class DeviceSnapshot:
    """A board's properties, empty or zero where the probe found nothing."""

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
    clock_control: str = ""  # how the agent can change clocks: "root", "helper" or "none"
    gpus: tuple[Gpu, ...] = ()
    cpu_dot_products: tuple[str, ...] = ()  # of 8-bit integers: "vnni", "amx", "dotprod", "i8mm"

    @property
    def computing_gpu(self) -> Gpu | None:
        """The GPU that runtimes compute on: the first in CUDA's order."""
        return self.gpus[0] if self.gpus else None

    def backend(self, name: str = "") -> Backend | None:
        """Return the named backend, or the preferred one for an empty name.

        Returns None when there is no such backend.
        """
        named = [backend for backend in self.backends if name in ("", backend.name)]
        return min(named, key=lambda backend: backend.preference, default=None)


@dataclass(frozen=True)
class Device:
    """A board that has connected at least once."""

    device_id: str
    name: str | None  # None after it was forgotten
    agent_version: str
    session_epoch: int
    last_seen_unix_s: float
    snapshot: DeviceSnapshot


@dataclass(frozen=True)
class Artifact:
    """An ONNX file, named by its SHA-256, with the build's evidence."""

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
    reference_sha256: str = ""  # the file of inputs and their expected outputs
    reference_bytes: int = 0


@dataclass(frozen=True)
class Weights:
    """The source of a campaign's weights."""

    kind: str  # "pretrained", "random" or "checkpoint"
    sha256: str = ""
    filename: str = ""

    @property
    def label(self) -> str:
        """The source as text for people, e.g. `checkpoint:mine.safetensors`."""
        return f"checkpoint:{self.filename}" if self.kind == "checkpoint" else self.kind


@dataclass(frozen=True)
class Calibration:
    """Images that a user uploaded for calibration, named by their hash."""

    sha256: str
    filename: str  # ends in .zip (image files) or .npz


@dataclass(frozen=True)
class Measurement:
    """A run's settings: its tier and everything that changes the numbers."""

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
    """A set of measurements that a user requested, and its state."""

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
    paper: bool = False  # as the paper measured: ten repeats by default
    label: str = ""  # the user's own word for it


@dataclass(frozen=True)
class Build:
    """The build of one artifact for a campaign.

    All devices of one target share the artifact of a model × recipe.
    """

    campaign_id: str
    model: str
    recipe: str
    state: BuildState = BuildState.QUEUED
    message: str = ""
    artifact_sha256: str | None = None
    target: str = ""
    build_key: str = ""  # two requests may make the same file with different reference inputs


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
    """One repeat of a job."""

    run_id: str
    job_id: str
    repeat_index: int
    position: int  # its place in the device's seeded, interleaved order
    state: RunState = RunState.PLANNED
    attempt: int = 0


@dataclass(frozen=True)
class StageTiming:
    """One stage of loading, timed on its own."""

    stage: str
    duration_s: float
    size_bytes: int | None = None
    cold: bool = False


@dataclass(frozen=True)
class Series:
    """Samples of one quantity."""

    name: str
    time_s: tuple[float, ...]  # since the run's start
    value: tuple[float, ...]


@dataclass(frozen=True)
class Window:
    """A named part of a run, e.g. "measure"."""

    name: str
    start_s: float  # since the run's start
    end_s: float  # since the run's start


@dataclass(frozen=True)
class Finding:
    """An observation about how far a result can be trusted."""

    check: str
    severity: str  # "info", "soft" or "invalid"
    message: str


@dataclass(frozen=True)
class Agreement:
    """The comparison of a device's outputs with the reference outputs."""

    max_abs: float
    cosine: float
    argmax_matches: int  # inputs with the same largest output, out of `count`
    count: int


@dataclass(frozen=True)
class Engine:
    """The engine that a device built from an artifact."""

    sha256: str
    size_bytes: int
    from_cache: bool
    workspace_bytes: int
    notes: tuple[str, ...]
    settings: Mapping[str, str]
    realised_precision: Mapping[str, int]
    layers_json: str  # a list of layers


@dataclass(frozen=True)
class RunResult:
    """Everything that an agent reports about one run."""

    run_id: str
    device_id: str
    attempt: int
    failure_type: str  # empty when the run succeeded
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
    """An occurrence that a person may want to know about later.

    Examples are a lost session, a repeated attempt and a refused result.
    """

    time_unix_s: float
    campaign_id: str | None
    device_id: str | None
    kind: str
    message: str
