"""FP16 as a GPU computes it.

Every tensor is stored in 16 bits, sums and normalizations are computed in 32.
"""

from typing import Any

import torch
from torch import Tensor, fx

HALF_MAX = torch.finfo(torch.float16).max


class HalfInterpreter(fx.Interpreter):
    """An interpreter of a float32 graph that rounds every result to FP16.

    Inputs and parameters are rounded too. An overflow becomes infinity, as on a GPU. Quantizers read rounded values and
    compute in float32.
    """

    def run_node(self, n: fx.Node) -> Any:
        """Run one node and round its result."""
        result = super().run_node(n)
        return round_to_half(result) if n.op != "output" else result


def round_to_half(value: Any) -> Any:
    """Return float32 tensors rounded to FP16's values, anything else unchanged."""
    if isinstance(value, Tensor) and value.dtype is torch.float32:
        return value.half().float()
    if isinstance(value, (tuple, list)):
        return type(value)(round_to_half(part) for part in value)
    return value
