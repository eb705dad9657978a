"""`efficientquant inspect`."""

import json

import pytest


@pytest.fixture(scope="module")
def model():
    """Return a small model, whose structure is read from its architecture alone."""
    return "resnet18"


def test_table(command, model):
    """The table has the modules, parameters and MACs of each role, and the totals."""
    shown = command("inspect", model)

    rows = {line.split()[0]: line.split()[1:] for line in shown.out.splitlines() if line.strip()}
    assert shown.exit_code == 0
    assert rows["total"] == ["11,689,512", "1,814,073,344"]
    assert rows["head"][:2] == ["1", "513,000"]
    assert "convolutions: 20, linears: 1, softmax sites: 0" in shown.out
    assert "no weights are loaded" in shown.err


def test_json(command, model):
    """--json has every parameter once, with all facts of the manifest."""
    shown = json.loads(command("inspect", model, "--rule", "paper", "--json").out)

    assert sum(entry["parameters"] for entry in shown["parameters"]) == shown["total_parameters"] == 11_689_512
    assert {"parameter", "node", "module", "role", "shape", "macs", "bits", "granularity"} <= set(
        shown["parameters"][0]
    )
    assert shown["rule"] == "paper"
    assert any("classifiers" in defect for defect in shown["defects"])


def test_parameters(command, model):
    """--parameters lists every parameter by name."""
    shown = command("inspect", model, "--parameters").out

    row = next(line.split() for line in shown.splitlines() if line.startswith("layer1.0.conv1.weight"))
    assert row == ["layer1.0.conv1.weight", "conv2d", "conv", "64×64×3×3", "36,864", "115,605,504", "32", "none"]


def test_unknown_rule(command, model):
    """An unknown rule is refused before anything is built."""
    shown = command("inspect", model, "--rule", "names")

    assert (shown.exit_code, shown.out) == (2, "")
    assert shown.err == "error: --rule names is not known; choose graph or paper\n"


def test_unknown_model(command):
    """An unknown model is one sentence with similar names."""
    shown = command("inspect", "mobilevit_xx")

    assert shown.exit_code == 2
    assert "did you mean mobilevit_xxs" in shown.err.splitlines()[-1]
