"""Comparison of an ONNX file in ONNX Runtime with the eager model."""

import dataclasses
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import torch
from torch import Tensor

from efficientquant.artifact.ort_errors import ORT_ERRORS, first_line
from efficientquant.errors import ArtifactError
from efficientquant.lowering import Variant
from efficientquant.lowering.quantizers import UNSIGNED_ZERO
from efficientquant.quantization import QuantizedModel
from efficientquant.quantizers import CodeQuantizer, bypassed, code_quantizers

PARITY_LIMIT = 1e-4
# FP16 keeps eleven bits: over a hundred layers, two implementations come to differ by some of its steps.
HALF_PARITY_LIMIT = 3e-2


@dataclasses.dataclass(frozen=True)
class Parity:
    """The largest differences of the logits and of the codes.

    `max_abs` is the largest |Δ| of the logits. `relative` is that divided by the largest |logit|, or by 1 if no logit
    is larger. `moved_codes` counts the codes that differ, `largest_step` says by how many steps at most. `is_half` is
    true where FP16 is compared with FP16, which has no exact answer, and false for FP32.
    """

    is_half: bool
    max_abs: float = 0.0
    relative: float = 0.0
    moved_codes: int = 0
    largest_step: int = 0

    @property
    def holds(self) -> bool:
        """Whether the logits agree.

        The limit is 1e-4, in FP16 3 % of the largest logit. False where a logit is NaN.
        """
        return self.relative <= HALF_PARITY_LIMIT if self.is_half else self.max_abs <= PARITY_LIMIT

    @property
    def problem(self) -> str | None:
        """A sentence on what is wrong, or None.

        A code that differs by more than one step is wrong: rounding alone moves it by one.
        """
        if not self.holds:
            difference, limit = (self.relative, HALF_PARITY_LIMIT) if self.is_half else (self.max_abs, PARITY_LIMIT)
            return f"its logits differ from the eager model's by {difference:.2e}, more than {limit:.0e}"
        if self.largest_step > 1 and not self.is_half:
            return f"a code lies {self.largest_step} steps away from the eager model's"
        return None


def measure_parity(quantized: QuantizedModel, variant: Variant, proto: onnx.ModelProto, images: Tensor) -> Parity:
    """Compare ONNX Runtime with the eager model, image by image.

    `images` are (N, C, H, W). The eager model leaves out the quantizers that the variant drops. It decodes ONNX
    Runtime's codes instead of its own, since two runtimes differ in the last bit: a value at the boundary between two
    codes may get either of them. The codes that differ are counted. No other difference is excused.
    """
    session = _session_with_outputs(proto, list(variant.rounded.values()))
    quantizers = code_quantizers(quantized.module)
    # A file in FP32 types computes in FP32, whatever a builder makes of it later.
    eager = quantized if variant.is_half else quantized.module
    parity = Parity(variant.is_half)
    with torch.no_grad(), bypassed(quantized.module, variant.dropped):
        for index in range(len(images)):
            image = images[index : index + 1]
            logits, *rounded = session.run(None, {proto.graph.input[0].name: image.numpy()})
            moves: list[Tensor] = []
            with _forced_codes(quantizers, dict(zip(variant.rounded, rounded, strict=True)), moves):
                difference = _compare(parity, logits, eager(image))
            parity = _worse(parity, _with_moves(difference, moves))
    return parity


def measure_optimizations(proto: onnx.ModelProto, images: Tensor, path: Path) -> float:
    """Return the largest |Δ| that ONNX Runtime's optimizations make to the logits.

    An ordinary session has all of them. Its optimizer may choose kernels that round activations again, or that refuse
    their inputs only when they run. Raises ArtifactError when it does not run the file, or when a logit is not finite.
    `path` only names the artifact.
    """
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4  # the error says it
    feeds = [{proto.graph.input[0].name: image[None].numpy()} for image in images]
    try:
        ordinary = onnxruntime.InferenceSession(
            proto.SerializeToString(), options, providers=["CPUExecutionProvider"], enable_fallback=0
        )
        logits = np.stack([ordinary.run(None, feed)[0] for feed in feeds])
    except ORT_ERRORS as error:
        raise ArtifactError(path, f"ONNX Runtime does not run it: {first_line(error)}") from error
    if not np.isfinite(logits).all():
        raise ArtifactError(path, "its logits in ONNX Runtime are not finite")
    plain = _session_with_outputs(proto, [])
    return float(np.abs(logits - np.stack([plain.run(None, feed)[0] for feed in feeds])).max())


def _session_with_outputs(proto: onnx.ModelProto, names: list[str]) -> onnxruntime.InferenceSession:
    exposed = onnx.ModelProto()
    exposed.CopyFrom(proto)
    exposed.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names)
    options = onnxruntime.SessionOptions()
    # Further optimization would quantize activations that are float in the file (MatMulNBits).
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
    return onnxruntime.InferenceSession(exposed.SerializeToString(), options, providers=["CPUExecutionProvider"])


def _with_moves(parity: Parity, moves: list[Tensor]) -> Parity:
    return dataclasses.replace(
        parity,
        moved_codes=sum(int(move.count_nonzero()) for move in moves),
        largest_step=max((int(move.abs().max()) for move in moves), default=0),
    )


@contextmanager
def _forced_codes(
    quantizers: Mapping[str, CodeQuantizer], rounded: Mapping[str, np.ndarray], moves: list[Tensor]
) -> Iterator[None]:
    """Make each quantizer decode rounded values from ONNX Runtime.

    Appends to `moves` how far each code differs from the quantizer's own.
    """

    def force(values: np.ndarray) -> Any:
        def hook(quantizer: CodeQuantizer, inputs: tuple[Tensor], _output: Tensor) -> Tensor:
            own = quantizer.codes(inputs[0])
            signed = torch.from_numpy(values).float() - (UNSIGNED_ZERO if values.dtype == np.uint8 else 0)
            codes = quantizer.codes_of(signed, inputs[0])
            moves.append(quantizer.steps_between(codes, own))
            return quantizer.decode(codes)

        return hook

    handles = [quantizers[site].register_forward_hook(force(values)) for site, values in rounded.items()]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _compare(kind: Parity, logits: np.ndarray, eager: Tensor) -> Parity:
    reference = eager.numpy()
    distance = float(np.abs(logits - reference).max())
    return Parity(kind.is_half, max_abs=distance, relative=distance / max(1.0, float(np.abs(reference).max())))


def _worse(first: Parity, second: Parity) -> Parity:
    return Parity(
        is_half=first.is_half,
        max_abs=float(np.maximum(first.max_abs, second.max_abs)),  # unlike max(), keeps NaN
        relative=float(np.maximum(first.relative, second.relative)),
        moved_codes=first.moved_codes + second.moved_codes,
        largest_step=max(first.largest_step, second.largest_step),
    )
