"""The FP32 baseline, with batch norm folded."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, ClassVar

from efficientquant.recipe import Recipe, register

if TYPE_CHECKING:
    from efficientquant.workbench import Workbench


@dataclasses.dataclass(frozen=True, kw_only=True)
class Fp32(Recipe):
    """The model without quantization."""

    method: ClassVar[str] = "fp32"
    version: ClassVar[int] = 1

    @property
    def summary(self) -> str:
        """The recipe in a few words."""
        return "32-bit floats, batch norm folded"

    @property
    def needs_calibration(self) -> bool:
        """False, since nothing is observed."""
        return False

    def apply(self, workbench: Workbench) -> None:
        """Leave the captured graph as it is."""


register(Fp32(name="fp32"))
