"""Whether this CPU computes exact products of unsigned with signed codes.

x86 has instructions for them with VNNI. With AVX2 alone, ONNX Runtime adds two products in 16 bits, which saturate
[ONNX Runtime, session option `session.x64quantprecision`].
"""

import functools
import platform

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

# Two products of the largest codes, 255 and 127, need 17 bits.
_TERMS, _LARGEST = 64, (255, 127)


def is_x86() -> bool:
    """Tell whether this is an x86 CPU in 64-bit mode."""
    return platform.machine().lower() in ("x86_64", "amd64")


@functools.cache
def products_saturate() -> bool:
    """Tell whether ONNX Runtime's products saturate on this CPU.

    It computes one product of the largest codes, so that the installed release's kernels answer.
    """
    weights = numpy_helper.from_array(np.full((_TERMS, 16), _LARGEST[1], np.int8), "weights")
    graph = helper.make_graph(
        [helper.make_node("MatMulInteger", ["codes", "weights"], ["sums"])],
        "products",
        [helper.make_tensor_value_info("codes", TensorProto.UINT8, [8, _TERMS])],
        [helper.make_tensor_value_info("sums", TensorProto.INT32, [8, 16])],
        [weights],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    sums = _session(model).run(None, {"codes": np.full((8, _TERMS), _LARGEST[0], np.uint8)})[0]
    return bool((sums != _TERMS * _LARGEST[0] * _LARGEST[1]).any())


def avoid_saturation(options: onnxruntime.SessionOptions) -> None:
    """Make a session's products exact where this CPU's own saturate.

    ONNX Runtime then stores signed weights as unsigned ones. That is slower and gives the numbers of a CPU with VNNI.
    """
    if products_saturate():
        options.add_session_config_entry("session.x64quantprecision", "1")


def _session(model: onnx.ModelProto) -> onnxruntime.InferenceSession:
    return onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
