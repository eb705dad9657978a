"""Whether an exported file computes what the eager fake-quantized model computes."""

import dataclasses
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import onnx
import onnxruntime
import torch
from torch import Tensor, nn

from efficientquant.quantization import Log2Quantizer, QuantizedModel

PARITY_LIMIT = 1e-4


@dataclasses.dataclass(frozen=True)
class Parity:
    """The largest |Δ| of the logits; how many log2 codes fell beside the eager model's, and the largest step."""

    max_abs: float
    moved_codes: int = 0
    largest_step: int = 0


def measure_parity(quantized: QuantizedModel, proto: onnx.ModelProto, images: Tensor) -> Parity:
    """Compare ONNX Runtime with the eager model on images (N, C, H, W), one at a time.

    A probability within float rounding of the boundary between two log2 codes may get either of them: the two
    runtimes' softmax differ in the last bit. Where that moves the logits, the comparison is repeated with the
    eager model on ONNX Runtime's codes, and the moved codes are counted: no other difference is excused.
    """
    rounds = [node.output[0] for node in proto.graph.node if node.op_type == "Round"]
    quantizers = [module for module in quantized.module.modules() if isinstance(module, Log2Quantizer)]
    session = _session_with_outputs(proto, rounds)
    parity = Parity(0.0)
    with torch.no_grad():
        for index in range(len(images)):
            image = images[index : index + 1]
            logits, *rounded = session.run(None, {proto.graph.input[0].name: image.numpy()})
            found = Parity(_distance(logits, quantized.module(image)))
            if not found.max_abs <= PARITY_LIMIT and len(rounded) == len(quantizers):
                found = _compare_on_same_codes(quantized.module, quantizers, image, logits, rounded)
            parity = _worse(parity, found)
    return parity


def _session_with_outputs(proto: onnx.ModelProto, names: list[str]) -> onnxruntime.InferenceSession:
    exposed = onnx.ModelProto()
    exposed.CopyFrom(proto)
    exposed.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names)
    return onnxruntime.InferenceSession(exposed.SerializeToString(), providers=["CPUExecutionProvider"])


def _compare_on_same_codes(
    module: nn.Module, quantizers: list[Log2Quantizer], image: Tensor, logits: np.ndarray, rounded: list[np.ndarray]
) -> Parity:
    moves: list[Tensor] = []
    with _forced_codes(quantizers, rounded, moves):
        distance = _distance(logits, module(image))
    largest_step = max(int(move.abs().max()) for move in moves)
    return Parity(distance, sum(int(move.count_nonzero()) for move in moves), largest_step)


@contextmanager
def _forced_codes(quantizers: list[Log2Quantizer], rounded: list[np.ndarray], moves: list[Tensor]) -> Iterator[None]:
    """Let each quantizer decode the given rounded octaves instead of its own, and note how far the codes moved."""

    def force(given: np.ndarray) -> Any:
        def hook(quantizer: Log2Quantizer, inputs: tuple[Tensor], _output: Tensor) -> Tensor:
            own = quantizer.codec.quantize(inputs[0])
            codes = quantizer.codec.codes_of(torch.from_numpy(given), inputs[0])
            moves.append(codes - own)
            return quantizer.codec.dequantize(codes)

        return hook

    handles = [q.register_forward_hook(force(given)) for q, given in zip(quantizers, rounded, strict=True)]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _distance(logits: np.ndarray, eager: Tensor) -> float:
    return float(np.abs(logits - eager.numpy()).max())


def _worse(one: Parity, other: Parity) -> Parity:
    return Parity(
        max_abs=float(np.maximum(one.max_abs, other.max_abs)),  # unlike max(), keeps NaN
        moved_codes=one.moved_codes + other.moved_codes,
        largest_step=max(one.largest_step, other.largest_step),
    )
