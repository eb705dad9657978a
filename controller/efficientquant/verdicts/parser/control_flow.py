"""Rules for If."""

from collections.abc import Iterator

from onnx import GraphProto, ValueInfoProto

from efficientquant.artifact.view import Shape
from efficientquant.verdicts.parser.node import ParsedNode, Parser, Refusal

# operators.md of 8.2 and 8.5 wants shapes that broadcast, and that of 10.15 the same rank.
_SAME_RANK_SINCE = (9,)


def branches(node: ParsedNode, parser: Parser) -> Iterator[Refusal]:
    """Yield the branches of an If whose outputs do not fit together."""
    both = [node.attribute("then_branch", GraphProto()), node.attribute("else_branch", GraphProto())]
    then_outputs, else_outputs = (list(graph.output) for graph in both)
    if len(then_outputs) != len(else_outputs):
        yield Refusal("branches with different numbers of outputs", "both branches give the same outputs")
        return
    for then_output, else_output in zip(then_outputs, else_outputs, strict=True):
        if then_output.name == else_output.name:
            yield Refusal(f"the output {then_output.name!r} in both branches", "the branches' outputs differ in name")
        shapes = _shape(then_output), _shape(else_output)
        if shapes[0] is not None and shapes[1] is not None and not _fit(shapes[0], shapes[1], parser):
            how = "have the same rank" if parser.release >= _SAME_RANK_SINCE else "broadcast"
            form = f"branches of the shapes {_shown(shapes[0])} and {_shown(shapes[1])}"
            yield Refusal(form, f"the branches' outputs must {how}")


def _shape(value: ValueInfoProto) -> Shape | None:
    tensor_type = value.type.tensor_type
    if not tensor_type.HasField("shape"):
        return None
    return tuple(size.dim_value if size.HasField("dim_value") else None for size in tensor_type.shape.dim)


def _fit(left: Shape, right: Shape, parser: Parser) -> bool:
    if parser.release >= _SAME_RANK_SINCE:
        return len(left) == len(right)
    pairs = zip(reversed(left), reversed(right), strict=False)
    return all(None in pair or 1 in pair or pair[0] == pair[1] for pair in pairs)


def _shown(shape: Shape) -> str:
    return "×".join("?" if size is None else str(size) for size in shape) or "a scalar"
