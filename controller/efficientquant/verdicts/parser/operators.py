"""ONNX operators that the parser of each TensorRT release knows.

Source: docs/operators.md and docs/Changelog.md of onnx-tensorrt, branches release/8.2-GA, 8.4-GA, 8.5-GA, 8.6-GA and
10.15-GA. Sequences, optionals and strings are in none of them.
"""

from efficientquant.verdicts.parser.node import Parser

# What every parser from 8.2 on reads: 8.4's list without the two operators that 8.4 added.
_SINCE_8_2 = """
    Abs Acos Acosh Add And ArgMax ArgMin Asin Asinh Atan Atanh AveragePool BatchNormalization Cast Ceil Celu Clip
    Concat Constant ConstantOfShape Conv ConvTranspose Cos Cosh CumSum DepthToSpace DequantizeLinear Div Dropout
    Einsum Elu Equal Erf Exp Expand EyeLike Flatten Floor GRU Gather GatherElements GatherND Gemm GlobalAveragePool
    GlobalLpPool GlobalMaxPool Greater GreaterOrEqual HardSigmoid Identity If ImageScaler InstanceNormalization IsNaN
    LRN LSTM LeakyRelu Less LessOrEqual Log LogSoftmax Loop LpNormalization LpPool MatMul Max MaxPool Mean Min Mul Neg
    Not Or PRelu Pad ParametricSoftplus Pow QuantizeLinear RNN RandomUniform RandomUniformLike Range ReduceL1 ReduceL2
    ReduceLogSum ReduceLogSumExp ReduceMax ReduceMean ReduceMin ReduceProd ReduceSum ReduceSumSquare Relu Reshape
    Resize ReverseSequence Round ScaledTanh Scan Scatter ScatterElements ScatterND Selu Shape Sigmoid Sign Sin Sinh
    Size Slice Softmax Softplus Softsign SpaceToDepth Split Sqrt Squeeze Sub Sum Tan Tanh ThresholdedRelu Tile TopK
    Transpose Unsqueeze Upsample Where
"""
_IN_8_5 = """
    GridSample HardSwish MeanVarianceNormalization Mod NonMaxSuppression NonZero OneHot RandomNormal RandomNormalLike
    Reciprocal RoiAlign Trilu
"""
# (first release, what its parser added)
_ADDED = (
    ((8, 2), _SINCE_8_2),
    ((8, 4), "Shrink Xor"),
    ((8, 5), _IN_8_5),
    ((8, 6), "GroupNormalization IsInf LayerNormalization"),
    ((9, 1), "CastLike"),
    ((9, 2), "Hardmax"),
    ((10,), "Gelu Mish"),
    ((10, 1), "DeformConv"),
    ((10, 4), "BlackmanWindow HammingWindow HannWindow"),
    ((10, 5), "STFT"),
    ((10, 15), "Attention RMSNormalization RotaryEmbedding TensorScatter"),
)
# Operators that the parser turns into plugins. TensorRT-RTX 1.7 refuses them: "plugin was not found".
_PLUGINS = frozenset({"DeformConv", "NonZero", "RoiAlign"})
_FIRST = {operator: first for first, added in reversed(_ADDED) for operator in added.split()}


def knows(operator: str, parser: Parser) -> bool:
    """Tell whether a parser reads an operator."""
    if operator in _PLUGINS and not parser.has_plugins:
        return False
    return operator in _FIRST and parser.release >= _FIRST[operator]


def first_release(operator: str) -> str:
    """Return the first release that reads an operator, as in "8.5".

    Empty where none does.
    """
    return ".".join(map(str, _FIRST.get(operator, ())))
