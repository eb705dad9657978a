"""Real images, and models and artifacts that all tests share."""

import os
import subprocess
from pathlib import Path

import efficientquant as eq
import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from sklearn.datasets import load_sample_images

CHECK = Path(__file__).parent / "ort_1_10_check.py"


class OnDemand(dict):
    """A dictionary that makes each entry from its key on first use."""

    def __init__(self, make):
        super().__init__()
        self._make = make

    def __missing__(self, key):
        self[key] = self._make(*key) if isinstance(key, tuple) else self._make(key)
        return self[key]


@pytest.fixture
def saved(tmp_path):
    """Return a function that saves a model and returns its path."""

    def save(model):
        path = tmp_path / "model.onnx"
        onnx.save(model, path)
        return path

    return save


@pytest.fixture(scope="session")
def real_images():
    """Return crops of scikit-learn's two photographs.

    They are (6, 3, 256, 256) pixels / 255, as the MobileViTs take them.
    """
    crops = [
        torch.from_numpy(photo[top : top + 256, left : left + 256].copy()).permute(2, 0, 1) / 255.0
        for photo in load_sample_images().images
        for top, left in ((0, 0), (100, 200), (170, 384))
    ]
    return torch.stack(crops)


@pytest.fixture(scope="session")
def models():
    """Return eager random models by name, each made on first use."""
    return OnDemand(lambda name: eq.create_model(name, "random"))


@pytest.fixture(scope="session")
def images_for(models, real_images):
    """Return a function that gives the photographs for a model.

    They have the model's input size and normalization.
    """

    def resize(name):
        spec = eq.input_spec(models[name])
        pixels = torch.nn.functional.interpolate(real_images, spec.shape[1:], mode="bilinear")
        mean, std = (torch.tensor(values).reshape(-1, 1, 1) for values in (spec.mean, spec.std))
        return (pixels - mean) / std

    return resize


@pytest.fixture(scope="session")
def quantized(models, images_for):
    """Return models calibrated on real images, by [model, recipe].

    Each is made on first use.
    """
    return OnDemand(lambda name, recipe: eq.quantize(models[name], eq.get_recipe(recipe), images_for(name)))


@pytest.fixture(scope="session")
def artifacts(quantized, images_for, tmp_path_factory):
    """Return checked artifacts, by [model, recipe] or [model, recipe, target].

    Each is made on first use.
    """
    folder = tmp_path_factory.mktemp("artifacts")

    def export(model, recipe, target="onnxruntime-1.10"):
        path = folder / f"{model}-{recipe.replace(':', '_')}-{target}.onnx"
        return eq.export_onnx(quantized[model, recipe], path, target=target, images=images_for(model)[:2])

    return OnDemand(export)


@pytest.fixture(scope="session")
def old_python(pytestconfig):
    """Return a Python 3.6 that has ONNX Runtime 1.10.

    Without it, tests fail in CI and are skipped elsewhere.
    """
    default = pytestconfig.rootpath / ".venvs/py3.6/bin/python"
    interpreter = Path(os.environ.get("EFFICIENTQUANT_PY36") or default)
    if interpreter.exists():
        return interpreter
    advice = f"no Python 3.6 at {interpreter}; create it with onnxruntime==1.10.0, or set EFFICIENTQUANT_PY36"
    if os.environ.get("CI"):
        pytest.fail(advice)
    return pytest.skip(advice)


@pytest.fixture
def then_and_now(old_python, tmp_path):
    """Return a function that runs an ONNX file in two ONNX Runtimes.

    It takes (file, images) and returns the logits of ONNX Runtime 1.10 and of the current version.
    """

    def compare(path, images):
        np.save(tmp_path / "images.npy", images.numpy())
        answer = tmp_path / "then.npy"
        subprocess.run([old_python, CHECK, tmp_path / "images.npy", path, answer], check=True)
        session = onnxruntime.InferenceSession(str(path))
        now = [session.run(None, {"input": image[None].numpy()})[0] for image in images]
        return np.load(answer), np.concatenate(now)

    return compare
