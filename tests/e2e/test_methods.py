"""Two of the compared methods, from each command that takes recipes."""

import json
from pathlib import Path

import digits
import numpy as np
import pytest
from efficientquant import get_recipe
from fleet import Fleet

MODEL = "test_vit"
# The quickest two, with few steps.
RECIPES = {"repq-vit": "repq-vit", "hyq": "hyq:alpha_steps=5"}
FEW = 8
TIMEOUT_S = 480.0
ASKED = ("--recipes", "fp32," + ",".join(RECIPES.values()))


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with train.npz and test.npz, of few digits."""
    folder = Path(digits.save_npz(tmp_path_factory.mktemp("digits")))
    for path in folder.iterdir():
        with np.load(path) as arrays:
            few = {key: array[:FEW] for key, array in arrays.items()}
        np.savez(path, **few)
    return folder


def test_a_campaign_measures_the_methods(fleet: Fleet, images: Path) -> None:
    """Each file is built, shipped and measured, and its row is in the results."""
    fleet.connect_agent("desk")
    options = ("--weights", "random", "--tier", "demo", "--repeats", "1", "--data", str(images / "train.npz"))
    done = fleet.run("bench", MODEL, *ASKED, *options, "--json", timeout_s=TIMEOUT_S)
    assert done.returncode == 0, done.stderr
    rows = json.loads(done.stdout)["results"]
    assert {row["recipe"] for row in rows} == {"fp32", *(name(recipe) for recipe in RECIPES.values())}
    assert all(row["state"] == "succeeded" and row["latency_p50_s"] > 0 for row in rows)
    assert fleet.json("results") == rows


def test_evaluate_and_table1_have_the_methods(fleet: Fleet, images: Path, tmp_path: Path) -> None:
    """Both commands take several at once, and give one row each."""
    asked = ",".join(RECIPES.values())
    shared = ("--weights", "random", "--data", str(images / "test.npz"), "--input-size", "32")
    rows = fleet.json("evaluate", MODEL, *shared, "--recipe", asked, "--calibration", str(images / "train.npz"))["rows"]
    assert [row["recipe"] for row in rows if row["subject"] == "artifact"] == [name(r) for r in RECIPES.values()]
    two = [RECIPES["repq-vit"], RECIPES["hyq"]]
    table = (*shared, "--models", MODEL, "--recipes", ",".join(two), "--calibration", str(images / "train.npz"))
    cells = fleet.json("table1", *table, "--out", str(tmp_path / "table"))["cells"]
    assert {cell["recipe"] for cell in cells} == {name(recipe) for recipe in two}


def name(recipe: str) -> str:
    """Return a recipe's full name, as results have it."""
    return get_recipe(recipe).name
