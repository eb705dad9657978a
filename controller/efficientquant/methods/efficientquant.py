"""EfficientQuant (Saha & Xu) with its formulas corrected: int8 convolution weights, log2 codes after softmax."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, ClassVar

from efficientquant.errors import RecipeFormatError
from efficientquant.recipe import Granularity, IdentificationRule, Log2Form, Recipe, register

if TYPE_CHECKING:
    from efficientquant.quantization import Quantization


@dataclasses.dataclass(frozen=True, kw_only=True)
class EfficientQuant(Recipe):
    """Uniform symmetric Conv2d weights (Eq. 1-3) and log2 post-softmax activations (Eq. 4-6), the rest in float.

    `weight_bits` and `softmax_bits` are 2 to 8, or None to leave that part in float. `log2_epsilon` belongs
    to form A, `log2_octaves` to form G. `rule` decides which convolutions count as convolutional.
    """

    method: ClassVar[str] = "efficientquant"
    version: ClassVar[int] = 1
    summary: ClassVar[str] = "int8 Conv2d weights per channel, 8-bit log2 after softmax"

    weight_bits: int | None = 8
    granularity: Granularity = Granularity.PER_CHANNEL
    softmax_bits: int | None = 8
    log2_form: Log2Form = Log2Form.CALIBRATED
    log2_epsilon: float = 1e-5
    log2_octaves: int = 20
    rule: IdentificationRule = IdentificationRule.GRAPH

    def __post_init__(self) -> None:
        for field in ("weight_bits", "softmax_bits"):
            bits = getattr(self, field)
            if bits is not None and bits not in range(2, 9):
                raise RecipeFormatError(field, f"{bits} bits; 2 to 8 are possible, or none")
        for field, kind in (("granularity", Granularity), ("log2_form", Log2Form), ("rule", IdentificationRule)):
            _coerce(self, field, kind)
        if not 0 < self.log2_epsilon < 1:
            raise RecipeFormatError("log2_epsilon", f"{self.log2_epsilon}; it must lie between 0 and 1")
        if not 1 <= self.log2_octaves <= 100:
            raise RecipeFormatError("log2_octaves", f"{self.log2_octaves}; 1 to 100 are possible")

    @property
    def needs_calibration(self) -> bool:
        """Only form A of the log2 quantizer looks at activations."""
        return self.softmax_bits is not None and self.log2_form is Log2Form.CALIBRATED

    def apply(self, quantization: Quantization) -> None:
        """Quantize the weights of every convolution, then put a log2 quantizer behind every softmax."""
        if self.weight_bits is not None:
            for convolution in quantization.convolutions(self.rule):
                quantization.quantize_weight(convolution, self.weight_bits, self.granularity)
        if self.softmax_bits is not None:
            quantization.quantize_softmax(self.softmax_bits, self.log2_form, self.log2_epsilon, self.log2_octaves)


def _coerce(recipe: EfficientQuant, field: str, kind: type[Granularity | Log2Form | IdentificationRule]) -> None:
    try:
        object.__setattr__(recipe, field, kind(getattr(recipe, field)))
    except ValueError:
        choices = ", ".join(member.value for member in kind)
        raise RecipeFormatError(field, f"{getattr(recipe, field)!r}; it must be one of {choices}") from None


register(EfficientQuant(name="efficientquant"))
