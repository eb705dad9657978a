"""What the agent is told and what it reports, as plain tuples that mirror the wire's messages field by field."""

from types import MappingProxyType
from typing import Dict, List, Mapping, NamedTuple, Optional, Sequence


class Measurement(NamedTuple):
    """How to measure; the rules are in docs/measurement.md."""

    tier: str
    min_time_s: float
    min_count: int
    warmup_min_time_s: float
    warmup_min_count: int
    warmup_max_time_s: float
    input_count: int
    input_seed: int
    intra_op_threads: int
    sampling_interval_s: float
    cuda_graph: bool = False
    # "spin" or "block"; empty is spin
    sync_mode: str = ""
    # "auto", "pinned", "mapped" or "device"; empty is auto
    memory_kind: str = ""
    profile_layers: bool = False
    # How long the board is watched at rest before loading and after measuring; 0 for not at all.
    idle_s: float = 0.0
    # The board must be cooler than this before it starts; 0 for no gate.
    max_start_temperature_c: float = 0.0
    gate_timeout_s: float = 0.0
    # What the user asked to change; nothing is changed otherwise.
    lock_clocks: bool = False
    power_mode: str = ""
    # The series of what computes for the temperature gate: a regular expression over whole names, empty for none.
    hot_zones: str = ""


class Assignment(NamedTuple):
    """One run to do."""

    run_id: str
    job_id: str
    campaign_id: str
    attempt: int
    repeat_index: int
    model: str
    recipe: str
    sha256: str
    size_bytes: int
    backend: str
    measurement: Measurement
    timeout_s: float
    # What the artifact was lowered for, e.g. "jetson-nano".
    target: str = ""
    # What an engine is built with, from the artifact's metadata: "fp16", "int8".
    builder_flags: Sequence[str] = ()
    # Inputs and the outputs they must give, as another artifact; empty for none.
    reference_sha256: str = ""
    reference_bytes: int = 0


class Welcome(NamedTuple):
    """The controller's answer to a hello."""

    protocol_version: int
    controller_version: str
    heartbeat_interval_s: float
    lease_s: float


class Pong(NamedTuple):
    """The controller's answer to a ping, seen from this device."""

    protocol_version: int
    controller_version: str
    # How far this device's clock is ahead of the controller's, half the round trip subtracted; negative is behind.
    clock_ahead_s: float
    round_trip_s: float


class CancelRun(NamedTuple):
    """The controller no longer wants this run."""

    run_id: str


class Superseded(NamedTuple):
    """A session of this device with a higher epoch is open."""

    by_session_epoch: int


# The number of a backend that every other is preferred to.
LOWEST_PREFERENCE = 99


class BackendInfo(NamedTuple):
    """A way to run models that this device has, as its class in backends/ describes it."""

    name: str
    version: str
    providers: Sequence[str]
    # Where nothing else is asked for, the lowest one runs the jobs.
    preference: int = LOWEST_PREFERENCE
    uses_gpu: bool = False
    # Building or loading makes an engine, which takes minutes.
    builds_engines: bool = False
    # What it builds from; with precision flags the file is FP32 and the builder chooses, without its types decide.
    form: str = ""
    opset: int = 0
    precision_flags: Sequence[str] = ()
    # Fields of Measurement that it obeys and other backends do not.
    options: Sequence[str] = ()


class Gpu(NamedTuple):
    """One GPU; `compute_capability` is 53 for SM 5.3, 0 when it is not known."""

    name: str
    uuid: str
    compute_capability: int
    memory_total_bytes: Optional[int]
    integrated: bool
    fp16: bool
    int8: bool
    tf32: bool
    driver_version: str


class DeviceSnapshot(NamedTuple):
    """What a board is and can do; None and empty mean that the probe found nothing."""

    board_id: str
    board: str
    os: str
    kernel: str
    architecture: str
    cpu_model: str
    cpu_count: int
    memory_total_bytes: Optional[int]
    swap_total_bytes: Optional[int]
    l4t: str
    library_versions: Dict[str, str]
    backends: Sequence[BackendInfo]
    jetpack: str = ""
    cuda_version: str = ""
    # As the board names it, e.g. "MAXN"; empty where there are none.
    power_mode: str = ""
    # What may change clocks here: "root", "helper" or "none".
    clock_control: str = ""
    gpus: Sequence[Gpu] = ()


class StageTiming(NamedTuple):
    """How long one stage took; `cold` when the file's pages were proven to be out of the page cache."""

    stage: str
    duration_s: float
    size_bytes: Optional[int] = None
    cold: bool = False


class Series(NamedTuple):
    """Samples of one quantity; times are seconds since the run's start."""

    name: str
    time_s: List[float]
    value: List[float]


class Window(NamedTuple):
    """A part of a run that has a name, e.g. "measure"; in seconds since the run's start, as the series."""

    name: str
    start_s: float
    end_s: float


class Finding(NamedTuple):
    """Something that bears on how far a result can be trusted; severity "info", "soft" or "invalid"."""

    check: str
    severity: str
    message: str


class Agreement(NamedTuple):
    """How the model's outputs on this device compare with the reference outputs that came with it."""

    max_abs: float
    cosine: float
    # How many of the compared inputs have the same largest output, and of how many.
    argmax_matches: int
    count: int


class EngineInfo(NamedTuple):
    """The engine that ran, how it was made and what the runtime made of the model."""

    sha256: str
    size_bytes: int
    from_cache: bool
    workspace_bytes: int
    notes: Sequence[str]
    settings: Mapping[str, str]
    realised_precision: Mapping[str, int]
    # JSON: a list of layers, each {"name", "type", "precision", …}, with "mean_s" where they were profiled.
    layers_json: str


class Readings(NamedTuple):
    """Single readings of a run, each in the unit of its name; None is what was not read.

    A further one is a field here and the line that reads it, in the daemon or in the child.
    """

    # What loading took of the GPU's memory, as the runtime saw it.
    device_memory_bytes: Optional[float] = None
    board_available_before_bytes: Optional[float] = None
    swap_used_before_bytes: Optional[float] = None
    # What watching cost: CPU time, and how often the watcher woke.
    sampler_cpu_s: Optional[float] = None
    sampler_wakeups: Optional[float] = None
    # What locked clocks are meant to run at.
    clock_gpu_target_hz: Optional[float] = None
    clock_emc_target_hz: Optional[float] = None
    clock_cpu_target_hz: Optional[float] = None

    def known(self) -> Dict[str, float]:
        """Return what was read, by name."""
        return {name: float(value) for name, value in self._asdict().items() if value is not None}


class RunResult(NamedTuple):
    """Everything that is known about one run, successful or not."""

    run_id: str
    device_id: str
    attempt: int
    device: DeviceSnapshot
    backend: str
    failure_type: str = ""
    failure_message: str = ""
    log_tail: Sequence[str] = ()
    started_unix_s: float = 0.0
    started_monotonic_s: float = 0.0
    duration_s: float = 0.0
    stages: Sequence[StageTiming] = ()
    warmup_converged: bool = False
    warmup_latency_s: Sequence[float] = ()
    latency_s: Sequence[float] = ()
    series: Sequence[Series] = ()
    providers: Sequence[str] = ()
    library_versions: Mapping[str, str] = MappingProxyType({})
    session_options: Mapping[str, str] = MappingProxyType({})
    # CUDA events, one entry per inference, in order; empty where there is no such clock.
    device_latency_s: Sequence[float] = ()
    windows: Sequence[Window] = ()
    # The state of the device that a comparison depends on, as text: {"power_mode": "MAXN", "clocks": "locked"}.
    conditions: Mapping[str, str] = MappingProxyType({})
    findings: Sequence[Finding] = ()
    agreement: Optional[Agreement] = None
    engine: Optional[EngineInfo] = None
    # Readings.known()
    measured: Mapping[str, float] = MappingProxyType({})
