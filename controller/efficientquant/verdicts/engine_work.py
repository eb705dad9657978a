"""The work of the kernels of a TensorRT-RTX engine."""

from collections.abc import Sequence

from efficientquant.artifact.view import GraphView
from efficientquant.verdicts.cost_model import Work
from efficientquant.verdicts.onnx_macs import macs_of_node
from efficientquant.verdicts.products import find_products
from efficientquant.verdicts.rtx_layers import EngineLayer, engine_name, multiplying_kernels


def work_of_engine(view: GraphView, layers: Sequence[EngineLayer]) -> tuple[Work, ...]:
    """Return the work of each kernel, in the engine's order.

    The MACs of a node that several kernels compute are spread over them.
    """
    macs = dict.fromkeys(range(len(layers)), 0.0)
    for node, _ in find_products(view):
        kernels = multiplying_kernels(layers, engine_name(node))
        for kernel in kernels:
            macs[kernel] += macs_of_node(view, node) / len(kernels)
    return tuple(
        Work(
            name=layer.name,
            kind=layer.kind,
            precision=layer.precision,
            size_bytes=layer.size_bytes,
            macs=round(macs[index]),
            nodes=layer.onnx_nodes,
        )
        for index, layer in enumerate(layers)
    )
