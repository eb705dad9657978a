"""The controller's start-up configuration and the measurement tiers."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from efficientquant_controller import bounds
from efficientquant_controller.addresses import is_loopback, is_own, split_address
from efficientquant_controller.database_location import check_location, locate
from efficientquant_controller.errors import UserError
from efficientquant_controller.model import Measurement

DEFAULT_REPEATS = 3
# The paper averages ten runs.
PAPER_REPEATS = 10

# A run must reach both the minimum time and the minimum count. `demo` is no tier of the measurement protocol.
TIERS: Mapping[str, Measurement] = {
    "smoke": Measurement("smoke", min_time_s=6, min_count=64, idle_s=2),
    "quick": Measurement("quick", min_time_s=10, min_count=128, idle_s=2),
    "standard": Measurement("standard", min_time_s=60, min_count=1024, idle_s=5),
    "publish": Measurement("publish", min_time_s=600, min_count=1, idle_s=10),
    "sustained": Measurement("sustained", min_time_s=1800, min_count=1, idle_s=10),
    "demo": Measurement("demo", min_time_s=1, min_count=32, warmup_max_time_s=3),
}


SYNC_MODES = ("spin", "block")
MEMORY_KINDS = ("auto", "pinned", "mapped", "device")


def measurement_for(tier: str, **changes: Any) -> Measurement:
    """Return a tier's measurement, with `changes` to its fields.

    Raises UserError for an unknown tier, sync mode or memory kind, and for a number out of its bounds.
    """
    if tier not in TIERS:
        close = get_close_matches(tier.lower(), list(TIERS), n=1)
        meant = f", did you mean {close[0]}?" if close else ""
        raise UserError(f"unknown tier '{tier}'{meant or ';'} choose one of {', '.join(TIERS)}")
    measurement = replace(TIERS[tier], **changes)
    if measurement.sync_mode not in SYNC_MODES:
        raise UserError(f"unknown sync mode '{measurement.sync_mode}'; choose one of {', '.join(SYNC_MODES)}")
    if measurement.memory_kind not in MEMORY_KINDS:
        raise UserError(f"unknown memory kind '{measurement.memory_kind}'; choose one of {', '.join(MEMORY_KINDS)}")
    bounds.IDLE_S.check("the idle time", measurement.idle_s)
    bounds.START_BELOW_C.check("the highest temperature to start at", measurement.max_start_temperature_c)
    bounds.THREADS.check("the number of threads", measurement.intra_op_threads)
    bounds.SEED.check("the seed", measurement.input_seed)
    return measurement


@dataclass(frozen=True)
class ServerConfig:
    """The configuration of `efficientquant serve`.

    `db` is a path or a SQLAlchemy URL. `artifacts` defaults to a folder next to a database file. A session expires when
    it is silent for `lease_s`.
    """

    db: str
    listen: str = "127.0.0.1:50051"
    artifacts: Path | None = None
    insecure: bool = False
    # A third of the lease, so that one late heartbeat does no harm. A thousand agents then cost an eighth of a core.
    heartbeat_interval_s: float = 4.0
    lease_s: float = 15.0

    def checked(self) -> "ServerConfig":
        """Return this configuration if it can be served.

        Raises UserError if it cannot.
        """
        bounds.HEARTBEAT_INTERVAL_S.check("--heartbeat-interval", self.heartbeat_interval_s)
        bounds.LEASE_S.check("--lease", self.lease_s)
        host, _ = split_address(self.listen, listening=True)
        is_local = is_loopback(host)
        if not is_own(host):
            raise UserError(
                f"--listen {self.listen}: {host} is no address of this machine; pass one of its own, or 0.0.0.0 with "
                "--insecure for all of them"
            )
        if not self.insecure and not is_local:
            raise UserError(
                f"--listen {self.listen} is reachable from other machines and the wire is not encrypted yet: anyone on "
                "that network could read results and give work to your devices; pass --insecure to accept that, or "
                "listen on 127.0.0.1 and tunnel"
            )
        if self.lease_s < 2 * self.heartbeat_interval_s:
            raise UserError(
                f"--lease {self.lease_s:g} s is shorter than two heartbeats ({self.heartbeat_interval_s:g} s each), so "
                "one late heartbeat would end a session; make it longer"
            )
        check_location(self.db, writing=True)
        self.artifacts_folder()
        return self

    def artifacts_folder(self) -> Path:
        """Return the folder of the artifacts.

        Raises UserError for a database server without `artifacts`, and for a `db` that names no database.
        """
        if self.artifacts is not None:
            return self.artifacts
        path = locate(self.db).path
        if path is None:
            raise UserError("a database server has no folder to keep artifacts in; pass --artifacts DIR")
        return path.with_name(f"{path.stem}-artifacts")
