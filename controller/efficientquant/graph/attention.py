"""The noise that a post-softmax quantizer adds to each attention.

Everything before the quantizer stays in float.
"""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from torch import Tensor, fx

from efficientquant.graph.capture import aten, call_nodes
from efficientquant.graph.roles import PRODUCTS, SOFTMAX, WEIGHTED


class Codec(Protocol):
    """A quantizer of probabilities."""

    def quantize(self, probabilities: Tensor) -> Tensor:
        """Return the codes."""
        ...

    def dequantize(self, codes: Tensor) -> Tensor:
        """Return the values that the codes stand for."""
        ...


@dataclasses.dataclass
class Noise:
    """Signal and noise power, summed over any number of tensors."""

    signal: float = 0.0
    noise: float = 0.0

    def add(self, reference: Tensor, approximation: Tensor) -> None:
        """Add a tensor and its approximation."""
        reference = reference.double()
        self.signal += float(reference.square().sum())
        self.noise += float((reference - approximation.double()).square().sum())

    @property
    def sqnr_db(self) -> float:
        """The signal-to-quantization-noise ratio in dB, infinite without noise."""
        if self.noise == 0:
            return math.inf
        return 10 * math.log10(self.signal / self.noise) if self.signal > 0 else -math.inf


@dataclasses.dataclass
class SiteNoise:
    """The noise of one softmax under one quantizer.

    `probabilities` is measured behind the softmax, `output` behind the attention's product.
    """

    probabilities: Noise = dataclasses.field(default_factory=Noise)
    output: Noise = dataclasses.field(default_factory=Noise)


def find_paths(graph: fx.GraphModule) -> dict[fx.Node, list[fx.Node]]:
    """Return for each softmax the operators up to its product, in order.

    Dropout and shape operators are included. The list is empty where nothing multiplies the probabilities before the
    next convolution or linear.
    """
    return {softmax: _path(softmax) for softmax in call_nodes(graph, *SOFTMAX)}


def _path(softmax: fx.Node) -> list[fx.Node]:
    parents: dict[fx.Node, fx.Node] = {}
    pending = [softmax]
    for node in pending:
        for user in node.users:
            if user in parents or user.op != "call_function" or user.target in WEIGHTED:
                continue
            parents[user] = node
            if user.target in (*PRODUCTS, aten.mul.Tensor):
                return _back(user, softmax, parents)
            pending.append(user)
    return []


def _back(node: fx.Node, start: fx.Node, parents: Mapping[fx.Node, fx.Node]) -> list[fx.Node]:
    path = [node]
    while parents[path[-1]] is not start:
        path.append(parents[path[-1]])
    sums = [user for user in node.users if user.target is aten.sum.dim_IntList and node.target is aten.mul.Tensor]
    return path[::-1] + sums[:1]  # a context score's broadcast product is summed over the tokens


class AttentionProbe(fx.Interpreter):
    """An interpreter of a float graph that measures codecs at each softmax.

    `codecs` holds quantizers by name for each softmax node. `found` collects their noise under the same keys.
    """

    def __init__(self, graph: fx.GraphModule, codecs: Mapping[fx.Node, Mapping[str, Codec]]) -> None:
        # The probe reads values that the graph itself no longer needs.
        super().__init__(graph, garbage_collect_values=False)
        self.found = {site: {name: SiteNoise() for name in by_name} for site, by_name in codecs.items()}
        self._codecs = codecs
        self._paths = {path[-1]: (site, path) for site, path in find_paths(graph).items() if path}

    def run_node(self, n: fx.Node) -> Any:
        """Run a node and add the noise at softmaxes and their products."""
        result = super().run_node(n)
        if n in self._codecs:
            for name, codec in self._codecs[n].items():
                self.found[n][name].probabilities.add(result, codec.dequantize(codec.quantize(result)))
        if n in self._paths:
            site, path = self._paths[n]
            for name, codec in self._codecs[site].items():
                self.found[site][name].output.add(result, self._again(path, site, codec))
        return result

    def _again(self, path: Sequence[fx.Node], site: fx.Node, codec: Codec) -> Tensor:
        """Return the path's last value, computed from quantized probabilities."""
        values: dict[fx.Node, Any] = {site: codec.dequantize(codec.quantize(self.env[site]))}
        for node in path:
            args, kwargs = fx.map_arg((node.args, node.kwargs), lambda source: values.get(source, self.env.get(source)))
            values[node] = self.call_function(node.target, args, kwargs)
        quantized: Tensor = values[path[-1]]
        return quantized
