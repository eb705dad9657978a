"""The quantizers of files for OpenVINO."""

import onnx
import pytest
from efficientquant.artifact.view import GraphView, type_name
from efficientquant.verdicts.products import Kind, find_products

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
