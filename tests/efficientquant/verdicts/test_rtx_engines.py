"""The documented engines of mobilevit_xxs, built again.

This is slow, so it runs with the ten models.
"""

import onnx
import pytest
from efficientquant.targets import get_target
from efficientquant.verdicts import rtx_build

# recipe: documented layers, further layers due to the exporter, fused attentions, dequantize kernels, INT8 convs.
# FP32 islands cost the layers: LayerNorm's (two more), and the log2 quantizer's, which FP16 cannot compute.
# 35 kernels dequantize: the documented 34 and the stem's, which also pads its channels and has another name.
# 201 was with an FP32 rest. In FP16 the attention fuses again, which makes 23 layers fewer.
TABLE = {
    "fp16": (147, range(3), 9, 0, 0),
    "efficientquant-log2:rest=fp16": (170, range(4), 0, 0, 0),
    "efficientquant:rest=fp16": (204, range(5), 0, 35, 0),
    "int8:scope=conv": (201, range(1), 0, 0, 35),
    "int8:scope=conv:rest=fp16": (201, range(-23, -18), 9, 0, 35),
}


@pytest.mark.parametrize("recipe", TABLE)
def test_the_documented_engines_of_mobilevit_xxs(artifacts, recipe):
    """Each recipe gives the documented engine on SM 8.6, up to the layers that the exporter adds."""
    layers, more, fused, dequantize, integer = TABLE[recipe]

    artifact = artifacts["mobilevit_xxs", recipe, "rtx-3080"]
    verdict = rtx_build.verdict_of_build(onnx.load(artifact.path), get_target("rtx-3080"))

    assert verdict.builds
    assert verdict.facts["layers"] - layers in more
    assert verdict.facts["fused_attention_kernels"] == fused
    assert verdict.facts["dequantize_kernels"] == dequantize
    assert verdict.precisions()["conv"].get("int8", 0) == integer
    assert sum(count for counts in verdict.precisions().values() for count in counts.values()) == 35 + 37 + 18
