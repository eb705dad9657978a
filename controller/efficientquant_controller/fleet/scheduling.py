"""Pure rules: which runs a campaign consists of, in which order, and which one a device gets next."""

import random
import uuid
from collections.abc import Collection, Iterable, Sequence

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


def plan_campaign(campaign: Campaign, devices: Sequence[Device]) -> tuple[list[Build], list[Job], list[Run]]:
    """Every build, job and run of a campaign: models × recipes, × devices, × repeats.

    On each device the variants are shuffled anew within every repeat, by the campaign's seed: a drift of the device
    falls on all of them alike.
    """
    variants = [(model, recipe) for model in campaign.models for recipe in campaign.recipes]
    builds = [Build(campaign.campaign_id, model, recipe) for model, recipe in variants]
    jobs: list[Job] = []
    runs: list[Run] = []
    for device in devices:
        mine = [Job(_new_id(), campaign.campaign_id, device.device_id, *variant) for variant in variants]
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


def run_timeout_s(measurement: Measurement) -> float:
    """How long one run may take before it is killed: room for a slow board, an end for a hung one."""
    return 120 + measurement.warmup_max_time_s + max(4 * measurement.min_time_s, 2.0 * measurement.min_count)


def _new_id() -> str:
    return uuid.uuid4().hex
