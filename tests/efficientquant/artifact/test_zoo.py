"""Other timm models than the MobileViTs, from quantization to parity.

They are hybrids, transformers and plain CNNs. `make zoo` runs it.
"""

import efficientquant as eq
import pytest

# {model: number of softmaxes}: where there is none, the log2 part of a recipe is a reported no-op.
HYBRIDS = {
    "coatnet_nano_rw_224": 9,
    "edgenext_xx_small": 3,
    "efficientvit_m0": 24,
    "efficientformer_l1": 1,
    "efficientformerv2_s0": 5,
    "levit_128s": 11,
    "maxvit_pico_rw_256": 22,
    "mobilenetv4_hybrid_medium_075": 8,
    "pvt_v2_b0": 8,
    "xcit_nano_12_p16_224": 14,
}
TRANSFORMERS = {"deit_tiny_patch16_224": 12, "swin_tiny_patch4_window7_224": 12, "vit_tiny_patch16_224": 12}
WITHOUT_SOFTMAX = (
    "convnext_atto",
    "efficientnet_lite0",
    "fastvit_t8",
    "ghostnet_100",
    "lcnet_035",
    "mobilenetv3_small_050",
    "mobileone_s0",
    "poolformer_s12",
    "repvit_m0_9",
    "resnet18",
    "starnet_s1",
    "tinynet_e",
)
SOFTMAXES = {**HYBRIDS, **TRANSFORMERS, **dict.fromkeys(WITHOUT_SOFTMAX, 0)}
NO_OP = "the model has no softmax: the log2 part of the recipe did nothing"


@pytest.mark.parametrize("recipe", ["efficientquant", "int8"])
@pytest.mark.parametrize("name", SOFTMAXES)
def test_a_model_goes_all_the_way(name, recipe, tmp_path):
    """Quantization, export, checks and parity in ONNX Runtime pass without a warning, with every softmax found."""
    quantized = eq.quantize(eq.create_model(name, "random"), eq.get_recipe(recipe))
    artifact = eq.export_onnx(quantized, tmp_path / "model.onnx")
    assert artifact.path.stat().st_size == artifact.size_bytes
    assert quantized.weights
    assert len(quantized.manifest.softmax_sites) == SOFTMAXES[name]
    assert (NO_OP in artifact.notes) == (recipe == "efficientquant" and SOFTMAXES[name] == 0)
