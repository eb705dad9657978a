"""A captured, fake-quantized graph → the ONNX graph that every variant is lowered from."""

from collections.abc import Sequence

import onnx_ir as ir
import torch
from torch import nn

EXPORTER_OPSET = 18  # what the exporter writes whatever it is asked for; lowering does the rest


def trace(module: nn.Module, shape: Sequence[int]) -> ir.Model:
    """Return the model for a batch of one, (1, *shape) → logits, with quantizers as markers."""
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
