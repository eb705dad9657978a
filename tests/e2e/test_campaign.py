"""Whole campaigns on a fleet of a Nano's, a Xavier's and a desktop's Python."""

import itertools
import json
import re

import pytest
import real_parts
from efficientquant_protos import PROTOCOL_VERSION
from fleet import DEADLINE_S, Fleet
from PIL import Image

# A small timm classifier of 160×160, because the fleet is tested, not the model.
TINY = "test_efficientnet"


def test_three_pythons_serve_one_campaign(fleet: Fleet, python36: str, python38: str) -> None:
    """A quantized MobileViT runs on agents of Python 3.6, 3.8 and 3.11, and their results are stored."""
    fleet.connect_agent("nano", python36)
    fleet.connect_agent("xavier", python38)
    fleet.connect_agent("desk")

    answer = fleet.json(
        *("bench", "mobilevit_xxs", "--recipes", "efficientquant", "--weights", "random"),
        *("--tier", "demo", "--repeats", "2"),
        timeout_s=3 * DEADLINE_S,  # twelve runs of a real model, which take turns on a busy machine
    )

    assert answer["campaign"]["state"] == "succeeded"
    assert answer["campaign"]["recipes"] == ["fp32", "efficientquant"]  # the twin is added automatically
    for row in (row for row in answer["results"] if row["recipe"] != "fp32"):
        refusals = [reason for reason in (row["not_compared"] or "").split("); ") if reason]
        assert row["latency_answer"] == ("not comparable" if refusals else "not enough data")  # of two repeats
        assert all(re.match(r"2 of 2 repeats of \w+ INVALID", reason) for reason in refusals)  # on a busy machine
        assert row["size_ratio"] >= 1.3
        assert refusals or row["latency_ratio"] > 0
        assert (row["integer_operators"], row["arithmetic"][:12]) == (0, "storage only")
    rows = fleet.query("select device, recipe, state, runs_done, artifact_bytes, latency_count from results")
    assert sorted((device, recipe) for device, recipe, *_ in rows) == [
        (device, recipe) for device in ("desk", "nano", "xavier") for recipe in ("efficientquant", "fp32")
    ]
    assert all(state == "succeeded" and runs == 2 and count >= 64 for _, _, state, runs, _, count in rows)
    sizes = {recipe: size for _, recipe, _, _, size, _ in rows}
    assert sizes["fp32"] >= 1.3 * sizes["efficientquant"]
    assert fleet.query("select count(*) from runs") == [(12,)]
    assert fleet.query("select count(*) from series") == [(12,)]
    versions = {
        json.loads(libraries)["python"].rsplit(".", 1)[0]
        for (libraries,) in fleet.query("select library_versions from runs")
    }
    assert versions == {"3.6", "3.8", "3.11"}


def test_every_number_the_issue_names_is_recorded(fleet: Fleet) -> None:
    """Transfer, load by stage, percentiles, memory, providers, versions and provenance are in typed columns."""
    fleet.connect_agent("desk")
    (fleet.folder / "photos").mkdir()
    for index in range(3):
        Image.new("RGB", (200, 180), (80 * index, 99, 7)).save(fleet.folder / f"photos/{index}.png")
    options = ("--recipes", "int8", "--no-twin", "--weights", "random", "--tier", "demo", "--repeats", "1")
    fleet.json("bench", TINY, *options, "--data", str(fleet.folder / "photos"))

    columns = (
        "transfer_s, transfer_bytes, read_s, session_create_s, first_inference_s, load_s, latency_p50_s, "
        "latency_p90_s, latency_p99_s, peak_pss_bytes, board_available_before_bytes, board_available_min_bytes, "
        "sampler_cpu_s, started_unix_s, duration_s, warmup_count"
    )
    [row] = fleet.query(f"select {columns} from runs")
    assert all(value is not None and value >= 0 for value in row), row
    assert row[1] > 0  # the artifact came over the wire, not from a cache
    assert row[6] <= row[7] <= row[8]
    assert row[9] > 1 << 20
    [(providers, options, agent, protocol)] = fleet.query(
        "select providers, session_options, agent_version, protocol_version from runs"
    )
    assert "CPUExecutionProvider" in providers
    assert "intra_op_threads" in options
    assert (agent, protocol) == ("0.1.0", PROTOCOL_VERSION)
    [(provenance,)] = fleet.query("select provenance from artifact_builds")
    images = json.loads(provenance)["calibration_images"]
    assert (images["upload"]["filename"], images["drawn"]["images"]) == ("photos.zip", 3)


def test_openvino_runs_when_it_is_named(fleet: Fleet) -> None:
    """A campaign with --backend ships OpenVINO's own form, and its layers have their precision and time."""
    real_parts.openvino()
    fleet.connect_agent("desk")

    options = ("--recipes", "int8", "--no-twin", "--weights", "random", "--tier", "demo", "--repeats", "1", "--layers")
    [row] = fleet.json("bench", TINY, *options, "--backend", "openvino-cpu")["results"]
    [(session, precisions, layers, engine)] = fleet.query(
        "select session_options, runs.realised_precision, layers, runs.engine_sha256 "
        "from runs join engines using (run_id)"
    )

    assert (row["state"], row["backend"], row["target"]) == ("succeeded", "openvino-cpu", "openvino")
    assert row["integer_operators"] > 0
    assert json.loads(session)["inference_precision"] == "f32"
    assert json.loads(precisions)["int8"] >= row["integer_operators"]
    assert sum(layer["mean_s"] for layer in json.loads(layers)) > 0
    assert engine is None  # it is compiled in memory


def test_a_model_without_softmax_works_and_says_so(fleet: Fleet) -> None:
    """EfficientQuant on a CNN without softmax succeeds, and its build message says that log2 was not used.

    A recipe with options may be written in any order and has one name everywhere.
    """
    fleet.connect_agent("desk")
    spellings = ["efficientquant:weight-bits=8:scope=conv+linear", "efficientquant:scope=conv+linear"]

    status = fleet.watch_to_end(fleet.submit("test_resnet", recipes=spellings))

    assert status.campaign.state == "succeeded"
    [build] = status.builds
    assert "softmax" in build.message
    assert build.recipe == "efficientquant:scope=conv+linear"
    names = "select recipe from results union select recipe from artifact_builds union select name from recipes"
    assert fleet.query(names) == [(build.recipe,)]


def test_agents_on_one_board_take_turns(fleet: Fleet) -> None:
    """Two agents of one machine never measure at the same time, because they would disturb each other."""
    fleet.connect_agent("one")
    fleet.connect_agent("two")

    fleet.watch_to_end(fleet.submit(TINY, repeats=2))

    runs = fleet.query("select started_unix_s, started_unix_s + duration_s from runs order by started_unix_s")
    assert len(runs) == 4
    assert all(earlier[1] <= later[0] + 0.05 for earlier, later in itertools.pairwise(runs))


def test_an_equal_request_reuses_the_artifact(fleet: Fleet) -> None:
    """The second campaign neither builds nor transfers an existing artifact."""
    fleet.connect_agent("desk")
    fleet.watch_to_end(fleet.submit(TINY))
    fleet.watch_to_end(fleet.submit(TINY))

    assert fleet.query("select count(*) from artifacts") == [(1,)]
    assert sorted(size > 0 for (size,) in fleet.query("select transfer_bytes from runs")) == [False, True]


@pytest.mark.parametrize("output", ["--json", "--csv"])
def test_results_are_one_command_away(fleet: Fleet, output: str) -> None:
    """`results --campaign latest` prints the rows for a script, in SI units."""
    fleet.connect_agent("desk")
    fleet.watch_to_end(fleet.submit(TINY))

    done = fleet.run("results", "--campaign", "latest", output)

    assert done.returncode == 0, done.stderr
    assert "latency_p50_s" in done.stdout
    assert TINY in done.stdout
