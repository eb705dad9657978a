"""A multiplication of each channel by a constant."""

from torch import Tensor, nn


class ChannelMultiply(nn.Module):
    """A multiplication by a factor for each channel.

    The factors (C,) apply to dimension `channel`, counted from the end: -3 for pictures (N, C, H, W).
    """

    factors: Tensor

    emulates = "multiply by channel"

    def __init__(self, factors: Tensor, channel: int = -3) -> None:
        super().__init__()
        self.register_buffer("factors", factors.detach().reshape(-1, *[1] * (-1 - channel)).clone())

    def forward(self, x: Tensor) -> Tensor:
        """Return x, each channel times its factor."""
        return x * self.factors
