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


class Welcome(NamedTuple):
    """The controller's answer to a hello."""

    protocol_version: int
    controller_version: str
    heartbeat_interval_s: float
    lease_s: float


class CancelRun(NamedTuple):
    """The controller no longer wants this run."""

    run_id: str


class Superseded(NamedTuple):
    """A session of this device with a higher epoch is open."""

    by_session_epoch: int


class BackendInfo(NamedTuple):
    """A way to run models that this device has."""

    name: str
    version: str
    providers: Sequence[str]


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
    peak_pss_bytes: Optional[int] = None
    board_available_before_bytes: Optional[int] = None
    board_available_min_bytes: Optional[int] = None
    swap_used_before_bytes: Optional[int] = None
    swap_used_max_bytes: Optional[int] = None
    providers: Sequence[str] = ()
    library_versions: Mapping[str, str] = MappingProxyType({})
    session_options: Mapping[str, str] = MappingProxyType({})
    sampler_cpu_s: Optional[float] = None
    sampler_wakeups: Optional[int] = None
