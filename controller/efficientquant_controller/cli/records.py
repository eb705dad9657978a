"""The records that the command line exchanges with a controller."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from efficientquant_controller.model import Calibration, CampaignState, DeviceSnapshot, Weights


@dataclass(frozen=True)
class DeviceListing:
    """A device that the controller knows.

    `state` is "idle", "busy" or "offline".
    """

    device_id: str
    name: str
    state: str
    last_seen_unix_s: float
    agent_version: str
    snapshot: DeviceSnapshot
    problem: str = ""  # why its agent takes no new run
    clock_offset_s: float | None = None  # how far its clock is ahead of the controller's
    broken_backends: Sequence[str] = ()  # why installed runtimes do not work there


@dataclass(frozen=True)
class FleetListing:
    """The devices that a controller knows.

    `now_unix_s` is the controller's clock, used since the client's own may be wrong. `problem` says why the controller
    takes no new campaign.
    """

    devices: list[DeviceListing]
    now_unix_s: float
    problem: str = ""


@dataclass(frozen=True)
class BenchRequest:
    """A user's request for a campaign.

    No devices means every connected one, and 0 means the default.
    """

    models: tuple[str, ...]
    recipes: tuple[str, ...]
    devices: tuple[str, ...]
    tier: str
    repeats: int = 0
    seed: int = 0
    intra_op_threads: int = 0
    paper: bool = False
    cuda_graph: bool = False
    sync_mode: str = ""
    memory_kind: str = ""
    profile_layers: bool = False
    idle_s: float | None = None
    max_start_temperature_c: float | None = None
    lock_clocks: bool = False
    power_mode: str = ""
    backend: str = ""
    label: str = ""


@dataclass(frozen=True)
class Submission:
    """A request with its uploaded files, which a campaign was made from."""

    request: BenchRequest
    weights: Weights
    calibration: Calibration | None = None


@dataclass(frozen=True)
class CampaignListing:
    """A campaign's request and its state.

    The `submission` makes the same campaign again. Older controllers send none.
    """

    campaign_id: str
    state: CampaignState
    created_unix_s: float
    models: tuple[str, ...]
    recipes: tuple[str, ...]
    devices: tuple[str, ...]
    weights: str
    tier: str
    repeats: int
    job_count: int
    run_count: int
    ended_unix_s: float | None = None
    submission: Submission | None = None


@dataclass(frozen=True)
class BuildStatus:
    """The state of one artifact's build.

    `state` is "queued", "building", "ready" or "failed".
    """

    model: str
    recipe: str
    state: str
    message: str = ""
    artifact: Mapping[str, object] | None = None
    target: str = ""


@dataclass(frozen=True)
class DeviceStatus:
    """One device's part of a campaign.

    `fraction` is 0 to 1 within the current run.
    """

    name: str
    state: str
    runs_total: int
    runs_done: int
    runs_failed: int = 0
    current_model: str = ""
    current_recipe: str = ""
    phase: str = ""
    fraction: float = 0.0


@dataclass(frozen=True)
class Notice:
    """A message for the user."""

    time_unix_s: float
    message: str


@dataclass(frozen=True)
class CampaignStatus:
    """A campaign with its builds, devices and notices at one moment."""

    campaign: CampaignListing
    builds: tuple[BuildStatus, ...] = ()
    devices: tuple[DeviceStatus, ...] = ()
    notices: tuple[Notice, ...] = field(default=())
