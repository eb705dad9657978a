"""Verdicts of one-node graphs on every kind of TensorRT."""

import numpy as np
import pytest
from efficientquant.targets import get_target
from efficientquant.verdicts.build_rules import predict
from onnx_graphs import GraphWriter

# By the name of the columns in the tables.
TARGETS = {"8.2": "jetson-nano", "8.5": "agx-xavier", "10": "tensorrt-10", "11": "tensorrt-11", "rtx": "rtx-3080"}


@pytest.fixture
def refusing():
    """Return a function that predicts a model on every release.

    It gives the releases that refuse it, and the sentences. Every refusal names the node `n`.
    """

    def predict_all(model):
        verdicts = {release: predict(model, get_target(name)) for release, name in TARGETS.items()}
        sentences = [str(reason) for verdict in verdicts.values() for reason in verdict.reasons]
        refused = [release for release, verdict in verdicts.items() if verdict.outcome == "fails"]
        named = ("n", "n/n")
        assert all(reason.nodes[0] in named for verdict in verdicts.values() for reason in verdict.reasons)
        return " ".join(refused), sentences

    return predict_all


@pytest.fixture
def one_node():
    """Return a function that makes a graph of one node `n`.

    Further inputs are constants by name, None for a missing one.
    """

    def make(operator, *constants, opset=13, outputs=1, shape=(1, 8, 16, 16), **attributes):
        write = GraphWriter()
        names = [
            "" if value is None else write.constant(f"c{index}", np.asarray(value))
            for index, value in enumerate(constants)
        ]
        write.add(operator, "x", *names, name="n", **attributes)
        write.give_outputs(outputs)
        return write.model(opset=opset, shape=shape)

    return make
