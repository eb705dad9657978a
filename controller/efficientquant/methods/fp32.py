"""The baseline: the model as it is, with batch norm folded, in 32-bit floats."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, ClassVar

from efficientquant.recipe import Recipe, register

if TYPE_CHECKING:
    from efficientquant.workbench import Workbench


@dataclasses.dataclass(frozen=True, kw_only=True)
class Fp32(Recipe):
    """Nothing is quantized."""

    method: ClassVar[str] = "fp32"
    version: ClassVar[int] = 1

    @property
    def summary(self) -> str:
        """Return what it does in a few words."""
        return "32-bit floats, batch norm folded"

    @property
    def needs_calibration(self) -> bool:
        """No: nothing is observed."""
        return False

    def apply(self, workbench: Workbench) -> None:
        """Leave the captured graph as it is."""


register(Fp32(name="fp32"))
