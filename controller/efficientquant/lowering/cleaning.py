"""Removal of what an artifact does not need.

This includes everything that would differ between two exports of the same model.
"""

import onnx_ir as ir
from onnx_ir.passes.common import RemoveUnusedNodesPass


def clean(model: ir.Model) -> None:
    """Remove what an artifact does not need, and shorten names.

    This removes unused nodes and initializers, doc strings, stack traces and intermediate shapes. They contain machine
    paths and take more space than the nodes. Long names of intermediate values can take as much space as int8 weights.
    """
    RemoveUnusedNodesPass()(model)
    _strip(model)
    _shorten(model.graph)


def _shorten(graph: ir.Graph) -> None:
    """Rename the values between nodes to numbers.

    Nodes, initializers, inputs and outputs keep their names, since people look for those.
    """
    outputs = set(graph.outputs)
    values = [value for node in graph for value in node.outputs if value not in outputs]
    for index, value in enumerate(values):
        value.name = f"#{index}"


def _strip(model: ir.Model) -> None:
    model.doc_string = None
    model.metadata_props.clear()
    model.graph.doc_string = None
    model.graph.metadata_props.clear()
    kept = {*model.graph.inputs, *model.graph.outputs}
    for value in (*model.graph.inputs, *model.graph.outputs, *model.graph.initializers.values()):
        value.metadata_props.clear()
        value.doc_string = None
    for node in model.graph:
        node.doc_string = None
        node.metadata_props.clear()
        for output in node.outputs:
            output.metadata_props.clear()
            if output not in kept:
                output.type = None
                output.shape = None
