"""The quantizers of files for OpenVINO."""

import efficientquant as eq
import onnx
import pytest
import torch
from efficientquant.artifact.view import GraphView, type_name
from efficientquant.verdicts.products import Kind, find_products
from torch import nn

MODELS = ["test_vit", "mobilevit_xxs"]


@pytest.fixture(params=MODELS)
def view(request, artifacts):
    """Return the int8 file of a model."""
    return GraphView(onnx.load(artifacts[request.param, "int8", "openvino"].path))


def codes(view, name):
    """Return the type of the codes that an operand is decoded from, or "float"."""
    node = view.source(name)
    is_decoded = node is not None and node.op_type == "DequantizeLinear"
    return type_name(view.types[node.input[0]]) if is_decoded else "float"


def reads_softmax(view, node):
    source = view.source(node.input[0])
    return source is not None and source.op_type == "Softmax"


def test_operands_have_the_codes_of_openvinos_kernels(view):
    """Weights are signed, activations unsigned, queries and keys signed, and attention maps float."""
    operands = {
        (kind, reads_softmax(view, node), *(codes(view, name) for name in node.input[:2]))
        for node, kind in find_products(view)
    }

    weighted = {(kind, False, "UINT8", "INT8") for kind in (Kind.CONV, Kind.LINEAR)}
    assert operands == {*weighted, (Kind.PRODUCT, False, "INT8", "INT8"), (Kind.PRODUCT, True, "float", "float")}


def test_no_quantizer_stands_where_no_product_reads_it(view):
    """Each quantized activation is read by a convolution or a matrix product."""
    products = {id(node) for node, _ in find_products(view)}
    decoders = [node for node in view.nodes if node.op_type == "DequantizeLinear" and not view.is_weight(node)]

    assert decoders
    assert all(any(id(reader) in products for reader in view.consumers(node)) for node in decoders)


def test_what_is_left_out_is_said(artifacts):
    """A note counts the quantizers that the file leaves out."""
    notes = artifacts["test_vit", "int8", "openvino"].notes

    assert [note for note in notes if note.endswith("quantizers of activations are left out of the file for openvino")]


class Reduced(nn.Module):
    """Two linears without biases, and a head behind a reduction of their result."""

    def __init__(self, reduce):
        super().__init__()
        self.stem, self.head = nn.Conv2d(3, 16, 4, 4), nn.Linear(16, 10)
        self.first, self.second = (nn.Linear(16, 16, bias=False) for _ in range(2))
        self.reduce = reduce
        self.pretrained_cfg = {"input_size": (3, 32, 32)}

    def forward(self, x):
        """Return the logits."""
        x = self.stem(x).relu().flatten(2).transpose(1, 2)
        return self.head(self.reduce(self.second(self.first(x).relu())))


@pytest.mark.parametrize("reduction", [lambda x: x.mean(1), lambda x: x.amax(1), lambda x: x[:, 0]])
def test_products_that_openvino_gets_wrong_are_in_float(tmp_path, reduction):
    """The export compares OpenVINO's logits, which would differ by twenty times what is allowed."""
    torch.manual_seed(0)
    quantized = eq.quantize(Reduced(reduction).eval(), eq.get_recipe("int8"))

    artifact = eq.export_onnx(quantized, tmp_path / "model.onnx", target="openvino")

    assert artifact.bit_table["linear inputs"] != "8"


def test_a_constant_convolution_has_a_float_weight(tmp_path):
    """OpenVINO does not compile a position encoding whose weight is decoded from integers."""
    torch.manual_seed(0)

    class Encoded(nn.Module):
        def __init__(self):
            super().__init__()
            self.stem, self.head, self.encode = nn.Conv2d(3, 8, 4, 4), nn.Linear(8, 5), nn.Conv2d(4, 8, 1)
            self.register_buffer("positions", torch.rand(1, 4, 8, 8))
            self.pretrained_cfg = {"input_size": (3, 32, 32)}

        def forward(self, x):
            return self.head((self.stem(x) + self.encode(self.positions)).mean((2, 3)))

    quantized = eq.quantize(Encoded().eval(), eq.get_recipe("efficientquant"))
    artifact = eq.export_onnx(quantized, tmp_path / "model.onnx", target="openvino")

    types = {tensor.name: tensor.data_type for tensor in onnx.load(artifact.path).graph.initializer}
    assert sorted(kind for name, kind in types.items() if name.startswith("encode.weight")) == [onnx.TensorProto.FLOAT]
