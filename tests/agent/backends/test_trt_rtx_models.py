"""The tests of engines of all ten MobileViTs for SM 8.6.

The agent's own backend builds them. They are slow, so they run with the ten models.
"""

import hashlib

import pytest
from real_parts import tensorrt_rtx

tensorrt_rtx()

import efficientquant as eq  # noqa: E402
from efficientquant_agent.backends.trt import TensorrtRtx  # noqa: E402
from efficientquant_agent.protocol import BuildOptions  # noqa: E402

MODELS = [
    *("mobilevit_" + size for size in ("xxs", "xs", "s")),
    *("mobilevitv2_" + width for width in ("050", "075", "100", "125", "150", "175", "200")),
]


@pytest.mark.parametrize("name", MODELS)
def test_a_model_becomes_an_engine(name, tmp_path):
    """An artifact of the library for an RTX 3080 becomes an engine as the file asks for it."""
    quantized = eq.quantize(eq.create_model(name, "random"), eq.get_recipe("efficientquant"))
    artifact = eq.export_onnx(quantized, tmp_path / "model.onnx", target="rtx-3080")
    plan = tmp_path / "model.plan"

    report = TensorrtRtx.build(str(artifact.path), str(plan), BuildOptions(compute_capability=86), lambda _line: None)

    assert report.notes == ()
    assert report.engine_sha256 == hashlib.sha256(plan.read_bytes()).hexdigest()
    assert report.engine_bytes > artifact.size_bytes / 4  # the weights' codes at least
