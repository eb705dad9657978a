"""Files in an ordinary session of ONNX Runtime."""

from pathlib import Path

import efficientquant as eq
import numpy as np
import pytest
import torch
from efficientquant.artifact.parity import measure_optimizations
from efficientquant.errors import ArtifactError
from onnx_graphs import GraphWriter


@pytest.fixture
def images():
    """Return two inputs of the written graphs."""
    return torch.rand(2, 8, 16, 16, generator=torch.Generator().manual_seed(0))


def product(steps):
    """Return a product of two operands, the first with the given steps."""
    write = GraphWriter()
    zeros = np.zeros_like(steps, dtype=np.uint8) + np.uint8(128)
    first = (write.constant("steps", steps), write.constant("zeros", zeros))
    second = (write.constant("step", np.float32(0.05)), write.constant("zero", np.uint8(128)))
    operands = [
        write.add("DequantizeLinear", write.add("QuantizeLinear", "x", *own, **axis), *own, **axis)
        for own, axis in ((first, {"axis": 1}), (second, {}))
    ]
    write.add("MatMul", *operands)
    return write.model()


def test_a_kernel_that_refuses_its_inputs_is_named(images):
    """ONNX Runtime's kernel refuses a scale per channel when it runs."""
    with pytest.raises(ArtifactError, match=r"ONNX Runtime does not run it: .*MatMulIntegerToFloat"):
        measure_optimizations(product(np.full(8, 0.05, np.float32)), images, Path("model.onnx"))


def test_a_file_that_runs_differs_by_rounding_alone(images):
    """With one scale the same product runs, and integers give the same sums."""
    assert measure_optimizations(product(np.float32(0.05)), images, Path("model.onnx")) < 1e-4


def test_logits_that_are_not_finite_are_refused(images):
    """A file that divides by zero runs, and is refused."""
    write = GraphWriter()
    write.add("Div", "x", write.constant("zero", np.float32(0)))
    with pytest.raises(ArtifactError, match="its logits in ONNX Runtime are not finite"):
        measure_optimizations(write.model(), images, Path("model.onnx"))


def test_an_optimizer_that_rounds_inputs_is_noted(tmp_path):
    """A weight alone in int4 behind a DequantizeLinear makes ONNX Runtime round the input too.

    A weight that is decoded once does not.
    """
    torch.manual_seed(0)
    # Only a product of matrices becomes MatMulNBits: Gemm, the linear of a single vector, stays float.
    tokens = torch.nn.Unflatten(1, (3, 64))
    model = torch.nn.Sequential(
        torch.nn.Flatten(), tokens, torch.nn.Linear(64, 64), torch.nn.ReLU(), torch.nn.Linear(64, 5), torch.nn.Flatten()
    )
    model.pretrained_cfg = {"input_size": (3, 8, 8)}
    quantized = eq.quantize(model.eval(), eq.get_recipe("efficientquant:scope=conv+linear:weight_bits=4"))
    rounded, decoded = (
        eq.export_onnx(quantized, tmp_path / f"{target}.onnx", target=target)
        for target in ("onnxruntime-1.20", "onnxruntime")
    )
    assert [
        sum(note.startswith("the optimizations of ONNX Runtime") for note in artifact.notes)
        for artifact in (rounded, decoded)
    ] == [1, 0]
    verdict = eq.check(rounded.path, "onnxruntime-1.20")
    reasons = {layer.reason for layer in verdict.layers if layer.precision == "int8"}
    assert reasons == {"runs as MatMulNBits, which rounds its input to int8 in blocks"}
    assert verdict.gain.startswith("integer arithmetic in ")
