"""The engines of whole models, built again and compared with the table.

This is slow, so it runs with the ten models.
"""

from typing import NamedTuple

import onnx
import pytest
from efficientquant.targets import get_target
from efficientquant.verdicts import rtx_build


class Engine(NamedTuple):
    """An engine for SM 8.6: kernels, weights and modelled time at most, fused attentions at least.

    `dequantize` kernels decode weights, and `integer` convolutions compute in INT8. Both are exact.
    """

    kernels: int
    fused: int
    dequantize: int
    integer: int
    weights_megabytes: float
    modelled_us: float


# Built with TensorRT-RTX 1.7.1 for the RTX 3080's SM 8.6, with FP16 as the type of the rest. Fewer kernels, smaller
# weights and more fused attentions are welcome.
TABLE = {
    ("mobilevit_xxs", "fp16"): Engine(125, 9, 0, 0, 2.67, 364),
    ("mobilevit_xxs", "efficientquant:rest=fp16"): Engine(187, 0, 35, 0, 2.23, 553),
    ("mobilevit_xxs", "efficientquant:log2_emulation=move:rest=fp16"): Engine(160, 9, 35, 0, 2.24, 453),
    ("mobilevit_xxs", "int8:scope=linear:rest=fp16"): Engine(135, 9, 0, 0, 1.89, 395),
    ("mobilevit_xxs", "int8:rest=fp16"): Engine(166, 9, 0, 27, 1.46, 502),
    ("mobilevit_xxs", "int8:placement=all:rest=fp16"): Engine(178, 2, 0, 35, 3.98, 555),
    ("mobilevit_s", "fp16"): Engine(125, 9, 0, 0, 11.3, 454),
    ("mobilevitv2_050", "fp16"): Engine(170, 0, 0, 0, 2.86, 498),
    ("mobilevitv2_200", "fp16"): Engine(167, 0, 0, 0, 37.0, 734),
    ("mobilevitv2_200", "int8:rest=fp16"): Engine(201, 0, 0, 54, 18.7, 1017),
}
# Convolutions, linears and products of each family.
PRODUCTS = {"mobilevit": 35 + 37 + 18, "mobilevitv2": 64 + 1}


@pytest.mark.parametrize(("model", "recipe"), TABLE, ids=[" ".join(key) for key in TABLE])
def test_the_documented_engines(artifacts, model, recipe):
    """Each recipe gives an engine on SM 8.6 that is at least as good as the table's."""
    known = TABLE[model, recipe]

    artifact = artifacts[model, recipe, "rtx-3080"]
    verdict = rtx_build.verdict_of_build(onnx.load(artifact.path), get_target("rtx-3080"))

    measures = verdict.measures
    assert verdict.builds
    assert measures["kernels"] <= known.kernels
    assert measures["fused_attention_kernels"] >= known.fused
    assert measures["dequantize_kernels"] == known.dequantize
    assert measures["weights_bytes"] <= known.weights_megabytes * 1e6
    assert measures["modelled_s"] <= known.modelled_us * 1e-6
    assert verdict.precisions()["conv"].get("int8", 0) == known.integer
    counts = [count for own in verdict.precisions().values() for count in own.values()]
    assert sum(counts) == PRODUCTS[model.partition("_")[0]]
