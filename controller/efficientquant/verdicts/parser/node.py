"""One node as the parser's rules read it."""

import dataclasses
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
import onnx
from onnx import NodeProto, TensorProto

from efficientquant.artifact.view import GraphView, Shape

Version = tuple[int, ...]


class Refusal(NamedTuple):
    """One form of an operator that a release does not take.

    `form` names the attribute or input, as in "mode='cubic'". `why` says what the release has instead. `verb` is
    "ignores" where the release builds the node and computes something else.
    """

    form: str
    why: str
    verb: str = "refuses"


@dataclasses.dataclass(frozen=True)
class ParsedNode:
    """A node with its attributes, constants, types and shapes."""

    view: GraphView
    proto: NodeProto

    @property
    def opset(self) -> int:
        """The version of the standard operators."""
        return self.view.opset

    def attribute(self, name: str, default: Any) -> Any:
        """Return an attribute, text as str, or `default` without it."""
        for attribute in self.proto.attribute:
            if attribute.name == name:
                value = onnx.helper.get_attribute_value(attribute)
                return value.decode(errors="replace") if isinstance(value, bytes) else value
        return default

    def has_attribute(self, name: str) -> bool:
        """Tell whether the node sets an attribute."""
        return any(attribute.name == name for attribute in self.proto.attribute)

    def has_input(self, index: int) -> bool:
        """Tell whether the node has an input of that index."""
        return len(self.proto.input) > index and bool(self.proto.input[index])

    def is_computed(self, index: int) -> bool:
        """Tell whether an input exists and is no constant of the file.

        The parser looks through Identity and nothing else.
        """
        return self.has_input(index) and self.array(index) is None

    def array(self, index: int) -> np.ndarray | None:
        """Return a constant input, None if it is missing or computed."""
        if not self.has_input(index):
            return None
        return self.view.array(self.view.behind(self.proto.input[index], ("Identity",)))

    def depends_on_data(self, index: int) -> bool:
        """Tell whether an input changes with each inference.

        What comes from shapes and constants alone is known when the engine is built.
        """
        names = [self.proto.input[index]] if self.has_input(index) else []
        seen: set[str] = set()
        while names:
            if (name := names.pop()) in seen:
                continue
            seen.add(name)
            producer = self.view.producers.get(name)
            if producer is None and name not in self.view.constants:
                return True
            if producer is not None and producer.op_type not in ("Shape", "Size", "Constant"):
                names += [given for given in producer.input if given]
        return False

    def shape(self, index: int) -> Shape | None:
        """Return the shape of an input, None where it is unknown."""
        return self.view.shapes.get(self.proto.input[index]) if self.has_input(index) else None

    def input_type(self, index: int) -> int:
        """Return the element type of an input, 0 where it is unknown."""
        return self.view.types.get(self.proto.input[index], TensorProto.UNDEFINED) if self.has_input(index) else 0

    def is_graph_output(self) -> bool:
        """Tell whether the first output leaves the graph."""
        return any(output.name == self.proto.output[0] for output in self.view.model.graph.output)

    def has_output(self, index: int) -> bool:
        """Tell whether the node names an output of that index."""
        return len(self.proto.output) > index and bool(self.proto.output[index])


@dataclasses.dataclass(frozen=True)
class Parser:
    """The parser of one release.

    `product` names it in sentences, as in "TensorRT 8.2". TensorRT-RTX comes without plugins.
    """

    release: Version
    product: str
    has_plugins: bool = True


# A rule yields the forms of a node that a release does not take.
Rule = Callable[[ParsedNode, Parser], Iterator[Refusal]]
