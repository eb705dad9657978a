"""The comparison of a file's logits with those of OpenVINO."""

import sys
from pathlib import Path

import efficientquant as eq
import pytest
import torch
from efficientquant.artifact.parity import measure_openvino
from efficientquant.errors import ArtifactError
from onnx_graphs import GraphWriter

IMAGE = torch.rand((1, 8, 16, 16), generator=torch.Generator().manual_seed(0))
PATH = Path("model.onnx")


def test_a_float_file_is_computed_in_float32():
    """OpenVINO computes the logits of a float file to the last bits, although the CPU may have 16-bit floats."""
    write = GraphWriter()
    write.add("MatMul", write.add("Tanh", "x"), write.add("Transpose", "x", perm=[0, 1, 3, 2]))

    assert measure_openvino(write.model(), IMAGE, PATH) < 1e-5


def test_a_file_that_it_does_not_take_is_refused():
    """The error has OpenVINO's reason."""
    write = GraphWriter()
    write.add("Marker", "x", domain="custom")

    with pytest.raises(ArtifactError, match=r"OpenVINO does not run it: No conversion rule .*custom\.Marker"):
        measure_openvino(write.model(), IMAGE, PATH)


def test_logits_that_are_no_numbers_are_refused():
    """NaN is an error, whatever the file says."""
    write = GraphWriter()
    write.add("Log", write.add("Neg", "x"))

    with pytest.raises(ArtifactError, match="its logits in OpenVINO are not finite"):
        measure_openvino(write.model(), IMAGE, PATH)


def test_the_export_compares_them_where_it_can(quantized, images_for, tmp_path, monkeypatch):
    """With OpenVINO a note has the difference, and without it the same file is written."""
    model, images = quantized["test_vit", "int8"], images_for("test_vit")[:1]

    compared = eq.export_onnx(model, tmp_path / "compared.onnx", target="openvino", images=images)
    monkeypatch.setitem(sys.modules, "openvino", None)
    alone = eq.export_onnx(model, tmp_path / "alone.onnx", target="openvino", images=images)

    assert [note for note in compared.notes if note.startswith("the optimizations of OpenVINO 20")]
    assert not [note for note in alone.notes if "OpenVINO" in note]
    assert compared.sha256 == alone.sha256
