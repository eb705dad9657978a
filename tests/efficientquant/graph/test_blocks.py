"""Blocks, which are found from the graph and the modules and never by name."""

import efficientquant as eq
import pytest
import torch
from efficientquant.graph.blocks import find_blocks, find_layers
from efficientquant.graph.capture import capture, fold_batch_norm
from torch import nn

MOBILEVIT = [
    ("stem", 1),
    *[(f"stages.{stage}", 3) for stage in ("0.0", "1.0", "1.1", "1.2", "2.0")],
    ("stages.2.1", 12),
    ("stages.3.0", 3),
    ("stages.3.1", 20),
    ("stages.4.0", 3),
    ("stages.4.1", 16),
    ("final_conv", 1),
    ("head", 1),
]


def captured(model, shape):
    graph = capture(model, shape)
    fold_batch_norm(graph)
    return graph


@pytest.fixture(scope="module")
def graph_of():
    """Return a function that captures the graph of a timm model by name."""

    def make(name):
        model = eq.create_model(name, "random")
        return captured(model, eq.input_spec(model).shape)

    return make


class Residual(nn.Module):
    """Two convolutions and a shortcut."""

    def __init__(self, channels):
        super().__init__()
        self.first = nn.Conv2d(channels, channels, 3, padding=1)
        self.second = nn.Conv2d(channels, channels, 1)

    def forward(self, x):  # noqa: D102
        return x + self.second(torch.relu(self.first(x)))


def test_the_blocks_of_a_mobilevit_are_its_residual_and_bridge_blocks(graph_of):
    """A MobileViT's blocks are inverted residuals, MobileViT blocks, the stem, the last convolution and the head."""
    blocks = find_blocks(graph_of("mobilevit_xxs"))
    assert [(block.name, len(block.layers)) for block in blocks] == MOBILEVIT


@pytest.mark.parametrize(
    ("name", "blocks"), [("resnet18", 10), ("test_vit", 8), ("test_convnext", 14), ("mobilevitv2_050", 11)]
)
def test_blocks_are_a_chain_that_holds_every_layer_once(graph_of, name, blocks):
    """The output of a block is the source of the next block, and every layer is in one block."""
    graph = graph_of(name)
    chain = find_blocks(graph)
    assert len(chain) == blocks
    assert [block.output for block in chain[:-1]] == [block.source for block in chain[1:]]
    assert [layer for block in chain for layer in block.layers] == find_layers(graph)


def test_a_shortcut_across_modules_makes_them_one_block():
    """Modules with two tensors between them are one block, since a block has one input."""

    class Across(nn.Module):
        def __init__(self):
            super().__init__()
            self.stem = nn.Conv2d(3, 4, 1)
            self.left = Residual(4)
            self.right = Residual(4)
            self.last = Residual(4)

        def forward(self, x):
            x = self.stem(x)
            return self.last(self.right(self.left(x)) + x)

    blocks = find_blocks(captured(Across(), (3, 8, 8)))
    assert [len(block.layers) for block in blocks] == [1, 4, 2]


def test_a_container_is_split_and_a_module_that_computes_is_not():
    """Sequentials of blocks are split at any depth, and a chain of single layers stays one block."""
    chain = nn.Sequential(nn.Conv2d(4, 4, 1), nn.ReLU(), nn.Conv2d(4, 4, 1), nn.ReLU(), nn.Conv2d(4, 4, 1))
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.Sequential(nn.Sequential(Residual(4), Residual(4)), chain))
    blocks = find_blocks(captured(model, (3, 8, 8)))
    assert [(block.name, len(block.layers)) for block in blocks] == [("0", 1), ("1.0.0", 2), ("1.0.1", 2), ("1.1", 3)]


def test_a_layer_knows_its_window():
    """Kernel, stride, padding, dilation and groups come from the operator, in whatever form they are written."""
    model = nn.Conv2d(4, 8, (1, 3), stride=(1, 2), padding=(0, 1), dilation=1, groups=2)
    (layer,) = find_layers(captured(model, (4, 8, 8)))
    assert (layer.window.kernel, layer.window.stride, layer.window.padding) == ((1, 3), (1, 2), (0, 1))
    assert (layer.window.dilation, layer.window.groups) == ((1, 1), 2)
    assert (layer.weight, layer.input.channel) == ("weight", 1)
