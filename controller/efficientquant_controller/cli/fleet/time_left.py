"""How long a campaign will still take: at its own pace once runs have ended, by its tier before."""

from typing import TYPE_CHECKING

from efficientquant_controller.cli.durations import duration
from efficientquant_controller.config import TIERS
from efficientquant_controller.model import CampaignState

if TYPE_CHECKING:
    from efficientquant_controller.cli.records import CampaignStatus, DeviceStatus

# What a run takes beside its measurement: a process, its imports, fetching and loading. A guess, and said to be one.
OVERHEAD_S = 5.0
# Warm-up usually ends long before its limit.
USUAL_WARMUP_S = 2.0


class Pace:
    """Follows one campaign: how long its runs took since it was first seen running. Times are any steady clock's."""

    def __init__(self) -> None:
        self._first: dict[str, tuple[float, int]] = {}

    def note(self, status: "CampaignStatus", now_s: float) -> None:
        """Take a status that arrived at `now_s`."""
        if status.campaign.state is CampaignState.RUNNING:
            for device in status.devices:
                if device.state != "offline":
                    self._first.setdefault(device.name, (now_s, device.runs_done))

    def left(self, status: "CampaignStatus", now_s: float) -> str:
        """Return a sentence on the time that is left, for the slowest device.

        Empty where nothing can be said.
        """
        waiting = [one for one in status.devices if one.runs_done < one.runs_total and one.state != "offline"]
        if status.campaign.state.ended or not waiting:
            return ""
        paces = [self._run_s(one, now_s) for one in waiting]
        tier_s = tier_run_s(status.campaign.tier)
        if tier_s is None and None in paces:
            return ""
        seconds = max(
            (one.runs_total - one.runs_done) * (tier_s or 0.0 if pace is None else pace)
            for one, pace in zip(waiting, paces, strict=True)
        )
        basis = "an estimate from the tier" if None in paces else "at the pace of the runs so far"
        after = " of measuring once all artifacts are built" if status.campaign.state is CampaignState.BUILDING else ""
        return f"about {duration(max(seconds, 1.0))} left{after} ({basis})"

    def _run_s(self, device: "DeviceStatus", now_s: float) -> float | None:
        first_s, first_done = self._first.get(device.name, (now_s, device.runs_done))
        done = device.runs_done - first_done
        # The run under way counts by nothing: its fraction is of one phase only.
        return (now_s - first_s) / done if done > 0 else None


def tier_run_s(tier: str) -> float | None:
    """Return how long one run of a tier takes at least, with a guess of what surrounds it; None for an unknown tier."""
    measurement = TIERS.get(tier)
    if measurement is None:
        return None
    return OVERHEAD_S + USUAL_WARMUP_S + measurement.min_time_s + 2 * measurement.idle_s
