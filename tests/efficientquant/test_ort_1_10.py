import numpy as np


def test_onnx_runtime_1_10_computes_the_same(artifacts, real_images, then_and_now):
    """ONNX Runtime 1.10 on Python 3.6 loads every artifact and gives the current one's logits."""
    for artifact in artifacts.values():
        then, now = then_and_now(artifact.path, real_images[:2])
        # Fp32 agrees to float rounding; a log2 code on a boundary may move by one step.
        assert np.abs(now - then).max() <= (1e-4 if "fp32" in artifact.path.name else 1e-2)
        assert (now.argmax(1) == then.argmax(1)).all()
