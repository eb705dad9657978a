"""Graphs and nodes that are no valid ONNX."""

from graphlib import CycleError, TopologicalSorter
from typing import Any

import onnx
from onnx import NodeProto

from efficientquant.artifact.view import GraphView


def find_defect(node: NodeProto, opset: int) -> str:
    """Return what a node lacks or has in a wrong type.

    The text is empty for a good node. Source: the operator's schema in ONNX. An operator that ONNX does not list has no
    schema.
    """
    try:
        schema = onnx.defs.get_schema(node.op_type, opset)
    except onnx.defs.SchemaError:
        return ""
    if len(node.input) < schema.min_input:
        return f"has {len(node.input)} inputs and needs {schema.min_input}"
    given = {attribute.name: attribute.type for attribute in node.attribute}
    for name, attribute in sorted(schema.attributes.items()):
        expected: Any = attribute.type  # an enumeration, which the stubs do not say
        if attribute.required and name not in given:
            return f"has no {name}"
        if name in given and given[name] != expected.value:
            return f"has its {name} in a wrong type"
    return ""


def find_cycle(view: GraphView) -> str:
    """Return a value that depends on itself, or ""."""
    sorter = TopologicalSorter({name: node.input for name, node in view.producers.items()})
    try:
        sorter.prepare()
    except CycleError as error:
        return str(error.args[1][0])
    return ""
