"""The work of the kernels that ONNX Runtime's CPU provider runs.

Its own profile of one inference has the shapes and sizes of every kernel's tensors.
"""

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime

from efficientquant.artifact.ort_errors import ORT_ERRORS, first_line
from efficientquant.errors import ArtifactFileError
from efficientquant.files.whole_files import scratch_folder
from efficientquant.verdicts.build_verdict import Precision
from efficientquant.verdicts.costs.cost_model import Work
from efficientquant.verdicts.costs.onnx_macs import count_macs
from efficientquant.verdicts.ort_build import FLOAT_CONVS, FLOAT_PRODUCTS, INTEGER_CONVS, INTEGER_PRODUCTS

_KERNEL = "_kernel_time"
# The second factor of these comes behind the first one's scale and zero point.
_SECOND_FACTOR = dict.fromkeys(("QLinearConv", "QLinearMatMul", "QGemm"), 3)
_INPUT_TYPES = {
    **{f"tensor({name})": np.dtype(name) for name in ("int8", "uint8", "int16", "uint16", "int32", "int64", "bool")},
    "tensor(float)": np.dtype(np.float32),
    "tensor(float16)": np.dtype(np.float16),
    "tensor(double)": np.dtype(np.float64),
}


def work_of_session(model: onnx.ModelProto, path: Path) -> tuple[str, tuple[Work, ...]]:
    """Return the runtime and the work of each kernel.

    Kernels are in the order in which they run. The inputs are zeros, with a batch of one. `path` only names the file in
    errors. Raises ArtifactFileError for a file that does not load or run.
    """
    with scratch_folder("profile", room_bytes=1 << 26) as folder:
        options = onnxruntime.SessionOptions()
        options.enable_profiling = True
        options.profile_file_prefix = str(folder / "profile")
        options.log_severity_level = 4
        options.intra_op_num_threads = 1
        # A packed weight is no input any more, and would be missing from the sizes.
        options.add_session_config_entry("session.disable_prepacking", "1")
        try:
            session = onnxruntime.InferenceSession(
                model.SerializeToString(), options, providers=["CPUExecutionProvider"], enable_fallback=0
            )
            session.run(None, {value.name: _zeros(value, path) for value in session.get_inputs()})
        except ORT_ERRORS as error:
            raise ArtifactFileError(path, f"is not run by ONNX Runtime: {first_line(error)}") from None
        events = json.loads(Path(session.end_profiling()).read_text())
    kernels = [event for event in events if event["cat"] == "Node" and event["name"].endswith(_KERNEL)]
    runtime = f"ONNX Runtime {onnxruntime.__version__} on the CPU"
    return runtime, tuple(_work(event["name"].removesuffix(_KERNEL), event["args"]) for event in kernels)


def _zeros(value: Any, path: Path) -> np.ndarray:
    if value.type not in _INPUT_TYPES:
        raise ArtifactFileError(path, f"has an input {value.name!r} of type {value.type}, which gets no zeros here")
    shape = [size if isinstance(size, int) and size > 0 else 1 for size in value.shape]
    return np.zeros(shape, _INPUT_TYPES[value.type])


def _work(name: str, facts: Mapping[str, Any]) -> Work:
    operator = facts["op_name"]
    integer = operator in INTEGER_CONVS | INTEGER_PRODUCTS
    sizes = ("activation_size", "parameter_size", "output_size")
    return Work(
        name=name,
        kind=operator,
        precision=Precision.INT8 if integer else Precision.FP32,
        size_bytes=sum(int(facts[size]) for size in sizes),
        macs=_macs(operator, _shapes(facts["input_type_shape"]), _shapes(facts["output_type_shape"])),
        nodes=(name,),
    )


def _shapes(tensors: Sequence[Mapping[str, list[int]]]) -> list[list[int]]:
    return [shape for tensor in tensors for shape in tensor.values()]


def _macs(operator: str, inputs: Sequence[list[int]], outputs: Sequence[list[int]]) -> int:
    factors = [inputs[index] for index in (0, _SECOND_FACTOR.get(operator, 1)) if index < len(inputs)]
    if operator == "ConvTranspose":
        return count_macs(operator, factors, outputs[0])
    if operator in INTEGER_CONVS | FLOAT_CONVS:
        return count_macs("Conv", factors, outputs[0])
    if operator in INTEGER_PRODUCTS | FLOAT_PRODUCTS:
        return math.prod(outputs[0]) * factors[0][-1]
    return 0
