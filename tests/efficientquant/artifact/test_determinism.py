import os
import subprocess
import sys

import pytest

RECIPES = ("efficientquant", "int8")
PROGRAM = """
import sys
import efficientquant as eq
model = eq.create_model("test_coatnet", "random", seed=3)
images = eq.synthetic_images(eq.input_spec(model), 4)
for recipe in sys.argv[2:]:
    quantized = eq.quantize(model, eq.get_recipe(recipe), images)
    print(eq.export_onnx(quantized, sys.argv[1], target="rtx-3080", images=images[:1]).sha256)
"""


@pytest.fixture(scope="module")
def hashes(tmp_path_factory):
    """Return the hashes of each recipe by Python's hash seed.

    Each seed has a process of its own, and all run at the same time.
    """
    started = {}
    for seed in ("0", "4242"):
        command = [sys.executable, "-c", PROGRAM, tmp_path_factory.mktemp(seed) / "model.onnx", *RECIPES]
        environment = {**os.environ, "PYTHONHASHSEED": seed}
        started[seed] = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)
    return {seed: process.communicate()[0].split() for seed, process in started.items()}


@pytest.mark.parametrize("recipe", RECIPES)
def test_every_process_writes_the_same_bytes(hashes, recipe):
    """Same model, recipe, images and seed: the same SHA-256, whatever the order of Python's sets and dictionaries."""
    digests = [lines[RECIPES.index(recipe)] for lines in hashes.values()]
    assert len(set(digests)) == 1
    assert all(len(digest) == 64 for digest in digests)


def test_recipes_write_different_bytes(hashes):
    """The hash tells recipes apart."""
    assert len(set(hashes["0"])) == len(RECIPES)
