"""The phases that the compared methods report."""

import itertools

import efficientquant as eq
import pytest
import torch
from torch import nn

OWN = {
    "easyquant:rounds=1": {"search scales": 6},
    "easyquant:grid=code": {"search scales": 12},
    "ptq4vit:rounds=1": {"gradients": 1, "search steps": 8},
    "ptq4vit:rounds=1:gradient=mse": {"search steps": 8},
    "repq-vit": {"set ranges": 10},
    "q-hyvit:rounds=1": {"calibrate": 1, "search products": 2, "search layers": 6},
    "hyq:alpha_steps=2": {"calibrate": 1, "learn factors": 2},
    "hyq:qads=false": {"calibrate": 1},
}


class Hybrid(nn.Module):
    """Six layers with an inverted residual and an attention."""

    def __init__(self):
        super().__init__()
        self.stem, self.expand = nn.Conv2d(3, 8, 3, 2, 1), nn.Conv2d(8, 16, 1)
        self.depthwise, self.project = nn.Conv2d(16, 16, 3, padding=1, groups=16), nn.Conv2d(16, 8, 1)
        self.first, self.second = nn.LayerNorm(8), nn.LayerNorm(8)
        self.qkv, self.head = nn.Linear(8, 24), nn.Linear(8, 5)
        self.pretrained_cfg = {"input_size": (3, 8, 8)}

    def forward(self, x):
        """Return the logits."""
        x = self.stem(x)
        y = nn.functional.silu(self.depthwise(nn.functional.silu(self.expand(x))))
        x = (x + self.project(y)).flatten(2).transpose(1, 2)
        q, k, v = self.qkv(self.first(x)).chunk(3, -1)
        x = x + (q @ k.transpose(-2, -1)).softmax(-1) @ v
        return self.head(self.second(x).mean(1))


@pytest.mark.parametrize("recipe", OWN)
def test_every_phase_moves_to_its_end(recipe):
    """Each phase comes in order, moves on and ends at 1."""
    torch.manual_seed(0)
    seen = []
    images = torch.randn(6, 3, 8, 8)
    eq.quantize(Hybrid().eval(), eq.get_recipe(recipe), images, progress=lambda *moved: seen.append(moved))
    runs = [(phase, [fraction for _, fraction in moves]) for phase, moves in itertools.groupby(seen, lambda s: s[0])]
    assert list(dict.fromkeys(phase for phase, _ in runs)) == ["capture", *OWN[recipe]]
    for phase, fractions in runs:
        assert fractions[-1] == pytest.approx(1)
        if phase in OWN[recipe] and phase not in ("calibrate", "gradients"):
            steps = OWN[recipe][phase]
            assert [round(steps * fraction, 3) for fraction in fractions] == list(range(1, steps + 1))
