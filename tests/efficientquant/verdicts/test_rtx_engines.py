"""The documented engines of mobilevit_xxs, built anew; slow, so it runs with the ten models."""

import onnx
import pytest
from efficientquant.targets import get_target
from efficientquant.verdicts import rtx_build

# recipe: layers documented, layers more that the exporter explains, fused attention, dequantize kernels, INT8 convs.
# FP32 islands cost the layers: LayerNorm's (two more), and the log2 quantizer's, which FP16 cannot compute.
# 35 kernels dequantize: the documented 34 and the stem's, which also pads its channels and has another name.
# 201 was with an FP32 rest; in FP16 the attention fuses again, which makes 23 layers less.
TABLE = {
    "fp16": (147, range(3), 9, 0, 0),
    "efficientquant-log2:rest=fp16": (170, range(4), 0, 0, 0),
    "efficientquant:rest=fp16": (204, range(5), 0, 35, 0),
    "int8:scope=conv": (201, range(1), 0, 0, 35),
    "int8:scope=conv:rest=fp16": (201, range(-23, -18), 9, 0, 35),
}


@pytest.mark.parametrize("recipe", TABLE)
def test_the_documented_engines_of_mobilevit_xxs(artifacts, recipe):
    """What each recipe buys on SM 8.6 is what the documentation says, to within what the exporter explains."""
    layers, more, fused, dequantize, integer = TABLE[recipe]

    artifact = artifacts["mobilevit_xxs", recipe, "rtx-3080"]
    verdict = rtx_build.verdict_of_build(onnx.load(artifact.path), get_target("rtx-3080"))

    assert verdict.builds
    assert verdict.facts["layers"] - layers in more
    assert verdict.facts["fused_attention_kernels"] == fused
    assert verdict.facts["dequantize_kernels"] == dequantize
    assert verdict.precisions()["conv"].get("int8", 0) == integer
    assert sum(count for counts in verdict.precisions().values() for count in counts.values()) == 35 + 37 + 18
