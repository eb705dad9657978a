"""Reference inputs and outputs, with which a device checks its engine."""

import io
from pathlib import Path

import numpy as np
import onnxruntime
from numpy.typing import NDArray

# The measurement uses the same inputs, as many as the protocol prescribes.
COUNT = 8


def make_reference(artifact: Path, images: NDArray[np.float32]) -> bytes:
    """Return an .npz with an artifact's reference inputs and outputs.

    It holds "input:NAME" (n, 1, C, H, W) float16 and "output:K" (n, 1, …) float32. `images` (n, C, H, W) are rounded to
    float16 first, which halves the bytes to send. The outputs belong to the rounded images. They are from ONNX Runtime
    with basic optimizations only, because its other optimizations quantize activations on their own.
    """
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(str(artifact), options, providers=["CPUExecutionProvider"])
    (node,) = session.get_inputs()
    rounded = images.astype(np.float16)[:, None]
    answers = [session.run(None, {node.name: image.astype(np.float32)}) for image in rounded]
    outputs = {f"output:{k}": np.stack([answer[k] for answer in answers]) for k in range(len(answers[0]))}
    content = io.BytesIO()
    np.savez(content, allow_pickle=False, **{f"input:{node.name}": rounded}, **outputs)
    return content.getvalue()
