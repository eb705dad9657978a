"""`efficientquant bench`: its request to the controller, and how it ends."""

import hashlib
import json
import sys

import grpc
import numpy as np
import pytest
from efficientquant_protos import PROTOCOL_VERSION
from efficientquant_protos.v1 import fleet_pb2 as pb

RANDOM = pb.Weights(random=True)


def submitted(control) -> pb.SubmitCampaignRequest:
    (request,) = [asked for asked in control.requests if isinstance(asked, pb.SubmitCampaignRequest)]
    return request


def test_defaults(command, control):
    """Without options every connected device measures FP32 and EfficientQuant with pretrained weights."""
    command("bench", "mobilevit_xxs", "mobilevitv2_050", "--detach")

    assert submitted(control) == pb.SubmitCampaignRequest(
        models=["mobilevit_xxs", "mobilevitv2_050"],
        recipes=["fp32", "efficientquant"],
        tier="standard",
        weights=pb.Weights(pretrained=True),
    )


def test_every_option(command, control):
    """Every option reaches the controller."""
    options = "--recipes fp32 --devices a,b --tier smoke --repeats 5 --weights random --seed 7 --threads 2 --detach"

    command("bench", "m", *options.split())

    assert submitted(control) == pb.SubmitCampaignRequest(
        models=["m"],
        recipes=["fp32"],
        devices=["a", "b"],
        tier="smoke",
        repeats=5,
        weights=pb.Weights(random=True),
        seed=7,
        intra_op_threads=2,
    )


@pytest.mark.parametrize(
    ("options", "asked"),
    [
        ("--paper", {"paper": True}),
        ("--backend ort-cpu", {"backend": "ort-cpu"}),
        ("--lock-clocks", {"lock_clocks": True}),
        ("--power-mode MAXN", {"power_mode": "MAXN"}),
        ("--cuda-graph", {"cuda_graph": True}),
        ("--sync block", {"sync_mode": "block"}),
        ("--buffers device", {"memory_kind": "device"}),
        ("--layers", {"profile_layers": True}),
        ("--idle 2.5", {"idle_s": 2.5}),
        ("--idle 0", {"idle_s": 0.0}),
        ("--start-below 45", {"max_start_temperature_c": 45.0}),
        ("--start-below 0", {"max_start_temperature_c": 0.0}),
        (
            "--paper --backend trt --lock-clocks --power-mode 0 --cuda-graph --sync spin --buffers mapped --layers",
            {
                "paper": True,
                "backend": "trt",
                "lock_clocks": True,
                "power_mode": "0",
                "cuda_graph": True,
                "sync_mode": "spin",
                "memory_kind": "mapped",
                "profile_layers": True,
            },
        ),
    ],
)
def test_how_to_measure(command, control, options, asked):
    """Each option reaches the controller as its own field, even a zero, and sets no other field."""
    command("bench", "m", "--weights", "random", *options.split(), "--detach")

    base = {"models": ["m"], "recipes": ["fp32", "efficientquant"], "tier": "standard", "weights": RANDOM}
    assert submitted(control) == pb.SubmitCampaignRequest(**base, **asked)
    assert submitted(control).HasField("idle_s") == ("idle_s" in asked)


def test_every_field_of_a_request_has_an_option(command, control, tmp_path):
    """Every field of the request has an option."""
    images = tmp_path / "images.npz"
    np.savez(images, images=np.zeros((2, 8, 8, 3), np.uint8))
    options = (
        "--recipes fp32 --devices a --weights random --tier smoke --repeats 5 --seed 7 --threads 2 --paper "
        "--cuda-graph --sync block --buffers pinned --layers --idle 1 --start-below 50 --lock-clocks "
        "--power-mode 1 --backend trt --label new"
    )

    command("bench", "m", *options.split(), "--data", str(images), "--detach")

    set_fields = {field.name for field, _ in submitted(control).ListFields()}
    assert set_fields == set(pb.SubmitCampaignRequest.DESCRIPTOR.fields_by_name)


RECIPE = "efficientquant:weight_bits=4:scope=conv+linear"


def test_fp32_is_measured_with_every_recipe(command, control):
    """A recipe alone gets its FP32 twin, and the command says so."""
    outcome = command("bench", "m", "--recipes", RECIPE, "--detach")

    assert submitted(control).recipes == ["fp32", RECIPE]
    assert "fp32 is measured too, to compare with; --no-twin leaves it out\n" in outcome.err


@pytest.mark.parametrize("options", [["--recipes", RECIPE, "--no-twin"], ["--recipes", f"{RECIPE},fp32"]])
def test_no_second_twin_and_none_that_is_not_wanted(command, control, options):
    """With fp32 among them or with --no-twin, the recipes stay unchanged."""
    outcome = command("bench", "m", *options, "--detach")

    assert submitted(control).recipes == options[1].split(",")
    assert "fp32 is measured too" not in outcome.err


def test_checkpoint_is_uploaded(command, control, tmp_path):
    """A checkpoint file is uploaded in chunks, then named by its hash and file name."""
    path = tmp_path / "mine.safetensors"
    path.write_bytes(bytes(range(256)) * 8192 + b"end")

    command("bench", "m", "--weights", str(path), "--detach")

    assert control.uploaded == path.read_bytes()
    assert submitted(control).weights.checkpoint.filename == "mine.safetensors"
    assert len(submitted(control).weights.checkpoint.sha256) == 64


def test_images_are_uploaded(command, control, tmp_path):
    """--data uploads the images and names them by hash and file name."""
    path = tmp_path / "images.npz"
    np.savez(path, images=np.zeros((2, 8, 8, 3), np.uint8))

    outcome = command("bench", "m", "--weights", "random", "--data", str(path), "--detach")

    assert control.uploaded == path.read_bytes()
    calibration = submitted(control).calibration
    assert (calibration.filename, calibration.sha256) == ("images.npz", hashlib.sha256(control.uploaded).hexdigest())
    assert "uploaded images.npz: " in outcome.err


def test_data_without_images_are_refused_before_anything_is_sent(command, control, tmp_path):
    """A folder without images is one line, and nothing is sent."""
    (tmp_path / "notes.txt").write_text("no image")

    outcome = command("bench", "m", "--data", str(tmp_path))

    assert outcome.exit_code == 2
    assert outcome.err.startswith(f"error: data {tmp_path}: holds no images")
    assert control.requests == []


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ("--tier Smok", "unknown tier 'Smok', did you mean smoke?"),
        ("--recipes int88", "recipe 'int88' is not known"),
        ("--buffers ram", "unknown memory kind 'ram'"),
    ],
)
def test_names_are_checked_before_a_checkpoint_is_sent(command, control, tmp_path, options, sentence):
    """An unknown tier, recipe or buffer kind is refused before a checkpoint is uploaded."""
    (tmp_path / "w.pth").write_bytes(b"x")

    outcome = command("bench", "m", "--weights", str(tmp_path / "w.pth"), *options.split())

    assert outcome.exit_code == 2
    assert outcome.err.startswith(f"error: {sentence}")
    assert control.requests == [pb.ListDevicesRequest()]
    assert control.uploaded == b""


def test_all_stands_alone(command, control):
    """--devices refuses `all` together with names."""
    outcome = command("bench", "m", "--devices", "all,bench-1")

    assert (outcome.exit_code, control.requests) == (2, [])
    assert outcome.err == "error: --devices all,bench-1: all stands alone; give all, or names without it\n"


def test_a_refused_campaign_announces_no_twin(command, control):
    """A refusal is one line, even if fp32 would have been added."""
    control.refusal = (grpc.StatusCode.INVALID_ARGUMENT, "no")

    assert command("bench", "m", "--recipes", "int8").err == "error: no\n"


@pytest.mark.parametrize("name", ["empty.npz", "empty"])
@pytest.mark.parametrize("option", ["--data", "--weights"])
def test_empty_inputs_are_refused_at_once(command, control, tmp_path, name, option):
    """An empty file or folder is refused before torch is imported or anything is sent."""
    path = tmp_path / name
    if path.suffix:
        path.touch()
    else:
        path.mkdir()

    outcome = command("bench", "m", option, str(path))

    assert (outcome.exit_code, control.requests) == (2, [])
    assert outcome.err.startswith(f"error: {option} {path} is ")


def test_a_controller_that_is_away_is_found_before_images_are_packed(command, tmp_path, monkeypatch):
    """An unreachable controller is reported before images are packed."""
    (tmp_path / "a.png").write_bytes(b"not looked at")
    monkeypatch.setitem(sys.modules, "efficientquant_controller.cli.fleet.calibration_sample", None)

    outcome = command("bench", "m", "--data", str(tmp_path), "--controller", "127.0.0.1:1")

    assert outcome.exit_code == 2
    assert outcome.err.startswith("error: no controller answers at 127.0.0.1:1")


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["--weights", "nowhere.pth"], "--weights nowhere.pth: there is no such file"),
        (["--weights", "."], "--weights . is a folder; give a checkpoint"),
        (["--weights", "/dev/null"], "--weights /dev/null is no ordinary file"),
        (["--data", "nowhere"], "--data nowhere: there is no such file; give a folder of images or an .npz"),
        (["--data", __file__], f"--data {__file__} is neither a folder nor an .npz"),
        (["--recipes", " , "], "--recipes names nothing; give for example fp32,efficientquant"),
        (["--devices", ""], "--devices names nothing; give for example all or bench-1,bench-2"),
    ],
)
def test_wrong_option_is_refused_before_anything_is_sent(command, control, options, sentence):
    """A wrong option is one line, and nothing is sent."""
    outcome = command("bench", "m", *options)

    assert outcome.exit_code == 2
    assert outcome.err.startswith(f"error: {sentence}")
    assert control.requests == []


@pytest.mark.usefixtures("control")
def test_detach(command):
    """--detach prints the id on stdout, and on stderr how to come back."""
    outcome = command("bench", "m", "--detach")

    assert (outcome.exit_code, outcome.out) == (0, "c1\n")
    assert outcome.err == "watch it: efficientquant watch c1\n"


@pytest.mark.usefixtures("control")
def test_detach_json(command):
    """--detach --json prints the campaign."""
    assert json.loads(command("bench", "m", "--detach", "--json").out)["campaign"]["campaign_id"] == "c1"


@pytest.mark.parametrize(("state", "exit_code"), [("succeeded", 0), ("failed", 1), ("cancelled", 1)])
def test_exit_code_tells_how_it_ended(command, control, messages, state, exit_code):
    """The exit code is 0 only for a campaign whose jobs all succeeded."""
    control.statuses.put(messages.status(state))

    assert command("bench", "m").exit_code == exit_code


def test_end_shows_results_and_the_way_on(command, control, messages):
    """At the end come the table, its location, and what to try next."""
    control.statuses.put(messages.status("succeeded"))
    gain = {"latency_ratio": 1.25, "latency_ratio_low": 1.2, "latency_ratio_high": 1.3, "latency_answer": "faster"}
    control.rows = [messages.row(), messages.row("efficientquant", 0.016, **gain)]

    out = command("bench", "mobilevit_xxs", "--tier", "smoke").out

    assert out.startswith("campaign c1 succeeded: 4 runs\n")
    assert "1.25× 1.20–1.30" in out
    assert "these rows again: efficientquant results --campaign c1\n" in out
    assert "efficientquant bench mobilevit_xxs --recipes fp32,efficientquant --tier standard" in out


def test_other_controller_is_in_the_commands_to_type_next(command, control, messages, monkeypatch):
    """The suggested commands name the controller that was passed by option."""
    control.statuses.put(messages.status("succeeded"))
    monkeypatch.delenv("EFFICIENTQUANT_CONTROLLER")

    out = command("bench", "m", "--controller", control.address).out

    assert f"efficientquant results --campaign c1 --controller {control.address}\n" in out


def test_json(command, control, messages):
    """--json prints the campaign and its rows on stdout, and progress on stderr."""
    control.statuses.put(messages.status("failed", notices=[pb.Notice(time_unix_s=1, message="nano-1 was lost")]))
    control.rows = [messages.row(state="failed")]

    outcome = command("bench", "m", "--json")

    shown = json.loads(outcome.out)
    assert (outcome.exit_code, shown["campaign"]["state"]) == (1, "failed")
    assert (shown["results"][0]["state"], shown["results"][0]["latency_count"]) == ("failed", None)
    assert "nano-1 was lost\n" in outcome.err


@pytest.mark.parametrize(
    ("theirs", "sentence"),
    [
        (
            0,
            f"speaks a protocol before {PROTOCOL_VERSION}, and this is efficientquant 0.1.0, which speaks protocol "
            f"{PROTOCOL_VERSION}; upgrade the controller",
        ),
        (
            PROTOCOL_VERSION + 1,
            f"speaks protocol {PROTOCOL_VERSION + 1}, and this is efficientquant 0.1.0, which speaks protocol "
            f"{PROTOCOL_VERSION}; upgrade this efficientquant",
        ),
    ],
)
def test_a_controller_of_another_protocol_is_refused_before_anything_is_measured(command, control, theirs, sentence):
    """With another protocol nothing is submitted, and the sentence says which side to upgrade."""
    control.protocol_version = theirs

    outcome = command("bench", "mobilevit_xxs")

    assert (outcome.exit_code, outcome.err) == (2, f"error: the controller at {control.address} {sentence}\n")
    assert [type(request).__name__ for request in control.requests] == ["ListDevicesRequest"]
