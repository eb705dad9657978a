"""The FP16 baseline: nothing quantized, 16-bit floats where that is safe."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, ClassVar

from efficientquant.options import FloatType
from efficientquant.recipe import Recipe, register

if TYPE_CHECKING:
    from efficientquant.workbench import Workbench


@dataclasses.dataclass(frozen=True, kw_only=True)
class Fp16(Recipe):
    """Everything in FP16 but the normalizations, whose sums of squares overflow it."""

    method: ClassVar[str] = "fp16"
    version: ClassVar[int] = 1

    @property
    def float_type(self) -> FloatType:
        """FP16."""
        return FloatType.FP16

    @property
    def summary(self) -> str:
        """The recipe in a few words."""
        return "16-bit floats, normalizations in 32 bits"

    @property
    def needs_calibration(self) -> bool:
        """False, since nothing is observed."""
        return False

    def apply(self, workbench: Workbench) -> None:
        """Leave the captured graph as it is."""


register(Fp16(name="fp16"))
