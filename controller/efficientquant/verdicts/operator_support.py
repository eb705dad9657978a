"""ONNX operators that the parser of each TensorRT release knows.

Source: docs/operators.md and docs/Changelog.md of onnx-tensorrt, branches release/8.2-GA, 8.4-GA, 8.5-GA, 8.6-GA and
10.15-GA. Only the operators of a static image classifier are listed, without RNNs, control flow and sequences.
"""

# What every parser from 8.2 on reads: 8.4's list without the two operators that 8.4 added.
_SINCE_8_2 = """
    Abs Acos Acosh Add And ArgMax ArgMin Asin Asinh Atan Atanh AveragePool BatchNormalization Cast Ceil Celu Clip
    Concat Constant ConstantOfShape Conv ConvTranspose Cos Cosh CumSum DepthToSpace DequantizeLinear Div Dropout
    Einsum Elu Equal Erf Exp Expand EyeLike Flatten Floor Gather GatherElements GatherND Gemm GlobalAveragePool
    GlobalLpPool GlobalMaxPool Greater GreaterOrEqual HardSigmoid Identity InstanceNormalization IsNaN LeakyRelu
    Less LessOrEqual Log LogSoftmax LRN LpNormalization LpPool MatMul Max MaxPool Mean Min Mul Neg Not Or Pad
    ParametricSoftplus Pow PRelu QuantizeLinear RandomUniform RandomUniformLike Range ReduceL1 ReduceL2
    ReduceLogSum ReduceLogSumExp ReduceMax ReduceMean ReduceMin ReduceProd ReduceSum ReduceSumSquare Relu Reshape
    Resize Round ScaledTanh ScatterElements ScatterND Selu Shape Sigmoid Sign Sin Sinh Size Slice Softmax Softplus
    Softsign SpaceToDepth Split Sqrt Squeeze Sub Sum Tan Tanh ThresholdedRelu Tile TopK Transpose Unsqueeze
    Upsample Where
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
    ((8, 6), "GroupNormalization IsInf LayerNormalization ReverseSequence"),
    ((9, 2), "Hardmax"),
    ((10,), "Gelu Mish"),
)


def supported_operators(version: tuple[int, ...]) -> frozenset[str]:
    """Return the operators that a release's parser reads."""
    return frozenset(operator for first, added in _ADDED if version >= first for operator in added.split())
