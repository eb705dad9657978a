"""`efficientquant compare --rerun`: the campaign that it submits, and what it cannot."""

import json
from typing import Any

import pytest
from efficientquant_controller.cli.convert import campaign_from_wire
from efficientquant_controller.cli.records import BenchRequest, Submission
from efficientquant_controller.config import measurement_for
from efficientquant_controller.model import Calibration, Campaign, CampaignState, Weights
from efficientquant_controller.server.convert import campaign_to_wire
from efficientquant_protos.v1 import fleet_pb2 as pb


def runs(campaign: str, recipe: str, **changes: Any) -> list[dict[str, Any]]:
    """Return three succeeded runs of one job."""
    row = {
        "campaign_id": campaign,
        "job_id": f"{campaign}-{recipe}",
        "device": "nano",
        "model": "m",
        "recipe": recipe,
        "backend": "trt",
        "runtime_version": "8.2.1",
        "state": "succeeded",
        "latency_p50_s": 0.02,
        **changes,
    }
    return [{**row, "run_id": f"{campaign}-{recipe}-{n}", "repeat_index": n} for n in range(3)]


def asked(recipe: str, **changes: Any) -> pb.SubmitCampaignRequest:
    """Return the request of an earlier campaign."""
    weights = pb.Weights(checkpoint=pb.Checkpoint(sha256="ab" * 32, filename="mine.pth"))
    values: dict[str, Any] = {
        "models": ["m", "m2"],
        "recipes": [recipe],
        "devices": ["nano", "xavier"],
        "weights": weights,
        "tier": "quick",
        "repeats": 3,
        "seed": 5,
        "intra_op_threads": 2,
        "calibration": pb.Calibration(sha256="cd" * 32, filename="images.zip"),
        "lock_clocks": True,
        "idle_s": 0.0,
        "sync_mode": "spin",
        **changes,
    }
    return pb.SubmitCampaignRequest(**values)


@pytest.mark.parametrize(
    "weights", [Weights("pretrained"), Weights("random"), Weights("checkpoint", "ab" * 32, "mine.pth")]
)
@pytest.mark.parametrize("calibration", [None, Calibration("cd" * 32, "images.zip")])
def test_a_campaign_carries_its_request(weights, calibration):
    """Every setting of a campaign reaches the client, so that it can be submitted again."""
    measurement = measurement_for(
        "quick", cuda_graph=True, sync_mode="block", memory_kind="pinned", profile_layers=True, lock_clocks=True,
        power_mode="MAXN", idle_s=0.0, max_start_temperature_c=45.0, intra_op_threads=2, input_seed=7,
    )  # fmt: skip
    names = (("m", "m2"), ("fp32",), ("d1",))
    campaign = Campaign("c1", CampaignState.RUNNING, 1.0, *names, weights, measurement, 10, 7, None, calibration, True)

    listing = campaign_from_wire(campaign_to_wire(campaign, {"d1": "nano"}))

    assert listing.submission == Submission(
        BenchRequest(
            *(("m", "m2"), ("fp32",), ("nano",), "quick", 10, 7, 2), paper=True, cuda_graph=True, sync_mode="block",
            memory_kind="pinned", profile_layers=True, idle_s=0.0, max_start_temperature_c=45.0, lock_clocks=True,
            power_mode="MAXN",
        ),
        weights,
        calibration,
    )  # fmt: skip


@pytest.fixture
def two(control, messages):
    """Script campaigns c1 of fp16 and c2 of int8 on one device."""
    control.runs = [*runs("c1", "fp16"), *runs("c2", "int8")]
    control.campaigns = [
        messages.campaign("succeeded", campaign_id="c2", models=["m"], recipes=["int8"], request=asked("int8")),
        messages.campaign("succeeded", campaign_id="c1", models=["m"], recipes=["fp16"], request=asked("fp16")),
    ]
    return control


def submitted(control) -> list[pb.SubmitCampaignRequest]:
    return [request for request in control.requests if isinstance(request, pb.SubmitCampaignRequest)]


def test_both_jobs_are_asked_for_in_one_campaign(command, two):
    """The campaign has both variants on their device, with the settings of both campaigns and the most repeats."""
    two.campaigns[0].request.repeats = 10

    outcome = command("compare", "c1/fp16", "c2/int8", "--rerun")

    expected = asked("fp16", models=["m"], recipes=["fp16", "int8"], devices=["nano"], repeats=10, backend="trt")
    assert submitted(two) == [expected]
    assert (outcome.exit_code, outcome.out) == (0, "c1\n")
    assert outcome.err.splitlines() == [
        "watch it: efficientquant watch c1",
        "then compare: efficientquant compare c1/nano/m/fp16 c1/nano/m/int8",
    ]


@pytest.mark.usefixtures("two")
def test_the_metric_is_that_of_the_comparison_to_come(command):
    """The printed comparison is in the metric that was asked for."""
    outcome = command("compare", "c1/fp16", "c2/int8", "--metric", "energy", "--rerun")

    assert outcome.err.endswith("compare c1/nano/m/fp16 c1/nano/m/int8 --metric energy\n")


@pytest.mark.usefixtures("two")
def test_json_names_the_jobs_to_compare(command):
    """With --json the output is the campaign and the names of both jobs in it."""
    answer = json.loads(command("compare", "c1/fp16", "c2/int8", "--rerun", "--json").out)

    assert (answer["campaign"]["campaign_id"], answer["first"], answer["second"]) == (
        "c1",
        "c1/nano/m/fp16",
        "c1/nano/m/int8",
    )


@pytest.mark.parametrize(("axis", "field"), [("model", "models"), ("device", "devices")])
def test_two_models_or_devices_go_into_one_campaign(command, two, axis, field):
    """Jobs that differ in a model or a device are measured in one campaign too."""
    two.runs = [*runs("c1", "fp16"), *runs("c2", "fp16", **{axis: "other"})]

    assert command("compare", "c1/fp16", "c2/fp16", "--rerun").exit_code == 0
    [request] = submitted(two)
    assert list(request.recipes) == ["fp16"]
    assert list(getattr(request, field)) == [two.runs[0][axis], "other"]


def in_one_campaign(control):
    control.runs = [*runs("c1", "fp16"), *runs("c1", "int8")]


def the_same_variant(control):
    control.runs = [*runs("c1", "fp16"), *runs("c2", "fp16")]


def another_runtime(control):
    control.runs = [*runs("c1", "fp16"), *runs("c2", "fp16", backend="ort-cpu")]


def two_devices_of_one_name(control):
    control.runs = [*runs("c1", "fp16", device_id="d1"), *runs("c2", "fp16", device_id="d2")]


def another_tier(control):
    control.campaigns[0].request.tier = "smoke"
    control.campaigns[0].request.ClearField("calibration")


def no_success(control):
    control.runs = [*runs("c1", "fp16"), *runs("c2", "int8", state="failed")]


def an_older_controller(control):
    control.campaigns[0].ClearField("request")


@pytest.mark.parametrize(
    ("arrange", "sentence"),
    [
        (in_one_campaign, "both jobs were measured in campaign c1; compare them without --rerun"),
        (the_same_variant, "both jobs are m with fp16 on nano, which one campaign measures once; bench it again, "),
        (another_runtime, "the jobs differ in runtime, and --rerun needs jobs that differ in a recipe, a model or a "),
        (two_devices_of_one_name, "the jobs ran on two devices with the name nano, and a campaign finds a device by "),
        (
            another_tier,
            "the campaigns of the two jobs differ in tier (quick and smoke), calibration images (images.zip "
            "cdcdcdcdcdcd and synthetic); bench both in one campaign with the settings that you want",
        ),
        (no_success, "no repeat of c2/nano/m/int8 has succeeded; fix what failed and bench it again"),
        (an_older_controller, "the controller does not send the settings of campaign c2; upgrade it, or bench both "),
    ],
)
def test_what_one_campaign_cannot_hold_is_one_sentence(command, two, arrange, sentence):
    """A pair that one campaign cannot measure is one line on stderr, exit code 2, and nothing is submitted."""
    arrange(two)

    outcome = command("compare", two.runs[0]["job_id"], two.runs[3]["job_id"], "--rerun")

    assert (outcome.exit_code, outcome.out, outcome.err.count("\n")) == (2, "", 1)
    assert outcome.err.startswith(f"error: {sentence}")
    assert submitted(two) == []


def test_a_database_cannot_measure(command, tmp_path):
    """--rerun and --db exclude each other."""
    outcome = command("compare", "a", "b", "--rerun", "--db", str(tmp_path / "results.db"))

    assert (outcome.exit_code, outcome.err) == (
        2,
        "error: --rerun measures again, and --db reads a file without a controller; leave out one of them\n",
    )
