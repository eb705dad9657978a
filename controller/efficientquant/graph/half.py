"""FP16 as a graphics processor computes it: every tensor stored in 16 bits, sums and normalizations in 32."""

from typing import Any

import torch
from torch import Tensor, fx

HALF_MAX = torch.finfo(torch.float16).max


class HalfInterpreter(fx.Interpreter):
    """Runs a float32 graph and rounds what every node gives to FP16, inputs and parameters too.

    An overflow becomes infinity, as it would there. Quantizers see rounded values and compute in float32.
    """

    def run_node(self, n: fx.Node) -> Any:
        """Run one node and round its result."""
        result = super().run_node(n)
        return round_to_half(result) if n.op != "output" else result


def round_to_half(value: Any) -> Any:
    """Return float32 tensors rounded to FP16's values, anything else as it is."""
    if isinstance(value, Tensor) and value.dtype is torch.float32:
        return value.half().float()
    if isinstance(value, (tuple, list)):
        return type(value)(round_to_half(part) for part in value)
    return value
