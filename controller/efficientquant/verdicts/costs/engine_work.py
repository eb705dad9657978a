"""The work of the kernels of a TensorRT-RTX engine."""

from collections.abc import Sequence

from efficientquant.artifact.view import GraphView
from efficientquant.verdicts.costs.cost_model import Work
from efficientquant.verdicts.costs.onnx_macs import macs_of_node
from efficientquant.verdicts.products import find_products
from efficientquant.verdicts.rtx_layers import EngineLayer, engine_name, multiplying_kernels


def work_of_engine(view: GraphView, layers: Sequence[EngineLayer]) -> tuple[Work, ...]:
    """Return the work of each kernel, in the engine's order.

    The MACs of a node that several kernels compute are spread over them.
    """
    macs = [0] * len(layers)
    for node, _ in find_products(view):
        name = engine_name(node)
        kernels = multiplying_kernels(layers, name) or _generated_kernels(layers, name)
        for place, kernel in enumerate(kernels):
            share, rest = divmod(macs_of_node(view, node), len(kernels))
            macs[kernel] += share + (place < rest)
    return tuple(
        Work(
            name=layer.name,
            kind=layer.kind,
            precision=layer.precision,
            size_bytes=layer.size_bytes,
            macs=macs[index],
            nodes=layer.onnx_nodes,
        )
        for index, layer in enumerate(layers)
    )


def _generated_kernels(layers: Sequence[EngineLayer], node: str) -> list[int]:
    """Return the generated kernels that name a node, one of which multiplies."""
    return [at for at, layer in enumerate(layers) if node in layer.onnx_nodes and not layer.is_dequantize]
