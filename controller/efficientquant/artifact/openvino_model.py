"""Compilation of ONNX files for OpenVINO's CPU plugin.

OpenVINO is the extra `openvino`. It is imported when a file is compiled.
"""

import importlib
import re
from typing import Any, NamedTuple

import onnx

# What its binding raises for all errors of the library.
OPENVINO_ERRORS = (RuntimeError, ValueError, TypeError)
# As the agents compile files of FP32. (Files of FP16 they compute in FP16 where their CPU can.) Without the precision,
# float32 is computed in 16 bits on a CPU that has them, and without the group size, inputs that are float in the file
# are rounded to int8.
SETTINGS = {
    "PERFORMANCE_HINT": "LATENCY",
    "INFERENCE_PRECISION_HINT": "f32",
    "DYNAMIC_QUANTIZATION_GROUP_SIZE": "0",
}
INTEGERS = ("i8", "u8")
# Kinds of layers whose kernels decode weights.
DECODING = ("FullyConnected", "MatMul", "Convolution")
# How the lines of an error begin that give no reason.
_NO_REASON = (
    *(
        "Exception from ",
        "Check '",
        "FrontEnd API failed",
        "Model wasn't fully converted",
        "Summary:",
        "While validating ",
    ),
    *("Shape inference input shapes", "Conversion is failed for", "To facilitate the conversion"),
)
_NODE = re.compile(r"ONNX node '<Node\((?P<operator>\w+)\): (?P<name>[^>]*)>'")
# What only holds or hands over a tensor.
_NO_LAYERS = ("Const", "Input", "Output")


class RuntimeLayer(NamedTuple):
    """One layer of a compiled model.

    `kernel` ends in the type that it computes in, and `smallest_type` is that of its operands: of integer weights that
    a float kernel decodes, it is "i8". `nodes` are the ONNX nodes in it, and some that OpenVINO added.
    """

    name: str
    kind: str
    smallest_type: str
    kernel: str
    nodes: tuple[str, ...]

    @property
    def type(self) -> str:
        """The type that the layer computes in, such as "f32" or "i8"."""
        return self.kernel.rpartition("_")[2].lower()

    @property
    def decodes_weights(self) -> bool:
        """Whether a float kernel decodes integer weights at each inference."""
        return self.kind in DECODING and self.smallest_type in INTEGERS and self.type not in INTEGERS


def openvino_version() -> str:
    """Return the installed release without the number of its build."""
    return str(importlib.import_module("openvino").__version__).split("-", 1)[0]


def compile_for_openvino(model: onnx.ModelProto) -> Any:
    """Return a model compiled for this CPU.

    A dynamic batch becomes 1. Raises one of OPENVINO_ERRORS for a file that OpenVINO does not take.
    """
    core = importlib.import_module("openvino").Core()
    network = core.read_model(model.SerializeToString(), b"")
    sizes = {port.get_any_name(): _batch_of_one(port.get_partial_shape()) for port in network.inputs}
    network.reshape(sizes)
    supported = set(core.get_property("CPU", "SUPPORTED_PROPERTIES"))
    settings = {name: value for name, value in SETTINGS.items() if name in supported}
    return core.compile_model(network, "CPU", settings)


def read_runtime_layers(compiled: Any) -> list[RuntimeLayer]:
    """Return the layers that run at each inference, in their order."""
    constant: set[str] = set()
    layers: list[tuple[int, RuntimeLayer]] = []
    for operation in compiled.get_runtime_model().get_ordered_ops():
        name = operation.get_friendly_name()
        facts = {key: str(value.value) for key, value in dict(operation.get_rt_info()).items()}
        sources = [port.get_source_output().get_node().get_friendly_name() for port in operation.inputs()]
        if facts["layerType"] == "Const" or (sources and constant.issuperset(sources)):
            constant.add(name)
        elif facts["layerType"] not in _NO_LAYERS:
            nodes = tuple(facts["originalLayersNames"].split(","))
            kind, smallest, kernel = (facts[key] for key in ("layerType", "runtimePrecision", "primitiveType"))
            layers.append((int(facts["execOrder"]), RuntimeLayer(name, kind, smallest, kernel, nodes)))
    return [layer for _, layer in sorted(layers, key=lambda pair: pair[0])]


def openvino_sentence(error: BaseException) -> str:
    """Return the reason in an error, with the ONNX node.

    All other lines name places in its source, repeat the node, or sum up.
    """
    text = str(error)
    lines = [line.strip().removeprefix("-- ") for line in text.splitlines()]
    reasons = [line for line in lines if line and not line.startswith(_NO_REASON)]
    reason = reasons[-1] if reasons else " ".join(filter(None, lines)) or type(error).__name__
    node = _NODE.search(text)
    return f"node {node['name']!r} ({node['operator']}): {reason}" if node else reason


def _batch_of_one(shape: Any) -> list[int]:
    """Return an input's sizes, a dynamic batch as 1, others as -1."""
    sizes = [-1 if size.is_dynamic else int(size.get_length()) for size in shape]
    return [1, *sizes[1:]] if sizes and sizes[0] < 0 else sizes
