"""The quantizers around activation functions."""

import torch
from torch import fx

from efficientquant.graph.blocks import Tap
from efficientquant.graph.edits import split_silu
from efficientquant.graph.insertions import is_inserted, is_quantizer, source_of
from efficientquant.graph.roles import SILUS, WEIGHTED
from efficientquant.observers import MagnitudeObserver
from efficientquant.options import Network, RangeRule
from efficientquant.primitives import top_code
from efficientquant.quantizers import AffineQuantizer
from efficientquant.workbench.activations import ActivationBench

BITS = 8
# A sigmoid lies between 0 and 1, so its 256 codes need no calibration.
_SIGMOID_SCALE, _SIGMOID_ZERO = 1.0 / 255, -128


class FunctionBench(ActivationBench):
    """The part of a workbench that edits activation functions."""

    def quantize_silus(self, rule: RangeRule, *, on: Network | None = None) -> None:
        """Quantize the sigmoid and the result of SiLUs.

        Their inputs are quantized outputs of convolutions and linears. A SiLU whose result is quantized for some reader
        keeps that quantizer. The codes have 8 bits. Calibration finds the ranges of the results, see `observe` for
        `on`.
        """
        silus = [node for node in self.graph.graph.nodes if self._follows_integers(node)]
        free = [node for node in silus if not any(is_inserted(reader) for reader in node.users)]
        observers = self.observe([Tap(node.name) for node in free], MagnitudeObserver, on=on)
        for node, observer in zip(free, observers, strict=True):
            largest = observer.choose_range(rule, BITS)
            self.quantize_activation(Tap(node.name), BITS, largest / top_code(BITS) if largest > 0 else 1.0)
        for node in silus:
            sigmoid = split_silu(self.graph, node)
            name = self._free_name("activation_quantizer", len(self.manifest.activation_sites))
            scale = torch.tensor([_SIGMOID_SCALE])
            self.insert_quantizer(Tap(sigmoid.name), AffineQuantizer(name, scale, BITS, _SIGMOID_ZERO))

    def _follows_integers(self, node: fx.Node) -> bool:
        """Tell whether a node is the SiLU of a quantized output."""
        if node.op != "call_function" or node.target not in SILUS:
            return False
        operand = node.args[0]
        assert isinstance(operand, fx.Node)
        return is_quantizer(self.graph, operand) and source_of(operand).target in WEIGHTED
