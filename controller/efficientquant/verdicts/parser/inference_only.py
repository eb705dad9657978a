"""Rules for normalizations, recurrent layers, casts and constants."""

from collections.abc import Iterator

import numpy as np
from onnx import TensorProto

from efficientquant.artifact.view import type_name
from efficientquant.verdicts.parser.node import ParsedNode, Parser, Refusal

# convertDtype of the importers: what a Cast may give. INT64 and DOUBLE are narrowed with a warning in 8.x.
_TYPES = frozenset({
    TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.DOUBLE, TensorProto.INT8, TensorProto.INT32,
    TensorProto.INT64, TensorProto.BOOL
})  # fmt: skip
# Changelog of 8.5: "importing ONNX networks with UINT8 I/O types"; of 9.0: "FP8 and BF16"; of 10.0: "INT4".
_TYPES_SINCE = (
    ((8, 5), frozenset({TensorProto.UINT8})),
    ((9,), frozenset({TensorProto.BFLOAT16, TensorProto.FLOAT8E4M3FN})),
    ((10,), frozenset({TensorProto.INT4})),
)
# From 10 on, InstanceNormalization is native (Changelog: kNATIVE_INSTANCENORM is on by default).
_NATIVE_INSTANCENORM_SINCE = (10,)


def batch_normalization(node: ParsedNode, _parser: Parser) -> Iterator[Refusal]:
    """Yield batch normalizations that train."""
    if node.attribute("training_mode", 0):
        yield Refusal("training_mode=1", "it infers only; export the model in evaluation mode")


def dropout(node: ParsedNode, _parser: Parser) -> Iterator[Refusal]:
    """Yield dropouts that train."""
    mode = node.array(2)
    if node.is_computed(2) or (mode is not None and bool(np.any(mode))):
        yield Refusal("a training_mode other than a constant False", "it infers only")


def instance_normalization(node: ParsedNode, parser: Parser) -> Iterator[Refusal]:
    """Yield the forms of an InstanceNormalization that 8.x does not take.

    operators.md of 8.2 and 8.5: "Scales `scale` and biases `B` must be initializers. Input rank must be >=3 & <=5".
    """
    if parser.release >= _NATIVE_INSTANCENORM_SINCE:
        return
    for index, what in ((1, "scale"), (2, "B")):
        if node.is_computed(index):
            yield Refusal(f"a computed {what}, {node.proto.input[index]!r}", f"{what} must be a constant of the file")
    shape = node.shape(0)
    if shape is not None and not 3 <= len(shape) <= 5:
        yield Refusal(f"an input of {len(shape)} dimensions", "it normalizes inputs of 3 to 5")


def layer_normalization(node: ParsedNode, _parser: Parser) -> Iterator[Refusal]:
    """Yield layer normalizations with the outputs that training needs.

    operators.md of 10.15: "Only the first output `Y` is supported".
    """
    if node.has_output(1) or node.has_output(2):
        yield Refusal("outputs beside Y", "it gives the first output only")


def lstm(node: ParsedNode, _parser: Parser) -> Iterator[Refusal]:
    """Yield the forms of an LSTM that no release takes."""
    for name in ("input_forget", "layout"):
        if node.attribute(name, 0):
            yield Refusal(f"{name}={node.attribute(name, 0)}", f"{name} must be 0")


def cast(node: ParsedNode, parser: Parser) -> Iterator[Refusal]:
    """Yield the types that a release cannot cast to."""
    to = node.attribute("to", 0)
    known = _TYPES.union(*(types for first, types in _TYPES_SINCE if parser.release >= first))
    if to not in known:
        yield Refusal(f"to={type_name(to)}", "it has no such type")
    elif to == TensorProto.UINT8 and not node.is_graph_output():
        # operators.md of 10.15: "UINT8 is only supported as network input or output tensor types".
        yield Refusal(f"to={type_name(to)}", "it has that type at inputs and outputs only")


def constant(node: ParsedNode, _parser: Parser) -> Iterator[Refusal]:
    """Yield constants of text and sparse constants."""
    for name in ("sparse_value", "value_string", "value_strings"):
        if node.has_attribute(name):
            yield Refusal(name, "its constants are dense numbers")
