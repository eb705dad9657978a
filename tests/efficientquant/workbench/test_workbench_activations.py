"""The quantizer and other modules at a place of the network, and their records."""

import efficientquant as eq
import pytest
import torch
from efficientquant import Granularity, Network, Workbench
from efficientquant.errors import RecipeOrderError
from efficientquant.graph.blocks import Tap
from efficientquant.options import Log2Emulation, Log2Form, RangeRule, Scope
from efficientquant.primitives import DataFreeLog2
from efficientquant.quantization import QuantizedModel
from efficientquant.quantizers import ActivationQuantizer, CodeQuantizer, Log2Quantizer, code_quantizers
from torch import nn

CONV = "conv2d"


class Scaled(nn.Module):
    """A multiplication by a factor."""

    def __init__(self, factor):
        super().__init__()
        self.factor = factor

    def forward(self, x):
        """Return the product."""
        return x * self.factor


class Attention(nn.Module):
    """A convolution, and an attention that uses one linear twice."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3)
        self.qk, self.v = nn.Linear(8, 8, bias=False), nn.Linear(8, 8)
        self.norm, self.head = nn.LayerNorm(8), nn.Linear(8, 5)
        self.pretrained_cfg = {"input_size": (3, 8, 8)}

    def forward(self, x):
        """Return the logits."""
        x = self.norm(self.conv(x).relu().flatten(2).transpose(1, 2))
        scores = (self.qk(x) @ self.qk(x).transpose(1, 2)).softmax(-1)
        return self.head((scores @ self.v(x)).mean(1))


@pytest.fixture
def bench():
    """Return a workbench of a small attention."""
    torch.manual_seed(0)
    return Workbench(Attention().eval(), torch.rand(12, 3, 8, 8), None)


def finish(bench):
    bench.graph.recompile()
    return QuantizedModel(
        bench.graph, eq.get_recipe("fp32"), bench.spec, bench.weights, bench.manifest, bench.notes, bench.provenance
    )


def seen(bench, tap):
    return bench.record([tap], on=Network.QUANTIZED)[0]


def quantizers_between(bench, tap):
    """Return the names of the quantizers in front of an operand."""
    node, sites = tap.find(bench.graph), []
    while node.op == "call_module":
        module = bench.graph.get_submodule(node.target)
        sites += [module.site] if isinstance(module, CodeQuantizer) else []
        node = node.args[0]
    return sites


def test_a_multiplication_stays_where_a_quantizer_is_put(bench, tmp_path):
    """A module and a quantizer at the same tap compute in the order of their insertion."""
    tap = bench.layers[1].input
    raw = seen(bench, tap)
    bench.insert_module(tap, "up", Scaled(torch.linspace(1, 4, 8)))
    bench.quantize_activation(tap, 8, 0.1)
    bench.insert_module(tap, "down", Scaled(1 / torch.linspace(1, 4, 8)))
    bench.quantize_activation(tap, 8, 0.05)
    wide = torch.linspace(1, 4, 8)
    expected = ((raw * wide / 0.05).round().clamp(-128, 127) * 0.05) * (1 / wide)
    assert torch.allclose(seen(bench, tap), expected, atol=1e-5)
    assert [site.consumers for site in bench.manifest.activation_sites] == [("linear",)]
    artifact = eq.export_onnx(finish(bench), tmp_path / "model.onnx", target="onnxruntime")
    assert artifact.bit_table["linear inputs"] == "8"


@pytest.mark.parametrize("operand", [None, 0])
def test_a_module_may_go_in_front_of_the_quantizer(bench, operand):
    """With `before_quantizer` the module comes before the rounding, and the same name replaces the module."""
    tap = Tap(bench.layers[0].node, operand, 1)
    raw = seen(bench, Tap(bench.layers[0].node, 0, 1)) if operand == 0 else seen(bench, Tap(CONV))
    bench.quantize_activation(tap, 8, 0.5)
    for factor in (100.0, 3.0):
        bench.insert_module(tap, "three", Scaled(factor), before_quantizer=True)
    reader = Tap(bench.layers[0].node, 0) if operand == 0 else Tap("relu", 0)
    assert torch.allclose(seen(bench, reader), (raw * 3 / 0.5).round() * 0.5, atol=1e-5)


def test_modules_and_quantizers_have_calls_of_their_own(bench):
    """insert_quantizer refuses other modules, insert_module refuses quantizers and taken names."""
    tap = bench.layers[1].input
    bench.insert_module(tap, "mine", Scaled(1.0))
    with pytest.raises(ValueError, match="insert it with insert_module"):
        bench.insert_quantizer(tap, Scaled(1.0))
    with pytest.raises(ValueError, match="insert it with insert_quantizer"):
        bench.insert_module(tap, "other", ActivationQuantizer("other", 0.5, 8))
    for name in ("mine", "conv", "a.b", ""):
        with pytest.raises(ValueError, match=r"is not free|is no name"):
            bench.insert_module(bench.layers[2].input, name, Scaled(1.0))


def test_quantizing_one_operand_again_leaves_one_quantizer(bench):
    """An operand that is quantized again gets one new quantizer, and its neighbours keep theirs."""
    bench.quantize_activations(Scope.ALL, 8, 8, RangeRule.MINMAX)
    before = len(bench.manifest.activation_sites)
    first, second = bench.layers[1].input, bench.layers[2].input
    shared = quantizers_between(bench, second)
    bench.quantize_activation(first, 4, 0.5)
    bench.quantize_activation(Tap(first.node, 0, 1), 4, 0.25)
    bench.quantize_activation(Tap(first.node, -3 if len(first.find(bench.graph).args) > 2 else 0), 4, 0.25)
    assert len(quantizers_between(bench, first)) == 1
    assert quantizers_between(bench, second) == shared
    assert len(bench.manifest.activation_sites) == before + 1
    bench.quantize_activations(Scope.ALL, 6, 6, RangeRule.MINMAX, on=Network.QUANTIZED)
    assert {site.bits for site in bench.manifest.activation_sites} == {6}
    assert len(code_quantizers(bench.graph)) == before


def test_a_quantizer_behind_a_node_replaces_those_of_its_readers(bench):
    """A quantizer behind a node replaces the quantizers of single readers."""
    norm = bench.norms[0]
    bench.quantize_activation(bench.layers[1].input, 4, 0.5)
    bench.quantize_activation(norm.output, 8, 0.1)
    assert [quantizers_between(bench, layer.input) for layer in bench.layers[1:4]] == [["activation_quantizer_0"]] * 3
    assert [site.bits for site in bench.manifest.activation_sites] == [8]


@pytest.mark.parametrize("emulation", Log2Emulation)
@pytest.mark.parametrize("first", [Log2Emulation.KEEP, Log2Emulation.MOVE])
def test_a_softmax_quantized_again_has_one_quantizer(bench, first, emulation):
    """The second log2 quantizer of a softmax replaces the first."""
    for bits, how in ((4, first), (6, emulation)):
        bench.quantize_softmax(bits, Log2Form.DATA_FREE, 1e-5, 20, how)
    assert len(bench.graph.graph.find_nodes(op="call_module")) == 1
    (site,) = bench.manifest.softmax_sites
    assert (site.bits, site.emulation) == (6, emulation)
    assert [site.quantizer_name] == list(code_quantizers(bench.graph))


def test_inserted_quantizers_are_in_the_bit_table(bench, tmp_path):
    """The manifest and the file record the bits of an inserted quantizer, and a replacement updates them."""
    bench.insert_quantizer(bench.softmaxes[0].output, Log2Quantizer("mine", DataFreeLog2(4, 20)))
    bench.insert_quantizer(bench.layers[0].input, ActivationQuantizer("input", 0.1, 8))
    bench.insert_quantizer(bench.layers[0].input, ActivationQuantizer("input", 0.2, 3))
    bench.insert_quantizer(bench.norms[0].operands[0], ActivationQuantizer("before_norm", 0.1, 5))
    bits = eq.export_onnx(finish(bench), tmp_path / "model.onnx", target="onnxruntime").bit_table
    assert (bits["softmax"], bits["conv inputs"]) == ("4 log2-G", "3")
    assert bits["other activations"] == "5, at 1 places"
    bench.insert_quantizer(bench.softmaxes[0].output, ActivationQuantizer("uniform", 1 / 127, 8))
    assert finish(bench).bit_table()["softmax"] == "8 uniform"
    bench.quantize_activation(bench.softmaxes[0].output, 6, 1 / 31)
    assert finish(bench).bit_table()["softmax"] == "6 uniform"


@pytest.mark.parametrize("bits", [1, 9, 16])
def test_bits_that_no_file_has_are_refused(bench, bits):
    """Activations, weights and inserted quantizers with other than 2 to 8 bits are refused."""
    tap, weight = bench.layers[0].input, bench.layers[0].weight
    codes = torch.zeros(8, 3, 3, 3, dtype=torch.int8)
    for edit in (
        lambda: bench.quantize_activation(tap, bits, 0.1),
        lambda: bench.set_weight(weight, codes, 0.1, bits=bits),
        lambda: bench.insert_quantizer(tap, ActivationQuantizer("mine", 0.1, bits)),
    ):
        with pytest.raises(ValueError, match="2 to 8 are possible"):
            edit()


def test_a_quantizer_without_bits_is_refused(bench):
    """A quantizer without bits is refused, since they cannot be recorded."""
    quantizer = ActivationQuantizer("mine", 0.1, 8)
    del quantizer.bits
    with pytest.raises(ValueError, match="does not say its bits"):
        bench.insert_quantizer(bench.layers[0].input, quantizer)


@pytest.mark.parametrize(
    ("tap", "given", "sentence"),
    [
        (Tap(CONV, 0, 1), {"axis": 1, "scale": torch.ones(5)}, "5 scales for 3 channels in dimension 1"),
        (Tap(CONV, 0, 1), {"axis": 1, "scale": 0.1}, "1 scales for 3 channels"),
        (Tap(CONV, 0, 1), {"axis": 9, "scale": torch.ones(3)}, "axis 9 of a tensor of 4 dimensions"),
        (Tap(CONV, 0, 1), {"axis": 0, "scale": torch.ones(3)}, "grows with the number of images"),
        (Tap(CONV, 1), {"scale": 0.1}, r"operand 1 of 'conv2d' does not depend on the images"),
        (Tap(CONV, 9), {"scale": 0.1}, "operand 9 of 'conv2d' is no tensor"),
    ],
)
def test_places_and_scales_that_do_not_fit_are_refused(bench, tap, given, sentence):
    """A wrong axis, number of scales or operand is refused before anything is changed."""
    with pytest.raises(ValueError, match=sentence):
        bench.quantize_activation(tap, 8, **given)
    assert (bench.manifest.activation_sites, code_quantizers(bench.graph)) == ([], {})


@pytest.mark.parametrize(
    "edit",
    [
        lambda bench: bench.set_bias(bench.layers[0], torch.ones(8)),
        lambda bench: bench.set_parameter("conv.weight", torch.ones(8, 3, 3, 3)),
        lambda bench: bench.insert_module(bench.layers[0].input, "two", Scaled(2.0)),
        lambda bench: bench.quantize_activation(bench.layers[0].input, 2, 0.5),
        lambda bench: bench.quantize_weight("conv.weight", 4, Granularity.PER_CHANNEL),
    ],
)
def test_calibration_never_guesses_between_networks_that_differ(bench, edit):
    """After the first edit, calibration has to name its network."""
    bench.quantize_activations(Scope.CONV, 8, None, RangeRule.MINMAX)
    bench.reset()
    edit(bench)
    with pytest.raises(RecipeOrderError, match=r"on=Network\.FLOAT or on=Network\.QUANTIZED"):
        bench.quantize_activations(Scope.CONV, 8, None, RangeRule.MINMAX)


def test_products_softmaxes_and_norms_are_listed(bench):
    """Operators without a weight have taps for their operands and outputs."""
    scores, values = bench.products
    (softmax,), (norm,) = bench.softmaxes, bench.norms
    tensors = bench.record([*values.operands, softmax.output, norm.output], on=Network.FLOAT)
    assert torch.equal(tensors[0], tensors[2])
    assert [tuple(x.shape[1:]) for x in tensors] == [(36, 36), (36, 8), (36, 36), (36, 8)]
    assert [tap.operand for tap in scores.operands] == [0, 1]


def test_calibration_sees_the_modules_in_front_of_a_quantizer(bench):
    """Activations are quantized behind inserted modules, so that calibration needs the quantized network."""
    tap = bench.layers[1].input
    (peak,) = (float(x.abs().max()) for x in bench.record([tap], on=Network.FLOAT))
    bench.insert_module(tap, "up", Scaled(100.0))
    with pytest.raises(RecipeOrderError, match=r"'up' is not in the float network; calibrate on=Network\.QUANTIZED"):
        bench.quantize_activations(Scope.CONV_LINEAR, 8, None, RangeRule.MINMAX, on=Network.FLOAT)
    for bits in (8, 6):
        bench.quantize_activations(Scope.CONV_LINEAR, bits, None, RangeRule.MINMAX, on=Network.QUANTIZED)
    site = next(site for site in bench.manifest.activation_sites if site.node == "up")
    assert site.scale == pytest.approx(100 * peak / 31)
    assert len(quantizers_between(bench, tap)) == 1


def test_one_reader_cannot_change_what_it_shares(bench):
    """An edit of one operand that would affect other readers is refused, and the sentence names the alternative."""
    norm, tap = bench.norms[0], bench.layers[1].input
    bench.quantize_activation(norm.output, 8, 0.1)
    with pytest.raises(ValueError, match="'activation_quantizer_0' has other readers too; insert behind 'layer_norm'"):
        bench.insert_module(tap, "before", Scaled(2.0), before_quantizer=True)
    bench.insert_module(norm.output, "behind", Scaled(2.0))
    with pytest.raises(ValueError, match="'behind' stands between the quantizer 'activation_quantizer_0' and several"):
        bench.quantize_activation(tap, 8, 0.2)
    assert [site.bits for site in bench.manifest.activation_sites] == [8]
