"""Rules for operators that choose, scatter, pad or reshape."""

from collections.abc import Iterator

import numpy as np
from onnx import TensorProto

from efficientquant.artifact.view import type_name
from efficientquant.verdicts.parser.node import ParsedNode, Parser, Refusal, Rule

# The limit of ITopKLayer in every release; TensorRT-RTX 1.7 refuses 3841 with "K exceeds the maximum value allowed".
_MOST_K = 3840
# Changelog of 8.6: "Added support for TopK operators with dynamic K values" and "INT32 input types".
_COMPUTED_K_SINCE = (8, 6)
# Changelog of 10.0: "Added support for the reduction attribute in ScatterElements".
_SCATTERED_SUMS_SINCE = (10,)
# Changelog of 10.0: "Added support for wrap padding mode in Pad".
_WRAP_SINCE = (10,)
# Changelog of 8.6: "Added support for N-D Trilu".
_ND_TRILU_SINCE = (8, 6)
# Changelog of 10.3: "Added support for tensor axes inputs for Slice nodes".
_COMPUTED_SLICE_AXES_SINCE = (10, 3)


def top_k(node: ParsedNode, parser: Parser) -> Iterator[Refusal]:
    """Yield the forms of a TopK that a release does not take.

    operators.md of 8.2 and 8.5: "`K` input must be an initializer".
    """
    if node.is_computed(1) and parser.release < _COMPUTED_K_SINCE:
        yield Refusal(f"a computed K, {node.proto.input[1]!r}", "K must be a constant of the file")
    constant = node.array(1) if node.opset >= 10 else None
    count = node.attribute("k", 0)
    if constant is not None and constant.size and np.issubdtype(constant.dtype, np.integer):
        count = int(constant.flat[0])
    if count > _MOST_K:
        yield Refusal(f"K={count}", f"K ends at {_MOST_K}")
    if parser.release < _COMPUTED_K_SINCE and node.input_type(0) in (TensorProto.INT32, TensorProto.INT64):
        yield Refusal(f"an input of {type_name(node.input_type(0))}", "it sorts floats")
    # operators.md of 10.15: "`sorted` must be 1". Any order is right without it, so this one is taken.


def scatter_nd(node: ParsedNode, _parser: Parser) -> Iterator[Refusal]:
    """Yield the reductions of a ScatterND, which no release has.

    The importers up to 9 do not read the attribute, later ones assert that it is "none".
    """
    reduction = node.attribute("reduction", "none")
    if reduction != "none":
        yield Refusal(f"reduction={reduction!r}", "its ScatterND overwrites")


def scatter_elements(node: ParsedNode, parser: Parser) -> Iterator[Refusal]:
    """Yield the reductions of a ScatterElements that a release lacks.

    From 10 on, a plugin computes them.
    """
    reduction = node.attribute("reduction", "none")
    if reduction == "none":
        return
    if parser.release < _SCATTERED_SUMS_SINCE:
        yield Refusal(f"reduction={reduction!r}", "its ScatterElements overwrites", "ignores")
    elif not parser.has_plugins:
        yield Refusal(f"reduction={reduction!r}", "it has no plugin for that")


def pad(node: ParsedNode, parser: Parser) -> Iterator[Refusal]:
    """Yield the modes of a Pad that a release does not take."""
    mode = node.attribute("mode", "constant")
    known = ["constant", "reflect", "edge", *(["wrap"] if parser.release >= _WRAP_SINCE else [])]
    if mode not in known:
        yield Refusal(f"mode={mode!r}", f"it knows {', '.join(known)}")


def trilu(node: ParsedNode, parser: Parser) -> Iterator[Refusal]:
    """Yield inputs of a Trilu with more dimensions than 8.5 takes."""
    shape = node.shape(0)
    if shape is not None and len(shape) > 3 and parser.release < _ND_TRILU_SINCE:
        yield Refusal(f"an input of {len(shape)} dimensions", "its Trilu takes 2 or 3")


def slices(node: ParsedNode, parser: Parser) -> Iterator[Refusal]:
    """Yield computed axes of a Slice where they must be constant."""
    if node.opset >= 10 and node.is_computed(3) and parser.release < _COMPUTED_SLICE_AXES_SINCE:
        yield Refusal(f"computed axes, {node.proto.input[3]!r}", "axes must be a constant of the file")


def shape_range(node: ParsedNode, parser: Parser) -> Iterator[Refusal]:
    """Yield a Shape of some dimensions only, which 8.x reads as all."""
    for name in ("start", "end"):
        if node.has_attribute(name) and parser.release < (10,):
            yield Refusal(f"{name}={node.attribute(name, 0)}", "its Shape gives all dimensions", "ignores")


def constant_input(index: int, what: str) -> Rule:
    """Return a rule that an input must be constant.

    operators.md of 8.x: "`axes` must be an initializer". That of 10.15: "must be resolvable to a constant".
    """

    def rule(node: ParsedNode, parser: Parser) -> Iterator[Refusal]:
        is_unknown = node.is_computed(index) if parser.release < (10,) else node.depends_on_data(index)
        if is_unknown:
            yield Refusal(f"computed {what}, {node.proto.input[index]!r}", f"{what} must be a constant of the file")

    return rule


def one_hot(node: ParsedNode, _parser: Parser) -> Iterator[Refusal]:
    """Yield depths of a OneHot that depend on the data.

    operators.md of 10.15: "`depth` must be a build-time constant".
    """
    if node.depends_on_data(1):
        yield Refusal(f"a computed depth, {node.proto.input[1]!r}", "the depth must be known when the engine is built")
