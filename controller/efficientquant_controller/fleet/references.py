"""Inputs and the outputs they must give, made with an artifact so that a device can prove that its engine agrees."""

import io
from pathlib import Path

import numpy as np
import onnxruntime
from numpy.typing import NDArray

# As many as the protocol stages for a measurement: they are what is measured with, too.
COUNT = 8


def make_reference(artifact: Path, images: NDArray[np.float32]) -> bytes:
    """Return an .npz with "input:NAME" (n, 1, C, H, W) float16 and "output:K" (n, 1, …) float32 of an artifact.

    `images` (n, C, H, W) are rounded to float16 first, so that they travel in half the bytes and lose nothing.
    Outputs are ONNX Runtime's with basic optimizations only: its others quantize activations on their own.
    """
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(str(artifact), options, providers=["CPUExecutionProvider"])
    (node,) = session.get_inputs()
    rounded = images.astype(np.float16)[:, None]
    answers = [session.run(None, {node.name: one.astype(np.float32)}) for one in rounded]
    outputs = {f"output:{k}": np.stack([one[k] for one in answers]) for k in range(len(answers[0]))}
    content = io.BytesIO()
    np.savez(content, allow_pickle=False, **{f"input:{node.name}": rounded}, **outputs)
    return content.getvalue()
