"""The trace of a fake-quantized graph to ONNX.

Every variant is lowered from the traced ONNX graph.
"""

from collections.abc import Sequence

import onnx_ir as ir
import torch
from torch import nn

EXPORTER_OPSET = 18  # the exporter writes no other opset, so lowering converts to the target's


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
    return program.model
