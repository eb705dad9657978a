"""Rules for Einsum."""

import string
from collections.abc import Iterator

from efficientquant.verdicts.parser.node import ParsedNode, Parser, Refusal

# From 9 on the importer expands an ellipsis and splits products of more than two operands by itself.
_EXPANDED_SINCE = (9,)
# operators.md of 10.15 has no restriction any more. The layer's documentation before says that it has no diagonals.
_DIAGONALS_SINCE = (10, 15)


def einsum(node: ParsedNode, parser: Parser) -> Iterator[Refusal]:
    """Yield the equations that a release does not take.

    operators.md of 8.2 and 8.5: "Ellipsis and diagonal operations are not supported. Broadcasting between inputs is not
    supported". The layer of 8.x takes two operands (pytorch/TensorRT pull request 1439).
    """
    written = str(node.attribute("equation", ""))
    equation = written.replace(" ", "")
    operands = equation.partition("->")[0].split(",")
    repeated = sorted({letter for operand in operands for letter in operand if operand.count(letter) > 1} - {"."})
    unknown = sorted(set(equation) - set(string.ascii_lowercase) - set("->.,"))
    is_expanded = parser.release >= _EXPANDED_SINCE
    why = ""
    if unknown:
        why = f"it reads lower-case letters, and {', '.join(map(repr, unknown))} is none"
    elif "." in equation and not is_expanded:
        why = "it reads no ellipsis"
    elif len(operands) > 2 and not is_expanded:
        why = f"it multiplies two operands, and these are {len(operands)}"
    elif repeated and parser.release < _DIAGONALS_SINCE:
        why = f"it takes no diagonal, and {', '.join(map(repr, repeated))} is twice in one operand"
    elif not is_expanded:
        why = _broadcast(node, operands)
    if why:
        yield Refusal(f"equation={written!r}", why)


def _broadcast(node: ParsedNode, operands: list[str]) -> str:
    """Return why operands would have to be broadcast, or ""."""
    sizes: dict[str, set[int]] = {}
    for index, operand in enumerate(operands):
        shape = node.shape(index)
        if shape is not None and len(shape) == len(operand):
            for letter, size in zip(operand, shape, strict=True):
                if size is not None:
                    sizes.setdefault(letter, set()).add(size)
    for letter, several in sizes.items():
        if len(several) > 1:
            return f"it does not broadcast, and {letter!r} has the sizes {' and '.join(map(str, sorted(several)))}"
    return ""
