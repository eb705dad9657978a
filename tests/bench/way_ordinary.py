"""The ordinary way: exporter, quant_pre_process and quantize_static.

Usage: `way_ordinary.py MODEL FILE RECIPE`. It checks nothing.
"""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from onnxruntime import quantization
from onnxruntime.quantization import shape_inference
from torch import Tensor, nn
from way import main


class Images(quantization.CalibrationDataReader):
    """The images for the calibrator, fed individually."""

    def __init__(self, images: Tensor) -> None:
        self._images: Iterator[np.ndarray] = iter(images.split(1))

    def get_next(self) -> dict[str, np.ndarray] | None:
        """Return the next feed, None after the last."""
        image = next(self._images, None)
        return None if image is None else {"input": image.numpy()}


def quantize(model: nn.Module, images: Tensor, path: Path, _recipe: str) -> None:
    """Write an int8 file in QDQ form, calibrated on the images."""
    exported, prepared = path.with_suffix(".float.onnx"), path.with_suffix(".prepared.onnx")
    program = torch.onnx.export(
        model, (images[:1],), dynamo=True, input_names=["input"], output_names=["logits"], verbose=False
    )
    assert program is not None
    program.save(exported)
    shape_inference.quant_pre_process(exported, prepared)
    quantization.quantize_static(
        prepared, path, Images(images), quant_format=quantization.QuantFormat.QDQ, per_channel=True
    )


main(quantize)
