"""Logits stay in float, also where the output combines those of several heads."""

import efficientquant as eq
import pytest
import timm
import torch
from efficientquant.graph.capture import call_nodes, capture
from efficientquant.graph.logits import find_logits
from efficientquant.graph.roles import LINEAR, WEIGHTED
from torch import nn

COMBINATIONS = {
    "alone": lambda a, _b: a,
    "half the sum": lambda a, b: (a + b) / 2,
    "weighted": lambda a, b: 0.25 * a - b.mul(-0.75),
    "in place": lambda a, b: a.add_(b).div_(2),
    "negated": lambda a, b: -(1 - a) + b,
    "mean of a stack": lambda a, b: torch.stack([a, b]).mean(0),
    "mean of a column": lambda a, b: torch.stack([a, b], -1).mean(-1),
    "sum of a concatenation": lambda a, b: torch.cat([a, b], 1).reshape(-1, 2, 5).sum(1),
    "half of each": lambda a, b: torch.cat([a[:, :2], b[:, 2:]], 1),
    "lerp": lambda a, b: torch.lerp(a, b, 0.5),
    "parts": lambda a, b: sum(torch.cat([a, b], 1).chunk(2, 1)),
    "selected": lambda a, b: torch.stack([a, b], 1)[:, 0],
    "dropout": lambda a, b: nn.functional.dropout(a, 0.1, training=False) + b,
    "size": lambda a, b: (a + b).view(a.shape[0], 5),
    "probabilities": lambda a, b: ((a + b) / 2).softmax(-1),
}


class TwoHeads(nn.Module):
    """A convolution and two linears, whose results are combined."""

    pretrained_cfg = {"input_size": (3, 8, 8)}  # noqa: RUF012

    def __init__(self, combine):
        super().__init__()
        self.conv, self.first, self.second = nn.Conv2d(3, 6, 3), nn.Linear(6, 5), nn.Linear(6, 5)
        self.combine = combine

    def forward(self, x):
        """Return the combined results (N, 5)."""
        x = self.conv(x).relu().mean((2, 3))
        return self.combine(self.first(x), self.second(x))


def quantize(model):
    """Return a model in int8 and the layers whose results it leaves in float."""
    images = torch.rand(2, *model.pretrained_cfg["input_size"], generator=torch.Generator().manual_seed(0))
    quantized = eq.quantize(model.eval(), eq.get_recipe("int8"), images)
    coded = {site.node for site in quantized.manifest.activation_sites if site.producer}
    return quantized, [node.name for node in call_nodes(quantized.module, *WEIGHTED) if node.name not in coded]


@pytest.mark.parametrize("combine", COMBINATIONS.values(), ids=COMBINATIONS)
def test_combined_logits_stay_in_float(combine, tmp_path):
    """No quantizer stands between a head and the output, and parity sees the heads."""
    torch.manual_seed(0)
    quantized, left = quantize(TwoHeads(combine))
    assert left == [node.name for node in call_nodes(quantized.module, LINEAR)]
    artifact = eq.export_onnx(quantized, tmp_path / "model.onnx", target="onnxruntime")
    assert artifact.parity_max_abs < 1e-5


@pytest.mark.parametrize("between", [nn.ReLU(), nn.LayerNorm(5), nn.Linear(5, 5)], ids=["relu", "norm", "linear"])
def test_another_operator_ends_the_logits(between):
    """What a function, a norm or a layer reads is an ordinary result."""
    torch.manual_seed(0)
    model = nn.Sequential(TwoHeads(lambda a, b: a + b), between)
    model.pretrained_cfg = TwoHeads.pretrained_cfg
    _, left = quantize(model)
    assert left == (["linear_2"] if isinstance(between, nn.Linear) else [])


def test_a_residual_sum_is_no_logit():
    """A layer whose sum another layer reads is quantized."""

    class Residual(TwoHeads):
        def forward(self, x):
            x = self.first(self.conv(x).mean((2, 3)))
            return x + x.mul(2).sin() + nn.functional.linear(x, torch.eye(5))

    graph = capture(Residual(None).eval(), (3, 8, 8))
    names = {node.name for node in find_logits(graph)}
    assert {"linear_1", "add", "add_1"} <= names
    assert "linear" not in names


def crossvit():
    """Return a model that takes the mean of two branches' heads."""
    model = timm.create_model("crossvit_tiny_240", img_size=120, num_classes=10)
    model.pretrained_cfg = {"input_size": (3, 120, 120)}
    return model


def swiftformer():
    """Return a model that averages a head and a distilled head."""
    model = timm.create_model("swiftformer_xs", num_classes=10)
    model.pretrained_cfg = {"input_size": (3, 64, 64)}
    return model


@pytest.mark.parametrize("make", [crossvit, swiftformer])
def test_two_heads_of_a_model_stay_in_float(make, tmp_path):
    """Both linears of timm's models keep float logits, which parity compares."""
    torch.manual_seed(0)
    quantized, left = quantize(make())
    assert left == [node.name for node in call_nodes(quantized.module, LINEAR)][-2:]
    artifact = eq.export_onnx(quantized, tmp_path / "model.onnx", target="onnxruntime")
    assert 0 < artifact.parity_max_abs <= 1e-4
