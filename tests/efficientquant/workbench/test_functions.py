"""SiLUs behind quantized outputs compute in codes."""

import pytest
import torch
from efficientquant import Network, Workbench
from efficientquant.graph.capture import aten, call_nodes
from efficientquant.options import RangeRule, Scope
from efficientquant.quantizers import code_quantizers
from torch import nn


class Chain(nn.Module):
    """Two convolutions with SiLUs, of which the first has two readers."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 1)
        self.head = nn.Linear(4, 2)
        self.pretrained_cfg = {"input_size": (3, 8, 8)}

    def forward(self, x):
        """Return the logits."""
        x = nn.functional.silu(self.first(x))
        x = x + nn.functional.silu(self.second(x))
        return self.head(x.mean((2, 3)))


@pytest.fixture
def bench():
    """Return a workbench whose convolutions' inputs and outputs are quantized."""
    torch.manual_seed(0)
    bench = Workbench(Chain().eval(), torch.randn(12, 3, 8, 8), None)
    bench.quantize_activations(Scope.CONV, 8, 8, RangeRule.MSE)
    return bench


def test_sigmoids_and_free_results_get_quantizers(bench):
    """A sigmoid has codes from 0 to 1, and a result keeps the quantizer of the convolution that reads it."""
    before = set(code_quantizers(bench.graph))
    bench.quantize_silus(RangeRule.MSE, on=Network.QUANTIZED)
    added = [own for site, own in code_quantizers(bench.graph).items() if site not in before]

    assert len(call_nodes(bench.graph, aten.sigmoid.default)) == 2
    assert not call_nodes(bench.graph, aten.silu.default)
    assert [tuple(own.decode(own.codes(torch.tensor([0.0, 1.0])))) for own in added if hasattr(own, "axis")] == [
        (0.0, 1.0),
        (0.0, 1.0),
    ]
    assert len(added) == 3
    assert {site.quantizer for site in bench.manifest.activation_sites} == set(code_quantizers(bench.graph))


def test_the_network_computes_the_same_up_to_its_codes(bench):
    """The logits change by what 8 bits cost, and the graph still runs."""
    images = torch.randn(4, 3, 8, 8)
    bench.graph.recompile()
    with torch.no_grad():
        reference = bench.graph(images)
        bench.quantize_silus(RangeRule.MSE, on=Network.QUANTIZED)
        bench.graph.recompile()
        logits = bench.graph(images)

    assert 0 < float((logits - reference).abs().max()) < 0.05


def test_silus_of_float_outputs_stay(bench):
    """Without a quantizer of the output, nothing is changed."""
    bench.reset()
    bench.quantize_activations(Scope.CONV, 8, None, RangeRule.MSE)
    before = set(code_quantizers(bench.graph))

    bench.quantize_silus(RangeRule.MSE, on=Network.QUANTIZED)

    assert set(code_quantizers(bench.graph)) == before
    assert len(call_nodes(bench.graph, aten.silu.default)) == 2
