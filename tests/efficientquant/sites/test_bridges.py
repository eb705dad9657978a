"""The bridge blocks of hybrid models, found in the graph."""

import pytest
import torch
from efficientquant.graph.capture import capture, fold_batch_norm
from efficientquant.sites.bridges import find_bridges
from torch import nn


def captured(model, shape):
    graph = capture(model.eval(), shape)
    fold_batch_norm(graph)
    return graph


class Tokens(nn.Module):
    """A module that unfolds a picture, behind convolutions on one path or on two."""

    def __init__(self, shortcut):
        super().__init__()
        self.first, self.second = nn.Conv2d(4, 4, 3, padding=1), nn.Conv2d(4, 4, 1)
        self.mix, self.shortcut = nn.Linear(4, 4), shortcut

    def forward(self, x):
        """Return a picture of the same shape."""
        y = nn.functional.silu(self.first(x))
        y = self.second(y + x if self.shortcut else y)
        tokens = self.mix(y.flatten(2).transpose(1, 2))
        return tokens.transpose(1, 2).reshape(x.shape)


@pytest.mark.parametrize("name", ["mobilevit_xxs", "mobilevitv2_050"])
def test_both_families_have_three_bridge_blocks_of_two_convolutions(models, name):
    """The block ends before the unfolding, and has the convolutions of the same module."""
    blocks = find_bridges(captured(models[name], (3, 256, 256)))
    assert [block.module for block in blocks] == ["stages.2.1", "stages.3.1", "stages.4.1"]
    for block in blocks:
        weights = [layer.weight.removeprefix(f"{block.module}.") for layer in block.layers]
        assert weights == ["conv_kxk.conv.weight", "conv_1x1.weight"]
        assert block.output == block.layers[-1].output


def test_a_cnn_has_no_bridge_block():
    """Without tokens there is nothing to lead to."""
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.SiLU(), nn.Conv2d(8, 8, 3), nn.Flatten(), nn.Linear(128, 5))
    assert find_bridges(captured(model, (3, 8, 8))) == []


@pytest.mark.parametrize(
    ("shortcut", "weights"), [(False, ["1.first.weight", "1.second.weight"]), (True, ["1.second.weight"])]
)
def test_a_convolution_beside_a_shortcut_is_no_member(shortcut, weights):
    """The output of a bridge block follows from each of its layers alone."""
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 4, 3, padding=1), Tokens(shortcut), nn.Conv2d(4, 4, 1), nn.Flatten(), nn.Linear(256, 5)
    )
    [block] = find_bridges(captured(model, (3, 8, 8)))
    assert [layer.weight for layer in block.layers] == weights
