"""Pure rules: which runs a campaign consists of, in which order, and which one a device gets next."""

import random
import uuid
from collections.abc import Collection, Iterable, Sequence

from efficientquant_controller.fleet.variants import Variant
from efficientquant_controller.model import (
    Build,
    Campaign,
    Device,
    Job,
    JobState,
    Measurement,
    Run,
    RunState,
)

# A board that is lost this often in the middle of the same run is not asked again: the run may be what kills it.
MAX_ATTEMPTS = 3
# A Nano takes minutes to build an engine, longer when it swaps.
ENGINE_BUILD_S = 3600.0


def plan_campaign(
    campaign: Campaign, devices: Sequence[tuple[Device, Variant]]
) -> tuple[list[Build], list[Job], list[Run]]:
    """Every build, job and run of a campaign: models × recipes (× targets), × devices, × repeats.

    On each device the variants are shuffled anew within every repeat, by the campaign's seed: a drift of the device
    falls on all of them alike.
    """
    variants = [(model, recipe) for model in campaign.models for recipe in campaign.recipes]
    targets = dict.fromkeys(variant.target for _, variant in devices)
    builds = [Build(campaign.campaign_id, *pair, target=target) for pair in variants for target in targets]
    jobs: list[Job] = []
    runs: list[Run] = []
    for device, own in devices:
        place = (campaign.campaign_id, device.device_id)
        mine = [Job(_new_id(), *place, *pair, target=own.target, backend=own.backend) for pair in variants]
        jobs += mine
        order = random.Random(f"{campaign.seed}:{device.name}")  # noqa: S311 (an order, not a secret)
        position = 0
        for repeat in range(campaign.repeats):
            for job in order.sample(mine, len(mine)):
                runs.append(Run(_new_id(), job.job_id, repeat, position))
                position += 1
    return builds, jobs, runs


def next_run(runs: Iterable[Run], jobs: dict[str, Job]) -> Run | None:
    """The first planned run whose job is ready for it; `runs` are one device's, by position."""
    for run in runs:
        if run.state is RunState.PLANNED and jobs[run.job_id].state is JobState.QUEUED:
            return run
    return None


def is_free(device_id: str, board_id: str, busy: Collection[tuple[str, str]]) -> bool:
    """True when neither the device nor another one on the same board is measuring.

    `busy` holds (device id, board id) of the devices with a run on them. Two measurements on one board would measure
    each other.
    """
    return all(device_id != other and (not board_id or board_id != board) for other, board in busy)


def settled_state(runs: Sequence[Run]) -> JobState | None:
    """The state a job ends in once all its runs have ended, or None while one has not."""
    states = {run.state for run in runs}
    if states & {RunState.PLANNED, RunState.LEASED}:
        return None
    if RunState.FAILED in states:
        return JobState.FAILED
    return JobState.CANCELLED if RunState.CANCELLED in states else JobState.SUCCEEDED


def run_timeout_s(measurement: Measurement, *, builds_engine: bool = False) -> float:
    """How long one run may take before it is killed: room for a slow board, an end for a hung one."""
    loop_s = measurement.warmup_max_time_s + max(4 * measurement.min_time_s, 2.0 * measurement.min_count)
    preparation_s = measurement.gate_timeout_s + 2 * measurement.idle_s
    return 120 + preparation_s + loop_s + (ENGINE_BUILD_S if builds_engine else 0)


def _new_id() -> str:
    return uuid.uuid4().hex
