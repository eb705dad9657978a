"""Passes change the form of a graph for one runtime, and no number."""

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest
from efficientquant.errors import UnknownPassError
from efficientquant.lowering import lower
from efficientquant.lowering.passes import PASSES, choose_passes
from efficientquant.targets import get_target, list_targets

PLACES = {
    ("mobilevit_xxs", "fp32", "rtx-3080"): {"flat-linears": 36, "joint-projections": 9, "group-norms": 0},
    ("mobilevitv2_050", "fp32", "rtx-3080"): {"flat-linears": 0, "joint-projections": 0, "group-norms": 21},
    ("mobilevit_xxs", "int8", "onnxruntime"): {"gemms": 36},
    ("mobilevit_xxs", "fp32", "onnxruntime-1.10"): {"gemms": 0, "powers": 21},
    ("mobilevit_xxs", "fp32", "jetson-nano"): {},
    ("test_vit", "int8", "onnxruntime"): {"gemms": 24},
    ("test_vit", "w4a8", "onnxruntime"): {"gemms": 0},  # float outputs
    ("test_vit", "int8:rest=fp16", "rtx-3080"): {"flat-linears": 24, "joint-projections": 6, "group-norms": 0},
}

# A sum in another order may move a code.
ROUNDING = {"int8": 0.05, "w4a8": 0.05, "int8:rest=fp16": 0.05}


def lowered(quantized, target, **options):
    """Return the variant of a model in FP32 and its file."""
    variant = lower(quantized.canonical, get_target(target), quantized.recipe, "artifact.onnx", half=False, **options)
    return variant, ir.to_proto(variant.model)


def logits(proto, images):
    """Return ONNX Runtime's logits, without optimizations that round again."""
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(proto.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return np.concatenate([session.run(None, {"input": image[None].numpy()})[0] for image in images])


@pytest.mark.parametrize("key", PLACES, ids="-".join)
def test_each_pass_changes_its_places_and_no_number(quantized, images_for, key):
    """With and without its passes a file computes the same, up to float rounding."""
    name, recipe, target = key
    images = images_for(name)[:2]
    variant, proto = lowered(quantized[name, recipe], target)
    _, plain = lowered(quantized[name, recipe], target, without_passes=[each.name for each in PASSES])

    assert variant.passes == PLACES[key]
    assert all(
        any(output.uses() or output.is_graph_output() for output in node.outputs) for node in variant.model.graph
    )
    onnx.checker.check_model(proto, full_check=True)
    np.testing.assert_allclose(logits(proto, images), logits(plain, images), atol=ROUNDING.get(key[1], 1e-4))


@pytest.mark.parametrize("name", [each.name for each in PASSES])
def test_a_pass_can_be_left_out(name):
    """A pass that is named runs for no target, and the others run as before."""
    for target in map(get_target, list_targets()):
        names = [each.name for each in choose_passes(target)]
        assert [each.name for each in choose_passes(target, [name])] == [other for other in names if other != name]


def test_an_unknown_pass_is_named():
    """A pass that does not exist is refused with those that do."""
    with pytest.raises(UnknownPassError, match=r"pass 'flat-linear' is not known \(available: flat-linears, "):
        choose_passes(get_target("rtx-3080"), ["flat-linear"])
