"""The estimate of a campaign's remaining time.

It uses the pace of the campaign's ended runs, or its tier before any has ended.
"""

from typing import TYPE_CHECKING

from efficientquant_controller.cli.durations import duration
from efficientquant_controller.config import TIERS
from efficientquant_controller.model import CampaignState

if TYPE_CHECKING:
    from efficientquant_controller.cli.records import CampaignStatus, DeviceStatus

# A run's time outside its measurement: starting a process, imports, fetching and loading. This is a guess.
OVERHEAD_S = 5.0
# Warm-up usually ends long before its limit.
USUAL_WARMUP_S = 2.0


class Pace:
    """The pace of one campaign's runs.

    It counts from the first status in which the campaign is running. Times are those of any steady clock, in seconds.
    """

    def __init__(self) -> None:
        self._first: dict[str, tuple[float, int]] = {}

    def note(self, status: "CampaignStatus", now_s: float) -> None:
        """Record a status that arrived at `now_s`."""
        if status.campaign.state is CampaignState.RUNNING:
            for device in status.devices:
                if device.state != "offline":
                    self._first.setdefault(device.name, (now_s, device.runs_done))

    def left(self, status: "CampaignStatus", now_s: float) -> str:
        """Return a sentence on the remaining time of the slowest device.

        It is empty when no estimate is possible.
        """
        waiting = [
            device for device in status.devices if device.runs_done < device.runs_total and device.state != "offline"
        ]
        if status.campaign.state.ended or not waiting:
            return ""
        paces = [self._run_s(device, now_s) for device in waiting]
        tier_s = tier_run_s(status.campaign.tier)
        if tier_s is None and None in paces:
            return ""
        seconds = max(
            (device.runs_total - device.runs_done) * (tier_s or 0.0 if pace is None else pace)
            for device, pace in zip(waiting, paces, strict=True)
        )
        basis = "an estimate from the tier" if None in paces else "at the pace of the runs so far"
        after = " of measuring once all artifacts are built" if status.campaign.state is CampaignState.BUILDING else ""
        return f"about {duration(max(seconds, 1.0))} left{after} ({basis})"

    def _run_s(self, device: "DeviceStatus", now_s: float) -> float | None:
        first_s, first_done = self._first.get(device.name, (now_s, device.runs_done))
        done = device.runs_done - first_done
        # The current run does not count, because its fraction is of one phase only.
        return (now_s - first_s) / done if done > 0 else None


def tier_run_s(tier: str) -> float | None:
    """Return the estimated duration of one run of a tier.

    It is the tier's minimum time plus a guess of the overhead, in seconds. Returns None for an unknown tier.
    """
    measurement = TIERS.get(tier)
    if measurement is None:
        return None
    return OVERHEAD_S + USUAL_WARMUP_S + measurement.min_time_s + 2 * measurement.idle_s
