import digits
import efficientquant as eq
import numpy as np
import pytest
import timm
from efficientquant.errors import InputSizeError
from efficientquant.models import create_model
from efficientquant.paper.audit import audit
from efficientquant.plots import plot_softmax, plot_sqnr
from timm.layers import set_fused_attn

TALL, WIDE, GREY = (3, 64, 32), (3, 32, 64), (1, 32, 64)


def build(name, shape):
    """Return a random model for inputs of `shape` (C, H, W)."""
    set_fused_attn(False)  # as create_model does, so that the softmax can be seen
    channels = shape[0]
    overlay = {"input_size": shape, "mean": (0.5,) * channels, "std": (0.5,) * channels}
    options = {"img_size": shape[1:]} if name.startswith("test_vit") else {}
    return timm.create_model(name, num_classes=2, in_chans=channels, pretrained_cfg_overlay=overlay, **options).eval()


@pytest.mark.parametrize(
    ("name", "shape"),
    [(digits.MODEL, TALL), ("test_vit", WIDE), ("test_convnext", GREY)],
)
def test_an_input_need_not_be_square_nor_coloured(tmp_path, name, shape):
    """Quantization, export and evaluation take any height, width and number of channels."""
    channels, height, width = shape
    pixels = np.random.default_rng(0).integers(0, 256, (2, height, width + 9, channels), dtype=np.uint8)
    np.savez(tmp_path / "a.npz", images=pixels, labels=np.array([0, 1]))
    model = build(name, shape)
    data = eq.open_images(tmp_path / "a.npz", eq.input_spec(model))
    artifact = eq.export_onnx(eq.quantize(model, eq.get_recipe("int8"), data), tmp_path / "a.onnx")
    assert artifact.parity_max_abs < 1e-4
    assert eq.evaluate(artifact, data, reference=model).images == 2


def test_pictures_and_audits_take_an_input_that_is_not_square():
    """Synthetic images, audits and plots follow the model's input shape."""
    model = build(digits.MODEL, WIDE)
    images = eq.synthetic_images(eq.input_spec(model), 2)
    assert images.shape == (2, *WIDE)
    assert audit(model, images).images == 2
    assert plot_softmax(model, images, name="wide").axes
    assert plot_sqnr(model, eq.get_recipe("int8"), name="wide").axes


@pytest.mark.parametrize(("name", "size"), [("test_vit", 17), ("vit_tiny_patch16_224", 10_000_000)])
def test_a_size_that_a_model_cannot_have_is_refused(name, size):
    """A side that is no multiple of the patch, or too large for the memory, is refused with one sentence."""
    with pytest.raises(InputSizeError, match=f"{name} does not run on {size} × {size} images") as caught:
        create_model(name, "random", input_size=size)
    assert caught.value.size == (size, size)
