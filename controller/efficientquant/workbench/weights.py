"""The edits of weights and biases by a recipe."""

import dataclasses

import torch
from torch import Tensor, fx, nn

from efficientquant import primitives
from efficientquant.errors import RecipeOrderError
from efficientquant.graph.blocks import Layer, Tap
from efficientquant.graph.capture import count_readers, get_tensor, parameter_name, set_tensor, use_bias
from efficientquant.graph.edits import replace_parameter
from efficientquant.graph.structure import find_weights
from efficientquant.images.calibration import CalibrationData, Progress
from efficientquant.options import Granularity, IdentificationRule, Scope
from efficientquant.quantizers import WeightDequantizer
from efficientquant.workbench.networks import Networks


@dataclasses.dataclass(frozen=True)
class QuantizedWeight:
    """int8 codes (O, ...), their float32 scale and optional int8 zero-points.

    Scale and zero-points broadcast against the codes, or are (O, groups) with a `group_size`: a group is that many
    consecutive columns of the codes as (O, columns).
    """

    codes: Tensor
    scale: Tensor
    zero_point: Tensor | None = None
    group_size: int | None = None

    def dequantize(self) -> Tensor:
        """Return the float weight (O, ...) that the codes stand for."""
        return WeightDequantizer(self.codes, self.scale, self.zero_point, self.group_size).forward()


class WeightBench(Networks):
    """The part of a workbench that edits weights and biases."""

    def __init__(self, model: nn.Module, images: CalibrationData | None, progress: Progress | None) -> None:
        super().__init__(model, images, progress)
        self.weights: dict[str, QuantizedWeight] = {}

    def find_weights(self, scope: Scope, rule: IdentificationRule = IdentificationRule.GRAPH) -> list[str]:
        """Return the names of the float weights in scope, in execution order."""
        names = find_weights(self._model, self.graph, scope, rule)
        return [name for name in names if name not in self.weights]

    def parameter(self, name: str) -> Tensor:
        """Return a copy of a parameter in float.

        A quantized weight is returned as it was before quantization. Raises ValueError for an unknown name.
        """
        if name in self.weights:
            return self._float_weights[name].clone()
        try:
            return get_tensor(self.graph, name).detach().clone()
        except AttributeError:
            raise ValueError(f"the network has no parameter {name!r}") from None

    def bias(self, layer: Layer) -> Tensor | None:
        """Return a copy of a layer's bias (O,), or None."""
        name = self._bias_name(layer)
        return None if name is None else get_tensor(self.graph, name).detach().clone()

    def quantize_weights(
        self,
        scope: Scope,
        bits: int,
        granularity: Granularity,
        rule: IdentificationRule = IdentificationRule.GRAPH,
    ) -> None:
        """Quantize every weight in scope, or note that there is none."""
        names = self.find_weights(scope, rule)
        if not names:
            self.notes.append(f"the model has no weight in scope {scope.value!r}: nothing to quantize there")
        for name in names:
            self.quantize_weight(name, bits, granularity)

    def quantize_weight(self, name: str, bits: int, granularity: Granularity) -> None:
        """Round a weight (O, ...) to symmetric codes and record its SQNR.

        Raises ValueError for an unknown name and for a bias, and NonFiniteError.
        """
        weight = self._require_weight(name)
        scale = primitives.choose_scale(weight, bits, granularity)
        quantized = QuantizedWeight(primitives.quantize(weight, scale, bits), scale)
        self._place_weight(name, quantized, bits, Granularity(granularity).value)

    def set_weight(
        self,
        name: str,
        codes: Tensor,
        scale: float | Tensor,
        zero_point: Tensor | None = None,
        *,
        bits: int,
        group_size: int | None = None,
    ) -> None:
        """Replace a weight by int8 codes (O, ...) and record its SQNR.

        `scale` has one element, or O elements. With a `group_size` it is (O, groups): that many consecutive columns of
        the weight as (O, columns) share a scale. A convolution's columns are im2col's. `zero_point` has the scale's
        shape and is signed: subtract 2^(bits-1) from an unsigned zero-point. The tensors are copied. A weight may be
        set again. Raises ValueError for codes, scales or zero-points that do not fit the weight.
        """
        primitives.require_bits(bits)
        weight = self._require_weight(name)
        half = 1 << (bits - 1)
        primitives.require_codes(codes, weight.shape, -half, half - 1)
        scales = torch.as_tensor(scale)
        scales = primitives.require_scales(scales, axis=0).reshape(scales.shape)
        placed = primitives.shape_scale(scales, weight.shape, group_size).clone()
        if zero_point is not None:
            zero_point = primitives.shape_scale(zero_point.detach(), weight.shape, group_size).clone()
            primitives.require_codes(zero_point, placed.shape, -half, half - 1)
        granularity = "per-tensor" if placed.numel() == 1 else "per-channel"
        granularity = granularity if group_size is None else f"groups of {group_size}"
        self._place_weight(name, QuantizedWeight(codes.clone(), placed, zero_point, group_size), bits, granularity)

    def set_bias(self, layer: Layer, value: Tensor) -> None:
        """Replace the bias (O,) of a layer, or add one.

        Where others read the bias too, they keep it and the layer gets its own. Raises ValueError unless the value is
        finite, float32 and of that shape.
        """
        node = self._node(layer.node)
        channels = self.parameter(layer.weight).shape[:1]
        primitives.require_floats(value, channels, f"the bias of {layer.node!r}")
        name = self._bias_name(layer)
        is_own = name is not None and count_readers(self.graph, name) == 1
        if name is None or not is_own:
            owner = layer.weight.rpartition(".")[0]
            taken = hasattr(self.graph.get_submodule(owner), "bias")
            name = ".".join(filter(None, (owner, f"{layer.node}_bias" if taken else "bias")))
        self._is_edited = True
        set_tensor(self.graph, name, value.detach().clone())
        if not is_own:
            use_bias(self.graph, node, name)

    def set_parameter(self, name: str, value: Tensor) -> None:
        """Replace a float parameter, as a reparameterization does.

        Raises RecipeOrderError for a quantized weight, and ValueError unless the value is finite and of the parameter's
        shape and type.
        """
        if name in self.weights:
            raise RecipeOrderError(f"{name} is already quantized; change it before")
        primitives.require_floats(value, self.parameter(name).shape, name)
        self._is_edited = True
        set_tensor(self.graph, name, value.detach().clone())

    def _require_weight(self, name: str) -> Tensor:
        """Return a copy of a weight.

        Raises ValueError for a bias.
        """
        weight = self.parameter(name)
        if weight.ndim < 2:
            raise ValueError(f"{name!r} has shape {tuple(weight.shape)} and is no weight: a weight is (O, ...)")
        return weight

    def _place_weight(self, name: str, quantized: QuantizedWeight, bits: int, granularity: str) -> None:
        """Replace a weight by a dequantizer and record its SQNR."""
        weight = self.parameter(name)
        dequantizer = WeightDequantizer(
            quantized.codes, quantized.scale, quantized.zero_point, quantized.group_size, bits
        )
        if name in self.weights:
            self.graph.set_submodule(f"{name}_dequantizer", dequantizer)
        else:
            replace_parameter(self.graph, name, f"{name}_dequantizer", dequantizer)
        self._is_edited = True
        self._float_weights[name] = weight
        self.weights[name] = quantized
        approximation = dequantizer()
        channels = primitives.channel_sqnr_db(weight, approximation)
        worst = min(range(len(channels)), key=channels.__getitem__)
        self._update(
            name,
            bits=bits,
            granularity=granularity,
            is_symmetric=quantized.zero_point is None,
            sqnr_db=primitives.sqnr_db(weight, approximation),
            worst_channel_db=channels[worst],
            worst_channel=worst,
        )

    def _node(self, name: str) -> fx.Node:
        return Tap(name).find(self.graph)

    def _bias_name(self, layer: Layer) -> str | None:
        arguments = self._node(layer.node).args
        return parameter_name(arguments[2]) if len(arguments) > 2 else None
