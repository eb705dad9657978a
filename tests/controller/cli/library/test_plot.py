"""`efficientquant plot`."""

import json

import pytest

SMALL = ("resnet18", "--weights", "random", "--input-size", "64")


def test_both_formats(command, tmp_path):
    """A folder gets a PNG and an SVG, and their names are printed."""
    shown = command("plot", "weights", *SMALL, "--block", "layer1", "--out", str(tmp_path), "--json")

    files = json.loads(shown.out)["files"]
    assert (shown.exit_code, files) == (0, [f"{tmp_path}/resnet18-weights.{kind}" for kind in ("png", "svg")])
    assert sorted(str(path) for path in tmp_path.iterdir()) == files


def test_no_softmax(command, tmp_path):
    """For a network without a softmax, the picture is refused and nothing is written."""
    shown = command("plot", "softmax", *SMALL, "--out", str(tmp_path / "figure.png"))

    assert shown.exit_code == 2
    assert "holds no softmax" in shown.err.splitlines()[-1]
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (("bars", "resnet18", "--out", "x.png"), "there is no picture 'bars'; choose weights, softmax, sqnr"),
        (("sqnr", "resnet18", "--out", "x.jpg"), "picture x.jpg: can end in .png or .svg"),
        (("sqnr", "resnet18", "--out", "x.png", "--recipe", "as-printed"), "'efficientquant audit' shows how"),
    ],
)
def test_refusals(command, arguments, problem):
    """A picture that cannot be drawn is one sentence."""
    shown = command("plot", *arguments)

    assert (shown.exit_code, shown.out) == (2, "")
    assert problem in shown.err.splitlines()[-1]
