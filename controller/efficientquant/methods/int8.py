"""W8A8: convolutions, linears and attention products in integers, symmetric and calibrated."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, ClassVar

from efficientquant.errors import RecipeFormatError
from efficientquant.options import FloatType, Network, Placement, RangeRule, Scope
from efficientquant.recipe import Needs, RoundingRecipe, register

if TYPE_CHECKING:
    from efficientquant.workbench import Workbench


@dataclasses.dataclass(frozen=True, kw_only=True)
class Int8(RoundingRecipe):
    """Symmetric weights and activations, multiplied in integers where in scope.

    Activations have one scale per tensor. `weight_bits` and `activation_bits` are 2 to 8. Below 8 codes of activations
    are still in int8. `output_bits` is the width of the outputs of convolutions and linears, before an activation
    function. Several runtimes multiply in integers only where the output is quantized too. None leaves the outputs in
    float. `range_rule` chooses an activation's range from the calibration data. With `placement=runtime` a target's
    file leaves out quantizers with which its runtime would be slower. At 8 bits the SiLUs behind convolutions are
    quantized too, so that ONNX Runtime computes whole chains in integers.
    """

    method: ClassVar[str] = "int8"
    version: ClassVar[int] = 4
    needs: ClassVar[Needs] = {"placement": {"weight_bits": 8, "activation_bits": 8}}

    activation_bits: int = 8
    output_bits: int | None = 8
    scope: Scope = Scope.ALL
    range_rule: RangeRule = RangeRule.MSE
    placement: Placement = Placement.RUNTIME
    rest: FloatType = FloatType.FP32

    def __post_init__(self) -> None:
        for field in ("weight_bits", "activation_bits"):
            if getattr(self, field) is None:
                raise RecipeFormatError(field, "none; an integer recipe quantizes both, choose 2 to 8")
        super().__post_init__()

    @property
    def summary(self) -> str:
        """The quantized operators with their bits."""
        same = self.weight_bits == self.activation_bits
        bits = f"int{self.weight_bits} weights and {'' if same else f'int{self.activation_bits} '}activations"
        return f"{bits}: {_OPERATORS[self.scope]}"

    @property
    def float_type(self) -> FloatType:
        """The type given by `rest`."""
        return self.rest

    @property
    def quantizes_inputs(self) -> bool:
        """True, since products of integers need both."""
        return True

    @property
    def leaves_out_slow(self) -> bool:
        """Whether the placement follows the runtime.

        Fewer bits than 8 are for size and accuracy, so that their quantizers stay.
        """
        return self.placement is Placement.RUNTIME and (self.weight_bits, self.activation_bits) == (8, 8)

    @property
    def needs_calibration(self) -> bool:
        """True, since activations get their ranges from data."""
        return True

    def apply(self, workbench: Workbench) -> None:
        """Quantize the activations of everything in scope, then the weights.

        Activations are calibrated on the float model, or after the weights on the quantized one.
        """
        if not self.activations_first:
            self.round_weights(workbench, self.scope)
        on = Network.FLOAT if self.activations_first else Network.QUANTIZED
        workbench.quantize_activations(self.scope, self.activation_bits, self.output_bits, self.range_rule, on=on)
        if self.output_bits == 8:
            workbench.quantize_silus(self.range_rule, on=on)
        if self.activations_first:
            self.round_weights(workbench, self.scope)


_OPERATORS = {
    Scope.CONV: "convolutions",
    Scope.LINEAR: "linears",
    Scope.CONV_OUTSIDE_TRANSFORMERS: "convolutions outside transformers",
    Scope.CONV_LINEAR: "convolutions, linears",
    Scope.ALL: "convolutions, linears, attention products",
}
register(Int8(name="int8"), Int8(name="w4a8", weight_bits=4, output_bits=None))
