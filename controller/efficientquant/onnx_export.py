"""A fake-quantized model → an ONNX file with real int8 weights, kept only after it agreed with the eager model."""

import dataclasses
import hashlib
import os
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import torch
from torch import Tensor

from efficientquant.calibration import Progress
from efficientquant.errors import ArtifactError
from efficientquant.lowering import IR_VERSION, OPSET, add_initializer, lower_to_opset_13
from efficientquant.models import synthetic_images
from efficientquant.parity import PARITY_LIMIT, Parity, measure_parity
from efficientquant.quantization import QuantizedModel, QuantizedWeight

EXPORTER_OPSET = 18  # what the exporter writes whatever it is asked for; lowering does the rest
PARITY_IMAGES = 4
PARITY_SEED = 1  # other pictures than the calibration's


@dataclasses.dataclass(frozen=True)
class Artifact:
    """A checked ONNX file, and what was found when it was checked.

    `parity_max_abs` is the largest |Δ| between the logits of ONNX Runtime and of the eager fake-quantized model.
    """

    path: Path
    sha256: str
    size_bytes: int
    opset: int
    ir_version: int
    parity_max_abs: float
    notes: list[str]
    manifest: dict[str, Any]


def export_onnx(
    quantized: QuantizedModel, path: str | Path, *, images: Tensor | None = None, progress: Progress | None = None
) -> Artifact:
    """Write a static batch-1 ONNX file, opset 13 and IR 8; raise ArtifactError and keep nothing if a check fails.

    Checks: the ONNX checker, one DequantizeLinear per quantized weight, and |Δ| <= 1e-4 to the eager model on
    `images` (N, C, H, W; synthetic ones where none are given). The same inputs give the same bytes.
    """
    path = Path(path)
    report = progress or (lambda _phase, _fraction: None)
    report("export", 0.0)
    model = _trace(quantized)
    report("export", 0.6)
    for name, weight in quantized.weights.items():
        _store_as_int8(model.graph, name, weight, path)
    lower_to_opset_13(model, path)
    proto = ir.to_proto(model)
    content = proto.SerializeToString(deterministic=True)
    _check(proto, len(quantized.weights), path)
    report("export", 0.8)
    if images is None:
        images = synthetic_images(quantized.input_spec, PARITY_IMAGES, PARITY_SEED)
    parity = measure_parity(quantized, proto, images)
    _require_parity(parity, path)
    _write(path, content)
    report("export", 1.0)
    return Artifact(
        path=path,
        sha256=hashlib.sha256(content).hexdigest(),
        size_bytes=len(content),
        opset=OPSET,
        ir_version=IR_VERSION,
        parity_max_abs=parity.max_abs,
        notes=quantized.notes + _parity_notes(parity),
        manifest=quantized.manifest.to_dict(),
    )


def _trace(quantized: QuantizedModel) -> ir.Model:
    """Return the model as the exporter gives it, for a batch of one."""
    example = torch.zeros(1, *quantized.input_spec.shape)
    with torch.no_grad():
        exported = torch.export.export(quantized.module, (example,))
        program = torch.onnx.export(
            exported,
            dynamo=True,
            opset_version=EXPORTER_OPSET,
            input_names=["input"],
            output_names=["logits"],
            optimize=True,
            verbose=False,
        )
    assert program is not None
    return program.model


def _store_as_int8(graph: ir.Graph, name: str, weight: QuantizedWeight, path: Path) -> None:
    """Put int8 codes, scales and a DequantizeLinear in the place of a float initializer.

    Done behind the exporter's constant folding, which would turn DequantizeLinear(int8) back into floats.
    """
    value = graph.initializers.get(name)
    if value is None:
        raise ArtifactError(path, f"the exporter did not keep the weight {name!r} as an initializer")
    axis = {"axis": 0} if weight.scale.numel() > 1 else {}
    scale = weight.scale.reshape(-1 if axis else ()).numpy()
    inputs = [
        add_initializer(graph, f"{name}_int8", weight.codes.numpy()),
        add_initializer(graph, f"{name}_scale", scale),
        add_initializer(graph, f"int8_zero_point_{scale.size}_{scale.ndim}", np.zeros(scale.shape, dtype=np.int8)),
    ]
    node = ir.node("DequantizeLinear", inputs, attributes=axis, name=f"{name}_dequantize")
    node.outputs[0].name = f"{name}_dequantized"
    first = next(node for node in graph if value in node.inputs)
    graph.insert_before(first, node)
    ir.convenience.replace_all_uses_with(value, node.outputs[0])


def _check(proto: onnx.ModelProto, weights: int, path: Path) -> None:
    try:
        onnx.checker.check_model(proto, full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise ArtifactError(path, f"the ONNX checker refuses it: {error}") from error
    found = sum(node.op_type == "DequantizeLinear" for node in proto.graph.node)
    if found != weights:
        raise ArtifactError(path, f"it has {found} DequantizeLinear nodes for {weights} quantized weights")


def _require_parity(parity: Parity, path: Path) -> None:
    if not parity.max_abs <= PARITY_LIMIT:  # also true for NaN
        problem = f"its logits differ from the eager model's by {parity.max_abs:.2e}, more than {PARITY_LIMIT:.0e}"
        raise ArtifactError(path, problem)
    if parity.largest_step > 1:
        raise ArtifactError(path, f"a log2 code lies {parity.largest_step} steps beside the eager model's")


def _parity_notes(parity: Parity) -> list[str]:
    if not parity.moved_codes:
        return []
    return [
        f"{parity.moved_codes} log2 codes on a rounding boundary differ by one step between torch and ONNX Runtime; "
        "parity was measured with these codes held equal"
    ]


def _write(path: Path, content: bytes) -> None:
    """Write beside the target and rename, so that no half-written artifact can be found."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        temporary.write_bytes(content)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
