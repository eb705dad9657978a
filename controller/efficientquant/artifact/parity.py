"""Comparison of an ONNX file in ONNX Runtime with the eager model."""

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import onnx
import onnxruntime
import torch
from torch import Tensor

from efficientquant.artifact.exact_products import avoid_saturation
from efficientquant.artifact.openvino_model import OPENVINO_ERRORS, compile_for_openvino, openvino_sentence
from efficientquant.artifact.ort_errors import ORT_ERRORS, first_line
from efficientquant.errors import ArtifactError
from efficientquant.lowering import Variant
from efficientquant.lowering.quantizers import UNSIGNED_ZERO
from efficientquant.quantization import QuantizedModel
from efficientquant.quantizers import CodeQuantizer, bypassed, code_quantizers

PARITY_LIMIT = 1e-4
# FP16 keeps eleven bits: over a hundred layers, two implementations come to differ by some of its steps.
HALF_PARITY_LIMIT = 3e-2
# Two runtimes that round apart lie on two sides of the float logits, so they come twice as far apart as one quantizes.
# Twice that again is room for the few images.
OWN_CODES_FACTOR = 4.0


@dataclasses.dataclass(frozen=True)
class Parity:
    """The largest differences of the logits and of the codes.

    `max_abs` is the largest |Δ| of the logits with the same codes in both. `relative` is that divided by the largest
    |logit|, or by 1 if no logit is larger. `moved_codes` counts the codes that differ, `largest_step` says by how many
    steps at most. `misplaced_codes` are those of them whose value is on no rounding boundary. `own_max_abs` is the
    largest |Δ| with each runtime's own codes, and `own_limit` what it may be. `is_half` is true where FP16 is compared
    with FP16, which has no exact answer, and false for FP32. `logits` are the file's own, by image.
    """

    is_half: bool
    max_abs: float = 0.0
    relative: float = 0.0
    moved_codes: int = 0
    largest_step: int = 0
    misplaced_codes: int = 0
    own_max_abs: float = 0.0
    own_limit: float = 0.0
    logits: tuple[np.ndarray, ...] = dataclasses.field(default=(), compare=False, repr=False)

    @property
    def holds(self) -> bool:
        """Whether the logits agree with the same codes.

        The limit is 1e-4, in FP16 3 % of the largest logit. False where a logit is NaN.
        """
        return self.relative <= HALF_PARITY_LIMIT if self.is_half else self.max_abs <= PARITY_LIMIT

    @property
    def problem(self) -> str | None:
        """A sentence on what is wrong, or None.

        A code that differs by more than one step is wrong: rounding alone moves it by one. So is a code whose value is
        no closer to another code than the float error.
        """
        if not self.holds:
            difference, limit = (self.relative, HALF_PARITY_LIMIT) if self.is_half else (self.max_abs, PARITY_LIMIT)
            return f"its logits differ from the eager model's by {difference:.2e}, more than {limit:.0e}"
        if self.largest_step > 1 and not self.is_half:
            return f"a code lies {self.largest_step} steps away from the eager model's"
        if self.misplaced_codes and not self.is_half:
            return f"{self.misplaced_codes} codes differ from the eager model's, and lie on no rounding boundary"
        if not self.own_max_abs <= self.own_limit:
            return (
                f"with its own codes its logits differ from the eager model's by {self.own_max_abs:.2e}, more than "
                f"{self.own_limit:.2e}"
            )
        return None

    def to_dict(self) -> dict[str, float]:
        """Return the differences and their limits as JSON-ready values.

        `limit` is that of `relative` in FP16, and that of `max_abs` otherwise.
        """
        return {
            "max_abs": self.max_abs,
            "relative": self.relative,
            "limit": HALF_PARITY_LIMIT if self.is_half else PARITY_LIMIT,
            "moved_codes": self.moved_codes,
            "own_codes_max_abs": self.own_max_abs,
            "own_codes_limit": self.own_limit,
        }


def measure_parity(quantized: QuantizedModel, variant: Variant, proto: onnx.ModelProto, images: Tensor) -> Parity:
    """Compare ONNX Runtime with the eager model, image by image.

    `images` are (N, C, H, W). ONNX Runtime computes what the file says, without its optimizations of quantized
    operators. The eager model leaves out the quantizers that the variant drops. It runs twice:

    - It decodes ONNX Runtime's codes instead of its own, since two runtimes differ in the last bit: a value at the
      boundary between two codes may get either of them. The codes that differ are counted and have to lie at such a
      boundary. No other difference is excused.
    - It decodes its own codes. The logits may then differ by four times what the quantizers of activations change, or
      by the limit of the first comparison if that is more.
    """
    session = _session_with_outputs(proto, list(variant.rounded.values()))
    parity = Parity(variant.is_half)
    with torch.no_grad(), bypassed(quantized.module, variant.dropped):
        for image in torch.split(images, 1):
            logits, *rounded = session.run(None, {proto.graph.input[0].name: image.numpy()})
            codes = dict(zip(variant.rounded, rounded, strict=True))
            parity = _worse(parity, _compare(quantized, image, logits, codes, is_half=variant.is_half))
    return parity


def measure_optimizations(
    proto: onnx.ModelProto,
    images: Tensor,
    path: Path,
    plain: Sequence[np.ndarray] = (),
    *,
    exact_products: bool = False,
) -> float:
    """Return the largest |Δ| that ONNX Runtime's optimizations make to the logits.

    `plain` are the logits without them, by image. They are computed where they are not given.

    An ordinary session has all of them. Its optimizer may choose kernels that round activations again, or that refuse
    their inputs only when they run. With `exact_products`, it runs as on a CPU whose products do not saturate. Raises
    ArtifactError when ONNX Runtime does not run the file, or when a logit is not finite. `path` only names the
    artifact.
    """
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4  # the error says it
    if exact_products:
        avoid_saturation(options)
    feeds = [{proto.graph.input[0].name: image[None].numpy()} for image in images]
    try:
        ordinary = onnxruntime.InferenceSession(
            proto.SerializeToString(), options, providers=["CPUExecutionProvider"], enable_fallback=0
        )
        logits = np.stack([ordinary.run(None, feed)[0] for feed in feeds])
    except ORT_ERRORS as error:
        raise ArtifactError(path, f"ONNX Runtime does not run it: {first_line(error)}") from error
    return _distance(proto, logits, plain, feeds, "ONNX Runtime", path)


def measure_openvino(proto: onnx.ModelProto, images: Tensor, path: Path, plain: Sequence[np.ndarray] = ()) -> float:
    """Return the largest |Δ| that OpenVINO makes to the logits.

    `plain` is that of `measure_optimizations`. OpenVINO fuses and rounds on its own. Raises ArtifactError when it does
    not run the file, or when a logit is not finite. `path` only names the artifact.
    """
    feeds = [{proto.graph.input[0].name: image[None].numpy()} for image in images]
    try:
        compiled = compile_for_openvino(proto)
        logits = np.stack([compiled(feed)[0] for feed in feeds])
    except OPENVINO_ERRORS as error:
        raise ArtifactError(path, f"OpenVINO does not run it: {openvino_sentence(error)}") from error
    return _distance(proto, logits, plain, feeds, "OpenVINO", path)


def _distance(
    proto: onnx.ModelProto,
    logits: np.ndarray,
    plain: Sequence[np.ndarray],
    feeds: list[dict[str, np.ndarray]],
    runtime: str,
    path: Path,
) -> float:
    """Return the largest |Δ| to the plain file's logits."""
    if not np.isfinite(logits).all():
        raise ArtifactError(path, f"its logits in {runtime} are not finite")
    if not plain:
        session = _session_with_outputs(proto, [])
        plain = [session.run(None, feed)[0] for feed in feeds]
    return float(np.abs(logits - np.stack(plain)).max())


def _session_with_outputs(proto: onnx.ModelProto, names: list[str]) -> onnxruntime.InferenceSession:
    exposed = onnx.ModelProto()
    exposed.CopyFrom(proto)
    exposed.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names)
    options = onnxruntime.SessionOptions()
    # Further optimization would quantize what is float in the file: activations (MatMulNBits) and biases.
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
    options.add_session_config_entry("session.disable_quant_qdq", "1")
    return onnxruntime.InferenceSession(exposed.SerializeToString(), options, providers=["CPUExecutionProvider"])


def _compare(
    quantized: QuantizedModel, image: Tensor, logits: np.ndarray, codes: Mapping[str, np.ndarray], *, is_half: bool
) -> Parity:
    """Compare the logits and codes of one image."""
    # A file in FP32 types computes in FP32, whatever a builder makes of it later.
    eager = quantized if is_half else quantized.module
    moves: list[_Moves] = []
    with _forced_codes(code_quantizers(quantized.module), codes, moves):
        reference = eager(image).numpy()
    own = eager(image).numpy() if codes else reference
    with bypassed(quantized.module, frozenset(codes)):
        unquantized = eager(image).numpy() if codes else reference
    distance, largest = _max_abs(logits - reference), max(1.0, _max_abs(reference))
    return Parity(
        is_half,
        max_abs=distance,
        relative=distance / largest,
        moved_codes=sum(move.codes for move in moves),
        largest_step=max((move.largest_step for move in moves), default=0),
        misplaced_codes=sum(move.misplaced for move in moves),
        own_max_abs=_max_abs(logits - own),
        own_limit=max(
            HALF_PARITY_LIMIT * largest if is_half else PARITY_LIMIT, OWN_CODES_FACTOR * _max_abs(own - unquantized)
        ),
        logits=(logits,),
    )


class _Moves(NamedTuple):
    """The moved codes of one tensor: number, largest step, misplaced ones."""

    codes: int
    largest_step: int
    misplaced: int


@contextmanager
def _forced_codes(
    quantizers: Mapping[str, CodeQuantizer], rounded: Mapping[str, np.ndarray], moves: list[_Moves]
) -> Iterator[None]:
    """Make each quantizer decode rounded values from ONNX Runtime.

    Appends to `moves` how the codes differ from the quantizer's own.
    """

    def force(values: np.ndarray) -> Any:
        def hook(quantizer: CodeQuantizer, inputs: tuple[Tensor], _output: Tensor) -> Tensor:
            signed = torch.from_numpy(values).float() - (UNSIGNED_ZERO if values.dtype == np.uint8 else 0)
            # A pass may compute on a stack of matrices as one matrix.
            codes = quantizer.codes_of(signed.reshape(inputs[0].shape), inputs[0])
            moves.append(_find_moves(quantizer, codes, inputs[0]))
            return quantizer.decode(codes)

        return hook

    handles = [quantizers[site].register_forward_hook(force(values)) for site, values in rounded.items()]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _find_moves(quantizer: CodeQuantizer, codes: Tensor, x: Tensor) -> _Moves:
    """Compare codes with those of a quantizer's own input x.

    A code that differs is at its place if x would get it, or one beyond it, after a change of 1e-4 of the largest |x|.
    """
    own = quantizer.codes(x)
    steps = quantizer.steps_between(codes, own)
    if not bool(steps.any()):
        return _Moves(0, 0, 0)
    error = PARITY_LIMIT * float(x.abs().max())
    near = torch.stack([own, quantizer.codes(x - error), quantizer.codes(x + error)])
    misplaced = (steps != 0) & ((codes < near.amin(0)) | (codes > near.amax(0)))
    return _Moves(int(steps.count_nonzero()), int(steps.abs().max()), int(misplaced.count_nonzero()))


def _max_abs(difference: np.ndarray) -> float:
    return float(np.abs(difference).max())


def _worse(first: Parity, second: Parity) -> Parity:
    # Unlike max(), np.maximum keeps NaN.
    return Parity(
        is_half=first.is_half,
        max_abs=float(np.maximum(first.max_abs, second.max_abs)),
        relative=float(np.maximum(first.relative, second.relative)),
        moved_codes=first.moved_codes + second.moved_codes,
        largest_step=max(first.largest_step, second.largest_step),
        misplaced_codes=first.misplaced_codes + second.misplaced_codes,
        own_max_abs=float(np.maximum(first.own_max_abs, second.own_max_abs)),
        own_limit=max(first.own_limit, second.own_limit),
        logits=first.logits + second.logits,
    )
