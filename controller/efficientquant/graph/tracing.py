"""The trace of a fake-quantized graph to ONNX.

Every variant is lowered from the traced ONNX graph.
"""

import ast
from collections.abc import Sequence

import onnx_ir as ir
import torch
from torch import nn

from efficientquant.quantizers import EMULATED, EMULATED_AT

EXPORTER_OPSET = 18  # the exporter writes no other opset, so lowering converts to the target's
_SCOPES = "pkg.torch.onnx.name_scopes"


def trace(module: nn.Module, shape: Sequence[int]) -> ir.Model:
    """Return the ONNX model, with quantizers as markers.

    Its batch is one: it maps (1, *shape) to the logits.
    """
    example = torch.zeros(1, *shape)
    with torch.no_grad():
        exported = torch.export.export(module, (example,))
        program = torch.onnx.export(
            exported,
            dynamo=True,
            opset_version=EXPORTER_OPSET,
            input_names=["input"],
            output_names=["logits"],
            optimize=True,
            verbose=False,
        )
    assert program is not None
    _mark_emulation(program.model.graph, module)
    return program.model


def _mark_emulation(graph: ir.Graph, module: nn.Module) -> None:
    """Write into each node what its module emulates.

    The exporter writes the names of the modules that a node belongs to.
    """
    emulating = {name: str(own.emulates) for name, own in module.named_modules() if hasattr(own, "emulates")}
    for node in graph:
        for name in ast.literal_eval(node.metadata_props.get(_SCOPES, "[]")):
            if name in emulating:
                node.metadata_props[EMULATED], node.metadata_props[EMULATED_AT] = emulating[name], name
