"""Pure functions that plan a campaign's runs and select the next run."""

import random
import uuid
from collections.abc import Sequence

from efficientquant_controller.fleet.variants import Variant
from efficientquant_controller.model import (
    Build,
    Campaign,
    Device,
    Job,
    Measurement,
    Run,
)

# A Jetson Nano builds an engine in minutes, and takes longer when it swaps.
ENGINE_BUILD_S = 3600.0


def plan_campaign(
    campaign: Campaign, devices: Sequence[tuple[Device, Variant]]
) -> tuple[list[Build], list[Job], list[Run]]:
    """Return every build, job and run of a campaign.

    Builds are models × recipes × targets, jobs models × recipes × devices, runs jobs × repeats. On each device the jobs
    are shuffled in every repeat, by the campaign's seed, so that a drift of the device affects all of them equally.
    """
    pairs = [(model, recipe) for model in campaign.models for recipe in campaign.recipes]
    targets = dict.fromkeys(variant.target for _, variant in devices)
    builds = [Build(campaign.campaign_id, *pair, target=target) for pair in pairs for target in targets]
    jobs: list[Job] = []
    runs: list[Run] = []
    for device, variant in devices:
        device_jobs = [
            Job(
                _new_id(), campaign.campaign_id, device.device_id, *pair, target=variant.target, backend=variant.backend
            )
            for pair in pairs
        ]
        jobs += device_jobs
        order = random.Random(f"{campaign.seed}:{device.name}")  # noqa: S311 (for an order, not a secret)
        position = 0
        for repeat in range(campaign.repeats):
            for job in order.sample(device_jobs, len(device_jobs)):
                runs.append(Run(_new_id(), job.job_id, repeat, position))
                position += 1
    return builds, jobs, runs


def run_timeout_s(measurement: Measurement, *, builds_engine: bool = False) -> float:
    """Return the time limit of one run, in seconds.

    It leaves a slow board enough time and ends a run that hangs.
    """
    loop_s = measurement.warmup_max_time_s + max(4 * measurement.min_time_s, 2.0 * measurement.min_count)
    preparation_s = measurement.gate_timeout_s + 2 * measurement.idle_s
    return 120 + preparation_s + loop_s + (ENGINE_BUILD_S if builds_engine else 0)


def _new_id() -> str:
    return uuid.uuid4().hex
