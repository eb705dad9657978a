"""ONNX Runtime on the CPU."""

import numpy as np
import pytest
from efficientquant_agent.backends.base import InferenceError, LoadError
from efficientquant_agent.backends.ort import OrtCpu


def test_staged_inputs(tiny_model):
    """Inputs are float32 in [0, 1), a symbolic batch is 1, and the seed decides them."""
    model = OrtCpu.load(tiny_model, intra_op_threads=1)

    first, again, other = model.stage_inputs(8, 1), model.stage_inputs(8, 1), model.stage_inputs(8, 2)

    assert [feed["image"].shape for feed in first] == [(1, 3, 16, 16)] * 8
    assert {feed["image"].dtype for feed in first} == {np.dtype("float32")}
    assert all(feed["image"].min() >= 0 and feed["image"].max() < 1 for feed in first)
    assert all((a["image"] == b["image"]).all() for a, b in zip(first, again))
    assert (first[0]["image"] != other[0]["image"]).any()
    assert (first[0]["image"] != first[1]["image"]).any()


def test_outputs_are_on_the_host(tiny_model):
    """One run returns the model's outputs: a softmax over the channels here."""
    model = OrtCpu.load(tiny_model, intra_op_threads=1)

    (scores,) = model.run_once(model.stage_inputs(1, 0)[0])

    assert np.allclose(scores.sum(axis=1), 1.0, atol=1e-5)


def test_realised_session(tiny_model):
    """A loaded model says which providers it got and which options change its numbers."""
    model = OrtCpu.load(tiny_model, intra_op_threads=2)

    assert model.providers == ["CPUExecutionProvider"]
    assert model.session_options == {
        "graph_optimization": "all",
        "execution_mode": "sequential",
        "intra_op_threads": "2",
    }


@pytest.mark.parametrize("content", [b"", b"not a model"])
def test_not_a_model(content):
    """Bytes that are no model are refused in the runtime's words."""
    with pytest.raises(LoadError, match=r".+"):
        OrtCpu.load(content, intra_op_threads=1)


def test_failing_inference(models):
    """A failure in the middle of the graph is an InferenceError that names the operator."""
    model = OrtCpu.load((models / "fails_at_run.onnx").read_bytes(), intra_op_threads=1)

    with pytest.raises(InferenceError, match="Gather"):
        model.run_once(model.stage_inputs(1, 0)[0])
