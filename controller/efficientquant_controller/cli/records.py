"""What the controller tells its clients, as the command line knows it."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from efficientquant_controller.model import CampaignState, DeviceSnapshot


@dataclass(frozen=True)
class DeviceListing:
    """A device the controller knows; `state` is "idle", "busy" or "offline"."""

    device_id: str
    name: str
    state: str
    last_seen_unix_s: float
    agent_version: str
    snapshot: DeviceSnapshot


@dataclass(frozen=True)
class CampaignListing:
    """What was asked for, and where it stands."""

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


@dataclass(frozen=True)
class BuildStatus:
    """One artifact in the making; `state` is "queued", "building", "ready" or "failed"."""

    model: str
    recipe: str
    state: str
    message: str = ""
    artifact: Mapping[str, object] | None = None
    target: str = ""


@dataclass(frozen=True)
class DeviceStatus:
    """One device's part of a campaign; `fraction` is 0 to 1 within the current run."""

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
    """Something a person should know."""

    time_unix_s: float
    message: str


@dataclass(frozen=True)
class CampaignStatus:
    """All of a campaign at one moment."""

    campaign: CampaignListing
    builds: tuple[BuildStatus, ...] = ()
    devices: tuple[DeviceStatus, ...] = ()
    notices: tuple[Notice, ...] = field(default=())


@dataclass(frozen=True)
class BenchRequest:
    """What a user asks for; no devices means every connected one, and 0 means the default."""

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
