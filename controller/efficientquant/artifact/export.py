"""Export of a fake-quantized model to an ONNX file for one target.

A file is kept only if it agrees with the eager model.
"""

import dataclasses
import hashlib
import json
from collections.abc import Collection
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import onnx
import onnx_ir as ir
import torch
from torch import Tensor

from efficientquant.artifact import exact_products
from efficientquant.artifact.openvino_model import openvino_version
from efficientquant.artifact.parity import (
    PARITY_LIMIT,
    Parity,
    measure_openvino,
    measure_optimizations,
    measure_parity,
)
from efficientquant.artifact.validation import find_violations
from efficientquant.artifact.view import GraphView
from efficientquant.bits import bit_table
from efficientquant.errors import ArtifactError
from efficientquant.files.whole_files import require_writable, write_together
from efficientquant.graph.manifest import Manifest
from efficientquant.images.calibration import Progress
from efficientquant.installation import has_openvino
from efficientquant.lowering import Variant, lower
from efficientquant.lowering.emulation import Emulation, describe_emulation
from efficientquant.models import synthetic_images
from efficientquant.quantization import QuantizedModel
from efficientquant.targets import Int4, Int8Products, Runtime, Target, get_target

WIDEST_TARGET = "onnxruntime-1.10"
PARITY_IMAGES = 4
PARITY_SEED = 1  # other pictures than the calibration's


@dataclasses.dataclass(frozen=True)
class Artifact:
    """A checked ONNX file and the results of its checks.

    `parity_max_abs` is the largest |Δ| between the logits of ONNX Runtime and of the eager fake-quantized model.
    `bit_table` describes this file, which may quantize less than its recipe where the target cannot. `builder_flags`
    are the flags that a TensorRT builder with precision flags needs. `emulation` counts the float operators that stand
    for what no runtime has, by kind.
    """

    path: Path
    sha256: str
    size_bytes: int
    target: str
    opset: int
    ir_version: int
    parity_max_abs: float
    bit_table: dict[str, str]
    builder_flags: tuple[str, ...]
    emulation: dict[str, Emulation]
    notes: list[str]
    manifest: dict[str, Any]


@dataclasses.dataclass(frozen=True)
class Rendered:
    """A checked file that is not written yet, as model and bytes."""

    artifact: Artifact
    model: onnx.ModelProto
    content: bytes


def export_onnx(
    quantized: QuantizedModel,
    path: str | Path,
    *,
    target: str = WIDEST_TARGET,
    images: Tensor | None = None,
    progress: Progress | None = None,
    without_passes: Collection[str] = (),
) -> Artifact:
    """Check and write a static batch-1 ONNX file for a target.

    The checks are those of `render_onnx`. No file is kept if one fails. `without_passes` names lowering passes to leave
    out. Raises UnknownTargetError, UnknownPassError, ArtifactError, and OutputError for a path that cannot be written.
    """
    require_writable(Path(path))  # fails before the long work
    rendered = render_onnx(
        quantized, path, target=target, images=images, progress=progress, without_passes=without_passes
    )
    write_together({rendered.artifact.path: rendered.content})
    return rendered.artifact


def render_onnx(
    quantized: QuantizedModel,
    path: str | Path,
    *,
    target: str = WIDEST_TARGET,
    images: Tensor | None = None,
    progress: Progress | None = None,
    without_passes: Collection[str] = (),
) -> Rendered:
    """Make and check a static batch-1 ONNX file for a target.

    Writes nothing. The same inputs give the same bytes. The checks are:

    - the ONNX checker
    - one DequantizeLinear per quantized weight and activation, or a cast for a weight that is decoded once
    - the target's rules
    - a run with all optimizations of ONNX Runtime, or with an installed OpenVINO, where that is the target's runtime.
      Where layers with quantized weights have quantized inputs, it may change the logits as much as own codes may
    - |Δ| to the eager model on `images` (N, C, H, W), with synthetic ones to make four: at most 1e-4 in FP32, at most
      3 % of the largest logit in FP16, where the same file in FP32 must keep 1e-4 too
    - |Δ| with each runtime's own codes, at most four times what the quantizers of activations change

    Raises UnknownTargetError, UnknownPassError and ArtifactError.
    """
    path, capabilities = Path(path), get_target(target)
    report = progress or (lambda _phase, _fraction: None)
    report("export", 0.0)
    canonical = quantized.canonical
    report("export", 0.6)
    variant = lower(canonical, capabilities, quantized.recipe, path, without_passes=without_passes)
    bits = bit_table(quantized.manifest, quantized.recipe.float_type, variant.dropped)
    variant.model.metadata_props["efficientquant.bit_table"] = json.dumps(bits)
    proto = ir.to_proto(variant.model)
    content = proto.SerializeToString(deterministic=True)
    _check(proto, variant, capabilities, path)
    report("parity", 0.8)
    synthetic = synthetic_images(quantized.input_spec, PARITY_IMAGES, PARITY_SEED)
    images = synthetic if images is None else torch.cat([images, synthetic[len(images) :]])
    parity = measure_parity(quantized, variant, proto, images)
    _require_parity(parity, path)
    own = _measure_own_runtime(proto, images, parity, capabilities, path)
    if own.moved_by > parity.own_limit and _rounds_all_inputs(quantized.manifest, variant):
        problem = f"the optimizations of {own.runtime} change its logits by {own.moved_by:.2e}, more than"
        raise ArtifactError(path, f"{problem} {parity.own_limit:.2e}")
    if variant.is_half:
        twin = lower(canonical, capabilities, quantized.recipe, path, half=False, without_passes=without_passes)
        _require_parity(measure_parity(quantized, twin, ir.to_proto(twin.model), images), path)
    report("parity", 1.0)
    artifact = Artifact(
        path=path,
        sha256=hashlib.sha256(content).hexdigest(),
        size_bytes=len(content),
        target=target,
        opset=variant.model.opset_imports[""],
        ir_version=variant.model.ir_version,
        parity_max_abs=parity.max_abs,
        bit_table=bits,
        builder_flags=variant.builder_flags,
        emulation=variant.emulation,
        notes=[
            *quantized.notes,
            *_variant_notes(variant, capabilities),
            *_parity_notes(parity, own),
            *_product_notes(capabilities),
        ],
        manifest=quantized.manifest.to_dict() | {"parity": parity.to_dict()},
    )
    return Rendered(artifact, proto, content)


def _check(proto: onnx.ModelProto, variant: Variant, target: Target, path: Path) -> None:
    try:
        onnx.checker.check_model(proto, full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise ArtifactError(path, f"the ONNX checker refuses it: {error}") from error
    count = sum(node.op_type == "DequantizeLinear" for node in proto.graph.node)
    if count != variant.dequantizers:
        raise ArtifactError(path, f"it has {count} DequantizeLinear nodes for {variant.dequantizers} quantized tensors")
    view = GraphView(proto)
    decoded = sum(view.decodes_constant(node) for node in view.nodes)
    if decoded != variant.decoded:
        raise ArtifactError(path, f"it has {decoded} decoded constants for {variant.decoded} weights")
    for violation in find_violations(proto, target):
        raise ArtifactError(path, str(violation))


class _OwnRuntime(NamedTuple):
    """How far the target's own runtime moves the logits.

    Nothing was measured where it has no name.
    """

    runtime: str = ""
    moved_by: float = 0.0


def _measure_own_runtime(
    proto: onnx.ModelProto, images: Tensor, parity: Parity, target: Target, path: Path
) -> _OwnRuntime:
    if target.runtime is Runtime.ONNX_RUNTIME:
        is_exact = target.int8_products is Int8Products.EXACT
        moved_by = measure_optimizations(proto, images, path, parity.logits, exact_products=is_exact)
        return _OwnRuntime(f"ONNX Runtime {version('onnxruntime')}", moved_by)
    if target.runtime is Runtime.OPENVINO and has_openvino():
        return _OwnRuntime(f"OpenVINO {openvino_version()}", measure_openvino(proto, images, path, parity.logits))
    return _OwnRuntime()


def _require_parity(parity: Parity, path: Path) -> None:
    if parity.problem is not None:
        raise ArtifactError(path, parity.problem)


def _rounds_all_inputs(manifest: Manifest, variant: Variant) -> bool:
    """Tell whether every kind of layer with quantized weights has quantized inputs.

    Otherwise, ONNX Runtime rounds inputs that are float in the file.
    """
    kinds = {entry.operator for entry in manifest.entries.values() if entry.bits < 32}
    live = [site for site in manifest.activation_sites if site.quantizer not in variant.dropped]
    return bool(kinds) and kinds <= {kind for site in live for kind in site.consumers}


def _variant_notes(variant: Variant, target: Target) -> list[str]:
    notes = []
    if variant.folded:
        notes.append(f"{variant.folded} quantized weights are stored in float: {target.name} takes no int8 there")
    if rules := ", ".join(f"{name} ({products})" for name, products in variant.rules.items()):
        notes.append(f"products in float by the rules for {target.name}: {rules}; placement=all has them in integers")
    if variant.widened:
        notes.append(f"{variant.widened} weights of up to 4 bits are stored in 8 bits: {_why_widened(target)}")
    if variant.fake:
        notes.append(f"{variant.fake} quantized weights are stored in FP32: {target.name} quantizes them itself")
    if variant.emulation:
        notes.append(f"emulated in float: {describe_emulation(variant.emulation)}")
    if places := ", ".join(f"{name} at {count} places" for name, count in variant.passes.items() if count):
        notes.append(f"written for {target.name}: {places}")
    if variant.dropped:
        notes.append(f"{len(variant.dropped)} quantizers of activations are left out of the file for {target.name}")
    return notes


def _why_widened(target: Target) -> str:
    if target.int4 is Int4.NONE:
        return f"{target.name} takes no 4-bit weights"
    return f"the integer kernels of {target.name} take 8-bit weights"


def _product_notes(target: Target) -> list[str]:
    is_exact = target.runtime is Runtime.ONNX_RUNTIME and target.int8_products is Int8Products.EXACT
    if not is_exact or not exact_products.products_saturate():
        return []
    return [
        "products saturate on this CPU, which has no VNNI; ONNX Runtime checked the file with the exact products of "
        f"{target.name}"
    ]


def _parity_notes(parity: Parity, own: _OwnRuntime) -> list[str]:
    notes = []
    if parity.moved_codes:
        notes.append(
            f"{parity.moved_codes} codes on a rounding boundary differ by one step between torch and ONNX Runtime; "
            "parity was measured with these codes held equal; with each runtime's own codes the logits differ by "
            f"{parity.own_max_abs:.1e}, where {parity.own_limit:.1e} is allowed"
        )
    if own.moved_by > PARITY_LIMIT:
        notes.append(
            f"the optimizations of {own.runtime} change the logits by up to {own.moved_by:.1e}: its kernels "
            "round once more, or elsewhere"
        )
    return notes
