"""Tests of the rules that plan runs."""

import itertools
from dataclasses import replace

import pytest
from efficientquant_controller.config import TIERS
from efficientquant_controller.fleet.scheduling import (
    ENGINE_BUILD_S,
    plan_campaign,
    run_timeout_s,
)
from efficientquant_controller.fleet.variants import Variant
from efficientquant_controller.model import (
    Campaign,
    CampaignState,
    Device,
    DeviceSnapshot,
    Weights,
)

CAMPAIGN = Campaign(
    campaign_id="c",
    state=CampaignState.BUILDING,
    created_unix_s=0.0,
    models=("a", "b", "c"),
    recipes=("fp32", "efficientquant"),
    devices=("d1", "d2"),
    weights=Weights("random"),
    measurement=TIERS["smoke"],
    repeats=4,
    seed=7,
)
VARIANT = Variant("ort-cpu", "onnxruntime")
DEVICES = [(Device(f"d{n}", f"bench-{n}", "0.1.0", 1, 0.0, DeviceSnapshot()), VARIANT) for n in (1, 2)]


def order_of(campaign: Campaign, device_id: str) -> list[tuple[int, str, str]]:
    _, jobs, runs = plan_campaign(campaign, DEVICES)
    by_id = {job.job_id: job for job in jobs}
    mine = sorted((run for run in runs if by_id[run.job_id].device_id == device_id), key=lambda run: run.position)
    return [(run.repeat_index, by_id[run.job_id].model, by_id[run.job_id].recipe) for run in mine]


def test_a_campaign_is_models_by_recipes_by_devices_by_repeats() -> None:
    """Every combination is planned exactly once."""
    builds, jobs, runs = plan_campaign(CAMPAIGN, DEVICES)
    assert (len(builds), len(jobs), len(runs)) == (6, 12, 48)
    assert len({(run.job_id, run.repeat_index) for run in runs}) == 48


def test_devices_of_one_target_share_their_artifacts() -> None:
    """An artifact is built once for each target, and each job gets its device's own target and backend."""
    nano, xavier = Variant("trt", "jetson-nano"), Variant("trt", "agx-xavier")
    variants = (nano, nano, xavier, VARIANT)
    devices = [(replace(DEVICES[0][0], device_id=f"d{n}"), variant) for n, variant in enumerate(variants)]

    builds, jobs, _ = plan_campaign(CAMPAIGN, devices)

    assert [build.target for build in builds[:3]] == ["jetson-nano", "agx-xavier", "onnxruntime"]
    assert len({(build.model, build.recipe, build.target) for build in builds}) == len(builds) == 18
    assert {(job.device_id, job.backend, job.target) for job in jobs} == {
        ("d0", "trt", "jetson-nano"),
        ("d1", "trt", "jetson-nano"),
        ("d2", "trt", "agx-xavier"),
        ("d3", "ort-cpu", "onnxruntime"),
    }


def test_variants_are_interleaved_across_repeats() -> None:
    """No repeat starts before every variant finished the previous repeat, so drift affects all equally."""
    order = order_of(CAMPAIGN, "d1")
    for repeat, block in itertools.groupby(order, key=lambda entry: entry[0]):
        variants = [entry[1:] for entry in block]
        assert len(variants) == len(set(variants)) == 6, repeat


def test_the_order_is_random_and_follows_the_seed() -> None:
    """The same seed gives the same order, and another seed or device gives another order."""
    assert order_of(CAMPAIGN, "d1") == order_of(CAMPAIGN, "d1")
    assert order_of(CAMPAIGN, "d1") != order_of(replace(CAMPAIGN, seed=8), "d1")
    assert order_of(CAMPAIGN, "d1") != order_of(CAMPAIGN, "d2")


@pytest.mark.parametrize("tier", TIERS.values(), ids=TIERS)
def test_the_time_limit_leaves_room_for_a_slow_board(tier: object) -> None:
    """The limit allows four times the minimum time, and a second for each required inference."""
    assert run_timeout_s(tier) >= 4 * tier.min_time_s + tier.warmup_max_time_s
    assert run_timeout_s(tier) >= 1.0 * tier.min_count


def test_the_time_limit_leaves_room_for_what_comes_before_the_loop() -> None:
    """The limit adds the time to cool down, both idle periods, and an engine build."""
    smoke = TIERS["smoke"]
    cooler, rested = replace(smoke, gate_timeout_s=smoke.gate_timeout_s + 60), replace(smoke, idle_s=smoke.idle_s + 10)
    assert run_timeout_s(cooler) == run_timeout_s(smoke) + 60
    assert run_timeout_s(rested) == run_timeout_s(smoke) + 20
    assert run_timeout_s(smoke, builds_engine=True) == run_timeout_s(smoke) + ENGINE_BUILD_S
