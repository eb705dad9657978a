"""The agent's records, which mirror the wire's messages field by field."""

from types import MappingProxyType
from typing import Dict, List, Mapping, NamedTuple, Optional, Sequence


class Measurement(NamedTuple):
    """The settings of a measurement.

    The rules are in docs/measurement.md.
    """

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
    # How long the board is watched at rest before loading and after measuring. 0 is not at all.
    idle_s: float = 0.0
    # The board must be cooler than this before it starts. 0 is no gate.
    max_start_temperature_c: float = 0.0
    gate_timeout_s: float = 0.0
    # Clocks and power mode are changed only if one of these asks for it.
    lock_clocks: bool = False
    power_mode: str = ""
    # The temperatures that the gate reads: a regular expression that matches whole series names, empty for none.
    hot_zones: str = ""


class Assignment(NamedTuple):
    """The assignment of one run."""

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
    # Inputs and the outputs that they must give, as another artifact. Empty for none.
    reference_sha256: str = ""
    reference_bytes: int = 0
    # Random, and new for each assignment. The result returns it.
    lease_id: str = ""


class Welcome(NamedTuple):
    """The controller's answer to a hello."""

    protocol_version: int
    controller_version: str
    heartbeat_interval_s: float
    lease_s: float
    # The controller's clock when the hello arrived, and when it sent this. 0 from older controllers.
    hello_received_unix_s: float = 0.0
    controller_unix_s: float = 0.0


class Pong(NamedTuple):
    """The controller's answer to a ping, seen from this device."""

    protocol_version: int
    controller_version: str
    # This device's clock minus the controller's, corrected by half the round trip. Negative is behind.
    clock_ahead_s: float
    round_trip_s: float


class CancelRun(NamedTuple):
    """The cancellation of a run."""

    run_id: str


class Superseded(NamedTuple):
    """The notice that a session with a higher epoch is open."""

    by_session_epoch: int


# The preference of a backend that is used last.
LOWEST_PREFERENCE = 99


class BackendInfo(NamedTuple):
    """A backend of this device, as its class in backends/ describes it."""

    name: str
    version: str
    providers: Sequence[str]
    # Without another choice, the backend with the lowest number runs the jobs.
    preference: int = LOWEST_PREFERENCE
    uses_gpu: bool = False
    # Building or loading makes an engine, which takes minutes.
    builds_engines: bool = False
    # The form of the files that it builds from. With precision flags the files are FP32, and the builder chooses the
    # types. Without flags the types in the file decide.
    form: str = ""
    opset: int = 0
    precision_flags: Sequence[str] = ()
    # Fields of Measurement that it obeys and some other backends do not.
    options: Sequence[str] = ()


class Gpu(NamedTuple):
    """One GPU.

    `compute_capability` is 53 for SM 5.3, and 0 when it is unknown.
    """

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
    """A board's properties and abilities.

    None and empty mean that the probe found nothing.
    """

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
    # As the board names it, e.g. "MAXN". Empty on boards without power modes.
    power_mode: str = ""
    # How the agent may change clocks: "root", "helper" or "none".
    clock_control: str = ""
    gpus: Sequence[Gpu] = ()
    # The dot products of 8-bit integers: "vnni", "amx", "dotprod", "i8mm".
    cpu_dot_products: Sequence[str] = ()


class StageTiming(NamedTuple):
    """The duration of one stage.

    `cold` is true when the file's pages were proven to be out of the page cache.
    """

    stage: str
    duration_s: float
    size_bytes: Optional[int] = None
    cold: bool = False


class Series(NamedTuple):
    """Samples of one quantity.

    Times are seconds since the run's start.
    """

    name: str
    time_s: List[float]
    value: List[float]


class Window(NamedTuple):
    """A named part of a run, e.g. "measure".

    Times are seconds since the run's start, as in the series.
    """

    name: str
    start_s: float
    end_s: float


class Finding(NamedTuple):
    """A fact that affects how far a result can be trusted.

    `severity` is "info", "soft" or "invalid".
    """

    check: str
    severity: str
    message: str


class Agreement(NamedTuple):
    """The agreement of a device's outputs with the reference outputs."""

    max_abs: float
    cosine: float
    # How many of the `count` compared inputs have the same largest output.
    argmax_matches: int
    count: int  # type: ignore[assignment]  # the field's name is part of the protocol, tuple.count is not used


class EngineInfo(NamedTuple):
    """The engine that ran, its build and its layers."""

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
    """Single readings of a run, with the unit in each name.

    None is a reading that was not taken. To add a reading, add a field here and the line that reads it, in the daemon
    or in the child.
    """

    # The GPU memory that loading took, as the runtime saw it.
    device_memory_bytes: Optional[float] = None
    # The measuring threads' contention for the CPU: one of two sources, in child/contention.py.
    cpu_wait_share: Optional[float] = None
    other_cpu_share: Optional[float] = None
    # The process's memory: RSS at its peak, and what it shares with nobody.
    peak_rss_bytes: Optional[float] = None
    uss_bytes: Optional[float] = None
    board_available_before_bytes: Optional[float] = None
    swap_used_before_bytes: Optional[float] = None
    # The cost of sampling: CPU time, and how often the watcher woke.
    sampler_cpu_s: Optional[float] = None
    sampler_wakeups: Optional[float] = None
    # The frequencies that locked clocks should run at.
    clock_gpu_target_hz: Optional[float] = None
    clock_emc_target_hz: Optional[float] = None
    clock_cpu_target_hz: Optional[float] = None

    def known(self) -> Dict[str, float]:
        """Return the readings that were taken, by name."""
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
    # By CUDA events, one entry per inference, in order. Empty without CUDA events.
    device_latency_s: Sequence[float] = ()
    windows: Sequence[Window] = ()
    # The state of the device that a comparison depends on, as text: {"power_mode": "MAXN", "clocks": "locked"}.
    conditions: Mapping[str, str] = MappingProxyType({})
    findings: Sequence[Finding] = ()
    agreement: Optional[Agreement] = None
    engine: Optional[EngineInfo] = None
    # Readings.known()
    measured: Mapping[str, float] = MappingProxyType({})
    lease_id: str = ""
