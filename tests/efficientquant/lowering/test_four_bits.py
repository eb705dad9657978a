"""Weights of 4 bits, and weights with a scale for each group of columns."""

import functools

import efficientquant as eq
import onnx
import pytest
import torch
from efficientquant.artifact.validation import find_violations
from efficientquant.errors import LoweringError
from efficientquant.quantization import QuantizedModel
from efficientquant.targets import get_target
from efficientquant.workbench import Workbench
from onnx import TensorProto, numpy_helper
from torch import nn

W4 = "efficientquant-w4:softmax_bits=none:rounding=nearest"
INT4_TARGETS = ["onnxruntime", "onnxruntime-vnni", "onnxruntime-1.20", "rtx-3080", "tensorrt-10", "tensorrt-11"]


class Small(nn.Module):
    """A classifier with every kind of weight, whose columns are no whole groups."""

    def __init__(self):
        super().__init__()
        self.stem, self.depthwise = nn.Conv2d(3, 12, 3, padding=1), nn.Conv2d(12, 12, 3, groups=12)
        self.wide, self.grouped = nn.Conv2d(12, 10, 3, bias=False), nn.Conv2d(10, 6, 1, groups=2)
        self.head = nn.Linear(6 * 16, 5)
        self.pretrained_cfg = {"input_size": (3, 8, 8)}

    def forward(self, x):
        """Return the logits."""
        x = torch.relu(self.depthwise(self.stem(x)))
        return self.head(self.grouped(torch.relu(self.wide(x))).flatten(1))


@pytest.fixture(scope="module")
def images():
    return torch.randn(4, 3, 8, 8, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def small():
    torch.manual_seed(1)
    return Small().eval()


@pytest.fixture(scope="module")
def quantized(small, images):
    """Return a function that quantizes the small model, each recipe once."""
    return functools.cache(lambda recipe: eq.quantize(small, eq.get_recipe(recipe), images))


@pytest.fixture
def export(quantized, images, tmp_path):
    """Return a function that exports the small model and returns artifact and file."""

    def make(recipe, target):
        artifact = eq.export_onnx(quantized(recipe), tmp_path / "model.onnx", target=target, images=images)
        return artifact, onnx.load(artifact.path)

    return make


def types_of_weights(model):
    """Return the types of the stored codes, by the weight's name."""
    names = {"stem", "depthwise", "wide", "grouped", "head"}
    stored = {t.name: t.data_type for t in model.graph.initializer if t.name.split(".")[0] in names}
    return {
        name.rsplit("_", 1)[0]: TensorProto.DataType.Name(dtype)
        for name, dtype in stored.items()
        if name.endswith(("_int8", "_uint8", "_int4", "_uint4"))
    }


@pytest.mark.parametrize("target", INT4_TARGETS)
@pytest.mark.parametrize("bits", [2, 3, 4])
def test_weights_of_float_products_are_stored_in_four_bits(export, target, bits):
    """Weights of up to 4 bits become INT4 in opset 21."""
    artifact, model = export(f"{W4}:weight_bits={bits}", target)
    assert set(types_of_weights(model).values()) == {"INT4"}
    assert len(types_of_weights(model)) == 5
    assert (artifact.opset, artifact.ir_version, artifact.parity_max_abs < 1e-5) == (21, 10, True)
    assert not any("stored in" in note for note in artifact.notes)
    assert find_violations(model, get_target(target)) == []


@pytest.mark.parametrize(
    ("recipe", "target", "types", "note"),
    [
        (
            W4,
            "onnxruntime-1.17",
            {"INT8"},
            "5 weights of up to 4 bits are stored in 8 bits: onnxruntime-1.17 takes no 4-bit",
        ),
        (
            W4,
            "onnxruntime-1.10",
            {"INT8"},
            "5 weights of up to 4 bits are stored in 8 bits: onnxruntime-1.10 takes no 4-bit",
        ),
        (W4, "jetson-nano", set(), "5 quantized weights are stored in float: jetson-nano takes no int8 there"),
        (f"{W4}:weight_bits=5", "onnxruntime", {"INT8"}, ""),
        ("w4a8:rounding=nearest", "agx-xavier", set(), "5 quantized weights are stored in FP32: agx-xavier quantizes"),
        ("w4a8:rounding=nearest", "onnxruntime", {"UINT4"}, ""),
        ("w4a8:rounding=nearest", "onnxruntime-vnni", {"INT4"}, ""),
        ("int8:rounding=nearest", "onnxruntime-vnni", {"INT8"}, ""),
        ("w4a8:rounding=nearest", "onnxruntime-1.20", {"UINT8"}, "the integer kernels of onnxruntime-1.20 take 8-bit"),
        ("w4a8:rounding=nearest", "rtx-3080", {"INT8"}, "the integer kernels of rtx-3080 take 8-bit weights"),
    ],
)
def test_other_weights_are_stored_in_more_bits(export, recipe, target, types, note):
    """A target without a 4-bit form gets 8 bits or float, with a note."""
    artifact, model = export(recipe, target)
    assert set(types_of_weights(model).values()) == types
    assert [note in text for text in artifact.notes if "stored in" in text] == [True] * bool(note)
    assert artifact.opset == (21 if types & {"INT4", "UINT4"} else get_target(target).opset)


def test_small_codes_of_8_bits_stay_in_8_bits(images, tmp_path):
    """The recipe's bits decide, also for a weight of zeros."""
    model = Small().eval()
    nn.init.zeros_(model.wide.weight)
    quantized = eq.quantize(model, eq.get_recipe(f"{W4}:weight_bits=8"), images)
    artifact = eq.export_onnx(quantized, tmp_path / "model.onnx", target="onnxruntime", images=images)
    assert artifact.opset == 18
    assert set(types_of_weights(onnx.load(artifact.path)).values()) == {"INT8"}


@pytest.mark.parametrize("target", ["onnxruntime", "onnxruntime-vnni"])
def test_a_cast_keeps_the_integer_kernels(export, target):
    """ONNX Runtime makes the same integer products of 4-bit as of 8-bit codes."""
    recipe = "int8:weight_bits=4:rounding=nearest"
    (_, narrow), (_, wide) = export(recipe, target), export(recipe, "onnxruntime-1.20")
    narrow_verdict, wide_verdict = (eq.check(path, "onnxruntime") for path in saved(narrow, wide))
    assert narrow_verdict.precisions() == wide_verdict.precisions()
    assert narrow_verdict.precisions()["conv"].get("int8") == 4


@pytest.fixture(autouse=True)
def _folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def saved(*models):
    paths = [f"{index}.onnx" for index in range(len(models))]
    for path, model in zip(paths, models, strict=True):
        onnx.save(model, path)
    return paths


@pytest.mark.parametrize(("target", "size"), [("onnxruntime", 7), ("onnxruntime", 32), ("rtx-3080", 64)])
@pytest.mark.parametrize("bits", [4, 3])
def test_groups_are_stored_in_blocks(export, target, size, bits):
    """A group of columns is a block, and a last smaller group too.

    ONNX Runtime decodes whole groups of products of floats once, without blocks.
    """
    artifact, model = export(f"{W4}:group_size={size}:weight_bits={bits}", target)
    assert artifact.parity_max_abs < 1e-5
    blocks = [
        [attribute.i for attribute in node.attribute if attribute.name == "block_size"]
        for node in model.graph.node
        if node.op_type == "DequantizeLinear"
    ]
    in_blocks = [columns for columns in (27, 9, 108, 5, 96) if columns > size]
    if target == "onnxruntime":
        in_blocks = [columns for columns in in_blocks if columns % size]
    assert blocks.count([size]) == len(in_blocks)
    assert set(types_of_weights(model).values()) == {"INT4"}


def test_a_group_of_all_columns_is_a_scale_per_channel(export):
    """More columns than a weight has take no memory and no block."""
    artifact, model = export(f"{W4}:group_size=1000000000", "onnxruntime")
    assert artifact.parity_max_abs < 1e-5
    assert not [node for node in model.graph.node for attribute in node.attribute if attribute.name == "block_size"]


def test_groups_of_8_bits_are_stored_in_blocks_of_int8(export):
    """ONNX Runtime takes blocks of 8-bit codes too."""
    artifact, model = export(f"{W4}:group_size=16:weight_bits=8", "onnxruntime-1.20")
    assert (artifact.opset, artifact.parity_max_abs < 1e-5) == (21, True)
    assert set(types_of_weights(model).values()) == {"INT8"}


@pytest.mark.parametrize(
    ("options", "target", "reason"),
    [
        ("group_size=16", "onnxruntime-1.17", "which needs opset 21; onnxruntime-1.17 reads 18"),
        ("group_size=16", "onnxruntime-1.10", "which needs opset 21; onnxruntime-1.10 reads 13"),
        ("group_size=16", "tensorrt-10", "tensorrt-10 has kernels for 64 and 128; use group_size=64"),
        ("group_size=64:weight_bits=8", "rtx-3080", "rtx-3080 takes groups of 4-bit weights only"),
    ],
)
def test_groups_are_refused_elsewhere(export, tmp_path, options, target, reason):
    """The sentence names the weight, its group and what the target takes."""
    with pytest.raises(LoweringError, match=rf"node '(stem|wide)\.weight' .* each group of \d+ columns, .*{reason}"):
        export(f"{W4}:{options}", target)
    assert not (tmp_path / "model.onnx").exists()


def test_groups_with_quantized_inputs_are_refused_for_tensorrt(export):
    """TensorRT-RTX fails to build such a convolution."""
    with pytest.raises(LoweringError, match=r"wide\.weight.* has no kernel for them with quantized inputs"):
        export("w4a8:rounding=nearest:group_size=64", "rtx-3080")


@pytest.mark.parametrize("target", ["onnxruntime", "onnxruntime-1.20"])
@pytest.mark.parametrize("inputs", [False, True])
def test_zero_points_of_four_bits(small, images, tmp_path, target, inputs):
    """Zero-points are stored in the type of their codes, and shifted alike."""
    bench = Workbench(small, images, None)
    for layer in bench.layers:
        weight = bench.parameter(layer.weight).flatten(1)
        scale = (weight.amax(1) - weight.amin(1)) / 15
        zero = (-8 - weight.amin(1) / scale).round().clamp(-8, 7)
        codes = (weight / scale[:, None] + zero[:, None]).round().clamp(-8, 7)
        shape = bench.parameter(layer.weight).shape
        bench.set_weight(layer.weight, codes.to(torch.int8).reshape(shape), scale, zero.to(torch.int8), bits=4)
        if inputs:
            bench.quantize_activation(layer.input, 8, 0.05)
    bench.graph.recompile()
    facts = (bench.spec, bench.weights, bench.manifest, bench.notes, bench.provenance)
    quantized = QuantizedModel(bench.graph, eq.get_recipe("fp32"), *facts)

    artifact = eq.export_onnx(quantized, tmp_path / "model.onnx", target=target, images=images)

    assert artifact.parity_max_abs < 1e-5
    constants = {tensor.name: tensor for tensor in onnx.load(artifact.path).graph.initializer}
    expected = {(False, True): "INT4", (True, True): "UINT4", (True, False): "UINT8"}
    expected[False, False] = "INT4"
    assert set(types_of_weights(onnx.load(artifact.path)).values()) == {expected[inputs, target == "onnxruntime"]}
    zero_points = numpy_helper.to_array(constants["wide.weight_zero_point"])
    assert len(set(zero_points.astype(int).flatten().tolist())) > 1


def test_a_scale_for_the_whole_weight(small, images, tmp_path):
    """Shared zero-points of 4-bit weights are other ones than those of activations."""
    recipe = "int8:weight_bits=4:granularity=per-tensor"
    quantized = eq.quantize(small, eq.get_recipe(recipe), images)
    artifact = eq.export_onnx(quantized, tmp_path / "model.onnx", target="onnxruntime", images=images)
    values = {
        tensor.name: numpy_helper.to_array(tensor).astype(int).tolist()
        for tensor in onnx.load(artifact.path).graph.initializer
        if tensor.name.startswith("zero_point")
    }
    assert values == {"zero_point_uint4": 8, "zero_point_uint8": 128}


def test_four_bits_in_a_file_of_half_floats(export):
    """Scales stay in FP32, and the decoded weight is cast."""
    artifact, model = export(f"{W4}:rest=fp16", "onnxruntime")
    assert set(types_of_weights(model).values()) == {"INT4"}
    assert artifact.bit_table["rest"] == "16"


def test_the_verdict_says_that_four_bits_are_computed_in_float(export):
    """The verdict names the stored type, and that the arithmetic is float."""
    export(W4, "tensorrt-10")
    verdict = eq.check("model.onnx", "tensorrt-10", predict_only=True)
    assert verdict.outcome == "builds_with_fallback"
    assert verdict.gain.startswith("storage only: 5 weights are int4 in the file and dequantized on every inference")
    assert "has an int4 weight and is computed in float" in str(verdict.reasons[0])


def test_the_same_sampling_in_opset_21(tmp_path):
    """A GridSample keeps its mode, which opset 20 renamed."""

    class Sampled(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.head = nn.Conv2d(3, 4, 3), nn.Linear(4, 5)
            self.register_buffer("grid", torch.rand(1, 5, 5, 2, generator=torch.Generator().manual_seed(2)) * 2 - 1)
            self.pretrained_cfg = {"input_size": (3, 8, 8)}

        def forward(self, x):
            grid = self.grid.expand(x.shape[0], -1, -1, -1)
            return self.head(nn.functional.grid_sample(self.conv(x), grid, align_corners=False).mean((2, 3)))

    images = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    quantized = eq.quantize(Sampled().eval(), eq.get_recipe(W4), images)
    artifact = eq.export_onnx(quantized, tmp_path / "model.onnx", target="onnxruntime-1.20", images=images)
    assert (artifact.opset, artifact.parity_max_abs < 1e-5) == (21, True)
