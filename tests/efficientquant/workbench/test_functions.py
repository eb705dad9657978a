"""SiLUs behind quantized outputs compute in codes."""

import pytest
import torch
from efficientquant.graph.capture import aten, call_nodes
from efficientquant.options import Network, RangeRule, Scope
from efficientquant.quantizers import AffineQuantizer, bypassed, code_quantizers
from efficientquant.workbench import Workbench
from torch import nn


class Chain(nn.Module):
    """Two convolutions with SiLUs, of which the second result has two readers."""

    def __init__(self):
        super().__init__()
        self.first = nn.Conv2d(3, 4, 3)
        self.second = nn.Conv2d(4, 4, 1)
        self.head = nn.Linear(4, 2)

    def forward(self, x):
        y = nn.functional.silu(self.first(x))
        z = nn.functional.silu(self.second(y))
        return self.head((z + y).mean((2, 3)))
