"""`efficientquant evaluate`."""

import json

import digits
import pytest


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Return a folder with train.npz and test.npz of the digits."""
    return digits.save_npz(tmp_path_factory.mktemp("digits"))


def trained(folder, *more):
    return ("evaluate", digits.MODEL, "--weights", str(digits.WEIGHTS), "--data", str(folder / "test.npz"), *more)


def test_rows_with_their_bits(command, folder):
    """FP32, the eager model and the artifact each have a row with bits, and a note names synthetic calibration."""
    outcome = command(*trained(folder, "--limit", "100", "--json"))

    assert outcome.exit_code == 0, outcome.err
    shown = json.loads(outcome.out)
    kinds = [(row["recipe"], row["subject"]) for row in shown["rows"]]
    assert kinds == [("fp32 (timm)", "eager"), ("efficientquant", "eager"), ("efficientquant", "artifact")]
    assert all(row["bit_table"] and row["images"] == 100 and row["top1_error"] > 0 for row in shown["rows"])
    assert any("evaluation images are not used for it" in note for note in shown["notes"])
    assert "evaluating 3 models on 100 images" in outcome.err


def test_table(capsys):
    """Accuracies are percents with standard errors, and a float model has the same bits everywhere."""
    from efficientquant_controller.cli import output
    from efficientquant_controller.cli.library.evaluate import accuracy_table, bits_table

    row = {"recipe": "int8", "subject": "eager", "images": 400, "top1": 0.75, "top1_error": 0.0217, "top5": None}
    row |= {"top1_change": -0.005, "top1_change_error": 0.0025, "agreement": 0.9, "sqnr_db": 30.0, "max_abs": 0.5}
    row["bit_table"] = {"conv weights": "8 per-channel", "rest": "32"}
    for table in (accuracy_table([row]), bits_table([row, {**row, "bit_table": {"rest": "32"}}])):
        output.stdout_console().print(table)

    shown = capsys.readouterr().out
    assert all(text in shown for text in ("75.00 ± 2.17", "-0.50 ± 0.25", "90.00", "30.0", "8 per-channel"))


@pytest.mark.parametrize(
    ("more", "sentence"),
    [
        (["--recipe", "int9"], "recipe 'int9' is not known"),
        (["--recipe", ","], "--recipe names nothing; give for example fp32,efficientquant"),
        (["--for", "toaster"], "target 'toaster' is not known"),
        (["--calibration", "/nowhere"], "data /nowhere: there is no such file or folder"),
        (
            ["--calibration-images", "4"],
            "--calibration-images 4 says how many images to calibrate on",
        ),
        (["--weights", "/nowhere.pth"], "checkpoint /nowhere.pth: there is no such file"),
    ],
)
def test_a_wrong_input_is_one_sentence(command, folder, more, sentence):
    """A wrong input is one line and exit code 2, with nothing on stdout."""
    outcome = command(*trained(folder, *more))

    assert (outcome.exit_code, outcome.out) == (2, "")
    assert f"error: {sentence}" in outcome.err
    assert outcome.err.count("error:") == 1


def test_notes_on_weights_and_images_are_shown(command, tmp_path):
    """Notes on the checkpoint's weights and on images of equal pixels follow the tables."""
    import numpy as np
    import torch
    from safetensors.torch import load_file

    weights = load_file(digits.WEIGHTS)
    torch.save({"state_dict": weights, "state_dict_ema": weights}, tmp_path / "run.pth")
    images = np.random.default_rng(0).integers(0, 256, (4, 8, 8, 3), dtype=np.uint8)
    images[2] = 255
    for name in ("train", "val"):
        np.savez(tmp_path / f"{name}.npz", images=images, labels=np.arange(4))
    options = ("--data", str(tmp_path / "val.npz"), "--calibration", str(tmp_path / "train.npz"), "--recipe", "int8")
    outcome = command("evaluate", digits.MODEL, "--weights", str(tmp_path / "run.pth"), *options)

    assert outcome.exit_code == 0, outcome.err
    notes = [line for line in outcome.out.splitlines() if line.startswith("note: ")]
    assert "note: checkpoint run.pth: the averaged (EMA) weights under 'state_dict_ema' are taken" in notes
    assert "note: int8: data train.npz: images[2]: all pixels are equal" in notes
    assert "note: data val.npz: images[2]: all pixels are equal" in notes
    assert len([note for note in notes if "EMA" in note]) == 1


def test_a_label_without_an_output_is_reported(command, tmp_path):
    """Labels outside the model's outputs are one sentence before anything is quantized."""
    import numpy as np

    np.savez(tmp_path / "a.npz", images=np.zeros((4, 8, 8, 3), np.uint8), labels=np.array([0, 1, 2, 99]))
    outcome = command(
        "evaluate", digits.MODEL, "--weights", "random", "--data", str(tmp_path / "a.npz"), "--recipe", "fp32"
    )

    assert outcome.exit_code == 2
    assert "images[3] has label 99, but the model has 10 outputs" in outcome.err
