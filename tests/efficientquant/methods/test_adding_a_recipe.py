"""The documentation's example of a recipe, added to a copy of the package."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import efficientquant as eq
import pytest

ROOT = Path(__file__).parents[3]
USE = """
import sys
import efficientquant as eq
from efficientquant import PowerOfTwo
recipe = eq.get_recipe("power-of-two:weight_bits=6")
assert isinstance(recipe, PowerOfTwo)
assert eq.Recipe.from_dict(recipe.to_dict()) == recipe
model = eq.create_model("resnet18", "random", input_size=64)
quantized = eq.quantize(model, recipe)
assert quantized.bit_table()["conv weights"] == "6 per-channel", quantized.bit_table()
artifact = eq.export_onnx(quantized, sys.argv[1], target="onnxruntime")
assert artifact.parity_max_abs < 1e-4
"""
LIST = """
import sys
for name in ("torch", "timm", "onnx", "onnxruntime", "numpy"):
    sys.modules[name] = None
import efficientquant as eq
assert "power-of-two" in eq.list_recipes()
assert {"PowerOfTwo", "Int8", "quantize"} <= set(dir(eq))
"""


@pytest.fixture(scope="module")
def extended(tmp_path_factory):
    """Return a folder with a copy of the package to which the documented file was added."""
    folder = tmp_path_factory.mktemp("extended")
    shutil.copytree(ROOT / "controller/efficientquant", folder / "efficientquant")
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "docs/quantization.md").read_text(), re.DOTALL)
    (example,) = [block for block in blocks if "register(" in block]
    (folder / "efficientquant/methods/power_of_two.py").write_text(example)
    return folder


@pytest.mark.parametrize("program", [LIST, USE], ids=["list", "use"])
def test_a_file_in_methods_is_a_recipe(extended, tmp_path, program):
    """One file makes a recipe that is listed without torch, quantizes and exports."""
    environment = {**os.environ, "PYTHONPATH": str(extended)}
    command = [sys.executable, "-c", program, str(tmp_path / "model.onnx")]
    done = subprocess.run(command, check=False, capture_output=True, text=True, env=environment, cwd=tmp_path)
    assert done.returncode == 0, done.stderr


def test_everything_public_can_be_imported_by_a_star():
    """`from efficientquant import *` gives every public name, and dir() lists them."""
    names: dict[str, object] = {}
    exec("from efficientquant import *", names)
    assert set(eq.__all__) <= names.keys()
    assert set(eq.__all__) <= set(dir(eq))


def test_the_class_of_every_recipe_is_public():
    """Each method's class is an attribute of the package under its own name."""
    for name in eq.list_recipes():
        kind = type(eq.get_recipe(name))
        assert getattr(eq, kind.__name__) is kind


def test_what_the_workbench_takes_and_gives_is_public():
    """A method's author imports every type of the documented calls from the package."""
    names = ("Tap", "Sample", "Layer", "Block", "Operator", "Feed", "LayerRows", "BlockStep", "Loss", "CodeQuantizer")
    assert {*names, "MagnitudeObserver", "RangeObserver", "ActivationQuantizer", "Log2Quantizer"} <= set(eq.__all__)
    assert all(getattr(eq, name) is not None for name in eq.__all__)
