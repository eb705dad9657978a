"""The layers of a TensorRT-RTX engine, read from the builder's log.

A line of the log, shortened: `Name: n, LayerType: kgen, Inputs: [ { Name: x, Dimensions: [1,8], …, Datatype: Half,
Format: … }], Constants: […], Outputs: […], TacticName: t, StreamId: 0, Metadata: [ONNX Layer: a][ONNX Layer: b]`.
"""

import dataclasses
import math
import re
from collections.abc import Sequence

from onnx import NodeProto

from efficientquant.verdicts.build_verdict import Precision

_LINE = re.compile(
    r"Name: (?P<name>.*?), LayerType: (?P<kind>\w+), Inputs: \[(?P<inputs>.*?)\], Constants: \[(?P<constants>.*)\], "
    r"Outputs: \[(?P<outputs>.*)\], TacticName: (?P<tactic>[^,]*), StreamId: \d+, "
    r"(?:\w+: [^,]*, )*Metadata: ?(?P<metadata>.*)"  # in between: jumps, and events where an engine has several streams
)
_TENSOR = re.compile(r"Dimensions: \[(?P<dimensions>[\d,]*)\].*?Datatype: (?P<type>\w+)")
_ONNX_NODE = re.compile(r"\[ONNX Layer: (.*?)\]")
# Names of the generated kernels that compute a whole attention.
_FUSED_ATTENTION = ("_gemm_mha", "fmha")
# Kinds of layers that multiply, the surest sign first; `kgen` are kernels generated for everything else.
MULTIPLYING = ("correlation", "deconv", "gemm", "runtime_fusion", "kgen")
_SYNCHRONIZING = ("signal", "wait")
_FLOATS = {"Half": Precision.FP16, "Float": Precision.FP32}
# Bits of a log's types. Every other type, such as Int32, has 32.
_BITS = {
    **dict.fromkeys(("Int4", "FP4"), 4),
    **dict.fromkeys(("Int8", "UInt8", "Bool", "FP8", "E8M0"), 8),
    **dict.fromkeys(("Half", "BFloat16"), 16),
    "Int64": 64,
}


@dataclasses.dataclass(frozen=True)
class EngineTensor:
    """The number of elements and the type of a layer's tensor.

    The type is `Half`, `Float`, `Int8`, …
    """

    elements: int
    type: str

    @property
    def size_bytes(self) -> int:
        """The bytes of the elements, without padding."""
        return (self.elements * _BITS.get(self.type, 32) + 7) // 8


@dataclasses.dataclass(frozen=True)
class EngineLayer:
    """One kernel of an engine, with the ONNX nodes in it.

    It reads `inputs`, holds `constants` and writes `outputs`.
    """

    name: str
    kind: str
    inputs: tuple[EngineTensor, ...]
    constants: tuple[EngineTensor, ...]
    outputs: tuple[EngineTensor, ...]
    tactic: str
    onnx_nodes: tuple[str, ...]

    @property
    def size_bytes(self) -> int:
        """The bytes that it reads and writes, each tensor once."""
        return sum(tensor.size_bytes for tensor in (*self.inputs, *self.constants, *self.outputs))

    @property
    def is_fused_attention(self) -> bool:
        """Whether this kernel computes a whole attention.

        It then holds both products and the softmax.
        """
        return any(name in self.tactic or name in self.name for name in _FUSED_ATTENTION)

    @property
    def is_dequantize(self) -> bool:
        """Whether the kernel only turns int8 constants into floats.

        It does so on every inference.
        """
        stored = any(tensor.type == "Int8" for tensor in self.constants)
        return stored and not self.inputs and all(tensor.type in _FLOATS for tensor in self.outputs)

    @property
    def precision(self) -> Precision:
        """The arithmetic, if the layer multiplies.

        It is integer where an input and the weights, or two inputs, are int8.
        """
        inputs = [tensor.type for tensor in self.inputs]
        weights = [tensor.type for tensor in self.constants if tensor.elements > 1]
        if inputs.count("Int8") > 1 or ("Int8" in inputs and "Int8" in weights):
            return Precision.INT8
        floats = [_FLOATS[name] for name in (*inputs, *weights) if name in _FLOATS]
        if not floats:
            return Precision.INT8 if "Int8" in inputs else Precision.UNKNOWN
        return Precision.FP16 if Precision.FP16 in floats else Precision.FP32


def parse_layers(text: str) -> list[EngineLayer]:
    """Return the kernels that a log lists, in their order.

    What an engine of several streams waits for is left out. Raises ValueError for a line of another form.
    """
    layers = [_parse(line) for line in text.splitlines() if line.startswith("Name: ")]
    return [layer for layer in layers if layer.kind not in _SYNCHRONIZING]


def engine_name(node: NodeProto) -> str:
    """Return the name of an ONNX node in an engine.

    The parser names a node without a name after its first output.
    """
    return node.name or f"node_of_{node.output[0]}"


def multiplying_kernels(layers: Sequence[EngineLayer], node: str) -> list[int]:
    """Return the places of the kernels that compute a node's products.

    Every kernel that computes a part of a node names it, as its casts and dequantizers do. The kernels that multiply
    are those of the first kind in MULTIPLYING.
    """
    holding = [at for at, layer in enumerate(layers) if node in layer.onnx_nodes and not layer.is_dequantize]
    for kind in MULTIPLYING:
        kernels = [
            at for at in holding if layers[at].kind == kind and (kind != "kgen" or layers[at].is_fused_attention)
        ]
        if kernels:
            return kernels
    return []


def precision_of_node(layers: Sequence[EngineLayer], node: str) -> tuple[Precision, str]:
    """Return an ONNX node's arithmetic and the engine layer that computes it."""
    kernels = [layers[at] for at in multiplying_kernels(layers, node)]
    if not kernels:
        return Precision.UNKNOWN, "no engine layer that multiplies names this node"
    precisions = {layer.precision for layer in kernels}
    return (precisions.pop() if len(precisions) == 1 else Precision.MIXED), f"engine layer {kernels[0].name}"


def _parse(line: str) -> EngineLayer:
    match = _LINE.fullmatch(line)
    if match is None:
        raise ValueError(f"not a layer of TensorRT-RTX's log: {line[:120]}")
    return EngineLayer(
        name=match["name"],
        kind=match["kind"],
        inputs=_tensors(match["inputs"]),
        constants=_tensors(match["constants"]),
        outputs=_tensors(match["outputs"]),
        tactic=match["tactic"],
        onnx_nodes=tuple(_ONNX_NODE.findall(match["metadata"])),
    )


def _tensors(text: str) -> tuple[EngineTensor, ...]:
    return tuple(
        EngineTensor(math.prod(int(size) for size in match["dimensions"].split(",") if size), match["type"])
        for match in _TENSOR.finditer(text)
    )
