import dataclasses
import hashlib
import json

import efficientquant as eq
import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest
from efficientquant.artifact.export import _check
from efficientquant.artifact.parity import measure_parity
from efficientquant.errors import ArtifactError, OutputError, UnknownTargetError
from efficientquant.lowering import lower
from efficientquant.targets import get_target

WIDEST = get_target("onnxruntime-1.10")
CONVOLUTIONS = {"mobilevit_xxs": 35, "mobilevitv2_050": 64}
SMALLER = {"mobilevit_xxs": 1.3, "mobilevitv2_050": 2.4}
EVERY = [(name, recipe) for name in CONVOLUTIONS for recipe in ("fp32", "efficientquant")]
NOT_IN_TENSORRT_8 = {"LayerNormalization", "InstanceNormalization", "GroupNormalization", "Gelu", "HardSwish", "Mod"}


@pytest.mark.parametrize("name", CONVOLUTIONS)
def test_one_dequantize_per_quantized_weight(artifacts, name):
    """For TensorRT every convolution weight is int8 behind a DequantizeLinear on axis 0, and fp32 has none."""
    graph = onnx.load(artifacts[name, "efficientquant", "tensorrt-10"].path).graph
    types = {tensor.name: tensor.data_type for tensor in graph.initializer}
    nodes = [node for node in graph.node if node.op_type == "DequantizeLinear"]
    assert len(nodes) == CONVOLUTIONS[name]
    for node in nodes:
        assert [types[i] for i in node.input] == [onnx.TensorProto.INT8, onnx.TensorProto.FLOAT, onnx.TensorProto.INT8]
        assert [(a.name, a.i) for a in node.attribute] == [("axis", 0)]
    assert "DequantizeLinear" not in {
        n.op_type for n in onnx.load(artifacts[name, "fp32", "tensorrt-10"].path).graph.node
    }


@pytest.mark.parametrize("name", CONVOLUTIONS)
def test_one_cast_per_weight_that_is_decoded_once(artifacts, name):
    """For ONNX Runtime every weight of a product of floats is int8 behind a cast and a multiplication."""
    graph = onnx.load(artifacts[name, "efficientquant"].path).graph
    types = {tensor.name: tensor.data_type for tensor in graph.initializer}
    casts = {node.output[0] for node in graph.node if node.op_type == "Cast" and node.input[0] in types}

    assert {types[node.input[0]] for node in graph.node if node.output[0] in casts} == {onnx.TensorProto.INT8}
    assert sum(node.op_type == "Mul" and node.input[0] in casts for node in graph.node) == CONVOLUTIONS[name]
    assert "DequantizeLinear" not in {node.op_type for node in graph.node}


@pytest.mark.parametrize("name", SMALLER)
def test_int8_weights_make_the_file_smaller(artifacts, name):
    """EfficientQuant's file is at least 1.3 × smaller for v1 and 2.4 × for v2."""
    fp32, int8 = artifacts[name, "fp32"], artifacts[name, "efficientquant"]
    assert int8.path.stat().st_size == int8.size_bytes
    assert fp32.size_bytes / int8.size_bytes >= SMALLER[name]


@pytest.mark.parametrize("key", EVERY, ids="-".join)
def test_the_widest_form_has_no_later_operators(artifacts, key):
    """Opset 13, IR 8, reductions with axes attributes, a batch of one, and no operator that TensorRT 8 lacks."""
    model = onnx.load(artifacts[key].path)
    assert [(o.domain, o.version) for o in model.opset_import] == [("", 13)]
    assert model.ir_version == 8
    assert not NOT_IN_TENSORRT_8 & {node.op_type for node in model.graph.node}
    assert all(len(node.input) == 1 for node in model.graph.node if node.op_type == "ReduceMean")
    assert [d.dim_value for d in model.graph.input[0].type.tensor_type.shape.dim] == [1, 3, 256, 256]


@pytest.mark.parametrize("key", EVERY, ids="-".join)
def test_artifacts_hold_no_paths_of_this_machine(artifacts, key):
    """No stack trace, file name or folder reaches an artifact."""
    model = onnx.load(artifacts[key].path)
    for tensor in model.graph.initializer:
        tensor.ClearField("raw_data")  # among millions of random bytes any three letters stand somewhere
    content = model.SerializeToString()
    assert b".py" not in content
    assert b"site-packages" not in content


@pytest.mark.parametrize("key", EVERY, ids="-".join)
def test_parity_on_real_images(artifacts, key):
    """Every artifact agreed with its eager model to 1e-4 on photographs, and its hash is that of its bytes."""
    assert artifacts[key].parity_max_abs <= 1e-4
    assert artifacts[key].sha256 == hashlib.sha256(artifacts[key].path.read_bytes()).hexdigest()


def test_a_file_says_what_it_is(artifacts):
    """Recipe, target and builder flags travel in the file, for whoever finds it without its report."""
    metadata = {p.key: p.value for p in onnx.load(artifacts["mobilevit_xxs", "efficientquant"].path).metadata_props}
    assert metadata["efficientquant.target"] == "onnxruntime-1.10"
    assert json.loads(metadata["efficientquant.recipe"]) == eq.get_recipe("efficientquant").to_dict()
    assert metadata["efficientquant.builder_flags"] == ""


def test_the_file_by_itself_computes_the_eager_logits(artifacts, quantized, real_images):
    """A plain session on the written file gives the eager model's logits and argmax."""
    session = onnxruntime.InferenceSession(str(artifacts["mobilevit_xxs", "efficientquant"].path))
    (logits,) = session.run(["logits"], {"input": real_images[:1].numpy()})
    eager = quantized["mobilevit_xxs", "efficientquant"](real_images[:1]).numpy()
    assert np.abs(logits - eager).max() <= 1e-3  # a code on a boundary may move
    assert logits.argmax() == eager.argmax()


@pytest.mark.parametrize(
    "options",
    ["granularity=per-tensor:softmax_bits=none", "log2_form=G:softmax_bits=4:weight_bits=4:scope=conv+linear"],
)
def test_every_option_exports(artifacts, options):
    """Per-tensor weights alone, and form G with fewer bits and linears, pass the same checks."""
    assert artifacts["test_coatnet", f"efficientquant:{options}"].parity_max_abs <= 1e-4


def test_a_file_that_disagrees_is_not_kept(quantized, real_images, tmp_path):
    """A weight that is another in the file than in the eager model is found, and nothing is left behind."""
    original = quantized["mobilevitv2_050", "efficientquant"]
    broken = dataclasses.replace(original)
    broken.__dict__["canonical"] = original.canonical.clone()
    scale = broken.canonical.graph.initializers["stem.conv.weight_dequantizer.scale"]
    scale.const_value = ir.tensor(scale.const_value.numpy() * np.float32(1.5), name=scale.name)
    with pytest.raises(ArtifactError, match="differ from the eager model's"):
        eq.export_onnx(broken, tmp_path / "model.onnx", images=real_images[:1])
    assert list(tmp_path.iterdir()) == []


def test_moved_codes_do_not_excuse_other_differences(quantized, real_images, tmp_path):
    """With the codes held equal, a wrong convolution is still seen."""
    model = quantized["mobilevitv2_050", "efficientquant"]
    variant = lower(model.canonical, WIDEST, model.recipe, tmp_path / "model.onnx")
    proto = ir.to_proto(variant.model)
    scale = next(tensor for tensor in proto.graph.initializer if tensor.name.endswith("conv_1x1.weight_scale"))
    scale.raw_data = (onnx.numpy_helper.to_array(scale) * np.float32(1.5)).tobytes()
    assert measure_parity(model, variant, proto, real_images[:1]).problem is not None


@pytest.mark.parametrize(
    ("recipe", "field", "sentence"),
    [
        ("int8", "dequantizers", "DequantizeLinear nodes for"),
        ("efficientquant", "decoded", "35 decoded constants for 36 weights"),
    ],
)
def test_a_missing_quantizer_is_refused(quantized, tmp_path, recipe, field, sentence):
    """The numbers of DequantizeLinear nodes and of decoded weights have to be those of the quantized tensors."""
    model = quantized["mobilevit_xxs", recipe]
    variant = lower(model.canonical, WIDEST, model.recipe, tmp_path / "model.onnx")
    more = dataclasses.replace(variant, **{field: getattr(variant, field) + 1})
    with pytest.raises(ArtifactError, match=sentence):
        _check(ir.to_proto(variant.model), more, WIDEST, tmp_path / "model.onnx")


def test_an_unknown_target_names_what_there_is(quantized, tmp_path):
    """A target that does not exist is one sentence with all that do."""
    with pytest.raises(UnknownTargetError, match=r"'toaster' is not known \(available: jetson-nano, agx-xavier"):
        eq.export_onnx(quantized["mobilevit_xxs", "fp32"], tmp_path / "model.onnx", target="toaster")


def test_a_place_that_takes_no_file_is_refused_before_the_work(quantized, tmp_path):
    """Nothing is exported for a path that is a folder."""
    phases = []
    with pytest.raises(OutputError, match="there is a folder of that name"):
        eq.export_onnx(quantized["mobilevit_xxs", "fp32"], tmp_path, progress=lambda phase, _: phases.append(phase))
    assert phases == []
