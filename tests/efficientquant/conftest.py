"""Two small models, quantized once for all tests, and real images."""

import os
import subprocess
from pathlib import Path

import efficientquant as eq
import numpy as np
import onnxruntime
import pytest
import torch
from sklearn.datasets import load_sample_images

CHECK = Path(__file__).parent / "ort_1_10_check.py"
MODELS = ("mobilevit_xxs", "mobilevitv2_050")


@pytest.fixture(scope="session")
def real_images():
    """Return (6, 3, 256, 256) crops of scikit-learn's two photographs, as the MobileViTs take them: pixels / 255."""
    crops = [
        torch.from_numpy(photo[top : top + 256, left : left + 256].copy()).permute(2, 0, 1) / 255.0
        for photo in load_sample_images().images
        for top, left in ((0, 0), (100, 200), (170, 384))
    ]
    return torch.stack(crops)


@pytest.fixture(scope="session")
def models():
    """Return the eager random models by name."""
    return {name: eq.create_model(name, "random") for name in MODELS}


@pytest.fixture(scope="session")
def quantized(models, real_images):
    """Return both models under both recipes, calibrated on real images: {(model, recipe): QuantizedModel}."""
    return {
        (name, recipe): eq.quantize(model, eq.get_recipe(recipe), real_images)
        for name, model in models.items()
        for recipe in ("fp32", "efficientquant")
    }


@pytest.fixture(scope="session")
def artifacts(quantized, real_images, tmp_path_factory):
    """Return the exported files: {(model, recipe): Artifact}."""
    folder = tmp_path_factory.mktemp("artifacts")
    return {
        key: eq.export_onnx(model, folder / f"{'-'.join(key)}.onnx", images=real_images)
        for key, model in quantized.items()
    }


@pytest.fixture(scope="session")
def old_python(pytestconfig):
    """Return a Python 3.6 that has ONNX Runtime 1.10: missing is a failure in CI, elsewhere a skip."""
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
    """Return a function (ONNX file, images) → the logits of ONNX Runtime 1.10 and of the current one."""

    def compare(path, images):
        np.save(tmp_path / "images.npy", images.numpy())
        answer = tmp_path / "then.npy"
        subprocess.run([old_python, CHECK, tmp_path / "images.npy", path, answer], check=True)
        session = onnxruntime.InferenceSession(str(path))
        now = [session.run(None, {"input": image[None].numpy()})[0] for image in images]
        return np.load(answer), np.concatenate(now)

    return compare
