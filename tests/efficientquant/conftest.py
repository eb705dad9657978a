"""Two small models, quantized once for all tests, and real images."""

import efficientquant as eq
import pytest
import torch
from sklearn.datasets import load_sample_images

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
