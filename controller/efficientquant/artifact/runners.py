"""Runners, which compute logits from images in torch or ONNX Runtime."""

import json
from collections.abc import Callable, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import onnx
import onnxruntime
import torch
from google.protobuf.message import DecodeError
from torch import Tensor

from efficientquant.artifact.exact_products import avoid_saturation
from efficientquant.artifact.ort_errors import ORT_ERRORS, first_line
from efficientquant.errors import ArtifactFileError, EvaluationError


class Runner(Protocol):
    """One way to compute logits, with its runtime and bit table."""

    kind: str  # eager or artifact
    runtime: str
    bit_table: Mapping[str, str]

    def run(self, images: Tensor) -> Tensor:
        """Return the logits of a batch of images.

        Images are normalized (n, C, H, W), logits (n, classes) float32.
        """


class EagerRunner:
    """A model in torch."""

    kind = "eager"

    def __init__(self, model: Callable[[Tensor], Tensor], bit_table: Mapping[str, str]) -> None:
        self.runtime = f"torch {version('torch')}"
        self.bit_table = bit_table
        self._model = model

    def run(self, images: Tensor) -> Tensor:
        """Return the logits of the batch, computed in one call."""
        with torch.no_grad():
            return self._model(images).float()


class ArtifactRunner:
    """An ONNX file on ONNX Runtime's CPU provider.

    Takes one image at a time, since artifacts have a batch of one. All optimizations are on, as in an ordinary session,
    so that the effect of ONNX Runtime's integer kernels on the logits is measured too. With `exact_products`, as on a
    CPU whose products do not saturate.
    """

    kind = "artifact"

    def __init__(
        self,
        path: Path,
        bit_table: Mapping[str, str] | None = None,
        *,
        threads: int = 0,
        exact_products: bool = False,
    ) -> None:
        self.runtime = f"onnxruntime {version('onnxruntime')}"
        self.bit_table = stored_bits(path) if bit_table is None else bit_table
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.log_severity_level = 3  # its warnings are for authors of graphs
        # Threads that spin between two calls take the processor from torch, which runs the reference in between.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        if exact_products:
            avoid_saturation(options)
        try:
            self._session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        except ORT_ERRORS as error:
            raise ArtifactFileError(path, f"ONNX Runtime cannot load it ({first_line(error)})") from error
        self._input, self._shape, self._type = _only_input(path, self._session)

    def run(self, images: Tensor) -> Tensor:
        """Return the logits of the images, computed one by one.

        Raises EvaluationError for images of another shape than the artifact's input.
        """
        if len(self._shape) != 4 or tuple(self._shape[1:]) != tuple(images.shape[1:]):
            wanted, given = "×".join(map(str, self._shape)), "×".join(map(str, images.shape[1:]))
            raise EvaluationError(f"the artifact takes an input of {wanted}, the images are {given}")
        feeds = [{self._input: image[None].numpy().astype(self._type)} for image in images]
        logits = np.concatenate([self._session.run(None, feed)[0] for feed in feeds])
        return torch.from_numpy(logits.astype(np.float32))


def stored_bits(path: Path) -> dict[str, str]:
    """Return the bit table of an artifact or of another ONNX file.

    A file without one gives the types of its stored weights and the number of its quantized activations. Widths between
    the stored types and a log2 quantizer cannot be seen there. Raises ArtifactFileError for a file that cannot be read.
    """
    try:
        model = onnx.load(path, load_external_data=False)
    except OSError as error:
        raise ArtifactFileError(path, f"cannot be read ({error.strerror})") from error
    except DecodeError as error:
        raise ArtifactFileError(path, f"is no ONNX file ({first_line(error)})") from error
    carried = next((entry.value for entry in model.metadata_props if entry.key == "efficientquant.bit_table"), None)
    if carried is not None:
        try:
            return {str(name): str(bits) for name, bits in json.loads(carried).items()}
        except (ValueError, AttributeError, RecursionError) as error:
            raise ArtifactFileError(path, "has a bit table that cannot be read") from error
    graph = model.graph
    counts: dict[str, int] = {}
    for tensor in graph.initializer:
        if len(tensor.dims) > 1:
            name = onnx.TensorProto.DataType.Name(tensor.data_type).lower()
            counts[name] = counts.get(name, 0) + 1
    stored = ", ".join(f"{count} {name}" for name, count in sorted(counts.items()))
    activations = sum(node.op_type == "QuantizeLinear" for node in graph.node)
    return {"stored weights": stored or "–", "quantized activations": str(activations)}


def _only_input(path: Path, session: onnxruntime.InferenceSession) -> tuple[str, list[int], np.dtype[Any]]:
    inputs = session.get_inputs()
    types: dict[str, np.dtype[Any]] = {"tensor(float)": np.dtype("float32"), "tensor(float16)": np.dtype("float16")}
    if len(inputs) != 1 or inputs[0].type not in types:
        listed = ", ".join(value.type for value in inputs)
        raise ArtifactFileError(path, f"is no image classifier: those have one input of floats, this one has {listed}")
    return inputs[0].name, inputs[0].shape, types[inputs[0].type]
