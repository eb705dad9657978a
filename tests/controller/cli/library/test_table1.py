"""`efficientquant table1`."""

import json

import digits
import pytest


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Return a folder with train.npz and test.npz of the digits."""
    return digits.save_npz(tmp_path_factory.mktemp("digits"))


def trained(folder, out, *more):
    weights, data = str(digits.WEIGHTS.parent), str(folder / "test.npz")
    options = ("--weights", weights, "--models", digits.MODEL, "--recipes", "fp32", "--limit", "20")
    return ("table1", "--data", data, *options, "--out", str(out), *more)


def test_measured_cells_are_found_again(command, folder, tmp_path):
    """A second run measures nothing and prints the published and the measured table."""
    first = command(*trained(folder, tmp_path, "--json"))
    second = command(*trained(folder, tmp_path))

    assert first.exit_code == second.exit_code == 0, first.err + second.err
    shown = json.loads(first.out)
    assert [cell["recipe"] for cell in shown["cells"]] == ["fp32"]
    assert shown["published"]["caveat"].startswith("not like for like")
    assert "1 cells: 0 measured now, 1 found" in second.err
    assert all(
        text in second.out for text in ("published, ImageNet top-1 %", "measured here", "bits", "not like for like")
    )


def test_published_figures():
    """The paper's own figure and a missing one are printed as published."""
    from efficientquant_controller.cli.library.table1 import published_facts, published_table

    assert published_facts(["mobilevit_xxs"])["top1_percent"]["mobilevit_xxs"]["EfficientQuant"] == 66.86
    assert published_table(["mobilevitv2_200", "mobilevit_xxs"]).row_count == 2


@pytest.mark.parametrize(
    ("more", "sentence"),
    [
        (["--models", "mobilevit_xxs"], "mobilevit_xxs.safetensors: there is no such file, nor .pth or .pt"),
        (["--models", ","], "--models names nothing"),
        (["--recipes", "int9"], "recipe 'int9' is not known"),
        (["--data", "/nowhere"], "data /nowhere: there is no such file or folder"),
        (["--weights", "/nowhere"], "checkpoint /nowhere: there is no such folder"),
    ],
)
def test_a_wrong_input_is_one_sentence(command, folder, tmp_path, more, sentence):
    """A wrong input is one line and exit code 2, and nothing is written."""
    outcome = command(*trained(folder, tmp_path / "cells", *more))

    assert (outcome.exit_code, outcome.out) == (2, "")
    assert f"error: {sentence}" in outcome.err or sentence in outcome.err
    assert list(tmp_path.glob("cells/*")) == []
