"""The enumerations that a recipe's options take.

Imports no torch.
"""

import enum


class Granularity(enum.StrEnum):
    """The number of scales of a weight."""

    PER_TENSOR = "per-tensor"
    PER_CHANNEL = "per-channel"


class Log2Form(enum.StrEnum):
    """The corrected log2 quantizer that follows a softmax."""

    CALIBRATED = "A"
    DATA_FREE = "G"


class Log2Emulation(enum.StrEnum):
    """The form of the log2 quantizer in an artifact.

    No runtime has an operator for it, so it is extra work.
    """

    KEEP = "keep"
    DROP = "drop"  # the artifact computes plain softmax: a deployment variant
    MOVE = "move"  # before the softmax, in the log domain, so that softmax and product stay together


class Scope(enum.StrEnum):
    """The operators that a recipe quantizes."""

    CONV = "conv"
    CONV_OUTSIDE_TRANSFORMERS = "conv-outside-transformers"
    CONV_LINEAR = "conv+linear"
    ALL = "conv+linear+attention"  # the attention's matrix products too, in integer recipes only


class RangeRule(enum.StrEnum):
    """The rule that chooses an activation's range from calibration."""

    MINMAX = "minmax"  # the largest magnitude
    PERCENTILE = "percentile"  # the largest of 99.99 % of all values
    MSE = "mse"  # the range with the smallest mean squared error


class FloatType(enum.StrEnum):
    """The type of everything that stays in float."""

    FP32 = "fp32"
    FP16 = "fp16"


class IdentificationRule(enum.StrEnum):
    """The rule that separates convolutional from transformer blocks."""

    GRAPH = "graph"
    PAPER = "paper"


class Network(enum.StrEnum):
    """The network that calibration runs."""

    FLOAT = "float"
    QUANTIZED = "quantized"  # as quantized so far
