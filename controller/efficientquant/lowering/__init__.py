"""Lowering of the canonical ONNX graph to what one target builds."""

import dataclasses
import json
from collections.abc import Collection
from pathlib import Path

import onnx_ir as ir

from efficientquant.lowering.cleaning import clean
from efficientquant.lowering.emulation import Emulation, count_emulation, write_emulation
from efficientquant.lowering.half import to_half
from efficientquant.lowering.opset13 import lower_to_opset_13
from efficientquant.lowering.opset21 import raise_to_opset_21
from efficientquant.lowering.passes import choose_passes, run_passes
from efficientquant.lowering.quantizers import place_quantizers
from efficientquant.options import FloatType
from efficientquant.quantizers import DOMAIN
from efficientquant.recipe import Recipe
from efficientquant.targets import Half, Target


@dataclasses.dataclass(frozen=True)
class Variant:
    """A lowered model, and the parts of the recipe that it computes.

    `rounded` maps each quantizer's site to the tensor with its rounded values. `dropped` are the other sites, whose
    quantizers the model leaves out. `dequantizers` counts the tensors in integers behind a DequantizeLinear, `decoded`
    the weights in integers that are decoded once, `folded` the weights turned back to float, `widened` the 4-bit
    weights kept in 8 bits, `fake` the weights in FP32 that the builder quantizes. `rules` counts the products that
    each rule of placement computes in float. `emulation` counts the float operators that emulate others. `passes`
    counts the places that each pass changed. `builder_flags` are the flags that a TensorRT builder needs ("fp16",
    "int8").
    """

    model: ir.Model
    rounded: dict[str, str]
    dropped: frozenset[str]
    dequantizers: int
    decoded: int
    rules: dict[str, int]
    folded: int
    widened: int
    fake: int
    emulation: dict[str, Emulation]
    passes: dict[str, int]
    is_half: bool
    builder_flags: tuple[str, ...]


def lower(
    canonical: ir.Model,
    target: Target,
    recipe: Recipe,
    path: Path,
    *,
    half: bool = True,
    without_passes: Collection[str] = (),
) -> Variant:
    """Return a target's variant of the canonical model.

    The canonical model stays as it is. Without `half` the variant's types stay FP32 whatever the recipe says, so that
    everything but half precision can be checked. `path` only names the artifact in errors. Raises LoweringError for an
    operator or quantizer that the target does not support, and UnknownPassError.
    """
    model = canonical.clone()
    passes = choose_passes(target, without_passes)
    wants_half = recipe.float_type is FloatType.FP16
    # Attention in FP32 is not fused and takes TensorRT longer than integers, by the cost model of its engines.
    leaves_out_slow = recipe.leaves_out_slow and (wants_half or not target.is_tensorrt)
    placement = place_quantizers(model.graph, target, path, recipe.name_for_tensorrt(), leaves_out_slow=leaves_out_slow)
    changed = run_passes(model.graph, passes, late=False)
    is_half = half and wants_half and target.half is Half.TYPED
    if is_half:
        to_half(model.graph)
    if target.opset == 13:
        lower_to_opset_13(model, path)
    changed |= run_passes(model.graph, passes, late=True)
    emulation = count_emulation(model.graph)
    clean(model)
    model.opset_imports.pop(DOMAIN, None)
    model.opset_imports[""], model.ir_version = target.opset, target.ir_version
    if placement.four_bit or placement.blocks or changed.get("group-norms"):
        raise_to_opset_21(model, path)
    flags = _builder_flags(target, wants_half, bool(placement.dequantizers))
    model.metadata_props["efficientquant.target"] = target.name
    model.metadata_props["efficientquant.recipe"] = json.dumps(recipe.to_dict(), sort_keys=True)
    model.metadata_props["efficientquant.builder_flags"] = ",".join(flags)
    model.metadata_props["efficientquant.passes"] = ",".join(each.name for each in passes)
    write_emulation(model, emulation)
    return Variant(
        model=model,
        rounded={site: str(value.name) for site, value in placement.rounded.items()},
        dropped=frozenset(placement.dropped),
        dequantizers=placement.dequantizers,
        decoded=placement.decoded,
        rules=placement.rules,
        folded=placement.folded,
        widened=placement.widened,
        fake=placement.fake,
        emulation=emulation,
        passes=changed,
        is_half=is_half,
        builder_flags=flags,
    )


def _builder_flags(target: Target, wants_half: bool, has_int8: bool) -> tuple[str, ...]:
    if not target.is_tensorrt or target.half is Half.TYPED:
        return ()
    return tuple(flag for flag, wanted in (("fp16", wants_half), ("int8", has_int8)) if wanted)
