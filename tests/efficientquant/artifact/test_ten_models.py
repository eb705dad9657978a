import efficientquant as eq
import numpy as np
import pytest

V1 = [f"mobilevit_{size}" for size in ("xxs", "xs", "s")]
V2 = [f"mobilevitv2_{width}" for width in ("050", "075", "100", "125", "150", "175", "200")]
COUNTS = {**dict.fromkeys(V1, (35, 37, 9)), **dict.fromkeys(V2, (64, 1, 9))}


@pytest.mark.parametrize("name", COUNTS)
def test_a_mobilevit_goes_all_the_way(name, real_images, then_and_now, tmp_path):
    """Quantize → export → checker → parity on photographs in ONNX Runtime, current and 1.10, with all layers found."""
    model = eq.create_model(name, "random")
    quantized = eq.quantize(model, eq.get_recipe("efficientquant"))
    artifact = eq.export_onnx(quantized, tmp_path / "model.onnx", images=real_images[:2])
    operators = [e.operator for e in quantized.manifest.entries.values() if e.parameter.endswith(".weight")]
    counts = (operators.count("conv2d"), operators.count("linear"), len(quantized.manifest.softmax_sites))
    assert counts == COUNTS[name]
    assert artifact.parity_max_abs <= 1e-4
    then, now = then_and_now(artifact.path, real_images[:2])
    assert np.abs(now - then).max() <= 1e-2  # a log2 code on a boundary may move by one step
    fp32_bytes = 4 * sum(parameter.numel() for parameter in model.parameters())
    assert fp32_bytes / artifact.size_bytes >= (1.3 if name in V1 else 2.4) * 0.98  # graph and scales weigh too


@pytest.mark.parametrize("name", ["mobilevit_s", "mobilevitv2_200"])
def test_four_bits_take_a_sixth_of_the_size(name, tmp_path):
    """With 4-bit weights a file is less than a sixth of the FP32 weights."""
    model = eq.create_model(name, "random")
    quantized = eq.quantize(model, eq.get_recipe("efficientquant-w4:rounding=nearest:log2_form=G"))
    artifact = eq.export_onnx(quantized, tmp_path / "model.onnx", target="onnxruntime")
    fp32_bytes = 4 * sum(parameter.numel() for parameter in model.parameters())
    assert fp32_bytes / artifact.size_bytes >= 6.5
    assert artifact.parity_max_abs <= 1e-4
