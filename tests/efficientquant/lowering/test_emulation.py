"""Files and verdicts count the float operators that emulate what no runtime has."""

import functools
from collections import Counter

import digits
import efficientquant as eq
import onnx
import pytest
from efficientquant.artifact.view import GraphView
from efficientquant.lowering.emulation import METADATA, read_emulation

NARROW = "codes of fewer than 8 bits"
STEPS = "steps by channel of a matrix product's operand"
# The Q/DQ nodes are no emulation, and quantized weights of linears come with a Transpose.
NO_EMULATION = ("QuantizeLinear", "DequantizeLinear", "Transpose")


@pytest.fixture(scope="module")
def model():
    """Return the trained model of the digits with four images."""
    own = eq.create_model(digits.MODEL, digits.WEIGHTS)
    return own, eq.synthetic_images(eq.input_spec(own), 4, 0)


@pytest.fixture(scope="module")
def exported(model, tmp_path_factory):
    """Return a function that gives the artifact of a recipe for a target."""
    folder = tmp_path_factory.mktemp("emulation")

    @functools.cache
    def quantized(recipe):
        return eq.quantize(model[0], eq.get_recipe(recipe), model[1])

    @functools.cache
    def export(recipe, target):
        path = folder / f"{len(list(folder.iterdir()))}.onnx"
        return eq.export_onnx(quantized(recipe), path, target=target, without_passes=["gemms", "powers"])

    return export


@pytest.mark.parametrize("target", ["onnxruntime", "onnxruntime-1.10"])
@pytest.mark.parametrize(
    ("recipe", "kinds"),
    [
        ("int8", set()),
        ("int8:activation_bits=6:output_bits=none", {NARROW}),
        ("efficientquant", {"log2 quantizer"}),
        ("efficientquant:log2_emulation=move", {"log2 grid in front of a softmax"}),
        ("ptq4vit:rounds=1", {"twin-uniform quantizer", STEPS}),
        ("repq-vit:weight_bits=6:activation_bits=6", {"log-√2 quantizer", NARROW}),
        ("hyq:alpha_steps=2", {"integer softmax", "log2 map", "multiply by channel"}),
    ],
)
def test_every_operator_beyond_the_float_model_is_counted(exported, recipe, kinds, target):
    """The counts sum up to what the file has more than the float model."""
    artifact, plain = exported(recipe, target), operators(exported("fp32", target))
    more = operators(artifact) - plain
    assert artifact.emulation.keys() == kinds
    assert sum(own.operators for own in artifact.emulation.values()) == sum(more.values())
    assert read_emulation(onnx.load(artifact.path)) == artifact.emulation


def test_the_verdict_says_what_is_emulated(exported):
    """The verdict and a note have the file's counts."""
    artifact = exported("efficientquant", "onnxruntime")
    places = len(eq.create_model(digits.MODEL, digits.WEIGHTS).stages[1][1].transformer) + 2
    counted = artifact.emulation["log2 quantizer"]
    assert counted == (places, 11 * places)
    sentence = f"emulated in float: log2 quantizer: {11 * places} operators at {places} places"
    verdict = eq.check(artifact.path, "onnxruntime")
    assert verdict.facts["emulation_operators"] == {"log2 quantizer": 11 * places}
    assert verdict.gain.endswith(f"; {sentence}")
    assert sentence in artifact.notes


@pytest.mark.parametrize("text", ["", "[]", "7", '{"a": 1}', '{"a": ["b", 2]}', '{"a": [1]}', "[" * 100_000])
def test_counts_that_cannot_be_read_are_none(text):
    """Any program may have written a file's metadata."""
    model = onnx.ModelProto()
    model.metadata_props.add(key=METADATA, value=text)
    assert read_emulation(model) == {}


def operators(artifact):
    """Return the operators of a file that can emulate something.

    The cast and the multiplication that decode a weight once emulate nothing.
    """
    view = GraphView(onnx.load(artifact.path))
    counts = Counter(node.op_type for node in view.nodes)
    decoders = sum(map(view.decodes_constant, view.nodes))
    counts -= Counter(Cast=decoders, Mul=decoders)
    for name in NO_EMULATION:
        counts.pop(name, None)
    return counts
