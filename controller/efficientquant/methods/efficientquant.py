"""EfficientQuant (Saha & Xu) with its formulas corrected.

Convolution weights become int8, probabilities after softmax become log2 codes.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, ClassVar

from efficientquant.errors import RecipeFormatError
from efficientquant.options import FloatType, Granularity, IdentificationRule, Log2Emulation, Log2Form, Network, Scope
from efficientquant.recipe import RoundingRecipe, register

if TYPE_CHECKING:
    from efficientquant.workbench import Workbench


@dataclasses.dataclass(frozen=True, kw_only=True)
class EfficientQuant(RoundingRecipe):
    """Uniform symmetric weights and log2 activations after softmax.

    Weights follow Eq. 1-3, activations Eq. 4-6. The rest stays in float. `weight_bits` and `softmax_bits` are 2 to 8,
    or None to leave that part in float. `log2_epsilon` belongs to form A, `log2_octaves` to form G. `rule` separates
    convolutional from transformer blocks.
    """

    method: ClassVar[str] = "efficientquant"
    version: ClassVar[int] = 4

    scope: Scope = Scope.CONV
    softmax_bits: int | None = 8
    log2_form: Log2Form = Log2Form.CALIBRATED
    log2_epsilon: float = 1e-5
    log2_octaves: int = 20
    log2_emulation: Log2Emulation = Log2Emulation.KEEP
    rule: IdentificationRule = IdentificationRule.GRAPH
    rest: FloatType = FloatType.FP32

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.scope is Scope.ALL:
            raise RecipeFormatError("scope", "attention products have no weights; choose conv+linear, or recipe int8")
        if not 0 < self.log2_epsilon < 1:
            raise RecipeFormatError("log2_epsilon", f"{self.log2_epsilon}; it must lie between 0 and 1")
        if not 1 <= self.log2_octaves <= 100:
            raise RecipeFormatError("log2_octaves", f"{self.log2_octaves}; 1 to 100 are possible")

    @property
    def summary(self) -> str:
        """The quantized weights and softmaxes with their bits."""
        scales = self.granularity.replace("-", " ") if self.group_size is None else f"in groups of {self.group_size}"
        weights = f"int{self.weight_bits} {_OPERATORS[self.scope]} weights {scales}"
        softmax = f"{self.softmax_bits}-bit log2 after softmax"
        parts = [
            "weights in float" if self.weight_bits is None else weights,
            "softmax in float" if self.softmax_bits is None else softmax,
        ]
        return ", ".join(parts if self.weight_bits is not None else parts[::-1])

    @property
    def float_type(self) -> FloatType:
        """The type given by `rest`."""
        return self.rest

    @property
    def needs_calibration(self) -> bool:
        """Whether form A of the log2 quantizer or compensated rounding is used.

        Nothing else needs activations.
        """
        is_calibrated = self.softmax_bits is not None and self.log2_form is Log2Form.CALIBRATED
        return is_calibrated or self.may_compensate

    def apply(self, workbench: Workbench) -> None:
        """Quantize the weights in scope, then every softmax.

        Form A of the log2 quantizer is calibrated on the network with quantized weights. Weights that make up for the
        softmax come after it.
        """
        softmax_first = self.activations_first and self.compensates(workbench)
        if softmax_first:
            self._quantize_softmax(workbench, Network.FLOAT)
        if self.weight_bits is not None:
            self.round_weights(workbench, self.scope, self.rule)
        if not softmax_first:
            self._quantize_softmax(workbench, Network.QUANTIZED)

    def _quantize_softmax(self, workbench: Workbench, on: Network) -> None:
        if self.softmax_bits is not None:
            workbench.quantize_softmax(
                self.softmax_bits, self.log2_form, self.log2_epsilon, self.log2_octaves, self.log2_emulation, on=on
            )


_OPERATORS = {
    Scope.CONV: "Conv2d",
    Scope.LINEAR: "Linear",
    Scope.CONV_OUTSIDE_TRANSFORMERS: "Conv2d (outside transformers)",
    Scope.CONV_LINEAR: "Conv2d and Linear",
}
_PAPER = EfficientQuant(name="efficientquant")
register(
    _PAPER,
    dataclasses.replace(_PAPER, name="efficientquant-w4", weight_bits=4, scope=Scope.CONV_LINEAR),
    dataclasses.replace(_PAPER, name="efficientquant-weights", softmax_bits=None),
    dataclasses.replace(_PAPER, name="efficientquant-log2", weight_bits=None),
    dataclasses.replace(_PAPER, name="efficientquant-per-tensor", granularity=Granularity.PER_TENSOR),
)
