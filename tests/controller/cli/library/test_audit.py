"""`efficientquant audit`."""

import json

import numpy as np
from efficientquant_controller.cli.library.audit import TERMS

SMALL = ("resnet18", "--weights", "random", "--input-size", "64", "--images", "2")


def test_tables(command):
    """Printed and corrected formulas have columns of one table, and a sentence concludes."""
    shown = command("audit", *SMALL)

    assert shown.exit_code == 0
    first, second = shown.out.splitlines()[:2]
    assert first.split() == ["weights", "as", "floor", "symmetric", "affine", "symmetric"]
    assert second.split("dB")[1].split() == ["printed", *["per", "tensor"] * 3, "per", "channel"]
    assert shown.out.splitlines()[-1].startswith("on 2 synthetic images: As printed, the weights keep -")


def test_names_are_short_and_terms_are_explained(command, monkeypatch):
    """On 80 columns nothing is cut, layers have their unique names, and each term has a line."""
    monkeypatch.setattr("efficientquant_controller.cli.output.PIPE_WIDTH", 80)

    lines = [line for line in command("audit", *SMALL).out.splitlines() if line.strip()]

    names = [line.split()[0] for line in lines]
    assert {"conv1.weight", "layer1.0.conv1", "layer4.1.conv2"} <= {*names}
    assert all(any(line.startswith(f"{term}: ") for line in lines) for term in TERMS)
    assert max(map(len, lines[: names.index("SQNR:")])) <= 80


def test_labelled_data(command, tmp_path):
    """Labels of the user's images add top-1."""
    images = np.random.default_rng(0).integers(0, 256, (3, 32, 32, 3), dtype=np.uint8)
    np.savez(tmp_path / "images.npz", images=images, labels=np.array([0, 1, 2]))

    shown = json.loads(command("audit", *SMALL, "--data", str(tmp_path / "images.npz"), "--json").out)

    assert shown["images"] == 2
    assert all(row["top1"] is not None for row in shown["logits"])
    assert shown["softmax"] == []


def test_missing_data(command, tmp_path):
    """Missing data are named before the work begins."""
    shown = command("audit", *SMALL, "--data", str(tmp_path / "nowhere"))

    assert shown.exit_code == 2
    assert "nowhere: there is no such file or folder" in shown.err.splitlines()[-1]
