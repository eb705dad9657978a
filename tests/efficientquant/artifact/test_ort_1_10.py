import numpy as np
import pytest


@pytest.mark.parametrize(
    ("recipe", "most"),
    # Fp32 agrees to float rounding; a code on a boundary may move by one step, and int8 has one for every tensor.
    [("fp32", 1e-4), ("efficientquant", 1e-2), ("int8", 5e-2)],
)
def test_onnx_runtime_1_10_computes_the_same(artifacts, real_images, then_and_now, recipe, most):
    """ONNX Runtime 1.10 on Python 3.6 loads the widest form and gives the current one's logits."""
    then, now = then_and_now(
        artifacts["mobilevit_xxs", recipe].path, real_images[[0, 4]]
    )  # their best two logits lie furthest apart
    assert np.abs(now - then).max() <= most
    assert (now.argmax(1) == then.argmax(1)).all()
